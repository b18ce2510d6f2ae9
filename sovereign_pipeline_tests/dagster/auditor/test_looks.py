"""What a query asks about: read from it as it will be run, whatever form it has."""

from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    OperationType,
    get_named_type,
)

from sovereign_pipeline.dagster.auditor import MOST, NAMING, ODD, Look, page_look, query_look, schema_for_auditors

TEXT = "Dear Sir, the quay is closed."


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    found: GraphQLSchema = schema_for_auditors().graphql_schema
    return found


ASKED: dict[str, tuple[str, dict[str, Any], Look]] = {
    "by a variable": (
        "query One($key: AssetKeyInput!) { assetOrError(assetKey: $key) { __typename } }",
        {"key": {"path": ["raw_corpus"]}},
        Look("query", "One", ("assetOrError",), assets=("raw_corpus",)),
    ),
    "by a variable's default": (
        'query Two($run: ID! = "1a-2b") { runOrError(runId: $run) { __typename } }',
        {},
        Look("query", "Two", ("runOrError",), runs=("1a-2b",)),
    ),
    "in the query, under another name": (
        '{ x: assetOrError(assetKey: {path: ["raw_corpus"]}) { __typename } version }',
        {},
        Look("query", "", ("assetOrError", "version"), assets=("raw_corpus",)),
    ),
    "in a fragment": (
        'query Three { ...Rest } fragment Rest on Query { runOrError(runId: "1a") { __typename } }',
        {},
        Look("query", "Three", ("runOrError",), runs=("1a",)),
    ),
    "within an argument": (
        'query Four { runsOrError(filter: {runIds: ["1a", "2b"]}) { __typename } }',
        {},
        Look("query", "Four", ("runsOrError",), runs=("1a", "2b")),
    ),
    "a line": (
        'query Five { assetCheckExecutions(assetKey: {path: ["a", "b"]}, checkName: "c", partition: "lamps", limit: 1) '
        "{ id } }",
        {},
        Look("query", "Five", ("assetCheckExecutions",), assets=("a/b",), lines=("lamps",)),
    ),
    "a line and a backfill, by tags of runs": (
        'query Tagged { runsOrError(filter: {tags: [{key: "dagster/partition", value: "lamps"}, '
        '{key: "dagster/backfill", value: "3c"}, {key: "other", value: "x"}]}) { __typename } }',
        {},
        Look("query", "Tagged", ("runsOrError",), runs=("3c",), lines=("lamps",)),
    ),
    "by the beginning of a key": (
        'query Prefix($none: [String!]) { assetsOrError(prefix: ["a", "b"]) { __typename } '
        "all: assetsOrError(prefix: $none) { __typename } }",
        {"none": None},
        Look("query", "Prefix", ("assetsOrError",), assets=("a/b",)),
    ),
    "a backfill, and an asset of it": (
        'query Backfill { partitionBackfillOrError(backfillId: "3c") { ... on PartitionBackfill { '
        'partitionsTargetedForAssetKey(assetKey: {path: ["raw_corpus"]}) { partitionKeys } } } }',
        {},
        Look("query", "Backfill", ("partitionBackfillOrError",), assets=("raw_corpus",), runs=("3c",)),
    ),
    "a text in place of a name": (
        "query Six($run: ID!) { runOrError(runId: $run) { __typename } }",
        {"run": TEXT},
        Look("query", "Six", ("runOrError",), runs=(ODD,)),
    ),
}


@pytest.mark.parametrize("form", ASKED)
def test_what_a_query_asks_about_is_found(schema: GraphQLSchema, form: str) -> None:
    query, variables, look = ASKED[form]
    assert query_look(schema, OperationType.QUERY, query, variables) == look


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
    [
        ("mutation { setNuxSeen }", OperationType.QUERY),
        ("{ version }", OperationType.SUBSCRIPTION),
        ('subscription { pipelineRunLogs(runId: "1a") { __typename } }', OperationType.QUERY),
        ("query A { version } query B { version }", OperationType.QUERY),
        ("query A { version } mutation B { setNuxSeen }", OperationType.QUERY),
        ("fragment F on Query { version }", OperationType.QUERY),
        ("query ($run: ID!) { runOrError(runId: $run) { __typename } }", OperationType.QUERY),
        ("no query", OperationType.QUERY),
        ("{a" * 20_000, OperationType.QUERY),
    ],
)
def test_anything_but_one_operation_of_its_kind_is_refused(
    schema: GraphQLSchema, query: str, kind: OperationType
) -> None:
    with pytest.raises(GraphQLError):
        query_look(schema, kind, query, {})


def test_a_page_is_named_by_its_path() -> None:
    assert page_look('/asset-groups~++"raw_corpus"').name == '/asset-groups~++"raw_corpus"'
    assert page_look("/assets/" + TEXT).name == ODD
