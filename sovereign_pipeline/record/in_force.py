"""Log changes of rules, recipes and trust root in the ledger, and reject an older or unrelated trust root."""

import datetime
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.files import write_atomically
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import checkpoints, tree
from sovereign_pipeline.record.audit_log import BEFORE_THE_FIRST, REGISTERED, append
from sovereign_pipeline.record.officers import OFFICER, TRUST, People, actor_of
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.trust_root import Trust

POLICY_CHANGED, COPY_FILLED = "policy changed", "second copy filled"
TRUST_NAMED, TRUST_CHANGED, TRUST_REPLACED = "trust root named", "trust changed", "trust root replaced"
OF_TRUST = (TRUST_NAMED, TRUST_CHANGED, TRUST_REPLACED)
TRUST_ROOT, ROOT, TARGETS, FILES = "trust_root", "trust_root_version", "trust_targets_version", "files"
TRUST_NAMES = frozenset({TRUST_ROOT, ROOT, TARGETS})
"""Keys in an entry's subjects that identify a trust root."""
INSTITUTION = "institution.yaml"


@dataclass(frozen=True)
class TrustOnRecord:
    """The trust root as its newest ledger entry identifies it."""

    sequence: int
    root_sha256: str
    root_version: int
    targets_version: int
    files: Mapping[str, str]
    """Mapping of file name to SHA-256, for every file of the trust root."""


@dataclass(frozen=True)
class Rule:
    """One version of a file with the institution's rules, as a ledger entry records it."""

    sequence: int
    since: datetime.datetime
    file: str
    """Path relative to the data root."""
    sha256: str | None
    """SHA-256 of the file; None if the file was removed."""


def put_on_record(session: Session, settings: Settings, replaced_by: str | None = None) -> None:
    """Add ledger entries for each rule file that changed since its last entry, for a changed trust root, and for a
    second copy that lacks entries. Stores a copy of each changed rule file. Raises IntegrityError if classification
    levels changed their order, or if the trust root is missing, invalid, older than the logged one or unrelated to it.

    Args:
        replaced_by: SHA-256 of a new trust root's first root, as confirmed by an administrator. None if the trust root
            is not replaced.
    """
    session.info.pop(BEFORE_THE_FIRST, None)
    _assert_order_of_levels(session, settings)
    if not session.info.get(tree.APPENDED):
        _copy(session, settings)
    _trust(session, settings, replaced_by)
    before = {rule.file: rule.sha256 for rule in rules(session)}
    now = {name: content for name, content in _rules(settings.data)}
    for name in sorted({*before, *now}):
        content = now.get(name)
        sha256 = hashlib.sha256(content).hexdigest() if content is not None else None
        if sha256 == before.get(name):
            continue
        if content is not None:
            kept = rule_file(settings, str(sha256))
            if not kept.exists():
                write_atomically(kept, content)
        append(session, _actor(settings), POLICY_CHANGED, {"file": name, "before": before.get(name), "now": sha256})


def rules(session: Session, at: datetime.datetime | None = None) -> list[Rule]:
    """Return the newest logged version of each rule file at time `at` (by default now). Includes removed files."""
    query = select(AuditEntry).where(AuditEntry.action == POLICY_CHANGED).order_by(AuditEntry.sequence)
    found = {
        entry.subjects["file"]: Rule(entry.sequence, entry.at, entry.subjects["file"], entry.subjects["now"])
        for entry in session.scalars(query)
        if at is None or entry.at <= at
    }
    return [found[name] for name in sorted(found)]


def rule_file(settings: Settings, sha256: str) -> Path:
    """Return the path of the stored copy of a rule file with this SHA-256."""
    return settings.home / "policy" / f"{sha256}.yaml"


def assert_rules_kept(session: Session, settings: Settings) -> None:
    """Raise IntegrityError if the stored copy of a logged rule file is missing or changed. The error names the copy."""
    query = select(AuditEntry).where(AuditEntry.action == POLICY_CHANGED).order_by(AuditEntry.sequence)
    for entry in session.scalars(query):
        sha256 = entry.subjects["now"]
        if sha256 is None:
            continue
        kept_rule(settings, entry.subjects["file"], sha256, entry.sequence)


def kept_rule(settings: Settings, file: str, sha256: str, sequence: int) -> bytes:
    """Return the stored copy of a rule file that a ledger entry logs. Raises IntegrityError if the copy is missing or
    changed."""
    path = rule_file(settings, sha256)
    content = path.read_bytes() if path.is_file() else None
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{path}: this copy of {file} (logged in entry {sequence}) is missing or was changed.")
    return content


