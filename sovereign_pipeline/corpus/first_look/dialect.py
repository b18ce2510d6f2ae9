"""The encoding of a text file and the delimiter of a table of text, told from their bytes.

What belongs here: what a recipe names under `encoding` and `delimiter`. What does not: the columns of the file
(`looking.py`), and reading it (`opening.py`, `file_formats.py`).
"""

import codecs
import csv
import re
from pathlib import Path

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.opening import BLOCK, encoding_by_begin, signature_of, unpacked

_SAMPLE = 1 << 20
_DELIMITERS = ",;\t|"
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_BROKEN = re.compile("[\udc80-\udcff]")
_LIKELY_ENCODINGS = ("cp1252", "cp1256", "iso8859_6", "cp1251", "utf_16", "gb18030", "shift_jis")
"""Of exports that are no UTF-8. Old encodings of terminals fit any bytes, and are left out."""
_LEAST_RIGHT_LINES, _LEAST_RIGHT_SHARE = 2, 0.1
"""Lines with characters of UTF-8 beside lines that are none, from which a file is a mixture: in another encoding hardly
a line is UTF-8 by chance."""


def encoding_of(path: Path) -> str | None:
    """The encoding of a text file, as a recipe names it; None for UTF-8.

    A file that is no UTF-8 gets the most plausible encoding of its first megabyte; a person must look whether its
    letters are right. Raises SourceError where none is plausible.
    """
    from charset_normalizer import from_bytes

    with unpacked(path) as stream:
        sample = stream.read(_SAMPLE)
    if signature_of(sample) is not None:
        return None  # it is no text, which whoever reads its rows will tell
    told = encoding_by_begin(sample)
    if told is not None:
        return None if told == "utf-8" else told
    if _is_utf8(path):
        return None
    best = from_bytes(sample, cp_isolation=[*_LIKELY_ENCODINGS]).best()
    if best is None:
        raise SourceError(f"{path}: its encoding cannot be told.", "Save it as UTF-8.")
    return best.encoding


def _is_utf8(path: Path) -> bool:
    """Whether the characters beyond ASCII are UTF-8 but for a few, or as many lines with such characters as not, or
    some of them: rows that are not are quarantined one by one, where another encoding would garble those that are."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    beyond = broken = right_lines = broken_lines = 0
    line_is_beyond = line_is_broken = False
    with unpacked(path) as stream:
        while block := stream.read(BLOCK):
            parts = decoder.decode(block).split("\n")
            for number, part in enumerate(parts):
                if number:
                    right_lines += line_is_beyond and not line_is_broken
                    broken_lines += line_is_broken
                    line_is_beyond = line_is_broken = False
                if part.isascii():
                    continue
                line_is_beyond = True
                beyond += len(_BEYOND_ASCII.findall(part))
                if found := len(_BROKEN.findall(part)):
                    line_is_broken = True
                    broken += found
    right_lines += line_is_beyond and not line_is_broken
    broken_lines += line_is_broken
    few_characters = broken * 20 <= beyond
    return few_characters or right_lines >= max(_LEAST_RIGHT_LINES, broken_lines * _LEAST_RIGHT_SHARE)


def delimiter_of(path: Path, suffix: str, encoding: str | None) -> str | None:
    """The delimiter of a table of text, as a recipe names it; None for the format's own."""
    with unpacked(path) as stream:
        sample = stream.read(_SAMPLE)
    text = sample.decode(encoding or "utf-8-sig", errors="ignore")
    header = text.splitlines()[0] if text else ""
    own = "\t" if suffix == ".tsv" else ","
    try:
        found = csv.Sniffer().sniff(text[:BLOCK], _DELIMITERS).delimiter
    except csv.Error:
        found = own
    # The header names columns: what divides it divides the rows. Texts are full of commas.
    best = max(_DELIMITERS, key=header.count)
    delimiter = best if header.count(best) > header.count(found) else found
    return delimiter if delimiter != own and delimiter in header else None
