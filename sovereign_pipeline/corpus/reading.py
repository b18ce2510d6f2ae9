"""From a source's rows to documents, and to quarantine with a reason for every row that cannot be one.

Nothing is lost: rows in = documents + quarantined + not selected by `where`. A reason never holds text of the row.
"""

import datetime
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.layouts import NotInLayoutError, text_fields
from sovereign_pipeline.corpus.rows import Row, read_rows
from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.corpus import Quarantine, Source

REQUIRED = ("id", "case", "department", "author", "date", "language", "subject", "request", "response")
_LABELS = {"true": True, "1": True, "false": False, "0": False}

LONGEST_IDENTIFIER = 200
"""Characters of an id or case. Both are shown in messages; what is longer is a letter that slipped into the column."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Quarantined:
    """A row that is no document. row: number in the file. id: the row's own id where it could be read."""

    source: str
    row: int
    id: str | None
    reason: str


@dataclass
class SourceCount:
    """What became of a source's rows."""

    rows: int = 0
    documents: int = 0
    quarantined: int = 0
    not_selected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class SourceReader:
    """Streams one source; `seen` holds the ids of all sources of the line, so that an id is used once only."""

    def __init__(
        self, source: Source, path: Path, limits: Quarantine, ladder: ClassificationLadder, seen: set[str]
    ) -> None:
        self.source = source
        self.path = path
        self.count = SourceCount()
        self._limits = limits
        self._ladder = ladder
        self._seen = seen

    def __iter__(self) -> Iterator[Document | Quarantined]:
        linked = False
        for row in read_rows(self.path, self._limits.max_row_bytes):
            self.count.rows += 1
            linked = linked or (row.values is not None and self.source.links in row.values)
            if row.values is not None and not self._is_selected(row.values):
                self.count.not_selected += 1
                continue
            outcome = self._document(row)
            if isinstance(outcome, Document):
                self._seen.add(outcome.id)
                self.count.documents += 1
                yield outcome
                continue
            self.count.quarantined += 1
            self.count.reasons[outcome] = self.count.reasons.get(outcome, 0) + 1
            yield Quarantined(self.source.name, row.number, self._id_of(row), outcome)
        if self.source.links and not linked:
            raise SourceError(
                f"{self.path}: no row has the column '{self.source.links}' that `links` of source "
                f"'{self.source.name}' names, so nothing would be kept together. Correct the recipe."
            )

    def _document(self, row: Row) -> Document | str:
        """The document, or the reason why the row is none."""
        if row.values is None:
            return row.problem or "broken"
        if not self._has_named_columns(row.values):
            absent = [name for name in self._named_columns if name not in row.values]
            return f"no column: {', '.join(absent)}"
        values = row.values
        if self.source.layout != "columns":
            try:
                values = {**values, **text_fields(self.source.layout, self.source.role, values)}
            except NotInLayoutError as problem:
                return str(problem)
        judged = {"preferences": "rejected", "labels": "label"}.get(self.source.role)
        read = (*REQUIRED, "classification", *(["rejected"] if judged == "rejected" else []))
        odd = [name for name in read if not _is_a_text(values.get(self.source.columns.get(name, name)))]
        if odd:
            return f"neither text, number nor date: {', '.join(self.source.columns.get(name, name) for name in odd)}"
        fields = {name: self._value(values, name) for name in REQUIRED}
        fields["language"] = fields["language"].lower().split("-")[0]
        if self.source.id_from_row:
            fields["id"] = fields["id"] or f"{self.source.name}-{row.number}"
        if self.source.case_from_row:
            fields["case"] = fields["case"] or fields["id"]
        if judged is not None:
            fields[judged] = self._value(values, judged)
        missing = [name for name, value in fields.items() if not value and not self._may_be_empty(name)]
        if missing:
            return f"missing field: {', '.join(self.source.columns.get(name, name) for name in missing)}"
        label = _LABELS.get(fields.pop("label", "").lower())
        if self.source.role == "labels" and label is None:
            return "label is neither true nor false"
        links = _links(row.values, self.source)
        if links is None:
            return f"'{self.source.links}' is neither a list of ids nor text"
        if not all(map(_is_unicode, (*fields.values(), *links))):
            return "holds half a character (a lone surrogate)"
        if not (_is_identifier(fields["id"]) and _is_identifier(fields["case"])):
            return f"id or case is longer than {LONGEST_IDENTIFIER} characters or holds control characters"
        day = _iso_day(fields["date"])
        if day is None:
            return "date is not an ISO date"
        level = self._level(row.values)
        if level is None:
            return "unknown or missing classification level"
        if fields["id"] in self._seen:
            return "duplicate id"
        return Document(
            **{**fields, "date": day},
            source=self.source.name,
            classification=level,
            label=label,
            links=links,
        )

    def _may_be_empty(self, name: str) -> bool:
        """A constant says that the file has none; rows of the imported layouts have no subject."""
        return self.source.constants.get(name) == "" or (name == "subject" and self.source.layout != "columns")

    @property
    def _named_columns(self) -> list[str]:
        """Columns that the descriptor names itself. One that is not in the file is a misspelling, and must not count as
        empty: a level would be lost."""
        return [*self.source.columns.values(), *self.source.where]

    def _has_named_columns(self, values: dict[str, Any]) -> bool:
        return all(name in values for name in self._named_columns)

    def _is_selected(self, values: dict[str, Any]) -> bool:
        """A row that lacks a named column is not left out here: it is broken, and goes to quarantine."""
        chosen = all(_equal(values[column], wanted) for column, wanted in self.source.where.items() if column in values)
        return chosen or not self._has_named_columns(values)

    def _value(self, values: dict[str, Any], name: str) -> str:
        """The field as text, stripped, NFC; empty when absent. A column wins over a constant of the same field."""
        value = values.get(self.source.columns.get(name, name))
        if value is None:
            value = self.source.constants.get(name, "")
        text = str(value)
        if self.source.markup == "html" and name in ("subject", "request", "response", "rejected"):
            text = _without_markup(text)
        return unicodedata.normalize("NFC", text.strip())

    def _level(self, values: dict[str, Any]) -> str | None:
        """The row's own level, raised to the source's floor; None when there is neither, or the name is no level."""
        own = self._value(values, "classification")
        floor = self.source.classification_floor
        named = [level for level in (own, floor) if level]
        if not named or any(level not in self._ladder for level in named):
            return None
        return self._ladder.highest(named)

    def _id_of(self, row: Row) -> str | None:
        """None where what stands in the place of the id may be anything else: it is shown to people."""
        if row.values is None or not _is_a_text(row.values.get(self.source.columns.get("id", "id"))):
            return None
        id = self._value(row.values, "id")
        return id if id and _is_unicode(id) and _is_identifier(id) else None


