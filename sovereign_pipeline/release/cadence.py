"""Compute when each line's newest adapter is due for review: by calendar, or after an event that the recipe names.

The calendar counts from the registration or the last review. If the recipe's cadence has been shortened since the
registration, the first review is due earlier than the registration states. A longer cadence does not postpone the first
review.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.stages import load_card
from sovereign_pipeline.policy.institution import Cadence, Event, Institution, load_institution
from sovereign_pipeline.policy.line import Line, load_lines
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.catalog import ENDED, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.officers import officers_words
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.statements import REVIEW
from sovereign_pipeline.record.store import lineage
from sovereign_pipeline.record.tables import (
    Adapter,
    AdapterReview,
    BaseModelRow,
    Dataset,
    numbers_of,
)
from sovereign_pipeline.release.acts import Act, acts_that_count, enter_numbered, numbered
from sovereign_pipeline.release.recall import open_recalls

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Files of a base model that decide how a conversation is formatted for the model."""


@dataclass(frozen=True)
class Cause:
    """An event since the adapter's registration that makes a review due."""

    event: Event
    what: str
    """Description of the event as a clause, without document text."""


@dataclass(frozen=True)
class Registered:
    """A registered adapter with its line's current recipe and the institution's current policy."""

    adapter: Adapter
    line: Line
    institution: Institution
    settings: Settings


def causes(session: Session, given: Registered) -> list[Cause]:
    """Return the events that happened since the registration, in the recipe's order. Checks only events that the recipe
    names. An event counts as having happened if it cannot be checked, for example because a file is missing."""
    found: list[Cause] = []
    for event in dict.fromkeys(given.line.review.on):
        try:
            found.extend(Cause(event, what) for what in _TELL[event](session, given))
        except SovereignError as error:
            found.append(Cause(event, f"cannot be checked: {error.message}"))
    return found


def _base_superseded(session: Session, given: Registered) -> Iterator[str]:
    changed = _changed_files(session, given)
    if changed - set(TEMPLATE_FILES):
        name = given.line.training.base_model
        digest = digest_of(load_card(given.settings, name).files)
        yield (
            f"the line's base model is now {name} {short(digest)}, but the adapter's is {given.adapter.base_model} "
            f"{short(given.adapter.base_model_digest)}"
        )


def _template_changed(session: Session, given: Registered) -> Iterator[str]:
    changed = _changed_files(session, given) & set(TEMPLATE_FILES)
    if changed:
        yield f"{and_more(sorted(changed))} changed in the base model"
    dataset = _manifest(given, given.adapter.dataset_digest)
    if dataset.producer.config.get("instruction", given.line.training.instruction) != given.line.training.instruction:
        yield "the recipe's instruction changed"


def _changed_files(session: Session, given: Registered) -> set[str]:
    """Return the names of base-model files whose SHA-256 in today's card differs from that in the registry's row of the
    adapter's base model. A file is also returned if only the card or only the row lists it."""
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
                yield f"{source['path']} no longer exists"
    for recall in open_recalls(session, given.settings, adapter.id):
        yield f"{recall.id} applies to the adapter"


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
                yield f"the treatment of {and_more(differing)} changed"


def _manifest(given: Registered, digest: str) -> Manifest:
    store = open_store(given.settings)
    return store.read_manifest(store.ref_of(digest))


_TELL = {
    "base_superseded": _base_superseded,
    "template_changed": _template_changed,
    "source_withdrawn": _source_withdrawn,
    "policy_changed": _policy_changed,
}


REVIEWED = "adapter reviewed"
REVIEWING = Act(REVIEWED, "review", REVIEW, lambda said: f"review {said['number']} of {said['adapter']}")
OVERDUE_AFTER = datetime.timedelta(days=30)
"""A review becomes overdue when this time has passed since its due date."""

State = Literal["not due", "due", "overdue"]


