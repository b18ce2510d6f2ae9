"""Looking at a file that nobody has described yet: its encoding, dialect and columns.

What belongs here: facts that the bytes show, without a recipe; no text of the file. What does not: which column becomes
which field of a document (`suggestion.py`), and reading it for good (`documents_from_rows.py`).
"""

import codecs
import csv
import datetime
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.corpus.expected_columns import A_ROW_FOR_A_HEADER, NAME_THE_COLUMNS, seems_a_row
from sovereign_pipeline.corpus.file_formats import format_of, read_rows
from sovereign_pipeline.corpus.links import linked_ids, normal_id
from sovereign_pipeline.corpus.opening import BLOCK, MARKS, packing_of, signature_of, unpacked
from sovereign_pipeline.corpus.quarantine import RowRejected
from sovereign_pipeline.errors import SourceError

LARGEST_ROW = 1_000_000
"""In bytes, as the default of `quarantine.max_row_bytes`."""
LONGEST_SHORT_VALUE = 400
"""Characters of a value that may be an id, a case, a level or a list of ids. A column with a longer one holds texts."""
MOST_VALUES = 500_000
"""Different values of a column that are counted."""
_SAMPLE = 1 << 20
_DELIMITERS = ",;\t|"
_MARKUP = re.compile(r"</?(?:p|br|div|span|li|ul|ol|a|b|i|strong|em|table|tr|td)\b[^<>]*>", re.IGNORECASE)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_BROKEN = re.compile("[\udc80-\udcff]")
_ARABIC = re.compile(r"[\u0600-\u06ff]")
_LATIN = re.compile(r"[A-Za-z]")
_LIKELY_ENCODINGS = ("cp1252", "cp1256", "iso8859_6", "cp1251", "utf_16", "gb18030", "shift_jis")
"""Of exports that are no UTF-8. Old encodings of terminals fit any bytes, and are left out."""


@dataclass
class ColumnFacts:
    """What the values of one column are."""

    name: str
    rows: int = 0
    """That have the column."""
    empty: int = 0
    types: Counter[str] = field(default_factory=Counter)
    """Of the values that are not empty: text, number, truth value, list, object."""
    dates: int = 0
    """Values that are ISO dates."""
    longest: int = 0
    """Characters of the longest value."""
    characters: int = 0
    """Of all values."""
    arabic: int = 0
    """Values with more Arabic letters than Latin ones."""
    markup: int = 0
    """Values with tags of HTML."""
    values: Counter[str] = field(default_factory=Counter)
    """Each value with how often it stands there; none where one is too long for an id, a level or a list of ids."""
    has_texts: bool = False
    """Whether a value is longer than that."""

    @property
    def filled(self) -> int:
        return self.rows - self.empty

    @property
    def mean_length(self) -> float:
        return self.characters / self.filled if self.filled else 0.0

    @property
    def is_unique(self) -> bool:
        """Whether every row has a value that no other row has."""
        return self.filled == len(self.values) == self.values.total() and self.filled == self.rows > 0


@dataclass
class FileFacts:
    """What a file holds."""

    path: Path
    format: str
    """Suffix, without that of the compression."""
    compression: str | None
    encoding: str | None
    """To name in a recipe; None is UTF-8."""
    delimiter: str | None
    """Of a table of text; to name in a recipe; None is the format's own."""
    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    """Reason -> rows that cannot be read at all."""
    columns: dict[str, ColumnFacts] = field(default_factory=dict)


