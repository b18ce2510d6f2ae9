"""Days as recipes and source files write them.

What belongs here: what is read as a day. What does not: what a day decides.
"""

import datetime
import unicodedata

EARLIEST, LATEST = 1800, 2100
"""Years. An earlier one is of another calendar (1446 is 2024 in the Hijri one), a later one stands for no date."""


def iso_day(text: str) -> datetime.date:
    """The day of an ISO date, with or without a time, in digits of any script.

    Raises ValueError, which does not quote the text and goes on a sentence that begins with the date's name.
    """
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text.strip())
    try:
        day = datetime.datetime.fromisoformat(digits).date()
    except ValueError:
        raise ValueError("is not an ISO date, such as 2024-12-31") from None
    if not EARLIEST <= day.year <= LATEST:
        raise ValueError(f"is not between the years {EARLIEST} and {LATEST}: a slip, or of another calendar")
    return day
