"""Look up which adapters were trained on given data, and open, list and waive recalls."""

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
    """A search for adapters trained on a document, source, dataset or base model, or on a document of one source."""

    document: str | None = None
    source: str | None = None
    dataset: str | None = None
    base_model: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The fields that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        names = {"base_model": "base model"}
        shown = (
            short(value) if name in ("dataset", "base_model") else f"'{value}'" for name, value in self.given.items()
        )
        return " of ".join(f"{names.get(name, name)} {value}" for name, value in zip(self.given, shown, strict=True))


def assert_complete(session: Session, adapter_id: str | None = None) -> None:
    """Assert that the index is complete for every registered adapter, or for one.

    The index must have the adapter's base model and datasets, and as many rows as were stored with it.

    Raises:
        IntegrityError: the index lacks rows. The message names the adapters or datasets.
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
    """Assert that the index has, for every adapter or for one, exactly what its registration's ledger entry states.

    Compares datasets, the documents and sources of each, and base models. This reads all rows: use it before decisions,
    not for lists.

    Raises:
        IntegrityError: the index differs for an adapter or a dataset. The message names it.
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
    """Return the digest over the documents and sources that the index has for a dataset."""
    of_dataset = select(HeldDataset.id).where(HeldDataset.digest == digest).scalar_subquery()
    documents = select(HeldDocument.name).join(DatasetDocument, DatasetDocument.document == HeldDocument.id)
    sources = select(DatasetSource.source).where(DatasetSource.dataset == of_dataset)
    names = session.scalars(documents.where(DatasetDocument.dataset == of_dataset)).all()
    return contents_digest(names, session.scalars(sources).all())


