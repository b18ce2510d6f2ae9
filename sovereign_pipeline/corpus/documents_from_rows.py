"""Convert the source rows of a line of adapters to documents. Broken rows are quarantined with a reason. Every row is
counted: rows = documents + quarantined + excluded + not selected."""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sovereign_pipeline.base.errors import PrivacyError, RecipeError, SourceError, SovereignError, place_of
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.text import and_more, counted, folded
from sovereign_pipeline.corpus.columns import (
    FIELD_OF_ROLE,
    NO_SCREEN,
    REQUIRED,
    ColumnNames,
    ColumnScreen,
    reject_missing_columns,
)
from sovereign_pipeline.corpus.document import (
    Document,
    Quarantined,
    Row,
    RowRejected,
    read_documents,
    remedy_for,
    strings_in,
)
from sovereign_pipeline.corpus.extraction import BROKEN, KINDS, Extraction, extract
from sovereign_pipeline.corpus.file_formats import has_header, read_rows
from sovereign_pipeline.corpus.languages import language_in, unsearched_language
from sovereign_pipeline.corpus.layouts import LAYOUT_COLUMNS, conversation_of
from sovereign_pipeline.corpus.opening import reject_unreadable
from sovereign_pipeline.corpus.parsing import digest_of_source
from sovereign_pipeline.corpus.values import (
    DIGITS_LOST,
    LONGEST_IDENTIFIER,
    LinkTally,
    day_of,
    format_values,
    is_a_text,
    is_identifier,
    is_seen,
    is_unicode,
    is_wanted,
    language_of,
    link_key,
    linked_ids,
    normal_id,
    resolved,
    truth_of,
    without_markup,
)
from sovereign_pipeline.policy.corpus import DOCUMENT_COLUMNS, LAYOUT_FIELDS, OPTIONAL_FIELDS, Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.stage import Config, Workplace
from sovereign_pipeline.record.tables import AuditEntry

# --- exclusions -------------------------------------------------------------------------------------------------------


@dataclass
class Excluded:
    """An entry of a source's `exclude` list, as stored in `sources.json`. `rows` is the number of rows with this id."""

    id: str
    """Id of the excluded row, in normalised spelling."""
    reason: str
    rows: int = 0


class Exclusions:
    """The `exclude` list of one source. Each entry counts the rows that it matched."""

    def __init__(self, source: Source, screen: ColumnScreen) -> None:
        self._source = source
        self._screen = screen
        self._by_id = {normal_id(each.id): Excluded(normal_id(each.id), each.reason) for each in source.exclude}

    @property
    def all(self) -> list[Excluded]:
        return list(self._by_id.values())

    def naming(self, id: str | None) -> Excluded | None:
        """Return the exclusion that names a row's id, or that names the pseudonym that messages show for this id.
        Return None if no exclusion names either."""
        if id is None or not self._by_id:
            return None
        tied = self._screen.tied(id)
        return self._by_id.get(id) or (self._by_id.get(tied) if tied is not None else None)

    def refuse_personal_data(self) -> None:
        """Raise PrivacyError if the id or reason of an exclusion, which the corpus records, contains personal data."""
        for number, each in enumerate(self.all, start=1):
            for name, value in (("id", each.id), ("reason", each.reason)):
                if kinds := sorted(self._screen.kinds_of(name, value)):
                    raise PrivacyError(
                        f"Source '{self._source.name}', exclude {number}: the {name} contains personal data "
                        f"({', '.join(kinds)}). The corpus records ids and reasons. Nothing was written.",
                        "Use the pseudonym that messages show for the row, and a reason without personal data.",
                    )

    def reject_unmatched(self, path: Path) -> None:
        """Raise SourceError if an exclusion matches no row. Its id may be misspelt, and then the row that a person
        meant to exclude is still in the corpus. Call this method after all rows are read."""
        missing = [each.id for each in self.all if not each.rows]
        if missing:
            raise SourceError(
                f"{path}: `exclude` of source '{self._source.name}' names {counted(len(missing), 'id')} that no row "
                f"has: {and_more(missing)}.",
                "Correct the id, or remove it from `exclude`.",
            )


Values = Mapping[str, Any]

MOST_COLUMNS = 10_000
"""Number of column names after which no further names are collected from rows."""
MOST_VALUES = 1_000
"""Maximum number of distinct values of a `where` or level column that are collected for error messages."""

_IDENTIFIERS = ("id", "case")
_TEXTS = ("subject", "request", "response", "rejected")


