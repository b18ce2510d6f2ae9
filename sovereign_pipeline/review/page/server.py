"""The server of the page, on loopback.

What belongs here: how it listens. What does not: what it serves (`app.py`), and TLS: the institution's proxy ends it.
"""

import contextlib
from collections.abc import Callable

from uvicorn import Config, Server

from sovereign_pipeline.base.hosts import LOOPBACK, listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.review.page.app import create_app


def server_config(settings: Settings, registry: Registry, port: int) -> Config:
    """Loopback alone, no header that names the software, and no log of addresses."""
    return Config(
        create_app(settings, registry),
        host=LOOPBACK,
        port=port,
        proxy_headers=False,  # else the proxy's header would replace the address that trust is decided by
        server_header=False,
        access_log=False,
        log_level="warning",
    )


def serve(settings: Settings, registry: Registry, port: int, report: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `report` gets the address once the port is ours. Raises InputError when the port is taken."""
    with listen(port, "--port") as held, contextlib.suppress(KeyboardInterrupt):
        report(f"review page http://{LOOPBACK}:{port}   Ctrl-C ends")
        Server(server_config(settings, registry, port)).run(sockets=[held])
