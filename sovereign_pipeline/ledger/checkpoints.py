"""The newest signed checkpoint of the ledger, kept outside its database: what a restored older copy is found by.

A checkpoint is signed from what is committed, never from what is about to be, and only when the tree still begins with
the one that was kept last. Between commit and note a process may die; then the ledger is ahead of its checkpoint, which
the next act puts right. What belongs here: keeping one, and holding the registry against it. What does not: witnesses.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.ledger import log_key, notes, second_copy, tree
from sovereign_pipeline.ledger.log_key import RESTORE
from sovereign_pipeline.ledger.merkle import is_consistent
from sovereign_pipeline.ledger.notes import Note, Signer, TreeHead, Verifier
from sovereign_pipeline.ledger.tables import LedgerEntry
from sovereign_pipeline.locks import held_within
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.wording import and_more

WAIT_SECONDS = 30


class Readable(Protocol):
    """A registry (`database.Registry`)."""

    @property
    def settings(self) -> Settings: ...

    def reading(self) -> AbstractContextManager[Session]: ...


@dataclass(frozen=True)
class Kept:
    """A checkpoint as it lies in a file; its signature is not yet verified."""

    path: Path
    note: Note

    @property
    def head(self) -> TreeHead:
        return notes.parse_tree_head(self.note.text)


def checkpoint_file(settings: Settings) -> Path:
    return settings.ledger / "checkpoint"


def assert_not_older(registry: Readable) -> None:
    """Raise IntegrityError when the registry lacks entries that were signed, naming them, or holds others instead.

    For whatever decides something by what the registry holds.
    """
    kept = all_kept(registry.settings)  # before the state of the database: others may write meanwhile
    with registry.reading() as session:
        verified(session, registry.settings, kept)


def verified(session: Session, settings: Settings, kept: Sequence[Kept]) -> Verifier | None:
    """The log's public key, after the tree was held against every kept checkpoint; None before the first act."""
    verifier = log_key.verifier(session, settings)
    in_home = any(each.path == checkpoint_file(settings) for each in kept)
    if verifier is None and kept:
        raise IntegrityError(
            f"{kept[0].path}: there is a checkpoint of a ledger here, and the registry knows of none.", RESTORE
        )
    if verifier is not None and not in_home and (log_key.is_stated(session) or tree.size_of(session)):
        raise IntegrityError(f"{checkpoint_file(settings)}: the ledger's last checkpoint is missing.", RESTORE)
    for each in kept:
        assert verifier is not None
        _assert_signed(each, verifier)
        _assert_holds(session, settings, each)
    return verifier


def all_kept(settings: Settings) -> list[Kept]:
    """What lies in the home and, where there is one, in the second copy."""
    found = []
    path = checkpoint_file(settings)
    if path.exists():
        found.append(Kept(path, read_note(path)))
    copy = settings.ledger_copy
    if copy is not None and copy.exists() and (confirmed := second_copy.end_of(copy).confirmed) is not None:
        found.append(Kept(copy, confirmed))
    return found


def read_note(path: Path) -> Note:
    """Raises IntegrityError for a file that holds no checkpoint."""
    try:
        note = notes.parse_note(path.read_text(encoding="utf-8"))
        notes.parse_tree_head(note.text)
    except (InputError, ValueError):
        raise IntegrityError(f"{path}: this is not a signed checkpoint.", RESTORE) from None
    return note


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Hold the home's lock of the ledger: one act, with its checkpoint, after the other."""
    with held_within(settings.ledger / "lock", WAIT_SECONDS):
        yield


def prepare(session: Session, settings: Settings) -> None:
    """At the beginning of a writing transaction: refuse an older registry, and make the log's key for the first act."""
    kept = all_kept(settings)
    verifier = verified(session, settings, kept)
    signer = log_key.signer(settings)
    if signer is None:
        if verifier is not None:
            raise IntegrityError(
                f"{log_key.key_file(settings)}: the key that signs the ledger's checkpoints is not there.",
                f"Run as the account that has it (SOVEREIGN_KEYS). {RESTORE}",
            )
        signer = log_key.new_log()
        _keep(settings, _sign(signer, _head(session, signer)))
        log_key.keep(settings, signer)
    elif not kept:
        _keep(settings, _sign(signer, _head(session, signer)))
    if not log_key.is_stated(session):
        log_key.state(session, signer)