def _equal(value: Any, wanted: str | int | bool | None) -> bool:
    """Also for CSV, where every value is text."""
    if isinstance(value, str) and isinstance(wanted, bool):
        return value.strip().lower() == str(wanted).lower()
    return bool(value == wanted) or (isinstance(value, str) and value == str(wanted))


def _is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def _is_a_text(value: Any) -> bool:
    """Whether a value stands for one text: not a list, a truth value, bytes, or a number that is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int | Decimal | datetime.date) and not isinstance(value, bool))


def _is_identifier(text: str) -> bool:
    return len(text) <= LONGEST_IDENTIFIER and _CONTROL_CHARACTER.search(text) is None


def _links(values: dict[str, Any], source: Source) -> tuple[str, ...] | None:
    """Ids in the links column: a list, or one text with commas between. None when it is neither."""
    linked = values.get(source.links) if source.links else None
    if linked is None:
        return ()
    if not isinstance(linked, str | list):
        return None
    ids = linked.split(",") if isinstance(linked, str) else linked
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in ids):
        return None
    named = (unicodedata.normalize("NFC", str(each).strip()) for each in ids)
    return tuple(id for id in named if id)


def _iso_day(text: str) -> str | None:
    try:
        return datetime.datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return None


def _without_markup(text: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for end in soup.find_all(["br", "p", "li", "tr"]):
        end.append("\n")
    return "\n".join(line.strip() for line in soup.get_text().splitlines() if line.strip())
