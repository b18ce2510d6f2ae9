"""Request transitions of adapters, decide requests, and make a transition once enough officers have approved it."""

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import (
    ConflictError,
    GateRefused,
    InputError,
    IntegrityError,
    NotFoundError,
    SignInError,
)
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import catalog, officers
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.gates import passing_verdict
from sovereign_pipeline.record.in_force import assert_in_force, rules_digest, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.statements import (
    APPROVAL,
    REQUEST,
    TRANSITION,
    Statement,
    Subject,
    sign_statement,
    signed_by,
    verify_statement,
)
from sovereign_pipeline.record.tables import Adapter, AuditEntry, ReleaseDecision, ReleaseRequest, Transition
from sovereign_pipeline.record.trust_root import Trust, TrustedKey
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.registry.mlflow_mirror import follow_after_act
from sovereign_pipeline.registry.registration import REGISTERED_ADAPTER
from sovereign_pipeline.registry.verification import assert_waivers_count, verify_adapter
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.standing import (
    DECIDED,
    SUPERSEDE,
    Arrow,
    Decision,
    Standing,
    arrow,
    rules_on_record,
    standing_of,
)
from sovereign_pipeline.release.trial import evidence_of_urgency, hold_evidence
from sovereign_pipeline.review.acts import find_open
from sovereign_pipeline.review.stages import blind_review_stage, reviews_of

BLIND_REVIEW = blind_review_stage(REGISTERED_ADAPTER)

FEWEST_DIGITS = 4
"""Minimum length of an id prefix that selects a request. A shorter prefix could match another request by accident."""
_DIGITS = re.compile(f"[0-9a-f]{{{FEWEST_DIGITS},64}}")


@dataclass(frozen=True)
class Proposal:
    """A request before it is signed."""

    adapter: Adapter
    arrow: Arrow
    predicate: Mapping[str, Any]
    """The content of the signed statement."""

    @property
    def approvals(self) -> int:
        return int(self.predicate["approvals"])


def propose(
    registry: Registry, workplace: Workplace, adapter_id: str, transition: str, reason: str, now: datetime.datetime
) -> Proposal:
    """Compose a request, and run every check that is possible before officers approve it.

    Raises InputError for an empty reason or an unknown transition, and NotFoundError for an unknown adapter. Raises
    ConflictError if the adapter's state or an open recall forbids the transition, and GateRefused if the blind review
    or the trial forbids it. Raises IntegrityError if a file of the adapter or its inputs changed.
    """
    if not reason.strip():
        raise InputError("A request needs a reason.", "Give a reason; every page about the adapter shows it.")
    adapter = catalog.find_adapter(registry, adapter_id)
    with registry.reading() as session:
        before, incumbent = catalog.state_and_incumbent(session, adapter)
        asked = arrow(transition, adapter_id, before)
        assert_not_recalled(session, registry.settings, adapter, asked)
    if asked.needs_evidence:
        verify_adapter(registry, workplace.store, workplace.settings, adapter_id, workplace.progress)
    expires = (now + datetime.timedelta(days=workplace.institution.release.request_days)).replace(microsecond=0)
    content = unsigned_request(registry, workplace, adapter, asked, before, incumbent)
    return Proposal(adapter, asked, {**content, "reason": officers.on_one_line(reason), "expires": expires.isoformat()})


def unsigned_request(
    registry: Registry,
    workplace: Workplace,
    adapter: Adapter,
    asked: Arrow,
    before: catalog.State,
    incumbent: str | None,
) -> dict[str, Any]:
    """Return the content of a request without its reason and expiry. Raises the errors of `evidence_of`.

    Args:
        incumbent: id of the line's adapter in production, or None. The candidate is compared with this adapter.
    """
    return {
        "line": adapter.line,
        "adapter": adapter.id,
        "classification": adapter.classification,
        "transition": asked.name,
        "from": before,
        "to": asked.after,
        "incumbent": incumbent,
        "evidence": evidence_of(workplace, registry, adapter, asked),
        "approvals": workplace.institution.release.approvals_for(asked.name, adapter.classification, before),
        "policy": dict(workplace.rules),
    }


