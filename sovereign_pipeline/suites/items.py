"""Reading the institution's evaluation files: one JSON object a line, each with an id of its own."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.errors import CeilingExceeded, SourceError


class EvaluationItem(BaseModel):
    """What every row of a suite, prompt file or label file has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    language: str


ItemRow = TypeVar("ItemRow", bound=EvaluationItem)


def level_of_suites(workplace: Workplace) -> str:
    """The highest level of the line's suites. Raises CeilingExceeded for one above the line's ceiling."""
    suites = workplace.line.evaluation.capability
    for suite in suites:
        _stop_above_ceiling(workplace, f"the suite '{suite.name}'", suite.classification)
    return workplace.institution.ladder.highest(suite.classification for suite in suites)


def level_of_red_team(workplace: Workplace) -> str:
    """The level of prompts and judge labels. Raises CeilingExceeded when it is above the line's ceiling."""
    level = workplace.line.evaluation.red_team.classification
    _stop_above_ceiling(workplace, "the red team's material", level)
    return level


def _stop_above_ceiling(workplace: Workplace, what: str, level: str) -> None:
    if workplace.institution.ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {workplace.line.ceiling} at most, and {what} is {level}. Take it out "
            f"of the line's recipe, or have the ceiling of the line raised."
        )


def rank(seed: int, *ids: str) -> str:
    """A place in an order that depends on the seed and the ids alone, and not on the order of a file."""
    return hashlib.sha256("\n".join([str(seed), *ids]).encode()).hexdigest()


def digest_of_items(path: Path) -> str:
    """SHA-256 of one file. Raises SourceError when it is not there."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file. Correct the path.")
    return file_sha256(path)


def read_items(path: Path, kind: type[ItemRow]) -> list[ItemRow]:
    """Read one file. Raises SourceError naming file and line of a row not of this kind, or an id used twice."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file. Correct the path.")
    rows: list[ItemRow] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{path}: not readable as UTF-8. Save the file in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            fields = sorted({".".join(map(str, detail["loc"])) for detail in error.errors()})
            fault = f"wrong, missing or not known: {', '.join(fields)}" if all(fields) else "it is no JSON object"
            if "value_error" in {detail["type"] for detail in error.errors()}:
                fault = "its values do not go together"
            raise SourceError(f"{path}, line {number}: {fault}. Correct the row.") from None
    if not rows:
        raise SourceError(f"{path}: holds no row. Add rows, or take the file out of the line's recipe.")
    twice = sorted(name for name, count in Counter(row.id for row in rows).items() if count > 1)
    if twice:
        raise SourceError(f"{path}: the id {twice[0]} is used more than once. Give every row an id of its own.")
    return rows
