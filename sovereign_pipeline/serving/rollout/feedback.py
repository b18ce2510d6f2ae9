"""What a caller says of an answer: a thumb, a reason from a list, how bad it is. No text.

What belongs here: these words. What does not: whose answer it was (`gateway/given_answers.py`), and what follows of it
(`telemetry.py`, `hold.py`).
"""

from typing import Annotated, Literal

from pydantic import Field

from sovereign_pipeline.base.frozen import Frozen

Thumb = Literal["up", "down"]
Reason = Literal[
    "wrong", "invented", "incomplete", "off_topic", "wrong_language", "tone", "personal_data", "harmful", "other"
]
Severity = Annotated[int, Field(ge=0, le=3)]
"""0: it does no harm. 1: the worst, it must not happen again; 2: serious; 3: minor."""
WORST = 1


class Feedback(Frozen):
    """What was said of one answer."""

    thumb: Thumb
    reason: Reason | None = None
    severity: Severity = 0

    @property
    def is_worst(self) -> bool:
        return self.severity == WORST