# --- documents --------------------------------------------------------------------------------------------------------


@dataclass
class SourceCount:
    """The number of a source's rows with each outcome."""

    rows: int = 0
    documents: int = 0
    quarantined: int = 0
    excluded: int = 0
    not_selected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    links: int = 0
    links_without_row: int = 0
    """Number of links to ids that no row of any source has."""
    links_to_itself: int = 0
    """Number of links from a row to itself. `links` does not count them."""
    exclusions: list[Excluded] = field(default_factory=list)


class SourceReader:
    """Streams the documents and the quarantined rows of one source."""

    def __init__(
        self,
        source: Source,
        path: Path,
        limits: Quarantine,
        ladder: ClassificationLadder,
        seen: set[str],
        tally: LinkTally | None = None,
        screen: ColumnScreen = NO_SCREEN,
        known_ids: Callable[[], Collection[str]] = frozenset,
        needs_author: bool = False,
        extraction: Extraction | None = None,
    ) -> None:
        """Args:
            seen: ids of all documents that any source has yielded. A row with one of these ids is quarantined.
            tally: counts the links of all sources; None if no source has links.
            screen: replaces personal data in the columns, or rejects rows with personal data there.
            known_ids: function that returns the `row_keys` of all sources.
            needs_author: true if the split is by author; a row without an author is then quarantined.
            extraction: the rows that were extracted from a source of mail or documents; None for all other sources.

        Raises RecipeError if `levels` of the source is contradictory (`_levels_by_word`).
        """
        self._screen = screen
        if extraction is not None:
            source = source.model_copy(update={"layout": "sharegpt", "encoding": None, "language_from_text": True})
        self.source = source
        self.path = path
        self.extraction = extraction
        self._file = path if extraction is None else extraction.rows
        self.exclusions = Exclusions(source, screen)
        self.count = SourceCount(exclusions=self.exclusions.all)
        self.row = Row(0, None)
        """The row that was read last, keyed by the file's column names."""
        self._limits = limits
        self._ladder = ladder
        self._seen = seen
        self._tally = tally
        self._known_ids = known_ids
        links = [source.links] if source.links else []
        of_layout = LAYOUT_COLUMNS if source.layout != "columns" else ()
        self._names = ColumnNames([*map(self._column, DOCUMENT_COLUMNS), *source.where, *links, *of_layout])
        self._every_row_has_a_level = False
        self._columns: dict[str, None] = {}
        self._not_wanted: dict[str, Counter[str]] = {}
        self._needs_author = needs_author
        self._date_formats = source.date.formats if source.date else ()
        self._may_be_rated = _is_rated(source)
        self._levels = _levels_by_word(source, ladder)
        self.unknown_levels = Counter[str]()
        """Maps a word in the level column that the recipe does not know to its number of rows."""
        self.left_out: dict[str, str] = {}
        """Maps a case (`folded`) to the highest level of those rows of the case that became no document."""
        self.left_out_unread = 0
        """Number of rows that became no document and whose case or level cannot be read."""

    def __iter__(self) -> Iterator[Document | Quarantined]:
        self._every_row_has_a_level = self._some_row_has_a_level()
        for row in self._rows():
            self.count.rows += 1
            if row.values is not None and len(self._columns) < MOST_COLUMNS:
                self._columns |= dict.fromkeys(row.values)
            if not self._may_be_rated and row.values is not None and _has_rated_id(row.values):
                raise _not_as_taken(self.path, f"row {row.number} is a rated answer, but the file is not in {RATED}")
            try:
                outcome = self._outcome_of(row)
            except SovereignError:
                raise
            except Exception as error:  # the error's own message may quote the row
                raise SourceError(
                    f"{self.path}, row {row.number}: conversion failed with {place_of(error)}.",
                    "Leave out the row with `exclude`, or remove it from the file, and report this bug.",
                ) from None
            if outcome is not None:
                yield outcome

    @property
    def columns_not_read(self) -> list[str]:
        """Return the columns of the rows read so far that the recipe does not use."""
        return [column for column in self._columns if not self._names.reads(column)]

    def row_keys(self) -> Iterator[str]:
        """Yield each row's id in the form that is compared with links (`link_key`). This method reads the file from the
        start, so call it on a separate reader."""
        ids = map(self._given_id_of, self._rows())
        return (link_key(id) for id in ids if id is not None)

    def _outcome_of(self, row: Row) -> Document | Quarantined | None:
        """Count a row, and convert it to a document or quarantined row, or to None if it is excluded or not
        selected."""
        if (excluded := self.exclusions.naming(self._given_id_of(row))) is not None:
            excluded.rows += 1
            self.count.excluded += 1
            self._leave_out(row)
            return None
        if row.values is not None and not self._is_selected(row.values):
            self.count.not_selected += 1
            self._leave_out(row)
            return None
        try:
            document = self._document(row)
        except RowRejected as rejected:
            reason = str(rejected)
            self.count.quarantined += 1
            self.count.reasons[reason] = self.count.reasons.get(reason, 0) + 1
            self._leave_out(row)
            return Quarantined(self.source.name, row.number, self._id_of(row), reason)
        self._seen.add(document.id)
        self.count.documents += 1
        self._count_links(document.id, document.links)
        return document

    def reject_unlike_recipe(self) -> None:
        """Raise SourceError if the file has no rows, `where` selects no row, a needed column is in no row, or a row has
        an unknown level (`reject_unknown_levels`). Call this method after all rows are read."""
        if not self.count.rows:
            below = " below its header" if has_header(self._file) else ""
            raise SourceError(f"{self.path}: the file has no rows{below}.", "Export it again, or remove the source.")
        if 0 < self.count.not_selected == self.count.rows - self.count.excluded:
            seen = (f"'{column}' contains {format_values(values)}" for column, values in self._not_wanted.items())
            raise SourceError(
                f"{self.path}: `where` of source '{self.source.name}' selects none of {self.count.not_selected:,} "
                f"rows. {'; '.join(seen)}.",
                "Check `where` in the recipe.",
            )
        if self._columns:
            reject_missing_columns(self.path, self.source, self._columns)
        self.reject_unknown_levels()

    def reject_unknown_levels(self) -> None:
        """Raise SourceError if the recipe has `levels`, but a row states a level with a word that is neither in
        `levels` nor a level of the ladder."""
        if self.source.levels and self.unknown_levels:
            raise SourceError(
                f"{self.path}: `levels` of source '{self.source.name}' lacks words of the column "
                f"'{self._column('classification')}': {format_values(self.unknown_levels)}.",
                f"Give each word a level under `levels`: {', '.join(self._ladder.levels)}.",
            )

    def _leave_out(self, row: Row) -> None:
        """Register the id and the level of a row that becomes no document. Links to the id then do not count as broken,
        and documents of the same case inherit the level. If the case or level is unreadable, `left_out_unread` counts
        the row instead."""
        self._count_links(self._tied_id_of(row))
        values = row.values or {}
        case = self._value(values, "case") if is_a_text(values.get(self._column("case"))) else ""
        if not case and self.source.case_from_row:
            case = self._given_id_of(row) or ""
        level = self._stated_level(values)
        if not case or not is_unicode(case) or not is_identifier(case) or level is None:
            self.left_out_unread += 1
            return
        case = folded(self._screen.case_of(case))
        self.left_out[case] = self._ladder.highest((self.left_out.get(case, level), level))

    def _count_links(self, row: str | None, links: tuple[str, ...] = ()) -> None:
        if self._tally is not None:
            self._tally.add(self.source.name, row, links)

    def _rows(self) -> Iterator[Row]:
        """Yield the rows of the file, keyed by the recipe's column names. If two columns match the same name in the
        recipe, raise SourceError for a table, or yield a broken row for JSON."""
        source, limit = self.source, self._limits.max_row_bytes
        check_header = partial(reject_missing_columns, self.path, source)
        for row in read_rows(self._file, limit, source.encoding, source.delimiter, check_header, source.sheet):
            self.row = row
            try:
                yield row if row.values is None else Row(row.number, self._names.applied(row.values))
            except RowRejected as rejected:
                if has_header(self._file):
                    raise SourceError(
                        f"{self.path}: {rejected} (source '{self.source.name}').",
                        "Rename or remove one of the two columns in the file.",
                    ) from None
                yield Row(row.number, None, str(rejected))

    def _some_row_has_a_level(self) -> bool:
        """Return True if the recipe states a level for the source, and the file has a column of levels in its header or
        in any JSON row.

        If so, a JSON row without that column is quarantined: its level may be under a misspelt column name, so it must
        not get the recipe's level. If the recipe states no level for the source, a row without a level is always
        quarantined.
        """
        if self.source.classification_floor is None and "classification" not in self.source.constants:
            return False
        column = self._column("classification")
        of_rows = (column in row.values for row in self._rows() if row.values is not None)
        return next(of_rows, False) if has_header(self._file) else any(of_rows)

    def _document(self, row: Row) -> Document:
        """Convert a row to a document. Raises RowRejected with the reason for quarantine."""
        if row.values is None:
            raise RowRejected(row.problem or "broken")
        if self.extraction is not None and BROKEN in row.values:
            raise RowRejected(str(row.values[BROKEN]))
        missing = [column for column in self._named_columns if column not in row.values]
        if missing:
            raise RowRejected(f"no column: {', '.join(missing)}")
        talk = self._conversation(row.values)
        fields = self._fields(row.values, row.number, talk)
        label = self._label(fields.pop("label", ""))
        links = self._links(row.values)
        said = ([each.model_dump() for each in talk["messages"]], talk["tools"], talk["rejected"]) if talk else ()
        texts = (*fields.values(), *links, *strings_in(said, with_keys=True))
        if not all(map(is_unicode, texts)):
            raise RowRejected("contains a lone surrogate (half of a character)")
        if any("\0" in text for text in texts):
            raise RowRejected("contains a NUL character")
        if any(DIGITS_LOST.fullmatch(fields[name]) for name in _IDENTIFIERS):
            raise RowRejected("id or case is a number such as 1.2E+11, which has lost digits")
        if not (is_identifier(fields["id"]) and is_identifier(fields["case"])):
            reason = f"id or case is longer than {LONGEST_IDENTIFIER} characters or contains control characters"
            raise RowRejected(reason)
        fields["date"] = day_of(fields["date"], self._date_formats)
        level = self._level(row.values)
        fields, links = self._screen.screened(fields, links)
        if fields["id"] in self._seen:
            raise RowRejected("duplicate id")
        return Document.model_validate(
            {**fields, **talk, "source": self.source.name, "classification": level, "label": label, "links": links}
        )

    def _conversation(self, values: Values) -> Values:
        """Return the messages, tools and rejected reply of a row in an imported layout. Return an empty mapping for the
        layout `columns`."""
        if self.source.layout == "columns":
            return {}
        found = conversation_of(self.source.layout, self.source.role, values)
        messages = []
        for number, message in enumerate(found.messages, start=1):
            content = self._cleaned(message.content, has_markup=message.role != "tool")
            if not content and message.content and not message.tool_calls:
                raise RowRejected(f"turn {number} is empty")
            messages.append(message.model_copy(update={"content": content}))
        rejected = None if found.rejected is None else self._cleaned(found.rejected, has_markup=True)
        if rejected == "":
            raise RowRejected("missing field: rejected")
        return {"messages": tuple(messages), "tools": found.tools, "rejected": rejected}

    def _fields(self, values: Values, number: int, talk: Values) -> dict[str, str]:
        """Return the text fields of the row's document, including the field that the source's role requires. `number`:
        number of the row. `talk`: result of `_conversation` for the row."""
        names = [name for name in REQUIRED if not talk or name not in LAYOUT_FIELDS]
        of_role = FIELD_OF_ROLE.get(self.source.role)
        of_role = None if of_role in talk else of_role
        texts = (*names, "classification", *(["rejected"] if of_role == "rejected" else []))
        not_text = [name for name in texts if not is_a_text(values.get(self._column(name)))]
        if not_text:
            raise RowRejected(f"value is not text, a number or a date: {', '.join(map(self._column, not_text))}")
        fields = {name: self._value(values, name) for name in names}
        if fields["language"]:
            fields["language"] = language_of(fields["language"])
        elif self.source.language_from_text:
            spoken = (message.content for message in talk.get("messages", ()) if message.role in ("user", "assistant"))
            texts_ = (*spoken, talk["rejected"] or "") if talk else (self._value(values, name) for name in _TEXTS[1:])
            fields["language"] = language_in(texts_) or ""
        if self.source.id_from_row:
            fields["id"] = fields["id"] or self._id_by_number(number)
        if self.source.case_from_row:
            fields["case"] = fields["case"] or fields["id"]
        fields["date"] = fields["date"] or (self.source.date and self.source.date.missing) or ""
        if of_role is not None:
            fields[of_role] = self._value(values, of_role)
        missing = [name for name, value in fields.items() if not value and not self._may_be_empty(name)]
        if missing:
            raise RowRejected(f"missing field: {', '.join(map(self._column, missing))}")
        return fields

    def _label(self, text: str) -> bool | None:
        if self.source.role != "labels":
            return None
        label = truth_of(text)
        if label is None:
            raise RowRejected("label is not a yes/no value (true, false, yes, no, 1 or 0)")
        return label

    def _links(self, values: Values) -> tuple[str, ...]:
        cell = values.get(self.source.links) if self.source.links else None
        return resolved(linked_ids(cell), self._known_ids) if cell is not None else ()

    def _level(self, values: Values) -> str:
        """Return the row's level, at least the source's floor. Raises RowRejected for an unknown or missing level."""
        column = self._column("classification")
        if self._every_row_has_a_level and column not in values:
            raise RowRejected(f"the row has no column '{column}', where other rows state their level")
        own = self._value(values, "classification")
        if own and self.level_of(own) not in self._ladder and len(self.unknown_levels) < MOST_VALUES:
            self.unknown_levels[own] += 1
        level = self._stated_level(values)
        if level is None:
            raise RowRejected("unknown or missing classification level")
        return level

    def _stated_level(self, values: Values) -> str | None:
        """Return the highest level that the row or the recipe states. Return None if a stated level is unknown, if none
        is stated, or if the row lacks the level column of other rows."""
        column = self._column("classification")
        if not is_a_text(values.get(column)) or (self._every_row_has_a_level and column not in values):
            return None
        own = self._value(values, "classification")
        # A constant can only raise a level, so it does not replace an empty value in the column.
        constant = self.source.constants.get("classification") if own or column not in values else None
        named = [self.level_of(level) for level in (own, constant, self.source.classification_floor) if level]
        return self._ladder.highest(named) if named and all(level in self._ladder for level in named) else None

    def level_of(self, word: str) -> str:
        """Return the level to which the recipe maps a word of the file. Return the word unchanged if it is a level, or
        if the recipe does not map it."""
        return word if word in self._ladder else self._levels.get(folded(word), word)

    def _may_be_empty(self, name: str) -> bool:
        """Return True if a field may be empty: the department, the subject in an imported layout, the author unless the
        split is by author, and any field whose constant is empty."""
        if name == "department" or (name == "author" and not self._needs_author):
            return True
        return self.source.constants.get(name) == "" or (name == "subject" and self.source.layout != "columns")

    def _column(self, name: str) -> str:
        return self.source.columns.get(name, name)

    @property
    def _named_columns(self) -> list[str]:
        """Return the columns that `columns` and `where` of the recipe name. Each row must have them: if a missing
        column were read as empty, a level in a misspelt column would be lost."""
        return [*self.source.columns.values(), *self.source.where]

    def _is_selected(self, values: Values) -> bool:
        """Return True if `where` selects a row. Also return True for a row that lacks a column that the recipe names,
        so that the row is quarantined."""
        if not all(column in values for column in self._named_columns):
            return True
        where = self.source.where
        if all(is_wanted(values[column], wanted) for column, wanted in where.items()):
            return True
        for column in where:
            seen = self._not_wanted.setdefault(column, Counter())
            if len(seen) < MOST_VALUES:
                seen[str("" if values[column] is None else values[column]).strip().lower()] += 1
        return False

    def _value(self, values: Values, name: str) -> str:
        """Return a field's value as stripped NFC text, or "" if the field is empty. If the recipe has a constant for
        the field, return the constant. Raises SourceError if the constant is empty but the row has a value."""
        value = values.get(self._column(name))
        constant = self.source.constants.get(name) if name != "classification" else None
        if constant == "" and value is not None and str(value).strip():
            raise SourceError(
                f"{self.path}: `constants` states that the file has no {name}, but the column '{self._column(name)}' "
                f"contains one.",
                f"Remove '{name}' from `constants` of the source '{self.source.name}'.",
            )
        text = constant if constant is not None else str("" if value is None else value)
        cleaned = self._cleaned(text, has_markup=name in _TEXTS)
        return normal_id(text) if cleaned and name in _IDENTIFIERS else cleaned

    def _cleaned(self, text: str, *, has_markup: bool) -> str:
        """Strip a text, normalise it to NFC, and remove HTML if the recipe says so. Return "" if nothing is visible."""
        if has_markup and self.source.markup == "html" and is_unicode(text):
            begin = text.rfind("</think>\n\n") + len("</think>\n\n") if text.startswith("<think>\n") else 0
            text = text[:begin] + without_markup(text[begin:])
        if not any(map(is_seen, text)) and is_unicode(text):
            return ""
        return unicodedata.normalize("NFC", text.strip())

    def _id_of(self, row: Row) -> str | None:
        """Return the id of a broken row for use in messages. Return None if the row has no valid id, or if the id
        contains personal data."""
        id = self._own_id_of(row)
        return None if id is None else self._screen.shown(id)

    def _tied_id_of(self, row: Row) -> str | None:
        """Return the id of a row that becomes no document, as links store ids (`ColumnScreen.tied`)."""
        id = self._own_id_of(row)
        return None if id is None else self._screen.tied(id)

    def _given_id_of(self, row: Row) -> str | None:
        """Return the id of a row. If the row has no id and `id_from_row` is set, build the id from the row's number."""
        has_own = row.values is not None and row.values.get(self._column("id")) not in (None, "")
        return self._id_by_number(row.number) if self.source.id_from_row and not has_own else self._own_id_of(row)

    def _id_by_number(self, number: int) -> str:
        return f"{self.source.name}-{number}"

    def _own_id_of(self, row: Row) -> str | None:
        if row.values is None or not is_a_text(row.values.get(self._column("id"))):
            return None
        id = self._value(row.values, "id")
        return id if id and is_unicode(id) and is_identifier(id) else None


