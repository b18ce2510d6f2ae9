"""Manage the ledger's key, second copy and signed checkpoint. The copy and the checkpoint reveal that an older registry
was restored."""

import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import canonical_json, held_within, private_directory, write_atomically, write_new
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record import notes, tree
from sovereign_pipeline.record.merkle import is_consistent
from sovereign_pipeline.record.notes import Note, Signer, TreeHead, Verifier, parse_note, parse_tree_head
from sovereign_pipeline.record.tables import LedgerEntry, LedgerKey

ORIGIN = "sovereign-pipeline/ledger"
ID_BYTES = 8
RESTORE = "Restore the registry, SOVEREIGN_HOME and the keys from backups of the same time. Find out who changed them."


def key_file(settings: Settings) -> Path:
    return settings.keys / "log.key"


def new_log() -> Signer:
    return notes.new_signer(f"{ORIGIN}/{secrets.token_hex(ID_BYTES)}", notes.SIGNS)


def keep(settings: Settings, signer: Signer) -> None:
    """Write the new log's private key to `key_file`. Raises InputError if the file exists, or if another account can
    enter the file's directory."""
    assert_private(settings)
    write_key(key_file(settings), signer)


def assert_private(settings: Settings) -> None:
    """Create the directory of keys if it is missing. Raises InputError if another account can enter the directory."""
    private_directory(settings.keys, "keys")


def write_key(path: Path, signer: Signer) -> None:
    """Write a private key to a new file, and create the file's directory if needed. Raises InputError if the file
    exists, if the directory's parent is missing, or if other accounts can enter the directory."""
    if not path.parent.parent.is_dir():
        raise InputError(f"{path}: the directory does not exist.", "Correct the path of the key.")
    private_directory(path.parent, "keys")
    try:
        write_new(path, signer.to_text() + "\n")
    except FileExistsError:
        raise InputError(
            f"{path}: the file exists already.", "Choose a new file name. Keys are never overwritten."
        ) from None


def read_key(path: Path) -> Signer:
    """Read a private key. Raises InputError if the file is missing or not a key, and IntegrityError if another account
    can read it."""
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist.", "Correct the path of the key.")
    if path.stat().st_mode & 0o077:
        raise IntegrityError(f"{path}: other accounts can read this key.", f"Restrict it: chmod 600 {path}")
    try:
        return notes.parse_signer(path.read_text(encoding="utf-8", errors="replace"))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def signer(settings: Settings) -> Signer | None:
    """Return the ledger's private key, or None if the key file is missing or this account has no permission to read the
    file. Raises the errors of `read_key`."""
    path = key_file(settings)
    try:
        return read_key(path) if path.exists() else None
    except PermissionError:
        return None


def verifier(session: Session | Connection, settings: Settings) -> Verifier | None:
    """Return the log's public key from the registry or, if the registry has none, from the key file. Returns None if
    both are missing, before the first act. Raises the errors of `read_key`, and IntegrityError if the registry's public
    key is malformed or does not belong to the key file."""
    rows = list(session.scalars(select(LedgerKey.verifier)))
    here = signer(settings)
    try:
        stated = [notes.parse_verifier(each) for each in rows]
    except (InputError, AttributeError, TypeError):  # the stored value is no verifier key, or is not text
        raise IntegrityError("The registry: the stored public key of the ledger is malformed.", RESTORE) from None
    if len(stated) > 1 or (stated and here is not None and stated[0] != here.verifier):
        raise IntegrityError(
            f"{key_file(settings)}: this is not the key of the registry's ledger.",
            f"Use the keys that belong to this registry. {RESTORE}",
        )
    if stated:
        return stated[0]
    return here.verifier if here is not None else None


def is_stated(session: Session) -> bool:
    """Return True if the registry contains the public key of its ledger."""
    return session.scalars(select(LedgerKey.verifier)).first() is not None


