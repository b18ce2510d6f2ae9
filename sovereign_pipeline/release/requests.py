"""Asking that an adapter changes its state: what exactly is asked, on what evidence, signed by the officer who asks.

What belongs here: composing a request, and entering it. What does not: what others decide of it (`decisions.py`), and
the change itself (`changes.py`).
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.gates import passing_verdict
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import ConflictError, GateRefused, InputError, NotFoundError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.catalog import find_adapter, waivers_of
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.in_force import rules_digest, trust_named
from sovereign_pipeline.ledger.states import REQUESTED, State, in_production, state_of
from sovereign_pipeline.ledger.tables import Adapter, ReleaseRequest
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline.release.holds import hold_evidence
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.transitions import Arrow, arrow
from sovereign_pipeline.review.stages import BLIND_REVIEW
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import Officer, entry_actor
from sovereign_pipeline.signing.officers_words import on_one_line
from sovereign_pipeline.signing.predicates import REQUEST
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement
from sovereign_pipeline.signing.trust import Trust

FEWEST_DIGITS = 4
"""Of an id, by which a request is named. Fewer may fit the only one there is, whichever was meant."""
_DIGITS = re.compile(f"[0-9a-f]{{{FEWEST_DIGITS},64}}")


@dataclass(frozen=True)
class Proposal:
    """What would be asked, before anybody signs it."""

    adapter: Adapter
    arrow: Arrow
    before: State
    incumbent: str | None
    """What is in production for the line, and would be superseded or compared with."""
    evidence: Mapping[str, Any]
    """Digests of what the request rests on."""
    approvals: int
    """How many officers besides the requester must approve."""
    policy: Mapping[str, str]
    """The rules under which it is asked: file -> SHA-256."""
    reason: str
    expires: datetime.datetime

    def predicate(self) -> dict[str, Any]:
        """The content of the signed statement."""
        return {
            "line": self.adapter.line,
            "adapter": self.adapter.id,
            "classification": self.adapter.classification,
            "transition": self.arrow.name,
            "from": self.before,
            "to": self.arrow.after,
            "incumbent": self.incumbent,
            "evidence": dict(self.evidence),
            "approvals": self.approvals,
            "policy": dict(self.policy),
            "reason": self.reason,
            "expires": self.expires.isoformat(),
        }


def propose(
    registry: Registry, workplace: Workplace, adapter_id: str, transition: str, reason: str, now: datetime.datetime
) -> Proposal:
    """Compose a request, and assert all that can be asserted before officers are asked.

    Raises NotFoundError for an unknown adapter, ConflictError where its state or a recall does not allow it,
    GateRefused without a passed blind review where one is needed, IntegrityError when a byte changed, and InputError
    without a reason.
    """
    if not reason.strip():
        raise InputError("A request needs a reason.", "Say why; it is shown wherever the adapter is.")
    adapter = find_adapter(registry, adapter_id)
    with registry.reading() as session:
        before, incumbent = state_of(session, adapter), in_production(session, adapter.line)
        asked = arrow(transition, adapter_id, before)
        assert_not_recalled(session, registry.settings, adapter, asked)
    if asked.needs_evidence:
        verify_adapter(registry, workplace.store, workplace.settings, adapter_id, workplace.progress)
    rules = workplace.institution.release
    return Proposal(
        adapter=adapter,
        arrow=asked,
        before=before,
        incumbent=incumbent,
        evidence=evidence_of(workplace, registry, adapter, asked),
        approvals=rules.approvals_for(asked.name, adapter.classification),
        policy=rules_digest(workplace.settings, adapter.line),
        reason=on_one_line(reason),
        expires=(now + datetime.timedelta(days=rules.request_days)).replace(microsecond=0),
    )


def evidence_of(workplace: Workplace, registry: Registry, adapter: Adapter, asked: Arrow) -> dict[str, Any]:
    """What a transition rests on, by digest. Raises GateRefused where a blind review is needed and did not pass,
    and for a promotion whose hold does not let it through."""
    evidence: dict[str, Any] = {
        "record": adapter.record_digest,
        "adapter": adapter.adapter_digest,
        "evaluation_report": adapter.evaluation_report_digest,
        "gates": len(adapter.gate_records),
        "waivers": sorted(each["digest"] for each in waivers_of(adapter)),
    }
    if asked.needs_evidence:
        evidence["blind_review"] = _blind_review(workplace, registry, adapter)
    if asked.name == "promote":
        evidence["hold"] = hold_evidence(registry, workplace, adapter)
    return evidence


def enter_request(
    session: Session, trust: Trust, signer: Signer, officer: Officer, proposal: Proposal
) -> ReleaseRequest:
    """Sign a proposal and put it on record, in the caller's transaction."""
    adapter = proposal.adapter
    statement = Statement(
        (Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256),), REQUEST, proposal.predicate()
    )
    return enter_signed_request(session, trust, officer, adapter, proposal.arrow, sign_statement(signer, statement))


