"""List the files of a source, and parse untrusted files in a sandbox. Parsed files are cached by the file's digest.

A parser is a function that receives an open file and its suffix. It yields one JSON object for each document or
message, or `{"broken": reason}` for a document or message that cannot be read. A reason never quotes the file. The
parser raises Unreadable if the whole file cannot be read. After any other exception, after a crash, or if the parser
needs too much time or memory, the current document or message counts as broken.

A parser with the argument `skip` is then called a second time, for the remaining messages. After MOST_ENDS crashes, the
parser is called with the argument `unread`, a reason. It then separates the remaining messages without reading them,
and yields each as broken for this reason.

A message may have `attachments`: objects with `attachment` (a suffix, or "") and `sha256` (of the bytes). Attachments
are separate units that follow their message: `archive.mbox#17/2.pdf` is the second attachment of the 17th message.
The file names of attachments are not used, because a name may be anything, even text of the message.
"""

import inspect
import json
import math
import os
import pkgutil
import platform
import re
import signal
import socket
import sqlite3
import stat
import struct
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Set
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import sovereign_pipeline
from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256, keyed_digest, write_atomically
from sovereign_pipeline.base.sandbox import Limits, conversation
from sovereign_pipeline.corpus.opening import reject_unreadable

LARGEST_FILE = 256 << 20
"""Maximum size in bytes of a file that is read as a whole. An mbox is read message by message, and may be larger."""
LARGEST_RESULT = 256 << 20
"""Maximum size of a parser's output for a document or message, in bytes."""
RESULT_PER_BYTE = 8
"""Maximum size of a parser's output for a file, as a multiple of the file's size. For a small file, LARGEST_RESULT is
the limit."""
MOST_ENDS = 10
"""Number of crashes of the sandbox by messages of one mbox. After them, the remaining messages are not read, and count
as broken."""
SECONDS = 60
"""Maximum processor time in seconds for a document or message. The wall-clock time may be three times as long."""
LIMITS = Limits(
    cpu_seconds=3600, wall_seconds=3.0 * SECONDS, memory_bytes=2 << 30, file_bytes=LARGEST_FILE,
    disk_bytes=LARGEST_FILE + (1 << 20),
)  # fmt: skip
FILES_OF_A_CHILD = 500
"""Number of files after which a new sandbox is started, to limit memory leaks."""
LIBRARIES = ("beautifulsoup4", "lxml", "pdfminer.six", "python-calamine", "python-oxmsg", "striprtf")
SECONDS_BETWEEN_REPORTS = 10.0

_PROGRAM = """
import sys
sys.path += ["/own", *sorted({packages})]
from sovereign_pipeline.corpus.parsing import serve
main = serve
"""
_LENGTH = struct.Struct(">I")
_RESTART = b"{}"
"""Message from the sandbox that the parser's time limit was restarted. It is not an item."""
MOST_RESTARTS = 400
"""Maximum number of restarts for a document or message, because a hostile file may control its parser."""
_DOCUMENTS = "sovereign_pipeline.corpus.office_files"
"""Module of the parser of documents. The parser of mail uses it, too, for attachments."""
_SUFFIX, _DIGEST = re.compile(r"(?:\.[a-z0-9]{1,8})?"), re.compile("[0-9a-f]{64}")


Parser = Callable[..., Iterator[dict[str, Any]]]


class Unreadable(Exception):
    """Raised by a parser for a file that the parser cannot read. The message is the reason. It quotes no text of the
    file."""


def read_whole(stream: IO[bytes]) -> bytes:
    """Return the content of a file. Raises Unreadable for a file above LARGEST_FILE."""
    if stream.seek(0, os.SEEK_END) > LARGEST_FILE:
        raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
    stream.seek(0)
    return stream.read()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. Instances are small, because a source may have very many files."""

    name: str
    """Path within the source's folder, with unprintable characters escaped."""
    folder: Path
    place: str
    """Path within the source's folder, unchanged."""
    sha256: str
    """SHA-256, or "" if the file cannot be read."""
    problem: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.place


