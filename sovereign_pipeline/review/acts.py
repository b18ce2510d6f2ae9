"""Acts of a review: opening, links, sign-ins, ballots, guesses, closing. Each is a signed entry of the audit log.

An act holds its number within the review and the digest of the one before, and is signed with a key that the database
does not hold. So one that was put in, changed, copied, moved or taken out shows, whoever owns the database.

What belongs here: entering acts, and reading those of one review back. What does not: whether the registry's rows are
those of the acts (`reconciling.py`), and where the key lies (`custody.py`).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import AuditEntry, BlindReview, Table, row_as_dict
from sovereign_pipeline.review.catalog import assert_open
from sovereign_pipeline.review.custody import (
    SignedAct,
    is_signed,
    note_signed,
    public_key_of,
    sign,
    signed_acts,
    signing_key,
)

OPENED = "review opened"
LINK_ISSUED, SIGNED_IN = "sign-in link issued", "signed in"
BALLOT_GIVEN, GUESS_GIVEN = "ballot given", "guess given"
REVIEW_CLOSED, REVIEW_CLOSED_EARLY = "review closed", "review closed early"
PROXY = "proxy"
"""In the act of a sign-in without a link: the institution's proxy named the operator."""

HINT = "Restore registry and secrets from copies of the same time, and find out who changed the registry."


@dataclass(frozen=True)
class Act:
    """One entry of the log whose signature is the review's."""

    sequence: int
    """Of the entry in the log."""
    number: int
    """Within the review, from 1."""
    previous: str
    """Digest of the act before; `audit_log.FIRST` for the first."""
    digest: str
    actor: str
    action: str
    subjects: Mapping[str, Any]


@dataclass
class Entering:
    """The transaction in which acts of one review are entered."""

    session: Session
    review: str
    _key: bytes = field(repr=False)
    _last: SignedAct
    """The act before the next one."""
    entered: list[SignedAct] = field(default_factory=list)

    def enter(self, actor: str, action: str, subjects: Mapping[str, Any]) -> int:
        """Add the entry of one act, signed. Returns its number within the review."""
        number = self._last.number + 1
        content = {"review": self.review, "act": number, "act_before": self._last.digest, **subjects}
        entry = audit.append(self.session, actor, action, content, partial(sign, self._key))
        self._last = SignedAct(number, digest_of_act(entry))
        self.entered.append(self._last)
        return number

    def acts(self) -> list[Act]:
        """All acts so far."""
        return acts_of(entries_of(self.session, self.review), public_key_of(self._key))


@contextmanager
def opening_acts(settings: Settings, registry: Registry, review: str, key: bytes) -> Iterator[Entering]:
    """A transaction for the first acts of a review that has no row yet."""
    with registry.writing() as session:
        entering = Entering(session, review, key, SignedAct(0, audit.FIRST))
        yield entering
    note_signed(settings, review, entering.entered)


@contextmanager
def entering_acts(settings: Settings, registry: Registry, review_id: str) -> Iterator[Entering]:
    """A transaction for further acts of an open review; they are noted once it is committed.

    Raises ConflictError once it is closed, and IntegrityError without the key, or when the acts so far are not those
    that were noted.
    """
    with registry.writing() as session:
        assert_open(session, review_id)
        review = session.get_one(BlindReview, review_id)
        entering = Entering(session, review_id, signing_key(settings, review), _last_act(settings, session, review))
        yield entering
    note_signed(settings, review_id, entering.entered)


def acts_of(entries: Sequence[AuditEntry], public_key: str) -> list[Act]:
    """The signed ones among entries of one review, in their order."""
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
    """Every entry of the log that is about a review, signed or not, oldest first."""
    query = select(AuditEntry).where(AuditEntry.subjects["review"].as_string() == review)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def is_act(entry: AuditEntry, public_key: str) -> bool:
    """Whether an entry was signed with the review's key."""
    try:
        content = audit.signed_content(entry)
    except ValueError:  # a number that no entry of ours holds
        return False
    return is_signed(public_key, entry.subjects.get(audit.SIGNATURE), content)


def digest_of_act(entry: AuditEntry) -> str:
    """SHA-256 of what was signed; the next act names it."""
    return hashlib.sha256(audit.signed_content(entry)).hexdigest()


def digest_of_row(row: Table) -> str:
    """SHA-256 of all columns of a row, by which the act that entered it names it."""
    return digest_of(row_as_dict(row))


def _last_act(settings: Settings, session: Session, review: BlindReview) -> SignedAct:
    """The last act, after which the next is entered: it must be signed, and no earlier one than was noted last."""
    last = entries_of(session, review.id)[-1:]
    noted = signed_acts(settings, review.id)[-1:]
    acts = [SignedAct(each.number, each.digest) for each in acts_of(last, review.act_key)]
    # One more than was noted is there after a crash between the commit and the note.
    if not acts or (noted and acts != noted and acts[0].number <= noted[0].number):
        raise IntegrityError(
            f"Review {review.id}: the newest entry of the audit log about it is not the one that was signed last.", HINT
        )
    return acts[0]
