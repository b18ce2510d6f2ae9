"""The page that an operator sees: the next pair to rate, then the next to guess about, then the end.

What belongs here: showing. What does not: recording (`ballots.py`, `guesses.py`). Everything that a browser gets is
made of the pair's texts, its meaningless id and fixed sentences; only the order of the two answers depends on which is
the candidate's.
"""

from fastapi import APIRouter, Request, Response

from sovereign_pipeline.review.page.context import Context, Reader, Review
from sovereign_pipeline.review.page.rendering import render
from sovereign_pipeline.review.page.translations import CRITERION_MEANINGS

router = APIRouter()


@router.get("/")
def show_question(request: Request, context: Context, reader: Reader, review: Review) -> Response:
    question = context.reviews.next_question(review, reader.operator)
    if question is None:
        return render(
            request, "message.html", title="Thank you", text="All your pairs are rated. You can close this page."
        )
    return render(
        request,
        f"{question.kind}.html",
        question=question,
        texts=review.texts(reader.operator, question.pair),
        criteria=review.contents.plan.criteria,
        meanings=CRITERION_MEANINGS,
        form_token=context.sessions.form_token(reader),
    )
