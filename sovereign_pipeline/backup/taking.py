"""Taking a backup, and verifying one.

What belongs here: the acts. What does not: restoring (`restoring.py`) and repairing (`repairing.py`).
"""

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.backup import archive, description, postgresql
from sovereign_pipeline.backup.aside import folder_aside
from sovereign_pipeline.backup.description import ARCHIVE, Description
from sovereign_pipeline.backup.restoring import extract, on_servers_again, verified_artifacts, verified_ledger
from sovereign_pipeline.backup.snapshot import Snapshot, database_file, on_servers
from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.privacy.vault import fingerprint_of
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.record.people import People
from sovereign_pipeline.record.stage import Progress

CREATED = "backup created"
"""Action of the entry of a backup, which is in the backup as its newest entry or one of the newest."""


@dataclass(frozen=True)
class Taken:
    """A backup that was written."""

    description: Description
    size: int
    """Of the encrypted archive, in bytes."""
    links: tuple[Path, ...]
    """Links, which are not copied."""


def take(settings: Settings, out: Path, recipient: str, progress: Progress) -> Taken:
    """Write a backup into a folder that is not there yet, encrypted to a public key. It is an entry before.

    Raises InputError, and IntegrityError where the registry is not the one of its checkpoint.
    """
    database_file(settings)
    for database in on_servers(settings).values():
        postgresql.assert_can_dump(database)
    signer = pipeline_signer(settings, trust_root(settings))
    registry = open_registry(settings)
    if out.exists():
        raise InputError(f"{out}: it is there already.", "Name a folder that is not there yet.")
    with registry.writing() as session:
        actor = People(settings).commitment_of(account())
        append(session, actor, CREATED, {"recipient": fingerprint_of(recipient)})
    out.mkdir(parents=True, mode=0o700)
    try:
        with folder_aside(settings.home) as aside:
            snapshot = Snapshot(settings, aside)
            checkpoint = snapshot.held_together()
            with archive.written(out / ARCHIVE, recipient) as opened:
                snapshot.write(opened, progress)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sha256 = file_sha256(out / ARCHIVE)
        made = Description(created=now, archive=sha256, files=len(opened.listed), checkpoint=checkpoint)
        description.write(out, made, signer)
    except BaseException:
        shutil.rmtree(out)
        raise
    return Taken(made, (out / ARCHIVE).stat().st_size, tuple(snapshot.links))


@dataclass(frozen=True)
class Checked:
    """A backup that was verified."""

    description: Description
    entries: int
    """Of the ledger in it, each computed again."""
    artifacts: int
    """Every file of which is as its manifest says."""


def check(settings: Settings, directory: Path, private_key: str, progress: Progress) -> Checked:
    """Verify a backup whole: signature, every byte, ledger and artifacts. Nothing of it stays on this machine.

    A registry that was on a PostgreSQL server is restored into the database of the settings meanwhile, which must be
    empty: not that of the installation.

    Raises IntegrityError, and PrivacyError for a key that does not open it.
    """
    made = description.read(directory, trust_root(settings))
    with folder_aside(settings.home.parent) as aside:
        staged = extract(settings, directory, made, private_key, aside, progress)
        with on_servers_again(settings, staged, kept=False):
            return Checked(made, verified_ledger(staged, made), verified_artifacts(staged))