def evidence_of(workplace: Workplace, registry: Registry, adapter: Adapter, asked: Arrow) -> dict[str, Any]:
    """Return the evidence for a transition, mostly as digests of artifacts. Raises GateRefused if a required blind
    review is missing, is open or did not pass, or if the trial does not allow the promotion. Raises ConflictError for
    an urgent promotion if the trial allows an ordinary one."""
    evidence: dict[str, Any] = {
        "record": adapter.record_digest,
        "adapter": adapter.adapter_digest,
        "evaluation_report": adapter.evaluation_report_digest,
        "gates": len(adapter.gate_records),
        "waivers": sorted(each["digest"] for each in catalog.waivers_of(adapter)),
    }
    if asked.needs_evidence:
        evidence["blind_review"] = _blind_review(workplace, registry, adapter)
    if asked.name == "promote":
        evidence["hold"] = hold_evidence(registry, workplace, adapter)
    if asked.name == catalog.URGENT:
        evidence["hold"] = evidence_of_urgency(registry, workplace, adapter)
    return evidence


def enter_signed_request(
    session: Session, trust: Trust, officer: TrustedKey, adapter: Adapter, asked: Arrow, bundle: bytes
) -> ReleaseRequest:
    """Add an officer's signed request to the registry and the ledger, in the caller's transaction."""
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
    append(session, officers.actor_of(officer.keyid), catalog.REQUESTED, subjects)
    return row


def find_request(session: Session, request: str) -> ReleaseRequest:
    """Return the request with this id or id prefix. Raises InputError for a prefix that is too short or not
    hexadecimal, and NotFoundError unless exactly one request matches."""
    if not _DIGITS.fullmatch(request):
        raise InputError(
            f"'{request[:64]}' is not the id of a request.",
            f"Give the first {FEWEST_DIGITS} digits of the id, or more.",
        )
    found = list(session.scalars(select(ReleaseRequest).where(ReleaseRequest.id.startswith(request, autoescape=True))))
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} request ids begin with" if found else "There is no request"
    raise NotFoundError(f"{problem} '{request}'.", "Give the complete id, or a longer prefix.")


def enter_rollback(
    session: Session,
    registry: Registry,
    workplace: Workplace,
    trust: Trust,
    bundle: bytes,
    records: Mapping[str, str],
) -> str | None:
    """Log a rollback that an officer signed while the registry was down, and make its transition.

    Args:
        bundle: the officer's signed request.
        records: mapping of the id of each permitted adapter to the SHA-256 of its record's manifest.

    Returns None if the transition was made. Otherwise returns a message with the reason. For example, the adapter to
    restore was recalled, the rules changed, or the officer's key was revoked. Raises IntegrityError if the request is
    not validly signed, or is not about one of the permitted adapters. Also raises the errors of `make_transition`.
    """
    assert_in_force(session, workplace.settings, trust)
    officer = trust.key(officers.OFFICER, signed_by(bundle))
    if officer.revoked_from is not None:
        return f"The officer's key {officer.keyid} is revoked."
    adapter, predicate = _requested(session, trust, bundle, records)
    asked, levels = arrow_of(predicate), [adapter.classification, predicate["classification"]]
    if not all(officer.allows(asked.name, level) for level in levels):
        return f"The officer with the key {officer.keyid} does not have the permission '{asked.name}'."
    rules = rules_on_record(session, registry.settings)
    needed = max(predicate["approvals"], rules.approvals_for(None, asked.name, levels, predicate["from"]))
    if needed:
        return f"'{asked.name}' needs {needed} approvals, but this rollback has none."
    row = enter_signed_request(session, trust, officer, adapter, asked, bundle)
    standing = standing_of(session, workplace.settings, trust, row)
    try:
        assert_still_so(session, row, standing.predicate, adapter)
        assert_not_recalled(session, registry.settings, adapter, asked)
    except ConflictError as error:
        return error.message
    try:
        _assert_waivers_count(registry, workplace, adapter, asked)
    except IntegrityError:
        return f"A gate of {adapter.id} was waived, but the waiver is not valid."
    make_transition(session, registry, workplace, trust, standing)
    return None


