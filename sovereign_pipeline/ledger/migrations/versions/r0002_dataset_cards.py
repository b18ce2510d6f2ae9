"""What a dataset's card states: the held-out side, levels, token lengths, findings, and the card's own digest.

A row that was registered before keeps NULL there: what it did not state is not made up for it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("dataset", sa.Column("rows_held_out", sa.Integer(), nullable=True))
    op.add_column("dataset", sa.Column("by_classification", sa.JSON(), nullable=True))
    op.add_column("dataset", sa.Column("tokens", sa.JSON(), nullable=True))
    op.add_column("dataset", sa.Column("findings", sa.JSON(), nullable=True))
    op.add_column("dataset", sa.Column("card_sha256", sa.String(64), nullable=True))
