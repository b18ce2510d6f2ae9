"""Recording a guess: which answer of a pair comes from the newer version."""

from fastapi import APIRouter

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.review.ballots import give_guess
from sovereign_pipeline.review.page.context import Author, Context, Review
from sovereign_pipeline.review.plan import Position

router = APIRouter()


class SentGuess(Frozen):
    choice: Position


@router.post("/guesses/{pair}", status_code=204)
def record_guess(context: Context, author: Author, review: Review, pair: str, sent: SentGuess) -> None:
    """Takes guesses once every ballot of the operator is given."""
    question = context.reviews.next_question(review, author.operator)
    is_rating = question is not None and question.kind == "ballot"
    if pair not in review.to_guess(author.operator) or is_rating:
        raise NotFoundError("This pair is not one of yours.")
    give_guess(context.registry, context.settings, author, pair, sent.choice)
