"""Record and verify officers' signed acts about adapters, such as known issues."""

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record.audit_log import HINT, ROWS, append
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import TRUST_NAMES, assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import (
    OFFICER,
    actor_of,
    assert_may,
    officer_of,
    officers_words,
    trust_root,
    verify_act,
)
from sovereign_pipeline.record.statements import KNOWN_ISSUE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter, AdapterReview, AuditEntry, KnownIssue, Recall, RecallWaiver, Table
from sovereign_pipeline.record.tree import AT_ONCE
from sovereign_pipeline.record.trust_root import Trust

STATEMENT = "statement"

SignedRow = Recall | RecallWaiver | KnownIssue | AdapterReview
"""A row that holds the signed statement of its act."""
R = TypeVar("R", bound=SignedRow)


@dataclass(frozen=True)
class Act:
    """A kind of signed act, such as adding a known issue."""

    action: str
    """Action in the ledger entries of this kind."""
    may: str
    """Permission that the trust root must give the officer."""
    predicate_type: str
    named: Callable[[Mapping[str, Any]], str]
    """Function that returns an act's display name from its facts, such as `known issue 2 of LINE-1.0.0`."""


@dataclass(frozen=True)
class Acted(Generic[R]):
    """A database row that an officer's signed act created."""

    row: R
    at: datetime.datetime
    said: Mapping[str, Any]
    """Facts, besides the time, that both the statement and the ledger entry must contain."""
    adapters: Sequence[str]
    """Ids of the adapters that the act is about."""

    @property
    def stated(self) -> dict[str, Any]:
        return {**self.said, "at": _written(self.at)}


def enter_act(
    session: Session,
    settings: Settings,
    signer: Signer,
    act: Act,
    row: SignedRow,
    at: datetime.datetime,
    said: Mapping[str, Any],
    adapters: Sequence[str],
    further: Iterable[Table] = (),
) -> None:
    """Sign an act, and add its row and its ledger entry in the caller's transaction. Raises SignInError if the trust
    root does not permit the officer this act at the level of every adapter.

    Args: said: the facts to sign, besides the time.
        further: more rows to add, which refer to `row`.
    """
    trust = trust_root(settings)
    about = _about(session, adapters)
    assert_may(officer_of(trust, signer.keyid), act.may, [level for level, _ in about.values()])
    assert_in_force(session, settings, trust)
    subjects = tuple(Subject(f"{each}/manifest.json", manifest) for each, (_, manifest) in about.items())
    predicate = {**said, "at": _written(at)}
    bundle = sign_statement(signer, Statement(subjects, act.predicate_type, predicate))
    row.statement = bundle
    session.add(row)
    session.flush()
    session.add_all(further)
    entered = {**predicate, STATEMENT: hashlib.sha256(bundle).hexdigest(), **trust_named(trust)}
    append(session, actor_of(signer.keyid), act.action, entered)


def acts_that_count(
    session: Session, settings: Settings, act: Act, rows: Iterable[Acted[R]], adapter_id: str | None = None
) -> list[R]:
    """Return the rows of a kind of act that count. An act does not count if the trust root revokes its key from the
    act's entry or an earlier one. Raises IntegrityError that names every row without a ledger entry, every entry
    without a row, and every act that no permitted officer signed.

    Args:
        rows: all rows of this kind, or only those of `adapter_id`.
        adapter_id: verify the acts of this adapter only; for kinds of act that are about one adapter.
    """
    query = select(AuditEntry).where(AuditEntry.action == act.action).order_by(AuditEntry.sequence)
    if adapter_id is not None:
        query = query.where(AuditEntry.subjects["adapter"].as_string() == adapter_id)
    entries: dict[str, AuditEntry] = {}
    for entry in session.scalars(query):
        entries.setdefault(act.named(entry.subjects), entry)  # only the first entry with a name counts
    found = {act.named(row.said): row for row in rows}
    if not found and not entries:
        return []
    wrong = [name for name in dict.fromkeys([*found, *entries]) if not _is_entered(found.get(name), entries.get(name))]
    if wrong:
        raise IntegrityError(f"The registry: {and_more(wrong)}: the rows differ from the ledger.", HINT)
    about = _about(session, {adapter for row in found.values() for adapter in row.adapters})
    trust = trust_root(settings)
    counting = []
    for name, row in found.items():
        if trust.is_revoked_at(OFFICER, row.row.officer, entries[name].sequence - 1):
            continue
        of_row = {each: about[each] for each in row.adapters if each in about}
        _assert_signed(of_row, trust, act, name, row, entries[name])
        counting.append(row.row)
    return counting


