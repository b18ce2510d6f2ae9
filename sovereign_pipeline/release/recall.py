"""Find the adapters that were trained on given data, and open, list and waive recalls."""

import datetime
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import canonical_json, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record.audit_log import REGISTERED, TRAINED_ON, contents_in, entries_of_rows
from sovereign_pipeline.record.catalog import (
    FLAG_CHANGED,
    OVERTAKEN,
    STATE_CHANGED,
    State,
    in_order,
    line_of,
    states,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import PIPELINE, officers_words, trust_root
from sovereign_pipeline.record.statements import RECALL, RECALL_WAIVER
from sovereign_pipeline.record.tables import (
    AuditEntry,
    Recall,
    RecallAdapter,
    RecallWaiver,
)
from sovereign_pipeline.release.acts import Act, Acted, acts_that_count, enter_act


@dataclass(frozen=True)
class Question:
    """A search for adapters trained on a document, a source, a document of a source, a dataset or a base model."""

    document: str | None = None
    source: str | None = None
    dataset: str | None = None
    base_model: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Mapping of field name to value, for each field that is set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        names = {"base_model": "base model"}
        shown = (
            short(value) if name in ("dataset", "base_model") else f"'{value}'" for name, value in self.given.items()
        )
        return " of ".join(f"{names.get(name, name)} {value}" for name, value in zip(self.given, shown, strict=True))


@dataclass(frozen=True)
class TrainingData:
    """The data that an adapter was trained on, as stated in the ledger entry of the adapter's registration."""

    datasets: Mapping[str, Mapping[str, Any]]
    """Mapping of a dataset's digest to `directly` and `contents`. `directly` is False if only a parent adapter or the
    base model was trained on the dataset. `contents` is the digest of the dataset's documents and sources."""
    base_models: Mapping[str, bool]
    """Mapping of a base model's digest to True if it is the adapter's own base model, otherwise to False."""


def training_data(session: Session, adapter_id: str | None = None, after: int = 0) -> dict[str, TrainingData]:
    """Return a mapping of adapter id to the adapter's training data.

    Args:
        adapter_id: return only this adapter's data; None for all adapters.
        after: return only adapters registered after the ledger entry with this number.
    """
    query = select(AuditEntry.subjects).where(AuditEntry.action == REGISTERED, AuditEntry.sequence > after)
    if adapter_id is not None:
        query = query.where(AuditEntry.subjects["adapter"].as_string() == adapter_id)
    found: dict[str, TrainingData] = {}
    for each in session.scalars(query.order_by(AuditEntry.sequence)):
        found.setdefault(each["adapter"], TrainingData(**each[TRAINED_ON]))
    return found


def holders(session: Session, question: Question, stated: Mapping[str, TrainingData]) -> dict[str, bool]:
    """Return the adapters that were trained on the searched data, as a mapping of adapter id to True or False. False
    means that only the adapter's parent or base model was trained on the data. Raises IntegrityError if a dataset's
    documents and sources do not match the ledger.

    Args:
        question: the search, with exact ids and full digests as in the datasets.
        stated: the adapters to search, from `training_data`.
    """
    if question.base_model is not None:
        bases = {adapter: data.base_models for adapter, data in stated.items()}
        return {each: bases[each][question.base_model] for each in bases if question.base_model in bases[each]}
    wanted = {question.dataset} if question.dataset is not None else _datasets_with(session, question, stated)
    return {
        adapter: any(data.datasets[each]["directly"] for each in on)
        for adapter, data in stated.items()
        if (on := data.datasets.keys() & wanted)
    }


def _datasets_with(session: Session, question: Question, stated: Mapping[str, TrainingData]) -> set[str]:
    """Return the digests of the datasets that contain the searched document, the searched source, or both if both are
    set."""
    contents = {digest: said["contents"] for data in stated.values() for digest, said in data.datasets.items()}
    matching = {sha256 for sha256, each in contents_in(session, {*contents.values()}) if _matches(each, question)}
    return {digest for digest, sha256 in contents.items() if sha256 in matching}


def _matches(content: bytes, question: Question) -> bool:
    documents, _, sources = content.rpartition(SOURCES)  # no name contains unescaped quotation marks
    if question.source is not None and question.source not in json.loads(sources[:-1]):
        return False
    if question.document is None:
        return True
    # A byte search excludes most datasets. The rest are parsed, because a name may be a part of a longer name.
    return (
        canonical_json(question.document) in documents
        and question.document in json.loads(documents + b"}")["documents"]
    )


def _names_in(session: Session, stated: Mapping[str, TrainingData], what: str) -> set[str]:
    """Return the names of all `documents` or all `sources` (`what`) that any of the adapters was trained on."""
    contents = {said["contents"] for data in stated.values() for said in data.datasets.values()}
    return {name for _, each in contents_in(session, contents) for name in json.loads(each)[what]}


OPENED, WAIVED = "recall opened", "recall waived"
OPENING = Act(OPENED, "recall", RECALL, lambda said: str(said["recall"]))
WAIVING = Act(
    WAIVED,
    "waive",
    RECALL_WAIVER,
    lambda said: f"the waiver of {said['recall']} for {said['adapter']}",
)
SOURCES = b',"sources":'
"""Bytes that separate the documents from the sources in the stored contents of a dataset."""
_DIGITS = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Holder:
    """A registered adapter that was trained on the searched data."""

    adapter: str
    line: str
    state: State
    directly: bool
    """False if only its parent adapter or its base model was trained on the data."""


@dataclass(frozen=True)
class Answer:
    """The adapters that were trained on the searched data."""

    question: Question
    """The search with normalised ids and full digests."""
    holders: tuple[Holder, ...]
    also: tuple[str, ...] = ()
    """Other spellings of the document's id in the datasets, or its pseudonym. A recall of the document does not cover
    these ids."""


def ask(registry: Registry, question: Question) -> Answer:
    """Return the adapters that were trained on the searched data. A digest prefix needs at least 6 digits.

    Raises NotFoundError if no adapter has the source, dataset or base model, or if several digests have the prefix.
    Raises InputError if no field is set, if the set fields cannot be combined, or if a value is malformed or several
    document ids match it. Raises IntegrityError if a dataset's documents and sources do not match the ledger.
    """
    with registry.reading() as session:
        return _answer(session, registry.settings, question)


def open_recall(registry: Registry, asked: Answer, signer: Signer, reason: str) -> Recall:
    """Open a recall, signed by an officer who was shown the search result.

    Raises InputError if the search result or the reason is empty, ConflictError if the search result changed since it
    was shown, and SignInError if the officer lacks the permission at the level of one of the adapters.
    """
    reason = officers_words(reason, "A recall")
    assert_holders(asked)
    with registry.writing() as session:
        if _answer(session, registry.settings, asked.question) != asked:
            raise ConflictError("The search result has changed since it was shown.", "Repeat the search.")
        number = 1 + (session.scalar(select(func.count()).select_from(Recall)) or 0)
        recall = Recall(
            id=f"recall-{number}", **vars(asked.question), reason=reason, officer=signer.keyid, opened_at=_now()
        )
        named = [each.adapter for each in asked.holders]
        of_adapters = [RecallAdapter(recall_id=recall.id, adapter_id=each) for each in named]
        enter_act(session, registry.settings, signer, OPENING, _opened(recall, named), of_adapters)
    return recall


def assert_holders(answer: Answer) -> None:
    """Raise InputError if no adapter was trained on the searched data."""
    if not answer.holders:
        raise InputError(f"No registered adapter was trained on {answer.question}.", "There is nothing to recall.")


def waive_recall(registry: Registry, recall_id: str, adapter_id: str, signer: Signer, reason: str) -> None:
    """Record an officer's signed waiver, which exempts one adapter from a recall. Raises the errors of
    `recall_to_waive`, InputError for an empty reason, and SignInError if the officer lacks the permission at the
    adapter's level."""
    reason = officers_words(reason, "A waiver")
    with registry.writing() as session:
        recall_to_waive(session, registry.settings, recall_id, adapter_id)
        waiver = RecallWaiver(
            recall_id=recall_id, adapter_id=adapter_id, reason=reason, officer=signer.keyid, waived_at=_now()
        )
        enter_act(session, registry.settings, signer, WAIVING, _waived(waiver))


def recall_to_waive(session: Session, settings: Settings, recall_id: str, adapter_id: str) -> Recall:
    """Return a recall that may be waived for an adapter. Raises NotFoundError for an unknown recall, InputError if the
    recall does not apply to the adapter, and ConflictError if it is already waived."""
    recall = session.get(Recall, recall_id)
    if recall is None:
        known = and_more(session.scalars(select(Recall.id).order_by(Recall.opened_at, Recall.id))) or "none"
        raise NotFoundError(f"There is no recall '{recall_id}'.", f"Known recalls: {known}.")
    if session.get(RecallWaiver, (recall_id, adapter_id)) is not None:
        raise ConflictError(
            f"{recall_id} was already waived for {adapter_id}. The waiver is invalid if the key that signed it "
            f"has been revoked."
        )
    if recall not in open_recalls(session, settings, adapter_id):
        raise InputError(
            f"{recall_id} does not apply to {adapter_id}.", "Choose an adapter to which this recall applies."
        )
    return recall


def open_recalls(session: Session, settings: Settings, adapter_id: str, state: State | None = None) -> list[Recall]:
    """Return the recalls that apply to an adapter, oldest first. They forbid the adapter's release. No recall applies
    to a retired adapter.

    Args:
        state: the adapter's state, if the caller knows it already.

    Raises IntegrityError if a recall or waiver is not validly signed, or if the documents and sources of one of the
    adapter's datasets do not match the ledger.
    """
    if (state or states(session, line_of(adapter_id)).get(adapter_id)) == "retired":
        return []
    recalls = [each for each in _on_record(session, settings) if adapter_id not in each.waivers]
    stated = training_data(session, adapter_id) if recalls else {}
    return [
        each.recall
        for each in recalls
        if adapter_id in each.named or holders(session, question_of(each.recall), stated)
    ]


def ids_of_open_recalls(registry: Registry, adapter_id: str) -> list[str]:
    with registry.reading() as session:
        return [each.id for each in open_recalls(session, registry.settings, adapter_id)]


def ids_of_recalls_of_data(
    registry: Registry, datasets: Collection[str], base_models: Collection[str], adapters: Collection[str]
) -> list[str]:
    """Return the ids of the recalls of these datasets, their documents or sources, and these base models, oldest first.
    Omits a recall that was waived for one of `adapters`. A recall counts even if every adapter that was trained on the
    data is retired.

    Documents and sources are only found in datasets that a registered adapter was trained on. An adapter that is later
    trained on another dataset with such a document is under the recall from its registration on. Raises the errors of
    `open_recalls`.
    """
    with registry.reading() as session:
        recalls = [each for each in _on_record(session, registry.settings) if not each.waivers.keys() & {*adapters}]
        stated = training_data(session).values() if recalls else ()
        known = {digest: said for each in stated for digest, said in each.datasets.items() if digest in datasets}
        data = {"": TrainingData(known, dict.fromkeys(base_models, True))}
        return [each.recall.id for each in recalls if holders(session, question_of(each.recall), data)]


def waivers_of_recalls(session: Session, settings: Settings, adapter_id: str) -> list[RecallWaiver]:
    """Return the waivers of recalls for an adapter, oldest first. Raises the errors of `open_recalls`."""
    waivers = [each.waivers[adapter_id] for each in _on_record(session, settings) if adapter_id in each.waivers]
    return sorted(waivers, key=lambda each: (each.waived_at, each.recall_id))


def recalls_in_force(
    session: Session, settings: Settings, state: Mapping[str, State] | None = None
) -> dict[str, list[Recall]]:
    """Return a mapping of adapter id to the recalls that apply to the adapter, oldest first. Omits retired adapters and
    adapters without recalls. Raises the errors of `open_recalls`.

    Args:
        state: the states of the adapters to return, by adapter id; None for all adapters.
    """
    recalls = _with_entries(session, settings)
    if not recalls:
        return {}
    state = states(session) if state is None else state
    found = defaultdict[str, list[Recall]](list)
    for each, opened in recalls:
        later = training_data(session, after=opened)  # the recall names every adapter that was registered before it
        held = {*each.named, *holders(session, question_of(each.recall), later)} - {*each.waivers}
        for adapter in sorted(held):
            if state.get(adapter, "retired") != "retired":
                found[adapter].append(each.recall)
    return dict(found)


@dataclass(frozen=True)
class Answering:
    """The adapters of a line that could answer users from the time `at` until the line's next change."""

    at: datetime.datetime
    production: str | None
    staged: str | None
    recalls: Mapping[str, tuple[str, ...]]
    """Mapping of adapter id to the ids of the recalls that stopped the adapter from answering users."""

    @property
    def adapters(self) -> list[str]:
        """Ids of the adapters that could answer."""
        return [each for each in (self.production, self.staged) if each is not None and each not in self.recalls]


def answering(session: Session, settings: Settings, line: str) -> list[Answering]:
    """Return the periods between changes of a line, oldest first, each with the adapters that could answer users.
    Raises the errors of `open_recalls`.

    Before the line's first flag, the adapter in production answers. Then the newest flag decides which adapters answer.
    An adapter under a recall, or in a state that is not in `_ANSWERS`, does not answer.
    """
    recalls_entered = _with_entries(session, settings)
    recalled = {
        each.recall.id: each.named | {*holders(session, question_of(each.recall), training_data(session, after=opened))}
        for each, opened in recalls_entered
    }
    waived = {(each.recall.id, adapter) for each, _ in recalls_entered for adapter in each.waivers}
    actions = (STATE_CHANGED, FLAG_CHANGED, OPENED, WAIVED)
    query = select(AuditEntry).where(AuditEntry.action.in_(actions)).order_by(AuditEntry.sequence)
    entries = [entry for entry in session.scalars(query) if entry.subjects.get("line") in (None, line)]
    moments = in_order([*(entry.at for entry in entries), datetime.datetime.now(datetime.UTC)])
    events = [(_took_effect(entry, moment), entry) for entry, moment in zip(entries, moments, strict=False)]
    state, under = dict[str, str](), defaultdict[str, set[str]](set)
    flag: Mapping[str, Any] | None = None
    found: list[Answering] = []
    for at, entry in sorted(events, key=lambda each: each[0]):
        said = entry.subjects
        if entry.action == STATE_CHANGED:
            state[said["adapter"]] = said["to"]
        elif entry.action == FLAG_CHANGED:
            flag = flag if _is_of_revoked_key(entry, settings) else said
        elif entry.action == OPENED:
            for each in recalled.get(said["recall"], ()):  # none if the officer's key was revoked before the act
                under[each].add(said["recall"])
        elif (said["recall"], said["adapter"]) in waived:
            under[said["adapter"]].discard(said["recall"])
        production = next((each for each in state if state[each] == "production"), None)
        staged = None
        if flag is not None:
            is_tried = flag["stopped"] is None and (float(flag["share"]) > 0 or flag["groups"])
            arms = (flag["production"], flag["staged"] if is_tried else None)
            production, staged = (each if each and state.get(each) in _ANSWERS else None for each in arms)
        recalls = {each: tuple(sorted(under[each])) for each in (production, staged) if each and under[each]}
        found.append(Answering(at, production, staged, recalls))
    return found


def answering_at(session: Session, settings: Settings, line: str, at: datetime.datetime | None) -> Answering | None:
    """Return the adapters of a line that could answer users at a time. If `at` is None, the time is now. Returns None
    for a time before the line's first change."""
    steps = answering(session, settings, line)
    return next((each for each in reversed(steps) if at is None or each.at <= at), None)


def _is_of_revoked_key(change: AuditEntry, settings: Settings) -> bool:
    """Return True if a flag's change is marked as `OVERTAKEN`, and the pipeline's key that signed the change was
    revoked before the change was logged."""
    keyid = change.actor.removeprefix(f"{PIPELINE}:")
    return OVERTAKEN in change.subjects and trust_root(settings).is_revoked_at(PIPELINE, keyid, change.sequence - 1)


ENTERED_LATE = datetime.timedelta(seconds=5)
"""Longest usual delay between an act and its ledger entry. A longer delay means that the registry was down at the time
of the act."""
_ANSWERS = ("production", "staged", "superseded")
"""States in which an adapter may answer users through a flag. `superseded` is included, because an officer's rollback
changes the flag before the transition."""


def _took_effect(entry: AuditEntry, entered: datetime.datetime) -> datetime.datetime:
    """Return the time at which an act took effect. This is the act's own time if the entry is more than `ENTERED_LATE`
    later. Otherwise it is `entered`, the entry's time as corrected by `in_order`."""
    own = entry.subjects.get({STATE_CHANGED: "at", FLAG_CHANGED: "made_at"}.get(entry.action, ""))
    own = entry.at if own is None else datetime.datetime.fromisoformat(own)
    return own if entry.at - own > ENTERED_LATE else entered


def _with_entries(session: Session, settings: Settings) -> list[tuple["_Recalled", int]]:
    """Return every valid recall, oldest first, each with the number of its ledger entry."""
    opened = entries_of_rows(session, [OPENED])
    return [(each, opened[Recall.__tablename__, each.recall.id]) for each in _on_record(session, settings)]


def list_recalls(session: Session, settings: Settings) -> Iterator[tuple[Recall, list[str]]]:
    """Yield every valid recall, oldest first, each with the ids of the adapters to which it still applies."""
    in_force = recalls_in_force(session, settings)
    for recall in (each.recall for each in _on_record(session, settings)):
        yield recall, sorted(adapter for adapter, recalls in in_force.items() if recall in recalls)


def question_of(recall: Recall) -> Question:
    return Question(recall.document, recall.source, recall.dataset, recall.base_model)


_RECALLS = select(Recall).order_by(Recall.opened_at, Recall.id)


def _answer(session: Session, settings: Settings, asked: Question) -> Answer:
    stated = training_data(session)
    question = _exact(session, settings, asked, stated)
    found = holders(session, question, stated)
    state: dict[str, State] = {}
    # Read line by line, so that an error in one line hides no recall of another.
    for line in sorted({line_of(each) for each in found}):
        state |= states(session, line)
    held = (Holder(each, line_of(each), state[each], directly) for each, directly in sorted(found.items()))
    others = _ids_of(session, settings, question.document, stated) if question.document is not None else []
    return Answer(question, tuple(held), tuple(each for each in others if each != question.document))


def _exact(session: Session, settings: Settings, asked: Question, stated: Mapping[str, TrainingData]) -> Question:
    from sovereign_pipeline.corpus.values import normal_id  # loads the corpus package; lists do not need it

    if set(asked.given) not in ({"document"}, {"source"}, {"document", "source"}, {"dataset"}, {"base_model"}):
        raise InputError(
            "A search names a document, a source, a document of a source, a dataset or a base model.",
            "Give exactly one of these.",
        )
    if asked.document is not None and not normal_id(asked.document):
        raise InputError("The id of a document is empty.", "Give the id from the document's row.")
    if asked.source is not None and not holders(session, Question(source=asked.source), stated):
        known = and_more(sorted(_names_in(session, stated, "sources"))) or "none"
        raise NotFoundError(f"No registered adapter has a source '{asked.source}'.", f"Known sources: {known}.")
    return Question(
        document=_stored_id(session, settings, asked.document, stated) if asked.document is not None else None,
        source=asked.source,
        dataset=_whole({each for data in stated.values() for each in data.datasets}, asked.dataset, "dataset"),
        base_model=_whole(
            {each for data in stated.values() for each in data.base_models}, asked.base_model, "base model"
        ),
    )


def _stored_id(session: Session, settings: Settings, document: str, stated: Mapping[str, TrainingData]) -> str:
    """Return a document's id as the datasets have it: the given id, another spelling of it, or its pseudonym if the id
    contains personal data. If the datasets have none of these, return the given id. Raises the errors of `_ids_of`, and
    InputError if several other ids match."""
    from sovereign_pipeline.corpus.values import normal_id

    given = normal_id(document)
    found = _ids_of(session, settings, given, stated)
    if given in found or not found:
        return given
    if len(found) > 1:
        raise InputError(f"Several documents have this id: {and_more(found)}.", "Search for each of these ids.")
    return found[0]


def _ids_of(session: Session, settings: Settings, document: str, stated: Mapping[str, TrainingData]) -> list[str]:
    """Return the ids in the datasets that are a spelling of a document's id, or the pseudonym of this id. Raises
    IntegrityError if no spelling matches, the datasets contain pseudonyms, and this account cannot read the secret with
    which pseudonyms are computed."""
    from sovereign_pipeline.corpus.columns import is_pseudonym, pseudonym
    from sovereign_pipeline.corpus.values import link_key
    from sovereign_pipeline.privacy.detection import column_secret

    stored = _names_in(session, stated, "documents")
    found = {each for each in stored if link_key(each) == link_key(document)}
    if any(map(is_pseudonym, stored)):
        try:
            found |= stored & {pseudonym(column_secret(settings, create=False), "id", document)}
        except IntegrityError:
            if not found:
                raise
    return sorted(found)


@dataclass(frozen=True)
class _Recalled:
    """A recall with two groups of adapters: those that the recall names, and those for which it was waived."""

    recall: Recall
    named: set[str]
    waivers: dict[str, RecallWaiver]
    """Mapping of adapter id to the waiver of the recall for this adapter."""


def _on_record(session: Session, settings: Settings) -> list[_Recalled]:
    """Return every valid recall, oldest first, with its valid waivers. Raises the errors of `acts_that_count`."""
    named, waivers = defaultdict[str, set[str]](set), defaultdict[str, dict[str, RecallWaiver]](dict)
    for row in session.scalars(select(RecallAdapter)):
        named[row.recall_id].add(row.adapter_id)
    opened = [_opened(each, sorted(named[each.id])) for each in session.scalars(_RECALLS)]
    waived = [_waived(each) for each in session.scalars(select(RecallWaiver))]
    recalls = acts_that_count(session, settings, OPENING, opened)
    for waiver in acts_that_count(session, settings, WAIVING, waived):
        waivers[waiver.recall_id][waiver.adapter_id] = waiver
    return [_Recalled(each, named[each.id], waivers[each.id]) for each in recalls]


def _opened(recall: Recall, adapters: list[str]) -> Acted[Recall]:
    said = {"recall": recall.id, **question_of(recall).given, "reason": recall.reason, "adapters": adapters}
    return Acted(recall, recall.opened_at, said, adapters)


def _waived(waiver: RecallWaiver) -> Acted[RecallWaiver]:
    said = {"recall": waiver.recall_id, "adapter": waiver.adapter_id, "reason": waiver.reason}
    return Acted(waiver, waiver.waived_at, said, [waiver.adapter_id])


def _whole(known: Collection[str], digits: str | None, what: str) -> str | None:
    """Return the only known digest with this prefix. Raises InputError if `digits` is not a prefix of at least 6 hex
    digits, and NotFoundError unless exactly one digest matches."""
    if digits is None:
        return None
    if not _DIGITS.fullmatch(digits):
        raise InputError(f"'{digits}' is not the digest of a {what}.", "Give its first 6 hex digits or more.")
    found = sorted(each for each in known if each.startswith(digits))
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} {what} digests begin with" if found else f"No registered adapter was trained on a {what}"
    told = and_more(digest[:12] for digest in found or sorted(known))
    raise NotFoundError(
        f"{problem} '{digits}'.",
        f"Give a longer prefix of one of {told}." if found else f"Known digests: {told or 'none'}.",
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
