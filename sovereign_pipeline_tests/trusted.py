"""Demonstration keys and their trust root, made once a process; every invented institution gets a copy."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.keys import FileSigner, read_key
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.trust_changes import demonstration_trust


@cache
def demonstration() -> Path:
    """A directory with `trust/` and `keys/`."""
    directory = Path(tempfile.mkdtemp(prefix="sovereign-keys-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    demonstration_trust(directory / TRUST, directory / "keys")
    return directory


def demonstration_key(name: str) -> FileSigner:
    """Such as `root-1`, `officer-1` or `pipeline`."""
    return read_key(demonstration() / "keys" / f"{name}.key", lambda: "")


def trust_demonstration(settings: Settings) -> None:
    """Give an installation the trust root and its keys; what it has of its own stays."""
    if not (settings.data / TRUST).exists():
        shutil.copytree(demonstration() / TRUST, settings.data / TRUST)
    settings.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    for key in (demonstration() / "keys").iterdir():
        if not (settings.keys / key.name).exists():
            shutil.copy(key, settings.keys)
