"""The newest signed checkpoint of the ledger, kept outside its database: what a restored older copy is found by.

A checkpoint is signed from what is committed, never from what is about to be, and only when the tree still begins with
the one that was kept last. Between commit and note a process may die; then the ledger is ahead of its checkpoint, which
the next act puts right. What an act is about to commit is therefore announced in a signed file of its own, which is no
checkpoint: entries beyond the checkpoint that nobody announced were written by somebody else, and are refused.

What belongs here: keeping a checkpoint, and holding the registry against it. What does not: witnesses.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import held_within, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.ledger.log import log_key, notes, second_copy, tree
from sovereign_pipeline.ledger.log.log_key import RESTORE
from sovereign_pipeline.ledger.log.merkle import is_consistent
from sovereign_pipeline.ledger.log.notes import Note, Signer, TreeHead, Verifier
from sovereign_pipeline.ledger.tables import LedgerEntry

WAIT_SECONDS = 30
READS, SECONDS_BETWEEN_READS = 20, 0.05
"""While others write, what was announced when and what is read may be of different moments."""
ANNOUNCED = "/announced"
"""What follows the log's name in an announcement, so that none is taken for a checkpoint."""


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
    for tries_left in reversed(range(READS)):
        kept = all_kept(registry.settings)  # before the state of the database: others may write meanwhile
        with registry.reading() as session:
            tree.assert_no_entry_beside(session)
            verifier = verified(session, registry.settings, kept)
            try:
                _assert_announced(session, registry.settings, verifier, [*kept, *all_kept(registry.settings)])
                return
            except IntegrityError:
                if not tries_left:
                    raise
        time.sleep(SECONDS_BETWEEN_READS)


def verified(session: Session, settings: Settings, kept: Sequence[Kept]) -> Verifier | None:
    """The log's public key, after the tree was held against every kept checkpoint; None before the first act."""
    verifier = log_key.verifier(session, settings)
    in_home = any(each.path == checkpoint_file(settings) for each in kept)
    if verifier is None and all(_says_what_is_there(session, each.head) for each in kept):
        return None  # the first act died between its checkpoint and its key: it is done again
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
    """At the beginning of a writing transaction: refuse an older registry and entries of others, and make the log's key
    for the first act."""
    kept = all_kept(settings)
    tree.assert_no_entry_beside(session)
    verifier = verified(session, settings, kept)
    _assert_announced(session, settings, verifier, kept)
    signer = log_key.signer(settings)
    if signer is None:
        if verifier is not None:
            raise IntegrityError(
                f"{log_key.key_file(settings)}: the key that signs the ledger's checkpoints is not there.",
                f"Run as the account that has it (SOVEREIGN_KEYS). {RESTORE}",
            )
        log_key.assert_private(settings)
        signer = log_key.new_log()
        _keep(settings, _sign(signer, _head(session, signer)))
        log_key.keep(settings, signer)
    else:
        _keep_committed(session, settings, signer, kept)
    if not log_key.is_stated(session):
        log_key.state(session, signer)


def announce(session: Session, settings: Settings) -> None:
    """Before a commit: sign what it is about to leave."""
    signer = log_key.signer(settings)
    assert signer is not None  # `prepare` made one
    head = _head(session, signer)
    text = TreeHead(signer.name + ANNOUNCED, head.size, head.root).to_text()
    write_atomically(_announced_file(settings), str(Note(text, (notes.signed(text, signer),))))


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
    _assert_announced(session, settings, verified(session, settings, kept), kept)
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


def _keep(settings: Settings, note: Note) -> None:
    write_atomically(checkpoint_file(settings), str(note))


def _keep_committed(session: Session, settings: Settings, signer: Signer, kept: Sequence[Kept]) -> None:
    """Before an act is announced, which takes the place of what an act that died had announced."""
    head = _head(session, signer)
    if any(each.path == checkpoint_file(settings) and each.head == head for each in kept):
        return
    try:
        _keep(settings, _sign(signer, head))
    except OSError as error:
        raise IntegrityError(
            f"{checkpoint_file(settings)}: the checkpoint cannot be kept ({error.strerror}), so nothing is done.",
            "Make room on the disk.",
        ) from None


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


def _says_what_is_there(session: Session, head: TreeHead) -> bool:
    """Whether a checkpoint is over exactly the tree that there is, so that nothing can have been lost since."""
    return head.size == tree.size_of(session) and head.root == tree.root_at(session, head.size)


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


def assert_announcement_signed(settings: Settings, verifier: Verifier) -> None:
    """Raise IntegrityError for an announcement of another's. It decides nothing once a checkpoint covers its act."""
    path = _announced_file(settings)
    if not path.exists():
        return
    announced = read_note(path)
    origin = notes.parse_tree_head(announced.text).origin
    if origin != verifier.name + ANNOUNCED or not notes.is_signed(announced, verifier):
        raise IntegrityError(f"{path}: this announcement is not signed with the ledger's key.", RESTORE)


def _announced_file(settings: Settings) -> Path:
    return settings.ledger / "announced"


def _assert_announced(session: Session, settings: Settings, verifier: Verifier | None, kept: Sequence[Kept]) -> None:
    """Whatever lies beyond the home's checkpoint is what an act was about to commit."""
    signed = [each.head for each in kept if each.path == checkpoint_file(settings)]
    if verifier is None or not signed:
        return
    size, newest = tree.size_of(session), max(head.size for head in signed)
    if size <= newest:
        return
    path = _announced_file(settings)
    if path.exists():
        announced = read_note(path)
        expected = TreeHead(verifier.name + ANNOUNCED, size, tree.root_at(session, size))
        if announced.text == expected.to_text() and notes.is_signed(announced, verifier):
            return
    raise IntegrityError(
        f"The registry holds {counted(size - newest, 'entry', 'entries')} of the ledger, from {newest + 1} on, that no "
        f"act of this program was about to write: somebody else did.",
        RESTORE,
    )


def _missing(settings: Settings, first: int, last: int) -> str:
    """Entries by number, with what they were where the second copy has them."""
    copy = settings.ledger_copy
    known = second_copy.actions_of(copy, first, last) if copy is not None and copy.exists() else {}
    if not known:
        return f"entry {first}" if first == last else f"entries {first} to {last}"
    return and_more([f"entry {number} ({known.get(number, 'unknown')})" for number in range(first, last + 1)])
