"""Recalls of documents, sources, datasets and base models, their waivers, and what went wrong in an adapter's data."""

import datetime
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from sovereign_pipeline.base.errors import ConflictError, InputError, NotFoundError, SovereignError
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.pinned import load_card
from sovereign_pipeline.policy.cadence import Event
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.catalog import State, line_of, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.officers import officers_words
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.statements import RECALL, RECALL_WAIVER
from sovereign_pipeline.record.store import lineage
from sovereign_pipeline.record.tables import (
    Adapter,
    AdapterBaseModel,
    BaseModelRow,
    Dataset,
    DatasetSource,
    HeldDataset,
    Recall,
    RecallAdapter,
    RecallWaiver,
)
from sovereign_pipeline.release.acts import Act, Acted, assert_acts_on_record, enter_act
from sovereign_pipeline.release.recall_index import Question, assert_complete, holders, holds

OPENED, WAIVED = "recall opened", "recall waived"
OPENING = Act(OPENED, "recall", RECALL, "recall", lambda said: str(said["recall"]))
WAIVING = Act(
    WAIVED,
    "waive",
    RECALL_WAIVER,
    "recall_waiver",
    lambda said: f"the waiver of {said['recall']} for {said['adapter']}",
)
_DIGITS = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Holder:
    """A registered adapter that holds what is asked for."""

    adapter: str
    line: str
    state: State
    directly: bool
    """False where only its parent adapter or its base model was trained on it."""


@dataclass(frozen=True)
class Answer:
    """Which adapters hold what is asked for."""

    question: Question
    """As the index has it: ids in their one spelling, digests whole."""
    holders: tuple[Holder, ...]


def ask(registry: Registry, question: Question) -> Answer:
    """Which adapters hold what is asked for. A digest may be given by its first digits.

    Raises NotFoundError for a source, dataset or base model that no adapter has, InputError where nothing or too much
    is asked, and IntegrityError where the index lacks an adapter.
    """
    with registry.reading() as session:
        return _answer(session, question)


def open_recall(registry: Registry, asked: Answer, signer: Signer, reason: str) -> Recall:
    """Open a recall of what was asked, signed by an officer who was shown the answer.

    Raises InputError where no adapter holds it or the reason is empty, ConflictError where the answer has changed, and
    SignInError where the trust root does not let the officer recall at the level of each adapter.
    """
    reason = officers_words(reason, "A recall")
    assert_holders(asked)
    with registry.writing() as session:
        if _answer(session, asked.question) != asked:
            raise ConflictError("What holds it has changed since it was asked.", "Ask again.")
        number = 1 + (session.scalar(select(func.count()).select_from(Recall)) or 0)
        recall = Recall(
            id=f"recall-{number}",
            **vars(asked.question),
            reason=reason,
            officer=signer.keyid,
            opened_at=_now(),
        )
        named = [each.adapter for each in asked.holders]
        enter_act(
            session,
            registry.settings,
            signer,
            OPENING,
            recall,
            recall.opened_at,
            _said(recall, named),
            named,
            [RecallAdapter(recall_id=recall.id, adapter_id=each) for each in named],
        )
    return recall


def assert_holders(answer: Answer) -> None:
    """Raises InputError where there is nothing to recall."""
    if not answer.holders:
        raise InputError(f"No registered adapter holds {answer.question}.", "There is nothing to recall.")


def waive_recall(registry: Registry, recall_id: str, adapter_id: str, signer: Signer, reason: str) -> None:
    """Record that a recall does not hold for one adapter. Raises as `recall_to_waive`, and SignInError where the trust
    root does not let the officer waive at the adapter's level."""
    reason = officers_words(reason, "A waiver")
    with registry.writing() as session:
        recall_to_waive(session, registry.settings, recall_id, adapter_id)
        waiver = RecallWaiver(
            recall_id=recall_id, adapter_id=adapter_id, reason=reason, officer=signer.keyid, waived_at=_now()
        )
        said = _said_of_waiver(waiver)
        enter_act(session, registry.settings, signer, WAIVING, waiver, waiver.waived_at, said, [adapter_id])


