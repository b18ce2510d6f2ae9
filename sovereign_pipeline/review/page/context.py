"""What every request of the page shares, and who sent a request: the dependencies of the routes.

What belongs here: values that a route takes by `Depends`. What does not: how a session is signed (`sessions.py`).
"""

from typing import Annotated

from fastapi import Depends, Request

from sovereign_pipeline.base.errors import SignInError
from sovereign_pipeline.base.hosts import Proxy
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.review.links import SignedIn
from sovereign_pipeline.review.page.open_reviews import OpenReview, OpenReviews
from sovereign_pipeline.review.page.sessions import Sessions

SESSION_COOKIE = "session"
FORM_HEADER = "X-Form-Token"


class PageContext:
    """One application's settings, registry, sessions and open reviews."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.sessions = Sessions(settings)
        self.reviews = OpenReviews(settings, registry)
        self.proxy = Proxy(settings.review_proxies)

    def is_behind_tls(self, request: Request) -> bool:
        if request.url.scheme == "https":
            return True
        return self.proxy.sent(request.scope) and request.headers.get("x-forwarded-proto") == "https"


def context_of(request: Request) -> PageContext:
    context: PageContext = request.app.state.context
    return context


Context = Annotated[PageContext, Depends(context_of)]


def signed_in(request: Request, context: Context) -> SignedIn:
    """Who sent a request: whom the trusted proxy names, else whom the session cookie is signed for.

    Raises SignInError for nobody, and for a session that a newer link has ended.
    """
    header = context.settings.review_user_header
    named = context.proxy.named(request.scope, header) if header is not None else None
    if named is not None:
        return context.reviews.sign_in(named)
    who = context.sessions.read(request.cookies.get(SESSION_COOKIE, ""))
    context.reviews.assert_not_ended(who)
    return who


Reader = Annotated[SignedIn, Depends(signed_in)]
"""Who may read a page."""


def signed_in_by_form(request: Request, context: Context, reader: Reader) -> SignedIn:
    """Who sent a request that changes something. Raises SignInError unless a page of ours made it (CSRF)."""
    if not context.sessions.is_form_token(reader, request.headers.get(FORM_HEADER, "")):
        raise SignInError("This request did not come from the page.", "Load the page again.")
    return reader


Author = Annotated[SignedIn, Depends(signed_in_by_form)]
"""Who may record a ballot or a guess."""


def review_of_reader(context: Context, reader: Reader) -> OpenReview:
    """The open review that a request is about. Raises ConflictError once it is closed."""
    return context.reviews.get(reader.review)


Review = Annotated[OpenReview, Depends(review_of_reader)]
