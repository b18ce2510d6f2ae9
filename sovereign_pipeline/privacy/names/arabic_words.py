"""One word of a name in Arabic letters: the prefixes written onto it, and what the word lists say of it.

What belongs here: yes or no about one word. What does not: where a name begins and ends (`arabic_names.py`), the word
lists (`gazetteer.py`).
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.privacy.names.words import arabic_lists

ARABIC_LETTER = re.compile("[ء-ي]")
ARABIC_WORD = re.compile("[ء-ي]+")
_PREFIXES = "وفبلك"
_FEMININE_ENDING = re.compile("ية$")


def bare_forms(word: str) -> Iterator[tuple[int, str]]:
    """The word, and the word without a preposition or conjunction written onto it: (characters to skip, word)."""
    yield 0, word
    if word.startswith("لل") and len(word) > 4:
        yield 1, "ا" + word[1:]
    if len(word) > 3 and word[0] in _PREFIXES:
        yield 1, word[1:]
        if word[0] in "وف" and word.startswith("لل", 1):
            yield 2, "ا" + word[2:]


def given_name_in(word: str) -> tuple[int, bool]:
    """How many characters stand before a given name in this word, and whether it is one."""
    for skip, bare in bare_forms(word):
        if bare in arabic_lists.GIVEN_AR:
            return skip, True
    return 0, False


def is_everyday_tribe(word: str) -> bool:
    everyday = arabic_lists.EVERYDAY_TRIBES_AR
    return word in everyday or _FEMININE_ENDING.sub("ي", word) in everyday


def is_tribe(word: str) -> bool:
    return word in arabic_lists.TRIBES_AR or _FEMININE_ENDING.sub("ي", word) in arabic_lists.TRIBES_AR


def is_role(word: str) -> bool:
    return any(bare in arabic_lists.ROLES_AR or bare in arabic_lists.TITLES_AR for _, bare in bare_forms(word))
