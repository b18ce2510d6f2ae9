"""Looking at a file that nobody has described yet: its encoding, dialect and columns.

What belongs here: facts that the bytes show, without a recipe; no text of the file. What does not: how encoding and
delimiter are told (`dialect.py`), which column becomes which field of a document (`suggestion.py`), and reading it for
good (`documents_from_rows.py`).
"""

import datetime
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.corpus.expected_columns import (
    NAME_THE_COLUMNS,
    NO_KNOWN_NAME,
    is_table_of_text,
    odd_first_line,
    resembles_a_name,
)
from sovereign_pipeline.corpus.file_formats import format_of, read_rows
from sovereign_pipeline.corpus.first_look.dialect import delimiter_of, encoding_of
from sovereign_pipeline.corpus.links import link_key, linked_ids
from sovereign_pipeline.corpus.opening import packing_of, refuse_no_file
from sovereign_pipeline.corpus.quarantine import RowRejected
from sovereign_pipeline.policy.days import iso_day

LARGEST_ROW = 1_000_000
"""In bytes, as the default of `quarantine.max_row_bytes`."""
LONGEST_SHORT_VALUE = 400
"""Characters of a value that may be an id, a case or a level. A longer one is a text, but for a list of ids."""
MOST_LONG, MOST_LONG_SHARE = 10, 0.05
"""A column with more long values than both holds texts, and its values are no longer counted."""
LEAST_DIFFERENT_IDS = 0.95
"""Share of the rows with a value of its own, from which a column may be the rows' ids: exports repeat some, leave some
empty, and end in a row of totals."""
ROWS_WITH_ONE_AMISS = 8
"""From so many rows on, one may be amiss whatever its share."""
ROWS_NAMED = 5
"""Numbers of broken rows that are kept for each reason."""
NOT_UTF8 = "not UTF-8"
"""Why a row is broken (`file_formats.py`) whose bytes are of another encoding than the rest."""
MOST_VALUES = 500_000
"""Different values of a column that are counted."""
_TAG = r"p|div|span|li|ul|ol|a|b|i|u|strong|em|table|tr|td|h[1-6]|body|html|font|blockquote"
_MARKUP = re.compile(rf"<br\s*/?>|<({_TAG})\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
"""Markup for certain: a known element that is closed, or a line break."""
_KNOWN_TAG = re.compile(rf"</?(?:br|hr|img|{_TAG})\b[^<>]*>", re.IGNORECASE)
_LIKE_A_TAG = re.compile(r"<[A-Za-z!?/]")
"""What a reader of HTML removes, up to the next `>`."""
_WORDS = re.compile(r"[\s,;|\[\]{}()\"']+")
_ARABIC = re.compile(r"[\u0600-\u06ff]")
_LATIN = re.compile(r"[A-Za-z]")


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
    """Values that are ISO dates, 20240115 among them."""
    longest: int = 0
    """Characters of the longest value."""
    characters: int = 0
    """Of all values."""
    arabic: int = 0
    """Values with more Arabic letters than Latin ones."""
    markup: int = 0
    """Values with markup of HTML for certain: a known element that is closed."""
    like_tags: int = 0
    """Values with `<` before a letter that begins no known tag, such as an e-mail address in angle brackets."""
    values: Counter[str] = field(default_factory=Counter)
    """Each short value with how often it stands there; none where many are long."""
    long: int = 0
    """Values that are too long for an id or a level, and are no list of ids."""
    has_texts: bool = False
    """Whether that are so many that values are not counted."""

    @property
    def filled(self) -> int:
        return self.rows - self.empty

    @property
    def mean_length(self) -> float:
        return self.characters / self.filled if self.filled else 0.0

    @property
    def is_unique(self) -> bool:
        """Whether every row has a value that no other row has."""
        return self.rows_amiss == 0 < self.rows

    @property
    def rows_amiss(self) -> int:
        """Rows without a value of their own: it is empty, or an earlier row has it."""
        return self.rows - len(self.values)

    @property
    def may_be_ids(self) -> bool:
        """Whether nearly every row has a value of its own."""
        few = self.rows_amiss <= (1 - LEAST_DIFFERENT_IDS) * self.rows
        return self.rows > 0 and (few or (self.rows_amiss == 1 and self.rows >= ROWS_WITH_ONE_AMISS))

    @property
    def is_dated(self) -> bool:
        return self.filled > 0 and self.dates >= 0.9 * self.filled


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
    broken_rows: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> the numbers of the first of them."""
    columns: dict[str, ColumnFacts] = field(default_factory=dict)


def look_at(path: Path) -> FileFacts:
    """Read a file to its end. Raises SourceError when it cannot be read."""
    refuse_no_file(path)
    suffix = format_of(path)
    encoding = encoding_of(path) if suffix != ".parquet" else None
    delimiter = delimiter_of(path, suffix, encoding) if suffix in (".csv", ".tsv") else None
    facts = FileFacts(path, suffix, packing_of(path), encoding, delimiter)
    for row in read_rows(path, LARGEST_ROW, encoding, delimiter, partial(_refuse_a_row_for_a_header, path)):
        facts.rows += 1
        if row.values is None:
            problem = row.problem or "broken"
            facts.broken[problem] += 1
            if facts.broken[problem] <= ROWS_NAMED:
                facts.broken_rows.setdefault(problem, []).append(row.number)
            continue
        for name, value in row.values.items():
            shown = _printable(name)
            _add(facts.columns.setdefault(shown, ColumnFacts(shown)), value)
    if not facts.rows:
        raise SourceError(f"{path}: the file holds no row.", "Export it again.")
    return facts


def rows_shown(facts: FileFacts, reason: str) -> str:
    """The numbers of the first rows that are broken for a reason."""
    numbers = facts.broken_rows[reason]
    more = " and more" if facts.broken[reason] > len(numbers) else ""
    return f"{'row' if numbers[1:] == [] else 'rows'} {', '.join(map(str, numbers))}{more}"


def _refuse_a_row_for_a_header(path: Path, columns: Sequence[str]) -> None:
    """Names of columns are shown, and the values of a row may not be."""
    if (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{path}: {odd[0][0].lower()}{odd[0][1:]}", odd[1])
    if is_table_of_text(path) and not any(map(resembles_a_name, columns)):
        said = NO_KNOWN_NAME.format(cells=counted(len(columns), "cell"))
        raise SourceError(
            f"{path}: {said[0].lower()}{said[1:]}",
            f"{NAME_THE_COLUMNS} Where they stand there, give one of them a name such as id, date or subject.",
        )


@dataclass(frozen=True)
class FoundLinks:
    """A column whose values are ids of other rows, or may be."""

    column: str
    ids: str
    """The column of the ids that it names."""
    links: int
    matched: int
    """Links that name a row."""
    doubt: str | None = None
    """Why it is left to a person whether the column holds links; None where it does."""

    @property
    def unmatched(self) -> int:
        return self.links - self.matched


LEAST_MATCHED = 0.5
"""Share of a column's links that name a row, from which it is one of links. Less is a chance: small numbers are ids of
everything."""
LEAST_TOLD = 0.05
"""Share from which a person is told of the column."""
LEAST_DIFFERENT = 0.05
"""Ids that are named, of all links. A column that names the same few rows over and over may count something else."""
_NAMES_OF_LINKS = re.compile(
    r"link|relat|parent|thread|repl(?:y|ies)_?to|in_?reply|refers|see_?also|group|duplicate|previous|follow|مرتبط|صلة",
    re.IGNORECASE,
)


def links_in(facts: FileFacts) -> list[FoundLinks]:
    """Every column of links, the one with the most of them first."""
    return [each for each in compared_columns(facts) if each.doubt is None]


def compared_columns(facts: FileFacts) -> list[FoundLinks]:
    """Every column that holds links or may hold them, with the ids that it names best; the surest and largest first.

    Compared are columns of lists, or of texts and numbers that are nearly all short, with the columns in which nearly
    every row has a value of its own.
    """
    ids = {name: set(map(link_key, column.values)) for name, column in facts.columns.items() if column.may_be_ids}
    found = []
    for name, column in facts.columns.items():
        if not column.filled or column.is_dated or column.has_texts:
            continue
        links = _links_of(column)
        compared = [each for of, known in ids.items() if of != name and (each := _compare(column, links, of, known))]
        # The surest of a column, and of these the one that most links match.
        compared.sort(key=lambda each: (each.doubt is not None, -each.matched))
        found += compared[:1]
    return sorted(found, key=lambda each: (each.doubt is not None, -each.matched))


def _links_of(column: ColumnFacts) -> Counter[str]:
    links = Counter[str]()
    for cell, times in column.values.items():
        try:
            links.update(dict.fromkeys(map(link_key, linked_ids(cell)), times))
        except RowRejected:
            continue
    return links


def _compare(column: ColumnFacts, links: Counter[str], of: str, known: set[str]) -> FoundLinks | None:
    """What a column has of the ids in another one; None for nothing that a person need be told."""
    total = links.total()
    named = {id: times for id, times in links.items() if id in known}
    matched = sum(named.values())
    by_name = _NAMES_OF_LINKS.search(column.name) is not None
    by_type = column.types["list"] == column.filled
    if not total or (not by_name and (matched < LEAST_TOLD * total or len(named) < 2)):
        return None
    doubt = None
    if matched < LEAST_MATCHED * total:
        doubt = "fewer than half of them name a row"
    elif column.may_be_ids and total <= column.filled and not (by_name or by_type):
        doubt = "every row has one of its own, as ids have"
    elif len(named) < LEAST_DIFFERENT * total and not (by_name or by_type):
        doubt = "they name few different rows"
    return FoundLinks(column.name, of, total, matched, doubt)


def _add(column: ColumnFacts, value: Any) -> None:
    column.rows += 1
    text = _printable(_text_of(value).strip())
    if not text or (isinstance(value, list | dict) and not value):
        column.empty += 1
        return
    column.types[_type_of(value)] += 1
    column.longest = max(column.longest, len(text))
    column.characters += len(text)
    if "<" in text:
        column.markup += _MARKUP.search(text) is not None
        column.like_tags += _LIKE_A_TAG.search(_KNOWN_TAG.sub("", text)) is not None
    column.arabic += len(_ARABIC.findall(text)) > len(_LATIN.findall(text))
    if isinstance(value, datetime.date | datetime.datetime) or _is_date(text):
        column.dates += 1
    if len(text) > LONGEST_SHORT_VALUE and not isinstance(value, list) and not _seems_a_list_of_ids(text):
        column.long += 1
        if column.long > max(MOST_LONG, MOST_LONG_SHARE * column.filled):
            column.has_texts = True
            column.values.clear()
        return
    if not column.has_texts and (len(column.values) < MOST_VALUES or text in column.values):
        column.values[text] += 1


def _text_of(value: Any) -> str:
    """A list as JSON, so that ids in numbers of any kind are told again."""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return json.dumps([None if each is None else str(each) for each in value], ensure_ascii=False) if value else ""
    return "" if value is None else str(value)


def _seems_a_list_of_ids(text: str) -> bool:
    """Whether each word of a long text has a digit: no letter is written so."""
    return all(any(map(str.isdigit, word)) for word in _WORDS.split(text) if word)


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
    if not len("20240115") <= len(text) <= len("2024-01-15T00:00:00.000000000+00:00"):
        return False
    try:
        iso_day(text)
    except ValueError:
        return False
    return True
