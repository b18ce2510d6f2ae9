"""What officers decide of a request: approve, withdraw, reject. The approval that completes the number makes the
change.

Everything is asserted in the transaction that enters it: the request as it was signed, the state of the adapter, the
evidence, and that each approval is another person's than the requester's and than every other.

What belongs here: entering requests and decisions. What does not: whose a key is
(`signing/officers.py`), and the change itself (`changes.py`).
"""

import datetime
import hashlib

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import ConflictError, SignInError
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.in_force import trust_named
from sovereign_pipeline.ledger.tables import ReleaseDecision
from sovereign_pipeline.ledger.trust_on_record import assert_in_force
from sovereign_pipeline.ledger.verifying import verify_registry
from sovereign_pipeline.registry.mlflow_states import follow_after_act
from sovereign_pipeline.release.changes import arrow_of, make_transition
from sovereign_pipeline.release.requests import Proposal, assert_policy_as_shown, enter_request, find_request
from sovereign_pipeline.release.standing import DECIDED, Decision, Standing, standing_of
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import Officer, assert_may, entry_actor, officer_of, trust_root
from sovereign_pipeline.signing.officers_words import on_one_line
from sovereign_pipeline.signing.predicates import APPROVAL
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement


def request(registry: Registry, workplace: Workplace, signer: Signer, proposal: Proposal) -> Standing:
    """Put a signed request on record; where nobody else must approve, the transition is made with it.

    The whole ledger is computed again before, since entries decide. Raises IntegrityError where it is not whole, and
    SignInError where the trust root does not let the officer do so.
    """
    trust = trust_root(workplace.settings)
    officer = officer_of(trust, signer.keyid)
    if proposal.approvals == 0:
        assert_may(officer, proposal.arrow.name, [proposal.adapter.classification])
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, workplace.settings, trust)
        assert_policy_as_shown(workplace.settings, proposal)
        row = enter_request(session, trust, signer, officer, proposal)
        if proposal.approvals == 0:
            make_transition(session, registry, workplace, trust, standing_of(session, workplace.settings, trust, row))
    if proposal.approvals == 0:
        follow_after_act(registry, workplace.settings, row.line, workplace.progress)
    with registry.reading() as session:
        return standing_of(session, workplace.settings, trust, row)


def decide(
    registry: Registry,
    workplace: Workplace,
    request_id: str,
    decision: Decision,
    signer: Signer,
    reason: str = "",
    *,
    now: datetime.datetime | None = None,
) -> Standing:
    """Enter what an officer decides of a request. Approvals enough make the transition, in the same transaction.

    The whole ledger is computed again before, since entries decide.

    `now`: for whether the request has expired; else the time of this machine.

    Raises ConflictError once the request has ended or was overtaken, or for a second decision of the same person, and
    SignInError for an officer who may not decide of it, the requester among them.
    """
    trust = trust_root(workplace.settings)
    officer = officer_of(trust, signer.keyid)
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, workplace.settings, trust)
        row = find_request(session, request_id)
        standing = standing_of(session, workplace.settings, trust, row, now)
        if standing.ended is not None:
            raise ConflictError(f"Request {row.id[:12]} has ended: {standing.ended}.", "Request anew.")
        _assert_may_decide(standing, officer, decision)
        statement = Statement(
            (Subject("request.sigstore.json", row.id),),
            APPROVAL,
            {"decision": decision, "request": row.id, "adapter": row.adapter_id, "reason": on_one_line(reason)},
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
            **trust_named(trust),
        }
        append(session, entry_actor(officer), DECIDED[decision], subjects)
        standing = standing_of(session, workplace.settings, trust, row, now)
        is_made = standing.ended is None and standing.is_complete
        if is_made:
            make_transition(session, registry, workplace, trust, standing)
            standing = standing_of(session, workplace.settings, trust, row, now)
    if is_made:
        follow_after_act(registry, workplace.settings, row.line, workplace.progress)
    return standing


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
    if decision == "approve" and officer.person in standing.withdrawn:
        raise ConflictError(
            f"{officer.person} withdrew their approval of request {row.id[:12]}.",
            "Another officer approves it, or it is requested anew.",
        )
    assert_may(officer, arrow_of(predicate).name, [predicate["classification"]])
