"""The index of what adapters hold, recalls, known issues and reviews.

The index has no triggers: it is derived from artifacts, and rebuilding it deletes. Its tables have no foreign keys:
ten million pairs are entered without looking two more tables up for each.
"""

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.ledger.migrations.append_only import forbid_changes

revision = "0008"
down_revision = "0007"

DIGEST = sa.String(64)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _make_index()
    _make_recalls()
    _make_notes("known_issue", "added_at")
    _make_notes("adapter_review", "reviewed_at")


def _make_index() -> None:
    op.create_table(
        "document",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_document"),
        sa.UniqueConstraint("name", name="uq_document_name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "held_dataset",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_held_dataset"),
        sa.UniqueConstraint("digest", name="uq_held_dataset_digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dataset_document",
        sa.Column("document", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("dataset", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("document", "dataset", name="pk_dataset_document"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_dataset_document_dataset", "dataset_document", ["dataset", "document"])
    op.create_table(
        "dataset_source",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("dataset", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("source", "dataset", name="pk_dataset_source"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "adapter_dataset",
        sa.Column("dataset", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("directly", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "adapter", name="pk_adapter_dataset"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_adapter_dataset_adapter", "adapter_dataset", ["adapter"])
    op.create_table(
        "adapter_base_model",
        sa.Column("base_model", DIGEST, nullable=False),
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("directly", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("base_model", "adapter", name="pk_adapter_base_model"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_adapter_base_model_adapter", "adapter_base_model", ["adapter"])


def _make_recalls() -> None:
    op.create_table(
        "recall",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("dataset", DIGEST, nullable=True),
        sa.Column("base_model", DIGEST, nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("officer", sa.String(), nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_recall"),
        sqlite_with_rowid=False,
    )
    forbid_changes("recall", ("id",))
    for table, more in (
        ("recall_adapter", ()),
        (
            "recall_waiver",
            (
                sa.Column("reason", sa.String(), nullable=False),
                sa.Column("officer", sa.String(), nullable=False),
                sa.Column("waived_at", TIME, nullable=False),
            ),
        ),
    ):
        op.create_table(
            table,
            sa.Column("recall_id", sa.String(), nullable=False),
            sa.Column("adapter_id", sa.String(), nullable=False),
            *more,
            sa.PrimaryKeyConstraint("recall_id", "adapter_id", name=f"pk_{table}"),
            sa.ForeignKeyConstraint(["recall_id"], ["recall.id"], name=f"fk_{table}_recall_id_recall"),
            _of_adapter(table),
            sqlite_with_rowid=False,
        )
        forbid_changes(table, ("recall_id", "adapter_id"))


def _make_notes(table: str, time: str) -> None:
    """A table of what an officer writes about one adapter."""
    op.create_table(
        table,
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("officer", sa.String(), nullable=False),
        sa.Column(time, TIME, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "number", name=f"pk_{table}"),
        _of_adapter(table),
        sqlite_with_rowid=False,
    )
    forbid_changes(table, ("adapter_id", "number"))


def _of_adapter(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name=f"fk_{table}_adapter_id_adapter")
