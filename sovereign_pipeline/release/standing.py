"""Compute and verify the status of release requests from signed requests, decisions and transitions."""

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Release, TransitionName, is_transition, release_in
from sovereign_pipeline.policy.recipe_model import nearest_known
from sovereign_pipeline.record import catalog
from sovereign_pipeline.record.audit_log import entries_of_rows, key_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import INSTITUTION, POLICY_CHANGED, kept_rule
from sovereign_pipeline.record.officers import OFFICER, PIPELINE
from sovereign_pipeline.record.statements import APPROVAL, REQUEST, TRANSITION, signed_by, verify_statement
from sovereign_pipeline.record.tables import (
    Adapter,
    AuditEntry,
    ReleaseDecision,
    ReleaseRequest,
    Transition,
    row_as_dict,
)
from sovereign_pipeline.record.tree import RegistryDamaged
from sovereign_pipeline.record.trust_root import Trust, TrustedKey
from sovereign_pipeline.release.recall import open_recalls

UNDECIDED: frozenset[catalog.State] = frozenset({"registered", "in review"})
USABLE: frozenset[catalog.State] = frozenset({"approved", "staged", "production", "superseded"})


@dataclass(frozen=True)
class Arrow:
    """An allowed change of an adapter's state."""

    name: TransitionName
    before: frozenset[catalog.State]
    after: catalog.State
    needs_evidence: bool = False
    """True if the transition requires a passed or waived blind review, and a new verification of every file of the
    adapter."""
    takes_production: bool = False
    """True if the transition also supersedes the line's adapter in production."""
    stops_at_recall: bool = True
    """True if an open recall forbids the transition."""


ARROWS: tuple[Arrow, ...] = (
    Arrow("approve", UNDECIDED, "approved", needs_evidence=True),
    Arrow("stage", frozenset({"approved", "superseded"}), "staged", needs_evidence=True),
    Arrow("unstage", frozenset({"staged"}), "approved", stops_at_recall=False),
    Arrow("promote", frozenset({"staged"}), "production", needs_evidence=True, takes_production=True),
    Arrow("promote_urgently", frozenset({"staged"}), "production", needs_evidence=True, takes_production=True),
    Arrow("roll_back", frozenset({"superseded"}), "production", takes_production=True),
    Arrow("reject", UNDECIDED, "rejected", stops_at_recall=False),
    Arrow("recall", UNDECIDED | USABLE, "recalled", stops_at_recall=False),
    Arrow("retire", UNDECIDED | USABLE | {"rejected", "recalled"}, "retired", stops_at_recall=False),
)

SUPERSEDE = "supersede"
"""Name of the transition that the adapter in production makes when a promotion or rollback replaces it. No officer
requests this transition separately."""


def arrow(name: str, adapter: str, before: catalog.State) -> Arrow:
    """Return the transition with this name, for an adapter in the state `before`. Raises InputError for an unknown
    transition, and ConflictError for a transition that is not allowed from this state."""
    names = [each.name for each in ARROWS]
    found = next((each for each in ARROWS if each.name == name), None)
    if found is None:
        raise InputError(f"There is no transition '{name}'.", f"{nearest_known(name, names)}")
    if before in found.before:
        return found
    allowed = [each.name for each in ARROWS if before in each.before]
    raise ConflictError(
        f"{adapter} is {before}, but '{name}' is only allowed from {' or '.join(sorted(found.before))}.",
        f"Allowed from {before} {'is' if len(allowed) == 1 else 'are'}: {', '.join(allowed)}."
        if allowed
        else f"From {before}, no transition is allowed.",
    )


