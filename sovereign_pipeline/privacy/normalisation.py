"""Fold a text so that characters that look the same become the same, and map each character back to the original.

Folding covers digits of any script, compatibility forms, marks, invisible characters, confusables, and characters
written as HTML entities, tags, percent-encoding or escapes. It does not decode encodings that people cannot read, such
as Base64.
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sovereign_pipeline.base.text import BLANK_LETTERS, LOOKALIKES, TATWEEL

# --- encoded characters and tags --------------------------------------------------------------------------------------

# Every alternative begins with a fixed character, so that `re` scans only for these characters.
_ENCODED = re.compile(
    r"%(?:25)*[0-9A-Fa-f]{2}(?:%(?:25)*[0-9A-Fa-f]{2})*"
    r"|&(?:amp;)*(?:\#\d{1,20};?|\#[xX][0-9A-Fa-f]{1,20};?|[A-Za-z][A-Za-z0-9]{1,31};)"
    r"|\\u[0-9A-Fa-f]{4}|%u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"
    r"|=\r?\n|=(?<=\w=)40(?=[\w-]+\.\w)"
    # Tags without attributes, which contain no text of their own.
    r"|</?(?:b|i|u|s|em|strong|span|font|small|mark|sup|sub|code|wbr|a) ?/?>|<!--\s*-->"
    r"|</?(?:br|p|div|td|th|tr|li|ul|ol|pre|table|tbody) ?/?>",
    re.IGNORECASE,
)
_ELEMENTS = (
    r"(?:b|i|u|s|em|strong|span|font|small|big|mark|sup|sub|code|wbr|a|br|hr|p|div|td|th|tr|li|ul|ol"
    r"|dl|dt|dd|pre|table|tbody|"
    r"thead|tfoot|caption|center|img|h[1-6]|blockquote|html|head|body|meta|link|style|section|article|label|abbr|bdo|"
    r"bdi|del|ins|q|cite|time|input|form|button|[a-z]\d?:[a-z]\w*)"
)
# Any other name in angle brackets may be a person's. It counts as a tag only inside a word.
_TAG = re.compile(
    rf"<!--(?P<comment>.{{0,2000}}?)-->|<(?:/?{_ELEMENTS}(?=[\s/>])(?P<attributes>[^<>]{{0,2000}})"
    r"|(?<=\S<)/?(?P<other>[a-z][\w:.-]{0,30}(?:\s[^<>@]{0,2000})?))>(?(other)(?=\S))",
    re.IGNORECASE | re.DOTALL,
)
_APART = "\n" * 16
"""Separator that is longer than any gap within a number, name or address."""
_BYTE = re.compile(r"%(?:25)*([0-9A-Fa-f]{2})")
_MAY_BE_ENCODED = re.compile(r"[%&\\=<]")
_LINE_BREAKING = re.compile(r"</?(?:br|p|div|t|li|ul|ol|pre)", re.IGNORECASE)
_ROUNDS = 64
"""Maximum number of nested encodings that are decoded. It bounds the work; nobody nests so many."""

Places = tuple[Sequence[int], Sequence[int]]
"""Start and end offsets in the original of the source of each character."""


def decoded(original: str) -> tuple[str, Places | None]:
    """Return the text with encoded characters decoded, and their places in the original; None for the places if
    nothing is encoded."""
    text, places = original, None
    if _MAY_BE_ENCODED.search(text) is None:
        return text, places
    for _ in range(_ROUNDS):
        found = [(match, characters) for match in _ENCODED.finditer(text) if (characters := _read(match)) is not None]
        tags = [] if found or "<" not in text else list(_TAG.finditer(text))
        if found:
            text, places = _with(text, places, found)
        elif tags:
            text, places = _without_tags(text, places, tags)
        else:
            break
    return text, places


def _without_tags(text: str, places: Places | None, tags: Sequence[re.Match[str]]) -> tuple[str, Places]:
    """Return the text without its tags, preceded by the text inside the tags, such as attributes."""
    starts, ends = places if places is not None else (range(len(text)), range(1, len(text) + 1))
    held: list[tuple[str, list[int], list[int]]] = []
    for tag in tags:
        first, last = tag.span(tag.lastgroup or 0)
        if text[first:last].strip(" /"):
            apart = len(_APART)
            held.append((text[first:last], list(starts[first:last]), list(ends[first:last])))
            held.append((_APART, [starts[last - 1]] * apart, [ends[last - 1]] * apart))
    breaks: list[tuple[re.Match[str], _Read]] = [
        (tag, [("\n", tag.start(), tag.end())] if _LINE_BREAKING.match(tag.group()) else []) for tag in tags
    ]
    rest, (rest_starts, rest_ends) = _with(text, (starts, ends), breaks)
    return "".join([*(piece for piece, _, _ in held), rest]), (
        [*(place for _, piece, _ in held for place in piece), *rest_starts],
        [*(place for _, _, piece in held for place in piece), *rest_ends],
    )


_Read = list[tuple[str, int, int]]
"""Decoded characters, each with its half-open span of the encoded text."""


def _read(match: re.Match[str]) -> _Read | None:
    """Decode one match. Return None if it is not an encoding."""
    written = match.group()
    if written[0] == "=":
        return [("@", match.start(), match.end())] if written == "=40" else []
    if written[0] == "<":
        return [("\n", match.start(), match.end())] if _LINE_BREAKING.match(written) else []
    if written[0] == "%" and written[1] not in "uU":
        read = list(_of_bytes(match))
    elif written[0] == "&":
        name = written.replace("amp;", "")
        character = html.unescape(name if name.endswith(";") else f"{name};")
        read = [(each, match.start(), match.end()) for each in character] if character != name else []
    else:
        read = [(chr(int(written[2:], 16)), match.start(), match.end())]
    if not read or any(not (each.isprintable() or each.isspace()) for each, _, _ in read):
        return None
    return read


def _of_bytes(match: re.Match[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the characters of percent-encoded UTF-8, or nothing if the bytes are not UTF-8."""
    tokens = list(_BYTE.finditer(match.string, match.start(), match.end()))
    try:
        characters = bytes(int(token.group(1), 16) for token in tokens).decode("utf-8")
    except UnicodeDecodeError:
        return
    position = 0
    for character in characters:
        last = position + len(character.encode("utf-8")) - 1
        yield character, tokens[position].start(), tokens[last].end()
        position = last + 1