def rules_digest(settings: Settings, line: str) -> dict[str, str]:
    """Return a mapping of path (relative to the data root) to SHA-256, for `institution.yaml` and the line's recipe.
    Omits a missing file."""
    names = (INSTITUTION, f"lines/{line}.yaml")
    return {name: hashlib.sha256(content).hexdigest() for name, content in _rules(settings.data) if name in names}


def trust_on_record(session: Session) -> TrustOnRecord | None:
    """Return the trust root as its newest ledger entry identifies it, or None before the first such entry."""
    query = select(AuditEntry).where(AuditEntry.action.in_(OF_TRUST)).order_by(AuditEntry.sequence.desc()).limit(1)
    last = session.scalars(query).one_or_none()
    if last is None:
        return None
    said = last.subjects
    return TrustOnRecord(last.sequence, said[TRUST_ROOT], said[ROOT], said[TARGETS], said[FILES])


def acts_of_revoked_keys(session: Session, trust: Trust) -> list[AuditEntry]:
    """Return the ledger entries of officers' acts that are invalid, because the officer's key is revoked from the act's
    entry or from an earlier entry on."""
    query = select(AuditEntry).order_by(AuditEntry.sequence)
    revoked = [key for key in trust.keys(OFFICER) if key.revoked_from is not None]
    return [
        entry
        for entry in session.scalars(query.where(AuditEntry.actor.in_([actor_of(key.keyid) for key in revoked])))
        if trust.is_revoked_at(OFFICER, entry.actor.removeprefix(actor_of("")), entry.sequence - 1)
    ]


def trust_named(trust: Trust) -> dict[str, Any]:
    """Return the keys and values that identify a trust root in an entry's subjects (`TRUST_NAMES`)."""
    return {TRUST_ROOT: trust.root_sha256, ROOT: trust.root_version, TARGETS: trust.targets_version}


def _assert_same_trust(known: TrustOnRecord, trust: Trust, files: Mapping[str, str]) -> None:
    """Raise IntegrityError if a trust root is older than the logged trust root, a fork of it, or unrelated to it."""
    if trust.root_sha256 != known.root_sha256:
        raise IntegrityError(
            f"The trust root in the data root begins with the root {trust.root_sha256}, but ledger entry "
            f"{known.sequence} names the first root {known.root_sha256}.",
            "Restore the logged trust root. If the new one is intended, an administrator must confirm its SHA-256.",
        )
    if trust.root_version < known.root_version or trust.targets_version < known.targets_version:
        raise IntegrityError(
            f"The trust root in the data root (root {trust.root_version}, targets {trust.targets_version}) is older "
            f"than root {known.root_version} and targets {known.targets_version}, which ledger entry {known.sequence} "
            f"names.",
            "Copy the newest trust root into the data root again.",
        )
    newer = trust.targets_version > known.targets_version
    forked = [name for name, sha256 in known.files.items() if name[0].isdigit() and files.get(name) != sha256]
    if forked or (not newer and files != known.files):
        raise IntegrityError(
            f"The trust root in the data root is a fork: its files differ from those with the same version in ledger "
            f"entry {known.sequence}.",
            "Two changes were made in parallel. Restore the logged trust root.",
        )


def _copy(session: Session, settings: Settings) -> None:
    """If the second copy lacks entries, log their numbers. The act that follows writes these entries to the copy."""
    copy, size = settings.ledger_copy, tree.size_of(session)
    newest = checkpoints.end_of(copy).newest(size) if copy is not None and copy.exists() else size
    if newest < size:
        append(session, _actor(settings), COPY_FILLED, {"first": newest + 1, "last": size})


def _trust(session: Session, settings: Settings, replaced_by: str | None) -> None:
    from sovereign_pipeline.record.trust_root import read_files

    known, directory = trust_on_record(session), settings.data / TRUST
    content = read_files(directory) if directory.is_dir() else {}
    if not content:  # the directory may contain only a witness policy
        if known is not None:
            raise IntegrityError(
                f"{directory}: the trust root of ledger entry {known.sequence} is missing.",
                "Restore the trust root.",
            )
        return
    files = _digests(content)
    if known is not None and files == known.files:
        return
    from sovereign_pipeline.record.trust_root import verified

    trust = verified(content, where=str(directory))
    subjects = {**trust_named(trust), FILES: files}
    if known is None:
        append(session, _actor(settings), TRUST_NAMED, subjects)
    elif replaced_by is not None and replaced_by == trust.root_sha256 != known.root_sha256:
        append(session, _actor(settings), TRUST_REPLACED, {**subjects, "before": known.root_sha256})
    else:
        _assert_same_trust(known, trust, files)
        append(session, _actor(settings), TRUST_CHANGED, subjects)


