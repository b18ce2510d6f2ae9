"""What is seen of an answer without keeping it: nothing in it, repetition, another script than the request's.

What belongs here: checks of one text. What does not: counting them (`telemetry.py`).
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass

from sovereign_pipeline.evaluation.red_team import loops

FEWEST_LETTERS = 8
"""Of which the script of a text can be told."""
MOST_CHARACTERS = 4_000
"""Of a text that are looked at for its script."""


@dataclass(frozen=True)
class Checks:
    """What is wrong with an answer."""

    empty: bool
    looping: bool
    other_script: bool
    """In another script than the request, where both can be told: the answer to an Arabic letter in Latin letters."""


def check(request: str, answer: str) -> Checks:
    """request: the newest message of the conversation."""
    asked, answered = script_of(request), script_of(answer)
    is_other = asked is not None and answered is not None and asked != answered
    return Checks(empty=not answer.strip(), looping=loops(answer), other_script=is_other)


def script_of(text: str) -> str | None:
    """The script of most letters, as Unicode names it, such as LATIN and ARABIC; None for a text of too few."""
    letters = [each for each in text[:MOST_CHARACTERS] if each.isalpha()]
    if len(letters) < FEWEST_LETTERS:
        return None
    named = Counter(unicodedata.name(each, "?").partition(" ")[0] for each in letters)
    return named.most_common(1)[0][0]
