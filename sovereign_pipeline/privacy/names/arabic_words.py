"""One word of a name in Arabic letters: the prefixes written onto it, and what the word lists say of it.

What belongs here: yes or no about one word. What does not: where a name begins and ends (`arabic_names.py`), the word
lists (`lexicon.py`).
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.privacy.names import lexicon

LETTERS = "ء-يٮٯٱ-ۓەۮۯۺ-ۼݐ-ݿ"
"""Of Arabic, Persian, Urdu, Kurdish and other languages, as the inside of a character class."""
ARABIC_LETTER = re.compile(f"[{LETTERS}]")
ARABIC_WORD = re.compile(f"[{LETTERS}]+")
_NO_SURNAME = re.compile(
    "^[يتن](?!اسر|حيى|زيد|وسف)...|^(?:و[يتلاب]|بال|كال|فال|فأ|لل|ل[تإأا]|ا[ست]ت|باتج)|"
    "(?:ون|ات|وا|هم|ها|نا|كم|تم|ية|ته|هه)$"
)
_GIFT_OF_GOD = re.compile("(?:عبد|عبيد|عطا|عطاء|نصر|فضل|سعد|جار|ضيف|فرج|رزق|خلف|فتح|جاد)الله$")
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
        if bare in lexicon.GIVEN_AR:
            return skip, True
    return 0, False


def is_gift_of_god(word: str) -> bool:
    """ "عبيدالله", "عطاالله": a given name that ends with God's, written as one word."""
    return _GIFT_OF_GOD.match(word) is not None


def is_everyday_tribe(word: str) -> bool:
    everyday = lexicon.EVERYDAY_TRIBES_AR
    return word in everyday or _FEMININE_ENDING.sub("ي", word) in everyday


def is_tribe(word: str) -> bool:
    return word in lexicon.TRIBES_AR or _FEMININE_ENDING.sub("ي", word) in lexicon.TRIBES_AR


def is_role(word: str) -> bool:
    return any(bare in lexicon.ROLES_AR or bare in lexicon.TITLES_AR for _, bare in bare_forms(word))


def is_title(word: str) -> bool:
    """A word that is followed by a name and by little else."""
    return word in lexicon.TITLES_AR or word in lexicon.OFFICES_AR


def has_shape_of_surname(word: str) -> bool:
    """Whether it may be a family name: no verb of the present, no plural, nothing with a pronoun written onto it."""
    return len(word) > 2 and _NO_SURNAME.search(word) is None
