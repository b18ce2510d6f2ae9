"""Keys for the demonstration: all lie unencrypted on one machine, so whoever has the machine can sign as anybody.

The root is marked, and whatever rests on it says `DEMONSTRATION_KEYS`. What belongs here: making them. What does not:
real keys (`sovereign-trust`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sovereign_pipeline.signing.keys import FileSigner, generate, read_key, write_key
from sovereign_pipeline.signing.trust import load_trust
from sovereign_pipeline.signing.trust_changes import ROOT_KEYS, ROOT_THRESHOLD, add_officer, create_trust
from sovereign_pipeline.signing.trusted import ANY, Trust

OFFICERS = 3
"""As many as a request, two approvals and a refusal need."""
NO_KEYS: Mapping[str, Sequence[str]] = {}


def demonstration_trust(
    directory: Path,
    keys_directory: Path,
    others: Mapping[str, Sequence[str]] = NO_KEYS,
    *,
    now: datetime | None = None,
) -> Trust:
    """Make a trust root for a demonstration, and its keys: `root-1.key`, `pipeline.key`, `officer-1.key`, and so on.

    A trust root that is there stays as it is, and so does each key.

    Args:
        others: public keys in PEM of roles whose keys are made elsewhere, such as those of the log and its witnesses.
    """
    if directory.is_dir() and any(directory.iterdir()):
        return load_trust(directory, now=now)
    roots = [_key(keys_directory / f"root-{number + 1}.key") for number in range(ROOT_KEYS)]
    of_services = {role: [_key(keys_directory / f"{role}.key").public_pem] for role in ("pipeline", "bundle")}
    officers = [_key(keys_directory / f"officer-{number + 1}.key") for number in range(OFFICERS)]
    partial = directory.with_name(f".{directory.name}.new")
    for left in partial.iterdir() if partial.is_dir() else ():
        left.unlink()
    create_trust(partial, roots, {**of_services, **others}, now=now, demonstration=True)
    signers = roots[:ROOT_THRESHOLD]
    for number, officer in enumerate(officers, start=1):
        add_officer(partial, officer.public_pem, f"Demonstration Officer {number}", [ANY], [ANY], signers, now=now)
    partial.replace(directory)
    return load_trust(directory, now=now)


def _key(path: Path) -> FileSigner:
    if not path.exists():
        write_key(path, generate(), None)
    return read_key(path, lambda: "")
