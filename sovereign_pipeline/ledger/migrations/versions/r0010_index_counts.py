"""How many rows the index of what adapters hold has of each adapter, dataset and document, so that none is lost unseen.

An index that is there is counted as it stands: `sovereign recall --rebuild` compares it with the artifacts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for table, column in (("document", "datasets"), ("held_dataset", "documents"), ("held_dataset", "sources")):
        op.add_column(table, sa.Column(column, sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "held_adapter",
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("datasets", sa.Integer(), nullable=False),
        sa.Column("base_models", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("adapter", name="pk_held_adapter"),
        sqlite_with_rowid=False,
    )
    of_document = "SELECT COUNT(*) FROM dataset_document WHERE dataset_document.document = document.id"
    op.execute(f"UPDATE document SET datasets = ({of_document})")
    documents = "SELECT COUNT(*) FROM dataset_document WHERE dataset_document.dataset = held_dataset.id"
    sources = "SELECT COUNT(*) FROM dataset_source WHERE dataset_source.dataset = held_dataset.id"
    op.execute(f"UPDATE held_dataset SET documents = ({documents}), sources = ({sources})")
    datasets = "SELECT COUNT(*) FROM adapter_dataset WHERE adapter_dataset.adapter = known.adapter"
    bases = "SELECT COUNT(*) FROM adapter_base_model WHERE adapter_base_model.adapter = known.adapter"
    op.execute(
        f"INSERT INTO held_adapter (adapter, datasets, base_models) SELECT adapter, ({datasets}), ({bases}) "
        "FROM (SELECT DISTINCT adapter FROM adapter_base_model) AS known"
    )