@dataclass
class Sample:
    """Counts and problems of the first rows of a source."""

    source: str
    error: str | None = None
    """Reason why the file does not match the recipe, with the remedy."""
    rows: int = 0
    is_whole: bool = True
    documents: int = 0
    quarantined: int = 0
    not_selected: int = 0
    excluded: int = 0
    reasons: dict[str, list[int | str]] = field(default_factory=dict)
    """Maps a reason for quarantine to the numbers of the rows, or to their ids for mail and documents."""
    remedy: str = ""
    """Remedy for the most frequent reason."""
    above_ceiling: dict[str, int] = field(default_factory=dict)
    """Maps a level above the line's ceiling to the number of documents at this level."""
    wrong_language: dict[str, list[int | str]] = field(default_factory=dict)
    """Maps the language that rows state to the rows in which a text is certainly in a different language."""
    unknown_levels: str = ""
    """Words in the level column that the recipe does not know, with their counts."""
    languages: dict[str, int] = field(default_factory=dict)
    """Maps a language to the number of documents."""
    other_languages: dict[str, list[int | str]] = field(default_factory=dict)
    """Maps a language without name detection to the rows in this language."""
    not_read: list[str] = field(default_factory=list)
    share: float = 0.0
    """Share of the selected rows that would be quarantined."""

    @property
    def has_row_numbers(self) -> bool:
        return all(isinstance(row, int) for rows in self.reasons.values() for row in rows)

    @property
    def rows_by_reason(self) -> list[str]:
        """Return a text for each reason for quarantine: the number of rows, the reason, and the numbers or ids of the
        rows. The most frequent reason comes first."""
        return [f"{len(rows):,}: {reason} ({format_numbers(rows)})" for reason, rows in self.reasons.items()]