@dataclass(frozen=True)
class RulesOnRecord:
    """The institution's release rules at each index of the ledger."""

    settings: Settings
    since: Sequence[tuple[int, str | None]]
    """Each change of `institution.yaml`, oldest first: the number of its ledger entry, and the file's new SHA-256 (None
    if the file was removed)."""

    def approvals_for(self, at_index: int | None, transition: str, levels: Iterable[str], before: str) -> int:
        """Return how many officers besides the requester must approve a transition. If the levels require different
        numbers, the highest number applies.

        Args:
            at_index: ledger index at which the rules are read; None for the current rules. Before the first change of
                the rules, the default rules apply.
            before: the adapter's state before the transition.

        Raises IntegrityError if the stored copy of the rules is missing, changed or invalid, or if the transition does
        not exist.
        """
        if not is_transition(transition):
            raise IntegrityError(
                f"The registry: there is no transition '{transition[:40]}'.", "Find out who requested it."
            )
        rules = self._rules(at_index)
        return max(rules.approvals_for(transition, level, before) for level in levels)

    def _rules(self, at_index: int | None) -> Release:
        before = [each for each in self.since if at_index is None or each[0] <= at_index]
        sequence, sha256 = before[-1] if before else (0, None)
        if sha256 is None:
            return Release()
        try:
            return release_in(kept_rule(self.settings, INSTITUTION, sha256, sequence))
        except ValueError:
            raise IntegrityError(
                f"The rules of entry {sequence} of the audit log have no valid section on releases.",
                "No release can be requested under these rules. Find out who logged them.",
            ) from None


def rules_on_record(session: Session, settings: Settings) -> RulesOnRecord:
    query = (
        select(AuditEntry.sequence, AuditEntry.subjects["now"].as_string())
        .where(AuditEntry.action == POLICY_CHANGED, AuditEntry.subjects["file"].as_string() == INSTITUTION)
        .order_by(AuditEntry.sequence)
    )
    return RulesOnRecord(settings, [(sequence, sha256) for sequence, sha256 in session.execute(query)])


Decision = Literal["approve", "reject", "withdraw"]

DECIDED: Mapping[Decision, str] = {
    "approve": "release approved",
    "reject": "release rejected",
    "withdraw": "release decision withdrawn",
}
"""Mapping of decision to the action of the decision's ledger entry."""


@dataclass(frozen=True)
class Standing:
    request: ReleaseRequest
    predicate: Mapping[str, Any]
    """The content of the signed request."""
    requester: TrustedKey
    requester_may: bool
    """True if the requester may decide about the request. This matters only if no other officer must approve the
    request."""
    needed: int
    """Number of officers besides the requester who must approve. It is the highest of three numbers: the number in the
    request, the number that the rules required when the request was logged, and the number that they required when its
    transition was made."""
    approvals: tuple[TrustedKey, ...]
    """The officers whose approvals count, in the order of approval."""
    withdrawn: frozenset[str]
    """Persons who withdrew their decision and therefore cannot approve the request again."""
    ended: str | None
    """Reason why the request is closed, or None while it is open."""
    is_made: bool
    approval_statements: tuple[str, ...]
    """SHA-256 of each signed approval that counts, sorted."""

    @property
    def is_complete(self) -> bool:
        return len(self.approvals) >= self.needed and (self.needed > 0 or self.requester_may)


def standings(session: Session, settings: Settings, trust: Trust, line: str) -> list[Standing]:
    """Return the status of every request of a line, oldest first. Omits a request if its key was revoked before the
    request was logged. Raises IntegrityError if a request or decision has no ledger entry, is not validly signed, or
    differs from its signed statement."""
    return _counting(_read(session, settings, line), trust)


def open_standings(session: Session, settings: Settings, trust: Trust) -> list[Standing]:
    """Return the status of the open requests of all lines. Raises the errors of `standings`."""
    waiting = select(ReleaseRequest.id).where(ReleaseRequest.id.not_in(select(Transition.request_id)))
    found = _counting(_read(session, settings, requests=list(session.scalars(waiting))), trust)
    return [each for each in found if each.ended is None]


