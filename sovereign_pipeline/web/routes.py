"""Serve the read-only pages under `/registry`: sign-in, the list of lines, one line, and one adapter. Also serve the
readable files of artifacts, each verified against its manifest first."""

import datetime
import logging
import re
import secrets
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse

from sovereign_pipeline.base import pages as shell
from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SovereignError, place_of
from sovereign_pipeline.base.pages import (
    LANGUAGE_COOKIE,
    Language,
    Proxy,
    for_hosts,
    hash_of,
    language_of,
    listen,
    serve_app,
)
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.manifest import READABLE, Manifest
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.serving.gateway.auth import Caller, Tokens, callers_of, file_of
from sovereign_pipeline.web.rendering import STYLE, adapter_page, document_page, policy, render
from sovereign_pipeline.web.views import Reader, adapter_view, line_view, overview

COOKIE = "registry_reader"
HOURS = 8
MOST_SESSIONS = 1000
"""Maximum number of sessions. A further session ends the oldest one."""


class Readers:
    """The sign-in state of one process: proxy users and token sessions."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._tokens = Tokens(file_of(settings))
        self._sessions: dict[str, tuple[str, datetime.datetime]] = {}
        """Maps a cookie's value to the session's token and the time when the session ends."""
        self._changing = threading.Lock()

    def of(self, request: Request) -> Reader | None:
        """Return a request's reader, or None if the request is anonymous or the reader has no right to read. Raises
        IntegrityError if the token file is invalid."""
        institution = load_institution(self._settings.data)
        named = callers_of(self._settings, institution, self._tokens).named(request.scope)
        caller = named if named is not None else self._of_session(request.cookies.get(COOKIE, ""))
        if caller is None or not caller.may_administer:
            return None
        return Reader(caller, institution.ladder)

    def begin(self, token: str) -> str | None:
        """Open a session for a token. Returns the cookie's value, or None if the token does not permit reading."""
        caller = self._of_token(token)
        if caller is None or not caller.may_administer:
            return None
        value = secrets.token_urlsafe(32)
        with self._changing:
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[value] = (token, _now() + datetime.timedelta(hours=HOURS))
        return value

    def end(self, request: Request) -> None:
        with self._changing:
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def _of_session(self, value: str) -> Caller | None:
        token, ends = self._sessions.get(value, ("", _now()))
        return self._of_token(token) if _now() < ends else None

    def _of_token(self, token: str) -> Caller | None:
        if not token:
            return None
        self._tokens.compare_with(self._registry)
        return self._tokens.caller(token, _now())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


_LOG = logging.getLogger(__name__)

PATH = "/registry"
LONGEST_FORM = 2_000
"""Maximum size of the sign-in form, in bytes."""
HEADERS = {
    **shell.HEADERS,
    "Content-Security-Policy": f"""{policy("'self'")}; frame-ancestors 'none'""",
    # Not `no-referrer`, because browsers would then hide the origin of our own form, and the form would be rejected as
    # foreign.
    "Referrer-Policy": "same-origin",
}

router = APIRouter(prefix=PATH)


