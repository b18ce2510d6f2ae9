"""Reading what somebody else may have written: bounded, without following links, each JSON in one meaning.

What belongs here: bytes and JSON. What does not: what they mean (`trust.py`, `verifying.py`).
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_JSON = 64 << 20
BLOCK = 1 << 20
TIME = "%Y-%m-%dT%H:%M:%SZ"
AGAIN = "Take the bundle again from where it was packed, and find out who changed it."


class Refused(Exception):
    """The bundle is not what was signed, or cannot be installed here."""

    def __init__(self, message: str, hint: str = AGAIN) -> None:
        super().__init__(message)
        self.message, self.hint = on_one_line(message), on_one_line(hint)


def on_one_line(text: str) -> str:
    """As it is printed: what a bundle says, and what its files are called, moves no cursor and begins no line."""
    return "".join(each if each.isprintable() else "?" for each in text)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, never what a link leads to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{path}: it cannot be read ({error.strerror}).") from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{path}: this is no file.")
        yield stream


def small_file(path: Path) -> bytes:
    with opened(path) as stream:
        content = stream.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise Refused(f"{path}: the file is larger than any of its kind.")
    return content


def each_block(path: Path, digest: str, size: int | None) -> Iterator[bytes]:
    """The blocks of a file. Raises Refused at its end where it is not the file with this digest and size."""
    hasher, read = hashlib.sha256(), 0
    with opened(path) as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
            read += len(block)
            yield block
    if hasher.hexdigest() != digest or size not in (None, read):
        raise Refused(f"{path}: these are not the bytes that were signed ({read} bytes of {size}).")


def compare(path: Path, digest: str, size: int | None) -> None:
    for _ in each_block(path, digest, size):
        pass


def json_object(content: bytes, where: object) -> dict[str, Any]:
    """Raises Refused for what is no JSON object, or names a key twice: readers disagree about which one counts."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands there twice")
        return found

    try:
        parsed = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: this is no JSON as a bundle has it ({type(error).__name__}).") from None
    if not isinstance(parsed, dict):
        raise Refused(f"{where}: this is no JSON object.")
    return parsed


def moment(text: object, where: object) -> datetime:
    try:
        return datetime.strptime(str(text), TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Refused(f"{where}: {text!a} is no time.") from None


def spelled(content: Any) -> bytes:
    """The one spelling of JSON that is signed or hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def whole(check: Callable[[], Any], where: object) -> Any:
    """What a check returns. What it does not find where it must be is a bundle that is malformed."""
    try:
        return check()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise Refused(f"{where}: it is malformed ({type(error).__name__}).") from None
