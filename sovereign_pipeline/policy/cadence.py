"""`review` of a recipe: when a registered adapter of the line is due for a review, and what happens then.

What belongs here: the calendar and the events that a recipe may name. What does not: what is due today
(`release/cadence.py`), and the blind review of a candidate by people (`review.py`).
"""

import calendar
import datetime
import re
from typing import Literal

from pydantic import Field, field_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

Event = Literal["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]

_LENGTH = re.compile(r"([1-9][0-9]{0,3}) (day|week|month|year)s?")
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}
LONGEST_DAYS = 3660
"""Ten years: what is reviewed later is not reviewed."""


class Cadence(RecipeModel):
    """When the line's newest adapter is reviewed."""

    every: str | None = Field(default=None, examples=["6 months"])
    """Time from registration, or from the last review, to the next review: `90 days`, `2 weeks`, `6 months`, `1 year`;
    ten years at most. It takes precedence over `review_every_days` of the institution; null: that holds."""

    on: tuple[Event, ...] = Field(default=(), examples=[["base_superseded", "source_withdrawn"]])
    """What makes a review due at once. `base_superseded`: the recipe's base model has other files than the adapter's.
    `template_changed`: the chat template or the instruction is another one. `source_withdrawn`: a source file is gone,
    the recipe no longer names the source, or a recall holds for the adapter. `policy_changed`: the institution's
    ladder, or what it does with a kind of personal data in this line, is another one."""

    retrain: bool = False
    """Whether Dagster runs the chain again once a review is due: the same recipe on today's sources. A run that fails
    is not repeated by itself."""

    @field_validator("every")
    @classmethod
    def _is_a_length_of_time(cls, every: str | None) -> str | None:
        if every is None:
            return every
        if not _LENGTH.fullmatch(every):
            raise ValueError("write a number and days, weeks, months or years, such as '6 months'")
        number, unit = _parts(every)
        if number * (_DAYS.get(unit) or 30 * _MONTHS[unit]) > LONGEST_DAYS:
            raise ValueError("ten years is the longest")
        return every

    def next_day(self, since: datetime.date, institutions_days: int) -> datetime.date:
        """The day of the review after this one."""
        if self.every is None:
            return since + datetime.timedelta(days=institutions_days)
        number, unit = _parts(self.every)
        if unit in _DAYS:
            return since + datetime.timedelta(days=number * _DAYS[unit])
        years, month = divmod(since.month - 1 + number * _MONTHS[unit], 12)
        year = since.year + years
        return datetime.date(year, month + 1, min(since.day, calendar.monthrange(year, month + 1)[1]))

    def period(self, due: datetime.date) -> str:
        """The period in which a review is due: `2027-H1`, `2027-Q2`, `2027-03`, `2027`, or the day itself.

        It is never longer than the time between two reviews, so no two have one name.
        """
        number, unit = _parts(self.every) if self.every is not None else (0, "day")
        months = number * _MONTHS.get(unit, 0)
        if months == 0 or (months not in (1, 3, 6) and months % 12):
            return due.isoformat()
        if months == 1:
            return f"{due.year}-{due.month:02d}"
        if months in (3, 6):
            return f"{due.year}-{'Q' if months == 3 else 'H'}{(due.month - 1) // months + 1}"
        return f"{due.year}"


def _parts(every: str) -> tuple[int, str]:
    number, unit = every.split()
    return int(number), unit.removesuffix("s")