def state(session: Session, signer: Signer) -> None:
    session.execute(insert(LedgerKey).values(verifier=str(signer.verifier)))


VOID, CHECKPOINT = "void", "checkpoint"
FIRST_LOOK, LARGEST_LOOK = 1 << 14, 1 << 24
"""Smallest and largest number of bytes to read from the end of the second copy."""
MOST_TORN = 1_000
"""Maximum number of unreadable lines at the end of the second copy. A crash leaves one such line."""
BYTES_A_CHECKPOINT = 1 << 20
FLOODED = (
    "Find out which program wrote them. To start a new copy, move this file away and create an empty file in its "
    "place. The next act logs that the copy lacked entries."
)


@dataclass(frozen=True)
class Line:
    """A line of the second copy. A readable line has exactly one of `sequence`, `void` and `checkpoint`."""

    content: bytes
    sequence: int | None = None
    """Number of the ledger entry on this line."""
    void: str | None = None
    """SHA-256 of an earlier line that this line marks as void."""
    checkpoint: Note | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def confirmed(self) -> int:
        """Number of entries that the line's checkpoint covers. 0 for a line without a checkpoint."""
        return parse_tree_head(self.checkpoint.text).size if self.checkpoint is not None else 0

    @property
    def is_torn(self) -> bool:
        return self.sequence is None and self.void is None and self.checkpoint is None


@dataclass
class End:
    confirmed: Note | None = None
    """The checkpoint that covers the most entries, or None if the part that was read contains no checkpoint."""
    entries: dict[int, bytes] = field(default_factory=dict)
    """Maps the number of each entry that was read to the entry's bytes, without the entries that are marked as void."""
    torn: dict[str, bytes] = field(default_factory=dict)
    """Maps SHA-256 to content for each unreadable line that is not marked as void yet."""
    is_cut: bool = False
    """True if the last line has no line break."""

    @property
    def size(self) -> int:
        return parse_tree_head(self.confirmed.text).size if self.confirmed is not None else 0

    def newest(self, size: int) -> int:
        """Return the highest number in `entries` that is at most `size`, or 0 if there is none."""
        return max((number for number in self.entries if number <= size), default=0)


