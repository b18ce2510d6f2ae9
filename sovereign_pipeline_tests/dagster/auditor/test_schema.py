"""The part of Dagster's schema that an auditor gets: no mutation, and nothing that was printed."""

from collections.abc import Iterator

import pytest
from graphql import GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema, get_named_type, parse, validate

from sovereign_pipeline.dagster import auditor as module
from sovereign_pipeline.dagster.auditor import EVALUATED, PRINTED, QUERIES, SUBSCRIPTIONS, schema_for_auditors
from sovereign_pipeline_tests.examples import examples


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    found: GraphQLSchema = schema_for_auditors().graphql_schema
    return found


def fields(schema: GraphQLSchema) -> Iterator[tuple[str, str]]:
    """Each field that there is, as `Type.field`, and the name of what it gives."""
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for name, field in type_.fields.items():
                yield f"{type_.name}.{name}", get_named_type(field.type).name


def test_it_has_the_listed_queries_and_no_mutation(schema: GraphQLSchema) -> None:
    assert schema.query_type and schema.subscription_type
    assert schema.query_type.fields.keys() == QUERIES
    assert schema.subscription_type.fields.keys() == SUBSCRIPTIONS
    assert schema.mutation_type is None


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
    "An auditor asks what a sensor would do next, for which Dagster runs it: one adds the partitions of new lines.",
    "The query is refused, and no sensor is run.",
)
def test_no_sensor_is_run_for_a_query(schema: GraphQLSchema) -> None:
    place = '{repositoryName: "r", repositoryLocationName: "l", sensorName: "new_lines"}'
    query = "{ sensorOrError(sensorSelector: %s) { ... on Sensor { nextTick { timestamp %s } } } }"
    assert validate(schema, parse(query % (place, ""))) == []
    assert validate(schema, parse(query % (place, "evaluationResult { skipReason }")))


@pytest.mark.security_case(
    "A later Dagster gives what steps printed under another name, and the list of what auditors may ask is an old one.",
    "The auditor's Dagster does not start.",
)
@pytest.mark.parametrize(
    ("known", "other"), [("PRINTED", {"PrintedLogs"}), ("EVALUATED", {"Tried"}), ("QUERIES", {"assetsAndMore"})]
)
def test_another_schema_than_the_known_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, known: str, other: set[str]
) -> None:
    monkeypatch.setattr(module, known, getattr(module, known) | other)
    with pytest.raises(RuntimeError, match=r"than schema.py lists"):
        schema_for_auditors()
