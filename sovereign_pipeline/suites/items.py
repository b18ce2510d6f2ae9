"""The institution's evaluation files: reading their rows, their digests, and their classification levels.

A file has one JSON object a line, each with its own id. Published suites have other forms (`rows.py`).
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import CeilingExceeded, SourceError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.frozen import Frozen


class EvaluationItem(Frozen):
    """What every row of a suite, prompt file or label file has."""

    id: str
    language: str


ItemRow = TypeVar("ItemRow", bound=EvaluationItem)


def level_of_suites(workplace: Workplace) -> str:
    """The highest level of the line's suites. Raises CeilingExceeded for one above the line's ceiling."""
    suites = workplace.line.named_evaluation.capability
    for suite in suites:
        _stop_above_ceiling(workplace, f"the suite '{suite.name}'", suite.classification)
    return workplace.institution.ladder.highest(suite.classification for suite in suites)


def level_of_red_team(workplace: Workplace) -> str:
    """The level of prompts and judge labels. Raises CeilingExceeded when it is above the line's ceiling."""
    level = workplace.line.named_evaluation.red_team.classification
    _stop_above_ceiling(workplace, "the red team's material", level)
    return level


def _stop_above_ceiling(workplace: Workplace, what: str, level: str) -> None:
    if workplace.institution.ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {workplace.line.ceiling} at most, and {what} is {level}.",
            "Remove it from the line's recipe, or have the ceiling of the line raised.",
        )


def rank(seed: int, *ids: str) -> str:
    """A sort key that depends on the seed and the ids alone, not on the order of a file."""
    return hashlib.sha256("\n".join([str(seed), *ids]).encode()).hexdigest()


def digest_of_items(path: Path) -> str:
    """SHA-256 of one file. Raises SourceError when it is missing."""
    _require(path)
    return file_sha256(path)


def read_items(path: Path, kind: type[ItemRow]) -> list[ItemRow]:
    """Read one file. Raises SourceError naming file and line of a row not of this kind, or an id used twice."""
    _require(path)
    rows: list[ItemRow] = []
    try:
        # Not splitlines: texts hold U+0085 and U+2028, which end no line of JSON.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8.", "Save the file as UTF-8.") from None
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            fields = sorted({".".join(map(str, detail["loc"])) for detail in error.errors()})
            fault = f"wrong, missing or unknown: {', '.join(fields)}" if all(fields) else "not a JSON object"
            if "value_error" in {detail["type"] for detail in error.errors()}:
                fault = "its values contradict each other"
            raise SourceError(f"{path}, line {number}: {fault}.", "Correct the row.") from None
    if not rows:
        raise SourceError(f"{path} has no rows.", "Add rows, or remove the file from the line's recipe.")
    twice = sorted(name for name, count in Counter(row.id for row in rows).items() if count > 1)
    if twice:
        raise SourceError(f"{path} has the id {twice[0]} more than once.", "Give every row its own id.")
    return rows


def _require(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"The file {path} does not exist.", "Correct the path.")
