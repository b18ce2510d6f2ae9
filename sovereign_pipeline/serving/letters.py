"""The language of a text that nobody named one for, by its letters: Arabic or not.

What belongs here: that one look. What does not: languages that a recipe names.
"""

import re

_ARABIC = re.compile(r"[\u0620-\u064a\u066e-\u06d3\u0750-\u077f\u08a0-\u08c7\ufb50-\ufdff\ufe70-\ufefc]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def is_arabic(text: str) -> bool:
    """Whether more of its letters are Arabic than Latin."""
    return len(_ARABIC.findall(text)) > len(_LATIN.findall(text))


def language_of(text: str) -> str:
    return "ar" if is_arabic(text) else "en"