def replace_trust(session: Session, settings: Settings, root_sha256: str) -> None:
    """Log the trust root in `data/trust` as the replacement of the trust root in force. Raises InputError if the new
    trust root is already in force, or if its first root does not have the SHA-256 `root_sha256`. Raises the errors of
    `put_on_record`."""
    directory = settings.data / TRUST
    known = trust_on_record(session)
    if known is not None and known.root_sha256 == root_sha256:
        raise InputError(f"The trust root {root_sha256} is already in force.", "There is nothing to change.")
    from sovereign_pipeline.record.trust_root import load_trust

    here = load_trust(directory)
    if here.root_sha256 != root_sha256:
        raise InputError(
            f"{directory}: the first root has the SHA-256 {here.root_sha256}, which differs from the given one.",
            "If the trust root's holders confirm this SHA-256, give it to the command.",
        )
    put_on_record(session, settings, replaced_by=root_sha256)


def _actor(settings: Settings) -> str:
    return People(settings).commitment_of(account())


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _rules(data: Path) -> Iterator[tuple[str, bytes]]:
    for path in (data / INSTITUTION, *sorted((data / "lines").glob("*.yaml"))):
        if path.is_file():
            yield path.relative_to(data).as_posix(), path.read_bytes()


def assert_in_force(session: Session, settings: Settings, trust: Trust) -> None:
    """Log changes of rules and trust root, and assert that `trust` is in force. Raises IntegrityError if the trust root
    in the data root is older than the logged trust root or unrelated to it. Raises ConflictError if the trust root
    changed after `trust` was read."""
    put_on_record(session, settings)
    known = trust_on_record(session)
    read = (trust.root_sha256, trust.root_version, trust.targets_version)
    if known is None or (known.root_sha256, known.root_version, known.targets_version) != read:
        raise ConflictError("The trust root changed during the act.", "Repeat the command.")


def assert_not_put_back(session: Session, settings: Settings) -> None:
    """Raise IntegrityError unless the trust root in the data root, if any, is the logged trust root or its successor,
    and the levels in `institution.yaml` have the logged order. Adds no entry.

    An older trust root would accept keys that have been revoked in the meantime. Reordered levels would give access to
    documents of a higher level."""
    _assert_order_of_levels(session, settings)
    known, directory = trust_on_record(session), settings.data / TRUST
    if known is None or not directory.is_dir():
        return
    from sovereign_pipeline.record.trust_root import read_files, verified

    content = read_files(directory)
    files = _digests(content)
    if content and files != known.files:
        _assert_same_trust(known, verified(content, where=str(directory)), files)


def _assert_order_of_levels(session: Session, settings: Settings) -> None:
    """Raise IntegrityError if a changed `institution.yaml` swaps the order of two classification levels. The file is
    compared with every version that was in force since the first registration of an adapter."""
    path = settings.data / INSTITUTION
    of_file = AuditEntry.subjects["file"].as_string() == INSTITUTION
    query = select(AuditEntry).where(AuditEntry.action == POLICY_CHANGED, of_file).order_by(AuditEntry.sequence.desc())
    last = session.scalars(query.limit(1)).one_or_none()
    if last is None or not path.is_file():
        return
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() == last.subjects["now"]:
        return
    first = session.scalar(select(func.min(AuditEntry.sequence)).where(AuditEntry.action == REGISTERED))
    if first is None:
        return
    from sovereign_pipeline.policy.institution import levels_in

    now = levels_in(content)
    for entry in session.scalars(query):
        sha256 = entry.subjects["now"]
        before = levels_in(kept_rule(settings, INSTITUTION, sha256, entry.sequence)) if sha256 is not None else ()
        if [each for each in before if each in now] != [each for each in now if each in before]:
            raise IntegrityError(
                f"{path}: `classification` has the levels in the order {', '.join(now)}. In entry {entry.sequence} of "
                f"the ledger, their order is {', '.join(before)}.",
                "Restore that order. You may add or rename levels; registered adapters keep their levels.",
            )
        if entry.sequence < first:
            return