def all_standings(
    session: Session, settings: Settings, trust: Trust, line: str | None = None
) -> tuple[list[Standing], dict[str, IntegrityError]]:
    """Return the status of every request of all lines or of one line, oldest first, and a mapping of line to error. If
    the requests of a line fail verification, the line is in the mapping, and the other lines are still returned."""
    lines = session.scalars(select(ReleaseRequest.line).distinct().order_by(ReleaseRequest.line))
    found: list[Standing] = []
    refused: dict[str, IntegrityError] = {}
    for each in [line] if line is not None else list(lines):
        try:
            found += standings(session, settings, trust, each)
        except IntegrityError as error:
            refused[each] = error
    return sorted(found, key=lambda each: (each.request.entered_at, each.request.id)), refused


def standings_of_adapter(session: Session, settings: Settings, trust: Trust, adapter_id: str) -> list[Standing]:
    """Return the status of every request about one adapter. Raises the errors of `standings`."""
    found = standings(session, settings, trust, catalog.line_of(adapter_id))
    return [each for each in found if each.request.adapter_id == adapter_id]


def standing_of(
    session: Session, settings: Settings, trust: Trust, row: ReleaseRequest, now: datetime.datetime | None = None
) -> Standing:
    """Return the status of a request after verifying its signature and those of its decisions, each at its ledger
    index. Raises the errors of `standings`, and IntegrityError if the request's key was revoked before the request was
    logged.

    Args:
        now: time for the expiry check; the current time if None.
    """
    on_record = _read(session, settings, row.line, [row.id])
    return _standing(on_record, trust, row, now or datetime.datetime.now(datetime.UTC))


def assert_signed(session: Session, settings: Settings, trust: Trust, line: str) -> list[Transition]:
    """Return the transitions of a line, oldest first. Raises IntegrityError for the first transition that the pipeline
    did not sign, or that no request with the required approvals asks for."""
    return [row for row, _ in signed_transitions(session, settings, trust, line)]


def signed_transitions(
    session: Session, settings: Settings, trust: Trust, line: str
) -> list[tuple[Transition, Standing]]:
    """Return every transition of a line, oldest first, each with the status of its request. Raises the error of
    `assert_signed`."""
    rows = catalog.transitions_of(session, line)
    on_record, now = _read(session, settings, line), datetime.datetime.now(datetime.UTC)
    known: dict[str, Standing] = {}
    moves: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        where = f"Transition {row.sequence} of line {line}"
        statements = _assert_row_signed(on_record, trust, row, where)
        asked = on_record.requests.get(row.request_id)
        if asked is None:
            raise RegistryDamaged(f"{where}: its request is not logged.")
        if asked.id not in known:
            known[asked.id] = _standing(on_record, trust, asked, now)
        standing = known[asked.id]
        moves[asked.id, row.transition == SUPERSEDE] += 1
        if not _was_asked_for(row, standing.predicate) or moves[asked.id, row.transition == SUPERSEDE] > 1:
            raise RegistryDamaged(f"{where}: this transition differs from request {asked.id[:12]}.")
        is_approved = statements <= {*standing.approval_statements} and standing.is_complete
        if not is_approved or len(statements) < standing.needed:
            raise RegistryDamaged(f"{where}: its approvals are not logged.")
    return [(row, known[row.request_id]) for row in rows]


def production_before(session: Session, settings: Settings, rows: Sequence[Transition]) -> str | None:
    """Return the id of the adapter that was superseded last. Returns None if there is none, or if no rollback to this
    adapter is allowed, because it is no longer `superseded` or an open recall applies to it.

    Args:
        rows: the line's transitions, oldest first.
    """
    superseded = [row.adapter_id for row in rows if row.transition == SUPERSEDE]
    if not superseded or catalog.states(session, rows[0].line)[superseded[-1]] != "superseded":
        return None
    return superseded[-1] if not open_recalls(session, settings, superseded[-1]) else None