def lines_of(path: Path, *starts: bytes) -> Iterator[Line]:
    """Yield the lines of the second copy, or only the lines that begin with one of `starts`."""
    with _reading(path) as stream:
        while line := stream.readline(LARGEST_LOOK):
            if line != b"\n" and (not starts or line.startswith(starts)):
                yield parse_line(line.removesuffix(b"\n"))


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with _opened(path, os.O_RDONLY) as stream:
            yield stream
    except OSError as error:
        raise IntegrityError(
            f"{path}: the ledger's second copy cannot be read ({error.strerror}).",
            "Mount the disk that holds this copy. To start a new copy, create an empty file at this path.",
        ) from None


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[BinaryIO]:
    """Open the second copy. Raises OSError unless the path is a regular file. Does not block on a pipe."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "this is not a regular file")
        with open(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def entries_of(path: Path) -> Iterator[Line]:
    """Yield every entry that is not void. Raises IntegrityError for an unreadable line that is not marked as void.

    The lines that mark other lines as void are unsigned. Such a line has no effect on an entry that an earlier
    checkpoint covers."""
    void, size = dict[str | None, int](), 0
    for line in lines_of(path, b'{"void"', b'{"checkpoint"'):
        size = max(size, line.confirmed)
        void.setdefault(line.void, size)
    for number, line in enumerate(lines_of(path), 1):
        if line.sha256 in void and (line.sequence is None or line.sequence > void[line.sha256]):
            continue
        if line.sequence is not None:
            yield line
        elif line.is_torn:
            raise IntegrityError(
                f"{path}: line {number} cannot be read.",
                "If this is the last line, a crash may have truncated it, and the next act marks it as void. "
                "Otherwise, find out who changed the line.",
            )


def largest_in(path: Path) -> Note | None:
    """Return the checkpoint in the second copy that covers the most entries, or None. Reads the whole file."""
    return max(lines_of(path, b'{"checkpoint"'), key=lambda line: line.confirmed, default=Line(b"")).checkpoint


def parse_line(content: bytes) -> Line:
    try:
        parsed = json.loads(content)
        if set(parsed) == {VOID} and isinstance(parsed[VOID], str):
            return Line(content, void=parsed[VOID])
        if set(parsed) == {CHECKPOINT}:
            note = parse_note(parsed[CHECKPOINT])
            parse_tree_head(note.text)
            return Line(content, checkpoint=note)
        if isinstance(parsed["sequence"], int) and "hash" in parsed:
            return Line(content, sequence=parsed["sequence"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError):
        pass
    return Line(content)


def end_of(path: Path) -> End:
    """Read the end of the second copy, including every entry that may be uncommitted. Raises IntegrityError if the file
    cannot be read, or if this end has more than `LARGEST_LOOK` bytes or more than `MOST_TORN` unreadable lines."""
    with _reading(path) as stream:
        length, look = os.fstat(stream.fileno()).st_size, FIRST_LOOK
        while look <= LARGEST_LOOK:
            stream.seek(max(0, length - look))
            content, is_whole = stream.read(min(look, length)), look >= length
            end = _read_end(content if is_whole else content.partition(b"\n")[2])
            if len(end.torn) > MOST_TORN:
                break
            if is_whole or (end.confirmed is not None and end.entries and min(end.entries) <= end.size):
                return end
            look *= 4
    raise IntegrityError(f"{path}: another program wrote many lines to the ledger's second copy.", FLOODED)


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """Raise IntegrityError if the second copy is missing or cannot be written. The error cancels the act."""
    if not path.exists():
        raise IntegrityError(
            f"{path}: the ledger's second copy is missing, so the act was cancelled.",
            "Mount the disk that holds this copy. To start a new copy, create an empty file at this path.",
        )
    try:
        yield
    except OSError as error:
        raise IntegrityError(
            f"{path}: the ledger's second copy cannot be written ({error.strerror}), so the act was cancelled.",
            "Free space on the copy's disk, or mount this disk for writing.",
        ) from None


def add(
    path: Path, entries: Sequence[bytes], committed: Callable[[int, int], Iterable[bytes]], size: int, kept: Note
) -> None:
    """Append entries to the second copy just before their commit, and flush the file to disk. Before appending them,
    mark unreadable lines and entries that were never committed as void, and add the committed entries that the copy
    lacks. Raises IntegrityError if the copy is missing, cannot be written, or contradicts the committed entries.

    Args:
        committed: function that returns the exact bytes of the committed entries from a first to a last number.
        size: number of committed entries.
        kept: the checkpoint of the committed entries.
    """
    with _stopping(path):
        end = end_of(path)
        newest = end.newest(size)
        if newest and [end.entries[newest]] != list(committed(newest, newest)):
            raise IntegrityError(
                f"{path}: entry {newest} of the copy differs from the registry's entry with that number.",
                "Find out whether the copy or the registry was changed.",
            )
        void = [each for number, each in end.entries.items() if number > size] + [*end.torn.values()]
        with _opened(path, os.O_WRONLY | os.O_APPEND) as raw:
            _write(raw.fileno(), b"\n" if end.is_cut else b"")
            marks = [canonical_json({VOID: hashlib.sha256(each).hexdigest()}) for each in void]
            _write_lines(raw.fileno(), marks)
            _write_lines(raw.fileno(), _confirmed(committed(newest + 1, size), kept) if newest < size else ())
            _write_lines(raw.fileno(), entries)
            os.fsync(raw.fileno())


def confirm(path: Path, checkpoint: Note) -> None:
    """Append a checkpoint to the second copy. The checkpoint confirms all entries that it covers. Raises IntegrityError
    if writing fails."""
    try:
        with _opened(path, os.O_WRONLY | os.O_APPEND) as raw:
            _write_lines(raw.fileno(), _confirmed((), checkpoint))
            os.fsync(raw.fileno())
    except OSError as error:
        raise IntegrityError(
            f"{path}: the checkpoint cannot be written to the ledger's second copy ({error.strerror}). "
            f"The act is logged, up to entry {parse_tree_head(checkpoint.text).size}.",
            "Free space on the copy's disk. The next act writes the checkpoint.",
        ) from None


def _confirmed(entries: Iterable[bytes], checkpoint: Note) -> Iterator[bytes]:
    """Yield the entries. Also yield the checkpoint's line after each MiB and at the end, so that `end_of` finds a
    checkpoint without reading much of the file."""
    line, unconfirmed = canonical_json({CHECKPOINT: str(checkpoint)}), 0
    for each in entries:
        yield each
        unconfirmed += len(each)
        if unconfirmed > BYTES_A_CHECKPOINT:
            yield line
            unconfirmed = 0
    yield line


def _read_end(content: bytes) -> End:
    end = End(is_cut=bool(content) and not content.endswith(b"\n"))
    by_digest: dict[str, int | None] = {}
    for line in map(parse_line, filter(None, content.split(b"\n"))):
        if line.sequence is not None:
            end.entries[line.sequence] = line.content
            by_digest[line.sha256] = line.sequence
        elif line.checkpoint is not None:
            end.confirmed = line.checkpoint if line.confirmed >= end.size else end.confirmed
        elif line.void is None:
            end.torn[line.sha256] = line.content
        elif line.void in by_digest:
            if (by_digest[line.void] or 0) > end.size:  # an unsigned mark cannot remove a confirmed entry
                end.entries.pop(by_digest[line.void] or 0, None)
        else:
            end.torn.pop(line.void, None)
    return end


def _write_lines(handle: int, lines: Iterable[bytes]) -> None:
    for each in lines:
        _write(handle, each + b"\n")


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


WAIT_SECONDS = 30
READS, SECONDS_BETWEEN_READS = 20, 0.05
"""Number of attempts to read the first checkpoint while another process writes it, and the pause between two
attempts."""
HEAD = "/head"
"""Suffix of the log's name in a head, the signed size and root hash in the database. The suffix distinguishes a head
from a checkpoint."""


class Readable(Protocol):
    """Interface of a registry that can be read. `database.Registry` implements it."""

    @property
    def settings(self) -> Settings: ...

    def reading(self) -> AbstractContextManager[Session]: ...


@dataclass(frozen=True)
class Kept:
    """A checkpoint from a file. The signature is not verified yet."""

    path: Path
    note: Note

    @property
    def head(self) -> TreeHead:
        return notes.parse_tree_head(self.note.text)


def checkpoint_file(settings: Settings) -> Path:
    return settings.ledger / "checkpoint"


def assert_not_older(registry: Readable) -> None:
    """Raise the errors of `registry.reading()`, for example if signed entries are missing or were replaced. If there is
    no checkpoint, waits up to a second, because another process may be writing the first one."""
    for tries_left in reversed(range(READS)):
        try:
            with registry.reading():
                return
        except IntegrityError:
            # Without a checkpoint, another process may have been writing the first one.
            if not tries_left or all_kept(registry.settings):
                raise
        time.sleep(SECONDS_BETWEEN_READS)


def verified(session: Session, settings: Settings, kept: Sequence[Kept]) -> Verifier | None:
    """Verify the ledger's tree against the checkpoints `kept`. Returns the log's public key, or None before the first
    act. Raises IntegrityError if a checkpoint is missing, not signed with the ledger's key, or contradicts the tree."""
    log_verifier = verifier(session, settings)
    in_home = any(each.path == checkpoint_file(settings) for each in kept)
    if log_verifier is None and all(_says_what_is_there(session, each.head) for each in kept):
        return None  # a crash interrupted the first act before its key was written
    if log_verifier is None and kept:
        raise IntegrityError(f"{kept[0].path}: this is a ledger's checkpoint, but the registry has no ledger.", RESTORE)
    if log_verifier is not None and not in_home and (is_stated(session) or tree.size_of(session)):
        raise IntegrityError(f"{checkpoint_file(settings)}: the ledger's last checkpoint is missing.", RESTORE)
    for each in kept:
        assert log_verifier is not None
        _assert_signed(each, log_verifier)
        _assert_holds(session, settings, each)
    return log_verifier


