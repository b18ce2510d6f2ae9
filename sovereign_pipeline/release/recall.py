"""Recalls of documents, sources, datasets and base models, their waivers. An index that lacks rows answers nothing."""

import datetime
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record.audit_log import REGISTERED, TRAINED_ON, assert_leaf, contents_digest
from sovereign_pipeline.record.catalog import State, line_of, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import officers_words
from sovereign_pipeline.record.statements import RECALL, RECALL_WAIVER
from sovereign_pipeline.record.tables import (
    Adapter,
    AdapterBaseModel,
    AdapterDataset,
    AuditEntry,
    DatasetDocument,
    DatasetSource,
    HeldAdapter,
    HeldDataset,
    HeldDocument,
    Recall,
    RecallAdapter,
    RecallWaiver,
)
from sovereign_pipeline.release.acts import Act, Acted, assert_acts_on_record, enter_act


@dataclass(frozen=True)
class Question:
    """What is looked for: one of the four, or a document of one source."""

    document: str | None = None
    source: str | None = None
    dataset: str | None = None
    base_model: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """What is asked for, by its name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        names = {"base_model": "base model"}
        shown = (
            short(value) if name in ("dataset", "base_model") else f"'{value}'" for name, value in self.given.items()
        )
        return " of ".join(f"{names.get(name, name)} {value}" for name, value in zip(self.given, shown, strict=True))


def assert_complete(session: Session, adapter_id: str | None = None) -> None:
    """Assert that the index knows of every registered adapter, or of one, the base model and the datasets that its row
    states, and has as many as were entered: an answer would lack it.

    Raises IntegrityError naming those that it does not know.
    """
    on_base = exists().where(
        AdapterBaseModel.base_model == Adapter.base_model_digest, AdapterBaseModel.adapter == Adapter.id
    )
    preferred = or_(Adapter.preference_dataset_digest.is_(None), _on(Adapter.preference_dataset_digest))
    known = and_(on_base, _on(Adapter.dataset_digest), preferred, _has_all_rows())
    lacking = select(Adapter.id).where(~known).order_by(Adapter.id)
    if adapter_id is not None:
        lacking = lacking.where(Adapter.id == adapter_id)
    if found := list(session.scalars(lacking)):
        raise _incomplete(f"adapter {each}" for each in found)
    _assert_sources_counted(session)


def assert_as_registered(session: Session, adapter_id: str | None = None) -> None:
    """Assert that the index has of every adapter, or of one, what the entry of its registration states: datasets, the
    documents and sources of each, and base models. It reads all rows, so it is for decisions and not for lists.

    Raises IntegrityError naming adapters and datasets that differ.
    """
    query = select(AuditEntry.sequence, AuditEntry.subjects).where(AuditEntry.action == REGISTERED)
    adapters = select(Adapter.id)
    if adapter_id is not None:
        query = query.where(AuditEntry.subjects["adapter"].as_string() == adapter_id)
        adapters = adapters.where(Adapter.id == adapter_id)
    stated: dict[str, Mapping[str, Any]] = {}
    for sequence, subjects in session.execute(query.order_by(AuditEntry.sequence)):
        if adapter_id is not None:
            subjects = assert_leaf(session, sequence).subjects
        stated.setdefault(subjects["adapter"], subjects[TRAINED_ON])
    datasets: dict[str, dict[str, bool]] = defaultdict(dict)
    on_dataset = select(AdapterDataset.adapter, HeldDataset.digest, AdapterDataset.directly).join(
        HeldDataset, HeldDataset.id == AdapterDataset.dataset
    )
    for adapter, digest, directly in session.execute(on_dataset.where(AdapterDataset.adapter.in_(adapters))):
        datasets[adapter][digest] = directly
    base_models: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in session.scalars(select(AdapterBaseModel).where(AdapterBaseModel.adapter.in_(adapters))):
        base_models[row.adapter][row.base_model] = row.directly
    contents: dict[str, str] = {}
    for adapter in session.scalars(adapters.order_by(Adapter.id)):
        entered = stated.get(adapter, {"datasets": {}, "base_models": {}})
        directly_on = {digest: each["directly"] for digest, each in entered["datasets"].items()}
        if (datasets[adapter], base_models[adapter]) != (directly_on, entered["base_models"]):
            raise _incomplete([f"adapter {adapter}"])
        contents |= {digest: each["contents"] for digest, each in entered["datasets"].items()}
    for digest, expected in contents.items():
        if _contents(session, digest) != expected:
            raise _incomplete([f"documents or sources of dataset {short(digest)}"])


def _contents(session: Session, digest: str) -> str:
    """The digest of what the index says of a dataset."""
    of_dataset = select(HeldDataset.id).where(HeldDataset.digest == digest).scalar_subquery()
    documents = select(HeldDocument.name).join(DatasetDocument, DatasetDocument.document == HeldDocument.id)
    sources = select(DatasetSource.source).where(DatasetSource.dataset == of_dataset)
    names = session.scalars(documents.where(DatasetDocument.dataset == of_dataset)).all()
    return contents_digest(names, session.scalars(sources).all())


def _on(digest: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether the index has an adapter on this dataset."""
    return exists().where(
        HeldDataset.digest == digest, AdapterDataset.dataset == HeldDataset.id, AdapterDataset.adapter == Adapter.id
    )


