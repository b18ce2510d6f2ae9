"""What is on record: the registry and what it says, the ledger's witnesses, backups, and what is due.

A registry that is not there yet is not made. What belongs here: that. What does not: files (`pinned.py`).
"""

import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.backup.taking import CREATED
from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.commands.examination.findings import Finding, failed, wrong
from sovereign_pipeline.record.officers import trust_root

LONGEST_UNWITNESSED = datetime.timedelta(days=31)
"""So old may the oldest entry be that no witness has seen."""
LONGEST_WITHOUT_BACKUP = datetime.timedelta(days=31)
LOG = "docs/how-to/ledger.md"


def records(settings: Settings) -> list[Finding]:
    """Everything that a registry has to be there for."""
    from sovereign_pipeline.record.database import is_there

    if not is_there(settings):
        return [*flags(settings)]
    parts = (registry, recalls, reviews, mlflow, unwitnessed, backups, flags)
    return [finding for part in parts for finding in part(settings)]


def registry(settings: Settings) -> list[Finding]:
    """Whether the role that is connected may do more than a service needs. A registry that is not there is not made."""
    from sovereign_pipeline.record.database import beyond_a_service, is_there, open_registry

    if not is_there(settings):
        return []
    try:
        with open_registry(settings).engine.connect() as connection:
            is_file, found = connection.dialect.name == "sqlite", beyond_a_service(connection)
    except SovereignError as error:
        return [failed("registry", error)]
    if found:
        hint = "Connect services by a role that reads and inserts alone: docs/how-to/ledger.md."
        return [Finding("registry", False, and_more(found), {"Hint": hint})]
    where = "a file: whoever may write to it owns it" if is_file else "the role reads and inserts alone"
    return [Finding("registry", True, where)]


def recalls(settings: Settings) -> list[Finding]:
    """Each recall that still holds for an adapter. A registry that is not there yet is not made."""
    from sovereign_pipeline.record.database import is_there, open_registry
    from sovereign_pipeline.release.recall import list_recalls, question_of

    if not is_there(settings):
        return []
    try:
        with open_registry(settings).reading() as session:
            held = [(recall, adapters) for recall, adapters in list_recalls(session, settings) if adapters]
    except SovereignError as error:
        return [failed("recalls", error)]
    hint = "Retire each adapter, or let an officer waive the recall for it."
    return [
        Finding(recall.id, False, f"{question_of(recall)} is recalled and held by {and_more(adapters)}", {"Hint": hint})
        for recall, adapters in held
    ] or [Finding("recalls", True, "none holds for an adapter")]


def mlflow(settings: Settings) -> list[Finding]:
    """Whether MLflow shows what the registry says."""
    from sovereign_pipeline.record.database import is_there, open_registry
    from sovereign_pipeline.registry.mlflow_mirror import differences

    if not is_there(settings):
        return []
    try:
        found = differences(open_registry(settings), settings)
    except SovereignError as error:
        return [failed("MLflow", error)]
    if not found:
        return [Finding("MLflow", True, "shows what the registry says")]
    command = {"Command": "sovereign adapters mlflow --repair"}
    return [Finding("MLflow", False, f"differs from the registry: {and_more(found, separator='; ')}", command)]


def flags(settings: Settings) -> list[Finding]:
    """The newest change of each line's flag: whether it can be believed and evaluated."""
    from sovereign_pipeline.serving.rollout.flag import evaluator_of, lines_with_flags
    from sovereign_pipeline.serving.rollout.rollback import current_flag

    findings: list[Finding] = []
    for line in lines_with_flags(settings):
        try:
            flag = current_flag(settings, line, trust_root(settings))
            evaluator_of(flag)
        except SovereignError as error:
            findings.append(failed(f"flag of {line}", error))
        else:
            findings.append(Finding(f"flag of {line}", True, flag.in_words()))
    return findings


def reviews(settings: Settings) -> list[Finding]:
    """The line's newest adapters whose review is due."""
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.release.cadence import due_reviews

    try:
        found = due_reviews(open_registry(settings), settings, datetime.datetime.now(datetime.UTC).date())
    except SovereignError as error:
        return [failed("reviews", error)]
    late = [each for each in found if each.state != "not due"]
    hint = "Let an officer review it, or run the line again."
    return [
        wrong(f"review of {each.adapter}", f"{each.state} since {each.on}", hint, "sovereign adapters due")
        for each in late
    ] or [Finding("reviews", True, "none is due")]


def unwitnessed(settings: Settings) -> list[Finding]:
    """Since when nobody outside has seen the ledger: the oldest entry that no quorum of witnesses covers."""
    from sovereign_pipeline.record import notes, witnesses
    from sovereign_pipeline.record.database import open_registry

    path = settings.data / "trust" / "witnesses.policy"
    try:
        witnessed = 0
        if path.exists():
            note = witnesses.newest_witnessed(settings, witnesses.read_policy(path))
            witnessed = notes.parse_tree_head(note.text).size if note is not None else 0
        with open_registry(settings).reading() as session:
            since = _moment_of(session, witnessed + 1)
    except SovereignError as error:
        return [failed("witnesses", error)]
    if since is None:
        return [Finding("witnesses", True, f"every entry is witnessed, up to {witnessed}")]
    found = f"unwitnessed since {since:%Y-%m-%d} (entry {witnessed + 1})"
    if not path.exists():
        hint = f"Name witnesses in {path}: whoever owns the registry and its key can rewrite it unseen ({LOG})."
        return [wrong("witnesses", found, hint)]
    if datetime.datetime.now(datetime.UTC) - since > LONGEST_UNWITNESSED:
        return [wrong("witnesses", found, "Ask the witnesses.", "sovereign audit checkpoint --request FILE")]
    return [Finding("witnesses", True, found)]


def backups(settings: Settings) -> list[Finding]:
    """When the newest backup was taken."""
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.tables import AuditEntry

    newest = select(AuditEntry.at).where(AuditEntry.action == CREATED).order_by(AuditEntry.sequence.desc()).limit(1)
    try:
        with open_registry(settings).reading() as session:
            at = session.scalar(newest)
    except SovereignError as error:
        return [failed("backup", error)]
    command = "sovereign backup create --out DIR --recipient FILE"
    if at is None:
        return [wrong("backup", "none is on record", "Take one, onto other media.", command)]
    if datetime.datetime.now(datetime.UTC) - at > LONGEST_WITHOUT_BACKUP:
        return [wrong("backup", f"the newest is of {at:%Y-%m-%d}", "Take another, onto other media.", command)]
    return [Finding("backup", True, f"taken on {at:%Y-%m-%d}")]


def _moment_of(session: Session, sequence: int) -> datetime.datetime | None:
    from sovereign_pipeline.record.tables import AuditEntry

    return session.scalar(select(AuditEntry.at).where(AuditEntry.sequence == sequence))
