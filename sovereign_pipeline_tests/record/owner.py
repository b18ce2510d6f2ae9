"""What whoever owns the database, and no key, can do to it: change whatever lies there, past the program."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.orm import Session

from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.record import audit_log, replay, tree
from sovereign_pipeline.record.audit_log import FIRST, ROWS, SEALED, content_of_row, exact_bytes, key_of, named_rows
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.replay import SIGNED, read_blobs
from sovereign_pipeline.record.tables import (
    STORE,
    AuditEntry,
    Blob,
    LedgerEntry,
    Table,
    view_tables,
)
from sovereign_pipeline_tests.record.lamps import leaves_in, rewrite, signed_head, signer_of, tree_of

Rows = dict[tuple[str, str], bytes]
"""Table and primary key -> what lies in the database for the row."""


def change(registry: Registry, statement: str, parameters: Mapping[str, object] | None = None) -> None:
    """Change the database so that its rows would be those that a statement makes of them, if they were believed.

    A changed row is a changed blob under the same SHA-256, a removed one a blob that is gone, and an added one an entry
    that nobody signed. Whoever reads next does so as a process that has just started.
    """
    replay.forget_all()
    named = re.search(r"(?:UPDATE|INTO|FROM|TABLE)\s+(\w+)", statement)
    if named is None or named[1] not in {table.name for table in view_tables()}:
        with registry.engine.begin() as connection:
            connection.execute(text(statement), parameters or {})
        return
    with _changing(registry) as draft:
        before = _rows(draft)
        draft.execute(text(statement), parameters or {})
        after = _rows(draft)
    with registry.engine.begin() as connection:
        for place, content in before.items():
            if after.get(place) != content:
                _replace(connection, place, content, after.get(place))
        if added := {place: after[place] for place in after if place not in before}:
            _add(connection, added)


def forge(registry: Registry, attack: Callable[[Session], object]) -> None:
    """Change the registry as whoever has the database, the home and the log's key: entries, chain, tree, head and
    checkpoint are all made anew, so that the rows are those that the attack leaves.

    Args:
        attack: changes the view, by SQL or by objects; entries may be added by `audit_log.append`.
    """
    replay.forget_all()
    with registry.engine.connect() as connection:
        sealed = [each for each in map(json.loads, leaves_in(connection)) if each["action"] == SEALED]
    with _changing(registry) as draft:
        before = _rows(draft)
        with Session(draft) as session:
            session.info[tree.GROWTH], session.info[audit_log.LAST] = registry.view.growth.copy(), registry.view.last
            attack(session)
            session.flush()
        after = _rows(draft)
        signed = {_digest(each): each for table in SIGNED for each in _bytes_in(draft, table)}
    entries = [json.loads(data) for (table, _), data in after.items() if table == AuditEntry.__tablename__]
    rows = {place: data for place, data in after.items() if place[0] != AuditEntry.__tablename__}
    unnamed = {place for place in rows if place not in before}
    for entry in entries:
        named = named_rows(entry["subjects"])
        for table, of_table in named.items():
            unnamed -= {(table, key) for key in of_table}
            named[table] = {key: _digest(rows[table, key]) for key in of_table if (table, key) in rows}
    if unnamed:
        named = dict[str, dict[str, str]]()
        for table, key in sorted(unnamed):
            named.setdefault(table, {})[key] = _digest(rows[table, key])
        entries.append(_put_in(named, max(entry["sequence"] for entry in [*sealed, *entries]) + 1))
    last, leaves = FIRST, list[bytes]()
    for entry in sorted([*sealed, *entries], key=lambda each: each["sequence"]):
        entry |= {"sequence": len(leaves) + 1, "previous": last}
        entry["hash"] = last = digest_of({name: value for name, value in entry.items() if name != "hash"})
        leaves.append(canonical_json(entry))
    signer = signer_of(registry)
    with registry.engine.begin() as connection:
        rewrite(connection, leaves, signer)
        known = {*connection.scalars(select(Blob.sha256))}
        if new := {_digest(each): each for each in [*rows.values(), *signed.values()] if _digest(each) not in known}:
            connection.execute(insert(Blob), [{"sha256": sha256, "data": data} for sha256, data in new.items()])
    (registry.settings.ledger / "checkpoint").write_text(signed_head(tree_of(leaves), signer))


@contextmanager
def _changing(registry: Registry) -> Iterator[Connection]:
    """The state of a process that has just started, to be changed. It is forgotten afterwards."""
    with registry.reading():
        pass
    registry.view._memory.execute("PRAGMA foreign_keys=OFF")
    with registry.engine.connect() as disk:
        known = dict(read_blobs(disk, disk.scalars(select(Blob.sha256)).all()))
    STORE.read = known.__getitem__
    try:
        with registry.view.changing() as draft:
            yield draft
            draft.rollback()
    finally:
        STORE.read = None
        replay.forget_all()


def _bytes_in(connection: Connection, table: str) -> list[bytes]:
    queries = (text(f"SELECT {column} FROM {table}") for column in SIGNED[table])
    return [each for query in queries for each in connection.scalars(query) if isinstance(each, bytes)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _rows(connection: Connection) -> Rows:
    found: Rows = {}
    classes = {mapper.class_.__tablename__: mapper.class_ for mapper in Table.registry.mappers}
    with Session(connection) as session:
        for table in view_tables():
            for row in session.scalars(select(classes[table.name])):
                is_entry = isinstance(row, AuditEntry)
                found[table.name, key_of(row)] = exact_bytes(row) if is_entry else content_of_row(row)
    return found


def _replace(connection: Connection, place: tuple[str, str], content: bytes, by: bytes | None) -> None:
    table, key = place
    if table == AuditEntry.__tablename__:
        of_entry = LedgerEntry.sequence == int(key)
        connection.execute(
            delete(LedgerEntry).where(of_entry) if by is None else update(LedgerEntry).where(of_entry).values(data=by)
        )
        return
    of_row = Blob.sha256 == _digest(content)
    connection.execute(delete(Blob).where(of_row) if by is None else update(Blob).where(of_row).values(data=by))


def _add(connection: Connection, added: Rows) -> None:
    newest = connection.execute(select(LedgerEntry).order_by(LedgerEntry.sequence.desc()).limit(1)).one()
    rows: dict[str, dict[str, str]] = {}
    for (table, key), content in added.items():
        if table != AuditEntry.__tablename__:
            digest = rows.setdefault(table, {})[key] = _digest(content)
            connection.execute(insert(Blob).values(sha256=digest, data=content))
    entry = _put_in(rows, newest.sequence + 1)
    connection.execute(
        insert(LedgerEntry).values(sequence=newest.sequence + 1, data=canonical_json(entry), head=newest.head)
    )


def _put_in(rows: dict[str, dict[str, str]], sequence: int) -> dict[str, Any]:
    return {
        "action": "row put in",
        "actor": "nobody",
        "at": "2026-01-01T00:00:00.000000+00:00",
        "hash": "f" * 64,
        "previous": "e" * 64,
        "sequence": sequence,
        "subjects": {ROWS: rows},
    }
