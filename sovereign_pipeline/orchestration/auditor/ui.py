"""The auditor's Dagster on loopback, behind the institution's proxy.

Dagster's own read-only mode refuses changes, and still gives a run's debug file, what steps printed, notebooks and the
instance's configuration. What belongs here: the routes that are left, and writing each look down before it is
answered. What does not: what may be asked (`schema.py`). A process of its own, started by `services.py`:
`python -m sovereign_pipeline.orchestration.auditor.ui PORT`.
"""

import sys
from asyncio import Task
from typing import Any

from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_webserver.webserver import DagsterWebserver
from graphene import Schema
from graphql import GraphQLError, GraphQLFormattedError, OperationType
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn import Config, Server

from sovereign_pipeline.base.hosts import App, Proxy, for_hosts, listen
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.orchestration.auditor.access_log import AccessLog, access_log_of
from sovereign_pipeline.orchestration.auditor.looks import Look, page_look, query_look
from sovereign_pipeline.orchestration.auditor.schema import schema_for_auditors
from sovereign_pipeline.orchestration.auditor.sign_in import PERSON, READY, auditors_proxy, for_named
from sovereign_pipeline.orchestration.dagster_ui import guarded, loaded_workspace
from sovereign_pipeline.orchestration.instance import open_instance

PAGES = ("assets", "asset-groups", "automation", "deployment", "guess", "jobs", "locations", "overview", "runs")
"""First parts of the paths of Dagster's pages; the proxies let through the same."""

ONE_QUERY = "Send one query, as a JSON object with the key query. A batch of several is not answered.\n"


class AuditorsWebserver(DagsterWebserver[Any, Any]):
    """Dagster's webserver with fewer routes and a smaller schema."""

    def __init__(self, context: WorkspaceProcessContext, log: AccessLog) -> None:
        self._log = log
        super().__init__(context)

    def build_graphql_schema(self) -> Schema:
        return schema_for_auditors()

    def build_routes(self) -> list[BaseRoute]:
        """Only what is listed is there; a later Dagster's new routes are not."""
        return [
            Route(READY, lambda request: PlainTextResponse("ready")),
            Route("/graphql", self.graphql_http_endpoint, methods=["POST"]),
            WebSocketRoute("/graphql", self.graphql_ws_endpoint),
            *self.build_static_routes(),  # type: ignore[no-untyped-call]
            Route("/", self.index_html_endpoint),
            *(Route(f"/{page}{{rest:path}}", self.index_html_endpoint) for page in PAGES),
        ]

    def index_html_endpoint(self, request: Request) -> Response:
        self._record(request, page_look(request.scope["path"]))
        page: Response = super().index_html_endpoint(request)
        return page

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Dagster's own takes whatever JSON is sent for an object, and fails at a batch, which is a list of queries."""
        try:
            sent = await request.json()
        except (ValueError, RecursionError):
            sent = None
        if not isinstance(sent, dict):
            return PlainTextResponse(ONE_QUERY, 400)
        answer: Response = await super().graphql_http_endpoint(request)
        return answer

    def graphql_execution_thread(
        self, request: Request, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> JSONResponse:
        try:
            look = query_look(self._graphene_schema.graphql_schema, OperationType.QUERY, query, variables)
        except GraphQLError as error:
            return JSONResponse({"data": None, "errors": [error.formatted]}, 400)
        self._record(request, look)
        return super().graphql_execution_thread(request, query, variables, operation_name)

    async def execute_graphql_subscription(
        self,
        websocket: WebSocket,
        operation_id: str,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> tuple[Task[Any] | None, GraphQLFormattedError | None]:
        try:
            schema = self._graphene_schema.graphql_schema
            self._record(websocket, query_look(schema, OperationType.SUBSCRIPTION, query, variables))
        except GraphQLError as error:
            return None, error.formatted
        except HTTPException as error:
            return None, GraphQLError(error.detail).formatted
        return await super().execute_graphql_subscription(websocket, operation_id, query, variables, operation_name)

    def _record(self, connection: HTTPConnection, look: Look) -> None:
        """Raises HTTPException where it cannot be written: what is not on record is not shown."""
        try:
            self._log.write(connection.scope[PERSON], look)
        except OSError:
            raise HTTPException(503, "The access log cannot be written; ask whoever runs this installation.") from None


def auditors_app(settings: Settings, context: WorkspaceProcessContext, proxy: Proxy) -> App:
    """The application, for requests to this installation's names from people whom the proxy names."""
    app = AuditorsWebserver(context, AccessLog(access_log_of(settings))).create_asgi_app()
    return for_hosts(guarded(for_named(app, proxy)), settings.ui_hosts)


def main() -> None:
    """Serve on the port that is the first argument, with the settings of the environment, until terminated."""
    keep_private()
    settings = Settings.from_environment()
    proxy = auditors_proxy(settings)
    with (
        listen(int(sys.argv[1]), "--auditor") as held,
        open_instance(settings) as instance,
        loaded_workspace(instance, read_only=True) as context,
    ):
        app = auditors_app(settings, context, proxy)
        config = Config(app, server_header=False, access_log=False, log_level="warning", proxy_headers=False)
        Server(config).run(sockets=[held])


if __name__ == "__main__":
    main()
