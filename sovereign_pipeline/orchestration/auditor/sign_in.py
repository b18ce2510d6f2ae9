"""Who looks: whom the institution's proxy names, and nobody else.

What belongs here: telling the proxy's connections from those of other programs on this machine. What does not: what may
be looked at.
"""

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.hosts import LOOPBACK, App, Proxy, Receive, Send, read_secret
from sovereign_pipeline.base.hosts import Scope as Scope
from sovereign_pipeline.base.settings import VARIABLES, Settings

PERSON_HEADER = "X-Remote-User"
"""Where the proxy names who signed in."""
PERSON = "person"
"""Where the application finds the name, in a request's scope."""
PLACEHOLDER = "{"
"""In a name: Caddy 2.6 sends the name of its variable where the sign-in provider named nobody."""
READY = "/ready"
"""The one path that is answered without a name: whether the server is there."""

REFUSAL = b"The proxy named nobody. Sign in by the institution's address of this page.\n"


def auditors_proxy(settings: Settings) -> Proxy:
    """The proxy in front of the auditor's Dagster. Raises InputError where no secret tells it from other programs."""
    if settings.auditor_proxy_secret is None:
        variable = VARIABLES["auditor_proxy_secret"]
        raise InputError(
            f"{variable} is not set: every program on this machine could claim to be an auditor.",
            f"Write a secret into a file, have the proxy send it (docs/proxies), and name the file in {variable}.",
        )
    return Proxy(frozenset({LOOPBACK}), read_secret(settings.auditor_proxy_secret))


def for_named(app: App, proxy: Proxy) -> App:
    """An application that answers whom the proxy names."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == READY:
            await app(scope, receive, send)
            return
        person = proxy.named(scope, PERSON_HEADER)
        if person is not None and PLACEHOLDER not in person:
            await app({**scope, PERSON: _written(person)}, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": REFUSAL})

    return answer


def _written(name: str) -> str:
    """A name as the provider wrote it. A header has bytes, which are read as Latin-1; names of ours are in UTF-8."""
    return name.encode("latin-1").decode("utf-8", "backslashreplace")
