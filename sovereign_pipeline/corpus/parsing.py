"""List the files of a source, and parse hostile files in a sandbox, with a cache by the file's digest.

A parser is a function that gets a path in the sandbox and yields one JSON object for each document or message of the
file, or `{"broken": reason}` for one that cannot be read. It raises Unreadable for a whole file. Everything else that
it raises, a crash, and too much time or memory break the file, too. Its reasons never quote the file.
"""

import json
import os
import pkgutil
import shutil
import signal
import socket
import stat
import struct
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sovereign_pipeline
from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import digest_of, file_sha256, write_atomically
from sovereign_pipeline.base.sandbox import Limits, conversation
from sovereign_pipeline.corpus.opening import reject_unreadable

LARGEST_FILE = 256 << 20
"""Maximum size of a file, in bytes. A larger one is broken unread."""
LARGEST_RESULT = 256 << 20
"""Maximum size of what a parser returns for a file, in bytes."""
SECONDS = 60
"""Maximum processor time, and maximum waiting time, for a document or message."""
LIMITS = Limits(
    cpu_seconds=3600, wall_seconds=3.0 * SECONDS, memory_bytes=2 << 30, file_bytes=LARGEST_FILE,
    disk_bytes=LARGEST_FILE + (1 << 20),
)  # fmt: skip
FILES_OF_A_CHILD = 500
"""Number of files after which a new sandbox is started, so that a leak stays small."""
LIBRARIES = ("beautifulsoup4", "lxml", "pdfminer.six", "python-calamine", "python-oxmsg", "striprtf")
SECONDS_BETWEEN_REPORTS = 10.0

_PROGRAM = """
import sys
sys.path += ["/own", *sorted({packages})]
from sovereign_pipeline.corpus.parsing import serve
main = serve
"""
_LENGTH = struct.Struct(">I")


class Unreadable(Exception):
    """Raised by a parser for a file that it cannot read. The message is the reason, without text of the file."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source."""

    name: str
    """Path within the source's folder, in printable characters."""
    path: Path
    sha256: str
    """SHA-256, or "" if the file cannot be read."""
    problem: str = ""
    """Reason why the file cannot be read."""


@dataclass(frozen=True)
class Unit:
    """A document or a message of a source: what is counted."""

    name: str
    """Name of its file, with `#` and a number if the file has several."""
    sha256: str
    """SHA-256 of its file."""
    item: dict[str, Any]
    """Output of the parser; `{"broken": reason}` if the unit cannot be read."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a unit that is in no row."""

    name: str
    kind: str
    """`left out`, `quarantined` or `duplicate`."""
    reason: str
    """Reason without text and names. For a duplicate: the name of the unit that is used."""
    others: tuple[str, ...] = ()
    """Names of other units that the reason is about, such as the replies of which one cannot be chosen."""


def files_of(source: Path) -> list[SourceFile]:
    """Return the files of a folder and of the folders in it, by name, or the one file. Links are not followed. Raises
    SourceError if there are none."""
    if not source.is_dir():
        reject_unreadable(source)
        return [SourceFile(printable(source.name), source, file_sha256(source))]
    found = []
    for directory, folders, names in os.walk(source, onerror=_cannot_list):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        found += [_source_file(Path(directory, name), source) for name in (*names, *links)]
    if not found:
        raise SourceError(f"{source}: the folder has no files.", "Correct the path, or put the files there.")
    return sorted(found, key=lambda file: file.name)


def _cannot_list(error: OSError) -> None:
    raise SourceError(
        f"{error.filename}: the folder cannot be listed ({error.strerror}).", "Correct its rights, or remove it."
    )


def _source_file(path: Path, source: Path) -> SourceFile:
    name = printable(path.relative_to(source).as_posix())
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return SourceFile(name, path, "", "a link")
        if not stat.S_ISREG(mode):
            return SourceFile(name, path, "", "no regular file")
        return SourceFile(name, path, file_sha256(path))
    except OSError:
        return SourceFile(name, path, "", "cannot be opened")


def printable(name: str) -> str:
    """Return a file's name with unprintable characters, such as newlines, escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def digest_of_source(source: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of a folder's files."""
    if not source.is_dir():
        return file_sha256(source)
    return digest_of([[file.name, file.sha256 or file.problem] for file in files_of(source)])


@cache
def parser_version(parser: str) -> str:
    """Return the digest of a parser's source code, of this module and of the parsing libraries' versions."""
    modules = (__name__, parser.partition(":")[0])
    files = [Path(sovereign_pipeline.__file__).parents[1] / f"{module.replace('.', '/')}.py" for module in modules]
    code = [file_sha256(file) for file in files]
    return digest_of([code, {name: version(name) for name in LIBRARIES}])


