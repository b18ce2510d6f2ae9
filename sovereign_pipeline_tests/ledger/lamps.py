"""A registry in whose ledger lamps are lit: acts of no other meaning, for whatever is about the ledger alone."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.merkle import Growth, leaf_hash
from sovereign_pipeline.record.notes import TreeHead, parse_note, parse_tree_head
from sovereign_pipeline.record.tables import LedgerEntry
from sovereign_pipeline_tests.ledger.owner import without_triggers


def light(registry: Registry, *lamps: int) -> None:
    """One act for each lamp."""
    for lamp in lamps:
        with registry.writing() as session:
            append(session, "officer", f"lamp {lamp} lit", {"lamp": lamp, "digest": "d" * 64})


def light_past_the_program(registry: Registry, *lamps: int) -> None:
    """By somebody who has the database and this code, and not the key."""
    with Session(registry.engine) as session:
        for lamp in lamps:
            append(session, "nobody", f"lamp {lamp} lit", {"lamp": lamp})
        session.commit()


def cut_to(registry: Registry, entries: int) -> None:
    """As a copy of the database was when it had so many entries."""
    growth = Growth()
    with without_triggers(registry.engine), registry.engine.begin() as connection:
        for table in ("audit_entry", "ledger_entry"):
            connection.execute(text(f"DELETE FROM {table} WHERE sequence > {entries}"))
        connection.execute(text("DELETE FROM ledger_node"))
        for data in connection.scalars(text("SELECT data FROM ledger_entry ORDER BY sequence")).all():
            for (level, position), hash in growth.add(leaf_hash(bytes(data))):
                row = {"level": level, "position": position, "hash": hash}
                connection.execute(text("INSERT INTO ledger_node VALUES (:level, :position, :hash)"), row)


def kept(settings: Settings) -> TreeHead:
    """What the checkpoint in the home says."""
    return parse_tree_head(parse_note((settings.ledger / "checkpoint").read_text()).text)


def exact_bytes(registry: Registry) -> list[bytes]:
    with registry.reading() as session:
        return [each.data for each in session.query(LedgerEntry).order_by(LedgerEntry.sequence)]