def _with(text: str, places: Places | None, found: Sequence[tuple[re.Match[str], _Read]]) -> tuple[str, Places]:
    starts, ends = places if places is not None else (range(len(text)), range(1, len(text) + 1))
    pieces: list[str] = []
    new_starts: list[int] = []
    new_ends: list[int] = []
    position = 0
    for match, characters in found:
        pieces += [text[position : match.start()], *(each for each, _, _ in characters)]
        new_starts.extend(starts[position : match.start()])
        new_ends.extend(ends[position : match.start()])
        new_starts.extend(starts[start] for _, start, _ in characters)
        new_ends.extend(ends[end - 1] for _, _, end in characters)
        position = match.end()
    pieces.append(text[position:])
    new_starts.extend(starts[position:])
    new_ends.extend(ends[position:])
    return "".join(pieces), (new_starts, new_ends)


# --- folding ----------------------------------------------------------------------------------------------------------

_LINE_BREAKS = "\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58"
_SHAPED_LETTERS = (
    0x1F150,
    0x1F170,
    0x1F1E6,
)  # letters in black circles and squares, and of flags: NFKC does not fold them
_UNSEEN_IN_ASCII = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"
_NUMBER_OF_SUPERSCRIPTS = re.compile(f"[{_SUPERSCRIPTS}]{{4,}}")  # fewer are exponents and footnotes
_LOOKALIKE = re.compile(f"[{''.join(LOOKALIKES)}]")
_LOOKALIKES = str.maketrans(LOOKALIKES)
_HEAD = re.compile(r"(?=.*[^\W\d_])(?:\D|(?<!\d)(?:19|20)\d\d(?!\d))*")  # a year does not count as a figure
_WORD = re.compile(r"[^\W_]+")
_LATIN_OR_DIGIT = re.compile(r"[A-Za-z0-9]")
# "1O45 7832", "lO45 7832": letters between digits, or at a number's start, that count as digits.
_LETTER_AS_DIGIT = re.compile(
    r"\d[OoIl]{1,3}(?=\d)(?![A-Za-z\d]{20})"
    r"|(?<![^\W_])[OoIl]{1,3}(?=\d[\dOoIl]{0,20}+(?![^\W_]))(?=\d(?:[ ./-]?[\dOoIl]){2})|(?<=\d[ -])[OoIl]{1,3}(?=\d)"
)
_DIGIT_OF_LETTER = str.maketrans("OoIl", "0011")


