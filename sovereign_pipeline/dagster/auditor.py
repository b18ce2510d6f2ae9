"""Serve a read-only Dagster for auditors behind the institution's proxy, and log every query."""

import datetime
import json
import re
import sys
import threading
import time
from asyncio import Task
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.schema import types
from dagster_graphql.schema.roots.query import GrapheneQuery
from dagster_graphql.schema.roots.subscription import GrapheneSubscription
from dagster_webserver.webserver import DagsterWebserver
from graphene import Schema
from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLFormattedError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_argument_values,
    get_named_type,
    get_variable_values,
    parse,
    visit,
)
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.pages import (
    LOOPBACK,
    App,
    Proxy,
    Receive,
    Send,
    for_hosts,
    listen,
    read_secret,
    refuse,
    serve_app,
)
from sovereign_pipeline.base.pages import Scope as Scope
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.dagster.dagster_ui import guarded, loaded_workspace
from sovereign_pipeline.dagster.resources import open_instance

NAMING = {
    **dict.fromkeys(
        ("assetKey", "assetKeys", "asset_key", "assetSelection", "selected_asset_keys", "prefix"), "assets"
    ),
    **dict.fromkeys(("runId", "runIds", "backfillId"), "runs"),
    **dict.fromkeys(("partition", "partitions", "partition_name"), "lines"),
}
"""Maps an argument or field in Dagster's schema to the kind of object that its value names. A line is a partition of
each asset, and a backfill is a group of runs."""
TAGS = {
    "dagster/partition": "lines",
    **dict.fromkeys(("dagster/backfill", "dagster/parent_run_id", "dagster/root_run_id"), "runs"),
}
"""Maps a tag by which runs are filtered to the kind of object that the tag's value names."""
MOST = 100
"""Maximum number of names of one kind that are logged for a query. A query for the whole asset graph has fewer
names."""
_NAME = re.compile(r"[\w.:/-]{1,200}", re.ASCII)
_PATH = re.compile(r"/[\w.:/@~+*\"-]{0,199}", re.ASCII)
ODD = "(no name)"
"""Placeholder for a value that cannot be the name of an asset, run or line, so that the access log contains no other
text."""


@dataclass(frozen=True)
class Look:
    """A page view or query in the access log."""

    kind: str
    """Kind of view: page, query or subscription."""
    name: str
    """Path of the page, or name of the query."""
    fields: tuple[str, ...] = ()
    """Root fields of the query."""
    assets: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def page_look(path: str) -> Look:
    return Look("page", path if _PATH.fullmatch(path) else ODD)


def query_look(schema: GraphQLSchema, kind: OperationType, query: Any, variables: Any) -> Look:
    """Describe a GraphQL document for the access log. Raises GraphQLError unless the document has exactly one
    operation, which is of the given kind and has valid variables."""
    if not isinstance(query, str) or not isinstance(variables or {}, Mapping):
        raise GraphQLError("The query must be a text, and its variables must be an object.")
    document = parse(query)
    operations = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation is not kind:
        raise GraphQLError(f"Send exactly one {kind.value}. This server accepts no changes.")
    (asked,) = operations
    values = get_variable_values(schema, asked.variable_definitions, dict(variables or {}))
    if isinstance(values, list):
        raise values[0]
    types = TypeInfo(schema)
    found = _Found(schema, types, values)
    visit(document, TypeInfoVisitor(types, found))
    named = {what: _few(found.named[what]) for what in sorted(set(NAMING.values()))}
    return Look(kind.value, asked.name.value[:200] if asked.name else "", _few(found.fields), **named)


class _Found(Visitor):
    """A visitor that collects the names in the arguments of every field, including fields in fragments."""

    def __init__(self, schema: GraphQLSchema, types: TypeInfo, variables: dict[str, Any]) -> None:
        super().__init__()
        self._roots = (schema.query_type, schema.subscription_type)
        self._types = types
        self._variables = variables
        self.fields: dict[str, None] = {}
        self.named: dict[str, dict[str, None]] = {what: {} for what in NAMING.values()}

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        field = self._types.get_field_def()
        if field is None:  # Dagster rejects a field that is not in the schema
            return
        if self._types.get_parent_type() in self._roots:
            self.fields[node.name.value] = None
        for what, name in _named(get_argument_values(field, node, self._variables)):
            self.named[what][name] = None