def _requested(
    session: Session, trust: Trust, bundle: bytes, records: Mapping[str, str]
) -> tuple[Adapter, Mapping[str, Any]]:
    """Return the adapter and the content of an officer's signed request. Raises IntegrityError if the request is not
    about one of the adapters in `records`."""
    for name, record_manifest in records.items():
        adapter = session.get(Adapter, name)
        if adapter is None or adapter.record_manifest_sha256 != record_manifest:
            continue
        try:
            verified = verify_statement(bundle, trust, officers.OFFICER, predicate_type=REQUEST, sha256=record_manifest)
        except IntegrityError:
            continue
        return adapter, verified.statement.predicate
    raise IntegrityError(
        f"A flag contains an officer's request that is not about {' or '.join(records)}.",
        "Find out who wrote the request.",
    )


def _blind_review(workplace: Workplace, registry: Registry, adapter: Adapter) -> str | None:
    """Return the digest of the result of the newest blind review of the adapter's weights. Returns None if there is no
    review and the rules require none. Raises GateRefused if the review is open, has no result yet, is required but
    missing, or did not pass and was not waived.

    The registry determines which review is the newest. The store's index is used only to locate that review's result.
    """
    line, closed, store = adapter.line, reviews_of(registry, adapter), workplace.store
    made = [(store.read_manifest(ref), ref) for ref in store.indexed(BLIND_REVIEW.kind) if ref.line == line]
    with registry.reading() as session:
        opened = find_open(session, line)
        in_review = session.get_one(Adapter, opened.adapter_id).adapter_sha256 if opened is not None else None
    if in_review == adapter.adapter_sha256:
        raise GateRefused(f"{adapter.id}: its blind review is open.", "Close the review once its pairs are rated.")
    if closed is None:
        if workplace.institution.release.blind_review == "not_required":
            return None
        raise GateRefused(
            f"{adapter.id}: this adapter has no blind review result.",
            "Open a review, close it once it is rated, and materialize its result.",
            act="open_review",
            line=line,
        )
    found = [(each.circumstances.created_at, ref) for each, ref in made if each.external_inputs == closed.digests()]
    if not found:
        raise GateRefused(
            f"{adapter.id}: its newest blind review has no result yet.", "Materialize blind_review, and try again."
        )
    _, ref = max(found, key=lambda each: each[0])
    for gate in BLIND_REVIEW.gates:
        passing_verdict(BLIND_REVIEW, gate, workplace, ref)
    return ref.digest


def assert_not_recalled(session: Session, settings: Settings, adapter: Adapter, asked: Arrow) -> None:
    recalls = [each.id for each in open_recalls(session, settings, adapter.id)] if asked.stops_at_recall else []
    if recalls:
        raise ConflictError(
            f"{adapter.id} is under {' and '.join(recalls)}, so '{asked.name}' is not allowed.",
            "Train a version without the recalled content and retire this one, or have an officer waive the recall.",
        )


def _assert_waivers_count(registry: Registry, workplace: Workplace, adapter: Adapter, asked: Arrow) -> None:
    if asked.stops_at_recall:  # other transitions only withdraw the adapter
        assert_waivers_count(registry, workplace.store, adapter)


def assert_still_so(session: Session, request: ReleaseRequest, predicate: Mapping[str, Any], adapter: Adapter) -> None:
    """Raise ConflictError if the adapter's state, or the line's adapter in production, is not as in the request."""
    before, incumbent = catalog.state_and_incumbent(session, adapter)
    if (before, incumbent) != (predicate["from"], predicate["incumbent"]):
        raise ConflictError(
            f"Request {request.id[:12]} was made when {adapter.id} was {predicate['from']} and "
            f"{predicate['incumbent'] or 'nothing'} was in production; now the adapter is {before}, and "
            f"{incumbent or 'nothing'} is in production.",
            "Request the transition again.",
        )


KEY_CHANGED = "pipeline key changed"
"""Action of the ledger entry before the first transition that a new pipeline key signs."""