@dataclass(frozen=True)
class NormalisedText:
    """A text and its folded form."""

    original: str
    text: str
    """Folded form of the original."""
    starts: tuple[int, ...] | None = None
    """Start offset in `original` of the source of each character of `text`; None if all offsets are equal."""
    ends: tuple[int, ...] | None = None
    """End offset of the same source, including the marks on the character."""

    @property
    def with_tabs(self) -> str:
        """Return the folded text with the tabs that separate table cells. All offsets stay the same."""
        if "\t" not in self.original or "\n" not in self.text:
            return self.text
        places = self.starts if self.starts is not None else range(len(self.text))
        tabbed = "".join(
            "\t" if folded == " " and self.original[place] == "\t" else folded
            for folded, place in zip(self.text, places, strict=True)
        )
        lines, with_tabs = self.text.split("\n"), tabbed.split("\n")
        in_table = rows_of_tables(with_tabs, "\t")
        return "\n".join(
            tabbed if is_row else line for line, tabbed, is_row in zip(lines, with_tabs, in_table, strict=True)
        )

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the half-open span of `original` that corresponds to text[start:end], including marks on its last
        letter."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def rows_of_tables(lines: Sequence[str], mark: str) -> list[bool]:
    """Return for each line whether it is a table row with cells separated by `mark`. A table is a block of adjacent
    lines with the same number of marks: at least three lines, or two of which one is a head without figures."""
    rows: list[bool] = []
    for count, group in groupby(lines, key=lambda line: line.count(mark)):
        block = list(group)
        is_table = len(block) > 2 or (len(block) == 2 and any(map(_HEAD.fullmatch, block)))
        rows += [count > 0 and is_table] * len(block)
    return rows


def normalise(original: str) -> NormalisedText:
    """Fold a text: characters that look the same become the same, and invisible characters are removed. Line breaks
    become newlines, other spaces become plain spaces."""
    text, places = decoded(original)
    if text.isascii() and _UNSEEN_IN_ASCII.search(text) is None:
        return _result(original, _with_digits(text.replace("\t", " ")), places)
    folds = {character: _folded(character) for character in set(text)}
    if not _NUMBER_OF_SUPERSCRIPTS.search(text):
        folds.update({each: each for each in _SUPERSCRIPTS if each in folds})
    if all(len(fold) == 1 for fold in folds.values()):
        changed = {ord(each): fold for each, fold in folds.items() if each != fold}
        return _result(original, _with_digits(_without_lookalikes(text.translate(changed))), places)
    folded, places = _replaced(text, places, folds)
    return _result(original, _with_digits(_without_lookalikes(folded)), places)


def _result(original: str, text: str, places: Places | None) -> NormalisedText:
    if places is None:
        return NormalisedText(original, text)
    starts, ends = places
    return NormalisedText(original, text, tuple(starts), tuple(ends))


def _replaced(text: str, places: Places | None, folds: dict[str, str]) -> tuple[str, Places]:
    old_starts, old_ends = places if places is not None else (range(len(text)), range(1, len(text) + 1))
    starts: list[int] = []
    ends: list[int] = []
    for character, start, end in zip(text, old_starts, old_ends, strict=True):
        fold = folds[character]
        for _ in fold:
            starts.append(start)
            ends.append(end)
        if not fold and ends and ends[-1] == start and _belongs_to_letter_before(character):
            ends[-1] = end
    return "".join(map(folds.__getitem__, text)), (starts, ends)


@lru_cache(maxsize=1 << 16)
def _folded(character: str) -> str:
    """Return the folded form of a character, empty if the character is invisible."""
    if character in _LINE_BREAKS:
        return "\n"
    if character in " \t\r":
        return " " if character == "\t" else character
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Mn", "Me") or character in BLANK_LETTERS or character == TATWEEL:
        return ""
    if category == "Zs":
        return " "
    if character in _DASHES:
        return "-"
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    for first in _SHAPED_LETTERS:
        if first <= ord(character) < first + 26:
            return chr(ord("A") + ord(character) - first)
    plain = unicodedata.normalize("NFKC", character)
    if plain == character or "\u2044" in plain:  # a fraction must not join the number before it
        return character
    if category[0] in "LN" or (len(plain) == 1 and plain.isascii()):
        return "".join(map(_folded, plain)) if plain != character else character
    return character


def _belongs_to_letter_before(character: str) -> bool:
    return character == TATWEEL or unicodedata.category(character) in ("Mn", "Me")


def _without_lookalikes(text: str) -> str:
    """Replace confusables by Latin letters, in words that contain Latin letters or digits, or only confusables. The
    length stays the same."""
    if _LOOKALIKE.search(text) is None:
        return text
    return _WORD.sub(_without_imitations, text)


def _without_imitations(word: re.Match[str]) -> str:
    letters = word.group()
    plain = letters.translate(_LOOKALIKES)
    if plain == letters:
        return letters
    return plain if plain.isascii() or _LATIN_OR_DIGIT.search(letters) or letters[0] >= "\u0600" else letters


def _with_digits(text: str) -> str:
    return _LETTER_AS_DIGIT.sub(lambda letters: letters.group().translate(_DIGIT_OF_LETTER), text)