def _named(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tag = TAGS.get(str(arguments.get("key")))
    if tag is not None:
        yield tag, _name(arguments.get("value"))
    for key, value in arguments.items():
        if key == "prefix":  # a prefix of an asset key, as a list of its parts
            value = {"path": value} if value else None
        for each in value if isinstance(value, list) else [value]:
            if key in NAMING and each is not None:
                yield NAMING[key], _name(each)
            elif isinstance(each, Mapping):
                yield from _named(each)


def _name(value: Any) -> str:
    parts = value.get("path") if isinstance(value, Mapping) else None
    text = "/".join(map(str, parts)) if isinstance(parts, list) else str(value)
    return text if _NAME.fullmatch(text) else ODD


def _few(names: Mapping[str, None]) -> tuple[str, ...]:
    shown = tuple(names)[:MOST]
    return shown if len(names) <= MOST else (*shown, f"and {len(names) - MOST} more")


SECONDS_OF_A_LOOK = 600
"""Period in seconds. Equal views by one person within this period are logged once, because an open page repeats its
queries every few seconds."""


def access_log_of(settings: Settings) -> Path:
    return settings.logs / "auditor-access.jsonl"


class AccessLog:
    """An access log that appends to one file. If the file was moved, the log creates a new file at the same path."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._written: set[tuple[str, Look]] = set()

    def write(self, person: str, look: Look) -> None:
        """Log one view, unless an equal view by this person was logged in the current period of ten minutes. Raises
        OSError if the log cannot be written."""
        with self._lock:
            if self._clock() - self._since >= SECONDS_OF_A_LOOK:
                self._since = self._clock()
                self._written.clear()
            if (person, look) in self._written:
                return
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            facts = {name: value for name, value in asdict(look).items() if value}
            line = json.dumps({"at": at, "who": person, **facts}) + "\n"
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as log:
                log.write(line)
            self._written.add((person, look))


QUERIES = frozenset(
    {
        # assets and their checks
        *("assetCheckExecutions", "assetNodeDefinitionCollisions", "assetNodeOrError", "assetNodes", "assetOrError"),
        *("assetRecordsOrError", "assetsLatestInfo", "assetsOrError"),
        # evaluations of automation conditions, schedules and sensors
        *("assetConditionEvaluationForPartition", "assetConditionEvaluationRecordsOrError", "autoMaterializeTicks"),
        *("instigationStateOrError", "scheduleOrError", "sensorOrError"),
        "truePartitionsForAutomationConditionEvaluationNode",
        # runs and their events
        *("logsForRun", "partitionBackfillOrError", "partitionBackfillsOrError", "pipelineRunOrError"),
        *("pipelineRunsOrError", "runGroupOrError", "runOrError", "runTagKeysOrError", "runTagsOrError"),
        *("runsFeedCountOrError", "runsFeedOrError", "runsOrError"),
        # definitions
        *("graphOrError", "partitionSetOrError", "partitionSetsOrError", "pipelineOrError", "pipelineSnapshotOrError"),
        *("repositoriesOrError", "repositoryOrError", "workspaceLocationEntryOrError", "workspaceOrError"),
        # common to all pages
        *("canBulkTerminate", "instance", "latestDefsStateInfo", "locationStatusesOrError", "permissions"),
        *("shouldShowNux", "version"),
    }
)
SUBSCRIPTIONS = frozenset({"locationStateChangeEvents", "pipelineRunLogs"})

PRINTED = frozenset({"CapturedLogs", "CapturedLogsMetadata", "InstigationEventConnection"})
"""Types with the output of a step, sensor or library. Fields of these types are removed from the schema."""
EVALUATED = frozenset({"TickEvaluation"})
"""Types with the dry run of a sensor or schedule. Fields of these types are removed, although they are queries: Dagster
would run the sensor, and the sensor `new_lines` adds partitions."""


def schema_for_auditors() -> Schema:
    """Build a schema with only the listed queries and subscriptions: without mutations, output of steps or sensors, dry
    runs, and the instance's configuration.

    Raises RuntimeError if Dagster's schema lacks a listed query or a removed type, because the removed data may then be
    available under another name.
    """
    schema = Schema(query=GrapheneQuery, subscription=GrapheneSubscription, types=types())  # type: ignore[no-untyped-call]
    found = schema.graphql_schema
    for root, allowed in ((found.query_type, QUERIES), (found.subscription_type, SUBSCRIPTIONS)):
        if root is None or not allowed <= root.fields.keys():
            raise RuntimeError("Dagster's schema lacks a query that auditor.py lists.")
        for name in root.fields.keys() - allowed:
            del root.fields[name]
    taken_away = PRINTED | EVALUATED
    if not found.type_map.keys() >= taken_away:
        raise RuntimeError("Dagster's schema lacks a type of output or dry runs that auditor.py lists.")
    for type_ in found.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for name in [name for name, field in type_.fields.items() if get_named_type(field.type).name in taken_away]:
                del type_.fields[name]
    # The configuration may contain a database URL with its password. Pages request it together with other fields.
    instance = found.type_map["Instance"]
    assert isinstance(instance, GraphQLObjectType)
    instance.fields["info"].resolve = lambda *_, **__: None
    return schema


PERSON_HEADER = "X-Remote-User"
"""Header in which the proxy names the signed-in user."""
PERSON = "person"
"""Key under which a request's scope contains the user's name."""
PLACEHOLDER = "{"
"""Start of an unreplaced variable in a user's name. Caddy 2.6 sends the variable itself if the sign-in provider sent no
name."""
READY = "/ready"
"""Path of the readiness probe, the only path that needs no user."""

REFUSAL = b"The proxy named no user. Open this page at the institution's address, and sign in.\n"


def auditors_proxy(settings: Settings) -> Proxy:
    """Return the proxy in front of the auditor's Dagster. Raises InputError if no secret is configured, because without
    a secret any local program could pose as the proxy."""
    if settings.auditor_proxy_secret is None:
        variable = VARIABLES["auditor_proxy_secret"]
        raise InputError(
            f"{variable} is not set, so every program on this machine could claim to be an auditor.",
            f"Write a secret into a file, have the proxy send it (docs/proxies), and set {variable} to its path.",
        )
    return Proxy(frozenset({LOOPBACK}), read_secret(settings.auditor_proxy_secret))


def for_named(app: App, proxy: Proxy) -> App:
    """Wrap an application so that it answers only users named by the proxy, and the readiness probe."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == READY:
            await app(scope, receive, send)
            return
        person = proxy.named(scope, PERSON_HEADER)
        if person is not None and PLACEHOLDER not in person:
            await app({**scope, PERSON: _written(person)}, receive, send)
        else:
            await refuse(scope, send, 401, REFUSAL)

    return answer


def _written(name: str) -> str:
    """Decode a user's name. Headers were decoded as Latin-1, but names are UTF-8."""
    return name.encode("latin-1").decode("utf-8", "backslashreplace")


PAGES = ("assets", "asset-groups", "automation", "deployment", "guess", "jobs", "locations", "overview", "runs")
"""First path segments of Dagster's pages. The proxies' configurations allow the same paths."""

ONE_QUERY = "Send one query, as a JSON object with the key query. A list of queries is rejected.\n"


class AuditorsWebserver(DagsterWebserver[Any, Any]):
    """Dagster's webserver with fewer routes and a smaller schema."""

    def __init__(self, context: WorkspaceProcessContext, log: AccessLog) -> None:
        self._log = log
        super().__init__(context)

    def build_graphql_schema(self) -> Schema:
        return schema_for_auditors()

    def build_routes(self) -> list[BaseRoute]:
        """Return only the listed routes, so that new routes of a later Dagster are not served."""
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
        """Answer one query. Reject any body that is not a JSON object, because Dagster's own endpoint fails on a list
        of queries."""
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
        """Log a view. Raises HTTPException if logging fails, so that nothing is shown unlogged."""
        try:
            self._log.write(connection.scope[PERSON], look)
        except OSError:
            raise HTTPException(
                503, "The access log cannot be written. Ask the administrator of this installation."
            ) from None


def auditors_app(settings: Settings, context: WorkspaceProcessContext, proxy: Proxy) -> App:
    """Build the application. It answers only requests to this installation's host names, and, except for the readiness
    probe, only users whom the proxy names."""
    app = AuditorsWebserver(context, AccessLog(access_log_of(settings))).create_asgi_app()
    return for_hosts(guarded(for_named(app, proxy)), settings.ui_hosts)


def main() -> None:
    keep_private()
    settings = Settings.from_environment()
    proxy = auditors_proxy(settings)
    with (
        listen(int(sys.argv[1]), "--auditor") as held,
        open_instance(settings) as instance,
        loaded_workspace(instance, read_only=True) as context,
    ):
        serve_app(auditors_app(settings, context, proxy), held)


if __name__ == "__main__":
    main()
