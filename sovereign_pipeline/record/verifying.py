"""Verify the whole ledger from its bytes: hash chain, tree, checkpoints and second copy."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import String, func, select, type_coerce
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import audit_log, checkpoints, notes, tree, witnesses
from sovereign_pipeline.record.checkpoints import Readable
from sovereign_pipeline.record.merkle import Growth, Node, leaf_hash
from sovereign_pipeline.record.notes import TreeHead
from sovereign_pipeline.record.replay import ABOUT_AN_ARTIFACT, SIGNED
from sovereign_pipeline.record.tables import AuditEntry, Blob, LedgerEntry, LedgerNode, SealedEntry, Table
from sovereign_pipeline.record.witnesses import Policy


@dataclass(frozen=True)
class Claim:
    """A signed size and root hash of the tree. `said_by` names the source of the signature in error messages."""

    said_by: str
    head: TreeHead


@dataclass(frozen=True)
class Verified:
    newest: audit_log.Checkpoint
    root: bytes
    in_copy: int | None
    """Number of entries in the second copy, or None if there is none."""
    not_committed: int
    """Number of entries in the second copy whose act was not committed. The next act marks these entries as void."""


@dataclass(frozen=True)
class Report:
    """The result of verifying a registry's ledger against everything stored outside the database."""

    ledger: Verified
    checkpoint: int | None
    """Number of entries that the newest stored checkpoint covers. None before the first act."""
    witnessed: int | None
    """Number of entries covered by the newest checkpoint that enough witnesses cosigned. None if no policy was
    given."""
    cosigned: Mapping[str, int]
    """Mapping of witness to the time of its cosignature on the checkpoint that `witnessed` is about, in seconds since
    1970."""


def verify_registry(registry: Readable, policy: Policy | None = None) -> Report:
    """Verify the ledger, the stored contents of registered datasets, checkpoints and the second copy. With a policy,
    also verify the witnesses' cosignatures. Raises IntegrityError at the first difference, or if no checkpoint has the
    cosignatures that the policy requires."""
    settings = registry.settings
    # Read these before the database, because another process may write in the meantime.
    kept, sent = checkpoints.all_kept(settings), witnesses.asked(settings)
    if (copy := settings.ledger_copy) is not None and copy.exists() and (note := checkpoints.largest_in(copy)):
        kept.append(checkpoints.Kept(copy, note))
    with registry.reading() as session, tree.written_by_this_program():
        log = checkpoints.verified(session, settings, kept)
        claims = [Claim(str(each.path), each.head) for each in kept]
        for note in sent:
            head = notes.parse_tree_head(note.text)
            said_by = f"The checkpoint of {head.size} entries that was sent to witnesses"
            if log is None or not notes.is_signed(note, log):
                raise IntegrityError(f"{said_by} is not signed with the ledger's key.", checkpoints.RESTORE)
            claims.append(Claim(said_by, head))
        ledger = verify_ledger(session, claims, settings.ledger_copy)
        audit_log.assert_contents(session)
    sizes = [each.head.size for each in kept]
    if policy is None:
        return Report(ledger, max(sizes, default=None), None, {})
    if policy.logs and log not in policy.logs:
        raise IntegrityError("The witness policy does not list the ledger's key as a log.", checkpoints.RESTORE)
    witnessed_note = witnesses.newest_witnessed(settings, policy)
    if witnessed_note is None:
        raise IntegrityError(
            "No checkpoint has the cosignatures that the policy requires.",
            "Request the missing cosignatures, and import the witnesses' answers.",
        )
    size = notes.parse_tree_head(witnessed_note.text).size
    return Report(ledger, max(sizes, default=None), size, policy.cosigned(witnessed_note))


def verify_ledger(session: Session, claims: Sequence[Claim] = (), copy: Path | None = None) -> Verified:
    """Verify every entry and hash of the ledger. Raises IntegrityError at the first difference; the error names the
    entry, hash or checkpoint.

    Args:
        claims: signed checkpoints that the tree must match.
        copy: path of the second copy, whose entries must equal the ledger's; None if there is no second copy.
    """
    growth, nodes, copied = Growth(), _Nodes(), _Copied(copy)
    by_size: dict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_size[claim.head.size].append(claim)
    last = audit_log.FIRST
    for sequence, data in tree.leaves(session):
        if sequence != growth.size + 1:
            break
        last = audit_log.verified_hash(sequence, data, last)
        nodes.add(growth.add(leaf_hash(data)))
        copied.compare(sequence, data)
        if sequence in by_size:
            _hold(by_size.pop(sequence), growth.root())
    if growth.size != tree.size_of(session):
        raise audit_log.damaged_registry(growth.size + 1, "is missing")
    if growth.root() != tree.root_at(session, growth.size):
        raise audit_log.damaged_registry(growth.size, "or an earlier entry was changed")
    nodes.assert_stored(session)
    by_size.pop(0, None)
    for claim in (each for claims in by_size.values() for each in claims):
        raise IntegrityError(
            f"{claim.said_by}: the checkpoint covers {claim.head.size} entries, but the ledger has {growth.size}.",
            "Restore the newest backup of the registry, and find out who restored an older one.",
        )
    return Verified(audit_log.Checkpoint(sequence=growth.size, hash=last), growth.root(), *copied.finish())


