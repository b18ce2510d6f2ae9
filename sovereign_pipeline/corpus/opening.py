"""Open, decompress and recode a source file to UTF-8. Reject a file whose content does not match its name."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from sovereign_pipeline.base.errors import SourceError

PACKINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Maps the last suffix of a compressed file's name, which follows the suffix of the format, to the compression."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, each with the encoding to state in the recipe. UTF-32 precedes UTF-16, because the mark of UTF-32
begins with the mark of UTF-16."""
BLOCK = 1 << 16
GET_A_WHOLE_COPY = "Get a complete copy of the file."

_DECOMPRESSORS: dict[str | None, Callable[[], Any]] = {
    "bzip2": bz2.BZ2Decompressor,
    "xz": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ),
}

TAR, SQLITE = "a tar archive", "an SQLite database"
_BEGIN = 512
"""Number of bytes at the beginning that are searched for signatures of formats. A tar archive's is at byte 257."""
_SAMPLE_OF_TEXT = 4096
_SIGNATURES = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"PAR1[\x00-\x1f]"), "Parquet"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive, or a workbook"),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "a file of Microsoft Office"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"SQLite format 3\0"), SQLITE),
    (re.compile(rb".{257}ustar", re.DOTALL), TAR),
)
"""Signatures of files that are not text."""
_LEAST_ZEROS = 0.1
"""Minimum share of a text's characters that must have a zero byte for the text to count as UTF-16. In UTF-16, digits,
spaces, delimiters, line ends and Latin letters have a zero byte."""
_LEAST_TEXT = 6
"""Minimum number of characters that a text without a byte order mark must have for its encoding to be detected."""
_LEAST_UTF8 = 3
"""Minimum number of multi-byte characters for a text that is valid UTF-8 to count as UTF-8. With fewer, it may be valid
by chance."""


def reject_unreadable(path: Path) -> None:
    """Raise SourceError unless the path is a regular, readable file. Such a file can be read several times."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError(
            f"{path}: the source file does not exist.", f"Correct the path, or put the file at {path}."
        ) from None
    except OSError as error:
        raise SourceError(
            f"{path}: the file cannot be opened ({error.strerror}).", "Correct the path, or allow read access."
        ) from None
    if stat.S_ISDIR(mode):
        raise SourceError(
            f"{path}: this is a directory.", "Use a file in the directory, or set `kind` to `mail` or `documents`."
        )
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{path}: this is a pipe, a socket or a device, which cannot be read twice.",
            "Write the data to a regular file, and use that file.",
        )
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: permission denied.", "Grant read access to the account that runs the line.")


def is_sqlite(path: Path) -> bool:
    """Return True if a file is an SQLite database. Raises SourceError for a file that cannot be read."""
    reject_unreadable(path)
    with path.open("rb") as stream:
        return signature_of(stream.read(_BEGIN)) == SQLITE


def name_without_packing(path: Path) -> str:
    """Return the file's name in lower case, without the suffix of its compression."""
    name = path.name.lower()
    return next((name.removesuffix(suffix) for suffix in PACKINGS if name.endswith(suffix)), name)


