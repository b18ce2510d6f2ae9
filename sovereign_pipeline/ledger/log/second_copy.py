"""The ledger's second copy: a file on other media (`SOVEREIGN_LEDGER_COPY`) that has each entry before its act is done.

One line each: the exact bytes of an entry; a checkpoint, once what it covers is committed; and a mark for a line that
is void, because the commit after it failed or its writing was cut short. What belongs here: adding to the file, and
what its end says. What does not: comparing all of it (`verifying.py`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.ledger.log.notes import Note, parse_note, parse_tree_head

VOID, CHECKPOINT = "void", "checkpoint"
FIRST_LOOK = 1 << 14
"""Bytes from the end in which it is looked first for what is not yet confirmed."""


@dataclass(frozen=True)
class Line:
    """One line of the file. Exactly one of the other fields is set where it can be read."""

    content: bytes
    sequence: int | None = None
    """Of the entry."""
    void: str | None = None
    """SHA-256 of the line that does not count."""
    checkpoint: Note | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def is_torn(self) -> bool:
        return self.sequence is None and self.void is None and self.checkpoint is None


@dataclass
class End:
    """What the end of the file says."""

    confirmed: Note | None = None
    """The newest checkpoint."""
    entries: dict[int, bytes] = field(default_factory=dict)
    """Of the newest entries, by number; void ones are not among them."""
    torn: list[bytes] = field(default_factory=list)
    """Lines that cannot be read, and are not yet marked as void."""
    is_cut: bool = False
    """The last line has no end."""

    @property
    def size(self) -> int:
        """How many entries are confirmed."""
        return parse_tree_head(self.confirmed.text).size if self.confirmed is not None else 0


def lines_of(path: Path) -> Iterator[Line]:
    """Every line, oldest first."""
    with path.open("rb") as stream:
        yield from (parse_line(each.removesuffix(b"\n")) for each in stream if each != b"\n")


def entries_of(path: Path) -> Iterator[Line]:
    """Every entry that counts. Raises IntegrityError for a line that is neither readable nor marked as void."""
    void = {line.void for line in map(parse_line, _lines_with(path, b'{"void"'))}
    for number, line in enumerate(lines_of(path), 1):
        if line.sha256 in void:
            continue
        if line.sequence is not None:
            yield line
        elif line.is_torn:
            raise IntegrityError(
                f"{path}: line {number} cannot be read.",
                "The last line may have been cut short by a crash: the next act marks it. Any other was changed.",
            )


def _lines_with(path: Path, start: bytes) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from (each.removesuffix(b"\n") for each in stream if each.startswith(start))


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
    """Read the end of the file, as far back as something there may not be committed."""
    length = path.stat().st_size
    look = FIRST_LOOK
    while True:
        with path.open("rb") as stream:
            stream.seek(max(0, length - look))
            content = stream.read(min(look, length))
        is_whole = look >= length
        end = _read_end(content if is_whole else content.partition(b"\n")[2])
        if is_whole or (end.confirmed is not None and end.entries and min(end.entries) <= end.size):
            return end
        look *= 4


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """Turns what the medium says into an error that stops the act."""
    if not path.exists():
        raise IntegrityError(
            f"{path}: the ledger's second copy is not there, so nothing is done.",
            "Mount its medium. For a new copy, make an empty file there.",
        )
    try:
        yield
    except OSError as error:
        raise IntegrityError(
            f"{path}: the ledger's second copy cannot be written ({error.strerror}), so nothing is done.",
            "Make room on its medium, or mount it for writing.",
        ) from None


def add(path: Path, entries: Sequence[bytes], committed: Callable[[int, int], Iterable[bytes]], size: int) -> None:
    """Write entries that are about to be committed, and wait until they are on the medium.

    Whatever is missing before them is added first; what was never committed is marked as void.

    Args:
        committed: the exact bytes of committed entries, from one number to another.
        size: how many are committed.
    """
    with _stopping(path):
        end = end_of(path)
        newest = max((number for number in end.entries if number <= size), default=0)
        if newest and [end.entries[newest]] != list(committed(newest, newest)):
            raise IntegrityError(
                f"{path}: entry {newest} of the copy is not the one of the registry.", "Find out which was changed."
            )
        void = [each for number, each in end.entries.items() if number > size] + end.torn
        with path.open("ab", buffering=0) as raw:
            _write(raw.fileno(), b"\n" if end.is_cut else b"")
            marks = [canonical_json({VOID: hashlib.sha256(each).hexdigest()}) for each in void]
            _write_lines(raw.fileno(), marks)
            _write_lines(raw.fileno(), committed(newest + 1, size))
            _write_lines(raw.fileno(), entries)
            os.fsync(raw.fileno())


def confirm(path: Path, checkpoint: Note) -> None:
    """Note that everything up to this checkpoint is committed. Raises IntegrityError where that cannot be written."""
    try:
        with path.open("ab", buffering=0) as raw:
            _write_lines(raw.fileno(), [canonical_json({CHECKPOINT: str(checkpoint)})])
            os.fsync(raw.fileno())
    except OSError as error:
        raise IntegrityError(
            f"{path}: the checkpoint cannot be written into the ledger's second copy ({error.strerror}). "
            f"What was done is on record, up to entry {parse_tree_head(checkpoint.text).size}.",
            "Make room on its medium. The next act writes it.",
        ) from None


def actions_of(path: Path, first: int, last: int) -> dict[int, str]:
    """Number -> action, of those entries from one number to another that the copy holds."""
    return {
        line.sequence: str(json.loads(line.content).get("action"))
        for line in lines_of(path)
        if line.sequence is not None and first <= line.sequence <= last
    }


def _read_end(content: bytes) -> End:
    end = End(is_cut=bool(content) and not content.endswith(b"\n"))
    by_digest: dict[str, int | None] = {}
    for line in map(parse_line, filter(None, content.split(b"\n"))):
        if line.sequence is not None:
            end.entries[line.sequence] = line.content
            by_digest[line.sha256] = line.sequence
        elif line.checkpoint is not None:
            end.confirmed = line.checkpoint
        elif line.void is None:
            end.torn.append(line.content)
        elif line.void in by_digest:
            end.entries.pop(by_digest[line.void] or 0, None)
        else:
            end.torn = [each for each in end.torn if hashlib.sha256(each).hexdigest() != line.void]
    return end


def _write_lines(handle: int, lines: Iterable[bytes]) -> None:
    for each in lines:
        _write(handle, each + b"\n")


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
