"""The ledger as a Merkle tree: exact bytes of every entry, hashes of complete subtrees, and the key of its checkpoints.

The entries of the hash chain become the first leaves, as they stand. In PostgreSQL every trigger fires always from here
on, also where a session says that it is a replica.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.ledger import triggers
from sovereign_pipeline.ledger.log import tree
from sovereign_pipeline.ledger.migrations.append_only import forbid_changes

revision = "0006"
down_revision = "0005"

PAGE = 5_000
EARLIER = (
    *("dataset", "base_model", "adapter", "audit_entry", "blind_review"),
    *("sign_in_link", "sign_in_use", "ballot", "guess", "review_closing"),
)

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
    op.create_table(
        "ledger_entry",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_ledger_entry"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_node",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name="pk_ledger_node"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_key",
        sa.Column("verifier", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("verifier", name="pk_ledger_key"),
        sqlite_with_rowid=False,
    )
    forbid_changes("ledger_entry", ("sequence",))
    forbid_changes("ledger_node", ("level", "position"))
    forbid_changes("ledger_key", ("verifier",))
    if op.get_bind().dialect.name == "postgresql":
        _let_triggers_fire_always()
    tree.fill(op.get_bind(), _entries(op.get_bind()))


def _let_triggers_fire_always() -> None:
    """One that is missing is named when the registry is opened."""
    there = set(op.get_bind().scalars(sa.text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")))
    for table in EARLIER:
        for trigger, statement in triggers.always(table).items():
            if trigger in there:
                op.execute(statement)


def _entries(connection: sa.Connection) -> Iterator[bytes]:
    """The exact bytes of every entry, oldest first."""
    last = 0
    while rows := connection.execute(
        sa.select(entry).where(entry.c.sequence > last).order_by(entry.c.sequence).limit(PAGE)
    ).all():
        for row in rows:
            if row.sequence != last + 1:
                raise IntegrityError(
                    f"The audit log: entry {last + 1} is missing. The registry was changed past its triggers.",
                    "Restore it from a copy, and find out who changed it.",
                )
            last = row.sequence
            yield _exact_bytes(row)


def _exact_bytes(row: sa.Row[Any]) -> bytes:
    try:
        return canonical_json({**row._asdict(), "at": _in_utc(row.at)})
    except ValueError:  # a number such as NaN, which no entry of ours holds
        raise IntegrityError(
            f"The audit log: entry {row.sequence} was changed. The registry was changed past its triggers.",
            "Restore it from a copy, and find out who changed it.",
        ) from None


def _in_utc(at: Any) -> str:
    in_utc = at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)
    return str(in_utc.isoformat(timespec="microseconds"))
