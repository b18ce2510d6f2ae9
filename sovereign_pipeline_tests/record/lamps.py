"""A registry in whose ledger lamps are lit: acts of no other meaning, for whatever is about the ledger alone."""

import datetime
import json
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import checkpoints, notes, replay
from sovereign_pipeline.record.audit_log import FIRST, Parsed, append, content_of
from sovereign_pipeline.record.audit_log import exact_bytes as bytes_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.merkle import Growth, leaf_hash
from sovereign_pipeline.record.notes import Signer, TreeHead, parse_note, parse_tree_head
from sovereign_pipeline.record.tables import LedgerEntry, LedgerNode


def light(registry: Registry, *lamps: int) -> None:
    """One act for each lamp."""
    for lamp in lamps:
        with registry.writing() as session:
            append(session, "officer", f"lamp {lamp} lit", {"lamp": lamp, "digest": "d" * 64})


def light_past_the_program(registry: Registry, *lamps: int, signer: Signer | None = None) -> None:
    """By somebody who has the database and this code: chain, tree and head are as they should be, by another key."""
    replay.forget_all()
    with registry.engine.begin() as connection:
        leaves = leaves_in(connection)
        for lamp in lamps:
            entry = Parsed(
                sequence=len(leaves) + 1,
                at=datetime.datetime(2026, 11, 27, 4, tzinfo=datetime.UTC),
                actor="nobody",
                action=f"lamp {lamp} lit",
                subjects={"lamp": lamp},
                previous=json.loads(leaves[-1])["hash"] if leaves else FIRST,
                hash="",
            )
            leaves.append(bytes_of(entry._replace(hash=digest_of(content_of(entry)))))
        rewrite(connection, leaves, signer or checkpoints.new_log())


def die(*given: object) -> None:
    """Stand in for a step in which a process is killed."""
    raise KeyboardInterrupt


def signer_of(registry: Registry) -> Signer:
    signer = checkpoints.signer(registry.settings)
    assert signer is not None
    return signer


def signed_head(tree: Growth, signer: Signer, suffix: str = "") -> str:
    """The note about a tree that the ledger's key, or another one, signed."""
    text = TreeHead(signer.name + suffix, tree.size, tree.root()).to_text()
    return str(notes.Note(text, (notes.signed(text, signer),)))


def tree_of(leaves: Sequence[bytes]) -> Growth:
    growth = Growth()
    for leaf in leaves:
        list(growth.add(leaf_hash(leaf)))
    return growth


def rewrite(connection: Connection, leaves: Sequence[bytes], signer: Signer) -> None:
    """Put these entries and their tree in the place of whatever was there."""
    growth = Growth()
    nodes = [each for leaf in leaves for each in growth.add(leaf_hash(leaf))]
    head = signed_head(growth, signer, checkpoints.HEAD)
    connection.execute(delete(LedgerEntry))
    connection.execute(delete(LedgerNode))
    if not leaves:
        return
    rows = [
        {"sequence": number, "data": leaf, "head": head if number == len(leaves) else None}
        for number, leaf in enumerate(leaves, 1)
    ]
    connection.execute(insert(LedgerEntry), rows)
    connection.execute(
        insert(LedgerNode), [{"level": level, "position": place, "hash": hash} for (level, place), hash in nodes]
    )


def leaves_in(connection: Connection) -> list[bytes]:
    return [bytes(each) for each in connection.scalars(select(LedgerEntry.data).order_by(LedgerEntry.sequence))]


def cut_to(registry: Registry, entries: int) -> None:
    """As a copy of the database was when it had so many entries."""
    replay.forget_all()
    growth = Growth()
    with registry.engine.begin() as connection:
        connection.execute(delete(LedgerEntry).where(LedgerEntry.sequence > entries))
        connection.execute(delete(LedgerNode))
        for data in leaves_in(connection):
            for (level, position), hash in growth.add(leaf_hash(data)):
                connection.execute(insert(LedgerNode).values(level=level, position=position, hash=hash))


def kept(settings: Settings) -> TreeHead:
    """What the checkpoint in the home says."""
    return parse_tree_head(parse_note((settings.ledger / "checkpoint").read_text()).text)


def exact_bytes(registry: Registry) -> list[bytes]:
    with registry.engine.connect() as connection:
        return leaves_in(connection)
