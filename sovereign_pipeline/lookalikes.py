"""Characters that a reader takes for others or does not see: one table for scrubbing, splitting and comparing names.

The pairs are a selection from `confusables.txt` of Unicode Technical Standard 39 (Unicode Security Mechanisms), for the
scripts in which a whole Latin name can be imitated. What belongs here: single characters, and what each is compared as.
What does not: the texts that are compared (`split/similarity.py`, `corpus/folding.py`, `privacy/normalisation.py`).
"""

import unicodedata
from functools import lru_cache

_PAIRS = (
    # Cyrillic
    ("абвеикмнорстухгпіјѕԁһԛԝӏґѵАВЕКМНОРСТУХІЈЅԚԜӀЗ", "aбbeukmhopctyxrnijsdhqwlrvABEKMHOPCTYXIJSQWI3"),
    # Greek
    ("αβγεηικνοπρτυχωϳΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aβyenikvonptuxwjABEZHIKMNOPTYX"),
    # Armenian
    ("օհոսցզԼՕՍՏ", "ohnugqLOUS"),
    # Cherokee
    ("ᎪᏴᏟᎠᎬᎬᏀᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃ", "ABCDEEGHJKLMPRSTVWZ"),
    # Latin letters of phonetic alphabets
    ("ıɑɡɩᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "iagiabcdefghijklmnoprstuvwyz"),
    # Persian and Urdu forms of Arabic letters
    ("یکھہەۍےێېڪٱٲٳ", "يكهههييييكااا"),
)

LOOKALIKES: dict[str, str] = {
    imitation: letter
    for imitations, letters in _PAIRS
    for imitation, letter in zip(imitations, letters, strict=True)
    if imitation != letter
}
"""Letter -> the one it is taken for."""

TATWEEL = "\u0640"
BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800\u180e"
"""Letters by their category, and nothing to the eye."""

_SPACES = "\t\n\v\f\r\x85"
_SHAPED_LETTERS = (0x1F150, 0x1F170, 0x1F1E6)  # white in circles, white in squares, of flags: NFKD leaves them
# Two typists of one Arabic text set them differently. Hamza and madda are marks, which fall away before.
_SPELLINGS = {"ى": "ي", "ة": "ه", "ۃ": "ه", "ۀ": "ه"}


@lru_cache(maxsize=1 << 16)
def compared_as(character: str) -> str:
    """What one character is compared as, without regard to the letters beside it; empty for one that is not seen.

    NFKD without marks; digits of any script as 0-9; one letter for those that look the same, as small letters, and for
    the forms of Arabic alif, ya, waw, ha and kaf. Other letters keep their case.
    """
    if character.isascii():
        return character if character.isprintable() or character in _SPACES else ""
    return "".join(map(_plain, unicodedata.normalize("NFKD", character)))


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "M" or character in BLANK_LETTERS or character == TATWEEL:
        return ""
    if category[0] == "C":
        return character if character in _SPACES else ""
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    for first in _SHAPED_LETTERS:
        if first <= ord(character) < first + 26:
            return chr(ord("A") + ord(character) - first)
    # The other case too, so that a word of another script has one form in both of its cases where that is possible.
    for case in (character, character.lower(), character.upper()):
        if case in LOOKALIKES:
            character = LOOKALIKES[case].lower()
            break
    return _SPELLINGS.get(character, character)
