"""Check that a file has the columns that a recipe needs, recognise usual column names, and search ids, cases,
departments and links for personal data.

These four fields appear in cards, reports, messages and databases. If a value contains personal data, a pseudonym
replaces the value, the row is quarantined, or the run stops.
"""

import hmac
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError, SourceError
from sovereign_pipeline.base.text import and_more, counted, folded
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.opening import name_without_packing
from sovereign_pipeline.corpus.values import link_key
from sovereign_pipeline.policy.corpus import LAYOUT_FIELDS, ColumnTreatment, Source
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.record.stage import KindsIn

REQUIRED = ("id", "case", "department", "author", "date", "language", "subject", "request", "response")
"""Fields that every document has: from a column, a constant, the layout, or a key such as `id_from_row`."""
FIELD_OF_ROLE = {"preferences": "rejected", "labels": "label"}
"""Maps the role of a source to the additional document field that a source with this role must fill."""

_OTHER_KEYS = {
    "id": "`id_from_row`",
    "case": "`case_from_row`",
    "language": "`language_from_text`",
    "classification": "`classification_floor`",
}
COLUMNS_SHOWN = 40
LONGEST_NAME, MOST_WORDS = 40, 4
LONGEST_TITLE = 90
"""Maximum length of a column name in characters. A longer cell shows that the first line is a row of data."""
A_ROW_FOR_A_HEADER = "The file's first line seems to be a row of data, not a header."
NAME_THE_COLUMNS = "Write the column names into the first line of the file."
_TITLE = (
    "The file's first line is a comment or a title, not a header.",
    "Delete the lines above the header.",
)
NO_KNOWN_NAME = (
    "The file's first line has {cells} and no known column name. The line may be a row of data, so this message does "
    "not show it."
)
_DELIMITERS = {";": '";"', "\t": '"\\t"', "|": '"|"', ",": '","'}
"""Maps a delimiter to its spelling in YAML."""
_VALUE = re.compile(r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}|.*@.*\..*")
"""Pattern of values that cannot be column names: dates and e-mail addresses."""
_NUMBER = re.compile(r"[-+]?[\d.,]+")


def needed_columns(source: Source) -> dict[str, str]:
    """Return a dict that maps each column that the source's file must have to the use of the column: the name of a
    field, "`where`" or "`links`"."""
    fields = [*REQUIRED, "classification", *([FIELD_OF_ROLE[source.role]] if source.role in FIELD_OF_ROLE else [])]
    given = {*source.constants}
    given |= {"classification"} if source.classification_floor is not None else set()
    given |= {"id"} if source.id_from_row else set()
    given |= {"case"} if source.case_from_row else set()
    given |= {"language"} if source.language_from_text else set()
    given |= {*LAYOUT_FIELDS, "subject"} if source.layout != "columns" else set()
    columns = {source.columns.get(name, name): name for name in fields if name in source.columns or name not in given}
    columns |= {column: name for name, column in source.columns.items()}
    columns |= dict.fromkeys(source.where, "`where`")
    return columns | ({source.links: "`links`"} if source.links else {})


