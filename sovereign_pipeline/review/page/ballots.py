"""Recording a ballot: the route, and what of a request is checked before it is recorded."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.review.ballots import HIGHEST, LOWEST, Preference, give_ballot, ratings_asked
from sovereign_pipeline.review.page.context import Author, Context, Review

router = APIRouter()


class SentBallot(Frozen):
    preference: Preference
    ratings: dict[str, Annotated[int, Field(strict=True, ge=LOWEST, le=HIGHEST)]]


@router.post("/pairs/{pair}", status_code=204)
def record_ballot(context: Context, author: Author, review: Review, pair: str, sent: SentBallot) -> None:
    if pair not in review.pairs(author.operator):
        raise NotFoundError("This pair is not one of yours.")
    if set(sent.ratings) != set(ratings_asked(review.contents.plan.criteria)):
        raise InputError("The rating is not complete.", "Load the page again.")
    give_ballot(context.registry, context.settings, author, pair, sent.preference, sent.ratings)
