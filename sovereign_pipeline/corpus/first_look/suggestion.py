"""A recipe to start from, for a file that was looked at: which column probably is which field of a document.

What belongs here: guesses by name and content, each of which a person reads before the line runs. What does not: the
facts (`looking.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.text import counted
from sovereign_pipeline.corpus.expected_columns import NAMES, plain
from sovereign_pipeline.corpus.file_formats import has_header
from sovereign_pipeline.corpus.first_look.looking import (
    NOT_UTF8,
    ColumnFacts,
    FileFacts,
    FoundLinks,
    compared_columns,
    rows_shown,
)
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.recipe_model import FILL_IN

TEXTS = ("subject", "request", "response", "rejected")
"""Fields from which `markup: html` removes tags."""
LEAST_MARKUP = 0.5
"""Share of a column's values with markup for certain, from which it is HTML: plain letters hold `<` too."""
LEAST_LETTERS = 15
"""Mean characters of a column that may be a request or a reply by its length alone."""


@dataclass(frozen=True)
class Suggestion:
    """A recipe as YAML would hold it, and what a person must decide."""

    recipe: dict[str, Any]
    notes: tuple[str, ...]
    """What was assumed, and what is to be filled in."""


def suggest(
    facts: FileFacts, path: Path, line: str, institution: Institution, suites: Sequence[Path], prompts: Path | None
) -> Suggestion:
    """
    Args:
        path: of the file, as the recipe is to name it.
        line: name of the line.
        suites: own suites of the institution, relative to the data root.
        prompts: its prompts of the red team, relative to the data root; None where there are none.
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
            f"quarantine ({rows_shown(facts, NOT_UTF8)}); another `encoding` would garble the others."
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
    _tell_ids(facts, fields, source, notes)
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
    facts: FileFacts, links: FoundLinks | None, ladder: ClassificationLadder, notes: list[str]
) -> dict[str, str]:
    """Field -> column. Each column is given once; what is taken without its name is noted."""
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


def _tell_ids(facts: FileFacts, fields: dict[str, str], source: dict[str, Any], notes: list[str]) -> None:
    """Which rows have no id of their own, and what becomes of them."""
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
    """About fields that some rows lack; ids and levels have notes of their own."""
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
    """About a column that is read for its name, and does not hold what it says."""
    wants = {"date": "ISO dates (2024-12-31)", "language": "tags of languages (en, ar)"}.get(
        name, "one text in each row"
    )
    return (
        f"{name}: the column '{own.name}' does not hold {wants} in each row, and is read all the same: rows without "
        f"go to quarantine. A constant does not replace it. Correct it, or rename it and set the constant."
    )


def _column_named(field: str, facts: FileFacts) -> ColumnFacts | None:
    """The column that is read as a field without being named for it."""
    return next((column for column in facts.columns.values() if folded(column.name) == folded(field)), None)


def _about_links(each: FoundLinks, taken: bool) -> str:
    note = (
        f"links: {each.matched:,} of {each.links:,} ids in '{each.column}' name a row by '{each.ids}', "
        f"{each.unmatched:,} name none."
    )
    if taken:
        return note
    why = f"It is not taken ({each.doubt})" if each.doubt else "A source has one column of links, and it is not taken"
    return f"{note} {why}; if it ties rows, set `links` to it, and `id` under `columns` to '{each.ids}'."


def _markup(facts: FileFacts, fields: dict[str, str], notes: list[str]) -> str | None:
    """`html` where a good part of the texts is; what was seen is told in any case, for it deletes text."""
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
