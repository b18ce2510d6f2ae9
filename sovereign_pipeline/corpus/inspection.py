"""Inspect a file without a recipe: find its encoding, delimiter and layout, and the columns that contain links, dates
or row states. Reports quote column names and usual words for row states, but no text of letters."""

import codecs
import csv
import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.corpus.columns import (
    NAME_THE_COLUMNS,
    NO_KNOWN_NAME,
    has_phrase,
    is_table_of_text,
    names_of,
    odd_first_line,
    plain,
    resembles_a_name,
)
from sovereign_pipeline.corpus.document import Role, RowRejected
from sovereign_pipeline.corpus.file_formats import WORKBOOKS, format_of, read_rows
from sovereign_pipeline.corpus.layouts import Layout, conversation_of, layout_of
from sovereign_pipeline.corpus.opening import (
    BLOCK,
    encoding_by_begin,
    packing_of,
    reject_unreadable,
    signature_of,
    unpacked,
)
from sovereign_pipeline.corpus.values import (
    LEAST_DATED,
    days_in,
    formats_of_column,
    is_hijri,
    is_iso,
    link_key,
    linked_ids,
    may_be_shown,
)
from sovereign_pipeline.policy.corpus import UNIX

_SAMPLE = 1 << 20
_DELIMITERS = ",;\t|"
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_BROKEN = re.compile("[\udc80-\udcff]")
_LIKELY_ENCODINGS = ("cp1252", "cp1256", "iso8859_6", "cp1251", "utf_16", "gb18030", "shift_jis")
"""Encodings, other than UTF-8, that exports are likely to have. Old terminal encodings are not listed, because any
bytes are valid in them."""
_LEAST_RIGHT_LINES, _LEAST_RIGHT_SHARE = 2, 0.1
"""Thresholds for a file with broken lines to count as UTF-8: minimum number of valid lines with non-ASCII characters,
and minimum ratio of these lines to broken lines. In another encoding, a line with non-ASCII characters is hardly ever
valid UTF-8 by chance."""


# --- encoding and delimiter -------------------------------------------------------------------------------------------


def encoding_of(path: Path) -> str | None:
    """Return the encoding of a text file, as a recipe states it; None for UTF-8 and for files that are not text.
    Without a byte order mark or zero bytes, any other encoding is guessed from the first megabyte, so a person must
    check it. Raises SourceError if no encoding is plausible."""
    from charset_normalizer import from_bytes

    with unpacked(path) as stream:
        sample = stream.read(_SAMPLE)
    if signature_of(sample) is not None:
        return None  # not a text; reading its rows raises the error later
    told = encoding_by_begin(sample)
    if told is not None:
        return None if told == "utf-8" else told
    if _is_utf8(path):
        return None
    best = from_bytes(sample, cp_isolation=[*_LIKELY_ENCODINGS]).best()
    if best is None:
        raise SourceError(f"{path}: the encoding of this file cannot be determined.", "Save the file as UTF-8.")
    return best.encoding


def _is_utf8(path: Path) -> bool:
    """Return True if a file counts as UTF-8: nearly all non-ASCII characters are valid, or enough lines are valid. The
    rows that are not valid UTF-8 are then quarantined. If the file were read in a different encoding, the valid rows
    would be garbled."""
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
    """Return the delimiter of a CSV or TSV file, as a recipe states it; None for the format's default."""
    with unpacked(path) as stream:
        sample = stream.read(_SAMPLE)
    text = sample.decode(encoding or "utf-8-sig", errors="ignore")
    header = text.splitlines()[0] if text else ""
    own = "\t" if suffix == ".tsv" else ","
    try:
        found = csv.Sniffer().sniff(text[:BLOCK], _DELIMITERS).delimiter
    except csv.Error:
        found = own
    # The delimiter of the header is the delimiter of the rows. Texts are full of commas.
    best = max(_DELIMITERS, key=header.count)
    delimiter = best if header.count(best) > header.count(found) else found
    return delimiter if delimiter != own and delimiter in header else None