@dataclass(frozen=True)
class _Held:
    """Facts about an adapter. Signed statements about the adapter must match them."""

    line: str
    record_manifest_sha256: str
    classification: str


@dataclass(frozen=True)
class _OnRecord:
    """The registry's rows about a line's requests, or about one request."""

    requests: Mapping[str, ReleaseRequest]
    """Mapping of request id to the request, oldest first."""
    decisions: Mapping[str, Sequence[ReleaseDecision]]
    """Mapping of request id to the request's decisions, oldest first."""
    made: Mapping[str, Transition]
    """Mapping of request id to the first transition that the request led to."""
    adapters: Mapping[str, _Held]
    entries: Mapping[tuple[str, str], int]
    """Mapping of a row's table and primary key to the number of the ledger entry that added the row."""
    rules: RulesOnRecord

    def index_of(self, row: ReleaseRequest | ReleaseDecision | Transition) -> int:
        """Return the ledger index of a row. Raises IntegrityError if no entry about requests added the row."""
        sequence = self.entries.get((row.__tablename__, key_of(row)))
        if sequence is None:
            request = row.id if isinstance(row, ReleaseRequest) else row.request_id
            raise RegistryDamaged(f"The registry: a row of request {request[:12]} has no ledger entry.")
        return sequence - 1


def _read(
    session: Session, settings: Settings, line: str | None = None, requests: Sequence[str] | None = None
) -> _OnRecord:
    """Read the rows about the requests of one line (None: of all lines), or only about the requests with these ids."""
    asked, decisions, made = select(ReleaseRequest), select(ReleaseDecision).join(ReleaseRequest), select(Transition)
    about = select(Adapter.id, Adapter.line, Adapter.record_manifest_sha256, Adapter.classification)
    of_entries = []
    if line is not None:
        asked, decisions = asked.where(ReleaseRequest.line == line), decisions.where(ReleaseRequest.line == line)
        made, about = made.where(Transition.line == line), about.where(Adapter.line == line)
        of_entries.append(AuditEntry.subjects["line"].as_string() == line)
    if requests is not None:
        asked = asked.where(ReleaseRequest.id.in_(requests))
        decisions = decisions.where(ReleaseRequest.id.in_(requests))
        made = made.where(Transition.request_id.in_(requests))
        of_entries.append(AuditEntry.subjects["request"].as_string().in_(requests))
    by_request = defaultdict[str, list[ReleaseDecision]](list)
    for decision in session.scalars(decisions.order_by(ReleaseDecision.entered_at, ReleaseDecision.keyid)):
        by_request[decision.request_id].append(decision)
    first: dict[str, Transition] = {}
    for transition in session.scalars(made.order_by(Transition.sequence)):
        first.setdefault(transition.request_id, transition)
    return _OnRecord(
        {row.id: row for row in session.scalars(asked.order_by(ReleaseRequest.entered_at, ReleaseRequest.id))},
        by_request,
        first,
        {name: _Held(*facts) for name, *facts in session.execute(about)},
        entries_of_rows(session, [catalog.REQUESTED, catalog.STATE_CHANGED, *DECIDED.values()], *of_entries),
        rules_on_record(session, settings),
    )


def _counting(on_record: _OnRecord, trust: Trust) -> list[Standing]:
    """Return the status of each request. Omits a request if its key was revoked before the request was logged."""
    now = datetime.datetime.now(datetime.UTC)
    counting = (row for row in on_record.requests.values() if not _was_revoked(on_record, trust, row))
    return [_standing(on_record, trust, row, now) for row in counting]


def _was_revoked(on_record: _OnRecord, trust: Trust, row: ReleaseRequest) -> bool:
    """Return True if the key that signed a request was revoked before the request was logged. Returns False if the
    request's id is not the digest of its signed statement, so that verifying the request then raises the error."""
    is_own = hashlib.sha256(row.statement).hexdigest() == row.id
    return is_own and trust.is_revoked_at(OFFICER, signed_by(row.statement), on_record.index_of(row))


