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
from sovereign_pipeline.record import officers
from sovereign_pipeline.record.audit_log import append, entries_of_rows, key_of
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.statements import KNOWN_ISSUE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter, AdapterReview, KnownIssue, Recall, RecallWaiver, Table
from sovereign_pipeline.record.tree import AT_ONCE, RegistryDamaged
from sovereign_pipeline.record.trust_root import Trust

STATEMENT = "statement"

SignedRow = Recall | RecallWaiver | KnownIssue | AdapterReview
"""A row that an act created, with the act's signed statement."""
R = TypeVar("R", bound=SignedRow)
N = TypeVar("N", KnownIssue, AdapterReview)


@dataclass(frozen=True)
class Act:
    """A type of signed act, such as adding a known issue."""

    action: str
    """Action in the ledger entries about acts of this type."""
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
    """Fields of the signed statement, except the statement's time."""
    adapters: Sequence[str]
    """Ids of the adapters that the act is about."""

    @property
    def stated(self) -> dict[str, Any]:
        return {**self.said, "at": self.at.astimezone(datetime.UTC).isoformat()}


def enter_act(
    session: Session, settings: Settings, signer: Signer, act: Act, acted: Acted[R], further: Iterable[Table] = ()
) -> None:
    """Sign an act, and add its row and its ledger entry in the caller's transaction. Raises SignInError unless the
    officer has the act's permission at the level of every adapter.

    Args:
        further: additional rows to add. They refer to the act's row.
    """
    trust = officers.trust_root(settings)
    about = _about(session, acted.adapters)
    officers.assert_may(officers.officer_of(trust, signer.keyid), act.may, [level for level, _ in about.values()])
    assert_in_force(session, settings, trust)
    subjects = tuple(Subject(f"{each}/manifest.json", manifest) for each, (_, manifest) in about.items())
    bundle = sign_statement(signer, Statement(subjects, act.predicate_type, acted.stated))
    acted.row.statement = bundle
    session.add(acted.row)
    session.flush()
    session.add_all(further)
    entered = {**acted.stated, STATEMENT: hashlib.sha256(bundle).hexdigest(), **trust_named(trust)}
    append(session, officers.actor_of(signer.keyid), act.action, entered)


def acts_that_count(session: Session, settings: Settings, act: Act, rows: Iterable[Acted[R]]) -> list[R]:
    """Return the rows of valid acts of one type. Omits an act if the key that signed it was already revoked at its
    ledger entry. Raises IntegrityError if an act has no ledger entry, or if no permitted officer signed exactly its
    facts."""
    acted = list(rows)
    if not acted:
        return []
    entered, trust = entries_of_rows(session, [act.action]), officers.trust_root(settings)
    about = _about(session, {adapter for each in acted for adapter in each.adapters})
    counting = []
    for each in acted:
        sequence = entered.get((each.row.__tablename__, key_of(each.row)))
        name = act.named(each.said)
        if sequence is None:
            raise RegistryDamaged(f"The registry: {name} has no ledger entry ('{act.action}').")
        if not trust.is_revoked_at(officers.OFFICER, each.row.officer, sequence - 1):
            of_row = {adapter: about[adapter] for adapter in each.adapters if adapter in about}
            _assert_signed(of_row, trust, act, name, each, sequence - 1)
            counting.append(each.row)
    return counting


def _assert_signed(
    about: Mapping[str, tuple[str, str]], trust: Trust, act: Act, name: str, acted: Acted[R], at_index: int
) -> None:
    if not about:
        raise RegistryDamaged(f"The registry: {name} is about an adapter that is not registered.")
    levels, manifests = zip(*about.values(), strict=True)
    try:
        verified = officers.verify_act(
            acted.row.statement,
            trust,
            act.may,
            levels,
            predicate_type=act.predicate_type,
            sha256=manifests[0],
            at_index=at_index,
        )
    except IntegrityError as error:
        raise IntegrityError(f"The registry: {name}: {error.message}", error.hint) from None
    subjects = {subject.sha256 for subject in verified.statement.subjects}
    same = dict(verified.statement.predicate) == acted.stated and verified.key.keyid == acted.row.officer
    if not same or subjects != {*manifests}:
        raise RegistryDamaged(f"The registry: {name} differs from its signed statement.")


def _about(session: Session, adapters: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return a mapping of adapter id to classification level and SHA-256 of the record's manifest, sorted by id."""
    query = select(Adapter.id, Adapter.classification, Adapter.record_manifest_sha256)
    ids = sorted(adapters)
    found: dict[str, tuple[str, str]] = {}
    for first in range(0, len(ids), AT_ONCE):
        rows = session.execute(query.where(Adapter.id.in_(ids[first : first + AT_ONCE])))
        found |= {adapter: (level, manifest) for adapter, level, manifest in rows}
    return {each: found[each] for each in ids if each in found}


ADDED = "known issue added"
ADDING = Act(ADDED, "issue", KNOWN_ISSUE, lambda said: f"known issue {said['number']} of {said['adapter']}")
LONGEST = 500
"""Maximum number of characters of a known issue: enough to describe it, and too few to paste a document."""


def add_issue(registry: Registry, adapter_id: str, text: str, signer: Signer) -> KnownIssue:
    """Record a known issue of an adapter, signed by an officer. Raises InputError if the text is empty or too long, and
    NotFoundError for an unknown adapter. Raises SignInError if the officer lacks the permission at the adapter's
    level."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    issue = KnownIssue(adapter_id=adapter_id, text=words_of_issue(text), added_at=now)
    return enter_numbered(registry, signer, ADDING, issue, now)


def words_of_issue(text: str) -> str:
    """Join a text's lines into one line. Raises InputError if the text is empty or too long."""
    text = officers.officers_words(text, "A known issue")
    if len(text) > LONGEST:
        raise InputError(f"The text has {len(text):,} characters; the limit is {LONGEST}.", "Shorten the text.")
    return text


def issues_by_adapter(
    session: Session, settings: Settings, adapter_id: str | None = None
) -> dict[str, list[KnownIssue]]:
    """Return a mapping of adapter id to the adapter's valid known issues, oldest first. Adapters without issues are
    omitted. Raises the errors of `acts_that_count`.

    Args:
        adapter_id: return only the issues of this adapter; None for all adapters.
    """
    query = select(KnownIssue).order_by(KnownIssue.adapter_id, KnownIssue.number)
    issues = session.scalars(query if adapter_id is None else query.where(KnownIssue.adapter_id == adapter_id))
    rows = [numbered(each, each.added_at) for each in issues]
    found = defaultdict[str, list[KnownIssue]](list)
    for issue in acts_that_count(session, settings, ADDING, rows):
        found[issue.adapter_id].append(issue)
    return dict(found)


def enter_numbered(registry: Registry, signer: Signer, act: Act, row: N, at: datetime.datetime) -> N:
    """Record an officer's signed text about an adapter under the adapter's next number. Raises NotFoundError for an
    unknown adapter, and SignInError if the officer lacks the permission at the adapter's level."""
    find_adapter(registry, row.adapter_id)
    with registry.writing() as session:
        kind = type(row)
        of_adapter = select(func.count()).select_from(kind).where(kind.adapter_id == row.adapter_id)
        row.number, row.officer = 1 + (session.scalar(of_adapter) or 0), signer.keyid
        enter_act(session, registry.settings, signer, act, numbered(row, at))
    return row


def numbered(row: N, at: datetime.datetime) -> Acted[N]:
    said = {"adapter": row.adapter_id, "number": row.number, "text": row.text}
    return Acted(row, at, said, [row.adapter_id])
