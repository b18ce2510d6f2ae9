"""The rows and summaries that the evaluation's files hold. No field holds text of a document, prompt or answer, but
those of an `answers.jsonl`.

`samples.jsonl` is what was observed of every arm; every figure elsewhere is computed from it, again by each gate, and
every difference is candidate minus reference.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.evaluation.arms.arms import Reference
from sovereign_pipeline.evaluation.statistics.paired import ShareDifference

SCORES_FILE = "scores.json"
REPORT_FILE = "report.json"
SAMPLES = "samples.jsonl"
CANARIES = "canaries.jsonl"
VERBATIM = "verbatim.jsonl"
REPLIES = "replies.jsonl"

Shares = dict[Reference, ShareDifference]

# Digits of a loss that are kept: beyond them, float32 sums differ between machines.
LOSS_DIGITS = 6


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IncumbentFacts(Record):
    """The adapter that the candidate would take the place of. id: in the registry; digest: of its artifact.

    compared: whether it was scored; it was not when it stands on another base model than the candidate.
    """

    id: str
    digest: str
    compared: bool


Row = TypeVar("Row", bound=Record)


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write one JSON object a line; the number of rows."""
    return write_jsonl(path, (row.model_dump(mode="json") for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Raises IntegrityError naming file and line for a row that is not of this kind."""
    rows = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            rows.append(kind.model_validate(row))
        except ValueError:
            raise IntegrityError(
                f"{path}, line {number}: not a {kind.__name__}. Materialize the artifact again."
            ) from None
    return rows


def as_json(record: Record) -> str:
    """One record, indented for people, keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
