"""Serve Dagster's web UI on loopback. Only configured host names are accepted. GraphQL queries by GET, and framing by
other pages, are rejected. Start the UI in its own process: `python -m sovereign_pipeline.dagster.dagster_ui PORT`."""

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from sovereign_pipeline.base.pages import App, Receive, Send, for_hosts, listen, serve_app
from sovereign_pipeline.base.pages import Scope as Scope
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.resources import open_instance

# The defaults of the program dagster-webserver.
STATEMENT_TIMEOUT_MS = 15_000
POOL_RECYCLE_SECONDS = 3_600
POOL_MAX_OVERFLOW = 20


NOT_FRAMED = [(b"x-frame-options", b"DENY"), (b"content-security-policy", b"frame-ancestors 'none'")]


def guarded(app: App) -> App:
    """Wrap an application to reject framing by other pages, and GraphQL queries by GET."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_not_framed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *NOT_FRAMED]}
            await send(message)

        has_query = scope["type"] == "http" and scope["method"] != "POST" and scope["query_string"]
        if has_query and scope["path"].rstrip("/").endswith("/graphql"):
            await send_not_framed({"type": "http.response.start", "status": 405, "headers": []})
            await send({"type": "http.response.body", "body": b"Send queries by POST.\n"})
            return
        await app(scope, receive, send_not_framed)

    return answer


@contextmanager
def loaded_workspace(instance: dg.DagsterInstance, read_only: bool) -> Iterator[WorkspaceProcessContext]:
    """Load this project's code location for a webserver. With `read_only`, nothing can be launched."""
    instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW)
    workspace = WorkspaceFileTarget([str(Path(__file__).with_name("workspace.yaml"))])
    with WorkspaceProcessContext(instance, workspace, version=__version__, read_only=read_only) as context:
        yield context


def dagster_app(settings: Settings, context: WorkspaceProcessContext) -> App:
    return for_hosts(guarded(create_app_from_workspace_process_context(context)), settings.ui_hosts)


def main() -> None:
    keep_private()
    settings = Settings.from_environment()
    with (
        listen(int(sys.argv[1]), "--port") as held,
        open_instance(settings) as instance,
        loaded_workspace(instance, read_only=False) as context,
    ):
        serve_app(dagster_app(settings, context), held)


if __name__ == "__main__":
    main()