def format_numbers(rows: Sequence[int | str]) -> str:
    """Return a text that lists the numbers or ids of rows."""
    are_numbers = isinstance(rows[0], int)
    return f"{'row' if len(rows) == 1 else 'rows'} {and_more(rows)}" if are_numbers else and_more(rows)


ROWS_OF_A_SAMPLE = 5_000


def sample_of(
    source: Source,
    path: Path,
    limits: Quarantine,
    ladder: ClassificationLadder,
    ceiling: str,
    detected: Collection[str],
    rows: int = ROWS_OF_A_SAMPLE,
    extraction: Extraction | None = None,
) -> Sample:
    """Read up to `rows` rows of a source, and return counts and problems. If the file does not match the recipe, only
    `error` is set. Columns are not searched for personal data. `detected`: languages with name detection."""
    reader = SourceReader(source, path, limits, ladder, set(), extraction=extraction)
    sample, broken = Sample(source.name), list[Quarantined]()
    languages, above = Counter[str](), Counter[str]()
    try:
        for outcome in reader:
            number = reader.row.number if extraction is None else outcome.id or f"row {reader.row.number}"
            if isinstance(outcome, Quarantined):
                broken.append(outcome)
                sample.reasons.setdefault(outcome.reason, []).append(number)
            else:
                language = outcome.language
                languages[language] += 1
                above[outcome.classification] += ladder.exceeds(outcome.classification, ceiling)
                if language not in detected:
                    sample.other_languages.setdefault(language, []).append(number)
                if unsearched_language(outcome.texts_in_language, language, detected):
                    sample.wrong_language.setdefault(language, []).append(number)
            if reader.count.rows >= rows:
                sample.is_whole = False
                break
        if sample.is_whole:
            reader.reject_unlike_recipe()
        reader.reject_unknown_levels()
    except SourceError as error:
        return Sample(source.name, str(error))
    count = reader.count
    sample.rows, sample.documents, sample.quarantined = count.rows, count.documents, count.quarantined
    sample.not_selected, sample.excluded = count.not_selected, count.excluded
    sample.reasons = dict(sorted(sample.reasons.items(), key=lambda each: -len(each[1])))
    sample.remedy = remedy_for(broken, ladder) if broken else ""
    sample.above_ceiling = dict(+above)
    sample.unknown_levels = format_values(reader.unknown_levels)
    sample.languages = dict(languages.most_common())
    sample.not_read = reader.columns_not_read if extraction is None else []
    sample.share = count.quarantined / max(1, count.documents + count.quarantined)
    return sample


