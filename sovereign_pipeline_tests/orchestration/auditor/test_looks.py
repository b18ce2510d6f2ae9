"""What a query asks about: read from it as it will be run, whatever form it has."""

from typing import Any

import pytest
from graphql import GraphQLError, GraphQLSchema, OperationType

from sovereign_pipeline.orchestration.auditor.looks import MOST, ODD, Look, page_look, query_look
from sovereign_pipeline.orchestration.auditor.schema import schema_for_auditors

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
