"""Making a transition of a request that enough officers approved, in the transaction of the last approval.

What belongs here: what is asserted once more before the change, and the signed rows. What does not: how far a request
is (`standing.py`).
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import ConflictError
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import assert_on_record
from sovereign_pipeline.ledger.states import STATE_CHANGED, State, facts_of, transitions_of
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, Transition
from sovereign_pipeline.release.requests import assert_not_recalled, assert_still_so, evidence_of
from sovereign_pipeline.release.rules_on_record import rules_on_record
from sovereign_pipeline.release.standing import Standing
from sovereign_pipeline.release.transitions import SUPERSEDE, Arrow, arrow
from sovereign_pipeline.signing.officers import pipeline_signer
from sovereign_pipeline.signing.predicates import TRANSITION
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement
from sovereign_pipeline.signing.trust import Trust

KEY_CHANGED = "pipeline key changed"
"""Action of the entry before the first transition that a key signs."""


def make_transition(
    session: Session, registry: Registry, workplace: Workplace, trust: Trust, standing: Standing
) -> None:
    """Make the transition of a complete request, and supersede what it takes production from."""
    row, predicate = standing.request, standing.predicate
    adapter = session.get_one(Adapter, row.adapter_id)
    assert_on_record(session, adapter)
    assert_still_so(session, row, predicate, adapter)
    asked = arrow_of(predicate)
    assert_not_recalled(session, registry.settings, adapter, asked)
    _assert_enough_by_the_rules_of_now(session, registry, standing, asked, adapter)
    if evidence_of(workplace, registry, adapter, asked) != predicate["evidence"]:
        raise ConflictError(
            f"Request {row.id[:12]} rests on other evidence than there is now.", "Look at it, and request anew."
        )
    for digest in (adapter.record_digest, adapter.adapter_digest):
        workplace.store.open(workplace.store.ref_of(digest))
    before = transitions_of(session, adapter.line)
    assert_staged_long_enough(workplace, asked, before, adapter)
    signer, approvals = pipeline_signer(workplace.settings, trust), list(standing.approval_statements)
    incumbent = predicate["incumbent"] if asked.takes_production else None
    _note_new_key(session, signer.keyid)
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


def _note_new_key(session: Session, keyid: str) -> None:
    """Enter that transitions are signed with another key from here on than the last one was."""
    query = select(AuditEntry).where(AuditEntry.action == KEY_CHANGED).order_by(AuditEntry.sequence.desc()).limit(1)
    last = session.scalars(query).one_or_none()
    before = last.subjects["key"] if last is not None else None
    if keyid != before:
        append(session, f"pipeline:{keyid}", KEY_CHANGED, {"key": keyid, "before": before})


def arrow_of(predicate: Mapping[str, Any]) -> Arrow:
    """The arrow that a request asks for."""
    return arrow(predicate["transition"], predicate["adapter"], predicate["from"])


def _assert_enough_by_the_rules_of_now(
    session: Session, registry: Registry, standing: Standing, asked: Arrow, adapter: Adapter
) -> None:
    """What a request says of itself is its requester's word. The rules of now are on record since the transaction's
    first entry; those that this process has read may be older."""
    rules = rules_on_record(session, registry.settings)
    needed = rules.approvals_for(None, asked.name, [adapter.classification])
    stated = (standing.predicate["classification"], standing.predicate["approvals"])
    if stated[0] != adapter.classification or stated[1] < needed:
        raise ConflictError(
            f"Request {standing.request.id[:12]} was made for {stated[1]} approvals at {stated[0]}, and '{asked.name}' "
            f"needs {needed} at {adapter.classification}.",
            "Request anew.",
        )


def assert_staged_long_enough(
    workplace: Workplace, asked: Arrow, before: Sequence[Transition], adapter: Adapter
) -> None:
    """Raises ConflictError for the promotion of an adapter that was staged for fewer hours than the rules ask for."""
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