def make_transition(
    session: Session, registry: Registry, workplace: Workplace, trust: Trust, standing: Standing
) -> None:
    """Make the transition of an approved request. A promotion or rollback also supersedes the adapter in production.
    Raises ConflictError if states, recalls, required approvals or evidence changed since the request, or if the adapter
    has not been staged long enough. Raises IntegrityError if the adapter's artifacts or waivers are invalid. Raises the
    errors of `evidence_of`."""
    row, predicate = standing.request, standing.predicate
    adapter = session.get_one(Adapter, row.adapter_id)
    assert_still_so(session, row, predicate, adapter)
    asked = arrow_of(predicate)
    assert_not_recalled(session, registry.settings, adapter, asked)
    _assert_waivers_count(registry, workplace, adapter, asked)
    _assert_enough_by_the_rules_of_now(session, registry, standing, asked, adapter)
    if evidence_of(workplace, registry, adapter, asked) != predicate["evidence"]:
        raise ConflictError(
            f"The evidence that request {row.id[:12]} is based on has changed.",
            "Read the new evidence, and request the transition again.",
        )
    for digest in (adapter.record_digest, adapter.adapter_digest):
        workplace.store.open(workplace.store.ref_of(digest))
    before = catalog.transitions_of(session, adapter.line)
    assert_staged_long_enough(workplace, asked, before, adapter)
    signer, approvals = officers.pipeline_signer(workplace.settings, trust), list(standing.approval_statements)
    incumbent = predicate["incumbent"] if asked.takes_production else None
    _note_new_key(session, signer.keyid)
    moves: list[tuple[Adapter, str, catalog.State, catalog.State]] = []
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
        append(session, f"pipeline:{signer.keyid}", catalog.STATE_CHANGED, catalog.facts_of(made))


def _note_new_key(session: Session, keyid: str) -> None:
    """Add a ledger entry if the pipeline key differs from the key in the newest such entry, or if there is none."""
    query = select(AuditEntry).where(AuditEntry.action == KEY_CHANGED).order_by(AuditEntry.sequence.desc()).limit(1)
    last = session.scalars(query).one_or_none()
    before = last.subjects["key"] if last is not None else None
    if keyid != before:
        append(session, f"pipeline:{keyid}", KEY_CHANGED, {"key": keyid, "before": before})


def arrow_of(predicate: Mapping[str, Any]) -> Arrow:
    return arrow(predicate["transition"], predicate["adapter"], predicate["from"])


def _assert_enough_by_the_rules_of_now(
    session: Session, registry: Registry, standing: Standing, asked: Arrow, adapter: Adapter
) -> None:
    """Raise ConflictError if a request states a wrong level or fewer approvals than today's rules require. The
    requester wrote both values, so the check uses the registry and the rules in the ledger."""
    rules = rules_on_record(session, registry.settings)
    needed = rules.approvals_for(None, asked.name, [adapter.classification], standing.predicate["from"])
    stated = (standing.predicate["classification"], standing.predicate["approvals"])
    if stated[0] != adapter.classification or stated[1] < needed:
        raise ConflictError(
            f"Request {standing.request.id[:12]} was made for {stated[1]} approvals at {stated[0]}, but "
            f"'{asked.name}' needs {needed} approvals at {adapter.classification}.",
            "Request the transition again.",
        )


def assert_staged_long_enough(
    workplace: Workplace, asked: Arrow, before: Sequence[Transition], adapter: Adapter
) -> None:
    """Raise ConflictError for a promotion if the adapter has not been staged for the required hours."""
    hours = workplace.institution.release.staged_hours
    if asked.name not in ("promote", catalog.URGENT) or not hours:
        return
    staged = [each.made_at for each in before if each.adapter_id == adapter.id and each.after == "staged"][-1]
    ready = staged + datetime.timedelta(hours=hours)
    if datetime.datetime.now(datetime.UTC) < ready:
        raise ConflictError(
            f"{adapter.id} was staged at {staged:%Y-%m-%d %H:%M} UTC. It must stay staged for {hours} hours before it "
            "can be promoted.",
            f"Approve it after {ready:%Y-%m-%d %H:%M} UTC.",
        )


