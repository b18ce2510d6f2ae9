"""What an officer writes: a name and some words, each on one line.

What belongs here: that both are there, and are shown as they are written. What does not: who the officer is; a
signature shows that.
"""

import unicodedata

from sovereign_pipeline.errors import InputError

REORDERS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Unicode's classes of characters by which a text is shown in another order than it has."""


def officers_words(officer: str, words: str, what: str) -> tuple[str, str]:
    """Both on one line. Raises InputError where one is empty. `what`: for the message, such as `A recall`."""
    name, said = on_one_line(officer), on_one_line(words)
    if not name or not said:
        raise InputError(f"{what} needs an officer's name and words of theirs.", "Give both.")
    return name, said


def on_one_line(words: str) -> str:
    """Without line breaks. Raises InputError where a terminal would show something else than is written."""
    said = " ".join(words.split())
    if any(unicodedata.category(each) == "Cc" or unicodedata.bidirectional(each) in REORDERS for each in said):
        raise InputError("What was written holds a character that is not shown.", "Write it without.")
    return said