def units_of(
    parser: str,
    files: Iterable[SourceFile],
    stored: Path,
    options: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Iterator[Unit]:
    """Yield the units of all files. A file that was parsed before is read from the cache.

    Args:
        parser: `module:function`, a parser.
        stored: directory of the cache. It holds unscrubbed text.
        options: keyword arguments of the parser.
    """
    files = list(files)
    of_parser = stored / digest_of([parser_version(parser), options or {}])[:16]
    next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS
    with Sandboxes(parser, options or {}) as sandboxes:
        for number, file in enumerate(files):
            if time.monotonic() > next_report:
                progress(f"{number:,} of {len(files):,} files read")
                next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS
            if file.problem:
                yield Unit(file.name, file.sha256, {"broken": file.problem})
                continue
            # The parser decides by the suffix, too.
            suffix = sha256(file.path.suffix.lower().encode()).hexdigest()[:8]
            kept = of_parser / file.sha256[:2] / f"{file.sha256}-{suffix}.jsonl"
            if not kept.exists():
                items = sandboxes.items_of(file.path)
                if file_sha256(file.path) != file.sha256:
                    raise SourceError(f"{file.path}: the file was changed while it was read.", "Run the line again.")
                write_atomically(kept, "".join(f"{json.dumps(item)}\n" for item in items))
            with kept.open(encoding="utf-8") as stream:
                items = [json.loads(line) for line in stream]
            for place, item in enumerate(items, start=1):
                yield Unit(file.name if len(items) == 1 else f"{file.name}#{place}", file.sha256, item)


class Sandboxes:
    """Parses one file after another in a sandbox. If a file ends the sandbox, a new one is started for the next."""

    def __init__(self, parser: str, options: dict[str, Any]) -> None:
        self._parser, self._options = parser, options
        self._left = 0
        self._channel: socket.socket | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Sandboxes":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def items_of(self, path: Path) -> list[dict[str, Any]]:
        """Return what the parser yields for a file; one broken item if it cannot be parsed."""
        if path.stat().st_size > LARGEST_FILE:
            return [{"broken": f"larger than {LARGEST_FILE >> 20} MiB"}]
        if self._channel is None or not self._left:
            self._open.close()
            self._channel = self._open.enter_context(conversation(_program(), _mounted(), LIMITS))
            self._left = FILES_OF_A_CHILD
        self._left -= 1
        request = {"parser": self._parser, "suffix": path.suffix.lower(), "options": self._options, "seconds": SECONDS}
        try:
            with path.open("rb") as stream:
                encoded = json.dumps(request).encode()
                socket.send_fds(self._channel, [_LENGTH.pack(len(encoded)) + encoded], [stream.fileno()])
                items, size = [], 0
                while (item := _received(self._channel)) is not None:
                    size += len(item)
                    if size > LARGEST_RESULT:
                        raise MemoryError
                    items.append(_checked(json.loads(item)))
        except (OSError, EOFError, MemoryError, RecursionError, ValueError) as error:
            self._left = 0
            return [{"broken": _why_it_ended(error)}]
        return items or [{"broken": "holds nothing"}]


def _checked(item: Any) -> dict[str, Any]:
    """Return what a parser, which a file may have taken over, yielded for a unit. Raises ValueError if it is no such
    object."""
    if not isinstance(item, dict) or not isinstance(reason := item.get("broken", ""), str) or len(reason) > 200:
        raise ValueError
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return {"broken": "holds half a character (a lone surrogate)"}
    return item


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
    """Return the next message; None for an empty one. Raises EOFError at the channel's end."""
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


def serve(descriptor: int) -> None:
    """Parse the files whose descriptors come through a socket. This runs in the sandbox."""
    channel = socket.socket(fileno=descriptor)
    channel.sendall(b"\0")
    while True:
        begin, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 1)
        if not begin:
            return
        request = json.loads(_read(channel, _LENGTH.unpack(begin)[0]))
        path = Path("/tmp", f"file{request['suffix'][:20]}".replace("/", ""))
        with os.fdopen(descriptors[0], "rb") as stream, path.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # its signal ends the process
        for item in _items(request, path):
            encoded = json.dumps(item).encode()
            channel.sendall(_LENGTH.pack(len(encoded)) + encoded)
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # an mbox may have any number of messages
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(_LENGTH.pack(0))
        path.unlink()


def _items(request: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from pkgutil.resolve_name(request["parser"])(path, **request["options"])
    except Unreadable as error:
        yield {"broken": str(error)}
    except MemoryError:
        yield {"broken": "needs too much memory"}
    except Exception as error:  # its message may quote the file
        yield {"broken": f"damaged ({type(error).__name__})"}