def _standing(on_record: _OnRecord, trust: Trust, row: ReleaseRequest, now: datetime.datetime) -> Standing:
    adapter = _adapter(on_record, row, f"Request {row.id[:12]}")
    asked_at = on_record.index_of(row)
    verified = verify_statement(
        row.statement,
        trust,
        OFFICER,
        predicate_type=REQUEST,
        sha256=adapter.record_manifest_sha256,
        at_index=asked_at,
    )
    if hashlib.sha256(row.statement).hexdigest() != row.id:
        raise _differs(f"Request {row.id[:12]}", "id")
    predicate, requester = verified.statement.predicate, verified.key
    if (predicate["line"], predicate["adapter"], predicate["transition"]) != (row.line, row.adapter_id, row.transition):
        raise _differs(f"Request {row.id[:12]}", "row")

    levels = {predicate["classification"], adapter.classification}

    def may(officer: TrustedKey) -> bool:
        """Return True if the officer may decide at the level in the request and at the adapter's own level."""
        return all(officer.allows(row.transition, level) for level in levels)

    decided = _decided(on_record, trust, row)
    withdrawn = {officer.person for officer, _ in decided["withdraw"]}
    rejected = [officer.person for officer, _ in decided["reject"] if may(officer)]
    counting: dict[str, TrustedKey] = {}
    statements: list[str] = []
    for officer, statement in decided["approve"]:
        if officer.person not in {*withdrawn, requester.person} and may(officer):
            counting.setdefault(officer.person, officer)  # a person with several keys counts once
            statements.append(statement)
    made = on_record.made.get(row.id)
    decisive = [asked_at, *([on_record.index_of(made)] if made is not None else [])]
    by_rules = [on_record.rules.approvals_for(each, row.transition, levels, predicate["from"]) for each in decisive]
    return Standing(
        request=row,
        predicate=predicate,
        requester=requester,
        requester_may=may(requester),
        needed=max(predicate["approvals"], *by_rules),
        approvals=tuple(counting.values()),
        withdrawn=frozenset(withdrawn),
        ended=_ended(predicate, made, rejected, requester.person if requester.person in withdrawn else None, now),
        is_made=made is not None,
        approval_statements=tuple(sorted(statements)),
    )


def _ended(
    predicate: Mapping[str, Any],
    made: Transition | None,
    rejected: Sequence[str],
    withdrawn_by: str | None,
    now: datetime.datetime,
) -> str | None:
    if made is not None:
        return f"the transition was made on {made.made_at:%Y-%m-%d}"
    if rejected:
        return f"{rejected[0]} rejected it"
    if withdrawn_by is not None:
        return f"{withdrawn_by} withdrew it"
    expires = datetime.datetime.fromisoformat(predicate["expires"])
    return f"it expired on {expires:%Y-%m-%d}" if now >= expires else None


def _decided(on_record: _OnRecord, trust: Trust, row: ReleaseRequest) -> dict[str, list[tuple[TrustedKey, str]]]:
    """Return a mapping of decision to the officers who signed that decision with a valid key, each with the SHA-256 of
    the officer's statement."""
    found: dict[str, list[tuple[TrustedKey, str]]] = {each: [] for each in DECIDED}
    for given in on_record.decisions.get(row.id, ()):
        statement = hashlib.sha256(given.statement).hexdigest()
        at_index = on_record.index_of(given)
        if trust.is_revoked_at(OFFICER, signed_by(given.statement), at_index):
            continue
        verified = verify_statement(
            given.statement, trust, OFFICER, predicate_type=APPROVAL, sha256=row.id, at_index=at_index
        )
        stated = (verified.statement.predicate["decision"], verified.key.keyid)
        if given.decision not in found or stated != (given.decision, given.keyid):
            raise _differs(f"A decision about request {row.id[:12]}", "row")
        found[given.decision].append((verified.key, statement))
    return found


