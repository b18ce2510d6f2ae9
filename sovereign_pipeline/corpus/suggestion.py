"""Suggest a recipe for an inspected file, with notes on the decisions that a person must make before a run."""

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import counted, folded
from sovereign_pipeline.corpus.columns import format_columns, may_be_request, names_field, names_of, plain
from sovereign_pipeline.corpus.documents_from_rows import Sample, sample_of
from sovereign_pipeline.corpus.file_formats import has_header
from sovereign_pipeline.corpus.inspection import (
    NOT_UTF8,
    UNFINISHED,
    ColumnFacts,
    FileFacts,
    LinkColumn,
    compared_columns,
    format_rows,
    is_named_as_date,
)
from sovereign_pipeline.corpus.layouts import LAYOUT_COLUMNS
from sovereign_pipeline.policy.corpus import DOCUMENT_COLUMNS, Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder, Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import FILL_IN, placeholders_in, read_value, validated

TEXTS = ("subject", "request", "response", "rejected")
"""Fields from which `markup: html` removes tags."""
LEAST_MARKUP = 0.5
"""Minimum share of values with unmistakable markup in a column for the column to count as HTML. Plain text may contain
`<`, too."""
LEAST_ROWS_OF_A_WORD = 3
"""Minimum number of rows with a word in a level column for notes to show the word. A rarer word may be a name."""
LEAST_ALIKE, LEAST_TIMES_OTHERS = 0.5, 2
"""The response column needs at least this share of texts that look like replies, and at least this many times the share
of every other column. The request column needs at least this share of texts that begin with a salutation."""

FIELDS = ("request", "response", "rejected", "subject", "date", "case", "department", "author", "language", "id")
FIELDS_BY_WORDS = ("date", "subject", "case", "department", "author", "language", "id")
"""Fields in the order in which columns are assigned to them: FIELDS by a column's whole name, FIELDS_BY_WORDS by a word
in its name."""
TERMS = {"licence": f"{FILL_IN}: terms of use, such as own records", "retention": f"{FILL_IN}: such as 10 years"}
"""Maps each key of a source that a person must fill in to an explanation of the value."""
LONGEST_BY_WORD = 60
"""Maximum mean length in characters of the values in a column that is assigned to a field by a word in its name. The
field `subject` has no such limit."""


@dataclass(frozen=True)
class Suggestion:
    """A suggested recipe as YAML data, with notes on the decisions that a person must make."""

    recipe: dict[str, Any]
    notes: tuple[str, ...]
    """Assumptions that a person should check, and decisions to make."""

    @property
    def questions(self) -> dict[str, str]:
        """Return a dict that maps each key that a person must fill in to an explanation of the value. The keys of the
        source are given without the prefix `sources.0.`."""
        return {
            re.sub(r"\.0$", "", key.removeprefix(_OF_SOURCE)): text.removeprefix(FILL_IN).lstrip(": ")
            for key, text in placeholders_in(self.recipe)
        }

    def answered(self, answers: Iterable[str]) -> "Suggestion":
        """Return a copy of the suggestion with a person's answers, each `KEY=VALUE` with VALUE in YAML. An empty value
        removes the key.

        Raises InputError for an answer without `=` or key, and for a key such as `a.b` if the value of `a` is not a
        mapping.
        """
        recipe = copy.deepcopy(self.recipe)
        for each in answers:
            key, sign, value = each.partition("=")
            if not sign or not key.strip():
                raise InputError(f"--set: '{key}' is not of the form KEY=VALUE.", "Write a recipe key, = and a value.")
            _set_key(recipe, key.strip().removeprefix(_OF_SOURCE), value.strip())
        return Suggestion(recipe, self.notes)


