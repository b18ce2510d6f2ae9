"""The newest trust root that a gateway has relied on, in a file of its own directory, which outlives the process.

The ledger names the trust root of the last act, so one that followed and was put back before any act is told from the
newest by this file alone. An older one knows nothing of keys that were revoked since.

What belongs here: remembering it, and refusing an older one. What does not: reading the trust root (`signing/`), and
what the ledger says of it (`record/in_force.py`).
"""

import json
from pathlib import Path

from pydantic import ValidationError

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import held_within, write_atomically
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.trust_root import Trust

FILE = "trust-seen.json"
LOCK_SECONDS = 5


def serving_directory(settings: Settings) -> Path:
    """The directory, made if need be. Raises InputError where another account can enter it."""
    directory = settings.serving
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_mode & 0o077:
        raise InputError(
            f"{directory}: other accounts can enter the directory of the gateway's tokens.",
            f"Close it: chmod 700 {directory}",
        )
    return directory


class SeenTrust(Frozen):
    """The versions of a trust root."""

    root_sha256: str
    """Of its first root. Another trust root has other versions: that it is the right one, the ledger says."""
    root_version: int
    targets_version: int


def assert_none_newer_seen(path: Path, trust: Trust, *, is_on_record: bool) -> None:
    """Assert that no newer version of a trust root was relied on here, and remember this one.

    Raises IntegrityError for an older one, and for a file that cannot be read.
    """
    with held_within(path.with_name(f"{path.name}.lock"), LOCK_SECONDS):
        seen = _read(path)
        if seen is not None and seen.root_sha256 == trust.root_sha256:
            _assert_not_older(trust, seen)
        elif seen is not None and not is_on_record:
            raise IntegrityError(
                f"The trust root here begins with the root {trust.root_sha256}, and this gateway relied on the root "
                f"{seen.root_sha256} before.",
                "Start the registry's database: the ledger says which one is right.",
            )
        now = SeenTrust(
            root_sha256=trust.root_sha256, root_version=trust.root_version, targets_version=trust.targets_version
        )
        if now != seen:
            write_atomically(path, json.dumps(now.model_dump(), indent=1) + "\n")


def _assert_not_older(trust: Trust, seen: SeenTrust) -> None:
    if trust.root_version < seen.root_version or trust.targets_version < seen.targets_version:
        raise IntegrityError(
            f"The trust root here, root {trust.root_version} and targets {trust.targets_version}, is older than root "
            f"{seen.root_version} and targets {seen.targets_version}, on which this gateway relied before.",
            "Somebody put an older trust root back: take the newest one again.",
        )


def _read(path: Path) -> SeenTrust | None:
    try:
        return SeenTrust.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise IntegrityError(
            f"{path}: which trust root this gateway has relied on cannot be read.",
            "Find out who changed it. Once it is removed, an older trust root that was put back is not noticed.",
        ) from None
