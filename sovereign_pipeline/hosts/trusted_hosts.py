"""Which pages a browser may use the web UIs from: those of this installation alone.

A page elsewhere can have its own host name lead to 127.0.0.1 (DNS rebinding), or send requests to loopback from a
browser on this machine. What belongs here: refusing both. What does not: who the person is, which the institution's
proxy decides.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FROM_HERE = (b"same-origin", b"none")
"""What a browser puts into Sec-Fetch-Site for a request of the UI's own page, and for one that its user made."""


REFUSAL = b"This host name, or the page that this request came from, is not one of this installation.\n"


def for_hosts(app: App, hosts: Collection[str], refusal: bytes = REFUSAL, content_type: bytes = b"text/plain") -> App:
    """An application that answers requests to these host names, from pages of these host names."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _is_ours(scope, hosts):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", content_type)]})
            await send({"type": "http.response.body", "body": refusal})
            return
        await app(scope, receive, send)

    return answer


def _is_ours(scope: Scope, hosts: Collection[str]) -> bool:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    named = headers.get(b"host", [])
    origins = headers.get(b"origin", [])
    sites = headers.get(b"sec-fetch-site", [])
    if len(named) != 1 or _host_of(b"//" + named[0]) not in hosts:
        return False
    if any(_host_of(origin) not in hosts for origin in origins):
        return False
    # A link on another page may lead to a page here, which changes nothing; a query may not come from there.
    follows_a_link = headers.get(b"sec-fetch-mode") == [b"navigate"] and "graphql" not in scope["path"]
    return follows_a_link or all(site in FROM_HERE for site in sites)


def _host_of(address: bytes) -> str | None:
    try:
        return urlsplit(address.decode("ascii")).hostname
    except ValueError:
        return None
