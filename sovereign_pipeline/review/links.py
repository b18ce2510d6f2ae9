"""An operator's one-time links: making one, its address, its one use, and which sign-in is still good.

An operator's newest link ends the sign-ins before it, and the older links: so a lost device is signed out.

What belongs here: tokens and who they stand for. What does not: the session that a link is exchanged for
(`page/sessions.py`).
"""

import datetime
import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import ConflictError, NotFoundError, SignInError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.people import COMMITMENT, People
from sovereign_pipeline.ledger.tables import BlindReview, SignInLink, SignInUse
from sovereign_pipeline.review.acts import (
    LINK_ISSUED,
    SIGNED_IN,
    Act,
    Entering,
    acts_of,
    digest_of_row,
    entering_acts,
    entries_of,
)
from sovereign_pipeline.review.catalog import find_all_open, find_open
from sovereign_pipeline.review.sealed import plan_of

TOKEN_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """One operator in one review."""

    review: str
    operator: str
    sign_in: int | None = None
    """Number of the act by which a link was used; None for whom the institution's proxy names."""


def issue_link(entering: Entering, operator: str, days: int, actor: str) -> str:
    """Make a one-time link in the transaction of an act.

    Args:
        days: how long it can be used.
        actor: who has it made, and so could use it.

    Returns its token, of which only the hash is stored.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    link = SignInLink(token_sha256=_sha256(token), review_id=entering.review, operator=operator, expires_at=expires_at)
    entering.session.add(link)
    entering.session.flush()
    subjects = {"operator": operator, "link": link.token_sha256, "row": digest_of_row(link)}
    entering.enter(actor, LINK_ISSUED, subjects)
    return token


def issue_another_link(registry: Registry, workplace: Workplace, operator: str, actor: str) -> str:
    """Make another link for an operator of the line's open review. It ends what their earlier links opened.

    Returns its token. Raises NotFoundError when the line has no open review, or not that operator.
    """
    line = workplace.line.line
    with registry.reading() as session:
        review = find_open(session, line)
    if review is None:
        raise NotFoundError(f"Line {line} has no open review.", "Open one.", act="open_review", line=line)
    people, operators = People(workplace.settings), plan_of(workplace.store, review).plan.operators
    person = stands_for(people, operator, operators)
    if person is None:
        names = people.listed()
        known = ", ".join(people.shown(each, names) for each in operators)
        raise NotFoundError(f"'{operator}' takes no part in the open review of line {line}.", f"Name one of {known}.")
    with entering_acts(workplace.settings, registry, review.id) as entering:
        return issue_link(entering, person, workplace.line.gates.review.link_days, actor)


def stands_for(people: People, name: str, persons: Collection[str]) -> str | None:
    """Return the stored identifier of a person: a commitment or an operator number. None for nobody of these."""
    if COMMITMENT.fullmatch(name):  # nobody's name
        return None
    person = people.known(name)
    return person if person in persons else name if name in persons else None


def assert_in_no_open_review(registry: Registry, store: ArtifactStore, person: str) -> None:
    """Raises ConflictError for a commitment that an open review still needs: an operator's, or of who did something."""
    for review in find_all_open(registry):
        plan = plan_of(store, review).plan
        with registry.reading() as session:
            actors = {entry.actor for entry in entries_of(session, review.id)}
        if person in {*plan.operators, *plan.may_close_early, *actors}:
            raise ConflictError(
                f"This person takes part in the open review of line {review.line}.",
                "Close it first.",
                act="review_status",
                line=review.line,
            )


def link_url(page: str, token: str) -> str:
    """The address that an operator opens. Browsers send nothing behind `#`, so no proxy's log holds the token."""
    return f"{page.rstrip('/')}/sign-in#{token}"


def use_link(registry: Registry, settings: Settings, token: str) -> SignedIn:
    """Exchange a token for who it stands for, once.

    Raises SignInError for one that is unknown, used, expired or followed by a newer one, and for one whose row was put
    into the registry without the act that issued it.
    """
    digest = _sha256(token)
    with registry.reading() as session:
        link = session.get(SignInLink, digest)
        review = session.get(BlindReview, link.review_id) if link is not None else None
    if link is None or review is None:
        raise _not_ours()
    with entering_acts(settings, registry, review.id) as entering:
        newest = _newest_link(entering.session, review, link.operator)
        if newest is None or digest_of_row(link) not in _links_issued(entering.session, review):
            raise _not_ours()
        if entering.session.get(SignInUse, digest) is not None:
            raise SignInError("This link was used already.", "Ask whoever sent it for a new one; no rating is lost.")
        if newest.subjects["link"] != digest:
            raise SignInError("There is a newer link for you.", "Open that one; no rating is lost.")
        now = datetime.datetime.now(datetime.UTC)
        if now >= link.expires_at:
            raise SignInError("This link is too old.", "Ask whoever sent it for a new one; no rating is lost.")
        use = SignInUse(token_sha256=digest, used_at=now)
        entering.session.add(use)
        entering.session.flush()
        number = entering.enter(link.operator, SIGNED_IN, {"link": digest, "row": digest_of_row(use)})
    return SignedIn(review.id, link.operator, number)


def assert_newest(session: Session, review: BlindReview, who: SignedIn) -> None:
    """Raise SignInError for a sign-in that a newer link has ended."""
    newest = _newest_link(session, review, who.operator)
    if who.sign_in is not None and (newest is None or newest.number > who.sign_in):
        raise SignInError("A newer link has ended this session.", "Open that link; no rating is lost.")


def _newest_link(session: Session, review: BlindReview, operator: str) -> Act | None:
    """The act that issued an operator's newest link. An entry that is not signed ends nobody's session."""
    issued = [each for each in _issuing(session, review) if each.subjects["operator"] == operator]
    return issued[-1] if issued else None


def _links_issued(session: Session, review: BlindReview) -> set[str]:
    """Digest of the row of every link that an act issued."""
    return {each.subjects["row"] for each in _issuing(session, review)}


def _issuing(session: Session, review: BlindReview) -> list[Act]:
    entries = [each for each in entries_of(session, review.id) if each.action == LINK_ISSUED]
    return acts_of(entries, review.act_key)


def _not_ours() -> SignInError:
    return SignInError("This link is not one of ours.", "Copy it whole, or ask whoever sent it for a new one.")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