def _assert_row_signed(on_record: _OnRecord, trust: Trust, row: Transition, where: str) -> set[str]:
    """Raise IntegrityError unless the pipeline signed a transition with exactly the facts in its row. Return the
    SHA-256 of each approval in the signed transition."""
    verified = verify_statement(
        row.statement,
        trust,
        PIPELINE,
        predicate_type=TRANSITION,
        sha256=_adapter(on_record, row, where).record_manifest_sha256,
        at_index=on_record.index_of(row),
    )
    predicate, facts = verified.statement.predicate, catalog.facts_of(row)
    if any(predicate[name] != facts[name] for name in ("line", "sequence", "adapter", "transition", "from", "to")):
        raise _differs(where, "row")
    return {*predicate["approvals"]}


def _was_asked_for(row: Transition, predicate: Mapping[str, Any]) -> bool:
    """Return True if a request asks for this transition, or if this transition supersedes the adapter that the request
    replaces in production."""
    if row.transition == SUPERSEDE:
        return (
            row.adapter_id == predicate["incumbent"] and row.after == "superseded" and predicate["to"] == "production"
        )
    asked = tuple(predicate[name] for name in ("adapter", "transition", "from", "to"))
    return (row.adapter_id, row.transition, row.before, row.after) == asked


def _adapter(on_record: _OnRecord, row: ReleaseRequest | Transition, where: str) -> _Held:
    """Return the adapter that a row is about. Raises IntegrityError if the row's line has no such adapter."""
    adapter = on_record.adapters.get(row.adapter_id)
    if adapter is None or adapter.line != row.line:
        raise RegistryDamaged(f"{where}: the line has no adapter {row.adapter_id}.")
    return adapter


def _differs(what: str, where: str) -> IntegrityError:
    return RegistryDamaged(f"The registry: {what}: the {where} differs from the signed statement.")


COMPARED = (
    "method",
    "base_model",
    "base_model_digest",
    "dataset_digest",
    "preference_dataset_digest",
    "adapter_sha256",
    "classification",
    "evaluation_report_digest",
    "framework_versions",
    "code_version",
    "review_date",
    "evaluation",
)
"""Columns in which two versions of an adapter are compared."""


def history_of(
    session: Session, settings: Settings, trust: Trust, line: str, adapter_id: str | None = None
) -> list[dict[str, Any]]:
    """Return the states, time, requester, approvers, reason and evidence of each transition of a line, or of one of its
    adapters. Raises the error of `assert_signed`."""
    rows = signed_transitions(session, settings, trust, line)
    return [_as_dict(row, standing) for row, standing in rows if adapter_id in (None, row.adapter_id)]


def differences(registry: Registry, one: str, other: str) -> dict[str, tuple[Any, Any]]:
    """Return the facts in which two registered adapters differ, as a mapping of the fact's name to both values."""
    first, second = (row_as_dict(catalog.find_adapter(registry, each)) for each in (one, other))
    found: dict[str, tuple[Any, Any]] = {}
    for name in COMPARED:
        found |= _differing(name, first[name], second[name])
    return found


def _differing(name: str, one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return {
            key: value
            for each in keys
            for key, value in _differing(f"{name}.{each}", one.get(each), other.get(each)).items()
        }
    return {} if one == other else {name: (one, other)}


def _as_dict(row: Transition, standing: Standing) -> dict[str, Any]:
    predicate = standing.predicate
    return {
        "sequence": row.sequence,
        "at": row.made_at.isoformat(timespec="seconds"),
        "adapter": row.adapter_id,
        "transition": row.transition,
        "from": row.before,
        "to": row.after,
        "requested_by": standing.requester.person,
        "approved_by": [each.person for each in standing.approvals],
        "reason": predicate["reason"],
        "evidence": predicate["evidence"],
        "request": row.request_id,
    }
