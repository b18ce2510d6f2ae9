"""Pieces of sentences that messages of every room share.

What belongs here: wording alone. What does not: choosing what a message is about.
"""

from collections.abc import Iterable

IDS_IN_A_MESSAGE = 10
"""So many ids are named; a message is read by a person, and the rest stands in the artifact."""


def and_more(items: Iterable[object], shown: int = IDS_IN_A_MESSAGE, separator: str = ", ") -> str:
    """The first items and how many follow: `a, b and 4 more`."""
    every = [str(item) for item in items]
    more = f" and {len(every) - shown:,} more" if len(every) > shown else ""
    return separator.join(every[:shown]) + more


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 row`, `1,204 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
