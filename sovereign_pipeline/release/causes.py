"""What makes a review of an adapter due before its day: an event that the line's recipe names.

Each is told from the registry, the store and the files that the institution edits, as they are now. What is not told: a
newer model that its publisher has made, rows that were withdrawn within a source file that is still there (`adapters
verify` compares rows), and advisories about libraries, since nothing here hears of them.

What belongs here: recognising each event. What does not: when a review is due by the calendar (`cadence.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.pinned import load_card
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.ledger.tables import Adapter, BaseModelRow, Dataset
from sovereign_pipeline.policy.cadence import Event
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.release.recall import open_recalls

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Files of a base model that decide how a conversation is written for it."""


@dataclass(frozen=True)
class Cause:
    """One event that happened since the adapter was registered."""

    event: Event
    what: str
    """In one clause, without document text."""


@dataclass(frozen=True)
class Registered:
    """An adapter with what its line's recipe and the institution say today."""

    adapter: Adapter
    line: Line
    institution: Institution
    settings: Settings


def causes(session: Session, given: Registered) -> list[Cause]:
    """The events that the recipe names and that happened, in the recipe's order of events.

    An event that cannot be told, since a file that tells it is gone or was changed, counts as having happened.
    """
    found: list[Cause] = []
    for event in dict.fromkeys(given.line.review.on):
        try:
            found.extend(Cause(event, what) for what in _TELL[event](session, given))
        except SovereignError as error:
            found.append(Cause(event, f"cannot be told: {error.message}"))
    return found


def _base_superseded(session: Session, given: Registered) -> Iterator[str]:
    changed = _changed_files(session, given)
    if changed - set(TEMPLATE_FILES):
        name = given.line.training.base_model
        digest = digest_of(load_card(given.settings, name).files)
        yield (
            f"the line's base model is {name} {short(digest)} now, and the adapter's is {given.adapter.base_model} "
            f"{short(given.adapter.base_model_digest)}"
        )


def _template_changed(session: Session, given: Registered) -> Iterator[str]:
    changed = _changed_files(session, given) & set(TEMPLATE_FILES)
    if changed:
        yield f"{and_more(sorted(changed))} of the base model changed"
    dataset = _manifest(given, given.adapter.dataset_digest)
    if dataset.producer.config.get("instruction", given.line.training.instruction) != given.line.training.instruction:
        yield "the recipe's instruction changed"


def _changed_files(session: Session, given: Registered) -> set[str]:
    """Files of the base model that the card names with other bytes than the adapter's had, or that only one has."""
    row = session.get_one(BaseModelRow, given.adapter.base_model_digest)
    then = {(file["name"], file["sha256"]) for file in row.files}
    now = set(load_card(given.settings, given.line.training.base_model).files.items())
    return {name for name, _ in then ^ now}


def _source_withdrawn(session: Session, given: Registered) -> Iterator[str]:
    adapter = given.adapter
    digests = [each for each in (adapter.dataset_digest, adapter.preference_dataset_digest) if each is not None]
    named = {source.name for source in given.line.sources}
    for dataset in session.scalars(select(Dataset).where(Dataset.digest.in_(digests)).order_by(Dataset.kind.desc())):
        for source in dataset.sources:
            if source["name"] not in named:
                yield f"the recipe no longer names the source '{source['name']}'"
            elif not (given.settings.data / source["path"]).is_file():
                yield f"{source['path']} is gone"
    for recall in open_recalls(session, given.settings, adapter.id):
        yield f"{recall.id} holds for the adapter"


def _policy_changed(session: Session, given: Registered) -> Iterator[str]:
    dataset = _manifest(given, given.adapter.dataset_digest)
    if tuple(dataset.ladder) != given.institution.classification:
        yield "the classification ladder changed"
    store = open_store(given.settings)
    for _, manifest in lineage(store, dataset):
        if manifest.kind == SCRUBBED_CORPUS.kind:
            then: dict[str, Any] = manifest.producer.config.get("sensitive", {})
            now = {str(kind): each for kind, each in given.institution.treatments(given.line.line).items()}
            differing = sorted(kind for kind in then.keys() & now.keys() if then[kind] != now[kind])
            if differing:
                yield f"{and_more(differing)} is treated in another way"


def _manifest(given: Registered, digest: str) -> Manifest:
    store = open_store(given.settings)
    return store.read_manifest(store.ref_of(digest))


_TELL = {
    "base_superseded": _base_superseded,
    "template_changed": _template_changed,
    "source_withdrawn": _source_withdrawn,
    "policy_changed": _policy_changed,
}
