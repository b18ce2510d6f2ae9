"""An operator's one-time links: making one, its address, and its one use.

What belongs here: tokens and who they stand for. What does not: the session that a link is exchanged for
(`page/sessions.py`).
"""

import datetime
import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session as DatabaseSession

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.errors import NotFoundError, SignInError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import SignInLink, SignInUse
from sovereign_pipeline.review.catalog import find_open
from sovereign_pipeline.review.sealed import plan_of

TOKEN_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """One operator in one review."""

    review: str
    operator: str


def issue_link(session: DatabaseSession, review: str, operator: str, days: int, actor: str) -> str:
    """Make a one-time link in the caller's transaction.

    Args:
        days: how long it can be used.
        actor: who has it made, and so could use it.

    Returns its token, of which only the hash is stored.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    digest = _sha256(token)
    session.add(SignInLink(token_sha256=digest, review_id=review, operator=operator, expires_at=expires_at))
    session.flush()
    audit.append(session, actor, "sign-in link issued", {"review": review, "operator": operator, "link": digest})
    return token


def issue_another_link(registry: Registry, workplace: Workplace, operator: str, actor: str) -> str:
    """Make one more link for an operator of the line's open review, such as for another device.

    Returns its token. Raises NotFoundError when the line has no open review, or not that operator.
    """
    line = workplace.line.line
    with registry.writing() as session:
        review = find_open(session, line)
        if review is None:
            raise NotFoundError(f"Line {line} has no open review.", "Open one.", act="open_review", line=line)
        operators = plan_of(workplace.store, review).plan.operators
        if operator not in operators:
            raise NotFoundError(
                f"'{operator}' takes no part in the open review of line {line}.", f"Name one of {', '.join(operators)}."
            )
        return issue_link(session, review.id, operator, workplace.line.gates.review.link_days, actor)


def link_url(page: str, token: str) -> str:
    """The address that an operator opens. Browsers send nothing behind `#`, so no proxy's log holds the token."""
    return f"{page.rstrip('/')}/sign-in#{token}"


def use_link(registry: Registry, token: str) -> SignedIn:
    """Exchange a token for who it stands for, once. Raises SignInError for one that is unknown, used or expired."""
    digest = _sha256(token)
    with registry.writing() as session:
        link = session.get(SignInLink, digest)
        if link is None:
            raise SignInError("This link is not one of ours.", "Copy it whole, or ask whoever sent it for a new one.")
        if session.get(SignInUse, digest) is not None:
            raise SignInError("This link was used already.", "Ask whoever sent it for a new one; no rating is lost.")
        now = datetime.datetime.now(datetime.UTC)
        if now >= link.expires_at:
            raise SignInError("This link is too old.", "Ask whoever sent it for a new one; no rating is lost.")
        session.add(SignInUse(token_sha256=digest, used_at=now))
        session.flush()
        audit.append(session, link.operator, "signed in", {"review": link.review_id, "link": digest})
        return SignedIn(link.review_id, link.operator)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
