"""Define what all web pages share: loopback ports, host names, the institution's proxy, style sheet, security headers,
templates and translation."""

import base64
import hashlib
import hmac
import json
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sovereign_pipeline.base.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Environment

Language = Literal["en", "ar"]
LANGUAGE_COOKIE = "language"

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Security headers of every page. Each server adds its content security policy."""


@cache
def style(own: Path) -> str:
    """Return a server's style sheet: the shared rules (with a light and a dark theme), then the server's own rules."""
    shared = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return shared + own.read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """Return the CSP source expression that allows an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def templates(folder: Path) -> "Environment":
    """Return a Jinja environment for the templates in a folder. It escapes every value and raises an error for an
    unknown name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def translations(arabic: Path) -> Callable[[str, Language], str]:
    """Return a function that translates sentences with a JSON table of English and Arabic. Sentences that are not in
    the table stay English."""
    table: dict[str, str] = json.loads(arabic.read_text(encoding="utf-8"))
    return lambda sentence, language: table.get(sentence, sentence) if language == "ar" else sentence


class Request(Protocol):
    """The properties of an HTTP request that web pages read."""

    @property
    def cookies(self) -> Mapping[str, str]: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


def language_of(request: Request) -> Language:
    """Return the language that the user chose on the page. Without a choice, return English or Arabic, whichever the
    browser prefers."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is None:
        accepted = [part.strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((each for each in accepted if each in ("en", "ar")), "en")
    return "ar" if chosen == "ar" else "en"


LOOPBACK = "127.0.0.1"
REVIEW_PORT = 8600
"""Default port of the review page."""
GATEWAY_PORT = 8800
"""Default port of the gateway."""


def listen(port: int, option: str) -> socket.socket:
    """Return a socket that listens on a loopback port. Raises InputError if the port cannot be used.

    Args:
        option: the command-line option that changes the port, for the error's hint.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((LOOPBACK, port))
        held.listen()
    except OSError as error:
        held.close()
        raise InputError(
            f"Port {port} of {LOOPBACK} is already in use ({error.strerror}).",
            f"End the program that uses this port, or choose another port with {option}.",
        ) from None
    return held


SECRET_HEADER = "X-Proxy-Secret"
SHORTEST_SECRET = 32
LONGEST_NAME = 200
"""Maximum number of characters of a header value that names a person. Longer values are ignored."""

Scope = MutableMapping[str, Any]
"""The scope of an ASGI request."""


@dataclass(frozen=True)
class Proxy:
    """Authenticates requests that the institution's proxy forwards."""

    addresses: frozenset[str]
    secret: bytes | None = field(default=None, repr=False)
    """Secret that the proxy sends in X-Proxy-Secret. If None, the proxy is authenticated by its address alone."""

    def sent(self, scope: Scope) -> bool:
        """Return True if the proxy opened this connection and sent its secret (if any). Ignores forwarding headers."""
        if scope.get("client") is None or scope["client"][0] not in self.addresses:
            return False
        return self.secret is None or _is_same(self.secret, _values(scope, SECRET_HEADER))

    def named(self, scope: Scope, header: str) -> str | None:
        """Return the value that the proxy set in a header. Return None if the request did not come from the proxy, or
        if the header is missing, repeated, empty or too long."""
        values = _values(scope, header) if self.sent(scope) else []
        if len(values) != 1 or not 0 < len(values[0]) <= LONGEST_NAME:
            return None
        return values[0].decode("latin-1")


def read_secret(path: Path) -> bytes:
    """Read the proxy's secret from a file. Raises InputError if the file is missing or readable by other accounts, or
    if the secret is too short."""
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist.", "Create the file with the secret that the proxy sends.")
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path}: other accounts can read the proxy's secret.", f"Run `chmod 600 {path}`.")
    secret = path.read_bytes().strip()
    if len(secret) < SHORTEST_SECRET:
        raise InputError(
            f"{path}: the proxy's secret has fewer than {SHORTEST_SECRET} characters.",
            "Use a long random secret, such as the output of `openssl rand -hex 32`.",
        )
    return secret


def _is_same(secret: bytes, sent: list[bytes]) -> bool:
    return len(sent) == 1 and hmac.compare_digest(hashlib.sha256(secret).digest(), hashlib.sha256(sent[0]).digest())


def _values(scope: Scope, header: str) -> list[bytes]:
    name = header.lower().encode("latin-1", "replace")
    return [value for given, value in scope["headers"] if given.lower() == name]


Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FROM_HERE = (b"same-origin", b"none")
"""Accepted values of Sec-Fetch-Site: the request came from a page of this UI, or the user typed or bookmarked the
URL."""


REFUSAL = b"This installation does not serve this host name, or the request came from a page of another site.\n"


def for_hosts(app: App, hosts: Collection[str], refusal: bytes = REFUSAL, content_type: bytes = b"text/plain") -> App:
    """Wrap an application so that it answers only requests to the host names in `hosts`. A request from another site's
    page is refused, unless it follows a link."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _is_ours(scope, hosts):
            await refuse(scope, send, 403, refusal, content_type)
        else:
            await app(scope, receive, send)

    return answer


async def refuse(scope: Scope, send: Send, status: int, body: bytes, content_type: bytes = b"text/plain") -> None:
    """Answer an HTTP request with an error, or close a web socket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": body})


def serve_app(app: App, held: socket.socket) -> None:
    """Serve an application on a bound socket until terminated, without an access log."""
    from uvicorn import Config, Server

    config = Config(app, server_header=False, access_log=False, log_level="warning", proxy_headers=False)
    Server(config).run(sockets=[held])


def _is_ours(scope: Scope, hosts: Collection[str]) -> bool:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    named = headers.get(b"host", [])
    origins = headers.get(b"origin", [])
    sites = headers.get(b"sec-fetch-site", [])
    if len(named) != 1 or _host_in(_HOST, named[0]) not in hosts:
        return False
    if any(_host_in(_ORIGIN, origin) not in hosts for origin in origins):
        return False
    # A link on another site may open a page here, because opening a page changes nothing. GraphQL queries may not come
    # from another site.
    follows_a_link = headers.get(b"sec-fetch-mode") == [b"navigate"] and "graphql" not in scope["path"]
    return follows_a_link or all(site in FROM_HERE for site in sites)


_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
"""Pattern of a Host header. A URL parser would read `127.0.0.1:80,evil` and `evil@127.0.0.1` as 127.0.0.1."""
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://" + _HOST.pattern)


def _host_in(pattern: re.Pattern[bytes], value: bytes) -> str | None:
    found = pattern.fullmatch(value)
    return (found[1] or found[2]).decode("ascii").lower() if found is not None else None
