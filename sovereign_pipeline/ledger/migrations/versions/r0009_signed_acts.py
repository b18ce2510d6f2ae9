"""The signed statements of recalls, their waivers, known issues and reviews of adapters.

Until now an officer's name was typed. One entry takes over what is on record so, the waivers of gates behind
registered adapters and early closings of blind reviews among it: it goes on to count, and nothing else does that nobody
signed.
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.orm import Session

revision = "0009"
down_revision = "0008"

ACTION = "unsigned acts of an earlier release taken over"
TABLES = {
    "recall": ("id",),
    "recall_waiver": ("recall_id", "adapter_id"),
    "known_issue": ("adapter_id", "number"),
    "adapter_review": ("adapter_id", "number"),
}
"""Table -> its primary key."""


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("statement", sa.LargeBinary(), nullable=True))
    connection = op.get_bind()
    rows = {table: _keys(connection, table, key) for table, key in TABLES.items()}
    rows["review_closing"] = _closed_early(connection)
    waivers = _waivers(connection)
    if not waivers and not any(rows.values()):
        return
    from sovereign_pipeline.ledger.audit_log import append

    given = op.get_context().config
    session = given.attributes.get("session") if given is not None else None
    append(session or Session(connection), "sovereign", ACTION, {"waivers": waivers, "unsigned": rows})


def _keys(connection: sa.Connection, name: str, key: tuple[str, ...]) -> list[str]:
    table = sa.table(name, *(sa.column(each) for each in key))
    return sorted(" ".join(map(str, row)) for row in connection.execute(sa.select(*table.columns)))


def _closed_early(connection: sa.Connection) -> list[str]:
    """Reviews that an officer closed. The statement of a later one stands in the entry of its closing."""
    table = sa.table("review_closing", sa.column("review_id"), sa.column("officer"))
    return sorted(connection.scalars(sa.select(table.c.review_id).where(table.c.officer.is_not(None))))


def _waivers(connection: sa.Connection) -> list[str]:
    """Digests of the waivers that rows of adapters name."""
    adapter = sa.table("adapter", sa.column("gate_records", sa.JSON()))
    found: set[str] = set()
    for records in connection.scalars(sa.select(adapter.c.gate_records)):
        gates: list[dict[str, Any]] = json.loads(records) if isinstance(records, str) else records
        found |= {gate["acceptance"]["digest"] for gate in gates if "acceptance" in gate}
    return sorted(found)