def packing_of(path: Path) -> str | None:
    return PACKINGS.get(path.suffix.lower())


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Yield a stream of the file's decompressed bytes. Raises SourceError if the file is empty, truncated or damaged,
    or is not compressed in the format that its name states."""
    with path.open("rb") as stream:
        begin = stream.read(_BEGIN)
    if not begin:
        raise SourceError(f"{path}: the file is empty.", "Export it again.")
    packing, found = packing_of(path), signature_of(begin)
    if packing is not None and found != packing:
        raise SourceError(
            f"{path}: the name ends in {path.suffix}, but the file is not {packing}"
            f"{f', but {found}' if found else ''}.",
            "Correct the file's suffix, or get a complete copy.",
        )
    try:
        with _opened(path, packing) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        # The error's message may quote bytes of the file.
        why = getattr(error, "strerror", None) or ("ends too early" if isinstance(error, EOFError) else "damaged")
        raise SourceError(f"{path}: the file cannot be read completely ({why}).", GET_A_WHOLE_COPY) from None


def _opened(path: Path, packing: str | None) -> IO[bytes]:
    if packing == "zstd":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(path.open("rb"), "zstd"))
    if packing in _DECOMPRESSORS:
        return io.BufferedReader(_Members(path.open("rb"), _DECOMPRESSORS[packing]))
    opener: Any = {"gzip": gzip.open, None: open}[packing]
    stream = opener(path, "rb")
    return cast(IO[bytes], stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream))


class _Members(io.RawIOBase):
    """Decompresses all members of a compressed file. Raises an error at data between the members. Python's own bzip2
    and xz streams end silently at such data, so the remaining rows would be lost."""

    def __init__(self, stream: IO[bytes], decompressor: Callable[[], Any]) -> None:
        self._stream, self._decompressor = stream, decompressor
        self._member = decompressor()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self._member.eof:
                packed = self._next_member()
                if not packed:
                    return 0
                self._member = self._decompressor()
            elif self._member.needs_input:
                packed = self._stream.read(BLOCK)
                if not packed:
                    raise EOFError
            unpacked = self._member.decompress(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)

    def _next_member(self) -> bytes:
        """Return the first compressed bytes of the next member, or b"" at the end of the file. Zeros between members
        are padding, as the xz format allows."""
        packed: bytes = self._member.unused_data.lstrip(b"\0")
        while not packed and (block := self._stream.read(BLOCK)):
            packed = block.lstrip(b"\0")
        return packed


def signature_of(begin: bytes) -> str | None:
    """Return the format whose signature these bytes begin with. Return None if there is none, as in text."""
    return next((what for pattern, what in _SIGNATURES if pattern.match(begin)), None)


def as_utf8(stream: IO[bytes], path: Path, encoding: str | None) -> IO[bytes]:
    """Return a stream of the text in UTF-8, recoded from `encoding`. If `encoding` is None, return the stream
    unchanged. Raises SourceError for a file that is not text, or that is clearly in a different encoding."""
    begin = cast(io.BufferedReader, stream).peek(_SAMPLE_OF_TEXT)[:_SAMPLE_OF_TEXT]
    if (found := signature_of(begin)) is not None:
        raise SourceError(
            f"{path}: the file contains {found}, but the name ends in {Path(name_without_packing(path)).suffix}.",
            "Unpack the archive, and use the file inside."
            if found == TAR
            else "Correct the file's suffix, or save the file in the format of its name.",
        )
    plain = encoding_by_begin(begin)
    if plain is not None and not _is_read_as(plain, encoding):
        named = f"`encoding` is {encoding}" if encoding is not None else "no `encoding` is set, which means UTF-8"
        remedy = "Remove `encoding` from" if plain == "utf-8" else f"Set `encoding: {plain}` for"
        raise SourceError(
            f"{path}: the first bytes show that the file is in {plain.upper()}, but {named}.",
            f"{remedy} the source in the recipe.",
        )
    if encoding is None:
        return stream
    return cast(IO[bytes], io.BufferedReader(_Recoded(stream, path, encoding)))


def encoding_by_begin(begin: bytes) -> str | None:
    """Return the encoding of a text, found by a byte order mark or by the positions of zero bytes at the beginning of
    the text. Return None if neither shows the encoding."""
    marked = next((encoding for mark, encoding in MARKS if begin.startswith(mark)), None)
    return marked or _encoding_by_zeros(begin[:_SAMPLE_OF_TEXT])


def _encoding_by_zeros(begin: bytes) -> str | None:
    characters = len(begin) // 4
    if not characters:
        return None
    whole = begin[: 4 * characters]
    zeros = [whole[place::4].count(0) for place in range(4)]
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    encoding = None
    if zeros[2] == zeros[3] == characters > zeros[0]:
        encoding = "utf-32-le"
    elif zeros[0] == zeros[1] == characters > zeros[3]:
        encoding = "utf-32-be"
    elif max(even, odd) >= _LEAST_ZEROS * 2 * characters and min(even, odd) <= _LEAST_ZEROS * max(even, odd):
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    # In UTF-8, zeros may be anywhere; read as UTF-16 or UTF-32 such a text has unprintable characters.
    text = whole.decode(encoding, "replace") if encoding is not None else ""
    if len(text) < _LEAST_TEXT or not text.strip():
        return None
    return encoding if all(each.isprintable() or each in "\t\r\n\u200f\u200e" for each in text) else None


def _is_read_as(plain: str, encoding: str | None) -> bool:
    name = codecs.lookup(encoding or "utf-8").name
    if plain.endswith("e"):  # without a byte order mark, Python reads both in their -le variants
        return name in (plain, plain.removesuffix("-le"))
    return name.startswith(plain)


class _Recoded(io.RawIOBase):
    """A stream that recodes a file from `encoding` to UTF-8. Raises SourceError at a byte that is invalid in this
    encoding, because the rest of the text could only be guessed. Also raises SourceError at the end of a file that is
    valid UTF-8 and not only ASCII, because `encoding` is then wrong and garbled the text."""

    def __init__(self, stream: IO[bytes], path: Path, encoding: str) -> None:
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        may_be_utf8 = not codecs.lookup(encoding).name.startswith(("utf", "ascii"))
        self._utf8 = codecs.getincrementaldecoder("utf-8")() if may_be_utf8 else None
        self._beyond_ascii = 0
        self._ready = b""
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._stream.read(BLOCK)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeError:
                raise SourceError(
                    f"{self._path}: the file is not valid {self._encoding} between the bytes {self._read:,} and "
                    f"{self._read + len(block):,}.",
                    "Correct `encoding` of the source in the recipe.",
                ) from None
            self._refuse_utf8(block)
            self._read += len(block)
            self._ready = text.encode("utf-8", "surrogatepass")
            if not block:
                break
        given, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)

    def _refuse_utf8(self, block: bytes) -> None:
        if self._utf8 is None:
            return
        try:
            text = self._utf8.decode(block, final=not block)
        except UnicodeError:
            self._utf8 = None
            return
        self._beyond_ascii += 0 if text.isascii() else sum(not character.isascii() for character in text)
        if not block and self._beyond_ascii >= _LEAST_UTF8:
            raise SourceError(
                f"{self._path}: the file is valid UTF-8, but `encoding` is {self._encoding}, which would garble it.",
                "Remove `encoding` from the source in the recipe.",
            )
