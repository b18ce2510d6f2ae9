"""Inspect a file without a recipe: find its encoding, delimiter, columns and links, and suggest a recipe.

Reported facts contain no text of the file. A person must read the suggested recipe before the line of adapters runs.
"""

import codecs
import csv
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
from sovereign_pipeline.corpus.columns import (
    NAME_THE_COLUMNS,
    NAMES,
    NO_KNOWN_NAME,
    is_table_of_text,
    odd_first_line,
    plain,
    resembles_a_name,
)
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.file_formats import format_of, has_header, read_rows
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.opening import (
    BLOCK,
    encoding_by_begin,
    packing_of,
    reject_unreadable,
    signature_of,
    unpacked,
)
from sovereign_pipeline.corpus.values import link_key, linked_ids
from sovereign_pipeline.policy.institution import ClassificationLadder, Institution, iso_day
from sovereign_pipeline.policy.recipe_model import FILL_IN

_SAMPLE = 1 << 20
_DELIMITERS = ",;\t|"
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_BROKEN = re.compile("[\udc80-\udcff]")
_LIKELY_ENCODINGS = ("cp1252", "cp1256", "iso8859_6", "cp1251", "utf_16", "gb18030", "shift_jis")
"""Likely encodings of exports that are not UTF-8. Old terminal encodings fit any bytes and are left out."""
_LEAST_RIGHT_LINES, _LEAST_RIGHT_SHARE = 2, 0.1
"""Minimum number, and share relative to broken lines, of valid UTF-8 lines beyond ASCII from which a file is a
mixture with UTF-8. In another encoding, hardly any line is valid UTF-8 by chance."""


# --- encoding and delimiter -------------------------------------------------------------------------------------------


def encoding_of(path: Path) -> str | None:
    """Return the encoding of a text file for a recipe; None for UTF-8.

    For a file that is not UTF-8, the encoding is a guess from its first megabyte; a person must check its letters.
    Raises SourceError if no encoding is plausible.
    """
    from charset_normalizer import from_bytes

    with unpacked(path) as stream:
        sample = stream.read(_SAMPLE)
    if signature_of(sample) is not None:
        return None  # not a text; reading its rows will raise the error
    told = encoding_by_begin(sample)
    if told is not None:
        return None if told == "utf-8" else told
    if _is_utf8(path):
        return None
    best = from_bytes(sample, cp_isolation=[*_LIKELY_ENCODINGS]).best()
    if best is None:
        raise SourceError(f"{path}: its encoding cannot be determined.", "Save it as UTF-8.")
    return best.encoding


