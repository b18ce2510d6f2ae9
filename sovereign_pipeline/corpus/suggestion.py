"""A recipe to start from, for a file that was looked at: which column probably is which field of a document.

What belongs here: guesses by name and content, each of which a person reads before the line runs. What does not: the
facts (`looking.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.looking import ColumnFacts, FileFacts, FoundLinks, links_in
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.recipe_model import FILL_IN

NAMES: dict[str, tuple[str, ...]] = {
    "request": (
        "request",
        "letter",
        "question",
        "questiontext",
        "message",
        "inquiry",
        "incoming",
        "prompt",
        "instruction",
        "body",
        "text",
        "الرسالة",
        "الطلب",
        "السؤال",
    ),
    "response": (
        "response",
        "reply",
        "answer",
        "answertext",
        "outgoing",
        "completion",
        "output",
        "chosen",
        "الرد",
        "الجواب",
        "الإجابة",
    ),
    "rejected": ("rejected", "loser", "bad"),
    "subject": ("subject", "title", "heading", "topic", "re", "الموضوع"),
    "date": (
        "date",
        "dateanswered",
        "answered",
        "sent",
        "senton",
        "received",
        "datetabled",
        "created",
        "createdat",
        "day",
        "التاريخ",
        "تاريخ",
    ),
    "case": (
        "case",
        "caseid",
        "caseno",
        "casenumber",
        "file",
        "fileno",
        "filenumber",
        "thread",
        "threadid",
        "matter",
        "المعاملة",
        "الملف",
        "رقمالمعاملة",
        "رقمالملف",
    ),
    "department": ("department", "directorate", "unit", "answeringbodyname", "office", "section", "الدائرة", "القسم"),
    "author": ("author", "from", "sender", "answeringmember", "officer", "writer", "الكاتب", "المرسل"),
    "language": ("language", "lang", "locale", "اللغة"),
    "id": ("id", "uid", "uin", "reference", "ref", "number", "no", "key", "الرقم", "رقم"),
}
"""Field -> names under which institutions have it, without spaces and marks, the likeliest first."""

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
    links = next(iter(links_in(facts)), None)
    fields = _fields(facts, links, ladder)
    source: dict[str, Any] = {"name": "letters", "path": path.as_posix()}
    if facts.encoding is not None:
        source["encoding"] = facts.encoding
        notes.append(f"encoding: read as {facts.encoding}; look whether its letters are right.")
    if facts.delimiter is not None:
        source["delimiter"] = facts.delimiter
    if "rejected" in fields:
        source["role"] = "preferences"
    source["columns"] = {field: column for field, column in fields.items() if field != column}
    constants: dict[str, str] = {}
    for name in ("department", "author", "subject"):
        if name not in fields:
            constants[name] = ""
    if "language" not in fields:
        constants["language"] = _language(facts, fields)
        notes.append(f"language: no column has it; taken for {constants['language']} by its letters.")
    if "date" not in fields:
        constants["date"] = FILL_IN
        notes.append("date: no column has ISO dates (2024-12-31); name one, or write a date for all rows.")
    source["constants"] = constants
    if "id" not in fields:
        source["id_from_row"] = True
    if "case" not in fields:
        source["case_from_row"] = True
        notes.append("case: no column has it, so every row is a case file of its own.")
    if "classification" not in fields:
        highest = ladder.levels[-1]
        source["classification_floor"] = highest
        notes.append(f"classification: no column has levels of the ladder, so the highest is assumed: {highest}.")
    if links is not None:
        source["links"] = links.column
        notes.append(
            f"links: {links.matched:,} of {links.links:,} ids in '{links.column}' name a row by '{links.ids}'."
        )
    if any(facts.columns[fields[name]].markup for name in ("request", "response") if name in fields):
        source["markup"] = "html"
    source |= {"licence": f"{FILL_IN}: under which terms", "retention": f"{FILL_IN}: how long"}
    notes += [f"{name}: no column looks like it; name one." for name in ("request", "response") if name not in fields]
    return source


def _fields(facts: FileFacts, links: FoundLinks | None, ladder: ClassificationLadder) -> dict[str, str]:
    """Field -> column. Each column is given once."""
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
        named = {_plain(column.name): column.name for column in fitting}
        if found := [named[each] for each in known if each in named]:
            fields[name] = found[0]
    longest = sorted((each for each in free() if _fits("request", each)), key=lambda each: -each.mean_length)
    for name in ("response", "request"):
        if name not in fields and longest:
            fields[name] = longest.pop(0).name
    if "id" not in fields:
        unique = [column for column in free() if _fits("id", column)]
        if unique:
            fields["id"] = unique[0].name
    if "date" not in fields:
        dated = [column for column in free() if _fits("date", column)]
        if dated:
            fields["date"] = dated[0].name
    return fields


def _fits(name: str, column: ColumnFacts) -> bool:
    if name in ("request", "response", "rejected"):
        return column.types["text"] == column.filled and column.mean_length >= LEAST_LETTERS and column.dates == 0
    if name == "date":
        return column.dates >= 0.9 * column.filled
    if name == "id":
        return column.is_unique
    if name == "language":
        return all(len(value) <= len("zh-Hant-TW") for value in column.values) and column.types["text"] == column.filled
    return column.types["list"] == column.types["object"] == 0


def _language(facts: FileFacts, fields: dict[str, str]) -> str:
    columns = [facts.columns[fields[name]] for name in ("request", "response") if name in fields]
    arabic, filled = sum(each.arabic for each in columns), sum(each.filled for each in columns)
    return "ar" if 2 * arabic > filled else "en"


def _plain(name: str) -> str:
    return "".join(each for each in folded(name) if each.isalnum())