def look_at(path: Path) -> FileFacts:
    """Read a file to its end. Raises SourceError when it cannot be read."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file.", "Correct the path.")
    suffix = format_of(path)
    encoding = encoding_of(path) if suffix != ".parquet" else None
    delimiter = _delimiter_of(path, suffix, encoding) if suffix in (".csv", ".tsv") else None
    facts = FileFacts(path, suffix, packing_of(path), encoding, delimiter)
    for row in read_rows(path, LARGEST_ROW, encoding, delimiter, partial(_refuse_a_row_for_a_header, path)):
        facts.rows += 1
        if row.values is None:
            facts.broken[row.problem or "broken"] += 1
            continue
        for name, value in row.values.items():
            shown = _printable(name)
            _add(facts.columns.setdefault(shown, ColumnFacts(shown)), value)
    if not facts.rows:
        raise SourceError(f"{path}: the file holds no row.", "Export it again.")
    return facts


def _refuse_a_row_for_a_header(path: Path, columns: Sequence[str]) -> None:
    """Names of columns are shown, and the values of a row may not be."""
    if seems_a_row(columns):
        raise SourceError(f"{path}: {A_ROW_FOR_A_HEADER[0].lower()}{A_ROW_FOR_A_HEADER[1:]}", NAME_THE_COLUMNS)


@dataclass(frozen=True)
class FoundLinks:
    """A column whose values are ids of other rows."""

    column: str
    ids: str
    """The column of the ids that it names."""
    links: int
    matched: int
    """Links that name a row."""


LEAST_MATCHED = 0.5
"""Share of a column's links that name a row, from which it is one of links. Less is a chance: small numbers are ids of
everything."""
LEAST_DIFFERENT = 0.05
"""Ids that are named, of all links. A column that names the same few rows over and over counts something else."""


def links_in(facts: FileFacts) -> list[FoundLinks]:
    """Every column of links, the one with the most of them first.

    Compared are columns of lists, or of texts and numbers that are all short, with the columns whose values are all
    different.
    """
    ids = {name: set(map(normal_id, column.values)) for name, column in facts.columns.items() if column.is_unique}
    found = []
    for name, column in facts.columns.items():
        if not column.filled or column.dates or column.values.total() != column.filled:
            continue
        links = Counter[str]()
        for cell, times in column.values.items():
            try:
                links.update(dict.fromkeys(linked_ids(cell), times))
            except RowRejected:
                continue
        if name in ids and links.total() <= column.filled:
            continue  # one id in each row, and all of them different: ids of its own
        for of, known in ids.items():
            if of == name:
                continue
            named = {id: times for id, times in links.items() if id in known}
            matched = sum(named.values())
            if matched >= LEAST_MATCHED * links.total() and len(named) >= LEAST_DIFFERENT * links.total() > 0:
                found.append(FoundLinks(name, of, links.total(), matched))
    return sorted(found, key=lambda each: -each.matched)


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
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return None if encoding == "utf-8" else encoding
    if _is_utf8(path):
        return None
    best = from_bytes(sample, cp_isolation=[*_LIKELY_ENCODINGS]).best()
    if best is None:
        raise SourceError(f"{path}: its encoding cannot be told.", "Save it as UTF-8.")
    return best.encoding


def _is_utf8(path: Path) -> bool:
    """Whether the characters beyond ASCII are UTF-8 but for a few: rows that are not are quarantined one by one."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    beyond = broken = 0
    with unpacked(path) as stream:
        while block := stream.read(BLOCK):
            text = decoder.decode(block)
            if not text.isascii():
                beyond += len(_BEYOND_ASCII.findall(text))
                broken += len(_BROKEN.findall(text))
    return broken * 20 <= beyond


def _delimiter_of(path: Path, suffix: str, encoding: str | None) -> str | None:
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


def _add(column: ColumnFacts, value: Any) -> None:
    column.rows += 1
    text = "" if value is None else _printable(str(value).strip())
    if not text or (isinstance(value, list | dict) and not value):
        column.empty += 1
        return
    column.types[_type_of(value)] += 1
    column.longest = max(column.longest, len(text))
    column.characters += len(text)
    column.markup += _MARKUP.search(text) is not None
    column.arabic += len(_ARABIC.findall(text)) > len(_LATIN.findall(text))
    if isinstance(value, datetime.date | datetime.datetime) or _is_date(text):
        column.dates += 1
    if len(text) > LONGEST_SHORT_VALUE and not isinstance(value, list):
        column.has_texts = True
        column.values.clear()
    if not column.has_texts and (len(column.values) < MOST_VALUES or text in column.values):
        column.values[text] += 1


def _printable(text: str) -> str:
    """Without halves of characters, which JSON can hold and no terminal can show."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, datetime.date | datetime.datetime):
        return "date"
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, dict) else "text"


def _is_date(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return len(text) >= len("2024-01-01") and not text.isdigit()
