"""Datasets, base models and adapters."""

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.ledger.migrations.append_only import forbid_changes

revision = "0001"
down_revision = None

DIGEST = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("manifest_sha256", DIGEST, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("file_sha256", DIGEST, nullable=False),
        sa.Column("classification", sa.String(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_dataset"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_dataset_line", "dataset", ["line"])
    forbid_changes("dataset", ("digest",))

    op.create_table(
        "base_model",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("licence", sa.String(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_base_model"),
        sqlite_with_rowid=False,
    )
    forbid_changes("base_model", ("digest",))

    op.create_table(
        "adapter",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("adapter_digest", DIGEST, nullable=False),
        sa.Column("adapter_sha256", DIGEST, nullable=False),
        sa.Column("manifest_sha256", DIGEST, nullable=False),
        sa.Column("record_digest", DIGEST, nullable=False),
        sa.Column("record_manifest_sha256", DIGEST, nullable=False),
        sa.Column("dataset_digest", DIGEST, nullable=False),
        sa.Column("preference_dataset_digest", DIGEST, nullable=True),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("base_model_digest", DIGEST, nullable=False),
        sa.Column("framework_versions", sa.JSON(), nullable=False),
        sa.Column("classification", sa.String(), nullable=False),
        sa.Column("evaluation_report_digest", DIGEST, nullable=False),
        sa.Column("evaluation", sa.JSON(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("review_date", sa.Date(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.String(), nullable=False),
        sa.Column("source_sha256", DIGEST, nullable=False),
        sa.Column("gate_records", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter"),
        sa.UniqueConstraint("line", "version", name="uq_adapter_line_version"),
        sa.UniqueConstraint("record_digest", name="uq_adapter_record_digest"),
        sa.ForeignKeyConstraint(["dataset_digest"], ["dataset.digest"], name="fk_adapter_dataset_digest_dataset"),
        sa.ForeignKeyConstraint(
            ["preference_dataset_digest"], ["dataset.digest"], name="fk_adapter_preference_dataset_digest_dataset"
        ),
        sa.ForeignKeyConstraint(
            ["base_model_digest"], ["base_model.digest"], name="fk_adapter_base_model_digest_base_model"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_adapter_line", "adapter", ["line"])
    forbid_changes("adapter", ("id",), ("line", "version"), ("record_digest",))