def _has_all_rows() -> ColumnElement[bool]:
    """Whether the index has as many rows of an adapter as were entered, and each dataset that they name."""
    datasets = (
        select(func.count())
        .select_from(AdapterDataset)
        .join(HeldDataset, HeldDataset.id == AdapterDataset.dataset)
        .where(AdapterDataset.adapter == HeldAdapter.adapter)
    )
    of_adapter = AdapterBaseModel.adapter == HeldAdapter.adapter
    base_models = select(func.count()).select_from(AdapterBaseModel).where(of_adapter)
    return exists().where(
        HeldAdapter.adapter == Adapter.id,
        HeldAdapter.datasets == datasets.scalar_subquery(),
        HeldAdapter.base_models == base_models.scalar_subquery(),
    )


def _assert_sources_counted(session: Session) -> None:
    of_dataset = select(DatasetSource.dataset, func.count()).group_by(DatasetSource.dataset)
    found = {dataset: count for dataset, count in session.execute(of_dataset)}
    for dataset, digest, sources in session.execute(select(HeldDataset.id, HeldDataset.digest, HeldDataset.sources)):
        if found.get(dataset, 0) != sources:
            raise _incomplete([f"sources of dataset {short(digest)}"])


def _assert_document_counted(session: Session, name: str) -> None:
    """Assert that no row about a document is gone. Raises IntegrityError."""
    known = select(HeldDocument.id, HeldDocument.datasets).where(HeldDocument.name == name)
    row = session.execute(known).one_or_none()
    if row is None:  # its own row may be the one that is gone
        of_documents = session.scalar(select(func.sum(HeldDocument.datasets)))
        if of_documents != session.scalar(select(func.sum(HeldDataset.documents))):
            raise _incomplete(["documents"])
        return
    pairs = select(func.count()).select_from(DatasetDocument).where(DatasetDocument.document == row.id)
    if session.scalar(pairs) != row.datasets:
        raise _incomplete([f"datasets of document {name}"])


def holders(session: Session, question: Question) -> dict[str, bool]:
    """The adapters that hold what is asked for -> whether they hold it directly. `question`: exact, as stored.

    Raises IntegrityError where a row about it is gone.
    """
    if question.document is not None:
        _assert_document_counted(session, question.document)
    return {
        adapter: bool(directly) for adapter, directly in session.execute(text(holders_query(question)), question.given)
    }


def holders_query(question: Question) -> str:
    """The SQL of `holders`. What is looked for comes first, materialized: else SQLite scans the large tables."""
    if question.base_model is not None:
        return "SELECT adapter, directly FROM adapter_base_model WHERE base_model = :base_model"
    return (
        f"WITH found AS MATERIALIZED ({_datasets_query(question)}) "
        "SELECT adapter, MAX(CASE WHEN directly THEN 1 ELSE 0 END) FROM adapter_dataset "
        "WHERE dataset IN (SELECT dataset FROM found) GROUP BY adapter"
    )


def holds(session: Session, adapter_id: str, question: Question) -> bool:
    """Whether one adapter holds what is asked for. Raises IntegrityError for one that the index does not know, and
    where a row about it is gone."""
    assert_complete(session, adapter_id)
    if question.document is not None:
        _assert_document_counted(session, question.document)
    assert_as_registered(session, adapter_id)
    if question.base_model is not None:
        return session.get(AdapterBaseModel, (question.base_model, adapter_id)) is not None
    own = select(AdapterDataset.dataset).where(AdapterDataset.adapter == adapter_id)
    return any(_dataset_fits(session, dataset, question) for dataset in session.scalars(own))


def _dataset_fits(session: Session, dataset: int, question: Question) -> bool:
    """Whether a dataset is, or has, all that is asked for. Each look-up is of one key."""
    if question.dataset is not None:
        row = session.get(HeldDataset, dataset)
        return row is not None and row.digest == question.dataset
    if question.source is not None and session.get(DatasetSource, (question.source, dataset)) is None:
        return False
    if question.document is None:
        return True
    document = session.scalar(select(HeldDocument.id).where(HeldDocument.name == question.document))
    return document is not None and session.get(DatasetDocument, (document, dataset)) is not None


def _datasets_query(question: Question) -> str:
    of_source = "SELECT dataset FROM dataset_source WHERE source = :source"
    if question.dataset is not None:
        return "SELECT id AS dataset FROM held_dataset WHERE digest = :dataset"
    if question.document is None:
        return of_source
    of_document = (
        "SELECT dataset FROM dataset_document WHERE document = (SELECT id FROM document WHERE name = :document)"
    )
    return of_document if question.source is None else f"{of_document} AND dataset IN ({of_source})"


def _incomplete(rows: Iterable[str]) -> IntegrityError:
    return IntegrityError(
        f"The index of what adapters hold lacks rows: {and_more(rows)}.",
        "Rebuild it from the artifacts.",
        act="rebuild_index",
    )


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
    assert_as_registered(session)
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
