"""PGP signatures of publishers, verified by GnuPG with one key at a time.

What belongs here: that. What does not: what the signed file covers (`publishers.py`).
"""

import re
import subprocess
import tempfile
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.bundle.trusted_publishers import Publishers

SUFFIX = ".asc"
GOOD = re.compile(r"^\[GNUPG:\] GOODSIG ", re.MULTILINE)
"""What GnuPG says of no key that is revoked or expired. It calls their signatures valid, and ends 0."""
VALID = re.compile(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]{40,64}) .*$", re.MULTILINE)


def pgp_publisher(signature: Path, signed: Path, publishers: Publishers) -> str:
    """Whose signature over a file it is: the name of the key's file, and its fingerprint. Raises IntegrityError."""
    if not publishers.pgp:
        raise NotFoundError(
            f"{publishers.folder}: there is no publisher's key for {signature.name}.",
            "Put one there, from where you trust it to be theirs.",
        )
    for ring in publishers.pgp:
        with tempfile.TemporaryDirectory() as home:  # with one key alone, so that whose it is cannot be mistaken
            _gpg(home, "--import", str(ring))
            told = _gpg(home, "--verify", str(signature), str(signed))
        if told is not None and GOOD.search(told) and (fingerprint := VALID.search(told)):
            return f"PGP, {ring.stem} ({fingerprint[1]})"
    raise IntegrityError(
        f"{signature}: no key in {publishers.folder} that is in force signed {signed.name} so.",
        "Get file and signature again, and of a key that was extended the key.",
    )


def _gpg(home: str, *arguments: str) -> str | None:
    """The lines for programs that GnuPG prints; None where it says no."""
    command = ("gpg", "--homedir", home, "--batch", "--no-autostart", "--status-fd", "1", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    except FileNotFoundError:
        raise NotFoundError(
            "gpg is not installed, so publishers' signatures cannot be verified.", "Install it."
        ) from None
    return done.stdout if done.returncode == 0 else None
