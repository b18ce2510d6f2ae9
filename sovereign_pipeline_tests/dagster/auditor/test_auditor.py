"""The auditor's Dagster: what a query asks about, the log of it, the part of the schema, and whom it answers."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    OperationType,
    get_named_type,
    parse,
    validate,
)

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.pages import SECRET_HEADER, Proxy
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster import auditor as module
from sovereign_pipeline.dagster.auditor import (
    EVALUATED,
    MOST,
    NAMING,
    ODD,
    PERSON,
    PERSON_HEADER,
    PRINTED,
    SECONDS_OF_A_LOOK,
    AccessLog,
    Look,
    auditors_proxy,
    for_named,
    page_look,
    query_look,
    schema_for_auditors,
)
from sovereign_pipeline.dagster.services import Ports, serve_until_interrupted
from sovereign_pipeline_tests.examples import examples

TEXT = "Dear Sir, the quay is closed."


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    found: GraphQLSchema = schema_for_auditors().graphql_schema
    return found


@pytest.mark.parametrize(
    ("form", "query", "variables", "found"), examples(__file__, "what_a_query_asks_about_is_found")
)
def test_what_a_query_asks_about_is_found(
    schema: GraphQLSchema, form: str, query: str, variables: dict[str, Any], found: dict[str, Any]
) -> None:
    named: dict[str, Any] = {key: tuple(each) for key, each in found.items() if key != "name"}
    look = Look("query", found["name"], **named)
    assert query_look(schema, OperationType.QUERY, query, variables) == look, form


def test_no_argument_that_names_an_asset_or_a_run_is_overlooked(schema: GraphQLSchema) -> None:
    given = [
        (argument.out_name or name, argument)
        for type_ in schema.type_map.values()
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
        for field in type_.fields.values()
        for name, argument in field.args.items()
    ]
    keys = {name for name, argument in given if get_named_type(argument.type).name == "AssetKeyInput"}
    runs = {name for name, _ in given if name.lower().replace("_", "") in ("runid", "runids")}
    assert keys and runs and not (keys | runs) - NAMING.keys()


def test_a_very_long_list_is_counted(schema: GraphQLSchema) -> None:
    query = "query ($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) { id } }"
    keys = [{"path": [f"asset_{number}"]} for number in range(MOST + 7)]
    assert query_look(schema, OperationType.QUERY, query, {"keys": keys}).assets[MOST:] == ("and 7 more",)


@pytest.mark.parametrize(
    ("query", "kind"),
    [*examples(__file__, "anything_but_one_operation_of_its_kind_is_refused"), ("{a" * 20_000, "query")],
)
def test_anything_but_one_operation_of_its_kind_is_refused(schema: GraphQLSchema, query: str, kind: str) -> None:
    with pytest.raises(GraphQLError):
        query_look(schema, OperationType(kind), query, {})


def test_a_page_is_named_by_its_path() -> None:
    assert page_look('/asset-groups~++"raw_corpus"').name == '/asset-groups~++"raw_corpus"'
    assert page_look("/assets/" + TEXT).name == ODD


LOOK = Look("query", "AssetQuery", ("assetOrError",), assets=("raw_corpus",))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_look_is_one_line_in_ten_minutes(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "logs" / "access.jsonl"
    log = AccessLog(path, lambda: now[0])
    for person in ("layla", "layla", "omar"):
        log.write(person, LOOK)
    assert [each["who"] for each in lines(path)] == ["layla", "omar"]
    assert lines(path)[0] | {"at": ""} == {
        "at": "",
        "who": "layla",
        "kind": "query",
        "name": "AssetQuery",
        "fields": ["assetOrError"],
        "assets": ["raw_corpus"],
    }
    now[0] = SECONDS_OF_A_LOOK
    path.rename(path.with_suffix(".old"))  # as logrotate does
    log.write("layla", LOOK)
    log.write('layla\n{"who": "omar"}', LOOK)
    assert [each["who"] for each in lines(path)] == ["layla", 'layla\n{"who": "omar"}']


def fields(schema: GraphQLSchema) -> Iterator[tuple[str, str]]:
    """Each field that there is, as `Type.field`, and the name of what it gives."""
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for name, field in type_.fields.items():
                yield f"{type_.name}.{name}", get_named_type(field.type).name


def test_no_field_gives_what_a_step_or_sensor_printed_or_runs_a_sensor(schema: GraphQLSchema) -> None:
    found = dict(fields(schema))
    assert not (PRINTED | EVALUATED) & set(found.values())
    printing = {"stdout", "stderr", "capturedLogs", "capturedLogsMetadata", "logEvents"}
    left = [name for name in found if name.split(".")[1] in printing]
    # The types themselves stay, and nothing leads to them. What shows how to read logs elsewhere is a command, no log.
    assert {name.split(".")[0] for name in left} <= {*PRINTED, "LogRetrievalShellCommand"}


@pytest.mark.parametrize("query", examples(__file__, "what_is_not_there_is_refused"))
def test_what_is_not_there_is_refused(schema: GraphQLSchema, query: str) -> None:
    assert validate(schema, parse(query)) or (schema.mutation_type is None and query.startswith("mutation"))


@pytest.mark.security_case(
    "An auditor requests a sensor's dry run, for which Dagster would run it and add partitions",
    "the query is rejected, and no sensor is run",
)
def test_no_sensor_is_run_for_a_query(schema: GraphQLSchema) -> None:
    place = '{repositoryName: "r", repositoryLocationName: "l", sensorName: "new_lines"}'
    query = "{ sensorOrError(sensorSelector: %s) { ... on Sensor { nextTick { timestamp %s } } } }"
    assert validate(schema, parse(query % (place, ""))) == []
    assert validate(schema, parse(query % (place, "evaluationResult { skipReason }")))


@pytest.mark.security_case(
    "A later Dagster shows steps' output under another name, and the list of permitted queries is outdated",
    "the auditor's Dagster does not start",
)
@pytest.mark.parametrize(
    ("known", "other"), [("PRINTED", {"PrintedLogs"}), ("EVALUATED", {"Tried"}), ("QUERIES", {"assetsAndMore"})]
)
def test_another_schema_than_the_known_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, known: str, other: set[str]
) -> None:
    monkeypatch.setattr(module, known, getattr(module, known) | other)
    with pytest.raises(RuntimeError, match=r"that auditor\.py lists"):
        schema_for_auditors()


PORTS = Ports(0, 0, 0, 0, 0, auditor=0)


@pytest.mark.security_case(
    (
        "An auditor's Dagster is started without a proxy secret, with a short one, or with one that "
        "other accounts can read"
    ),
    "nothing starts",
)
def test_without_a_secret_nothing_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    path = tmp_path / "secret"
    given = replace(settings, auditor_proxy_secret=path)

    def refused(with_settings: Settings, why: str) -> None:
        with pytest.raises(InputError, match=why):
            serve_until_interrupted(with_settings, PORTS, lambda text: None)
        assert not settings.home.exists()

    refused(settings, "SOVEREIGN_AUDITOR_PROXY_SECRET is not set")
    refused(given, "the file does not exist")
    path.write_text("x" * 40)
    path.chmod(0o644)
    refused(given, "other accounts can read")
    path.write_text("short")
    path.chmod(0o600)
    refused(given, "fewer than 32")
    path.write_text("x" * 40)
    assert auditors_proxy(given)


@pytest.mark.parametrize(
    ("sent", "name"), [("ليلى".encode(), "ليلى"), (b"Jos\xe9", "Jos\\xe9")], ids=["utf-8", "other"]
)
def test_a_name_is_recorded_as_the_provider_wrote_it(sent: bytes, name: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[PERSON])

    headers = [(PERSON_HEADER.lower().encode(), sent), (SECRET_HEADER.lower().encode(), b"s" * 32)]
    scope = {"type": "http", "path": "/", "client": ("127.0.0.1", 1), "headers": headers}
    asyncio.run(for_named(app, Proxy(frozenset({"127.0.0.1"}), b"s" * 32))(scope, None, None))  # type: ignore[arg-type]
    assert seen == [name]
