"""The columns that a recipe expects of a file, and the message for a file that lacks one.

What belongs here: which columns are needed, and how those of the file are told. What does not: a single row without a
value (`documents_from_rows.py`), spellings of a name (`column_names.py`).
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.policy.corpus import LAYOUT_FIELDS, Source
from sovereign_pipeline.wording import and_more, counted

REQUIRED = ("id", "case", "department", "author", "date", "language", "subject", "request", "response")
"""Fields of every document that a column or a constant gives."""
FIELD_OF_ROLE = {"preferences": "rejected", "labels": "label"}
"""The field that a role needs besides."""

_OTHER_KEYS = {"id": "`id_from_row`", "case": "`case_from_row`", "classification": "`classification_floor`"}
COLUMNS_SHOWN = 40
LONGEST_NAME, MOST_WORDS = 40, 4
LONGEST_TITLE = 90
"""Characters. A longer name of a column is a text."""
A_ROW_FOR_A_HEADER = "Its first line seems to be a row, not the names of columns."
NAME_THE_COLUMNS = "Write the names of the columns into the first line of the file."
_DELIMITERS = {";": '";"', "\t": '"\\t"', "|": '"|"', ",": '","'}
"""Each as YAML writes it."""
_VALUE = re.compile(r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}|.*@.*\..*")
"""What names no column: a date, an e-mail address."""
_NUMBER = re.compile(r"[-+]?[\d.,]+")


def needed_columns(source: Source) -> dict[str, str]:
    """Column -> what it is for: a field, `where` or `links`."""
    fields = [*REQUIRED, "classification", *([FIELD_OF_ROLE[source.role]] if source.role in FIELD_OF_ROLE else [])]
    given = {*source.constants}
    given |= {"classification"} if source.classification_floor is not None else set()
    given |= {"id"} if source.id_from_row else set()
    given |= {"case"} if source.case_from_row else set()
    given |= {*LAYOUT_FIELDS, "subject"} if source.layout != "columns" else set()
    columns = {source.columns.get(name, name): name for name in fields if name in source.columns or name not in given}
    columns |= {column: name for name, column in source.columns.items()}
    columns |= dict.fromkeys(source.where, "`where`")
    return columns | ({source.links: "`links`"} if source.links else {})


def refuse_missing_columns(path: Path, source: Source, columns: Collection[str]) -> None:
    """Raise SourceError for a file that lacks a needed column. columns: of a table's header, or of any row of JSON."""
    known = set(map(folded, columns))
    missing = {column: use for column, use in needed_columns(source).items() if folded(column) not in known}
    if not missing:
        return
    lacks = ", ".join(f"'{column}'" + (f" (for {use})" if use != column else "") for column, use in missing.items())
    message = f"{path}: source '{source.name}' needs {counted(len(missing), 'column')} that the file lacks: {lacks}."
    (only, *others) = [*columns] or [""]
    if not others and (found := next((each for each in _DELIMITERS if each in only), None)):
        raise SourceError(
            f"{message} Its header is one column, with {_DELIMITERS[found]} in it.",
            f"Set `delimiter: {_DELIMITERS[found]}` for the source in the recipe.",
        )
    if only.startswith("sep="):
        raise SourceError(f"{message} Its first line is a note for Excel.", "Delete that line from the file.")
    if seems_a_row(columns):
        raise SourceError(f"{message} {A_ROW_FOR_A_HEADER}", NAME_THE_COLUMNS)
    keys = [use for use in ("`links`", "`where`") if use in missing.values()]
    hint = f"Correct {' and '.join(keys)} in the recipe."
    if len(missing) > sum(use in keys for use in missing.values()):
        hint = "Name the right column under `columns`, or give the field one value under `constants`."
    others = [key for field, key in _OTHER_KEYS.items() if field in missing.values()]
    if others:
        hint += f" For files without one: {', '.join(others)}."
    raise SourceError(f"{message} {columns_shown(columns)}", hint)


def columns_shown(columns: Iterable[str]) -> str:
    """The columns of a file as a sentence; names too long to be names are counted."""
    names = [*columns]
    short = [name for name in names if name.strip() and len(name) <= LONGEST_NAME and len(name.split()) <= MOST_WORDS]
    others = f"{counted(len(names) - len(short), 'name')} too long or empty" if len(short) < len(names) else ""
    shown = and_more([repr(name)[1:-1] for name in short], COLUMNS_SHOWN)
    return f"Its columns: {', and '.join(part for part in (shown, others) if part)}."


def seems_a_row(columns: Collection[str]) -> bool:
    """Whether names of columns are values: a date, an e-mail address, a text, or numbers for a third of them."""
    names = [name.strip() for name in columns]
    if any(len(name) > LONGEST_TITLE or _VALUE.fullmatch(name) for name in names):
        return True
    return sum(_NUMBER.fullmatch(name) is not None for name in names) * 3 >= len(names) > 0
