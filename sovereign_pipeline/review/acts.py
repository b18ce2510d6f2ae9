"""Sign a review's acts (such as sign-ins and ballots), append the acts to the ledger, and read them. Store the review's
seed and signing key."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import append, digest_of, private_directory, write_new
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import audit_log as audit
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.tables import Adapter, AuditEntry, BlindReview, ReviewClosing, Table, row_as_dict
from sovereign_pipeline.record.tree import RegistryDamaged
from sovereign_pipeline.review.plan import commitment

SECRET_BYTES = 32
SEED, KEY, SIGNED = ".seed", ".key", ".acts"
_NOTED = re.compile(r"^(\d+) ([0-9a-f]{64})$", re.MULTILINE)
"""Pattern of a complete line in the file of signed acts: the number and the digest of an act."""


@dataclass(frozen=True)
class SignedAct:
    """The number and digest of a signed act, as stored in a file outside the registry."""

    number: int
    digest: str
    """SHA-256 of the signed content, 64 hex digits."""


@dataclass(frozen=True)
class ReviewSecrets:
    """The seed and the signing key that are generated when a review is opened."""

    seed: bytes
    key: bytes
    """Private Ed25519 key."""

    @property
    def public_key(self) -> str:
        return public_key_of(self.key)


def draw_secrets() -> ReviewSecrets:
    return ReviewSecrets(secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES))


def public_key_of(key: bytes) -> str:
    return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw().hex()


def sign(key: bytes, content: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(key).sign(content)


def is_signed(public_key: str, signature: object, content: bytes) -> bool:
    """Return True if `signature` (hex) is the key's valid signature over `content`."""
    if not isinstance(signature, str):
        return False
    with suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), content)
        return True
    return False


def secrets_directory(settings: Settings) -> Path:
    """Return the directory of the secrets, and create it if it is missing. Raises InputError if its permissions give
    other accounts access."""
    return private_directory(settings.review_secrets, "review seeds and keys")


def keep_secrets(settings: Settings, review: str, drawn: ReviewSecrets) -> None:
    for suffix, content in ((SEED, drawn.seed), (KEY, drawn.key)):
        write_new(secrets_directory(settings) / f"{review}{suffix}", content)


def sealed_seed(settings: Settings, review: BlindReview) -> bytes:
    """Read a review's seed. Raises IntegrityError if the seed is missing, or does not have the SHA-256 in the
    registry."""
    missing = "the sealed seed of this review is missing. Without it, the answers cannot be unblinded."
    path, seed = _secret(settings, review, SEED, missing)
    if commitment(seed) != review.seed_sha256:
        raise IntegrityError(f"{path}: this seed does not match its commitment.")
    return seed


def signing_key(settings: Settings, review: BlindReview) -> bytes:
    """Read a review's private key. Raises IntegrityError if it is missing, or does not match the public key."""
    path, key = _secret(settings, review, KEY, "the key that signs this review's acts is missing.")
    if len(key) != SECRET_BYTES or public_key_of(key) != review.act_key:
        raise IntegrityError(f"{path}: this is not the key of this review.")
    return key


def _secret(settings: Settings, review: BlindReview, suffix: str, missing: str) -> tuple[Path, bytes]:
    path = settings.review_secrets / f"{review.id}{suffix}"
    if not path.is_file():
        raise IntegrityError(f"{path}: {missing}")
    return path, path.read_bytes()


def is_key_kept(settings: Settings, review: str) -> bool:
    return (settings.review_secrets / f"{review}{KEY}").exists()


def forget_key(settings: Settings, review: str) -> None:
    """Delete the private key of a closed review, so that nobody can sign further acts."""
    (settings.review_secrets / f"{review}{KEY}").unlink(missing_ok=True)


def note_signed(settings: Settings, review: str, acts: Iterable[SignedAct]) -> None:
    """Append committed acts to the review's file of signed acts. Each record starts on a new line, so that a line that
    a crash truncated does not damage the next record."""
    content = "".join(f"\n{act.number} {act.digest}\n" for act in acts)
    append(secrets_directory(settings) / f"{review}{SIGNED}", content)


def signed_acts(settings: Settings, review: str) -> list[SignedAct]:
    """Return the acts in a review's file of signed acts, sorted by number; an empty list if the file is missing."""
    path = settings.review_secrets / f"{review}{SIGNED}"
    noted = _NOTED.findall(path.read_text(encoding="utf-8")) if path.is_file() else []
    return sorted((SignedAct(int(number), digest) for number, digest in noted), key=lambda act: act.number)