def recall_to_waive(session: Session, settings: Settings, recall_id: str, adapter_id: str) -> Recall:
    """A recall that may be waived for an adapter.

    Raises NotFoundError for an unknown recall, InputError where it does not hold for the adapter, and ConflictError
    where it was waived already.
    """
    recall = session.get(Recall, recall_id)
    if recall is None:
        known = and_more(session.scalars(select(Recall.id).order_by(Recall.opened_at, Recall.id))) or "none"
        raise NotFoundError(f"There is no recall '{recall_id}'.", f"Known recalls: {known}.")
    if session.get(RecallWaiver, (recall_id, adapter_id)) is not None:
        raise ConflictError(f"{recall_id} was waived for {adapter_id} already.")
    if recall not in open_recalls(session, settings, adapter_id):
        raise InputError(f"{recall_id} does not hold for {adapter_id}.", "Name an adapter that it holds for.")
    return recall


def open_recalls(session: Session, settings: Settings, adapter_id: str, state: State | None = None) -> list[Recall]:
    """The recalls that hold for an adapter, the oldest first; while there is one, it may not be released.

    `state`: the adapter's, where it was looked up already. Raises IntegrityError for an adapter that the index does not
    know, where there are recalls: it may hold anything; and for a row of a recall or a waiver that is not that of its
    entry in the audit log.
    """
    if (state or states(session, line_of(adapter_id)).get(adapter_id)) == "retired":
        return []
    recalls = [each for each in _on_record(session, settings) if adapter_id not in each.waived]
    is_registered = session.get(Adapter, adapter_id) is not None
    return [
        each.recall
        for each in recalls
        if adapter_id in each.named or (is_registered and holds(session, adapter_id, question_of(each.recall)))
    ]


def waivers_of_recalls(session: Session, settings: Settings, adapter_id: str) -> list[RecallWaiver]:
    """The waivers of recalls for an adapter, the oldest first. Raises as `open_recalls`."""
    _on_record(session, settings)
    of_adapter = select(RecallWaiver).where(RecallWaiver.adapter_id == adapter_id)
    return list(session.scalars(of_adapter.order_by(RecallWaiver.waived_at, RecallWaiver.recall_id)))


def recalls_in_force(
    session: Session, settings: Settings, state: Mapping[str, State] | None = None
) -> dict[str, list[Recall]]:
    """Adapter -> the recalls that hold for it, the oldest first. Raises as `open_recalls`.

    `state`: of the adapters that are asked for; None for all.
    """
    recalls = _on_record(session, settings)
    if not recalls:
        return {}
    assert_complete(session)
    state = states(session) if state is None else state
    found = defaultdict[str, list[Recall]](list)
    for each in recalls:
        held = {*each.named, *holders(session, question_of(each.recall))} - each.waived
        for adapter in sorted(held):
            if state.get(adapter, "retired") != "retired":
                found[adapter].append(each.recall)
    return dict(found)


def list_recalls(session: Session, settings: Settings) -> Iterator[tuple[Recall, list[str]]]:
    """Every recall, the oldest first, with the adapters that it still holds for."""
    in_force = recalls_in_force(session, settings)
    for recall in session.scalars(_RECALLS):
        yield recall, sorted(adapter for adapter, recalls in in_force.items() if recall in recalls)


def question_of(recall: Recall) -> Question:
    """What was recalled."""
    return Question(recall.document, recall.source, recall.dataset, recall.base_model)


_RECALLS = select(Recall).order_by(Recall.opened_at, Recall.id)


def _answer(session: Session, asked: Question) -> Answer:
    assert_complete(session)  # first: what is unknown to an index that lacks adapters may be theirs
    question = _exact(session, asked)
    found = holders(session, question)
    state: dict[str, State] = {}
    for line in sorted({line_of(each) for each in found}):  # what is wrong with another line hides none of these
        state |= states(session, line)
    held = (Holder(each, line_of(each), state[each], directly) for each, directly in sorted(found.items()))
    return Answer(question, tuple(held))