def enter_signed_request(
    session: Session, trust: Trust, officer: Officer, adapter: Adapter, asked: Arrow, bundle: bytes
) -> ReleaseRequest:
    """Put a request on record that an officer has signed, in the caller's transaction."""
    row = ReleaseRequest(
        id=hashlib.sha256(bundle).hexdigest(),
        line=adapter.line,
        adapter_id=adapter.id,
        transition=asked.name,
        entered_at=datetime.datetime.now(datetime.UTC),
        statement=bundle,
    )
    session.add(row)
    session.flush()
    subjects = {
        "line": adapter.line,
        "adapter": adapter.id,
        "transition": asked.name,
        "request": row.id,
        **trust_named(trust),
    }
    append(session, entry_actor(officer), REQUESTED, subjects)
    return row


def find_request(session: Session, request: str) -> ReleaseRequest:
    """A request by its id or the first digits of it.

    Raises InputError for fewer digits than tell requests apart, and NotFoundError for none or several.
    """
    if not _DIGITS.fullmatch(request):
        raise InputError(f"'{request[:64]}' is no request's id.", f"Give its first {FEWEST_DIGITS} digits or more.")
    found = list(session.scalars(select(ReleaseRequest).where(ReleaseRequest.id.startswith(request, autoescape=True))))
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} requests begin with" if found else "There is no request"
    raise NotFoundError(f"{problem} '{request}'.", "Give its id, or more digits of it.")


def _blind_review(workplace: Workplace, registry: Registry, adapter: Adapter) -> str | None:
    """Digest of the blind review that these weights passed, or whose gate an officer waived."""
    ref = workplace.store.current(adapter.line, BLIND_REVIEW.kind)
    reviewed = None
    if ref is not None:
        reviewed = find_adapter(registry, workplace.store.read_manifest(ref).summary["adapter"])
    if ref is None or reviewed is None or reviewed.adapter_sha256 != adapter.adapter_sha256:
        if workplace.institution.release.blind_review == "not_required":
            return None
        raise GateRefused(
            f"{adapter.id}: there is no result of a blind review of it.",
            "Open a review, close it once it is rated, and let its result be materialized.",
            act="open_review",
            line=adapter.line,
        )
    for gate in BLIND_REVIEW.gates:
        passing_verdict(BLIND_REVIEW, gate, workplace, ref)
    return ref.digest


def assert_not_recalled(session: Session, settings: Settings, adapter: Adapter, asked: Arrow) -> None:
    """Raises ConflictError where an open recall forbids a transition."""
    recalls = [each.id for each in open_recalls(session, settings, adapter.id)] if asked.stops_at_recall else []
    if recalls:
        raise ConflictError(
            f"{adapter.id} is under {' and '.join(recalls)}, so there is no '{asked.name}'.",
            "Retrain it without what was recalled and retire it, or let an officer waive the recall.",
        )


def assert_policy_as_shown(settings: Settings, proposal: Proposal) -> None:
    """Raises ConflictError where the rules were changed since the proposal was shown."""
    if rules_digest(settings, proposal.adapter.line) != proposal.policy:
        raise ConflictError("The institution's rules were changed since this was shown.", "Request it again.")


def assert_still_so(session: Session, request: ReleaseRequest, predicate: Mapping[str, Any], adapter: Adapter) -> None:
    """Assert that a request is about the state of now. Raises ConflictError once it is overtaken."""
    before, incumbent = state_of(session, adapter), in_production(session, adapter.line)
    if (before, incumbent) != (predicate["from"], predicate["incumbent"]):
        raise ConflictError(
            f"Request {request.id[:12]} was made when {adapter.id} was {predicate['from']} and "
            f"{predicate['incumbent'] or 'nothing'} was in production; now it is {before}, and "
            f"{incumbent or 'nothing'} is in production.",
            "Request anew.",
        )
