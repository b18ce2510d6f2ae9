"""Format messages and progress, and convert texts to a form in which equal cases, authors and columns compare as
equal."""

import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from sovereign_pipeline.base.errors import InputError

IDS_IN_A_MESSAGE = 10
"""Maximum number of ids in a message. The complete list is in the artifact."""


def and_more(items: Iterable[object], shown: int = IDS_IN_A_MESSAGE, separator: str = ", ") -> str:
    """Format the first items and the number of further items: `a, b and 4 more`."""
    every = [str(item) for item in items]
    more = f" and {len(every) - shown:,} more" if len(every) > shown else ""
    return separator.join(every[:shown]) + more


def counted(number: int, one: str, many: str | None = None) -> str:
    """Format a number with its noun: `1 row`, `1,204 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


LONGEST_TEXT = 2_000
"""Maximum number of characters of a text in a ledger entry. Entries cannot be removed."""


def refuse_long_texts(stated: object, name: str = "text") -> None:
    """Raise InputError if a value to be signed or logged contains a text of more than `LONGEST_TEXT` characters."""
    if isinstance(stated, str) and len(stated) > LONGEST_TEXT:
        raise InputError(
            f"The {name} has {len(stated):,} characters, but at most {LONGEST_TEXT:,} can be recorded.",
            "Shorten this text, and refer to a document for the rest.",
        )
    if isinstance(stated, Mapping):
        for key, value in stated.items():
            refuse_long_texts(key, "name of a field")
            refuse_long_texts(value, str(key))
    elif isinstance(stated, list | tuple):
        for each in stated:
            refuse_long_texts(each, name)


SECONDS_BETWEEN_MESSAGES = 5.0


def silent(message: str) -> None:
    pass


class Countdown:
    """Reports progress of work of a known size. Reports nothing if the work ends before the first message is due."""

    def __init__(self, progress: Callable[[str], None], work: str, total: int, unit: str = "") -> None:
        """Args:
        work: description of the work, such as `gate end_of_turn_trained, base model`.
        unit: name of the counted items in the singular, such as `row`.
        """
        self._progress = progress
        self._work = work
        self._total = total
        self._unit = f"{unit} " if unit else ""
        self._started = self._reported = time.monotonic()

    def reached(self, done: int) -> None:
        """Report `work: unit 12 of 40, 30 s left`, at most once every `SECONDS_BETWEEN_MESSAGES`."""
        now = time.monotonic()
        if done < 1 or now - self._reported < SECONDS_BETWEEN_MESSAGES:
            return
        self._reported = now
        left = (now - self._started) / done * max(0, self._total - done)
        self._progress(f"{self._work}: {self._unit}{done:,} of {self._total:,}, {duration(left)} left")


def duration(seconds: float) -> str:
    """Format seconds: `40 s`, `3 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


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
"""The letter that each confusable letter imitates."""

TATWEEL = "\u0640"
BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800\u180e"
"""Characters that display as blank although most of them are letters by Unicode category."""

_SPACES = "\t\n\v\f\r\x85"
_SHAPED_LETTERS = (0x1F150, 0x1F170, 0x1F1E6)  # NFKD keeps negative circled, negative squared and flag letters
# Typists spell these letters differently in Arabic text. Hamza and madda are combining marks, which NFKD separates.
_SPELLINGS = {"ى": "ي", "ة": "ه", "ۃ": "ه", "ۀ": "ه"}


@lru_cache(maxsize=1 << 16)
def compared_as(character: str) -> str:
    """Normalise one character for comparison, regardless of its neighbours. Returns "" for an invisible character.

    The steps: NFKD without combining marks; digits of any script as 0-9; confusable letters as one lower-case letter;
    the forms of Arabic alif, ya, waw, ha and kaf as one letter each. Other letters keep their case.
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
    # Try the other case too, so that both cases of a letter of another script are normalised to the same letter.
    for case in (character, character.lower(), character.upper()):
        if case in LOOKALIKES:
            character = LOOKALIKES[case].lower()
            break
    return _SPELLINGS.get(character, character)


class _Compared(dict[int, str | None]):
    """A table for `str.translate` that computes each character's entry when it first occurs."""

    def __missing__(self, point: int) -> str | None:
        # None, not "": Python then translates an ASCII text without a lookup of each character.
        self[point] = compared_as(chr(point)) or None
        return self[point]


COMPARED = _Compared()
"""Table for `str.translate` that applies `compared_as` to each character."""


_MINUS_AND_HYPHEN_BULLET = "\u2212\u2043"
_SLASHES = "\u2044\u2215\u29f8"  # fraction, division, big
_SPACES_AT_SEPARATORS = re.compile(r"\s*([-/])\s*")


def folded(value: str) -> str:
    """Return the comparison form of a case file or author: `PRM–٢٠٢٤ / 017` becomes `prm-2024/017`.

    The text is case-folded, and each character is normalised by `compared_as`. Every dash becomes `-` and every slash
    `/`, without spaces around them. Other spaces become one space.
    """
    text = unicodedata.normalize("NFKC", value)
    text = "".join(map(_folded_character, text)).casefold()
    return " ".join(_SPACES_AT_SEPARATORS.sub(r"\1", text).split())


def folded_author(value: str) -> str:
    """Return the comparison form of an author's name: the result of `folded` with a space in place of each hyphen, as
    in `al harthi`."""
    return folded(value).replace("-", " ")


def _folded_character(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character in _MINUS_AND_HYPHEN_BULLET:
        return "-"
    return "/" if character in _SLASHES else compared_as(character)
