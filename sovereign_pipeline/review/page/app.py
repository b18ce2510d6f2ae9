"""The web application: its routers, its error handlers and its headers put together.

What belongs here: the wiring. What does not: any route (one module per subject).
"""

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.base import BaseHTTPMiddleware

from sovereign_pipeline.base.hosts import for_hosts
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.review.page import ballots, guesses, language, question, refusals, sign_in
from sovereign_pipeline.review.page.context import PageContext
from sovereign_pipeline.review.page.rendering import HERE


def create_app(settings: Settings, registry: Registry) -> FastAPI:
    """Build the web application. It holds no state but what it has read, so any number of processes may serve it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = PageContext(settings, registry)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for subject in (sign_in, language, question, ballots, guesses):
        app.include_router(subject.router)
    refusals.add_handlers(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=refusals.protect)
    # Last, so that it stands before everything: what a page elsewhere sent is not asked whom it names.
    app.add_middleware(for_hosts, hosts=settings.ui_hosts)
    return app
