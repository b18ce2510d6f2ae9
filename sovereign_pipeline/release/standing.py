"""How far a request is: who asked, who agreed, whether it has ended.

Every signature is verified at its place in the log.

What belongs here: reading requests, decisions and transitions back from rows that anybody may have written. What does
not: entering any of them (`decisions.py`, `changes.py`).
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.rows_on_record import HINT
from sovereign_pipeline.ledger.states import STATE_CHANGED, facts_of, states, transitions_of
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, ReleaseDecision, ReleaseRequest, Transition
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.requests import REQUESTED
from sovereign_pipeline.release.transitions import ARROWS, SUPERSEDE
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.officers import OFFICER, PIPELINE, Officer
from sovereign_pipeline.signing.predicates import APPROVAL, REQUEST, TRANSITION
from sovereign_pipeline.signing.statements import verify_statement
from sovereign_pipeline.signing.trust import Trust, TrustedKey

Decision = Literal["approve", "reject", "withdraw"]

DECIDED: Mapping[Decision, str] = {
    "approve": "release approved",
    "reject": "release rejected",
    "withdraw": "release decision withdrawn",
}
"""Decision -> the action of its entry."""


@dataclass(frozen=True)
class Standing:
    """How far a request is."""

    request: ReleaseRequest
    predicate: Mapping[str, Any]
    """What was asked, as it was signed."""
    requester: Officer
    approvals: tuple[Officer, ...]
    """Those that count, in the order in which they were given."""
    withdrawn: frozenset[str]
    """Persons who took theirs back; it does not come into force again."""
    ended: str | None
    """Why nothing is decided of it any more; None while it is open."""
    is_made: bool
    """Whether its transition was made."""

    @property
    def is_complete(self) -> bool:
        needed: int = self.predicate["approvals"]
        return len(self.approvals) >= needed


def standings(session: Session, trust: Trust, line: str | None = None) -> list[Standing]:
    """Every request, the oldest first, with how far it is."""
    query = select(ReleaseRequest).order_by(ReleaseRequest.entered_at, ReleaseRequest.id)
    if line is not None:
        query = query.where(ReleaseRequest.line == line)
    return [standing_of(session, trust, row) for row in session.scalars(query)]


def assert_signed(session: Session, trust: Trust, line: str) -> list[Transition]:
    """Assert that every transition of a line was signed, asked for and approved as it says.

    Returns them, the oldest first. Raises IntegrityError naming the first that was not.
    """
    rows = transitions_of(session, line)
    for row in rows:
        adapter = session.get_one(Adapter, row.adapter_id)
        entry = _entry(session, STATE_CHANGED, row.request_id, row.statement_sha256)
        verified = verify_statement(
            row.statement,
            trust,
            PIPELINE,
            predicate_type=TRANSITION,
            sha256=adapter.record_manifest_sha256,
            at_index=entry.sequence - 1,
        )
        predicate = verified.statement.predicate
        stated = {name: predicate[name] for name in ("line", "sequence", "adapter", "transition", "from", "to")}
        if stated != {name: facts_of(row)[name] for name in stated}:
            raise _differs(f"Transition {row.sequence} of line {line}", "row")
        standing = standing_of(session, trust, session.get_one(ReleaseRequest, row.request_id))
        _assert_as_asked(session, row, rows, standing)
        given = set(approval_statements(session, standing))
        if not {*predicate["approvals"]} <= given or not standing.is_complete:
            raise IntegrityError(
                f"Transition {row.sequence} of line {line}: the approvals that it names are not on record.", HINT
            )
    return rows


def _assert_as_asked(session: Session, row: Transition, rows: Sequence[Transition], standing: Standing) -> None:
    """Assert that a transition is the one that its request asked for, once, and that officers agreed who may.

    Whoever has the pipeline's key can sign any transition, and name any request that officers ever made.
    """
    asked, adapter = standing.predicate, session.get_one(Adapter, standing.request.adapter_id)
    what = f"Transition {row.sequence} of line {row.line}"
    arrow = next((each for each in ARROWS if each.name == asked["transition"]), None)
    if arrow is None or (asked["line"], asked["to"]) != (row.line, arrow.after) or asked["from"] not in arrow.before:
        raise IntegrityError(f"{what}: there is no such transition as its request asks for.", HINT)
    own = (asked["adapter"], arrow.name, asked["from"], arrow.after)
    replaces = arrow.takes_production and asked["incumbent"] is not None
    expected = [(asked["incumbent"], SUPERSEDE, "production", "superseded"), own] if replaces else [own]
    of_request = (each for each in rows if each.request_id == standing.request.id)
    if [(each.adapter_id, each.transition, each.before, each.after) for each in of_request] != expected:
        raise IntegrityError(f"{what}: its request, {standing.request.id[:12]}, asks for something else.", HINT)
    deciding = standing.approvals if asked["approvals"] else (standing.requester,)
    unable = [each.person for each in deciding if not each.key.allows(arrow.name, adapter.classification)]
    if unable or asked["classification"] != adapter.classification:
        who = f"{', '.join(unable)} may not" if unable else "nobody did"
        raise IntegrityError(f"{what}: {who} decide about '{arrow.name}' at {adapter.classification}.", HINT)


def production_before(session: Session, settings: Settings, rows: Sequence[Transition]) -> str | None:
    """The adapter that was in production before the one that is, by a line's transitions, if it may be there again."""
    superseded = [row.adapter_id for row in rows if row.transition == SUPERSEDE]
    if not superseded or states(session, rows[0].line)[superseded[-1]] != "superseded":
        return None
    return superseded[-1] if not open_recalls(session, settings, superseded[-1]) else None