def _is_utf8(path: Path) -> bool:
    """Return whether a file counts as UTF-8: nearly all characters beyond ASCII are valid, or enough lines are.
    Broken rows are then quarantined one by one; another encoding would garble the valid rows."""
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
    """Return the delimiter of a CSV or TSV file for a recipe; None for the format's default."""
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
MOST_LONG, MOST_LONG_SHARE = 10, 0.05
"""Number and share of long values. A column that exceeds both contains texts, and its values are no longer counted."""
LEAST_DIFFERENT_IDS = 0.95
"""Minimum share of rows with a distinct value in a column that may hold the rows' ids. Exports repeat some ids,
leave some empty, and end in a row of totals."""
ROWS_WITH_ONE_AMISS = 8
"""Number of rows from which one row without a distinct value is tolerated, whatever its share."""
ROWS_NAMED = 5
"""Maximum number of broken rows that are listed for each reason."""
NOT_UTF8 = "not UTF-8"
"""Reason of `file_formats.py` for a row in another encoding than the rest."""
MOST_VALUES = 500_000
"""Maximum number of different values of a column that are counted."""
_TAG = r"p|div|span|li|ul|ol|a|b|i|u|strong|em|table|tr|td|h[1-6]|body|html|font|blockquote"
_MARKUP = re.compile(rf"<br\s*/?>|<({_TAG})\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
"""Pattern of certain markup: a known, closed element, or a line break."""
_KNOWN_TAG = re.compile(rf"</?(?:br|hr|img|{_TAG})\b[^<>]*>", re.IGNORECASE)
_LIKE_A_TAG = re.compile(r"<[A-Za-z!?/]")
"""Beginning of text that an HTML parser removes, up to the next `>`."""
_WORDS = re.compile(r"[\s,;|\[\]{}()\"']+")
_ARABIC = re.compile(r"[\u0600-\u06ff]")
_LATIN = re.compile(r"[A-Za-z]")


# --- facts of a file --------------------------------------------------------------------------------------------------


@dataclass
class ColumnFacts:
    """Counts of the values in one column."""

    name: str
    rows: int = 0
    """Number of rows with the column."""
    empty: int = 0
    types: Counter[str] = field(default_factory=Counter)
    """Type -> number of non-empty values: text, number, truth value, date, list, object."""
    dates: int = 0
    """Number of values that are ISO dates, including 20240115."""
    longest: int = 0
    """Length of the longest value in characters."""
    characters: int = 0
    """Total characters of all values."""
    arabic: int = 0
    """Number of values with more Arabic than Latin letters."""
    markup: int = 0
    """Number of values with certain HTML markup: a known, closed element or a line break."""
    like_tags: int = 0
    """Number of values with `<` before a letter that begins no known tag, such as an e-mail address in `<>`."""
    values: Counter[str] = field(default_factory=Counter)
    """Short value -> number of occurrences; empty if many values are long."""
    long: int = 0
    """Number of values that are too long for an id or a level and are not lists of ids."""
    has_texts: bool = False
    """True if the column has so many long values that values are not counted."""

    @property
    def filled(self) -> int:
        return self.rows - self.empty

    @property
    def mean_length(self) -> float:
        return self.characters / self.filled if self.filled else 0.0

    @property
    def is_unique(self) -> bool:
        """Return whether every row has a value that no other row has."""
        return self.rows_amiss == 0 < self.rows

    @property
    def rows_amiss(self) -> int:
        """Return the number of rows whose value is empty or repeats an earlier one."""
        return self.rows - len(self.values)

    @property
    def may_be_ids(self) -> bool:
        """Return whether nearly every row has a value of its own."""
        few = self.rows_amiss <= (1 - LEAST_DIFFERENT_IDS) * self.rows
        return self.rows > 0 and (few or (self.rows_amiss == 1 and self.rows >= ROWS_WITH_ONE_AMISS))

    @property
    def is_dated(self) -> bool:
        return self.filled > 0 and self.dates >= 0.9 * self.filled


@dataclass
class FileFacts:
    """The inspected facts of a file."""

    path: Path
    format: str
    """Suffix of the format, without the suffix of the compression."""
    compression: str | None
    encoding: str | None
    """Encoding to name in a recipe; None for UTF-8."""
    delimiter: str | None
    """Delimiter of a CSV or TSV file to name in a recipe; None for the format's default."""
    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    """Reason -> number of rows that cannot be read."""
    broken_rows: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> numbers of the first such rows."""
    columns: dict[str, ColumnFacts] = field(default_factory=dict)


def inspect_file(path: Path) -> FileFacts:
    """Read a whole file and return its facts. Raises SourceError if it cannot be read."""
    reject_unreadable(path)
    suffix = format_of(path)
    encoding = encoding_of(path) if suffix != ".parquet" else None
    delimiter = delimiter_of(path, suffix, encoding) if suffix in (".csv", ".tsv") else None
    facts = FileFacts(path, suffix, packing_of(path), encoding, delimiter)
    for row in read_rows(path, LARGEST_ROW, encoding, delimiter, partial(_reject_row_as_header, path)):
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


def format_rows(facts: FileFacts, reason: str) -> str:
    """Return a text with the numbers of the first rows that are broken for a reason."""
    numbers = facts.broken_rows[reason]
    more = " and more" if facts.broken[reason] > len(numbers) else ""
    return f"{'row' if numbers[1:] == [] else 'rows'} {', '.join(map(str, numbers))}{more}"


def _reject_row_as_header(path: Path, columns: Sequence[str]) -> None:
    """Raise SourceError if the first line may be a row. Column names are shown to people; values of a row must not
    be."""
    if (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{path}: {odd[0][0].lower()}{odd[0][1:]}", odd[1])
    if is_table_of_text(path) and not any(map(resembles_a_name, columns)):
        said = NO_KNOWN_NAME.format(cells=counted(len(columns), "cell"))
        raise SourceError(
            f"{path}: {said[0].lower()}{said[1:]}",
            f"{NAME_THE_COLUMNS} Where they stand there, give one of them a name such as id, date or subject.",
        )


# --- columns of links -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkColumn:
    """A column whose values are, or may be, ids of other rows."""

    column: str
    ids: str
    """Name of the column with the ids that the links name."""
    links: int
    matched: int
    """Number of links that name a row."""
    doubt: str | None = None
    """Reason why a person must decide whether the column holds links; None if it does."""

    @property
    def unmatched(self) -> int:
        return self.links - self.matched


LEAST_MATCHED = 0.5
"""Minimum share of a column's values that must be ids of rows to make it a column of links. A smaller share is
chance: small numbers match many ids."""
LEAST_TOLD = 0.05
"""Minimum share of matching values from which the column is reported to a person."""
LEAST_DIFFERENT = 0.05
"""Minimum share of different ids among all links. A column that repeats a few ids may count something else."""
_NAMES_OF_LINKS = re.compile(
    r"link|relat|parent|thread|repl(?:y|ies)_?to|in_?reply|refers|see_?also|group|duplicate|previous|follow|مرتبط|صلة",
    re.IGNORECASE,
)


def compared_columns(facts: FileFacts) -> list[LinkColumn]:
    """Return every column that holds or may hold links, each with the id column that it matches best, the surest and
    largest first.

    Columns of lists, and of nearly always short texts and numbers, are compared with the columns in which nearly every
    row has a value of its own.
    """
    ids = {name: set(map(link_key, column.values)) for name, column in facts.columns.items() if column.may_be_ids}
    found = []
    for name, column in facts.columns.items():
        if not column.filled or column.is_dated or column.has_texts:
            continue
        links = _links_of(column)
        compared = [each for of, known in ids.items() if of != name and (each := _compare(column, links, of, known))]
        # Keep the surest match of a column, and among equals the one with most matching links.
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
    """Compare a column's values with the ids of another column. Return None if there is nothing to report."""
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
    return LinkColumn(column.name, of, total, matched, doubt)


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
    """Return a value as text. A list becomes JSON, so that its ids can be parsed again."""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return json.dumps([None if each is None else str(each) for each in value], ensure_ascii=False) if value else ""
    return "" if value is None else str(value)


def _seems_a_list_of_ids(text: str) -> bool:
    """Return whether each word of a long text contains a digit, as in a list of ids but in no letter."""
    return all(any(map(str.isdigit, word)) for word in _WORDS.split(text) if word)


def _printable(text: str) -> str:
    """Return the text without lone surrogates, which JSON can contain and terminals cannot show."""
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


# --- the suggested recipe ---------------------------------------------------------------------------------------------

TEXTS = ("subject", "request", "response", "rejected")
"""Fields from which `markup: html` removes tags."""
LEAST_MARKUP = 0.5
"""Minimum share of values with certain markup to treat a column as HTML. Plain letters contain `<` too."""
LEAST_LETTERS = 15
"""Minimum mean length in characters of a column that may hold requests or replies."""


@dataclass(frozen=True)
class Suggestion:
    """A suggested recipe as YAML data, with notes on what a person must decide."""

    recipe: dict[str, Any]
    notes: tuple[str, ...]
    """Assumptions and fields to fill in."""


def suggest(
    facts: FileFacts, path: Path, line: str, institution: Institution, suites: Sequence[Path], prompts: Path | None
) -> Suggestion:
    """Return a suggested recipe for a file.

    Args:
        path: path of the file for the recipe.
        line: name of the line of adapters.
        suites: the institution's own suites, relative to the data root.
        prompts: its red-team prompts, relative to the data root; None if there are none.
    """
    notes: list[str] = []
    source = _source(facts, path, institution.ladder, notes)
    recipe: dict[str, Any] = {
        "line": line,
        "purpose": f"{FILL_IN}: what the adapter is for",
        "owner": f"{FILL_IN}: who answers for it",
        "ceiling": institution.classification[-1],
        "sources": [source],
        "training": {"base_model": "smollm2-135m-instruct", "instruction": "Write the reply to this letter."},
    }
    if not suites or prompts is None:
        notes.append(
            "evaluation: left out, for want of a suite under suites/ or of red_team/prompts.jsonl; name it later."
        )
        return Suggestion(recipe, tuple(notes))
    level = institution.classification[0]
    recipe["evaluation"] = {
        "capability": [{"name": suite.stem, "path": suite.as_posix(), "classification": level} for suite in suites[:1]],
        "red_team": {"prompts": prompts.as_posix(), "classification": level},
    }
    notes.append(f"evaluation: suite and prompts are taken for {level}; write another level if they are not.")
    return Suggestion(recipe, tuple(notes))


def _source(facts: FileFacts, path: Path, ladder: ClassificationLadder, notes: list[str]) -> dict[str, Any]:
    compared = compared_columns(facts)
    links = next((each for each in compared if each.doubt is None), None)
    fields = _fields(facts, links, ladder, notes)
    source: dict[str, Any] = {"name": "letters", "path": path.as_posix()}
    if facts.encoding is not None:
        source["encoding"] = facts.encoding
        notes.append(f"encoding: read as {facts.encoding}; look whether its letters are right.")
    if NOT_UTF8 in facts.broken and facts.encoding is None:
        notes.append(
            f"encoding: a mixture; {facts.broken[NOT_UTF8]:,} of {facts.rows:,} rows are not UTF-8 and go to "
            f"quarantine ({format_rows(facts, NOT_UTF8)}); another `encoding` would garble the others."
        )
    if facts.delimiter is not None:
        source["delimiter"] = facts.delimiter
    if "rejected" in fields:
        source["role"] = "preferences"
    source["columns"] = {field: column for field, column in fields.items() if field != column}
    constants: dict[str, str] = {}
    for name in ("department", "author", "subject", "language", "date"):
        if name in fields:
            continue
        own = _column_named(name, facts)
        if own is not None and (own.filled or (has_header(path) and name in ("language", "date"))):
            notes.append(_about_an_unfit_column(name, own))
        elif name == "language":
            constants["language"] = _language(facts, fields)
            notes.append(f"language: no column has it; taken for {constants['language']} by its letters.")
        elif name == "date":
            constants["date"] = FILL_IN
            notes.append("date: no column has ISO dates (2024-12-31); name one, or write a date for all rows.")
        else:
            constants[name] = ""
    source["constants"] = constants
    _note_ids(facts, fields, source, notes)
    notes += _about_empty_cells(facts, fields)
    if "case" not in fields:
        source["case_from_row"] = True
        notes.append("case: no column has it, so every row is a case file of its own.")
    own_level = _column_named("classification", facts)
    if "classification" not in fields and own_level is not None:
        unknown = sum(times for value, times in own_level.values.items() if value not in ladder.levels)
        notes.append(
            f"classification: {unknown + own_level.long:,} of {facts.rows:,} rows have words in '{own_level.name}' "
            f"that are no levels of the ladder, which no `classification_floor` replaces: quarantine. Correct "
            f"them in the file, or rename that column in it and set the floor."
        )
    if "classification" in fields:
        empty = facts.rows - facts.columns[fields["classification"]].filled
        if empty:
            notes.append(f"classification: {counted(empty, 'row')} without a level: quarantine.")
    elif own_level is None or own_level.filled < facts.rows:
        highest = ladder.levels[-1]
        source["classification_floor"] = highest
        notes.append(f"classification: a row without a level of the ladder gets the highest: {highest}.")
    if links is not None:
        source["links"] = links.column
    notes += [_about_links(each, taken=each is links) for each in compared]
    if (markup := _markup(facts, fields, notes)) is not None:
        source["markup"] = markup
    source |= {"licence": f"{FILL_IN}: under which terms", "retention": f"{FILL_IN}: how long"}
    notes += [f"{name}: no column looks like it; name one." for name in ("request", "response") if name not in fields]
    return source


def _fields(
    facts: FileFacts, links: LinkColumn | None, ladder: ClassificationLadder, notes: list[str]
) -> dict[str, str]:
    """Return field -> column. Each column is used once. A column that is chosen for other reasons than its name is
    noted."""
    columns = [column for column in facts.columns.values() if column.filled]
    fields: dict[str, str] = {}

    def free() -> list[ColumnFacts]:
        taken = {*fields.values(), *([links.column] if links is not None else [])}
        return [column for column in columns if column.name not in taken]

    if links is not None:
        fields["id"] = links.ids
    levels = [each for each in columns if each.values.total() == each.filled and set(each.values) <= set(ladder.levels)]
    if levels:
        fields["classification"] = levels[0].name
    for name, known in NAMES.items():
        if name in fields:
            continue
        fitting = [column for column in free() if _fits(name, column)]
        named = {plain(column.name): column.name for column in fitting}
        if found := [named[each] for each in known if each in named]:
            fields[name] = found[0]
    longest = sorted((each for each in free() if _fits("request", each)), key=lambda each: -each.mean_length)
    for name in ("response", "request"):
        if name not in fields and longest:
            fields[name] = longest.pop(0).name
            notes.append(
                f"{name}: '{fields[name]}' is a guess, by the length of its texts alone; look whether it is so."
            )
    if "id" not in fields:
        unique = [column for column in free() if column.is_unique]
        if unique:
            fields["id"] = unique[0].name
            notes.append(f"id: '{fields['id']}' is a guess, because every row has another value in it.")
    if "date" not in fields:
        dated = [column for column in free() if _fits("date", column)]
        if dated:
            fields["date"] = dated[0].name
            notes.append(
                f"date: '{fields['date']}' is a guess, because it holds dates; look whether they are the letters'."
            )
    return fields


def _fits(name: str, column: ColumnFacts) -> bool:
    if name in ("request", "response", "rejected"):
        return column.types["text"] == column.filled and column.mean_length >= LEAST_LETTERS and column.dates == 0
    if name == "date":
        return column.is_dated
    if name == "id":
        return column.may_be_ids
    if name == "language":
        return all(len(value) <= len("zh-Hant-TW") for value in column.values) and column.types["text"] == column.filled
    return column.types["list"] == column.types["object"] == 0


def _note_ids(facts: FileFacts, fields: dict[str, str], source: dict[str, Any], notes: list[str]) -> None:
    """Add notes on rows without a distinct id and how they are treated, and set `id_from_row` if no column has ids."""
    if "id" in fields:
        column = facts.columns[fields["id"]]
        repeated = column.values.total() - len(column.values)
        for count, what in ((repeated, "an id that an earlier row has"), (column.rows - column.filled, "no id")):
            if count:
                notes.append(
                    f"id: {counted(count, 'row')} of {facts.rows:,} with {what} in '{column.name}': quarantine."
                )
        return
    own = _column_named("id", facts)
    known = [each for each in facts.columns.values() if plain(each.name) in NAMES["id"] and each is not own]
    for each in known:
        notes.append(
            f"id: '{each.name}' is not taken: {each.rows_amiss:,} of {facts.rows:,} rows repeat one or have none."
        )
    if own is None:
        source["id_from_row"] = True
        notes.append("id: no column has one for each row; rows are named by their numbers, so only append to the file.")
        return
    notes.append(
        f"id: {own.rows_amiss:,} of {facts.rows:,} rows repeat an id of '{own.name}' or have none: quarantine. To name "
        f"rows by their numbers, rename that column in the file, and set `id_from_row: true`."
    )


def _about_empty_cells(facts: FileFacts, fields: dict[str, str]) -> list[str]:
    """Return notes on fields that are empty in some rows. Ids and levels have their own notes."""
    notes = []
    for name, column in fields.items():
        empty = facts.rows - facts.broken.total() - facts.columns[column].filled
        if not empty or name in ("id", "classification"):
            continue
        follows = "quarantine"
        if name in ("author", "department"):
            follows = "read without it" + (", or quarantine with `split.by_author`" if name == "author" else "")
        notes.append(f"{name}: {counted(empty, 'row')} of {facts.rows:,} with nothing in '{column}': {follows}.")
    return notes


def _about_an_unfit_column(name: str, own: ColumnFacts) -> str:
    """Return a note on a column that is read because of its name but has unsuitable values."""
    wants = {"date": "ISO dates (2024-12-31)", "language": "tags of languages (en, ar)"}.get(
        name, "one text in each row"
    )
    return (
        f"{name}: the column '{own.name}' does not hold {wants} in each row, and is read all the same: rows without "
        f"go to quarantine. A constant does not replace it. Correct it, or rename it and set the constant."
    )


def _column_named(field: str, facts: FileFacts) -> ColumnFacts | None:
    """Return the column with the field's own name, which is read without an entry under `columns`; None if there is
    none."""
    return next((column for column in facts.columns.values() if folded(column.name) == folded(field)), None)


def _about_links(each: LinkColumn, taken: bool) -> str:
    note = (
        f"links: {each.matched:,} of {each.links:,} ids in '{each.column}' name a row by '{each.ids}', "
        f"{each.unmatched:,} name none."
    )
    if taken:
        return note
    why = f"It is not taken ({each.doubt})" if each.doubt else "A source has one column of links, and it is not taken"
    return f"{note} {why}; if it ties rows, set `links` to it, and `id` under `columns` to '{each.ids}'."


def _markup(facts: FileFacts, fields: dict[str, str], notes: list[str]) -> str | None:
    """Return `html` if one text column is mostly HTML, otherwise None. Tags are noted in either case, because
    removing them deletes text."""
    columns = [facts.columns[fields[name]] for name in TEXTS if name in fields]
    is_html = any(column.filled and column.markup >= LEAST_MARKUP * column.filled for column in columns)
    for column in columns:
        if not column.markup and not (is_html and column.like_tags):
            continue
        note = f"markup: {column.markup:,} of {column.filled:,} values of '{column.name}' have tags of HTML"
        if column.like_tags:
            note += f", and {column.like_tags:,} have `<` before what is no tag"
        if is_html:
            notes.append(f"{note}; `markup: html` removes all that stands between `<` and `>`, in every row.")
        else:
            notes.append(f"{note}; it is kept. `markup: html` would remove all between `<` and `>`, in every row.")
    return "html" if is_html else None


def _language(facts: FileFacts, fields: dict[str, str]) -> str:
    columns = [facts.columns[fields[name]] for name in ("request", "response") if name in fields]
    arabic, filled = sum(each.arabic for each in columns), sum(each.filled for each in columns)
    return "ar" if 2 * arabic > filled else "en"
