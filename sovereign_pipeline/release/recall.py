"""Look up which adapters were trained on given data, and open, list and waive recalls."""

import datetime
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record.audit_log import REGISTERED, TRAINED_ON, contents_digest
from sovereign_pipeline.record.catalog import State, line_of, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import officers_words
from sovereign_pipeline.record.statements import RECALL, RECALL_WAIVER
from sovereign_pipeline.record.tables import (
    Adapter,
    AuditEntry,
    DatasetDocument,
    DatasetSource,
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
    def needs_index(self) -> bool:
        """False if the ledger alone tells: entries of registrations name datasets and base models."""
        return self.document is not None or self.source is not None

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


@dataclass(frozen=True)
class TrainingData:
    """The data that an adapter was trained on, as the ledger entry of its registration states it."""

    datasets: Mapping[str, Mapping[str, Any]]
    """Digest of a dataset -> `directly`, False if only a parent or the base model was trained on it, and `contents`,
    the digest of its documents and sources."""
    base_models: Mapping[str, bool]
    """Digest of a base model -> True if it is the adapter's own."""


def training_data(session: Session, adapter_id: str | None = None) -> dict[str, TrainingData]:
    """Return adapter -> its data, for every adapter or for one."""
    query = select(AuditEntry.subjects).where(AuditEntry.action == REGISTERED)
    if adapter_id is not None:
        query = query.where(AuditEntry.subjects["adapter"].as_string() == adapter_id)
    found: dict[str, TrainingData] = {}
    for each in session.scalars(query.order_by(AuditEntry.sequence)):
        found.setdefault(each["adapter"], TrainingData(**each[TRAINED_ON]))
    return found


def assert_complete(session: Session, adapter_id: str | None = None) -> None:
    """Assert that the index has the datasets of every registered adapter, or of one, with all their sources.

    Raises:
        IntegrityError: the index lacks rows. The message names the adapters or datasets.
    """
    known = set(session.scalars(select(HeldDataset.digest)))
    stated = training_data(session, adapter_id)
    if lacking := sorted(adapter for adapter, data in stated.items() if not {*data.datasets} <= known):
        raise _incomplete(f"adapter {each}" for each in lacking)
    _assert_sources_counted(session)


def _verified_datasets_with(session: Session, question: Question, adapter_id: str | None = None) -> set[str]:
    """Return the digests of the datasets with a document, a source, or both, from rows that are exactly what the ledger
    states for the datasets of every adapter, or of one. What was compared is what is searched: a second query may be
    answered otherwise.

    This reads all rows: use it before decisions, not for lists.

    Raises:
        IntegrityError: the index differs for a dataset. The message names it.
    """
    stated = training_data(session, adapter_id).values()
    contents = {digest: said["contents"] for data in stated for digest, said in data.datasets.items()}
    found = set[str]()
    for digest, expected in contents.items():
        documents, sources = _rows_of(session, digest)
        if contents_digest(documents, sources) != expected:
            raise _incomplete([f"documents or sources of dataset {short(digest)}"])
        if question.document in (None, *documents) and question.source in (None, *sources):
            found.add(digest)
    return found


def _rows_of(session: Session, digest: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the documents and sources that the index has for a dataset."""
    of_dataset = select(HeldDataset.id).where(HeldDataset.digest == digest).scalar_subquery()
    documents = select(HeldDocument.name).join(DatasetDocument, DatasetDocument.document == HeldDocument.id)
    sources = select(DatasetSource.source).where(DatasetSource.dataset == of_dataset)
    names = session.scalars(documents.where(DatasetDocument.dataset == of_dataset)).all()
    return names, session.scalars(sources).all()


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


def holders(
    session: Session, question: Question, adapter_id: str | None = None, *, verified: bool = False
) -> dict[str, bool]:
    """Return adapter -> True if it was itself trained on the searched data, False if only its parent or base model was.

    Args:
        question: exact ids and whole digests, as stored in the index.
        adapter_id: look at this adapter only.

    Raises:
        IntegrityError: a row about the document is missing.
    """
    stated = training_data(session, adapter_id)
    if question.base_model is not None:
        bases = {adapter: data.base_models for adapter, data in stated.items()}
        return {each: bases[each][question.base_model] for each in bases if question.base_model in bases[each]}
    if question.dataset is not None:
        wanted = {question.dataset}
    elif verified:
        wanted = _verified_datasets_with(session, question, adapter_id)
    else:
        if question.document is not None:
            _assert_document_counted(session, question.document)
        wanted = _datasets_with(session, question)
    found: dict[str, bool] = {}
    for adapter, data in stated.items():
        if on := data.datasets.keys() & wanted:
            found[adapter] = any(data.datasets[each]["directly"] for each in on)
    return found


def holds(session: Session, adapter_id: str, question: Question) -> bool:
    """Return True if an adapter was trained on the searched data.

    Raises:
        IntegrityError: the index does not have the adapter's datasets, or a row is missing.
    """
    if question.needs_index:
        assert_complete(session, adapter_id)
    return adapter_id in holders(session, question, adapter_id, verified=True)


def _datasets_with(session: Session, question: Question) -> set[str]:
    """Return the digests of the datasets with a document, a source, or both."""
    query = select(HeldDataset.digest)
    if question.source is not None:
        of_source = select(DatasetSource.dataset).where(DatasetSource.source == question.source)
        query = query.where(HeldDataset.id.in_(of_source))
    if question.document is not None:
        document = select(HeldDocument.id).where(HeldDocument.name == question.document).scalar_subquery()
        of_document = select(DatasetDocument.dataset).where(DatasetDocument.document == document)
        query = query.where(HeldDataset.id.in_(of_document))
    return set(session.scalars(query))


def _incomplete(rows: Iterable[str]) -> IntegrityError:
    return IntegrityError(
        f"The index of what adapters hold lacks rows: {and_more(rows)}.",
        "Rebuild it from the artifacts.",
        act="rebuild_index",
    )


OPENED, WAIVED = "recall opened", "recall waived"
OPENING = Act(OPENED, "recall", RECALL, lambda said: str(said["recall"]))
WAIVING = Act(
    WAIVED,
    "waive",
    RECALL_WAIVER,
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
        IntegrityError: a recall or waiver is not validly signed; or there are recalls and the index does not have the
            adapter's datasets, so it could contain any recalled data.
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


def ids_of_open_recalls(registry: Registry, adapter_id: str) -> list[str]:
    """Return the ids of the recalls that apply to an adapter, oldest first. Raises the same errors."""
    with registry.reading() as session:
        return [each.id for each in open_recalls(session, registry.settings, adapter_id)]


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
    if any(question_of(each.recall).needs_index for each in recalls):
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
    if asked.needs_index:
        assert_complete(session)  # first, because data unknown to an incomplete index may exist
        _verified_datasets_with(session, asked)  # before a source is said to be unknown
    question = _exact(session, asked)
    found = holders(session, question, verified=True)
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
    stated = training_data(session).values()
    return Question(
        document=normal_id(asked.document) if asked.document is not None else None,
        source=asked.source,
        dataset=_whole({digest for data in stated for digest in data.datasets}, asked.dataset, "dataset"),
        base_model=_whole({digest for data in stated for digest in data.base_models}, asked.base_model, "base model"),
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
    adapters = {each: sorted(named[each.id]) for each in recalls}
    opened = (Acted(each, each.opened_at, _said(each, adapters[each]), adapters[each]) for each in recalls)
    not_held = (Acted(each, each.waived_at, _said_of_waiver(each), [each.adapter_id]) for each in waivers)
    assert_acts_on_record(session, settings, OPENING, opened)
    assert_acts_on_record(session, settings, WAIVING, not_held)
    return [_Recalled(each, named[each.id], waived[each.id]) for each in recalls]


def _said(recall: Recall, adapters: list[str]) -> dict[str, Any]:
    return {"recall": recall.id, **question_of(recall).given, "reason": recall.reason, "adapters": adapters}


def _said_of_waiver(waiver: RecallWaiver) -> dict[str, Any]:
    return {"recall": waiver.recall_id, "adapter": waiver.adapter_id, "reason": waiver.reason}


_SOURCES = select(DatasetSource.source)


def _whole(known: Collection[str], digits: str | None, what: str) -> str | None:
    """Return the only known digest that begins with these digits.

    Raises:
        InputError: `digits` is not a prefix of at least 6 hex digits.
        NotFoundError: no digest, or more than one, begins with them.
    """
    if digits is None:
        return None
    if not _DIGITS.fullmatch(digits):
        raise InputError(f"'{digits}' is no digest of a {what}.", "Give its first 6 hex digits or more.")
    found = sorted(each for each in known if each.startswith(digits))
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} {what}s begin with" if found else f"No registered adapter rests on a {what}"
    told = and_more(digest[:12] for digest in found or sorted(known))
    raise NotFoundError(f"{problem} '{digits}'.", f"Give one of these, or more of its digits: {told or 'none'}.")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