def _is_entered(row: Acted[R] | None, entry: AuditEntry | None) -> bool:
    if row is None or entry is None:
        return False
    said = {name: value for name, value in entry.subjects.items() if name not in {STATEMENT, ROWS, *TRUST_NAMES}}
    signed = hashlib.sha256(row.row.statement).hexdigest()
    return (said, entry.subjects.get(STATEMENT), entry.actor) == (row.stated, signed, actor_of(row.row.officer))


def _assert_signed(
    about: Mapping[str, tuple[str, str]], trust: Trust, act: Act, name: str, row: Acted[R], entry: AuditEntry
) -> None:
    if not about:
        raise IntegrityError(f"The registry: {name} is about an adapter that is not registered.", HINT)
    try:
        verified = verify_act(
            row.row.statement,
            trust,
            act.may,
            [level for level, _ in about.values()],
            predicate_type=act.predicate_type,
            sha256=next(iter(about.values()))[1],
            at_index=entry.sequence - 1,
        )
    except IntegrityError as error:
        raise IntegrityError(f"The registry: {name}: {error.message}", error.hint) from None
    subjects = {subject.sha256 for subject in verified.statement.subjects}
    same = dict(verified.statement.predicate) == row.stated and verified.key.keyid == row.row.officer
    if not same or subjects != {manifest for _, manifest in about.values()}:
        raise IntegrityError(f"The registry: {name} differs from what was signed.", HINT)


def _about(session: Session, adapters: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return adapter -> its classification level and the SHA-256 of its record's manifest, sorted by id."""
    query = select(Adapter.id, Adapter.classification, Adapter.record_manifest_sha256)
    ids = sorted(adapters)
    found: dict[str, tuple[str, str]] = {}
    for first in range(0, len(ids), AT_ONCE):
        rows = session.execute(query.where(Adapter.id.in_(ids[first : first + AT_ONCE])))
        found |= {adapter: (level, manifest) for adapter, level, manifest in rows}
    return {each: found[each] for each in ids if each in found}


def _written(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).isoformat()


ADDED = "known issue added"
ADDING = Act(ADDED, "issue", KNOWN_ISSUE, lambda said: f"known issue {said['number']} of {said['adapter']}")
LONGEST = 500
"""Maximum number of characters: enough to describe an issue, and too few to paste a document."""


def add_issue(registry: Registry, adapter_id: str, text: str, signer: Signer) -> KnownIssue:
    """Record a known issue of an adapter, signed by an officer. Raises InputError if the text is empty or too long,
    NotFoundError for an unknown adapter, and SignInError if the officer lacks the permission at the adapter's level."""
    text = words_of_issue(text)
    find_adapter(registry, adapter_id)
    with registry.writing() as session:
        of_adapter = select(func.count()).select_from(KnownIssue).where(KnownIssue.adapter_id == adapter_id)
        issue = KnownIssue(
            adapter_id=adapter_id,
            number=1 + (session.scalar(of_adapter) or 0),
            text=text,
            officer=signer.keyid,
            added_at=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        )
        enter_act(session, registry.settings, signer, ADDING, issue, issue.added_at, _said(issue), [adapter_id])
    return issue


def words_of_issue(text: str) -> str:
    """Join a text's lines into one line. Raises InputError if the text is empty or too long."""
    text = officers_words(text, "A known issue")
    if len(text) > LONGEST:
        raise InputError(f"The text has {len(text):,} characters; the limit is {LONGEST}.", "Describe what is wrong.")
    return text


def issues_by_adapter(
    session: Session, settings: Settings, adapter_id: str | None = None
) -> dict[str, list[KnownIssue]]:
    """Return adapter -> its valid known issues, oldest first, for adapters with issues. Raises the errors of
    `acts_that_count`.

    Args:
        adapter_id: return the issues of this adapter only.
    """
    query = select(KnownIssue).order_by(KnownIssue.adapter_id, KnownIssue.number)
    issues = session.scalars(query if adapter_id is None else query.where(KnownIssue.adapter_id == adapter_id))
    rows = [Acted(each, each.added_at, _said(each), [each.adapter_id]) for each in issues]
    found = defaultdict[str, list[KnownIssue]](list)
    for issue in acts_that_count(session, settings, ADDING, rows, adapter_id):
        found[issue.adapter_id].append(issue)
    return dict(found)


def _said(issue: KnownIssue) -> dict[str, Any]:
    return {"adapter": issue.adapter_id, "number": issue.number, "text": issue.text}
