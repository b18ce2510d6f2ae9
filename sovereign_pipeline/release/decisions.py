"""What officers decide of a request: approve, withdraw, reject. The approval that completes the number makes the change.

Everything is asserted in the transaction that enters it: the request as it was signed, the state of the adapter, the
evidence, and that each approval is another person's than the requester's and than every other.

What belongs here: entering decisions, and making a transition. What does not: who may decide (`officers.py`).
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import HINT, assert_on_record
from sovereign_pipeline.ledger.states import STATE_CHANGED, State, facts_of, transitions_of
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, ReleaseDecision, ReleaseRequest, Transition
from sovereign_pipeline.release.officers import (
    OFFICER,
    PIPELINE,
    Officer,
    assert_may,
    entry_actor,
    officer_of,
    pipeline_signer,
    trust_root,
)
from sovereign_pipeline.release.requests import (
    REQUESTED,
    Proposal,
    assert_still_so,
    enter_request,
    evidence_of,
    find_request,
)
from sovereign_pipeline.release.transitions import SUPERSEDE, Arrow, arrow
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.predicates import APPROVAL, REQUEST, TRANSITION
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement, verify_statement
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
    ended: str | None
    """Why nothing is decided of it any more; None while it is open."""

    @property
    def is_complete(self) -> bool:
        return len(self.approvals) >= self.predicate["approvals"]


def request(registry: Registry, workplace: Workplace, signer: Signer, proposal: Proposal) -> Standing:
    """Put a signed request on record; where nobody else must approve, the transition is made with it.

    Raises SignInError where the trust root does not let the officer do so.
    """
    trust = trust_root(workplace.settings)
    officer = officer_of(trust, signer.keyid)
    if proposal.approvals == 0:
        assert_may(officer, proposal.arrow.name, proposal.adapter.classification)
    row = enter_request(registry, signer, officer, proposal)
    if proposal.approvals == 0:
        with registry.writing() as session:
            _change(session, registry, workplace, trust, _standing(session, trust, row))
    with registry.reading() as session:
        return _standing(session, trust, row)


def decide(
    registry: Registry, workplace: Workplace, request_id: str, decision: Decision, signer: Signer, reason: str = ""
) -> Standing:
    """Enter what an officer decides of a request. Approvals enough make the transition, in the same transaction.

    Raises ConflictError once the request has ended or was overtaken, or for a second decision of the same person, and
    SignInError for an officer who may not decide of it, the requester among them.
    """
    trust = trust_root(workplace.settings)
    officer = officer_of(trust, signer.keyid)
    with registry.writing() as session:
        row = find_request(session, request_id)
        standing = _standing(session, trust, row)
        if standing.ended is not None:
            raise ConflictError(f"Request {row.id[:12]} has ended: {standing.ended}.", "Request anew.")
        _assert_may_decide(standing, officer, decision)
        statement = Statement(
            (Subject("request.sigstore.json", row.id),),
            APPROVAL,
            {"decision": decision, "request": row.id, "adapter": row.adapter_id, "reason": " ".join(reason.split())},
        )
        bundle = sign_statement(signer, statement)
        given = ReleaseDecision(
            request_id=row.id,
            keyid=signer.keyid,
            decision=decision,
            entered_at=datetime.datetime.now(datetime.UTC),
            statement=bundle,
        )
        session.add(given)
        session.flush()
        subjects = {
            "line": row.line,
            "adapter": row.adapter_id,
            "request": row.id,
            "statement": hashlib.sha256(bundle).hexdigest(),
        }
        append(session, entry_actor(officer), DECIDED[decision], subjects)
        standing = _standing(session, trust, row)
        if standing.ended is None and standing.is_complete:
            _change(session, registry, workplace, trust, standing)
            standing = _standing(session, trust, row)
    return standing


def standings(registry: Registry, workplace: Workplace, line: str | None = None) -> list[Standing]:
    """Every request, the oldest first, with how far it is."""
    trust = trust_root(workplace.settings)
    query = select(ReleaseRequest).order_by(ReleaseRequest.entered_at, ReleaseRequest.id)
    if line is not None:
        query = query.where(ReleaseRequest.line == line)
    with registry.reading() as session:
        return [_standing(session, trust, row) for row in session.scalars(query)]


def assert_signed(registry: Registry, workplace: Workplace, line: str) -> list[Transition]:
    """Assert that every transition of a line was signed, asked for, and approved as it says. Returns them, oldest first.

    Raises IntegrityError naming the first that was not.
    """
    trust = trust_root(workplace.settings)
    with registry.reading() as session:
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
            standing = _standing(session, trust, session.get_one(ReleaseRequest, row.request_id))
            given = set(_statements(session, standing))
            if not {*predicate["approvals"]} <= given or len(predicate["approvals"]) < standing.predicate["approvals"]:
                raise IntegrityError(
                    f"Transition {row.sequence} of line {line}: the approvals that it names are not on record.", HINT
                )
    return rows


def _standing(session: Session, trust: Trust, row: ReleaseRequest) -> Standing:
    """How far a request is, every signature verified at its place in the log."""
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
    approvals = tuple(officer for officer in decided["approve"] if officer.person not in withdrawn)
    ended = _ended(session, row, predicate, decided, requester, withdrawn)
    return Standing(row, predicate, requester, approvals, ended)


def _ended(
    session: Session,
    row: ReleaseRequest,
    predicate: Mapping[str, Any],
    decided: Mapping[Decision, Sequence[Officer]],
    requester: Officer,
    withdrawn: set[str],
) -> str | None:
    made = session.scalars(select(Transition).where(Transition.request_id == row.id)).first()
    if made is not None:
        return f"the transition was made on {made.made_at:%Y-%m-%d}"
    if decided["reject"]:
        return f"{decided['reject'][0].person} rejected it"
    if requester.person in withdrawn:
        return f"{requester.person} withdrew it"
    expires = datetime.datetime.fromisoformat(predicate["expires"])
    return f"it expired on {expires:%Y-%m-%d}" if datetime.datetime.now(datetime.UTC) >= expires else None


def _decided(session: Session, trust: Trust, row: ReleaseRequest, decision: Decision) -> list[Officer]:
    """Who decided so, in the order of the log; each once, whatever keys a person has."""
    query = select(ReleaseDecision).where(
        ReleaseDecision.request_id == row.id, ReleaseDecision.decision == decision
    )
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


def _assert_may_decide(standing: Standing, officer: Officer, decision: Decision) -> None:
    row, predicate = standing.request, standing.predicate
    is_requester = officer.person == standing.requester.person
    approved = {each.person for each in standing.approvals}
    if decision == "withdraw":
        if not is_requester and officer.person not in approved:
            raise ConflictError(f"{officer.person} decided nothing of request {row.id[:12]} that can be withdrawn.")
        return
    if decision == "approve" and is_requester:
        raise SignInError(
            f"{officer.person} made request {row.id[:12]}, and nobody approves what they asked for.",
            "Another officer approves it.",
        )
    if decision == "approve" and officer.person in approved:
        raise ConflictError(f"{officer.person} approved request {row.id[:12]} already.")
    assert_may(officer, arrow_of(predicate).name, predicate["classification"])


def arrow_of(predicate: Mapping[str, Any]) -> Arrow:
    """The arrow that a request asks for."""
    return arrow(predicate["transition"], predicate["adapter"], predicate["from"])


def _change(session: Session, registry: Registry, workplace: Workplace, trust: Trust, standing: Standing) -> None:
    """Make the transition of a complete request, and supersede what it takes production from."""
    row, predicate = standing.request, standing.predicate
    adapter = session.get_one(Adapter, row.adapter_id)
    assert_on_record(session, adapter)
    assert_still_so(session, row, predicate, adapter)
    asked = arrow_of(predicate)
    if evidence_of(workplace, registry, adapter, asked) != predicate["evidence"]:
        raise ConflictError(
            f"Request {row.id[:12]} rests on other evidence than there is now.", "Look at it, and request anew."
        )
    for digest in (adapter.record_digest, adapter.adapter_digest):
        workplace.store.open(workplace.store.ref_of(digest))
    before = transitions_of(session, adapter.line)
    _assert_staged_long_enough(workplace, asked, before, adapter)
    signer, approvals = pipeline_signer(workplace.settings, trust), _statements(session, standing)
    incumbent = predicate["incumbent"] if asked.takes_production else None
    moves: list[tuple[Adapter, str, State, State]] = []
    if incumbent is not None:
        moves.append((session.get_one(Adapter, incumbent), SUPERSEDE, "production", "superseded"))
    moves.append((adapter, asked.name, predicate["from"], asked.after))
    for number, (moved, name, left, reached) in enumerate(moves, start=len(before) + 1):
        now = datetime.datetime.now(datetime.UTC)
        content = {
            "line": moved.line,
            "sequence": number,
            "adapter": moved.id,
            "transition": name,
            "from": left,
            "to": reached,
            "request": row.id,
            "approvals": approvals,
            "replaces": incumbent if moved is adapter else None,
            "at": now.isoformat(),
        }
        subject = Subject("registered_adapter/manifest.json", moved.record_manifest_sha256)
        made = Transition(
            line=moved.line,
            sequence=number,
            adapter_id=moved.id,
            transition=name,
            before=left,
            after=reached,
            request_id=row.id,
            made_at=now,
            statement=sign_statement(signer, Statement((subject,), TRANSITION, content)),
        )
        session.add(made)
        session.flush()
        append(session, f"pipeline:{signer.keyid}", STATE_CHANGED, facts_of(made))


def _assert_staged_long_enough(
    workplace: Workplace, asked: Arrow, before: Sequence[Transition], adapter: Adapter
) -> None:
    hours = workplace.institution.release.staged_hours
    if asked.name != "promote" or not hours:
        return
    staged = [each.made_at for each in before if each.adapter_id == adapter.id and each.after == "staged"][-1]
    ready = staged + datetime.timedelta(hours=hours)
    if datetime.datetime.now(datetime.UTC) < ready:
        raise ConflictError(
            f"{adapter.id} was staged at {staged:%Y-%m-%d %H:%M} UTC, and an adapter stays staged for {hours} hours.",
            f"Approve it after {ready:%Y-%m-%d %H:%M} UTC.",
        )


def _statements(session: Session, standing: Standing) -> list[str]:
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