def all_kept(settings: Settings) -> list[Kept]:
    """Return the stored checkpoints: the one in SOVEREIGN_HOME and, if there is a second copy, the newest one there."""
    found = []
    path = checkpoint_file(settings)
    if path.exists():
        found.append(Kept(path, read_note(path)))
    copy = settings.ledger_copy
    if copy is not None and copy.exists() and (confirmed := end_of(copy).confirmed) is not None:
        found.append(Kept(copy, confirmed))
    return found


def read_note(path: Path) -> Note:
    """Read a checkpoint file. Raises IntegrityError if the file is not a checkpoint."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        note = notes.parse_note(path.read_text(encoding="utf-8"))
        notes.parse_tree_head(note.text)
    except (InputError, ValueError):
        raise IntegrityError(f"{path}: this is not a signed checkpoint.", RESTORE) from None
    return note


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Lock the ledger while the context is open, so that only one act at a time is committed. Raises ConflictError if
    another process holds the lock for `WAIT_SECONDS`."""
    with held_within(settings.ledger / "lock", WAIT_SECONDS):
        yield


def prepare(session: Session, settings: Settings) -> None:
    """Prepare a write transaction. Raises IntegrityError if the registry is older than a checkpoint or was changed.
    Creates the log's key before the first act, and the checkpoint of the committed state if it is missing."""
    kept = all_kept(settings)
    verifier = verified(session, settings, kept)
    log_signer = signer(settings)
    if log_signer is None:
        if verifier is not None:
            raise IntegrityError(
                f"{key_file(settings)}: the key that signs the ledger's checkpoints is missing.",
                f"Run as the account that has this key (in SOVEREIGN_KEYS). {RESTORE}",
            )
        assert_private(settings)
        log_signer = new_log()
        write_atomically(checkpoint_file(settings), str(_sign(log_signer, _head(session, log_signer))))
        keep(settings, log_signer)
    else:
        _keep_signed(settings, log_signer, _head(session, log_signer), kept, ", so the act was cancelled")
    if not is_stated(session):
        state(session, log_signer)