def copy_entries(session: Session, settings: Settings, appended: Sequence[bytes]) -> None:
    """Before a commit: write what it appends into the second copy, where the institution has one."""
    if settings.ledger_copy is None or not appended:
        return

    def committed(first: int, last: int) -> Iterator[bytes]:
        query = select(LedgerEntry.data).where(LedgerEntry.sequence.between(first, last))
        yield from session.scalars(query.order_by(LedgerEntry.sequence).execution_options(yield_per=tree.AT_ONCE))

    second_copy.add(settings.ledger_copy, appended, committed, tree.size_of(session) - len(appended))


def note_committed(session: Session, settings: Settings) -> Note:
    """After a commit: sign the state that is committed, and keep it unless it is kept already. Returns the note.

    `session`: one that sees committed state alone.
    """
    kept = all_kept(settings)
    verified(session, settings, kept)
    signer = log_key.signer(settings)
    if signer is None:
        raise IntegrityError(f"{log_key.key_file(settings)}: the key of the ledger is not there.", RESTORE)
    head = _head(session, signer)
    note = next((each.note for each in kept if each.path == checkpoint_file(settings) and each.head == head), None)
    try:
        if note is None:
            note = _sign(signer, head)
            _keep(settings, note)
    except OSError as error:
        raise IntegrityError(
            f"{checkpoint_file(settings)}: the checkpoint cannot be kept ({error.strerror}). "
            f"What was done is on record, up to entry {head.size}.",
            "Make room on the disk. The next act keeps the checkpoint.",
        ) from None
    copy = settings.ledger_copy
    if copy is not None and not any(each.path == copy and each.head == head for each in kept):
        second_copy.confirm(copy, note)
    return note


def newest(session: Session, settings: Settings) -> Note:
    """The checkpoint of what is committed; without the key the one that was kept last."""
    if log_key.signer(settings) is not None:
        return note_committed(session, settings)
    kept = all_kept(settings)
    verified(session, settings, kept)
    if not kept:
        raise NotFoundError("The ledger has no checkpoint yet.", "The first act signs one.")
    return kept[0].note


def write_atomically(path: Path, content: str) -> None:
    """Replace a file, so that after a crash either its old or its new content is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _keep(settings: Settings, note: Note) -> None:
    write_atomically(checkpoint_file(settings), str(note))


def _head(session: Session, signer: Signer) -> TreeHead:
    size = tree.size_of(session)
    return TreeHead(signer.name, size, tree.root_at(session, size))


def _sign(signer: Signer, head: TreeHead) -> Note:
    text = head.to_text()
    return Note(text, (notes.signed(text, signer),))


def _assert_signed(kept: Kept, verifier: Verifier) -> None:
    try:
        is_signed = notes.is_signed(kept.note, verifier)
    except IntegrityError:
        is_signed = False
    if not is_signed or kept.head.origin != verifier.name:
        raise IntegrityError(f"{kept.path}: this checkpoint is not signed with the ledger's key.", RESTORE)


def _assert_holds(session: Session, settings: Settings, kept: Kept) -> None:
    """The tree still begins with the one of a checkpoint."""
    head, size = kept.head, tree.size_of(session)
    if size < head.size:
        raise IntegrityError(
            f"The registry is older than its last checkpoint ({kept.path}), which covers {head.size} entries; "
            f"missing: {_missing(settings, size + 1, head.size)}.",
            "Restore the newest copy. An older one would let what was done since be done again.",
        )
    if head.size == 0:
        return
    proof = tree.consistency_proof(session, head.size, size)
    if not is_consistent(head.size, size, head.root, tree.root_at(session, size), proof):
        raise IntegrityError(
            f"The ledger's first {head.size} entries are not those of its checkpoint ({kept.path}): "
            "they were changed, or belong to another course of events.",
            RESTORE,
        )


def _missing(settings: Settings, first: int, last: int) -> str:
    """Entries by number, with what they were where the second copy has them."""
    copy = settings.ledger_copy
    known = second_copy.actions_of(copy, first, last) if copy is not None and copy.exists() else {}
    if not known:
        return f"entry {first}" if first == last else f"entries {first} to {last}"
    return and_more([f"entry {number} ({known.get(number, 'unknown')})" for number in range(first, last + 1)])