@dataclass(frozen=True)
class Due:
    """The next review of a line's newest adapter."""

    line: str
    adapter: str
    on: datetime.date
    """Due date by the calendar."""
    state: State
    causes: tuple[Cause, ...]
    """Events that make the review due even if `on` is in the future."""
    retrain: bool
    """True if a due review also runs the line again."""
    has_recipe: bool
    """False if the line's recipe is missing or invalid."""
    key: str | None
    """Key of the run that this review requests, such as `permits-desk:2027-H1`. None while no review is due."""


def due_reviews(registry: Registry, settings: Settings, today: datetime.date, line: str | None = None) -> list[Due]:
    """Return the next review of the newest adapter, for one line or for every line, sorted by line. A line with an
    invalid recipe is included. Raises RecipeError if `institution.yaml` is invalid."""
    institution = load_institution(settings.data)
    recipes = {recipe.line: recipe for recipe in load_lines(settings.data, institution, line).valid}
    with registry.reading() as session:
        reviewed = {each.adapter_id: each.reviewed_at for each in reviews_on_record(session, settings)}
        return [
            _due(session, each, recipes.get(each.line), institution, settings, reviewed.get(each.id), today)
            for each in _newest_adapters(session, line)
        ]


def record_review(registry: Registry, adapter_id: str, text: str, signer: Signer, now: datetime.datetime) -> None:
    """Record an officer's signed decision to keep an adapter after a review. Raises NotFoundError for an unknown
    adapter, InputError for an empty text, and SignInError if the officer lacks the permission at the adapter's
    level."""
    review = AdapterReview(adapter_id=adapter_id, text=officers_words(text, "A review"), reviewed_at=now)
    enter_numbered(registry, signer, REVIEWING, review, now)


def _due(
    session: Session,
    adapter: Adapter,
    recipe: Line | None,
    institution: Institution,
    settings: Settings,
    reviewed_at: datetime.datetime | None,
    today: datetime.date,
) -> Due:
    cadence = recipe.review if recipe is not None else Cadence()
    on = cadence.next_day((reviewed_at or adapter.registered_at).date(), institution.review_every_days)
    if reviewed_at is None:
        on = min(on, adapter.review_date) if recipe is not None else adapter.review_date
    happened = causes(session, Registered(adapter, recipe, institution, settings)) if recipe is not None else []
    state: State = "overdue" if today > on + OVERDUE_AFTER else "due" if today >= on or happened else "not due"
    name = cadence.period(on) if today >= on else f"{happened[0].event}:{adapter.id}" if happened else None
    return Due(
        line=adapter.line,
        adapter=adapter.id,
        on=on,
        state=state,
        causes=tuple(happened),
        retrain=cadence.retrain,
        has_recipe=recipe is not None,
        key=f"{adapter.line}:{name}" if name is not None else None,
    )


def _newest_adapters(session: Session, line: str | None) -> list[Adapter]:
    """Return each line's adapter with the highest version, ignoring final states (`ENDED`), sorted by line."""
    adapters, state = select(Adapter.id, Adapter.line, Adapter.version), states(session, line)
    newest: dict[str, tuple[tuple[int, int, int], str]] = {}
    for each, of, version in session.execute(adapters if line is None else adapters.where(Adapter.line == line)):
        if state[each] not in ENDED:
            newest[of] = max(newest.get(of, ((-1, 0, 0), "")), (numbers_of(version), each))
    query = select(Adapter).options(load_only(*_COLUMNS)).order_by(Adapter.line)
    return list(session.scalars(query.where(Adapter.id.in_([each for _, each in newest.values()]))))


_COLUMNS = (
    *(Adapter.line, Adapter.version, Adapter.registered_at, Adapter.review_date),
    *(Adapter.dataset_digest, Adapter.preference_dataset_digest, Adapter.base_model, Adapter.base_model_digest),
)


def reviews_on_record(session: Session, settings: Settings) -> list[AdapterReview]:
    """Return every valid recorded review, oldest first. Raises the errors of `acts_that_count`."""
    reviews = session.scalars(select(AdapterReview).order_by(AdapterReview.reviewed_at))
    return acts_that_count(session, settings, REVIEWING, [numbered(each, each.reviewed_at) for each in reviews])