def write_entries(session: Session, settings: Settings, named: Mapping[str, bytes]) -> None:
    """Write the transaction's entries, and the signed head of the resulting state. Called before the commit.

    Args:
        named: maps a SHA-256 to the content that the entries refer to.
    """
    log_signer = signer(settings)
    assert log_signer is not None  # `prepare` created it
    head = _head(session, log_signer)
    text = TreeHead(log_signer.name + HEAD, head.size, head.root).to_text()
    tree.write(session, str(Note(text, (notes.signed(text, log_signer),))), named)


def copy_entries(session: Session, settings: Settings, appended: Sequence[bytes]) -> None:
    """Append the transaction's entries to the second copy, if there is one. Called before the commit."""
    if settings.ledger_copy is None:
        return

    def committed(first: int, last: int) -> Iterator[bytes]:
        query = select(LedgerEntry.data).where(LedgerEntry.sequence.between(first, last))
        yield from session.scalars(query.order_by(LedgerEntry.sequence).execution_options(yield_per=tree.AT_ONCE))

    size, kept = tree.size_of(session) - len(appended), read_note(checkpoint_file(settings))
    add(settings.ledger_copy, appended, committed, size, kept)


def note_committed(session: Session, settings: Settings) -> Note:
    """Return the signed checkpoint of the committed state, and write it to SOVEREIGN_HOME and the second copy if they
    lack it. Called after a commit. Raises IntegrityError if the log's key is missing or writing fails.

    Args:
        session: a session that sees only committed state.
    """
    kept = all_kept(settings)
    verified(session, settings, kept)
    log_signer = signer(settings)
    if log_signer is None:
        raise IntegrityError(f"{key_file(settings)}: the key of the ledger is missing.", RESTORE)
    head = _head(session, log_signer)
    logged = f". The act is logged, up to entry {head.size}"
    note = _keep_signed(settings, log_signer, head, kept, logged, "The next act stores the checkpoint.")
    copy = settings.ledger_copy
    if copy is not None and not any(each.path == copy and each.head == head for each in kept):
        confirm(copy, note)
    return note