def noted_reviews(settings: Settings) -> list[str]:
    return sorted(path.name.removesuffix(SIGNED) for path in settings.review_secrets.glob(f"*{SIGNED}"))


CLOSED = "This review is closed, and ratings are no longer accepted. Thank you for yours."

_OPEN = select(BlindReview).where(BlindReview.id.not_in(select(ReviewClosing.review_id)))


def assert_open(session: Session, review: str) -> None:
    if session.get(ReviewClosing, review) is not None:
        raise ConflictError(CLOSED)


def is_closed(registry: Registry, review: str) -> bool:
    with registry.reading() as session:
        return session.get(ReviewClosing, review) is not None


def find_open(session: Session, line: str) -> BlindReview | None:
    """Return the line's open review, or None. Raises IntegrityError if there are several."""
    found = session.scalars(_OPEN.where(BlindReview.line == line)).all()
    if len(found) > 1:
        raise RegistryDamaged(
            f"Line {line} has {len(found)} open reviews, but a line can have only one. Another program changed "
            "the registry."
        )
    return found[0] if found else None


def find_all(registry: Registry) -> list[BlindReview]:
    with registry.reading() as session:
        return list(session.scalars(select(BlindReview).order_by(BlindReview.opened_at, BlindReview.id)))


def find_all_open(registry: Registry) -> list[BlindReview]:
    with registry.reading() as session:
        return list(session.scalars(_OPEN.order_by(BlindReview.opened_at, BlindReview.id)))


def find_last(registry: Registry, line: str) -> tuple[BlindReview, ReviewClosing | None]:
    """Return two values: the line's open review, or else the review that was opened last, and its closing (None if the
    review is open). Raises NotFoundError if the line has had no review."""
    with registry.reading() as session:
        query = select(BlindReview).where(BlindReview.line == line).order_by(BlindReview.opened_at.desc())
        review = find_open(session, line) or session.scalars(query.limit(1)).one_or_none()
        if review is None:
            raise NotFoundError(f"Line {line} has had no review.", "Open a review.", act="open_review", line=line)
        return review, session.get(ReviewClosing, review.id)


