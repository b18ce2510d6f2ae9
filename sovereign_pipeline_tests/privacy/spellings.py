"""Personal data in spellings that hide it from a plain pattern, and what becomes of each: `spellings.jsonl`.

Every value is invented. `docs/reference/security-cases.md` has the table; `test_spellings.py` runs it.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from sovereign_pipeline.policy.personal_data import Kind

Outcome = Literal["replaced", "refused", "passes"]


class Spelling(NamedTuple):
    """One way to write one value."""

    how: str
    """In words."""
    text: str
    kind: Kind
    hidden: list[str]
    """Pieces of the text that must be gone."""
    language: Literal["en", "ar"] = "en"
    outcome: Outcome = "replaced"


SPELLINGS = [Spelling(*json.loads(line)) for line in Path(__file__).with_suffix(".jsonl").read_text().splitlines()]


def spelling_rows() -> list[tuple[str, str, str, str]]:
    """(spelling in words, language, kind, outcome) of each, for a table."""
    return [(each.how, each.language, each.kind, each.outcome) for each in SPELLINGS]
