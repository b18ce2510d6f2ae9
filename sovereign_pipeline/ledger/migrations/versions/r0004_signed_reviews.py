"""The key that signs the acts of a review, and where the log ends in which they are unsigned.

A review that is there already keeps NULL. An entry names every such review: from there on none can be added, since no
entry can be put in before it.
"""

import datetime

import sqlalchemy as sa
from alembic import op

from sovereign_pipeline.base.files import digest_of

revision = "0004"
down_revision = "0003"

ACTION = "unsigned reviews end here"

review = sa.table("blind_review", sa.column("id", sa.String()))
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
    op.add_column("blind_review", sa.Column("act_key", sa.String(64), nullable=True))
    connection = op.get_bind()
    unsigned = list(connection.scalars(sa.select(review.c.id).order_by(review.c.id)))
    if not unsigned:
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
        "subjects": {"reviews": unsigned},
        "previous": last.hash if last is not None else "0" * 64,
    }
    connection.execute(sa.insert(entry).values(**{**content, "at": at}, hash=digest_of(content)))
