"""The files of the evaluation's artifacts: their names, and how rows and summaries are written and read.

`samples.jsonl` holds one row per item with what was observed of every arm. Every figure elsewhere is computed from it,
again by each gate; every difference is candidate minus reference. Only `answers.jsonl` holds generated text.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.frozen import Frozen

SAMPLES = "samples.jsonl"
ANSWERS = "answers.jsonl"
SCORES_FILE = "scores.json"
REPLIES = "replies.jsonl"
JUDGED_LABELS = "judge.jsonl"
CANARIES = "canaries.jsonl"
VERBATIM = "verbatim.jsonl"
REPORT_FILE = "report.json"
REPORT_MARKDOWN = "report.md"
REPORT_PAGE = "report.html"

Row = TypeVar("Row", bound=Frozen)


def write_rows(path: Path, rows: Iterable[Frozen]) -> int:
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
                f"{path}, line {number}: not a {kind.__name__}.", "Materialize the artifact again."
            ) from None
    return rows


def as_json(record: Frozen) -> str:
    """One record, indented for people, keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
