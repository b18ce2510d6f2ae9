"""What an officer writes, on one line.

What belongs here: that there is something, and that it is shown as it is written. What does not: who the officer is;
a signature shows that.
"""

import unicodedata

from sovereign_pipeline.base.errors import InputError

REORDERS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Unicode's classes of characters by which a text is shown in another order than it has."""


def officers_words(words: str, what: str) -> str:
    """On one line. Raises InputError where there are none. `what`: for the message, such as `A recall`."""
    said = on_one_line(words)
    if not said:
        raise InputError(f"{what} needs words of the officer: a reason, or what was found.", "Write them.")
    return said


def on_one_line(words: str) -> str:
    """Without line breaks. Raises InputError where a terminal would show something else than is written."""
    said = " ".join(words.split())
    if any(unicodedata.category(each) == "Cc" or unicodedata.bidirectional(each) in REORDERS for each in said):
        raise InputError("What was written holds a character that is not shown.", "Write it without.")
    return said
