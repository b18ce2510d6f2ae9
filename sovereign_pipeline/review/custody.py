"""What neither home nor database holds of a review: its seed, the key that signs its acts, and which acts were signed.

The files are 0600 in a directory of 0700 (`SOVEREIGN_REVIEW_SECRETS`), for the account that opens, serves and closes
reviews. Who reads them can unblind, and forge what has not been signed yet; the owner of the database alone cannot.

What belongs here: these files. What does not: what is signed (`acts.py`), and what the seed decides (`plan.py`).
"""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.tables import BlindReview
from sovereign_pipeline.review.plan import commitment

SECRET_BYTES = 32
SEED, KEY, SIGNED = ".seed", ".key", ".acts"


@dataclass(frozen=True)
class SignedAct:
    """One act as it was noted when it was signed."""

    number: int
    digest: str
    """SHA-256 of what was signed, 64 hex digits."""


@dataclass(frozen=True)
class ReviewSecrets:
    """What is drawn when a review is opened."""

    seed: bytes
    key: bytes
    """Private key, Ed25519."""

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return public_key_of(self.key)


def draw_secrets() -> ReviewSecrets:
    return ReviewSecrets(secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES))


def public_key_of(key: bytes) -> str:
    return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw().hex()


def sign(key: bytes, content: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(key).sign(content)


def is_signed(public_key: str, signature: object, content: bytes) -> bool:
    """Whether a signature, in hex digits, is the key's over exactly these bytes."""
    if not isinstance(signature, str):
        return False
    with suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), content)
        return True
    return False


def secrets_directory(settings: Settings) -> Path:
    """The directory, made if need be. Raises InputError where another account can enter it."""
    directory = settings.review_secrets
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_mode & 0o077:
        raise InputError(
            f"{directory}: other accounts can enter the directory of the reviews' seeds and keys.",
            f"Close it: chmod 700 {directory}",
        )
    return directory


def keep_secrets(settings: Settings, review: str, drawn: ReviewSecrets) -> None:
    for suffix, content in ((SEED, drawn.seed), (KEY, drawn.key)):
        write_private(secrets_directory(settings) / f"{review}{suffix}", content)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file, readable by its own account alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)


def sealed_seed(settings: Settings, review: BlindReview) -> bytes:
    """Read the seed. Raises IntegrityError unless it is the one committed to when the review was opened."""
    path = settings.review_secrets / f"{review.id}{SEED}"
    if not path.is_file():
        raise IntegrityError(
            f"{path}: the sealed seed of this review is missing. Without it nobody can derive which answer was whose.",
            "Restore the file from a copy.",
        )
    seed = path.read_bytes()
    if commitment(seed) != review.seed_sha256:
        raise IntegrityError(f"{path}: this is not the seed that was committed to.", "Restore the file from a copy.")
    return seed


def signing_key(settings: Settings, review: BlindReview) -> bytes:
    """Read the private key. Raises IntegrityError unless it belongs to the review's public one."""
    path = settings.review_secrets / f"{review.id}{KEY}"
    if not path.is_file():
        raise IntegrityError(
            f"{path}: the key that signs what is done in this review is missing.", "Restore the file from a copy."
        )
    key = path.read_bytes()
    if len(key) != SECRET_BYTES or public_key_of(key) != review.act_key:
        raise IntegrityError(f"{path}: this is not the key of this review.", "Restore the file from a copy.")
    return key


def is_key_kept(settings: Settings, review: str) -> bool:
    """Whether the private key of a review lies on this machine."""
    return (settings.review_secrets / f"{review}{KEY}").exists()


def forget_key(settings: Settings, review: str) -> None:
    """Delete the private key of a review that is closed: nobody can sign for it any more."""
    (settings.review_secrets / f"{review}{KEY}").unlink(missing_ok=True)


def note_signed(settings: Settings, review: str, acts: Iterable[SignedAct]) -> None:
    """Note acts that are in the registry now. Lines of several processes do not mix: each is one write at the end.

    A line begins anew, so that one which a crash cut short spoils itself alone.
    """
    content = "".join(f"\n{act.number} {act.digest}\n" for act in acts).encode()
    path = secrets_directory(settings) / f"{review}{SIGNED}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0) as stream:
        stream.write(content)
        os.fsync(stream.fileno())


def signed_acts(settings: Settings, review: str) -> list[SignedAct]:
    """What was noted of one review, in the order of its acts; empty where nothing was."""
    path = settings.review_secrets / f"{review}{SIGNED}"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    noted = [line.split() for line in lines]
    return sorted(
        (
            SignedAct(int(each[0]), each[1])
            for each in noted
            if len(each) == 2 and each[0].isdecimal() and len(each[1]) == 64
        ),
        key=lambda act: act.number,
    )


def noted_reviews(settings: Settings) -> list[str]:
    """Ids of all reviews of which an act was noted."""
    return sorted(path.name.removesuffix(SIGNED) for path in settings.review_secrets.glob(f"*{SIGNED}"))
