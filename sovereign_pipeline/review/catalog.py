"""Finding reviews in the registry: open, last, closed.

What belongs here: look-ups of whole reviews. What does not: their ballots (`ballots.py`).
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Adapter, BlindReview, ReviewClosing

CLOSED = "This review is closed; no rating is taken any more. Thank you for yours."

_OPEN = select(BlindReview).where(BlindReview.id.not_in(select(ReviewClosing.review_id)))


def assert_open(session: Session, review: str) -> None:
    """Raises ConflictError once a review is closed."""
    if session.get(ReviewClosing, review) is not None:
        raise ConflictError(CLOSED)


def is_closed(registry: Registry, review: str) -> bool:
    """Whether a review's closing is in the registry."""
    with registry.reading() as session:
        return session.get(ReviewClosing, review) is not None


def find_open(session: Session, line: str) -> BlindReview | None:
    """Find the line's review that was opened and not closed. Raises IntegrityError for several."""
    found = session.scalars(_OPEN.where(BlindReview.line == line)).all()
    if len(found) > 1:
        raise IntegrityError(
            f"Line {line} has {len(found)} open reviews, and there is never more than one. The registry was changed "
            f"past this program.",
            "Restore the registry from a copy, and find out who changed it.",
        )
    return found[0] if found else None


def find_all(registry: Registry) -> list[BlindReview]:
    """Find every review of the installation, the oldest first."""
    with registry.reading() as session:
        return list(session.scalars(select(BlindReview).order_by(BlindReview.opened_at, BlindReview.id)))


def find_all_open(registry: Registry) -> list[BlindReview]:
    """Find every open review of the installation, the oldest first."""
    query = _OPEN
    with registry.reading() as session:
        return list(session.scalars(query.order_by(BlindReview.opened_at, BlindReview.id)))


def find_last(registry: Registry, line: str) -> tuple[BlindReview, ReviewClosing | None]:
    """Find the line's open review, or else the one that was opened last. Raises NotFoundError for neither."""
    with registry.reading() as session:
        query = select(BlindReview).where(BlindReview.line == line).order_by(BlindReview.opened_at.desc())
        review = find_open(session, line) or session.scalars(query.limit(1)).one_or_none()
        if review is None:
            raise NotFoundError(f"Line {line} has had no review.", "Open one.", act="open_review", line=line)
        return review, session.get(ReviewClosing, review.id)


def find_closed(registry: Registry, line: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Find every closed review of a line, in the order of closing."""
    query = (
        select(BlindReview, ReviewClosing)
        .join(ReviewClosing, ReviewClosing.review_id == BlindReview.id)
        .where(BlindReview.line == line)
        .order_by(ReviewClosing.closed_at, BlindReview.id)
    )
    with registry.reading() as session:
        return [(review, closing) for review, closing in session.execute(query)]


def find_closed_of(registry: Registry, line: str, weights: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Find the line's closed reviews whose candidate had these weights, under any artifact and registered version.

    A changed recipe or release registers the same weights once more.

    Args:
        weights: their SHA-256 (`Adapter.adapter_sha256`).
    """
    of_weights = select(Adapter.id).where(Adapter.line == line, Adapter.adapter_sha256 == weights)
    with registry.reading() as session:
        ids = set(session.scalars(of_weights))
    return [each for each in find_closed(registry, line) if each[0].adapter_id in ids]