def newest(session: Session, settings: Settings) -> Note:
    """Return the checkpoint of the committed state or, if this process cannot read the log's key, the last written
    checkpoint. Raises NotFoundError if no checkpoint was written yet."""
    if signer(settings) is not None:
        return note_committed(session, settings)
    kept = all_kept(settings)
    verified(session, settings, kept)
    if not kept:
        raise NotFoundError("The ledger has no signed checkpoint yet.", "The first act creates one.")
    return kept[0].note


def _keep_signed(
    settings: Settings, signer: Signer, head: TreeHead, kept: Sequence[Kept], outcome: str, then: str = ""
) -> Note:
    """Return the checkpoint of the committed state. If the checkpoint is not in SOVEREIGN_HOME yet, write it.

    Args:
        outcome: end of the error message. It states whether the act was logged.
        then: last sentence of the error's hint.
    """
    path = checkpoint_file(settings)
    note = next((each.note for each in kept if each.path == path and each.head == head), None)
    if note is None:
        note = _sign(signer, head)
        try:
            write_atomically(path, str(note))
        except OSError as error:
            problem = f"{path}: the checkpoint cannot be stored ({error.strerror}){outcome}."
            raise IntegrityError(problem, f"Free disk space. {then}".strip()) from None
    return note


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
    """Return True if a checkpoint covers exactly the current tree: no entry is missing, and none was added later."""
    return head.size == tree.size_of(session) and head.root == tree.root_at(session, head.size)


def _assert_holds(session: Session, settings: Settings, kept: Kept) -> None:
    """Assert that the ledger's current tree begins with the tree of a checkpoint."""
    head, size = kept.head, tree.size_of(session)
    if size < head.size:
        raise IntegrityError(
            f"The registry is older than its last checkpoint ({kept.path}), which covers {head.size} entries; "
            f"missing: {missing_entries(settings, size + 1, head.size)}.",
            "Restore the newest backup of the registry. Each act that a backup lacks could be done a second time.",
        )
    if head.size == 0:
        return
    proof = tree.consistency_proof(session, head.size, size)
    if not is_consistent(head.size, size, head.root, tree.root_at(session, size), proof):
        raise IntegrityError(
            f"The ledger's first {head.size} entries differ from those of its checkpoint ({kept.path}): the entries "
            f"were changed, or the ledger was forked.",
            RESTORE,
        )


def missing_entries(settings: Settings, first: int, last: int) -> str:
    """Format the numbers of missing entries. Adds each entry's action if the second copy contains the entry."""
    copy = settings.ledger_copy
    known = {
        line.sequence: str(json.loads(line.content).get("action"))
        for line in (lines_of(copy) if copy is not None and copy.exists() else ())
        if line.sequence is not None and first <= line.sequence <= last
    }
    if not known:
        return f"entry {first}" if first == last else f"entries {first} to {last}"
    return and_more([f"entry {number} ({known.get(number, 'unknown')})" for number in range(first, last + 1)])
