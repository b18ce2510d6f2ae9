"""Which assets, runs and lines a query asks about.

What belongs here: reading that from a query and its variables, as they will be run. What does not: whether it may be
asked (`schema.py`), and writing it down (`access_log.py`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_argument_values,
    get_variable_values,
    parse,
    visit,
)

NAMING = {
    **dict.fromkeys(
        ("assetKey", "assetKeys", "asset_key", "assetSelection", "selected_asset_keys", "prefix"), "assets"
    ),
    **dict.fromkeys(("runId", "runIds", "backfillId"), "runs"),
    **dict.fromkeys(("partition", "partitions", "partition_name"), "lines"),
}
"""Argument, or field of one, as Dagster's code calls it -> what it names. A line is a partition of each asset, and a
backfill a group of runs."""
TAGS = {
    "dagster/partition": "lines",
    **dict.fromkeys(("dagster/backfill", "dagster/parent_run_id", "dagster/root_run_id"), "runs"),
}
"""Tag by which runs are looked for -> what its value names."""
MOST = 100
"""Names of one kind that are written down; a query of the whole graph names fewer."""
_NAME = re.compile(r"[\w.:/-]{1,200}", re.ASCII)
_PATH = re.compile(r"/[\w.:/@~+*\"-]{0,199}", re.ASCII)
ODD = "(no name)"
"""In place of what cannot be the name of an asset, run or line: an access log is no place for a text."""


@dataclass(frozen=True)
class Look:
    """One page or query, as the access log has it; two that are equal are the same look."""

    kind: str
    """page, query or subscription."""
    name: str
    """The page's path, or the name that the query gives itself."""
    fields: tuple[str, ...] = ()
    """What it asks for at its root."""
    assets: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def page_look(path: str) -> Look:
    return Look("page", path if _PATH.fullmatch(path) else ODD)


def query_look(schema: GraphQLSchema, kind: OperationType, query: Any, variables: Any) -> Look:
    """What a document asks about. query, variables: as they were sent.

    Raises GraphQLError for one that is not exactly one operation of this kind, or whose variables do not fit.
    """
    if not isinstance(query, str) or not isinstance(variables or {}, Mapping):
        raise GraphQLError("A query is a text, and its variables are an object.")
    document = parse(query)
    operations = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation is not kind:
        raise GraphQLError(f"Send one {kind.value} and nothing else: nothing can be changed here.")
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
    """Collects the names in the arguments of every field, fragments included."""

    def __init__(self, schema: GraphQLSchema, types: TypeInfo, variables: dict[str, Any]) -> None:
        super().__init__()
        self._roots = (schema.query_type, schema.subscription_type)
        self._types = types
        self._variables = variables
        self.fields: dict[str, None] = {}
        self.named: dict[str, dict[str, None]] = {what: {} for what in NAMING.values()}

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        field = self._types.get_field_def()
        if field is None:  # unknown to the schema: Dagster refuses the query
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
        if key == "prefix":  # of an asset's key: its parts
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
