"""Requests, decisions and transitions."""

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.ledger.migrations.append_only import forbid_changes

revision = "0007"
down_revision = "0006"

DIGEST = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "release_request",
        sa.Column("id", DIGEST, nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("transition", sa.String(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_release_request"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_release_request_adapter_id_adapter"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_release_request_line", "release_request", ["line"])
    forbid_changes("release_request", ("id",))

    op.create_table(
        "release_decision",
        sa.Column("request_id", DIGEST, nullable=False),
        sa.Column("keyid", DIGEST, nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "keyid", "decision", name="pk_release_decision"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["release_request.id"], name="fk_release_decision_request_id_release_request"
        ),
        sqlite_with_rowid=False,
    )
    forbid_changes("release_decision", ("request_id", "keyid", "decision"))

    op.create_table(
        "transition",
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("transition", sa.String(), nullable=False),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("after", sa.String(), nullable=False),
        sa.Column("request_id", DIGEST, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("line", "sequence", name="pk_transition"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_transition_adapter_id_adapter"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["release_request.id"], name="fk_transition_request_id_release_request"
        ),
        sqlite_with_rowid=False,
    )
    forbid_changes("transition", ("line", "sequence"))