class RegistryPages:
    """The state shared by all requests. Opens the registry at the first request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self.settings)

    @cached_property
    def store(self) -> ArtifactStore:
        return open_store(self.settings, registry=self.registry)

    @cached_property
    def readers(self) -> Readers:
        return Readers(self.settings, self.registry)

    def reaches(self, reader: Reader, adapter_id: str) -> bool:
        """Return whether the adapter exists and the reader may see it. Call this before reading anything else about the
        adapter."""
        try:
            adapter = find_adapter(self.registry, adapter_id)
        except NotFoundError:
            return False
        return reader.reads(adapter.line, adapter.classification)

    def is_behind_tls(self, request: Request) -> bool:
        if request.url.scheme == "https":
            return True
        proxy = Proxy(self.settings.serving_proxies)
        return proxy.sent(request.scope) and request.headers.get("x-forwarded-proto") == "https"


def pages_of(request: Request) -> RegistryPages:
    pages: RegistryPages = request.app.state.registry_pages
    return pages


Pages = Annotated[RegistryPages, Depends(pages_of)]


@router.get("")
def show_overview(request: Request, pages: Pages) -> Response:
    def page(reader: Reader, language: Language) -> str:
        return render("overview.html", language, lines=overview(pages.registry, reader, _now().date()), policy=None)

    return _answer(request, pages, page)


@router.get("/lines/{line}")
def show_line(request: Request, pages: Pages, line: str) -> Response:
    def page(reader: Reader, language: Language) -> str | None:
        view = line_view(pages.registry, reader, line, _now().date())
        return render("line.html", language, view=view, policy=None) if view is not None else None

    return _answer(request, pages, page)


@router.get("/{adapter_id}")
def show_adapter(request: Request, pages: Pages, adapter_id: str) -> Response:
    def page(reader: Reader, language: Language) -> str | None:
        if not pages.reaches(reader, adapter_id):
            return None
        return adapter_page(adapter_view(pages.registry, pages.store, adapter_id, _now()), language)

    return _answer(request, pages, page)


@router.post("/sign-in")
async def sign_in(request: Request, pages: Pages) -> Response:
    token = await _token_in(request)
    try:
        session = await run_in_threadpool(lambda: pages.readers.begin(token)) if token else None
    except Exception as error:
        return _failed(request, error)
    if session is None:
        return _sign_in_page(request, is_refused=True)
    response = RedirectResponse(PATH, 303, headers=HEADERS)
    response.set_cookie(
        COOKIE,
        session,
        max_age=HOURS * 3600,
        path=PATH,
        httponly=True,
        samesite="strict",
        secure=pages.is_behind_tls(request),
    )
    return response


@router.post("/sign-out")
def sign_out(request: Request, pages: Pages) -> Response:
    pages.readers.end(request)
    response = RedirectResponse(PATH, 303, headers=HEADERS)
    response.delete_cookie(COOKIE, path=PATH)
    return response


def _answer(request: Request, pages: RegistryPages, page: Callable[[Reader, Language], str | None]) -> Response:
    """Serve a page to a reader, and the sign-in form to anyone else. A page outside the reader's grants returns the
    same 404 as a missing page."""
    try:
        reader = pages.readers.of(request)
        if reader is None:
            return _sign_in_page(request)
        content = page(reader, _language(request))
    except Exception as error:
        return _failed(request, error)
    return _html(request, content) if content is not None else _message(request, 404, "There is no such page.")


def _failed(request: Request, error: Exception) -> Response:
    """Log an error and show a general message, because the error may name an adapter that the reader may not see."""
    _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
    if isinstance(error, IntegrityError):
        return _message(request, 409, "A logged record was changed, so the page is not shown. Tell the administrator.")
    return _message(request, 500, "The page cannot be shown now. Tell the administrator.")


def _sign_in_page(request: Request, *, is_refused: bool = False) -> Response:
    content = render("sign_in.html", _language(request), is_refused=is_refused, policy=None)
    return _html(request, content, 401)


def _message(request: Request, status: int, text: str) -> Response:
    return _html(request, render("message.html", _language(request), text=text, policy=None), status)


def _html(request: Request, content: str, status: int = 200) -> Response:
    response = HTMLResponse(content, status, headers=HEADERS)
    if request.query_params.get(LANGUAGE_COOKIE) in ("en", "ar"):
        response.set_cookie(LANGUAGE_COOKIE, _language(request), httponly=True, samesite="strict")
    return response


def _language(request: Request) -> Language:
    """Return the language in the URL. If the URL has none, return the language that was chosen on the review page."""
    asked = request.query_params.get(LANGUAGE_COOKIE)
    if asked is not None:
        return "ar" if asked == "ar" else "en"
    return language_of(request)


async def _token_in(request: Request) -> str:
    """Read the token from a form. Returns "" unless the form has exactly one token and is short enough."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            return ""
    given = parse_qs(body.decode("latin-1")).get("token", [])
    return given[0].strip() if len(given) == 1 else ""


MEDIA_TYPES = {".json": "application/json", ".png": "image/png"}

POLICY = (
    f"default-src 'none'; style-src {hash_of(STYLE)}; img-src data:; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'none'; sandbox allow-same-origin"
)
"""Content security policy of a report: inline pictures, and no scripts, frames or external resources."""

SITE = PROJECT_ROOT / "site"
"""Directory of the documentation site, which `make docs` builds. The site's own scripts may run; nothing external is
loaded."""
SITE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_DIGEST = re.compile(r"[0-9a-f]{64}")


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(for_hosts, hosts=settings.ui_hosts)
    store = open_store(settings)

    @app.middleware("http")
    async def with_headers(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        policy = SITE_POLICY if request.url.path.startswith("/docs/") else POLICY
        for name, value in {**shell.HEADERS, "Content-Security-Policy": policy}.items():
            response.headers.setdefault(name, value)  # the registry's pages set their own headers
        return response

    @app.exception_handler(NotFoundError)
    async def not_found(request: Request, error: NotFoundError) -> Response:
        return Response("There is no such page.", 404, media_type="text/plain")

    @app.exception_handler(IntegrityError)
    async def changed(request: Request, error: IntegrityError) -> Response:
        return Response(str(error), 409, media_type="text/plain")

    app.state.registry_pages = RegistryPages(settings)
    app.include_router(router)

    @app.get("/")
    def root() -> Response:
        return RedirectResponse("/registry")

    @app.get("/ready")
    def ready() -> Response:
        return Response("ready", media_type="text/plain")

    if SITE.is_dir():
        app.mount("/docs", StaticFiles(directory=SITE, html=True))

    @app.get("/{digest}/{name}")
    def page(digest: str, name: str) -> Response:
        manifest, content = read_verified(store, digest, name)
        if name.endswith((".html", ".md")):
            return HTMLResponse(document_page(manifest, name, content.decode("utf-8")))
        return Response(content, media_type=MEDIA_TYPES[Path(name).suffix])

    return app


def read_verified(store: ArtifactStore, digest: str, name: str) -> tuple[Manifest, bytes]:
    """Return an artifact's manifest and the bytes of one of its readable files. Raises NotFoundError if the artifact
    is missing or has no readable file of this name, and IntegrityError if the bytes changed."""
    if not _DIGEST.fullmatch(digest):
        raise NotFoundError("There is no such artifact.")
    ref = store.ref_of(digest)
    manifest = store.read_manifest(ref)
    if name not in READABLE.get(manifest.kind, {}):
        raise NotFoundError("There is no such file.")
    return manifest, store.read_file(ref, manifest, name)


def main() -> None:
    keep_private()
    port = int(sys.argv[1])
    app = create_app(Settings.from_environment())
    with listen(port, "--pages-port") as held:
        serve_app(app, held)


if __name__ == "__main__":
    main()