def standing_of(session: Session, trust: Trust, row: ReleaseRequest, now: datetime.datetime | None = None) -> Standing:
    """How far a request is, every signature verified at its place in the log. `now`: else the time of this machine."""
    entry = _entry(session, REQUESTED, row.id, None)
    adapter = session.get_one(Adapter, row.adapter_id)
    verified = verify_statement(
        row.statement,
        trust,
        OFFICER,
        predicate_type=REQUEST,
        sha256=adapter.record_manifest_sha256,
        at_index=entry.sequence - 1,
    )
    if hashlib.sha256(row.statement).hexdigest() != row.id:
        raise _differs(f"Request {row.id[:12]}", "id")
    predicate, requester = verified.statement.predicate, _officer(verified.key)
    if (predicate["line"], predicate["adapter"], predicate["transition"]) != (row.line, row.adapter_id, row.transition):
        raise _differs(f"Request {row.id[:12]}", "row")
    decided = {each: _decided(session, trust, row, each) for each in DECIDED}
    withdrawn = {officer.person for officer in decided["withdraw"]}
    approvals = tuple(officer for officer in decided["approve"] if officer.person not in {*withdrawn, requester.person})
    ended = _ended(session, row, predicate, decided, requester, withdrawn, now or datetime.datetime.now(datetime.UTC))
    is_made = session.scalars(select(Transition.sequence).where(Transition.request_id == row.id)).first() is not None
    return Standing(row, predicate, requester, approvals, frozenset(withdrawn), ended, is_made)


def _ended(
    session: Session,
    row: ReleaseRequest,
    predicate: Mapping[str, Any],
    decided: Mapping[Decision, Sequence[Officer]],
    requester: Officer,
    withdrawn: set[str],
    now: datetime.datetime,
) -> str | None:
    made = session.scalars(select(Transition).where(Transition.request_id == row.id)).first()
    if made is not None:
        return f"the transition was made on {made.made_at:%Y-%m-%d}"
    if decided["reject"]:
        return f"{decided['reject'][0].person} rejected it"
    if requester.person in withdrawn:
        return f"{requester.person} withdrew it"
    expires = datetime.datetime.fromisoformat(predicate["expires"])
    return f"it expired on {expires:%Y-%m-%d}" if now >= expires else None


def _decided(session: Session, trust: Trust, row: ReleaseRequest, decision: Decision) -> list[Officer]:
    """Who decided so, in the order of the log; each once, whatever keys a person has."""
    query = select(ReleaseDecision).where(ReleaseDecision.request_id == row.id, ReleaseDecision.decision == decision)
    found: dict[str, Officer] = {}
    for given in session.scalars(query.order_by(ReleaseDecision.entered_at, ReleaseDecision.keyid)):
        entry = _entry(session, DECIDED[decision], row.id, hashlib.sha256(given.statement).hexdigest())
        verified = verify_statement(
            given.statement, trust, OFFICER, predicate_type=APPROVAL, sha256=row.id, at_index=entry.sequence - 1
        )
        if verified.statement.predicate["decision"] != decision or verified.key.keyid != given.keyid:
            raise _differs(f"A decision about request {row.id[:12]}", "row")
        officer = _officer(verified.key)
        found.setdefault(officer.person, officer)
    return list(found.values())


def _entry(session: Session, action: str, request_id: str, statement: str | None) -> AuditEntry:
    """The entry of something about a request. Raises IntegrityError where there is none."""
    query = select(AuditEntry).where(
        AuditEntry.action == action, AuditEntry.subjects["request"].as_string() == request_id
    )
    if statement is not None:
        query = query.where(AuditEntry.subjects["statement"].as_string() == statement)
    entry = session.scalars(query.order_by(AuditEntry.sequence)).first()
    if entry is None:
        raise IntegrityError(
            f"The registry: of request {request_id[:12]} there is a row that no entry of the audit log ('{action}') "
            f"names.",
            HINT,
        )
    return entry


def approval_statements(session: Session, standing: Standing) -> list[str]:
    """SHA-256 of the signed approvals that count, sorted."""
    keyids = {each.key.keyid for each in standing.approvals}
    query = select(ReleaseDecision).where(
        ReleaseDecision.request_id == standing.request.id, ReleaseDecision.decision == "approve"
    )
    given = [each for each in session.scalars(query) if each.keyid in keyids]
    return sorted(hashlib.sha256(each.statement).hexdigest() for each in given)


def _officer(key: TrustedKey) -> Officer:
    assert key.person is not None  # of every officer's key, as reading the trust root asserts
    return Officer(key.person, key)


def _differs(what: str, where: str) -> IntegrityError:
    return IntegrityError(f"The registry: {what} differs from what was signed in its {where}.", HINT)