@dataclass(frozen=True)
class Unit:
    """A document, message or attachment of a source."""

    name: str
    """Name of the unit's file, followed by `#` and a number if the file has several units. The name of an attachment is
    the name of its message, `/`, a number and a suffix."""
    sha256: str
    """SHA-256 of the unit's file, or of the attachment."""
    item: dict[str, Any]
    """Output of the parser; `{"broken": reason}` if the unit cannot be read."""
    cached: tuple[str, int, int] | None = None
    """Cache file with the parser's output; byte offset of the output's line in it; number of the attachment, or 0 for
    the message itself."""


@dataclass(frozen=True)
class Program:
    """A program of this machine that a parser may run in the sandbox."""

    version: str
    """Digest of everything that decides the program's output."""
    mounted: Mapping[str, Path]
    """Maps a path in the sandbox to the file of this machine that is visible there."""
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a unit (a document, message or attachment) that is in no row."""

    name: str
    kind: str
    """`left out`, `quarantined` or `duplicate`."""
    reason: str
    """Reason, without texts or names of the source. For a duplicate: the name of the unit that is used instead."""
    others: tuple[str, ...] = ()
    """Names of other units that the reason concerns, such as several replies that fit one letter."""


def files_of(source: Path) -> list[SourceFile]:
    """Return the files below the folder `source`, sorted by name. If `source` is a file, return only this file.
    Symbolic links are not followed: each is returned with a `problem`. Raises SourceError if the folder has no
    files."""
    if not source.is_dir():
        reject_unreadable(source)
        return [SourceFile(printable(source.name), source.parent, source.name, file_sha256(source))]
    found = []
    for directory, folders, names in os.walk(source, onerror=_cannot_list):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        found += [_source_file(Path(directory, name), source) for name in (*names, *links)]
    if not found:
        raise SourceError(f"{source}: the folder has no files.", "Correct the path, or add files to this folder.")
    return sorted(found, key=lambda file: file.name)


def _cannot_list(error: OSError) -> None:
    raise SourceError(
        f"{printable(str(error.filename))}: the folder cannot be listed ({error.strerror}).",
        "Grant read access to the account that runs the line, or remove the folder.",
    )


def _source_file(path: Path, source: Path) -> SourceFile:
    place = path.relative_to(source).as_posix()
    name = printable(place)
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return SourceFile(name, source, place, "", "a link")
        if not stat.S_ISREG(mode):
            return SourceFile(name, source, place, "", "no regular file")
        return SourceFile(name, source, place, file_sha256(path))
    except OSError:
        return SourceFile(name, source, place, "", "cannot be opened")


def printable(name: str) -> str:
    """Escape unprintable characters, such as newlines, in a file's name. Different names stay different. A `#` is
    escaped if the result could be the name of a unit in a different file, such as `archive.mbox#17`."""
    escaped = (each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in name)
    return _LIKE_A_UNIT.sub(r"\\x23", "".join(escaped))


_LIKE_A_UNIT = re.compile(r"#(?=[0-9]+(?:/|\Z))")


def digest_of_source(source: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of a folder's files."""
    if not source.is_dir():
        return file_sha256(source)
    return digest_of_files(files_of(source))


def digest_of_files(files: Iterable[SourceFile]) -> str:
    """Return the SHA-256 of the names and digests of files. The result equals `digest_of` of the list of these pairs,
    but the list is not built in memory."""
    found = sha256(b"[")
    for number, file in enumerate(files):
        found.update(b"," * (number > 0) + canonical_json([file.name, file.sha256 or file.problem]))
    found.update(b"]")
    return found.hexdigest()