def rows_beside(session: Session) -> dict[str, int]:
    """Return a mapping of table to the number of rows that no entry refers to. Tables without such rows are omitted.
    Another program wrote these rows, and readers ignore them."""
    named = {digest for each in session.scalars(select(AuditEntry.subjects)) for digest in _digests_in(each)}
    for table, columns in SIGNED.items():
        for column in columns:
            digests = type_coerce(Table.metadata.tables[table].c[column], String)
            named.update(session.scalars(select(digests).where(digests.is_not(None))))
    at_once = {"yield_per": tree.AT_ONCE}
    sealed = select(SealedEntry.manifest_sha256, LedgerEntry.data)
    sealed = sealed.outerjoin(LedgerEntry, LedgerEntry.sequence == SealedEntry.sequence)
    with tree.written_by_this_program():
        blobs = sum(
            1 for sha256 in session.scalars(select(Blob.sha256), execution_options=at_once) if sha256 not in named
        )
        indexed = sum(
            1
            for sha256, data in session.execute(sealed, execution_options=at_once)
            if data is None or not data.startswith(ABOUT_AN_ARTIFACT) or sha256.encode() not in data
        )
    number = LedgerEntry.sequence
    outside = session.scalar(select(func.count()).where((number < 1) | (number > tree.size_of(session)))) or 0
    found = {"blob": blobs, "sealed": indexed, LedgerEntry.__tablename__: outside}
    return {table: count for table, count in found.items() if count}


def _digests_in(subjects: Mapping[str, Any]) -> Iterator[str]:
    for rows in audit_log.named_rows(subjects).values():
        yield from rows.values()
    for each in subjects.get(audit_log.TRAINED_ON, {}).get("datasets", {}).values():
        yield each["contents"]


def _hold(claims: Sequence[Claim], root: bytes) -> None:
    for claim in claims:
        if claim.head.root != root:
            raise IntegrityError(
                f"{claim.said_by}: the ledger's first {claim.head.size} entries differ from the signed entries.",
                "The log was forked. Find out which version was changed.",
            )


class _Nodes:
    """Compares computed subtree hashes with the stored hashes. The hashes of each level are combined into one digest,
    so that millions of hashes need little memory."""

    def __init__(self) -> None:
        self._levels: list[Any] = []

    def add(self, nodes: Iterable[tuple[Node, bytes]]) -> None:
        for (level, _), hash in nodes:
            if level == len(self._levels):
                self._levels.append(hashlib.sha256())
            self._levels[level].update(hash)

    def assert_stored(self, session: Session) -> None:
        """Raise IntegrityError if a stored hash is missing, differs from the computed hash, or belongs to no entry."""
        columns = LedgerNode.__table__.c
        query = select(columns.level, columns.position, columns.hash).order_by(columns.level, columns.position)
        found = [hashlib.sha256() for _ in self._levels]
        counts = [0] * len(found)
        for page in session.execute(query.execution_options(yield_per=tree.AT_ONCE)).partitions():
            for level, group in groupby(page, itemgetter(0)):
                rows = list(group)
                if level not in range(len(found)):
                    raise _wrong_node(session)
                first, counts[level] = counts[level], counts[level] + len(rows)
                if [row[1] for row in rows] != list(range(first, counts[level])):
                    raise _wrong_node(session)
                found[level].update(b"".join(row[2] for row in rows))
        if [each.digest() for each in found] != [each.digest() for each in self._levels]:
            raise _wrong_node(session)


def _wrong_node(session: Session) -> IntegrityError:
    """Return the error for the first stored hash that is missing or different or, if there is none, for hashes that
    belong to no entry."""
    growth, columns = Growth(), LedgerNode.__table__.c
    levels: dict[int, Iterator[Any]] = {}
    for _, data in tree.leaves(session):
        for (level, position), hash in growth.add(leaf_hash(data)):
            if level not in levels:
                query = select(columns.position, columns.hash).where(columns.level == level).order_by(columns.position)
                levels[level] = iter(session.execute(query.execution_options(yield_per=100)))
            stored = next(levels[level], None)
            if stored is None or (stored.position, stored.hash) != (position, hash):
                return tree.damaged((level, position), "is missing or was changed")
    return IntegrityError(
        "The ledger's tree contains hashes of entries that do not exist. Another program changed the registry.",
        "Restore the registry from a backup, and find out who changed it.",
    )


class _Copied:
    """Compares the second copy's valid entries with the ledger's entries, one at a time."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._count = path, 0
        if path is not None and not path.exists():
            raise IntegrityError(
                f"{path}: the ledger's second copy is missing.", "Mount the disk that holds this copy."
            )
        self._lines = iter(checkpoints.entries_of(path)) if path is not None else iter(())
        self._next = next(self._lines, None)

    def compare(self, sequence: int, data: bytes) -> None:
        if self._path is None:
            return
        if self._next is None or self._next.sequence != sequence:
            raise self._wrong(sequence, "is missing")
        if self._next.content != data:
            raise self._wrong(sequence, "differs from the registry's entry")
        self._next, self._count = next(self._lines, None), sequence

    def finish(self) -> tuple[int | None, int]:
        if self._path is None:
            return None, 0
        return self._count, (1 if self._next is not None else 0) + sum(1 for _ in self._lines)

    def _wrong(self, sequence: int, problem: str) -> IntegrityError:
        return IntegrityError(
            f"{self._path}: entry {sequence} {problem}.", "Find out whether the copy or the registry was changed."
        )