def _on(digest: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """SQL condition: the index links the adapter to this dataset."""
    return exists().where(
        HeldDataset.digest == digest, AdapterDataset.dataset == HeldDataset.id, AdapterDataset.adapter == Adapter.id
    )


def _has_all_rows() -> ColumnElement[bool]:
    """SQL condition: the index has as many rows for the adapter as were stored with it, and every dataset they name."""
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
    """Assert that no row about a document is missing. Raises IntegrityError."""
    known = select(HeldDocument.id, HeldDocument.datasets).where(HeldDocument.name == name)
    row = session.execute(known).one_or_none()
    if row is None:  # the document's own row may be missing
        of_documents = session.scalar(select(func.sum(HeldDocument.datasets)))
        if of_documents != session.scalar(select(func.sum(HeldDataset.documents))):
            raise _incomplete(["documents"])
        return
    pairs = select(func.count()).select_from(DatasetDocument).where(DatasetDocument.document == row.id)
    if session.scalar(pairs) != row.datasets:
        raise _incomplete([f"datasets of document {name}"])


def holders(session: Session, question: Question) -> dict[str, bool]:
    """Return adapter -> True if it was itself trained on the searched data, False if only its parent or base model was.

    Args:
        question: exact ids and whole digests, as stored in the index.

    Raises:
        IntegrityError: a row about the document is missing.
    """
    if question.document is not None:
        _assert_document_counted(session, question.document)
    return {
        adapter: bool(directly) for adapter, directly in session.execute(text(holders_query(question)), question.given)
    }


def holders_query(question: Question) -> str:
    """Return the SQL of `holders`. Found datasets are materialized first; otherwise SQLite scans the large tables."""
    if question.base_model is not None:
        return "SELECT adapter, directly FROM adapter_base_model WHERE base_model = :base_model"
    return (
        f"WITH found AS MATERIALIZED ({_datasets_query(question)}) "
        "SELECT adapter, MAX(CASE WHEN directly THEN 1 ELSE 0 END) FROM adapter_dataset "
        "WHERE dataset IN (SELECT dataset FROM found) GROUP BY adapter"
    )


def holds(session: Session, adapter_id: str, question: Question) -> bool:
    """Return True if an adapter was trained on the searched data.

    Raises:
        IntegrityError: the index does not have the adapter, or a row is missing.
    """
    assert_complete(session, adapter_id)
    if question.document is not None:
        _assert_document_counted(session, question.document)
    assert_as_registered(session, adapter_id)
    if question.base_model is not None:
        return session.get(AdapterBaseModel, (question.base_model, adapter_id)) is not None
    own = select(AdapterDataset.dataset).where(AdapterDataset.adapter == adapter_id)
    return any(_dataset_fits(session, dataset, question) for dataset in session.scalars(own))


def _dataset_fits(session: Session, dataset: int, question: Question) -> bool:
    """Return True if a dataset matches every field of the search. Each lookup is by primary key."""
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
    """A registered adapter that was trained on the searched data."""

    adapter: str
    line: str
    state: State
    directly: bool
    """False if only its parent adapter or its base model was trained on it."""


@dataclass(frozen=True)
class Answer:
    """The adapters that were trained on the searched data."""

    question: Question
    """The search in the index's form: normalised ids, whole digests."""
    holders: tuple[Holder, ...]


def ask(registry: Registry, question: Question) -> Answer:
    """Return the adapters that were trained on the searched data. A digest may be a prefix of at least 6 digits.

    Raises:
        NotFoundError: no adapter has the source, dataset or base model.
        InputError: the search has no field set, or fields that cannot be combined.
        IntegrityError: the index lacks an adapter.
    """
    with registry.reading() as session:
        return _answer(session, question)


def open_recall(registry: Registry, asked: Answer, signer: Signer, reason: str) -> Recall:
    """Open a recall, signed by an officer who was shown the search result.

    Raises:
        InputError: no adapter was trained on the data, or the reason is empty.
        ConflictError: the search result changed since it was shown.
        SignInError: the trust root does not let the officer recall at the level of every adapter.
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
    """Raise InputError if no adapter was trained on the searched data, so there is nothing to recall."""
    if not answer.holders:
        raise InputError(f"No registered adapter holds {answer.question}.", "There is nothing to recall.")


def waive_recall(registry: Registry, recall_id: str, adapter_id: str, signer: Signer, reason: str) -> None:
    """Exempt one adapter from a recall, signed by an officer.

    Raises the errors of `recall_to_waive`, and SignInError if the trust root does not let the officer waive at the
    adapter's level.
    """
    reason = officers_words(reason, "A waiver")
    with registry.writing() as session:
        recall_to_waive(session, registry.settings, recall_id, adapter_id)
        waiver = RecallWaiver(
            recall_id=recall_id, adapter_id=adapter_id, reason=reason, officer=signer.keyid, waived_at=_now()
        )
        said = _said_of_waiver(waiver)
        enter_act(session, registry.settings, signer, WAIVING, waiver, waiver.waived_at, said, [adapter_id])


def recall_to_waive(session: Session, settings: Settings, recall_id: str, adapter_id: str) -> Recall:
    """Return a recall that may be waived for an adapter.

    Raises:
        NotFoundError: no such recall exists.
        InputError: the recall does not apply to the adapter.
        ConflictError: the recall was already waived for the adapter.
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
    """Return the recalls that apply to an adapter, oldest first. While there is one, the adapter may not be released.

    Args:
        state: the adapter's state, if the caller has looked it up already.

    Raises:
        IntegrityError: a recall or waiver differs from its ledger entry; or there are recalls and the index does not
            have
            the adapter, so it could contain any recalled data.
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
    """Return the waivers of recalls for an adapter, oldest first. Raises the same errors as `open_recalls`."""
    _on_record(session, settings)
    of_adapter = select(RecallWaiver).where(RecallWaiver.adapter_id == adapter_id)
    return list(session.scalars(of_adapter.order_by(RecallWaiver.waived_at, RecallWaiver.recall_id)))


def recalls_in_force(
    session: Session, settings: Settings, state: Mapping[str, State] | None = None
) -> dict[str, list[Recall]]:
    """Return adapter -> the recalls that apply to it, oldest first. Raises the same errors as `open_recalls`.

    Args:
        state: the state of each adapter to return; None returns all adapters.
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
    """Yield every recall, oldest first, with the adapters that it still applies to."""
    in_force = recalls_in_force(session, settings)
    for recall in session.scalars(_RECALLS):
        yield recall, sorted(adapter for adapter, recalls in in_force.items() if recall in recalls)


def question_of(recall: Recall) -> Question:
    """Return the search that matches the recalled data."""
    return Question(recall.document, recall.source, recall.dataset, recall.base_model)


_RECALLS = select(Recall).order_by(Recall.opened_at, Recall.id)


def _answer(session: Session, asked: Question) -> Answer:
    assert_complete(session)  # first, because data unknown to an incomplete index may exist
    question = _exact(session, asked)
    found = holders(session, question)
    assert_as_registered(session)
    state: dict[str, State] = {}
    # Read line by line, so that another line's errors hide none of these.
    for line in sorted({line_of(each) for each in found}):
        state |= states(session, line)
    held = (Holder(each, line_of(each), state[each], directly) for each, directly in sorted(found.items()))
    return Answer(question, tuple(held))


def _exact(session: Session, asked: Question) -> Question:
    from sovereign_pipeline.corpus.values import normal_id  # loads the corpus package; lists do not need it

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
    """A recall with the adapters that it names and the adapters for which it was waived."""

    recall: Recall
    named: set[str]
    waived: set[str]


def _on_record(session: Session, settings: Settings) -> list[_Recalled]:
    """Return every recall, oldest first, after verifying recalls and waivers against the ledger.

    Raises:
        IntegrityError: a recall or waiver is missing, was added, or is not validly signed.
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
    """Return the only digest that begins with these digits.

    Raises:
        InputError: `digits` is not a prefix of at least 6 hex digits.
        NotFoundError: no digest, or more than one, begins with them.
    """
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