def find_closed(registry: Registry, line: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Return the line's closed reviews, in the order of their closings in the ledger. Timestamps are ignored."""
    query = (
        select(BlindReview, ReviewClosing)
        .join(ReviewClosing, ReviewClosing.review_id == BlindReview.id)
        .where(BlindReview.line == line)
        .order_by(BlindReview.id)
    )
    with registry.reading() as session:
        entry_of = audit.entries_of_rows(session, (REVIEW_CLOSED, REVIEW_CLOSED_EARLY))
        closed = [(review, closing) for review, closing in session.execute(query)]
    # A closing without a ledger entry is forged. It is sorted first: every later result reads it and is rejected.
    return sorted(closed, key=lambda each: entry_of.get((ReviewClosing.__tablename__, each[0].id), 0))


def find_closed_of(registry: Registry, line: str, weights: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Return the line's closed reviews whose candidate has these weights, in any artifact or registered version. The
    same weights may be registered again after a change of the recipe or the program.

    Args:
        weights: SHA-256 of the weights (`Adapter.adapter_sha256`).
    """
    of_weights = select(Adapter.id).where(Adapter.line == line, Adapter.adapter_sha256 == weights)
    with registry.reading() as session:
        ids = set(session.scalars(of_weights))
    return [each for each in find_closed(registry, line) if each[0].adapter_id in ids]


OPENED = "review opened"
LINK_ISSUED, SIGNED_IN = "sign-in link issued", "signed in"
BALLOT_GIVEN, GUESS_GIVEN = "ballot given", "guess given"
REVIEW_CLOSED, REVIEW_CLOSED_EARLY = "review closed", "review closed early"
PROXY = "proxy"
"""Value of `by` in a sign-in's act if the institution's proxy, and not a link, identified the operator."""

Row = TypeVar("Row", bound=Table)
HINT = "Restore registry and secrets from the same backup, and find out who changed the registry."


@dataclass(frozen=True)
class Act:
    """A ledger entry that is signed with the review's key."""

    sequence: int
    """Index of the ledger entry."""
    number: int
    """Number of the act within the review, from 1."""
    previous: str
    """Digest of the preceding act, or `audit_log.FIRST`."""
    digest: str
    actor: str
    action: str
    subjects: Mapping[str, Any]


@dataclass
class Entering:
    """A transaction in which acts of one review are appended."""

    session: Session
    review: str
    _key: bytes = field(repr=False)
    _last: SignedAct
    """The newest act so far. The next act contains its digest."""
    entered: list[SignedAct] = field(default_factory=list)

    def enter(self, actor: str, action: str, subjects: Mapping[str, Any]) -> int:
        """Append the signed entry of one act. Returns the act's number within the review."""
        number = self._last.number + 1
        content = {"review": self.review, "act": number, "act_before": self._last.digest, **subjects}
        entry = audit.append(self.session, actor, action, content, partial(sign, self._key))
        self._last = SignedAct(number, digest_of_act(entry))
        self.entered.append(self._last)
        return number

    def acts(self) -> list[Act]:
        return acts_of(entries_of(self.session, self.review), public_key_of(self._key))


@contextmanager
def opening_acts(settings: Settings, registry: Registry, review: str, key: bytes) -> Iterator[Entering]:
    """Open a transaction for the first acts of a new review. After the commit, the acts are added to the file of signed
    acts."""
    with registry.writing() as session:
        entering = Entering(session, review, key, SignedAct(0, audit.FIRST))
        yield entering
    note_signed(settings, review, entering.entered)


@contextmanager
def entering_acts(settings: Settings, registry: Registry, review_id: str) -> Iterator[Entering]:
    """Open a transaction for further acts of an open review. After the commit, the acts are added to the file of signed
    acts. Raises ConflictError if the review is closed. Raises IntegrityError if the review's key is missing or wrong,
    or if the last act in the ledger contradicts the file of signed acts."""
    with registry.writing() as session:
        assert_open(session, review_id)
        review = session.get_one(BlindReview, review_id)
        entering = Entering(session, review_id, signing_key(settings, review), _last_act(settings, session, review))
        yield entering
    note_signed(settings, review_id, entering.entered)


def acts_of(entries: Sequence[AuditEntry], public_key: str) -> list[Act]:
    """Return the signed acts among a review's entries, in order."""
    return [
        Act(
            sequence=entry.sequence,
            number=entry.subjects["act"],
            previous=entry.subjects["act_before"],
            digest=digest_of_act(entry),
            actor=entry.actor,
            action=entry.action,
            subjects=entry.subjects,
        )
        for entry in entries
        if is_act(entry, public_key)
    ]


def entries_of(session: Session, review: str) -> list[AuditEntry]:
    """Return every ledger entry about a review, signed or unsigned, oldest first."""
    query = select(AuditEntry).where(AuditEntry.subjects["review"].as_string() == review)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def is_act(entry: AuditEntry, public_key: str) -> bool:
    try:
        content = audit.signed_content(entry)
    except ValueError:  # canonical JSON cannot represent the number
        return False
    return is_signed(public_key, entry.subjects.get(audit.SIGNATURE), content)


def digest_of_act(entry: AuditEntry) -> str:
    """Return the SHA-256 of an act's signed content. The next act contains this digest."""
    return hashlib.sha256(audit.signed_content(entry)).hexdigest()


def digest_of_row(row: Table) -> str:
    """Return the SHA-256 of all columns of a row. The act that adds the row contains this digest."""
    return digest_of(row_as_dict(row))


def rows_added(acts: Iterable[Act]) -> dict[tuple[str, str], str]:
    """Return the SHA-256 of each row that these acts added, keyed by table and primary key."""
    named = [audit.named_rows(act.subjects) for act in acts]
    return {(table, key): sha256 for tables in named for table, keys in tables.items() for key, sha256 in keys.items()}


def without_act(rows: Iterable[Row], acts: Iterable[Act]) -> list[Row]:
    """Return the rows that no act added, and the rows that differ from what their act added. Rows replayed from the
    ledger never differ. A snapshot that somebody forged with the log's key may contain changed rows."""
    added = rows_added(acts)
    return [row for row in rows if added.get((row.__tablename__, audit.key_of(row))) != _sha256_of(row)]


def _sha256_of(row: Table) -> str:
    return hashlib.sha256(audit.content_of_row(row)).hexdigest()


def _last_act(settings: Settings, session: Session, review: BlindReview) -> SignedAct:
    """Return the review's last act. Raises IntegrityError if the review's newest ledger entry is unsigned, or if the
    file of signed acts contains a later act or a different act with the same number."""
    last = entries_of(session, review.id)[-1:]
    noted = signed_acts(settings, review.id)[-1:]
    acts = [SignedAct(each.number, each.digest) for each in acts_of(last, review.act_key)]
    # After a crash between the commit and the append, the ledger has one act more than the file.
    if not acts or (noted and acts != noted and acts[0].number <= noted[0].number):
        raise IntegrityError(f"Review {review.id}: the review's newest ledger entry is not the last signed act.", HINT)
    return acts[0]