LARGEST_ROW = 1_000_000
"""Maximum size of a row in bytes, equal to the default of `quarantine.max_row_bytes`."""
LONGEST_SHORT_VALUE = 400
"""Maximum length in characters of an id, a case or a level. A longer value is a text, unless it is a list of ids."""
LEAST_LETTERS = 15
"""Minimum mean length, in characters, of the values of a column that may contain requests or replies."""
BEGINNING, ENDINGS_OF_REPLIES, MOST_ENDINGS = 300, 2, 20_000
"""First: number of characters at a letter's beginning that are searched for phrases. Second: number of frequent endings
of replies that are considered, one for each language. Third: maximum number of distinct endings that are counted."""
MOST_LONG, MOST_LONG_SHARE = 10, 0.05
"""A column with more long values than MOST_LONG and than the share MOST_LONG_SHARE of its values is a column of texts.
Occurrences of its values are then not counted."""
LEAST_DIFFERENT_IDS = 0.95
"""Minimum share of rows that must have a distinct value in a column of row ids. The share is below 1 because exports
may repeat ids, leave ids empty, and end in a row of totals."""
ROWS_WITH_ONE_AMISS = 8
"""Minimum number of rows at which one row of an id column may lack a distinct value, regardless of the share."""
MOST_WORDS_OF_STATES, LONGEST_WORD_OF_STATES = 12, 30
"""Maximum number of distinct values in a column of states or levels, and maximum length of each in characters."""
UNFINISHED = frozenset(
    ("draft", "withdrawn", "cancelled", "canceled", "deleted", "archived", "pending", "مسودة", "ملغى", "محذوف", "مسحوب")
)
"""States of rows that should usually not be trained on."""
ROWS_NAMED = 5
"""Maximum number of broken rows that are listed for each reason."""
NOT_UTF8 = "not UTF-8"
"""Reason that `file_formats.py` gives for a row in another encoding."""
MOST_VALUES = 500_000
"""Maximum number of different values of a column that are counted."""
_TAG = r"p|div|span|li|ul|ol|a|b|i|u|strong|em|table|tr|td|h[1-6]|body|html|font|blockquote"
_MARKUP = re.compile(rf"<br\s*/?>|<({_TAG})\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
"""Pattern of unmistakable markup: a known, closed element, or a line break."""
_KNOWN_TAG = re.compile(rf"</?(?:br|hr|img|{_TAG})\b[^<>]*>", re.IGNORECASE)
_LIKE_A_TAG = re.compile(r"<[A-Za-z!?/]")
"""Pattern of the beginning of a tag. An HTML parser removes the text from there to the next `>`."""
_CODE = re.compile(r"(?=.*\d)[^\W_]+(?:[-/_ ][^\W_]+)*")
"""Pattern of a number or code: letters and digits, in parts. An amount with a fraction does not match."""
_WORDS = re.compile(r"[\s,;|\[\]{}()\"']+")
_ARABIC = re.compile(r"[\u0600-\u06ff]")
_LATIN = re.compile(r"[A-Za-z]")


# --- facts of a file --------------------------------------------------------------------------------------------------


@dataclass
class ColumnFacts:
    """Counts and properties of the values in one column."""

    name: str
    rows: int = 0
    empty: int = 0
    types: Counter[str] = field(default_factory=Counter)
    """Maps a type (text, number, boolean, date, list or object) to the number of non-empty values of this type."""
    dates: int = 0
    """Number of values that are ISO dates; values such as 20240115 count."""
    longest: int = 0
    """Length of the longest value in characters."""
    characters: int = 0
    arabic: int = 0
    """Number of values with more Arabic than Latin letters."""
    markup: int = 0
    """Number of values with unmistakable HTML markup: a known, closed element or a line break."""
    like_tags: int = 0
    """Number of values in which `<` precedes a letter but begins no known tag, as in an e-mail address in `<>`."""
    values: Counter[str] = field(default_factory=Counter)
    """Maps a short value to its number of occurrences. Empty if many values are long."""
    salutations: int = 0
    phrases_of_replies: int = 0
    """Number of texts that begin with a phrase of replies, such as "your letter"."""
    endings: Counter[str] = field(default_factory=Counter)
    """Maps the last two words of a text to the number of texts that end so. Most replies of an institution end
    alike."""
    long: int = 0
    """Number of values that are too long for an id or a level and are not lists of ids."""
    has_texts: bool = False
    """True if the column has so many long values that values are no longer counted."""

    @property
    def filled(self) -> int:
        return self.rows - self.empty

    @property
    def mean_length(self) -> float:
        return self.characters / self.filled if self.filled else 0.0

    @property
    def salutation_share(self) -> float:
        return self.salutations / max(1, self.filled)

    @property
    def reply_share(self) -> float:
        """Return the share of texts that look like an institution's replies. Counts the texts with a phrase of replies
        and the texts with one of the two most frequent endings, and uses the larger count."""
        signed = sum(times for _, times in self.endings.most_common(ENDINGS_OF_REPLIES))
        return max(signed, self.phrases_of_replies) / max(1, self.filled)

    @property
    def is_of_texts(self) -> bool:
        """Return True if the column may contain requests or replies."""
        return self.types["text"] == self.filled > 0 and self.mean_length >= LEAST_LETTERS and self.dates == 0

    @property
    def is_unique(self) -> bool:
        """Return True if every row has a distinct value."""
        return self.rows_amiss == 0 < self.rows

    @property
    def rows_amiss(self) -> int:
        """Return the number of rows whose value is empty, too long for an id, or equal to that of an earlier row."""
        return self.rows - len(self.values)

    @property
    def may_be_ids(self) -> bool:
        """Return True if nearly every row has a distinct value."""
        few = self.rows_amiss <= (1 - LEAST_DIFFERENT_IDS) * self.rows
        return self.rows > 0 and (few or (self.rows_amiss == 1 and self.rows >= ROWS_WITH_ONE_AMISS))

    @property
    def may_be_cases(self) -> bool:
        """Return True if the values may be numbers of cases: short codes with digits, many of them distinct, and some
        of them in several rows."""
        different = len(self.values)
        is_repeated = MOST_WORDS_OF_STATES < different < LEAST_DIFFERENT_IDS * self.filled
        if not is_repeated or self.values.total() < self.filled or self.longest > LONGEST_WORD_OF_STATES:
            return False
        return not self.is_dated and not self.date_formats and all(map(_CODE.fullmatch, self.values))

    @property
    def is_dated(self) -> bool:
        """Return True if nearly all values are ISO dates."""
        return self.filled > 0 and self.dates >= LEAST_DATED * self.filled

    @cached_property
    def date_formats(self) -> tuple[tuple[str, ...], ...]:
        """Return the formats of dates that are not ISO dates, as `formats_of_column` returns them. Return an empty
        tuple if the column does not contain such dates."""
        if self.is_dated or self.values.total() < LEAST_DATED * self.filled:
            return ()
        found = formats_of_column({value: times for value, times in self.values.items() if not is_iso(value)})
        return found if found != ((UNIX,),) or is_named_as_date(self.name) else ()

    @property
    def undated(self) -> int:
        """Return the number of values that are not dates in the column's formats."""
        formats = {each for alternatives in self.date_formats for each in alternatives}
        dated = sum(times for value, times in self.values.items() if is_iso(value) or days_in(value).keys() & formats)
        return self.filled - dated

    @property
    def has_mixed_dates(self) -> bool:
        """Return True if nearly all values are dates, but no unambiguous formats fit nearly all of them."""
        dated = sum(times for value, times in self.values.items() if days_in(value) and not value.isdigit())
        return not self.is_dated and not self.date_formats and 0 < LEAST_DATED * self.filled <= dated

    @property
    def has_hijri_dates(self) -> bool:
        hijri = sum(times for value, times in self.values.items() if is_hijri(value))
        return self.filled > 0 and hijri >= LEAST_DATED * self.filled

    @property
    def has_few_words(self) -> bool:
        """Return True if the column has few distinct values, all of them short."""
        return (
            0 < len(self.values) <= MOST_WORDS_OF_STATES
            and self.values.total() == self.filled
            and self.longest <= LONGEST_WORD_OF_STATES
        )

    @property
    def states(self) -> dict[str, int]:
        """Return a dict that maps each row state, such as `draft`, to its number of rows. The dict is empty if the
        column does not contain row states, or if a report must not show its values."""
        words = {value.strip().casefold() for value in self.values}
        is_named = plain(self.name) in names_of("status")
        if not self.has_few_words or not (is_named or words & UNFINISHED) or len(self.values) + bool(self.empty) < 2:
            return {}
        if not all(map(may_be_shown, self.values)):
            return {}
        return dict(self.values.most_common()) | ({"": self.empty} if self.empty else {})


@dataclass
class FileFacts:
    """The result of inspecting a file."""

    path: Path
    format: str
    """Suffix of the file's format, without the suffix of its compression."""
    compression: str | None
    encoding: str | None
    """Encoding to state in the recipe; None for UTF-8."""
    delimiter: str | None
    """Delimiter of a CSV or TSV file to state in the recipe; None for the format's default."""
    sheet: str | None = None
    """Name of the inspected sheet of a workbook; None if the user named no sheet."""
    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    """Maps a reason to the number of rows that are unreadable for this reason."""
    broken_rows: dict[str, list[int]] = field(default_factory=dict)
    """Maps a reason to the numbers of the first rows that are unreadable for this reason."""
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    layouts: Counter[str] = field(default_factory=Counter)
    """Maps a layout, such as `sharegpt`, to the number of rows in this layout."""
    turns: Counter[int] = field(default_factory=Counter)
    """Maps a number of user turns to the number of rows with so many user turns. Counts only rows in a layout."""
    roles: Counter[str] = field(default_factory=Counter)
    """Maps the role of a speaker to the number of turns with this role."""
    calls: int = 0
    with_tools: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    """Maps a reason to the number of rows that are in a layout but cannot become a document for this reason."""

    @property
    def layout(self) -> Layout | None:
        most = self.layouts.most_common(1)
        is_layout = bool(most) and most[0][1] >= LEAST_DATED * (self.rows - self.broken.total())
        return cast(Layout, most[0][0]) if is_layout else None

    @property
    def role(self) -> Role:
        """Return the role that the columns suggest for a source in a layout: `preferences`, `labels` or `letters`."""
        if {"chosen", "rejected"} <= self.columns.keys():
            return "preferences"
        label = self.columns.get("label")
        return "labels" if label is not None and label.types["boolean"] == label.filled > 0 else "letters"


def inspect_file(path: Path, has_header: bool = False, sheet: str | None = None) -> FileFacts:
    """Read a whole file and return its facts. Raises SourceError if the file cannot be read, has no rows, or seems to
    have no header.

    Args:
        has_header: True if a person states that the first line of a table names the columns, in any language.
        sheet: name of a sheet of a workbook; None if the workbook has only one.
    """
    reject_unreadable(path)
    suffix = format_of(path)
    encoding = encoding_of(path) if suffix not in (".parquet", *WORKBOOKS) else None
    delimiter = delimiter_of(path, suffix, encoding) if suffix in (".csv", ".tsv") else None
    facts = FileFacts(path, suffix, packing_of(path), encoding, delimiter, sheet)
    check = (lambda columns: None) if has_header else partial(_reject_row_as_header, path)
    for row in read_rows(path, LARGEST_ROW, encoding, delimiter, check, sheet):
        facts.rows += 1
        if row.values is None:
            problem = row.problem or "broken"
            facts.broken[problem] += 1
            if facts.broken[problem] <= ROWS_NAMED:
                facts.broken_rows.setdefault(problem, []).append(row.number)
            continue
        if (layout := layout_of(row.values)) is not None:
            _add_turns(facts, layout, row.values)
        for name, value in row.values.items():
            shown = _printable(name)
            _add(facts.columns.setdefault(shown, ColumnFacts(shown)), value)
    if not facts.rows:
        raise SourceError(f"{path}: the file has no rows.", "Export it again.")
    return facts


def _add_turns(facts: FileFacts, layout: Layout, values: Mapping[str, Any]) -> None:
    facts.layouts[layout] += 1
    is_pair = layout == "hh" or all(values.get(name) for name in ("chosen", "rejected"))
    try:
        found = conversation_of(layout, "preferences" if is_pair else "letters", values)
        roles = Counter(message.role for message in found.messages)
        facts.turns[roles["user"]] += 1
        facts.roles.update(roles)
        facts.calls += sum(len(message.tool_calls) for message in found.messages)
        facts.with_tools += bool(found.tools)
    except RowRejected as rejected:
        facts.unfit[str(rejected)] += 1


def format_rows(facts: FileFacts, reason: str) -> str:
    """Format the numbers of the first rows that are broken for the given reason."""
    numbers = facts.broken_rows[reason]
    more = " and more" if facts.broken[reason] > len(numbers) else ""
    return f"{'row' if numbers[1:] == [] else 'rows'} {', '.join(map(str, numbers))}{more}"


def _reject_row_as_header(path: Path, columns: Sequence[str]) -> None:
    """Raise SourceError if the first line may be a row of data. The inspection's report shows the cells of the first
    line as column names, and must not show values."""
    if (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{path}: {odd[0][0].lower()}{odd[0][1:]}", odd[1])
    if is_table_of_text(path) and not any(map(resembles_a_name, columns)):
        said = NO_KNOWN_NAME.format(cells=counted(len(columns), "cell"))
        raise SourceError(
            f"{path}: {said[0].lower()}{said[1:]}",
            f"{NAME_THE_COLUMNS} If that line already has column names in another language, add --header to the "
            f"command. The report then shows the cells of this line as column names.",
        )


# --- columns of links -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkColumn:
    """A column that contains, or may contain, ids of other rows."""

    column: str
    ids: str
    """Name of the id column in which the linked ids are."""
    links: int
    matched: int
    """Number of links to existing rows."""
    doubt: str | None = None
    """Reason why a person must decide whether the column contains links; None if it certainly contains links."""

    @property
    def unmatched(self) -> int:
        return self.links - self.matched


LEAST_MATCHED = 0.5
"""Minimum share of a column's values that must be row ids for the column to certainly contain links. A smaller share
may be chance: small numbers match many ids."""
LEAST_TOLD = 0.05
"""Minimum share of a column's values that must be row ids for the column to be reported. A column whose name suggests
links is always reported."""
LEAST_DIFFERENT = 0.05
"""Minimum share of distinct ids among a column's links. A column that repeats a few ids may count something else."""
_NAMES_OF_LINKS = re.compile(
    r"link|relat|parent|thread|repl(?:y|ies)_?to|in_?reply|refers|see_?also|group|duplicate|previous|follow|مرتبط|صلة",
    re.IGNORECASE,
)


def compared_columns(facts: FileFacts) -> list[LinkColumn]:
    """Return every column that contains or may contain links, with the id column that best matches the links. The
    order is by certainty, then by number of matching links.

    A column may contain links if its values are lists, or mostly short texts or numbers. A column may be the id column
    if nearly every row has a distinct value.
    """
    ids = {name: set(map(link_key, column.values)) for name, column in facts.columns.items() if column.may_be_ids}
    found = []
    for name, column in facts.columns.items():
        if not column.filled or column.is_dated or column.has_texts:
            continue
        links = _links_of(column)
        compared = [each for of, known in ids.items() if of != name and (each := _compare(column, links, of, known))]
        # Keep the most certain match of a column and, among equal ones, the one with most matching links.
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


def _compare(column: ColumnFacts, links: Counter[str], of: str, known: set[str]) -> LinkColumn | None:
    """Compare a column's values with the ids of another column. Return None if too few values match to report links."""
    total = links.total()
    named = {id: times for id, times in links.items() if id in known}
    matched = sum(named.values())
    by_name = _NAMES_OF_LINKS.search(column.name) is not None
    by_type = column.types["list"] == column.filled
    if not total or (not by_name and (matched < LEAST_TOLD * total or len(named) < 2)):
        return None
    doubt = None
    if matched < LEAST_MATCHED * total:
        doubt = "fewer than half of the ids match a row"
    elif column.may_be_ids and total <= column.filled and not (by_name or by_type):
        doubt = "every row has a different id, as in an id column"
    elif len(named) < LEAST_DIFFERENT * total and not (by_name or by_type):
        doubt = "the ids match few different rows"
    return LinkColumn(column.name, of, total, matched, doubt)


def is_named_as_date(name: str) -> bool:
    """Return True if the name of a column suggests dates or times."""
    return plain(name) in names_of("date") or any(each in plain(name) for each in ("date", "time", "تاريخ"))


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
    if len(text) >= LEAST_LETTERS and isinstance(value, str):
        _add_letter(column, text)
    if isinstance(value, datetime.date | datetime.datetime) or is_iso(text):
        column.dates += 1
    if len(text) > LONGEST_SHORT_VALUE and not isinstance(value, list) and not _seems_a_list_of_ids(text):
        column.long += 1
        if column.long > max(MOST_LONG, MOST_LONG_SHARE * column.filled):
            column.has_texts = True
            column.values.clear()
        return
    if not column.has_texts and (len(column.values) < MOST_VALUES or text in column.values):
        column.values[text] += 1


def _add_letter(column: ColumnFacts, text: str) -> None:
    text = _KNOWN_TAG.sub(" ", text) if "<" in text else text
    column.salutations += has_phrase(text[: BEGINNING // 5], "salutation")
    column.phrases_of_replies += has_phrase(text[:BEGINNING], "reply")
    ending = " ".join(text[-BEGINNING // 5 :].split()[-2:])
    if len(column.endings) < MOST_ENDINGS or ending in column.endings:
        column.endings[ending] += 1


def _text_of(value: Any) -> str:
    """Return a value as text. A list becomes JSON, so that the ids in the list can be parsed later."""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return json.dumps([None if each is None else str(each) for each in value], ensure_ascii=False) if value else ""
    return "" if value is None else str(value)


def _seems_a_list_of_ids(text: str) -> bool:
    """Return True if each word of a long text contains a digit: the text is then a list of ids, not ordinary prose."""
    return all(any(map(str.isdigit, word)) for word in _WORDS.split(text) if word)


def _printable(text: str) -> str:
    """Return the text without lone surrogates, which JSON can contain and terminals cannot show."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, datetime.date | datetime.datetime):
        return "date"
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, dict) else "text"