def reject_missing_columns(path: Path, source: Source, columns: Collection[str]) -> None:
    """Raise SourceError if a file lacks a needed column. `columns`: the names in a table's header, or all names that
    occur in rows of a JSON file."""
    known = set(map(folded, columns))
    missing = {column: use for column, use in needed_columns(source).items() if folded(column) not in known}
    if not missing:
        return
    lacks = ", ".join(f"'{column}'" + (f" (for {use})" if use != column else "") for column, use in missing.items())
    message = f"{path}: source '{source.name}' needs {counted(len(missing), 'column')} that the file lacks: {lacks}."
    (only, *others) = [*columns] or [""]
    if not others and (found := next((each for each in _DELIMITERS if each in only), None)):
        raise SourceError(
            f"{message} The header is one column, whose name contains {_DELIMITERS[found]}.",
            f"Set `delimiter: {_DELIMITERS[found]}` for the source in the recipe.",
        )
    if (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{message} {odd[0]}", odd[1])
    named = needed_columns(source)
    if is_table_of_text(path) and not (known & set(map(folded, named)) or any(map(resembles_a_name, columns))):
        # A first line that may be a row of data is not quoted.
        raise SourceError(
            f"{message} {NO_KNOWN_NAME.format(cells=counted(len(columns), 'cell'))}",
            f"{NAME_THE_COLUMNS} If the file has a header, map its columns under `columns` in the recipe.",
        )
    keys = [use for use in ("`links`", "`where`") if use in missing.values()]
    hint = f"Correct {' and '.join(keys)} in the recipe."
    if len(missing) > sum(use in keys for use in missing.values()):
        hint = "Map the field to a column under `columns`, or give it one value under `constants`."
    others = [key for field, key in _OTHER_KEYS.items() if field in missing.values()]
    if others:
        hint += f" If the file has no such column, set {', '.join(others)}."
    raise SourceError(f"{message} {format_columns(columns)}", hint)


def format_columns(columns: Iterable[str]) -> str:
    """Return a sentence that lists up to COLUMNS_SHOWN of a file's column names. Long and empty names are counted."""
    names = [*columns]
    short = [name for name in names if name.strip() and len(name) <= LONGEST_NAME and len(name.split()) <= MOST_WORDS]
    others = f"{counted(len(names) - len(short), 'name')} too long or empty" if len(short) < len(names) else ""
    shown = and_more([repr(name)[1:-1] for name in short], COLUMNS_SHOWN)
    return f"Its columns: {', and '.join(part for part in (shown, others) if part)}."


def odd_first_line(columns: Collection[str]) -> tuple[str, str] | None:
    """Return why a table's first line is probably not a header, and the remedy. Return None if it may be a header."""
    (first, *others) = [each.strip() for each in columns] or [""]
    if first.startswith("sep=") and not any(others):
        return "The file's first line is a note for Excel (`sep=`).", "Delete the first line from the file."
    filled = [each for each in (first, *others) if each]
    if len(filled) > 1 and len(set(filled)) == 1 and not is_a_known_name(first):
        return _TITLE
    is_title = (
        bool(first) and not any(others) if others else " " in first and not any(each in first for each in _DELIMITERS)
    )
    if is_title or first.startswith(("#", "//")):
        return _TITLE
    return (A_ROW_FOR_A_HEADER, NAME_THE_COLUMNS) if seems_a_row(columns) else None


def is_table_of_text(path: Path) -> bool:
    """Return True if a file's name ends in .csv or .tsv, optionally followed by the suffix of a compression."""
    return name_without_packing(path).endswith((".csv", ".tsv"))


def seems_a_row(columns: Collection[str]) -> bool:
    """Return True if column names look like values: one of the names is a date, an e-mail address or a long text, or at
    least a third of the names are numbers."""
    names = [name.strip() for name in columns]
    if any(len(name) > LONGEST_TITLE or _VALUE.fullmatch(name) for name in names):
        return True
    return sum(_NUMBER.fullmatch(name) is not None for name in names) * 3 >= len(names) > 0


# --- headers with two equal column names ------------------------------------------------------------------------------

LONGEST_QUOTED_NAME = 60
"""Maximum length in characters of a column name that a message quotes."""
GIVE_NAMES = "Give every column a different name."


def reject_repeated_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise SourceError if two columns have the same name. The error does not quote a first line that may be data."""
    times = Counter(columns)
    twice = [name for name in times if times[name] > 1]
    if not twice:
        return
    is_text = is_table_of_text(path)
    if is_text and (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{path}: {odd[0][0].lower()}{odd[0][1:]}", odd[1])
    if not any(name.strip() for name in twice):
        raise SourceError(
            f"{path}: {counted(times[twice[0]], 'column has', 'columns have')} no name in the first line.", GIVE_NAMES
        )
    if is_text and not any(map(resembles_a_name, columns)):
        said = NO_KNOWN_NAME.format(cells=counted(len(columns), "cell"))
        raise SourceError(f"{path}: {said[0].lower()}{said[1:]} Two cells are equal.", NAME_THE_COLUMNS)
    repeated = sum(times[name] - 1 for name in twice)
    shown = [
        repr(name) for name in twice if len(name) <= LONGEST_QUOTED_NAME and (not is_text or is_a_known_name(name))
    ]
    places = [number for number, name in enumerate(columns, start=1) if name in twice]
    named = f": {and_more(shown)}" if shown else f" (columns {and_more(map(str, places))})"
    raise SourceError(
        f"{path}: {counted(repeated, 'column has', 'columns have')} the name of another column{named}.", GIVE_NAMES
    )


SPELLINGS_REMEMBERED = 1_024
"""Maximum number of cached sets of column names. All rows of a table have the same set of names; rows of JSON may have
different sets."""


# --- spellings of column names ----------------------------------------------------------------------------------------


class ColumnNames:
    """Maps a file's column names to their spelling in the recipe."""

    def __init__(self, read: Iterable[str]) -> None:
        """`read`: names of all columns that the recipe reads. All other columns keep their names."""
        self._read = {folded(name): name for name in read}
        self._renames = lru_cache(SPELLINGS_REMEMBERED)(self._renames_of)

    def reads(self, column: str) -> bool:
        return folded(column) in self._read

    def applied(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a row's values, keyed by the recipe's spelling of the column names. Raises RowRejected if two columns
        match the same name in the recipe."""
        renames = self._renames(tuple(values))
        return {renames.get(name, name): value for name, value in values.items()} if renames else values

    def _renames_of(self, columns: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for column in columns:
            name = self._read.get(folded(column))
            if name is None:
                continue
            if name in found:
                raise RowRejected(f"the columns {found[name]!r} and {column!r} match the same name in the recipe")
            found[name] = column
        return {column: name for name, column in found.items() if column != name}


# --- personal data in columns -----------------------------------------------------------------------------------------

COLUMNS = ("id", "case", "department")
_LETTERS_OF_KEY = 24  # 4 bits a letter: 96 bits
_AS_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")  # digits could look like an identifier


@dataclass(frozen=True)
class ColumnScreen:
    """Searches the id, case, department and links of each row for personal data. If a value contains personal data, a
    pseudonym replaces the value, or `screened` raises an error."""

    treatment: ColumnTreatment
    kinds_in: KindsIn
    stops: Collection[Kind]
    secret: Callable[[], bytes]
    """Function that returns this installation's secret for pseudonyms. Without a secret, an attacker could compute the
    pseudonyms of all possible numbers, and so find the value behind a pseudonym."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        kinds_in_columns: Callable[[Mapping[str, Any]], KindsIn],
        secret: Callable[[], bytes],
    ) -> "ColumnScreen":
        """Build the screen from the configuration of a raw corpus."""
        stops = frozenset(kind for kind, treatment in config["sensitive"].items() if treatment == "stop")
        return cls(config["columns"]["personal_data"], kinds_in_columns(config), stops, cache(secret))

    def screened(self, fields: dict[str, str], links: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return a document's fields and links, with a pseudonym in place of each id, case, department or link that
        contains personal data.

        Equal values of a column get the same pseudonym. Rows of one case therefore stay together, and links still match
        the ids. Raises PrivacyError if the policy sets `stop` for a kind found in these values. Otherwise, raises
        RowRejected if the recipe quarantines rows with personal data in these values.
        """
        found = {name: kinds for name in COLUMNS if (kinds := self.kinds_of(name, fields[name]))}
        in_links = [self.kinds_of("id", link) for link in links]
        kinds = sorted({kind for each in (*found.values(), *in_links) for kind in each})
        if not kinds:
            return fields, tuple(links)
        where = ", ".join([*found, *(["links"] if any(in_links) else [])])
        if not self._stopping(kinds) and self.treatment == "replace":
            keyed = {name: self._key(name, fields[name]) for name in found}
            return {**fields, **keyed}, tuple(
                self._key("id", link) if held else link for link, held in zip(links, in_links, strict=True)
            )
        if self._stopping(kinds):
            raise PrivacyError(
                f"A row contains {', '.join(self._stopping(kinds))} in {where}. The institution's policy sets `stop` "
                f"for this personal data. Nothing was written.",
                "Leave such rows out of the source with `exclude`, or change `sensitive` in institution.yaml.",
            )
        raise RowRejected(f"personal data in {where} ({', '.join(kinds)})")

    def kinds_of(self, column: str, value: str) -> Collection[Kind]:
        """Return the kinds of personal data in a column's value. Two spellings of an id or case give the same kinds."""
        return kinds_of(self.kinds_in, column, value)

    def shown(self, id: str) -> str | None:
        """Return the id if messages may show it. Return None if the id contains personal data."""
        return None if self.kinds_of("id", id) else id

    def case_of(self, case: str) -> str:
        """Return the case as documents store it: a pseudonym if the case contains personal data."""
        return self._key("case", case) if self.kinds_of("case", case) else case

    def tied(self, id: str) -> str | None:
        """Return an id as links store it: a pseudonym if the id contains personal data, otherwise the id. Return None
        if the id contains personal data and the recipe quarantines such rows."""
        if not self.kinds_of("id", id):
            return id
        return self._key("id", id) if self.treatment == "replace" else None

    def _stopping(self, kinds: Sequence[Kind]) -> list[Kind]:
        return [kind for kind in kinds if kind in self.stops]

    def _key(self, column: str, value: str) -> str:
        return pseudonym(self.secret(), column, value)


NO_SCREEN = ColumnScreen("replace", lambda value: frozenset(), frozenset(), lambda: b"")
"""Screen that leaves every value unchanged."""


def pseudonym(secret: bytes, column: str, value: str) -> str:
    """Return the value that replaces personal data in a column. All spellings of an id or case get one pseudonym."""
    digest = hmac.new(secret, f"{column}\0{_compared(column, value)}".encode(), sha256).hexdigest()
    return f"{column}-{digest[:_LETTERS_OF_KEY].translate(_AS_LETTERS)}"


def kinds_of(kinds_in: KindsIn, column: str, value: str) -> Collection[Kind]:
    """Return the kinds of personal data in a column's value. Two spellings of an id or case give the same kinds.

    An id or case is searched in upper case, because file numbers are usually in upper case. It is then searched for
    names in title case. Pseudonyms and the values of other columns are searched unchanged.
    """
    compared = _compared(column, value)
    if column not in ("id", "case") or _PSEUDONYM.fullmatch(compared):
        return kinds_in(compared)
    return {*kinds_in(compared.upper()), *(kind for kind in kinds_in(compared.title()) if kind == "NAME")}


def _compared(column: str, value: str) -> str:
    return link_key(value) if column == "id" else folded(value) if column == "case" else value


_PSEUDONYM = re.compile(rf"(?:id|case)-[a-p]{{{_LETTERS_OF_KEY}}}")


def is_pseudonym(id: str) -> bool:
    return id.startswith("id-") and _PSEUDONYM.fullmatch(id) is not None


# --- words of names ---------------------------------------------------------------------------------------------------

MOST_WORDS_OF_A_KNOWN_NAME = 3
_ARTICLE = "ال"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")


def plain(name: str) -> str:
    """Return a name case-folded, without spaces and punctuation."""
    return "".join(each for each in folded(name) if each.isalnum())


def names_of(field: str) -> tuple[str, ...]:
    """Return the usual column names for a field, normalised by `plain`. The likeliest name comes first."""
    return tuple(map(plain, _lists()[f"{field}.names"].split()))


def is_a_known_name(column: str) -> bool:
    """Return True if the whole text of a cell is a usual column name."""
    return plain(column) in _known_names()


def resembles_a_name(column: str) -> bool:
    """Return True if a cell of the first line is a usual column name, or has one as a word. Return False for a cell
    with digits or more than MOST_WORDS_OF_A_KNOWN_NAME words, because it may be a value."""
    words = [plain(word) for word in _WORD.findall(column)]
    if any(map(str.isdigit, column)) or not 0 < len(column.split()) <= MOST_WORDS_OF_A_KNOWN_NAME:
        return False
    return is_a_known_name(column) or any(word in _known_names() for word in words)


def names_field(column: str, field: str) -> bool:
    """Return True if a column's name contains a word for the field. Example: `Our reply` names the field `response`.

    Return False if the name contains a word from the list `FIELD.not`, or `text.not` for request and response. Example:
    `Letter date` does not name a request. For these two fields, only the words before "of" count. A name with words for
    both request and response, such as `Reply to complaint`, counts as the response.
    """
    is_text = field in ("request", "response")
    words = _words(column.split(" of ")[0] if is_text else column)
    if words & _list("text.not" if is_text else f"{field}.not") or not words & _list(f"{field}.words"):
        return False
    return field != "request" or not words & _list("response.words")


def may_be_request(column: str) -> bool:
    """Return True if a column's name has an ambiguous word, such as `Letter`, and no word for another field."""
    words = _words(column)
    return bool(words & _list("request.weak")) and not words & (_list("response.words") | _list("text.not"))


def has_phrase(text: str, kind: str) -> bool:
    """Return True if a text contains a phrase of this kind. `kind`: `salutation` or `reply`."""
    return _phrases(kind).search(folded(text)) is not None


def _words(column: str) -> frozenset[str]:
    """Return a column name's words. A word with the Arabic article or a plural `s` is returned with and without it."""
    words = {plain(word) for word in _WORD.findall(column)}
    words |= {word.removeprefix(_ARTICLE) for word in words}
    return frozenset(words | {word.removesuffix("s") for word in words if len(word) > 3})


@cache
def _lists() -> Mapping[str, str]:
    lines = Path(__file__).with_name("column_words.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines if not line.startswith("#"))
    return {name: words for name, words in pairs}


@cache
def _list(name: str) -> frozenset[str]:
    return frozenset(map(plain, _lists().get(name, "").split()))


@cache
def _phrases(kind: str) -> re.Pattern[str]:
    phrases = _lists()[f"{kind}.phrases"].split("|")
    return re.compile(r"\b(?:" + "|".join(re.escape(folded(each)) for each in phrases) + r")\b")


@cache
def _known_names() -> frozenset[str]:
    of_fields = ("request", "response", "rejected", "subject", "date", "case", "department", "author", "language", "id")
    return frozenset(name for field in (*of_fields, "header") for name in names_of(field))
