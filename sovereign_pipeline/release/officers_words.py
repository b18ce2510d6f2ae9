"""What an officer writes: a name and some words, each on one line.

What belongs here: that both are there. What does not: who the officer is; a signature shows that.
"""

from sovereign_pipeline.errors import InputError


def officers_words(officer: str, words: str, what: str) -> tuple[str, str]:
    """Both on one line. Raises InputError where one is empty. `what`: for the message, such as `A recall`."""
    name, said = " ".join(officer.split()), " ".join(words.split())
    if not name or not said:
        raise InputError(f"{what} needs an officer's name and words of theirs.", "Give both.")
    return name, said
