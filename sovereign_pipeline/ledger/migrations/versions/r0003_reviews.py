"""The audit log, and blind reviews with their links, ballots, guesses and closing."""

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.ledger.migrations.append_only import forbid_changes

revision = "0003"
down_revision = "0002"

DIGEST = sa.String(64)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subjects", sa.JSON(), nullable=False),
        sa.Column("previous", DIGEST, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_entry"),
        sa.UniqueConstraint("previous", name="uq_audit_entry_previous"),
        sa.UniqueConstraint("hash", name="uq_audit_entry_hash"),
        sqlite_with_rowid=False,
    )
    forbid_changes("audit_entry", ("sequence",), ("previous",), ("hash",))

    op.create_table(
        "blind_review",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("opponent_id", sa.String(), nullable=True),
        sa.Column("record_digest", DIGEST, nullable=False),
        sa.Column("plan_digest", DIGEST, nullable=False),
        sa.Column("plan_manifest_sha256", DIGEST, nullable=False),
        sa.Column("seed_sha256", DIGEST, nullable=False),
        sa.Column("ballots", sa.Integer(), nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blind_review"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_blind_review_adapter_id_adapter"),
        sa.ForeignKeyConstraint(["opponent_id"], ["adapter.id"], name="fk_blind_review_opponent_id_adapter"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_blind_review_line", "blind_review", ["line"])
    forbid_changes("blind_review", ("id",))

    op.create_table(
        "sign_in_link",
        sa.Column("token_sha256", DIGEST, nullable=False),
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_sign_in_link"),
        _of_review("sign_in_link"),
        sqlite_with_rowid=False,
    )
    forbid_changes("sign_in_link", ("token_sha256",))

    op.create_table(
        "sign_in_use",
        sa.Column("token_sha256", DIGEST, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_sign_in_use"),
        sa.ForeignKeyConstraint(
            ["token_sha256"], ["sign_in_link.token_sha256"], name="fk_sign_in_use_token_sha256_sign_in_link"
        ),
        sqlite_with_rowid=False,
    )
    forbid_changes("sign_in_use", ("token_sha256",))

    op.create_table(
        "ballot",
        *_of_pair("ballot"),
        sa.Column("preference", sa.String(), nullable=False),
        sa.Column("ratings", sa.JSON(), nullable=True),
        sa.Column("given_at", TIME, nullable=False),
        sqlite_with_rowid=False,
    )
    forbid_changes("ballot", ("review_id", "operator", "pair"))

    op.create_table(
        "guess",
        *_of_pair("guess"),
        sa.Column("choice", sa.String(), nullable=False),
        sa.Column("given_at", TIME, nullable=False),
        sqlite_with_rowid=False,
    )
    forbid_changes("guess", ("review_id", "operator", "pair"))

    op.create_table(
        "review_closing",
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("closed_at", TIME, nullable=False),
        sa.Column("seed", DIGEST, nullable=False),
        sa.Column("ballots", sa.Integer(), nullable=False),
        sa.Column("ballots_sha256", DIGEST, nullable=False),
        sa.Column("officer", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("review_id", name="pk_review_closing"),
        _of_review("review_closing"),
        sqlite_with_rowid=False,
    )
    forbid_changes("review_closing", ("review_id",))


def _of_pair(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("pair", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("review_id", "operator", "pair", name=f"pk_{table}"),
        _of_review(table),
    )


def _of_review(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["review_id"], ["blind_review.id"], name=f"fk_{table}_review_id_blind_review")
