"""The changes of flags in the ledger: an entry of each, also of those that were made while the registry was down.

The transition that an officer's rollback stands for is made with its entry. What belongs here: entering, and what is
on record. What does not: making a change.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import ConflictError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.states import FLAG_CHANGED
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry
from sovereign_pipeline.registry.mlflow_states import follow_after_act
from sovereign_pipeline.release.changes import arrow_of, make_transition
from sovereign_pipeline.release.holds import enter_judgements
from sovereign_pipeline.release.requests import assert_still_so, enter_signed_request
from sovereign_pipeline.release.standing import standing_of
from sovereign_pipeline.serving.flags.files import Change, read_change, sequences, verified_flag
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.flags.in_force import SeenChange
from sovereign_pipeline.signing.officers import OFFICER, assert_may, officer_of
from sovereign_pipeline.signing.predicates import REQUEST
from sovereign_pipeline.signing.statements import signed_by, verify_statement
from sovereign_pipeline.signing.trust import Trust

OVERTAKEN = "overtaken"
"""In the entry of a change whose transition was not made, since others decided meanwhile."""


def on_record(session: Session) -> dict[str, SeenChange]:
    """Line -> the newest change of its flag that the ledger has."""
    query = select(AuditEntry.subjects).where(AuditEntry.action == FLAG_CHANGED).order_by(AuditEntry.sequence)
    return {
        each["line"]: SeenChange(sequence=each["change"], sha256=each["statement"]) for each in session.scalars(query)
    }


def catch_up(registry: Registry, workplace: Workplace, trust: Trust) -> list[Flag]:
    """Enter every change of the line's flag that has no entry yet, the oldest first, and then every judgement of a
    hold. Returns the changes.

    Raises IntegrityError for a change that was not signed as it says, or differs from its entry, and what making a
    transition raises.
    """
    settings, line = workplace.settings, workplace.line.line
    entered: list[Flag] = []
    with registry.reading() as session:
        newest = on_record(session).get(line)
    for sequence in sequences(settings, line):
        if newest is not None and sequence < newest.sequence:
            continue
        if newest is not None and sequence == newest.sequence:
            _assert_is_on_record(settings, line, newest)
            continue
        change = read_change(settings, line, sequence)
        flag = verified_flag(change, line, trust)
        enter(registry, workplace, trust, change, flag)
        entered.append(flag)
    enter_judgements(registry, settings, line, trust)
    return entered


def _assert_is_on_record(settings: Settings, line: str, newest: SeenChange) -> None:
    """Raise IntegrityError where there is another change with the number; a damaged one is written anew."""
    try:
        change = read_change(settings, line, newest.sequence)
    except IntegrityError:
        return
    if change.sha256 != newest.sha256:
        raise IntegrityError(
            f"The flag of line {line}: change {newest.sequence} is not the one that the audit log has.",
            "Find out who changed it. Remove it, and have the flag written anew.",
        )


def enter(registry: Registry, workplace: Workplace, trust: Trust, change: Change, flag: Flag) -> None:
    """Enter one change, and make the transition that the request beside it asks for."""
    with registry.writing() as session:
        told = told_of(change, flag)
        if change.request is not None:
            told |= _make_transition(session, registry, workplace, trust, change.request, flag)
        append(session, f"pipeline:{signed_by(change.signature)}", FLAG_CHANGED, told)
    if change.request is not None and OVERTAKEN not in told:
        follow_after_act(registry, workplace.settings, flag.line, workplace.progress)


def _make_transition(
    session: Session, registry: Registry, workplace: Workplace, trust: Trust, bundle: bytes, flag: Flag
) -> Mapping[str, Any]:
    """Put an officer's request on record and make its transition; where others decided since, say that alone."""
    officer = officer_of(trust, signed_by(bundle))
    adapter = _adapter_of(session, bundle, trust, flag)
    row = enter_signed_request(session, trust, officer, adapter, _arrow(bundle, trust, adapter), bundle)
    standing = standing_of(session, workplace.settings, trust, row)
    assert_may(officer, arrow_of(standing.predicate).name, [adapter.classification])
    if not standing.is_complete:
        raise ConflictError(
            f"Request {row.id[:12]} needs {standing.needed} approvals, and a rollback has none.",
            "Approve it.",
        )
    try:
        assert_still_so(session, row, standing.predicate, adapter)
    except ConflictError as error:
        return {OVERTAKEN: error.message}
    make_transition(session, registry, workplace, trust, standing)
    return {}


def _arrow(bundle: bytes, trust: Trust, adapter: Adapter) -> Any:
    verified = verify_statement(bundle, trust, OFFICER, predicate_type=REQUEST, sha256=adapter.record_manifest_sha256)
    return arrow_of(verified.statement.predicate)


def _adapter_of(session: Session, bundle: bytes, trust: Trust, flag: Flag) -> Adapter:
    """The adapter that a request is about. Raises IntegrityError where it is none that the flag names."""
    for name, named in flag.adapters.items():
        adapter = session.get(Adapter, name)
        if adapter is None or adapter.record_manifest_sha256 != named.record_manifest:
            continue
        try:
            verify_statement(bundle, trust, OFFICER, predicate_type=REQUEST, sha256=named.record_manifest)
        except IntegrityError:
            continue
        return adapter
    raise IntegrityError(
        f"The flag of line {flag.line}, change {flag.sequence}: the request beside it is about none of its adapters.",
        "Find out who wrote it.",
    )


def told_of(change: Change, flag: Flag) -> dict[str, Any]:
    """What the entry of a change says of it."""
    return {
        "line": flag.line,
        "change": flag.sequence,
        "statement": change.sha256,
        "production": flag.production,
        "staged": flag.staged,
        "staged_by": flag.staged_by,
        "began": flag.began,
        "share": f"{flag.share:g}",
        "groups": list(flag.groups),
        "stopped": flag.stopped,
        "cause": flag.cause,
        "reason": flag.reason,
        "evaluator": flag.evaluator,
        "request": flag.request,
        "made_at": flag.at.isoformat(),
    }