# --- all sources of a line --------------------------------------------------------------------------------------------


def source_path(workplace: Workplace, source: Source) -> Path:
    return workplace.settings.data / source.path


def source_digests(workplace: Workplace) -> dict[str, str]:
    return {f"source:{source.name}": _digest_of_source(workplace, source) for source in workplace.line.sources}


def _digest_of_source(workplace: Workplace, source: Source) -> str:
    path = source_path(workplace, source)
    if not path.exists():
        raise SourceError(
            f"Line {workplace.line.line}: the file of source '{source.name}' is missing at {path}.",
            f"Correct `path` of the source in the recipe, or put the file at {path}.",
        )
    if (private := workplace.settings.private_directory_of(path)) is not None:  # its files are of another line or level
        raise SourceError(
            f"Line {workplace.line.line}: the file of source '{source.name}' is in {private}. Files in this "
            f"directory have a recorded level and origin. Using such a file as a source would lose both.",
            "Set `path` of the source to a file elsewhere in the data root.",
        )
    if source.kind in KINDS:
        return digest_of_source(path)
    reject_unreadable(path)
    sha256 = file_sha256(path)
    if _is_rated(source):
        _assert_as_taken(workplace, source, path, sha256)
    return sha256


TAKEN = "rated answers taken in"
"""Action of the ledger entry about an import of rated answers."""
RATED = Path("sources") / "rated"
"""Directory of imported rated answers, below the data root."""
_RATED_LAYOUTS = ("columns", "sharegpt")
_RATED_ID = re.compile("rated-[0-9a-f]{16}")