def _exact(session: Session, asked: Question) -> Question:
    from sovereign_pipeline.corpus.values import normal_id  # loads the corpus, and listing adapters needs none of it

    if set(asked.given) not in ({"document"}, {"source"}, {"document", "source"}, {"dataset"}, {"base_model"}):
        raise InputError(
            "Ask for a document, a source, a document of a source, a dataset or a base model.", "Give one of these."
        )
    if asked.document is not None and not normal_id(asked.document):
        raise InputError("The id of a document is empty.", "Give the id as its row has it.")
    if asked.source is not None and not session.scalars(_SOURCES.where(DatasetSource.source == asked.source)).first():
        known = and_more(session.scalars(_SOURCES.distinct().order_by(DatasetSource.source))) or "none"
        raise NotFoundError(f"No registered adapter has a source '{asked.source}'.", f"Known sources: {known}.")
    return Question(
        document=normal_id(asked.document) if asked.document is not None else None,
        source=asked.source,
        dataset=_whole(session, HeldDataset.digest, asked.dataset, "dataset"),
        base_model=_whole(session, AdapterBaseModel.base_model, asked.base_model, "base model"),
    )


@dataclass(frozen=True)
class _Recalled:
    """A recall with the adapters that it named and those for which it was waived."""

    recall: Recall
    named: set[str]
    waived: set[str]


def _on_record(session: Session, settings: Settings) -> list[_Recalled]:
    """Every recall, the oldest first.

    Raises IntegrityError unless each, what it named, and every waiver was signed and is in an entry, and none is gone.
    """
    recalls, waivers = list(session.scalars(_RECALLS)), list(session.scalars(select(RecallWaiver)))
    named, waived = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for row in session.scalars(select(RecallAdapter)):
        named[row.recall_id].add(row.adapter_id)
    for waiver in waivers:
        waived[waiver.recall_id].add(waiver.adapter_id)
    opened = (
        Acted(
            (each.id,),
            each.officer,
            each.statement,
            each.opened_at,
            _said(each, sorted(named[each.id])),
            sorted(named[each.id]),
        )
        for each in recalls
    )
    not_held = (
        Acted(
            (each.recall_id, each.adapter_id),
            each.officer,
            each.statement,
            each.waived_at,
            _said_of_waiver(each),
            [each.adapter_id],
        )
        for each in waivers
    )
    assert_acts_on_record(session, settings, OPENING, opened)
    assert_acts_on_record(session, settings, WAIVING, not_held)
    return [_Recalled(each, named[each.id], waived[each.id]) for each in recalls]


def _said(recall: Recall, adapters: list[str]) -> dict[str, Any]:
    return {"recall": recall.id, **question_of(recall).given, "reason": recall.reason, "adapters": adapters}


def _said_of_waiver(waiver: RecallWaiver) -> dict[str, Any]:
    return {"recall": waiver.recall_id, "adapter": waiver.adapter_id, "reason": waiver.reason}


_SOURCES = select(DatasetSource.source)


def _whole(session: Session, column: InstrumentedAttribute[str], digits: str | None, what: str) -> str | None:
    """The digest that begins with these digits. Raises NotFoundError for none or several."""
    if digits is None:
        return None
    if not _DIGITS.fullmatch(digits):
        raise InputError(f"'{digits}' is no digest of a {what}.", "Give its first 6 hex digits or more.")
    found = sorted(set(session.scalars(select(column).where(column.startswith(digits, autoescape=True)).distinct())))
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} {what}s begin with" if found else f"No registered adapter rests on a {what}"
    known = and_more(digest[:12] for digest in found or sorted(set(session.scalars(select(column).distinct()))))
    raise NotFoundError(f"{problem} '{digits}'.", f"Give one of these, or more of its digits: {known or 'none'}.")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


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
