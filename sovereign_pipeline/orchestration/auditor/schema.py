"""What an auditor may ask of Dagster: a part of its GraphQL schema. What is not in a schema cannot be run.

What belongs here: the list, and taking away what is not on it. What does not: reading a query (`looks.py`).
"""

from dagster_graphql.schema import types
from dagster_graphql.schema.roots.query import GrapheneQuery
from dagster_graphql.schema.roots.subscription import GrapheneSubscription
from graphene import Schema
from graphql import GraphQLInterfaceType, GraphQLObjectType, get_named_type

QUERIES = frozenset(
    {
        # assets and their checks
        *("assetCheckExecutions", "assetNodeDefinitionCollisions", "assetNodeOrError", "assetNodes", "assetOrError"),
        *("assetRecordsOrError", "assetsLatestInfo", "assetsOrError"),
        # why an asset was, or was not, asked for
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
        # what every page asks
        *("canBulkTerminate", "instance", "latestDefsStateInfo", "locationStatusesOrError", "permissions"),
        *("shouldShowNux", "version"),
    }
)
SUBSCRIPTIONS = frozenset({"locationStateChangeEvents", "pipelineRunLogs"})

PRINTED = frozenset({"CapturedLogs", "CapturedLogsMetadata", "InstigationEventConnection"})
"""Types that hold what a step or a sensor printed, libraries included: no field anywhere gives one."""
EVALUATED = frozenset({"TickEvaluation"})
"""What a sensor or schedule would do next. To say so Dagster runs it, and one of ours adds partitions for new lines: no
field gives this, though asking for it is a query."""


def schema_for_auditors() -> Schema:
    """Queries and subscriptions of the lists; no mutation, nothing that was printed or is run for the answer, and no
    configuration of the instance.

    Raises RuntimeError where Dagster no longer has what is taken away: another name may give it then.
    """
    schema = Schema(query=GrapheneQuery, subscription=GrapheneSubscription, types=types())  # type: ignore[no-untyped-call]
    found = schema.graphql_schema
    for root, allowed in ((found.query_type, QUERIES), (found.subscription_type, SUBSCRIPTIONS)):
        if root is None or not allowed <= root.fields.keys():
            raise RuntimeError("Dagster's schema has other queries than schema.py lists.")
        for name in root.fields.keys() - allowed:
            del root.fields[name]
    taken_away = PRINTED | EVALUATED
    if not found.type_map.keys() >= taken_away:
        raise RuntimeError("Dagster's schema has other types for what was printed or is run than schema.py lists.")
    for type_ in found.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for name in [name for name, field in type_.fields.items() if get_named_type(field.type).name in taken_away]:
                del type_.fields[name]
    # The configuration may hold the address of a database, with its password. A page asks for it beside other things.
    instance = found.type_map["Instance"]
    assert isinstance(instance, GraphQLObjectType)
    instance.fields["info"].resolve = lambda *_, **__: None
    return schema