def request(registry: Registry, workplace: Workplace, signer: Signer, proposal: Proposal) -> Standing:
    """Record a signed request. If no other officer must approve it, make the transition too.

    The whole ledger is verified first, because the decision depends on its entries. Raises IntegrityError if the ledger
    is invalid, and ConflictError if the rules changed since the workplace was opened. If no other officer must approve,
    raises SignInError if the officer lacks the permission, and the errors of `make_transition`.
    """
    trust, adapter = officers.trust_root(workplace.settings), proposal.adapter
    officer = officers.officer_of(trust, signer.keyid)
    if proposal.approvals == 0:
        officers.assert_may(officer, proposal.arrow.name, [adapter.classification])
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, workplace.settings, trust)
        _assert_rules_as_read(workplace)
        subject = Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256)
        bundle = sign_statement(signer, Statement((subject,), REQUEST, proposal.predicate))
        row = enter_signed_request(session, trust, officer, adapter, proposal.arrow, bundle)
        if proposal.approvals == 0:
            make_transition(session, registry, workplace, trust, standing_of(session, workplace.settings, trust, row))
    if proposal.approvals == 0:
        follow_after_act(registry, workplace.settings, row.line, workplace.progress)
    with registry.reading() as session:
        return standing_of(session, workplace.settings, trust, row)


def _assert_rules_as_read(workplace: Workplace) -> None:
    """Raise ConflictError if the rules or the recipe changed since the workplace was opened."""
    if rules_digest(workplace.settings, workplace.line.line) != workplace.rules:
        raise ConflictError("The institution's rules changed after the request was shown.", "Repeat the command.")


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
    """Record an officer's decision about a request. The last necessary approval makes the transition in the same
    transaction.

    The whole ledger is verified first, because the decision depends on its entries. Raises IntegrityError if the ledger
    is invalid. Also raises the errors of `make_transition`.

    Args:
        now: time for the expiry check; the current time if None.

    Raises:
        ConflictError: the request is closed or outdated, the officer has already approved or withdrawn, the officer has
            no decision to withdraw, or the rules changed since the workplace was opened.
        SignInError: the officer may not decide about the request. A requester may not approve their own request.
        NotFoundError: no request, or more than one, has this id or prefix.
    """
    trust = officers.trust_root(workplace.settings)
    officer = officers.officer_of(trust, signer.keyid)
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, workplace.settings, trust)
        _assert_rules_as_read(workplace)
        row = find_request(session, request_id)
        standing = standing_of(session, workplace.settings, trust, row, now)
        if standing.ended is not None:
            raise ConflictError(f"Request {row.id[:12]} is closed: {standing.ended}.", "Request the transition again.")
        _assert_may_decide(standing, officer, decision)
        statement = Statement(
            (Subject("request.sigstore.json", row.id),),
            APPROVAL,
            {
                "decision": decision,
                "request": row.id,
                "adapter": row.adapter_id,
                "reason": officers.on_one_line(reason),
            },
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
        append(session, officers.actor_of(officer.keyid), DECIDED[decision], subjects)
        standing = standing_of(session, workplace.settings, trust, row, now)
        is_made = standing.ended is None and standing.is_complete
        if is_made:
            make_transition(session, registry, workplace, trust, standing)
            standing = standing_of(session, workplace.settings, trust, row, now)
    if is_made:
        follow_after_act(registry, workplace.settings, row.line, workplace.progress)
    return standing


def _assert_may_decide(standing: Standing, officer: TrustedKey, decision: Decision) -> None:
    row, predicate = standing.request, standing.predicate
    is_requester = officer.person == standing.requester.person
    approved = {each.person for each in standing.approvals}
    if decision == "withdraw":
        if not is_requester and officer.person not in approved:
            raise ConflictError(
                f"{officer.person} has made no decision about request {row.id[:12]} that can be withdrawn."
            )
        return
    if decision == "approve" and is_requester:
        raise SignInError(
            f"{officer.person} made request {row.id[:12]}, and nobody may approve their own request.",
            "Have another officer approve it.",
        )
    if decision == "approve" and officer.person in approved:
        raise ConflictError(f"{officer.person} has already approved request {row.id[:12]}.")
    if decision == "approve" and officer.person in standing.withdrawn:
        raise ConflictError(
            f"{officer.person} has withdrawn their approval of request {row.id[:12]}.",
            "Have another officer approve it, or request the transition again.",
        )
    officers.assert_may(officer, arrow_of(predicate).name, [predicate["classification"]])
