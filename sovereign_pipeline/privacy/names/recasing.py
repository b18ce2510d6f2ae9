"""Text without any capital, with capitals where names stand, so that the patterns of names can read it."""

from sovereign_pipeline.privacy.names import gazetteer, world_names
from sovereign_pipeline.privacy.names.arabic_words import ARABIC_LETTER
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    KNOWN_NAMES,
    LOWER_WORD,
    UPPER_LETTER,
    without_accents,
)


def recased(text: str) -> str:
    """A text without any capital with capitals on the names that everybody knows, on the word after a given name and on
    what follows a cue such as "my name is"; of the same length. Any other text as it is."""
    if UPPER_LETTER.search(text) or ARABIC_LETTER.search(text):
        return text
    letters = list(text)
    given_ends = -1
    for word in LOWER_WORD.finditer(text):
        if len(word.group().rstrip(".")) == 1:
            if word.start() == given_ends + 1 and text[given_ends] == " ":  # an initial
                letters[word.start()] = _capital(letters[word.start()])
                given_ends = word.end()
            continue
        plain = without_accents(word.group().rstrip("."))
        after_name = word.start() == given_ends + 1 and text[given_ends] == " "
        cued = CUE_BEFORE.search(text, max(0, word.start() - 24), word.start()) is not None
        common = plain in gazetteer.STOP_WORDS or plain in gazetteer.HONORIFICS
        known = plain in KNOWN_NAMES and plain not in world_names.EVERYDAY
        if not common and (known or after_name or cued):
            letters[word.start()] = _capital(letters[word.start()])
        given_ends = word.end() if not common and (known or cued) else -1
    return "".join(letters)


def _capital(letter: str) -> str:
    """The capital, or the letter itself where its capital is two ("ß")."""
    return letter.upper() if len(letter.upper()) == 1 else letter
