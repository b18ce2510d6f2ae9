"""What every request passes before a route sees it: who sent it, how long it is; and what no response goes without.

What belongs here: this one layer around the application. What does not: host names (`trusted_hosts.py`), and which
adapters a caller may use (`catalog.py`).
"""

import asyncio
import datetime
import json
import logging
from collections.abc import Callable
from typing import Any

from sovereign_pipeline.base.errors import InputError, SovereignError, place_of
from sovereign_pipeline.base.hosts import App, Proxy, Receive, Send, read_secret
from sovereign_pipeline.base.hosts import Scope as Scope
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.serving.callers import Caller, Grant
from sovereign_pipeline.serving.gateway.refusal import Refusal, fault, not_admitted
from sovereign_pipeline.serving.tokens import Tokens

_LOG = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/", "/admin"})
"""What anybody on this machine may ask: nothing that names a line, an adapter or a caller."""
SECONDS_FOR_A_BODY = 30
LONGEST_AUTHORIZATION = 500
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Callers:
    """Who sent a request: whom the institution's proxy names, else whom a token stands for."""

    def __init__(
        self,
        tokens: Tokens,
        proxy: Proxy | None = None,
        user_header: str = "",
        roles_header: str = "",
        roles: dict[str, Role] | None = None,
    ) -> None:
        self._tokens = tokens
        self._proxy = proxy
        self._user_header = user_header
        self._roles_header = roles_header
        self._roles = roles or {}

    def of(self, scope: Scope) -> Caller:
        """Raises Refusal (401) for nobody, and IntegrityError where the tokens cannot be believed."""
        named = self.named(scope)
        if named is not None:
            return named
        sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        kind, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        if kind.lower() != b"bearer" or len(token) > LONGEST_AUTHORIZATION:
            raise not_admitted()
        caller = self._tokens.caller(token.strip().decode("latin-1"), datetime.datetime.now(datetime.UTC))
        if caller is None:
            raise not_admitted()
        return caller

    def named(self, scope: Scope) -> Caller | None:
        """Whom the institution's proxy names; None for nobody."""
        user = self._proxy.named(scope, self._user_header) if self._proxy is not None else None
        if self._proxy is None or user is None:
            return None
        named = self._proxy.named(scope, self._roles_header) or ""
        groups = frozenset(each.strip() for each in named.split(",")) - {""}
        roles = [self._roles[name] for name in sorted(groups) if name in self._roles]
        grants = tuple(
            Grant(
                role.clearance,
                frozenset(role.lines) if role.lines is not None else None,
                role.versions,
                role.metrics,
                role.admin,
                role.users,
            )
            for role in roles
        )
        return Caller(f"proxy {user}", grants, groups)


def callers_of(settings: Settings, institution: Institution, tokens: Tokens) -> Callers:
    """Who is let in. Raises InputError for a header of a proxy that nothing but its address would vouch for."""
    if settings.serving_user_header is None:
        return Callers(tokens)
    if settings.serving_proxy_secret is None:
        raise InputError(
            f"{VARIABLES['serving_user_header']} names a header, and no secret says that the proxy sent it.",
            f"Write a secret into a file, have the proxy send it, and name the file in "
            f"{VARIABLES['serving_proxy_secret']}.",
        )
    proxy = Proxy(settings.serving_proxies, read_secret(settings.serving_proxy_secret))
    return Callers(
        tokens, proxy, settings.serving_user_header, settings.serving_roles_header, institution.serving.roles
    )


def doorway(app: App, callers: Callers, body_bytes: int, refused: Callable[[int], None]) -> App:
    """An application whose requests have a caller and a body of bounded length, read whole.

    `state["caller"]` is who sent a request; None for nobody, on open paths alone.

    Whatever fails behind it ends in an error of OpenAI's form, and in a log without any text of a request.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (app(scope, receive, send) if scope["type"] == "lifespan" else _close(send))
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                given = message.get("headers", [])
                missing = [each for each in HEADERS if each[0] not in {name.lower() for name, _ in given}]
                message = {**message, "headers": [*given, *missing]}
            await send(message)

        try:
            is_open = scope["path"] in OPEN_PATHS
            scope.setdefault("state", {})["caller"] = callers.named(scope) if is_open else callers.of(scope)
            await app(scope, await _read(scope, receive, body_bytes), sending)
        except Refusal as refusal:
            refused(refusal.status)
            await _refuse(refusal, sending)
        except Exception as error:
            _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
            refused(500)
            if not begun:
                await _refuse(fault(), sending)

    return answer


async def _read(scope: Scope, receive: Receive, most: int) -> Receive:
    """The body, and then whatever else comes. Raises Refusal for one that is too long, or too slow."""
    stated = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(not value.isdigit() or int(value[:20]) > most for value in stated):
        raise _too_long(most)
    body = b""
    try:
        async with asyncio.timeout(SECONDS_FOR_A_BODY):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "The request was not sent whole.", "incomplete_request")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_long(most)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(408, "The request took too long to come.", "request_timeout") from None
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def following() -> Any:
        return pending.pop() if pending else await receive()

    return following


def _too_long(most: int) -> Refusal:
    return Refusal(
        413, f"The request has more than {most} bytes.", "request_too_large", headers={"Connection": "close"}
    )


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _close(send: Send) -> None:
    """There are no web sockets here."""
    await send({"type": "websocket.close", "code": 1008})