def _is_rated(source: Source) -> bool:
    """Return True if a source's file is in the directory of rated answers."""
    return Path(os.path.normpath(source.path)).is_relative_to(RATED)


def _has_rated_id(values: Values) -> bool:
    return any(isinstance(each, str) and _RATED_ID.fullmatch(link_key(normal_id(each))) for each in values.values())


def _assert_as_taken(workplace: Workplace, source: Source, path: Path, sha256: str) -> None:
    """Raise SourceError if a file of rated answers was not imported for this line or has changed since, if the line no
    longer permits rated answers, if the highest level of the rows has changed, or if the recipe changes the columns,
    role, encoding or layout."""
    line, institution = workplace.line.line, workplace.institution
    query = select(AuditEntry.subjects).where(AuditEntry.action == TAKEN)
    with open_registry(workplace.settings).reading() as session:
        entries = [each for each in session.scalars(query) if (each["line"], each["sha256"]) == (line, sha256)]
    if not entries:
        raise _not_as_taken(path, f"the file was not imported for line {line}, or was changed after its import")
    if not institution.serving.makes_preferences(line):
        raise _not_as_taken(path, f"line {line} no longer permits rated answers as preferences")
    levels = [json.loads(each)["classification"] for each in path.read_bytes().splitlines() if each]
    if institution.ladder.highest(levels) != entries[0]["classification"]:
        problem = f"the highest level of its rows was {entries[0]['classification']} at the import and has changed"
        raise _not_as_taken(path, problem)
    changed = {*source.columns, *({*source.constants} - {*OPTIONAL_FIELDS, "classification"})}
    if changed or (source.role, source.encoding) != (entries[0]["role"], None) or source.layout not in _RATED_LAYOUTS:
        problem = f"source '{source.name}' must keep the columns, role, encoding and layout of the import"
        raise _not_as_taken(path, problem)


