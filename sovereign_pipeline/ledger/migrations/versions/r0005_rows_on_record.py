"""From here on every row of an adapter, dataset and base model is held to an entry of the audit log.

What stands in the registry already was entered by no entry. One entry takes it over as it stands now, with the digest
of each row: a later change of such a row shows, an earlier one cannot.
"""

import datetime
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.base.files import digest_of

revision = "0005"
down_revision = "0004"

ACTION = "rows of an earlier release taken over"

TABLES = {"adapter": "id", "base_model": "digest", "dataset": "digest"}
"""Table -> its primary key."""

entry = sa.table(
    "audit_entry",
    sa.column("sequence", sa.Integer()),
    sa.column("at", sa.DateTime(timezone=True)),
    sa.column("actor", sa.String()),
    sa.column("action", sa.String()),
    sa.column("subjects", sa.JSON()),
    sa.column("previous", sa.String()),
    sa.column("hash", sa.String()),
)


def upgrade() -> None:
    op.create_index("ix_audit_entry_action", "audit_entry", ["action"])
    connection = op.get_bind()
    rows = {name: _digests(connection, name, key) for name, key in TABLES.items()}
    if not any(rows.values()):
        return
    last = connection.execute(
        sa.select(entry.c.sequence, entry.c.hash).order_by(entry.c.sequence.desc()).limit(1)
    ).one_or_none()
    at = datetime.datetime.now(datetime.UTC)
    content = {
        "sequence": last.sequence + 1 if last is not None else 1,
        "at": at.isoformat(timespec="microseconds"),
        "actor": "sovereign",
        "action": ACTION,
        "subjects": {"rows": {name: digests for name, digests in rows.items() if digests}},
        "previous": last.hash if last is not None else "0" * 64,
    }
    connection.execute(sa.insert(entry).values(**{**content, "at": at}, hash=digest_of(content)))


def _digests(connection: sa.Connection, name: str, key: str) -> dict[str, str]:
    """Key of a row -> SHA-256 over its columns that hold something, as `rows_on_record.digest_of_columns` has it."""
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    found = {}
    for row in connection.execute(sa.select(table).order_by(table.c[key])).mappings():
        columns = {column.name: _plain(column, row[column.name]) for column in table.columns}
        found[row[key]] = digest_of({column: value for column, value in columns.items() if value is not None})
    return found


def _plain(column: sa.Column[Any], value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        aware = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)
        return aware.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return json.loads(value) if isinstance(column.type, sa.JSON) and isinstance(value, str) else value