def with_answers(source: Mapping[str, Any], answers: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a recipe's source with a person's answers, as in `Suggestion.answered`."""
    recipe = Suggestion({"sources": [source]}, ()).answered(answers).recipe
    answered: dict[str, Any] = recipe["sources"][0]
    return answered


_OF_SOURCE = "sources.0."
_SECTIONS_OF_WORDS = ("columns", "constants", "levels", "where")
"""Sections of a source whose keys are words from the file. Such a key may contain dots."""


def _set_key(recipe: dict[str, Any], key: str, value: str) -> None:
    part, _, rest = key.partition(".")
    place: Any = recipe if part in Line.model_fields else recipe["sources"][0]
    while rest:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {key}: the value of '{part}' is not a mapping.", "Correct the key before the =.")
        part, _, rest = (rest, "", "") if part in _SECTIONS_OF_WORDS else rest.partition(".")
    if not value:
        place.pop(part, None)
        return
    is_list = isinstance(place.get(part), list)
    place[part] = read_value(value)
    if is_list and not isinstance(place[part], list):
        place[part] = [place[part]]


def suggest(
    facts: FileFacts,
    path: Path,
    line: str,
    institution: Institution,
    suites: Sequence[Path],
    prompts: Path | None,
    answers: Sequence[str] = (),
    of_kind: Mapping[str, str] = {},
) -> Suggestion:
    """Suggest a recipe for an inspected file.

    Args:
        path: path of the file, as the recipe will state it.
        answers: a person's values, as in `Suggestion.answered`. The function reads sample rows with these values, but
            the returned recipe does not contain them.
        of_kind: additional keys of the source, such as `query` for a source of the kind `database`.
        line: name of the line of adapters.
        suites: the institution's own suites, relative to the data root.
        prompts: the institution's red-team prompts, relative to the data root; None if there are none.
    """
    notes: list[str] = []
    source = {"name": "letters", **of_kind, **_source(facts, path, institution.ladder, notes)}
    recipe: dict[str, Any] = {}
    if (sample := _sample_of(facts, with_answers(source, answers), institution.ladder)) is not None:
        recipe |= ask_for_quarantine(sample, notes)
    if facts.with_tools:
        recipe["training"] = {"base_model": "smollm2-135m-tools", "instruction": "Answer the enquirer."}
        notes.append(
            f"base_model: {facts.with_tools:,} of {facts.rows:,} rows have tools, so its template must support tools."
        )
    return recipe_with(source, recipe, notes, line, institution, suites, prompts)


def has_letters(facts: FileFacts) -> bool:
    """Return True if a file certainly has columns of requests and of replies, or if its rows are in a layout."""
    fields = _fields(facts, None, (), [])
    return facts.layout is not None or {"request", "response"} <= fields.keys()


def ask_for_quarantine(sample: Sample, notes: list[str]) -> dict[str, Any]:
    """If the quarantined share of the rows is above a line's default limit, add a note, and return the recipe key
    `quarantine` with a value to fill in. Otherwise return an empty dict."""
    most = Quarantine().max_share
    if sample.share <= most:
        return {}
    about = f"{sample.quarantined:,} of {sample.quarantined + sample.documents:,} rows ({sample.share:.1%})"
    # Recipes are kept under version control, and names of files may be names of people.
    reasons = [f"{len(rows):,}: {reason}" for reason, rows in sample.reasons.items()]
    reasons = sample.rows_by_reason if sample.has_row_numbers else [*reasons, "`sovereign lines check` lists them"]
    notes.append(
        f"quarantine: {about} cannot become documents. {'; '.join(reasons)}. A line stops above "
        f"{most:.0%}: write the share that you accept. {sample.remedy}"
    )
    return {"quarantine": {"max_share": f"{FILL_IN}: accepted share, such as {math.ceil(sample.share * 100) / 100}"}}


def recipe_with(
    source: Mapping[str, Any],
    more: Mapping[str, Any],
    notes: list[str],
    line: str,
    institution: Institution,
    suites: Sequence[Path],
    prompts: Path | None,
) -> Suggestion:
    """Return a recipe with one source, and with the keys in `more`. `suggest` describes the other arguments."""
    recipe: dict[str, Any] = {
        "line": line,
        "purpose": f"{FILL_IN}: purpose of the adapter",
        "owner": f"{FILL_IN}: owner of the line",
        "ceiling": institution.classification[-1],
        "sources": [dict(source)],
        "training": {"base_model": "smollm2-135m-instruct", "instruction": "Write the reply to this letter."},
        **more,
    }
    if not suites or prompts is None:
        notes.append(
            "evaluation: left out, because suites/ has no suite or red_team/prompts.jsonl is missing; add it later."
        )
        return Suggestion(recipe, tuple(notes))
    level = institution.classification[0]
    recipe["evaluation"] = {
        "capability": [{"name": suite.stem, "path": suite.as_posix(), "classification": level} for suite in suites[:1]],
        "red_team": {"prompts": prompts.as_posix(), "classification": level},
    }
    notes.append(f"evaluation: suite and prompts are assumed to be {level}; correct the level if necessary.")
    return Suggestion(recipe, tuple(notes))


def _sample_of(facts: FileFacts, source: Mapping[str, Any], ladder: ClassificationLadder) -> Sample | None:
    """Read the first rows as if a person had filled in the recipe: unknown level words get the highest level, and rows
    with unfinished states such as `draft` are not selected. Return None if the rows cannot be read, for example before
    a person states a column or a format."""
    column = source.get("columns", {}).get("classification", "classification")
    levels = _words_for_levels(facts.columns[column], ladder) if column in facts.columns else {}
    known = {folded(level): level for level in ladder.levels}
    states = {name: facts.columns[name].states for name in source.get("where", ()) if name in facts.columns}
    where = {
        name: [each or None for each in found if each.casefold() not in UNFINISHED] for name, found in states.items()
    }
    answered = {
        section: {word: value for word, value in source.get(section, {}).items() if FILL_IN not in str(value)}
        for section in ("levels", "where")
    }
    filled_in = {
        **source,
        "levels": {word: known.get(folded(word), ladder.levels[-1]) for word in levels} | answered["levels"],
        "where": {name: finished for name, finished in where.items() if finished} | answered["where"],
        **dict.fromkeys(("licence", "retention"), "-"),
    }
    if FILL_IN in str(filled_in):
        return None
    of_source = validated(Source, filled_in, "The draft recipe")
    sample = sample_of(of_source, facts.path, Quarantine(), ladder, ladder.levels[-1], ())
    return sample if sample.error is None else None


def _source(facts: FileFacts, path: Path, ladder: ClassificationLadder, notes: list[str]) -> dict[str, Any]:
    compared = compared_columns(facts)
    links = next((each for each in compared if each.doubt is None), None)
    fields = _fields(facts, links, ladder.levels, notes)
    source: dict[str, Any] = {"name": "letters", "path": path.as_posix()}
    if facts.encoding is not None:
        source["encoding"] = facts.encoding
        notes.append(f"encoding: read as {facts.encoding}; check that the letters of texts are correct.")
    if NOT_UTF8 in facts.broken and facts.encoding is None:
        notes.append(
            f"encoding: a mixture; {facts.broken[NOT_UTF8]:,} of {facts.rows:,} rows are not UTF-8 and will be "
            f"quarantined ({format_rows(facts, NOT_UTF8)}); another `encoding` would garble the other rows."
        )
    if facts.sheet is not None:
        source["sheet"] = facts.sheet
    if facts.delimiter is not None:
        source["delimiter"] = facts.delimiter
    if facts.layout is not None:
        source |= {"layout": facts.layout, **({"role": facts.role} if facts.role != "letters" else {})}
        notes += [f"layout: {each}" for each in about_layout(facts)]
    elif "rejected" in fields:
        source["role"] = "preferences"
    source["columns"] = {field: column for field, column in fields.items() if field != column}
    source["constants"] = dict[str, str]()
    _ask_for_sides(facts, fields, source, notes)
    _set_columns_that_are_not_there(facts, fields, source, notes)
    _set_date(facts, fields, source, notes)
    _note_ids(facts, fields, source, notes)
    notes += _about_empty_cells(facts, fields)
    if "case" not in fields:
        _ask_for_case(facts, {*fields.values(), *(each.column for each in compared)}, source, notes)
    _set_levels(facts, ladder, fields, source, notes)
    for column in facts.columns.values():
        if column.states and column.name not in fields.values():
            source.setdefault("where", {})[column.name] = f"{FILL_IN}: {format_states(column)}"
            notes.append(f"where: {about_states(column)} Write the value or a list of values, or delete the line.")
    if links is not None:
        source["links"] = links.column
    notes += [_about_links(each, taken=each is links) for each in compared]
    if (markup := _markup(facts, fields, notes)) is not None:
        source["markup"] = markup
    source |= TERMS
    read = {*fields.values(), source.get("links"), *source.get("where", ())}
    read |= {*LAYOUT_COLUMNS} if facts.layout is not None else set()
    unread = [name for name in facts.columns if name not in read and folded(name) not in DOCUMENT_COLUMNS]
    if unread:
        notes.append(f"not read: {len(unread)} of {len(facts.columns)} columns. {format_columns(unread)}")
    return source


def _ask_for_sides(facts: FileFacts, fields: Mapping[str, str], source: dict[str, Any], notes: list[str]) -> None:
    """Write FILL IN for the request or the response if no column clearly contains it, and add a note."""
    for name in ("request", "response") if facts.layout is None else ():
        if name in fields:
            continue
        texts = [each for each in facts.columns.values() if each.is_of_texts and each.name not in fields.values()]
        names = " or ".join(f"'{each.name}'" for each in texts) or "a column"
        source["columns"][name] = f"{FILL_IN}: {names}"
        about = "".join(f" '{each.name}' has {format_texts(each)}." for each in texts)
        notes.append(f"{name}: no column certainly contains the {name}; choose one.{about}")


def _ask_for_case(facts: FileFacts, taken: Collection[str], source: dict[str, Any], notes: list[str]) -> None:
    """Set `case_from_row`: every row is a separate case. If a column may contain cases, ask a person instead."""
    may_be = [each for each in facts.columns.values() if each.name not in taken and each.may_be_cases]
    if not may_be or (facts.layout is not None and facts.layout == "chatgpt"):
        source["case_from_row"] = True
        notes.append("case: no column contains case files, so every row is a separate case file.")
        return
    names = " or ".join(f"'{each.name}'" for each in may_be)
    source["columns"]["case"] = f"{FILL_IN}: {names}, or delete this line and write case_from_row: true"
    notes += [
        f"case: does '{each.name}' contain case files? It has {len(each.values):,} values in {each.filled:,} rows. "
        f"Rows of one case must stay on one side of the split. If not, delete the line and write `case_from_row: true`."
        for each in may_be
    ]


def _set_columns_that_are_not_there(
    facts: FileFacts, fields: Mapping[str, str], source: dict[str, Any], notes: list[str]
) -> None:
    """Set an empty constant for the department, author or subject if no column contains it, and `language_from_text` if
    a row has no language. If an unsuitable column has the field's name, only add a note."""
    for name in ("department", "author", "subject", "language"):
        if name == "language" and name in fields and (empty := _empty_cells(facts, fields[name])):
            source["language_from_text"] = True
            notes.append(
                f"language: {counted(empty, 'row')} of {facts.rows:,} with no value in '{fields[name]}'; the language "
                f"is detected from the row's text."
            )
        if name in fields or (name == "subject" and facts.layout is not None):
            continue
        own = _column_named(name, facts)
        if own is not None and own.filled:
            notes.append(_about_an_unfit_column(name, own))
        elif name == "language":
            source["language_from_text"] = True
            texts = [facts.columns[fields[each]] for each in ("request", "response") if each in fields]
            arabic, filled = sum(each.arabic for each in texts), sum(each.filled for each in texts)
            shares = f"; {arabic:,} of {filled:,} texts are in Arabic script" if filled else ""
            notes.append(f"language: no column has languages; the language is detected from each row's text{shares}.")
        else:
            source["constants"][name] = ""


def _set_date(facts: FileFacts, fields: Mapping[str, str], source: dict[str, Any], notes: list[str]) -> None:
    if "date" in fields:
        column = facts.columns[fields["date"]]
        formats = [" or ".join(alternatives) for alternatives in column.date_formats]
        if any(len(alternatives) > 1 for alternatives in column.date_formats):
            source["date"] = {"format": f"{FILL_IN}: {' and '.join(formats)}"}
            notes.append(f"date: '{column.name}' may be {' and '.join(formats)}. Which format is correct?")
        elif formats:
            source["date"] = {"format": formats if len(formats) > 1 else formats[0]}
            notes.append(f"date: '{column.name}' is read as {' and '.join(formats)}.")
        if column.undated:
            notes.append(f"date: {counted(column.undated, 'row')} without a date in '{column.name}': quarantined.")
        return
    own = _column_named("date", facts)
    notes += [
        f"date: '{column.name}' has years of the Hijri calendar, such as 1445. They are not converted: add a column "
        f"with dates of the Gregorian calendar to the file."
        for column in facts.columns.values()
        if column.has_hijri_dates
    ]
    mixed = [each for each in facts.columns.values() if each.has_mixed_dates and is_named_as_date(each.name)]
    if own is not None and (own.filled or has_header(facts.path)):
        notes.append(_about_an_unfit_column("date", own))
    elif mixed:
        source["columns"]["date"] = f"{FILL_IN}: {mixed[0].name}"
        notes.append(
            f"date: '{mixed[0].name}' mixes day before month and month before day. No list of formats can read values "
            f"that may mean two days. Write ISO dates into the file."
        )
    else:
        source["constants"]["date"] = f"{FILL_IN}: one date for all rows"
        notes.append("date: no column has dates; map one, or set one date for all rows.")


def _set_levels(
    facts: FileFacts,
    ladder: ClassificationLadder,
    fields: Mapping[str, str],
    source: dict[str, Any],
    notes: list[str],
) -> None:
    """Add `levels` with the words that a person must map to levels. If no column has levels, add a floor."""
    highest = ladder.levels[-1]
    named = facts.columns[fields["classification"]] if "classification" in fields else None
    own = named or _column_named("classification", facts)
    words = _words_for_levels(own, ladder) if own is not None else {}
    if named is not None and words:
        levels = {folded(level): level for level in ladder.levels}
        choice = f"{FILL_IN}: {', '.join(ladder.levels)}"
        shown = {word: times for word, times in words.items() if times >= LEAST_ROWS_OF_A_WORD}
        if shown:
            source["levels"] = {word: levels.get(folded(word), choice) for word in shown}
            notes.append(
                f"levels: {counted(len(shown), 'word')} of '{named.name}' are used as levels: "
                f"{', '.join(f'{word} ({times:,})' for word, times in shown.items())}. Map each word to a level."
            )
        if len(shown) < len(words):
            notes.append(
                f"levels: {counted(len(words) - len(shown), 'word')} of '{named.name}' with fewer than "
                f"{LEAST_ROWS_OF_A_WORD} rows each are not shown, because they may be names. Map them to levels, too."
            )
    elif own is not None and (words or own.long):
        unknown = sum(words.values())
        notes.append(
            f"classification: {unknown + own.long:,} of {facts.rows:,} rows have words in '{own.name}' that are not "
            f"levels of the ladder, and will be quarantined. Give each word a level under `levels`, or rename the "
            f"column and set `classification_floor`."
        )
    if named is not None:
        if empty := facts.rows - named.filled:
            notes.append(f"classification: {counted(empty, 'row')} without a level will be quarantined.")
    elif own is None or not own.filled:
        source["classification_floor"] = highest
        notes.append(f"classification: a row without a level of the ladder gets the highest: {highest}.")


def _words_for_levels(column: ColumnFacts, ladder: ClassificationLadder) -> dict[str, int]:
    """Return a dict that maps each word of a level column to its number of rows, except words that are levels of the
    ladder. All spellings of a word are counted under the first spelling."""
    words: dict[str, str] = {}
    times = Counter[str]()
    for value, count in column.values.items():
        if value not in ladder:
            times[words.setdefault(folded(value), value)] += count
    return dict(times)


def _fields(facts: FileFacts, links: LinkColumn | None, levels: Collection[str], notes: list[str]) -> dict[str, str]:
    """Return a dict that maps a field to a column. Each column is used at most once. Add a note for each column whose
    name is not a usual name of the field."""
    of_layout = LAYOUT_COLUMNS if facts.layout is not None else ()
    columns = [column for name, column in facts.columns.items() if column.filled and name not in of_layout]
    fields: dict[str, str] = {}

    def free() -> list[ColumnFacts]:
        taken = {*fields.values(), *([links.column] if links is not None else [])}
        return [column for column in columns if column.name not in taken]

    if links is not None:
        fields["id"] = links.ids
    stated = [each for each in columns if each.values.total() == each.filled and set(each.values) <= set(levels)]
    stated += [each for each in columns if _is_named(each, "classification") and each.has_few_words]
    if stated:
        fields["classification"] = stated[0].name
    sides = ("request", "response", "rejected") if facts.layout is not None else ()
    for name in (each for each in FIELDS if each not in fields and each not in sides):
        fitting = {plain(column.name): column.name for column in free() if _fits(name, column)}
        if found := [fitting[each] for each in names_of(name) if each in fitting]:
            fields[name] = found[0]
    if not sides:
        _add_sides(free, fields, notes)
    for name in (each for each in FIELDS_BY_WORDS if each not in fields):
        worded = [each for each in free() if names_field(each.name, name) and _fits_word(name, each)]
        if worded:
            fields[name] = worded[0].name
            notes.append(f"{name}: '{fields[name]}' is chosen by a word in its name.")
    if "id" not in fields:
        unique = [column for column in free() if column.is_unique and not _fits("date", column)]
        if unique:
            fields["id"] = unique[0].name
            notes.append(f"id: '{fields['id']}' is a guess, because every row has a different value.")
    if "date" not in fields:
        dated = [column for column in free() if _fits("date", column)]
        if dated:
            fields["date"] = dated[0].name
            notes.append(
                f"date: '{fields['date']}' is a guess, because it contains dates; check that they are the "
                "letters' dates."
            )
    return fields


def _add_sides(free: Callable[[], list[ColumnFacts]], fields: dict[str, str], notes: list[str]) -> None:
    """Add the columns of the request and of the response to `fields`. A column is identified by words in its name, or
    else by its texts. A field whose column cannot be determined is left out."""

    texts = _texts(free)

    def add(name: str, columns: Sequence[ColumnFacts], why: str) -> None:
        if name not in fields and len(columns) == 1:
            fields[name] = columns[0].name
            notes.append(f"{name}: '{fields[name]}' is chosen by {why}: {format_texts(columns[0])}.")

    add("response", [each for each in _texts(free) if names_field(each.name, "response")], "the words of its name")
    add("request", [each for each in _texts(free) if names_field(each.name, "request")], "the words of its name")
    if "response" not in fields:
        most = sorted(each.reply_share for each in texts)[-2:-1] or [1.0]
        alike = [each for each in _texts(free) if each.reply_share >= max(LEAST_ALIKE, LEAST_TIMES_OTHERS * most[0])]
        add("response", alike, "its texts, which look like replies of one institution")
    if "response" in fields:
        add("request", [each for each in _texts(free) if may_be_request(each.name)], "its name")
        letters = [each for each in _texts(free) if each.salutation_share >= LEAST_ALIKE]
        add("request", letters, "its texts, the only others with a salutation")


def _texts(free: Callable[[], list[ColumnFacts]]) -> list[ColumnFacts]:
    """Return the unused columns that may contain requests or replies."""
    return [each for each in free() if each.is_of_texts and not names_field(each.name, "subject")]


def format_texts(column: ColumnFacts) -> str:
    """Describe the texts of a column without quoting them."""
    return (
        f"{column.filled:,} texts of {column.mean_length:,.0f} characters on average, {column.salutation_share:.0%} "
        f"with a salutation, {column.reply_share:.0%} worded or signed like replies"
    )


def _is_named(column: ColumnFacts, field: str) -> bool:
    """Return True if a column's name is a usual name of a field, or contains a word for the field."""
    return plain(column.name) in names_of(field) or names_field(column.name, field)


def _fits_word(name: str, column: ColumnFacts) -> bool:
    """Return True if a column's values fit the field that a word in the column's name suggests. The values must be
    short, except for `subject`, and must not be dates, except for `date`."""
    is_short = not column.has_texts and column.mean_length <= LONGEST_BY_WORD
    is_dated = _fits("date", column)
    return _fits(name, column) and (name == "date" or not is_dated) and (name == "subject" or is_short)


def _fits(name: str, column: ColumnFacts) -> bool:
    if name in ("request", "response", "rejected"):
        return column.is_of_texts
    if name == "date":
        return column.is_dated or bool(column.date_formats)
    if name == "id":
        return column.may_be_ids
    if name == "language":
        return all(len(value) <= len("zh-Hant-TW") for value in column.values) and column.types["text"] == column.filled
    return column.types["list"] == column.types["object"] == 0


def _note_ids(facts: FileFacts, fields: dict[str, str], source: dict[str, Any], notes: list[str]) -> None:
    """Add notes on rows without a distinct id, and set `id_from_row` if no column contains ids."""
    if "id" in fields:
        column = facts.columns[fields["id"]]
        repeated = column.values.total() - len(column.values)
        for count, what in ((repeated, "an earlier row's id"), (column.rows - column.filled, "no id")):
            if count:
                notes.append(
                    f"id: {counted(count, 'row')} of {facts.rows:,} with {what} in '{column.name}' will be quarantined."
                )
        return
    own = _column_named("id", facts)
    known = [each for each in facts.columns.values() if plain(each.name) in names_of("id") and each is not own]
    for each in known:
        notes.append(
            f"id: '{each.name}' is not used: {each.rows_amiss:,} of {facts.rows:,} rows repeat an id or have none."
        )
    if own is None:
        source["id_from_row"] = True
        notes.append("id: no column has an id in each row; row numbers become ids, so only append rows to the file.")
        return
    notes.append(
        f"id: {own.rows_amiss:,} of {facts.rows:,} rows repeat an id of '{own.name}' or have none, and will be "
        f"quarantined. To use row numbers as ids, rename that column in the file, and set `id_from_row: true`."
    )


def _about_empty_cells(facts: FileFacts, fields: dict[str, str]) -> list[str]:
    """Return notes on fields that are empty in some rows. Ids, levels and languages have separate notes."""
    notes = []
    for name, column in fields.items():
        empty = _empty_cells(facts, column)
        if not empty or name in ("id", "classification", "language"):
            continue
        follows = "quarantined"
        if name in ("author", "department"):
            follows = "read without it" + (", or quarantined with `split.by_author`" if name == "author" else "")
        notes.append(f"{name}: {counted(empty, 'row')} of {facts.rows:,} with no value in '{column}': {follows}.")
    return notes


def _empty_cells(facts: FileFacts, column: str) -> int:
    return facts.rows - facts.broken.total() - facts.columns[column].filled


def _about_an_unfit_column(name: str, own: ColumnFacts) -> str:
    """Return a note on a column that is named like a field, and is therefore read, but has unsuitable values."""
    wants = {"date": "a date in one format", "language": "a language tag (en, ar)"}.get(name, "one text")
    return (
        f"{name}: the column '{own.name}' does not have {wants} in each row. The column is read because of its name, "
        f"and rows without a valid value are quarantined. Correct the column. Or rename it, and set a constant."
    )


def _column_named(field: str, facts: FileFacts) -> ColumnFacts | None:
    """Return the column that is named like the field. Such a column needs no entry under `columns`. Return None if the
    file has no such column."""
    return next((column for column in facts.columns.values() if folded(column.name) == folded(field)), None)


def _about_links(each: LinkColumn, taken: bool) -> str:
    note = (
        f"links: {each.matched:,} of {each.links:,} ids in '{each.column}' match a row by '{each.ids}', "
        f"{each.unmatched:,} match none."
    )
    if taken:
        return note
    why = (
        f"The column is not used ({each.doubt})"
        if each.doubt
        else "A source can have only one column of links, and this one is not used"
    )
    to = f"set `links` to '{each.column}', and `id` under `columns` to '{each.ids}'"
    return f"{note} {why}; if the column links rows, {to}."


def _markup(facts: FileFacts, fields: dict[str, str], notes: list[str]) -> str | None:
    """Return `html` if one text column is mostly HTML, otherwise None. In either case, add a note on tags in the texts,
    because removing tags deletes text."""
    columns = [facts.columns[fields[name]] for name in TEXTS if name in fields]
    is_html = any(column.filled and column.markup >= LEAST_MARKUP * column.filled for column in columns)
    for column in columns:
        if not column.markup and not (is_html and column.like_tags):
            continue
        note = f"markup: {column.markup:,} of {column.filled:,} values of '{column.name}' have HTML tags"
        if column.like_tags:
            note += f", and {column.like_tags:,} have `<` before text that is not a tag"
        if is_html:
            notes.append(f"{note}; `markup: html` removes everything between `<` and `>`, in every row.")
        else:
            notes.append(
                f"{note}; tags stay. `markup: html` would remove everything between `<` and `>`, in every row."
            )
    return "html" if is_html else None


def about_layout(facts: FileFacts) -> list[str]:
    """Return sentences on the layout of a file's rows, and on how many rows have several turns."""
    if facts.layout is None:
        return []
    one = facts.turns[1]
    more = facts.turns.total() - one
    said = [f"{facts.layouts[facts.layout]:,} of {facts.rows:,} rows are in the layout {facts.layout}."]
    if facts.turns.total():
        said.append(f"{counted(one, 'row has', 'rows have')} one request and its reply.")
    if more:
        said.append(
            f"{counted(more, 'row has', 'rows have')} more turns, up to {max(facts.turns)} requests; all turns stay."
        )
    roles = ", ".join(f"{times:,} of {role}" for role, times in facts.roles.most_common())
    tools = f", and {counted(facts.calls, 'call')} of tools" if facts.calls else ""
    said += [f"Turns: {roles}{tools}."] if more or len(facts.roles) > 2 else []
    said += [f"{counted(facts.with_tools, 'row has', 'rows have')} tools."] if facts.with_tools else []
    said += [
        f"{counted(times, 'row becomes', 'rows become')} no document: {reason}."
        for reason, times in facts.unfit.most_common()
    ]
    return said


def about_states(column: ColumnFacts) -> str:
    """Return a question for a person on the row states in a column."""
    return f"column '{column.name}' has {format_states(column)}; which of these states should be used?"


def format_states(column: ColumnFacts) -> str:
    return ", ".join(f"{state or 'nothing'} {times:,}" for state, times in column.states.items())