def _not_as_taken(path: Path, problem: str) -> SourceError:
    return SourceError(f"{path}: {problem}.", "Import the rated answers again, or remove the source from the recipe.")


def _levels_by_word(source: Source, ladder: ClassificationLadder) -> dict[str, str]:
    """Return a dict that maps each word of `levels` (`folded`) to its level. Raises RecipeError in three cases: two
    spellings of a word have different levels; a level of the ladder is mapped to a different level; or a variant
    spelling of a level of the ladder is mapped to a lower level."""
    own = {folded(level): level for level in ladder.levels}
    levels: dict[str, str] = {}
    for word, level in source.levels.items():
        if levels.setdefault(folded(word), level) != level:
            raise RecipeError(
                f"`levels` of source '{source.name}' maps '{word}' to {level}, and another spelling of this word to "
                f"{levels[folded(word)]}. All spellings of a word must have the same level.",
                "Give both spellings of the word the same level.",
            )
        named = own.get(folded(word))
        if named is not None and (ladder.exceeds(named, level) or (word in ladder and level != word)):
            raise RecipeError(
                f"`levels` of source '{source.name}' maps '{word}' to {level}, but this word is the level {named}.",
                "Remove the word from `levels`: levels of the ladder need no entry.",
            )
    return levels


@dataclass(frozen=True)
class Readers:
    """The readers of all sources of a line, in the recipe's order."""

    of_sources: tuple[SourceReader, ...]
    tally: LinkTally | None

    def levels_left_out(self, documents: Path, ladder: ClassificationLadder) -> dict[str, str]:
        """Return a dict that maps a case (`folded`) to the highest level of those rows of the case that became no
        document. The dict has no entry for a case without documents, or for a case with a document of at least this
        level. Call this method after all rows are read."""
        left_out = dict[str, str]()
        for reader in self.of_sources:
            for case, level in reader.left_out.items():
                left_out[case] = ladder.highest((left_out.get(case, level), level))
        highest = levels_by_case(documents, ladder) if left_out else {}
        return {
            case: level
            for case, level in sorted(left_out.items())
            if case in highest and ladder.exceeds(level, highest[case])
        }

    @property
    def files(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `files.jsonl`: one for each file or message of mail and document sources."""
        return (each for reader in self.of_sources if reader.extraction for each in reader.extraction.files)

    def described(self, digests: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the rows of `sources.json`. Call this after all rows are read. `digests`: result of
        `source_digests`."""
        return [self._described(reader, digests[f"source:{reader.source.name}"]) for reader in self.of_sources]

    def _described(self, reader: SourceReader, sha256: str) -> dict[str, Any]:
        count = reader.count
        if self.tally is not None:
            count.links, count.links_without_row = self.tally.of(reader.source.name)
            count.links_to_itself = self.tally.to_themselves(reader.source.name)
        terms = reader.source.model_dump(mode="json", include={"name", "path", "role", "licence", "retention"})
        of_files = reader.extraction.counts if reader.extraction is not None else {}
        return {**terms, "sha256": sha256, **asdict(count), **of_files}


def levels_by_case(documents: Path, ladder: ClassificationLadder) -> dict[str, str]:
    """Return a dict that maps each case (`folded`) in a file of documents to the highest level of its documents."""
    levels = dict[str, str]()
    for document in read_documents(documents):
        case = folded(document.case)
        levels[case] = ladder.highest((levels.get(case, document.classification), document.classification))
    return levels


def readers_of(workplace: Workplace, config: Config, secret: Callable[[], bytes] | None = None) -> Readers:
    """Return a reader for each source, in the recipe's order. Sources of mail and documents are parsed first.

    Args:
        config: the configuration of the raw corpus at this workplace.
        secret: function that returns the secret for pseudonyms; None for `workplace.column_secret`.
    """
    line, ladder, seen = workplace.line, workplace.institution.ladder, set[str]()
    screen = ColumnScreen.of(config, workplace.kinds_in_columns, secret or workplace.column_secret)
    tally = LinkTally() if any(source.links for source in line.sources) else None

    extractions = {
        source.name: extract(workplace.settings, source, source_path(workplace, source), ladder, workplace.progress)
        for source in line.sources
        if source.kind in KINDS
    }

    def reader_of(source: Source, **of_line: Any) -> SourceReader:
        path, needs_author = source_path(workplace, source), line.split.by_author
        of_line |= {"needs_author": needs_author, "extraction": extractions.get(source.name)}
        return SourceReader(source, path, line.quarantine, ladder, seen, **of_line)

    @cache
    def known_ids() -> frozenset[str]:
        return frozenset(key for source in line.sources for key in reader_of(source).row_keys())

    readers = (reader_of(each, tally=tally, screen=screen, known_ids=known_ids) for each in line.sources)
    return Readers(tuple(readers), tally)