@cache
def parser_version(parser: str) -> str:
    """Return the digest of everything that decides a parser's output: its source code, this module, the parser of
    documents, and the versions of the parsing libraries and of Python, which parses mail and HTML."""
    modules = dict.fromkeys((__name__, parser.partition(":")[0], _DOCUMENTS))
    files = [Path(sovereign_pipeline.__file__).parents[1] / f"{module.replace('.', '/')}.py" for module in modules]
    code = [file_sha256(file) for file in files]
    return digest_of([code, {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}])


MARK_BYTES = 32


@dataclass(frozen=True)
class Cache:
    """The cache of parsed files. Each cache file ends with a MAC (keyed digest). The MAC is invalid if the cache file
    was truncated, moved, or written without the installation's secret. The source file is then parsed again."""

    directory: Path
    """Directory of the cache files, which contain unscrubbed text."""
    secret: bytes

    def write(self, path: Path, lines: Iterable[str]) -> None:
        digest = sha256()

        def marked() -> Iterator[str]:
            for line in lines:
                digest.update(line.encode())
                yield line
            yield f"{self._mark(path, digest.digest())}\n"

        write_atomically(path, marked())

    def is_whole(self, path: Path) -> bool:
        if not path.exists():
            return False
        digest, left = sha256(), path.stat().st_size - 2 * MARK_BYTES - 1
        with path.open("rb") as stream:
            while left > 0 and (block := stream.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
            return left == 0 and stream.read() == f"{self._mark(path, digest.digest())}\n".encode()

    def _mark(self, path: Path, digest: bytes) -> str:
        content = path.relative_to(self.directory).as_posix().encode() + digest
        return keyed_digest(self.secret, "parsed", content, MARK_BYTES).hex()


def units_of(
    parser: str,
    files: Iterable[SourceFile],
    cache: Cache,
    options: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda message: None,
    program: Program | None = None,
) -> Iterator[Unit]:
    """Yield the units of all files. The units of a file that was parsed earlier are read from the cache.

    Args:
        parser: `module:function`, a parser.
        options: keyword arguments of the parser, including the version of `program`. Each set of options has its own
            cache files.
        program: program that the parser runs.
    """
    files = list(files)
    of_parser = cache.directory / digest_of([parser_version(parser), options or {}])[:16]
    next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS
    units = 0

    def lines(number: int, file: SourceFile) -> Iterator[str]:
        nonlocal next_report, units
        before = _stamp_of(file)
        for item in sandboxes.items_of(file.path):
            units += 1
            if time.monotonic() > next_report:
                progress(f"{number:,} of {len(files):,} files and {units:,} documents or messages read")
                next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS
            yield f"{json.dumps(item)}\n"
        if file_sha256(file.path) != file.sha256 or _stamp_of(file) != before:
            raise _changed(file)

    with Sandboxes(parser, options or {}, program) as sandboxes:
        for number, file in enumerate(files):
            if file.problem:
                yield Unit(file.name, file.sha256, {"broken": file.problem})
                continue
            # The parser's output also depends on the suffix.
            suffix = sha256(Path(file.place).suffix.lower().encode(errors="surrogateescape")).hexdigest()[:8]
            kept = of_parser / file.sha256[:2] / f"{file.sha256}-{suffix}.jsonl"
            if not cache.is_whole(kept):
                cache.write(kept, lines(number, file))
            yield from _cached(file, kept)


def _stamp_of(file: SourceFile) -> tuple[int, ...]:
    """Return attributes of a file that differ after the file was changed or replaced, even if its old content was
    restored. Raises SourceError if the file is missing."""
    try:
        found = file.path.lstat()
    except OSError:
        raise _changed(file) from None
    return (found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _changed(file: SourceFile) -> SourceError:
    path = printable(str(file.folder)) + f"/{file.name}"
    return SourceError(f"{path}: the file was changed while it was read.", "Run the line again.")


def _cached(file: SourceFile, kept: Path) -> Iterator[Unit]:
    with kept.open("rb") as stream:
        line, following, start, place = stream.readline(), stream.readline(), 0, 1
        while following:  # the last line is the MAC
            after = stream.readline()
            name = file.name if place == 1 and not after else f"{file.name}#{place}"
            yield from _units_in(name, file.sha256, line, (str(kept), start))
            line, following, start, place = following, after, start + len(line), place + 1


def _units_in(name: str, sha256: str, line: bytes, place: tuple[str, int]) -> Iterator[Unit]:
    """Yield the units in a line of a cache file: a document or a message, followed by the message's attachments."""
    item = json.loads(line)
    attachments = item.pop("attachments", ())
    yield Unit(name, sha256, item, (*place, 0))
    for number, each in enumerate(attachments, start=1):
        yield Unit(f"{name}/{number}{each['attachment']}", each["sha256"], each, (*place, number))


class Units:
    """Iterates over the units of a source in the order of file names, and stores notes on the units. The notes are on
    disk, because a source may have millions of units."""

    def __init__(self, units: Iterable[Unit], directory: Path | None = None) -> None:
        """Args:
        directory: directory for the file of notes. This file may contain unscrubbed text, and is unlinked at once. None
            to keep the notes in memory.
        """
        self._units = units
        self._notes = sqlite3.connect(":memory:") if directory is None else _unnamed_database(directory)
        self.digests = self.notes("digests")
        """Maps the name of each unit that was yielded to the SHA-256 of its file."""
        self._places = self.notes("places")
        self.attachments = 0

    def __enter__(self) -> "Units":
        return self

    def __exit__(self, *error: object) -> None:
        self._notes.close()

    def __iter__(self) -> Iterator[Unit]:
        """Yield every unit. Iterate over an instance only once."""
        for unit in self._units:
            # The item itself is stored only if it is in no cache.
            self._places[unit.name] = unit.cached or (None, unit.item)
            self.digests[unit.name] = unit.sha256
            self.attachments += "attachment" in unit.item
            yield unit

    def again(self, name: str) -> Unit:
        """Return a unit that iteration yielded earlier. A cached unit is read from the cache a second time."""
        kept, *place = self._places[name]
        if kept is None:
            return Unit(name, self.digests[name], *place)
        start, number = place
        with Path(kept).open("rb") as stream:
            stream.seek(start)
            every = [*_units_in(name, "", stream.readline(), (kept, start))]
            return Unit(name, self.digests[name], every[number].item, every[number].cached)

    def notes(self, name: str) -> "Notes":
        """Return an empty dictionary on disk, stored in the table `name`."""
        return Notes(self._notes, name)


def _unnamed_database(directory: Path) -> sqlite3.Connection:
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=directory)
    os.close(handle)
    database = sqlite3.connect(name, isolation_level=None)
    database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; BEGIN;")
    database.execute("CREATE TABLE opened (x)")
    Path(name).unlink()
    return database


class Notes(MutableMapping[Any, Any]):
    """A dictionary on disk. Iterating yields the keys in sorted order. Values are stored as JSON."""

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        database.execute(f"CREATE TABLE {name} (key PRIMARY KEY, value) WITHOUT ROWID")
        self._database, self._name = database, name

    def __getitem__(self, key: Any) -> Any:
        found = self._database.execute(f"SELECT value FROM {self._name} WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return json.loads(found[0])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._database.execute(f"INSERT OR REPLACE INTO {self._name} VALUES (?, ?)", (key, json.dumps(value)))

    def __delitem__(self, key: Any) -> None:
        self._database.execute(f"DELETE FROM {self._name} WHERE key = ?", (key,))

    def __iter__(self) -> Iterator[Any]:
        return (key for (key,) in self._database.execute(f"SELECT key FROM {self._name} ORDER BY key"))

    def __len__(self) -> int:
        (count,) = self._database.execute(f"SELECT count(*) FROM {self._name}").fetchone()
        return int(count)


class Sandboxes:
    """Parses one file after another in a sandbox. If a file crashes the sandbox, a new sandbox is started for the next
    file."""

    def __init__(self, parser: str, options: dict[str, Any], program: Program | None = None) -> None:
        self._parser, self._options = parser, options
        self._mounted = {**_mounted(), **(program.mounted if program is not None else {})}
        self._shown = program.libraries if program is not None else ()
        self._left = 0
        self._channel: socket.socket | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Sandboxes":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def items_of(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the parser's items for a file. For each message at which the parser crashed, yield a broken item. If
        the whole file cannot be parsed, yield one broken item."""
        count, size, restarts = 0, 0, 0
        most = max(LARGEST_RESULT, RESULT_PER_BYTE * path.stat().st_size)
        for _ in range(MOST_ENDS):
            try:
                for item in self._parsed(path, count):
                    if len(item) > LARGEST_RESULT or size + len(item) > most:
                        raise MemoryError  # later messages may be smaller
                    size += len(item)
                    if item == _RESTART:
                        restarts += 1
                        if restarts > MOST_RESTARTS:
                            raise TimeoutError
                        continue
                    checked = _checked(json.loads(item))
                    count, restarts = count + 1, 0
                    yield checked
                if not count:
                    yield {"broken": "holds nothing"}
                return
            except (OSError, EOFError, MemoryError, RecursionError, ValueError) as error:
                yield {"broken": _why_it_ended(error)}
                count += 1
        try:
            for item in self._parsed(path, count, unread=f"after {MOST_ENDS} messages that ended the parser"):
                yield _checked(json.loads(item))
        except (OSError, EOFError, ValueError) as error:
            yield {"broken": _why_it_ended(error)}

    def _parsed(self, path: Path, skip: int, **unread: str) -> Iterator[bytes]:
        if self._channel is None or not self._left:
            self._open.close()
            self._channel = self._open.enter_context(conversation(_program(), self._mounted, LIMITS, self._shown))
            self._left = FILES_OF_A_CHILD
        left, self._left = self._left - 1, 0
        request = {
            "parser": self._parser, "suffix": path.suffix.lower(), "options": {**self._options, **unread},
            "seconds": SECONDS, "skip": skip,
        }  # fmt: skip
        with path.open("rb") as stream:
            encoded = json.dumps(request).encode()
            socket.send_fds(self._channel, [_LENGTH.pack(len(encoded)) + encoded], [stream.fileno()])
            while (item := _received(self._channel)) is not None:
                yield item
        self._left = left  # 0 if the file crashed the sandbox, or was not read to its end


def _checked(item: Any) -> dict[str, Any]:
    """Check an item that a parser yielded, and the item's attachments, and return the item. Raises ValueError if the
    item does not have the required form, because a hostile file may control the parser."""
    unit = _checked_unit(item)
    if not isinstance(item.get("attachments"), list):
        return unit
    attachments = [_checked_unit(each) for each in item["attachments"]]
    for each in attachments:
        if not _SUFFIX.fullmatch(str(each.get("attachment"))) or not _DIGEST.fullmatch(str(each.get("sha256"))):
            raise ValueError
    return {**unit, "attachments": attachments}


def _checked_unit(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or not isinstance(reason := item.get("broken", ""), str) or len(reason) > 200:
        raise ValueError
    own = {name: value for name, value in item.items() if name != "attachments"}
    if not all(name in _SHAPES and _SHAPES[name](value) for name, value in own.items()):
        raise ValueError
    if not any(own.keys() >= needed for needed in _NEEDED):
        raise ValueError
    try:
        json.dumps(own, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        kept = {name: own[name] for name in ("attachment", "sha256") if name in own}
        return {**kept, "broken": "contains a lone surrogate (half of a character)"}
    return own


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _are_properties(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_of_ocr(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == _OF_OCR and all(map(_is_number, value.values()))


_OF_OCR = {"pages", "words", "confidence"}
_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("broken", "text", "id", "sender", "subject", "name", "stem", "attachment", "sha256"), _is_text),
    **dict.fromkeys(("margins", "markings", "aside", "references", "recipients", "sheets"), _are_texts),
    "rows": lambda value: isinstance(value, list) and all(map(_are_texts, value)),
    "left_out": lambda value: value is None or isinstance(value, str),
    "is_doubted": lambda value: isinstance(value, bool),
    "properties": _are_properties,
    "date": _is_date,
    "ocr": _is_of_ocr,
}
"""Maps a field of a parser's item to a function that returns True for a valid value."""
_NEEDED: tuple[Set[str], ...] = (
    {"broken"},
    {"rows"},
    {"sheets"},
    {"attachment", "left_out"},
    {"text", "margins", "properties"},
    {"id", "references", "date", "sender", "recipients", "subject", "text", "left_out"},
)
"""Sets of fields. Each item must have all fields of at least one set."""


def _why_it_ended(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"takes longer than {SECONDS} seconds"
    if isinstance(error, MemoryError):
        return f"holds more than {LARGEST_RESULT >> 20} MiB of text"
    return "ended its parser: damaged, or too much time or memory"


def _program() -> str:
    return _PROGRAM.format(packages=[at for at in _mounted() if at != "/own/sovereign_pipeline"])


def _mounted() -> dict[str, Path]:
    packages = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    mounted = {f"/packages/{number}": Path(path) for number, path in enumerate(packages)}
    return {"/own/sovereign_pipeline": Path(sovereign_pipeline.__file__).parent, **mounted}


def _received(channel: socket.socket) -> bytes | None:
    """Return the next message of a channel, or None for an empty message. Raises EOFError if the channel ends."""
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    return _read(channel, min(length, LARGEST_RESULT + 1)) or None


def _read(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        if not (part := channel.recv(min(size, 1 << 20))):
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


_restart: Callable[[], None] | None = None


def restart_limits() -> None:
    """Restart the parser's time limit. A parser calls this after each part that may take seconds, such as a page."""
    if _restart is not None:
        _restart()


def restart_by(restart: Callable[[], None]) -> None:
    """Set the function that `restart_limits` calls. It restarts the time limit of this process in the sandbox."""
    global _restart
    _restart = restart


def serve(descriptor: int) -> None:
    """Parse the files whose descriptors arrive through a socket. This runs in the sandbox."""
    channel = socket.socket(fileno=descriptor)
    channel.sendall(b"\0")

    def send(encoded: bytes) -> None:
        channel.sendall(_LENGTH.pack(len(encoded)) + encoded)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # the timer's signal ends the process

    restart_by(lambda: send(_RESTART))
    while True:
        begin, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 1)
        if not begin:
            return
        request = json.loads(_read(channel, _LENGTH.unpack(begin)[0]))
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        with os.fdopen(descriptors[0], "rb") as stream:
            for item in _items(request, stream):
                send(json.dumps(item).encode())  # an mbox may have any number of messages
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(_LENGTH.pack(0))


def _items(request: dict[str, Any], stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    parse, options = pkgutil.resolve_name(request["parser"]), request["options"]
    if request["skip"]:
        if "skip" not in inspect.signature(parse).parameters:  # the whole file crashed the sandbox
            return
        options |= {"skip": request["skip"]}
    yield from parsed(parse, stream, request["suffix"], options)


def parsed(parse: Parser, stream: IO[bytes], suffix: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a parser's items. If the parser raises an exception, yield `{"broken": reason}`. This runs in the
    sandbox."""
    try:
        yield from parse(stream, suffix, **options)
    except Unreadable as error:
        yield {"broken": str(error)}
    except MemoryError:
        yield {"broken": "needs too much memory"}
    except Exception as error:  # its message may quote the file
        yield {"broken": f"damaged ({type(error).__name__})"}
