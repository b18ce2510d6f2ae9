"""Serve the read-only pages under `/registry`: sign-in, the list of adapters, and one adapter."""

import datetime
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse

from sovereign_pipeline.base import pages as shell
from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SovereignError, place_of
from sovereign_pipeline.base.hosts import Proxy
from sovereign_pipeline.base.pages import LANGUAGE_COOKIE, Language, language_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import ClassificationLadder, load_institution
from sovereign_pipeline.record.catalog import (
    STATES,
    State,
    adapters_in_brief,
    find_adapter,
    line_of,
    urgent_promotions,
)
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.release.cadence import Due, due_reviews
from sovereign_pipeline.release.standing import standings_of_adapter
from sovereign_pipeline.serving.gateway.auth import Caller, Tokens, callers_of, file_of
from sovereign_pipeline.web.adapter_view import FURTHER, adapter_view, moment, next_step
from sovereign_pipeline.web.rendering import NextStep, adapter_page, policy, render

COOKIE = "registry_reader"
HOURS = 8
MOST_SESSIONS = 1000
"""Maximum number of sessions. A session beyond it ends the oldest one."""


@dataclass(frozen=True)
class _Adapter:
    line: str
    classification: str


@dataclass(frozen=True)
class Reader:
    """A signed-in reader with the caller's grants."""

    caller: Caller
    ladder: ClassificationLadder

    def reads(self, line: str, classification: str) -> bool:
        return self.caller.may_oversee(_Adapter(line, classification), self.ladder)

    def reads_line(self, line: str) -> bool:
        """Return whether the reader's grants cover the line, whatever the levels of its adapters."""
        return any(grant.admin and (grant.lines is None or line in grant.lines) for grant in self.caller.grants)


class Readers:
    """The sign-in state of one process: proxy users and token sessions."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._tokens = Tokens(file_of(settings))
        self._sessions: dict[str, tuple[str, datetime.datetime]] = {}
        """Cookie value -> token, and end of the session."""
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


ORDER: tuple[State, ...] = ("production", "staged", "approved", "in review", "registered")
"""States in display order. Adapters in other states serve nobody, and the page folds them."""


@dataclass(frozen=True)
class Row:
    id: str
    state: State
    classification: str
    method: str
    base_model: str
    registered_at: str
    is_urgent: bool
    """True if the adapter was promoted without passing its trial."""
    due: Due | None
    next_step: NextStep | None
    """Next transition of the line's newest adapter in each state; None for other adapters."""


@dataclass(frozen=True)
class LineRows:
    line: str
    rows: tuple[Row, ...]
    folded: tuple[Row, ...]
    withheld: tuple[tuple[str, int], ...]
    """Classification level -> number of adapters at this level that are hidden from the reader."""


def overview(registry: Registry, reader: Reader, today: datetime.date) -> tuple[LineRows, ...]:
    """Return every line that a reader may see, by name. Raises IntegrityError that names the changed record."""
    with registry.reading() as session:
        urgent = urgent_promotions(session)
    brief = [{**row, "is_urgent": row["id"] in urgent} for row in adapters_in_brief(registry)]
    due = {each.adapter: each for each in due_reviews(registry, registry.settings, today)}
    by_line: dict[str, list[dict[str, Any]]] = {}
    for row in brief:
        by_line.setdefault(line_of(row["id"]), []).append(row)
    return tuple(
        _line(registry, reader, line, rows, due) for line, rows in sorted(by_line.items()) if reader.reads_line(line)
    )


def _line(
    registry: Registry, reader: Reader, line: str, rows: Sequence[Mapping[str, Any]], due: Mapping[str, Due]
) -> LineRows:
    withheld = Counter(row["classification"] for row in rows if not reader.reads(line, row["classification"]))
    seen = [row for row in rows if row["classification"] not in withheld]
    leading = {row["state"]: row["id"] for row in seen if row["state"] in FURTHER and row["state"] in ORDER}
    shown = [_row(registry, row, due.get(row["id"]), leading) for row in reversed(seen)]
    return LineRows(
        line,
        tuple(sorted((row for row in shown if row.state in ORDER), key=lambda row: ORDER.index(row.state))),
        tuple(sorted((row for row in shown if row.state not in ORDER), key=lambda row: STATES.index(row.state))),
        tuple(sorted(withheld.items())),
    )


def _row(registry: Registry, row: Mapping[str, Any], due: Due | None, leading: Mapping[State, str]) -> Row:
    step = None
    if leading.get(row["state"]) == row["id"]:
        with registry.reading() as session:
            asked = standings_of_adapter(session, registry.settings, trust_root(registry.settings), row["id"])
        step = next_step(registry, find_adapter(registry, row["id"]), row["state"], asked)
    return Row(
        row["id"],
        row["state"],
        row["classification"],
        row["method"],
        row["base_model"],
        moment(row["registered_at"]),
        row["is_urgent"],
        due,
        step,
    )


_LOG = logging.getLogger(__name__)

PATH = "/registry"
LONGEST_FORM = 2_000
"""Maximum size of the sign-in form, in bytes."""
HEADERS = {
    **shell.HEADERS,
    "Content-Security-Policy": f"""{policy("'self'")}; frame-ancestors 'none'""",
    # Not `no-referrer`: browsers would then hide the origin of our own form, and it would be rejected as foreign.
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
        """Return whether the adapter exists and the reader may see it. Call this before reading anything else about
        it."""
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
        today = datetime.datetime.now(datetime.UTC).date()
        return render("overview.html", language, lines=overview(pages.registry, reader, today), policy=None)

    return _answer(request, pages, page)


@router.get("/{adapter_id}")
def show_adapter(request: Request, pages: Pages, adapter_id: str) -> Response:
    def page(reader: Reader, language: Language) -> str | None:
        if not pages.reaches(reader, adapter_id):
            return None
        now = datetime.datetime.now(datetime.UTC)
        return adapter_page(adapter_view(pages.registry, pages.store, adapter_id, now), language)

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
    """Serve a page to a reader, and the sign-in form to anybody else. A page outside the reader's grants returns the
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
        return _message(request, 409, "Something on record was changed, so nothing is shown. Tell the administrator.")
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
    """Return the language in the URL, or else the one chosen on the review page."""
    asked = request.query_params.get(LANGUAGE_COOKIE)
    if asked is not None:
        return "ar" if asked == "ar" else "en"
    return language_of(request)


async def _token_in(request: Request) -> str:
    """Read the token from a form. Returns "" if the form is another one or too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            return ""
    given = parse_qs(body.decode("latin-1")).get("token", [])
    return given[0].strip() if len(given) == 1 else ""
