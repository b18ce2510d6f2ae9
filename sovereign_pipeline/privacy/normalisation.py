"""Fold a text so that characters that look the same become equal, and map each folded character to the original.

Folding covers digits of any script, compatibility forms, diacritics, invisible characters, confusables, HTML tags, and
characters written as HTML entities, percent-encoding or escapes. Folding does not decode encodings that people cannot
read, such as Base64.
"""

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

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
# Any other name in angle brackets may be a person's name. It counts as a tag only inside a word.
_TAG = re.compile(
    rf"<!--(?P<comment>.{{0,2000}}?)-->|<(?:/?{_ELEMENTS}(?=[\s/>])(?P<attributes>[^<>]{{0,2000}})"
    r"|(?<=\S<)/?(?P<other>[a-z][\w:.-]{0,30}(?:\s[^<>@]{0,2000})?))>(?(other)(?=\S))",
    re.IGNORECASE | re.DOTALL,
)
APART = 16
"""Number of newlines between two separate texts. No detector finds a number, name or address across such a gap."""
_BYTE = re.compile(r"%(?:25)*([0-9A-Fa-f]{2})")
_MAY_BE_ENCODED = re.compile(r"[%&\\=<]")
_LINE_BREAKING = re.compile(r"</?(?:br|p|div|t|li|ul|ol|pre)", re.IGNORECASE)
_ROUNDS = 64
"""Maximum depth of nested encodings that are decoded, which limits the time. Real texts are not nested so deeply."""

Characters = list[tuple[str, int, int]]
"""Characters, each with the start and end of the part of the original text that it comes from."""


def decoded(original: str, characters: Characters | None = None) -> tuple[str, Characters | None]:
    """Decode encoded characters, remove HTML tags, and move comments, attributes and unknown tags' names to the front.
    Return the text and its characters. If nothing changed, the second value is the argument `characters`.

    Args:
        characters: the characters to decode; None for all characters of the original text.
    """
    text = original if characters is None else "".join(character for character, _, _ in characters)
    for _ in range(_ROUNDS if _MAY_BE_ENCODED.search(text) else 0):
        found = [(match, read) for match in _ENCODED.finditer(text) if (read := _read(match)) is not None]
        tags = [] if found or "<" not in text else list(_TAG.finditer(text))
        if not found and not tags:
            break
        characters = characters or characters_of(text)
        aside: Characters = []
        for tag in tags:
            first, last = tag.span(tag.lastgroup or 0)
            if text[first:last].strip(" /"):  # attributes, comments and unknown names go before the text
                _, _, end = characters[last - 1]
                aside += [*characters[first:last], *[("\n", end - 1, end)] * APART]
            found.append((tag, [("\n", *tag.span())] if _LINE_BREAKING.match(tag.group()) else []))
        characters = aside + _replaced(characters, found)
        text = "".join(character for character, _, _ in characters)
    return text, characters


def characters_of(text: str) -> Characters:
    return list(zip(text, range(len(text)), range(1, len(text) + 1), strict=True))


def _replaced(characters: Characters, found: Sequence[tuple[re.Match[str], Characters]]) -> Characters:
    """Return the characters after replacing each match with its decoded characters. In `found`, the spans of the
    decoded characters refer to the current text. In the result, they refer to the original text."""
    replaced: Characters = []
    position = 0
    for match, read in found:
        replaced += characters[position : match.start()]
        replaced += [(each, characters[start][1], characters[end - 1][2]) for each, start, end in read]
        position = match.end()
    return replaced + characters[position:]


def _read(match: re.Match[str]) -> Characters | None:
    """Decode one match. Return None if it is not an encoding."""
    written, span = match.group(), match.span()
    if written[0] == "=":
        return [("@", *span)] if written == "=40" else []
    if written[0] == "<":
        return [("\n", *span)] if _LINE_BREAKING.match(written) else []
    if written[0] == "%" and written[1] not in "uU":
        read = list(_of_bytes(match))
    elif written[0] == "&":
        name = written.replace("amp;", "")
        character = html.unescape(name if name.endswith(";") else f"{name};")
        read = [(each, *span) for each in character] if character != name else []
    else:
        read = [(chr(int(written[2:], 16)), *span)]
    return read if read and all(each.isprintable() or each.isspace() for each, _, _ in read) else None


def _of_bytes(match: re.Match[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the characters of percent-encoded UTF-8. Yield nothing if the bytes are not UTF-8."""
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


# --- folding ----------------------------------------------------------------------------------------------------------

_LINE_BREAKS = "\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58"
# First letters of three alphabets that NFKC does not fold: letters in black circles, in black squares, and of flags.
_SHAPED_LETTERS = (0x1F150, 0x1F170, 0x1F1E6)
_UNSEEN_IN_ASCII = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"
_NUMBER_OF_SUPERSCRIPTS = re.compile(f"[{_SUPERSCRIPTS}]{{4,}}")  # fewer are exponents and footnotes
_LOOKALIKE = re.compile(f"[{''.join(LOOKALIKES)}]")
_LOOKALIKES = str.maketrans(LOOKALIKES)
_HEAD = re.compile(r"(?=.*[^\W\d_])(?:\D|(?<!\d)(?:19|20)\d\d(?!\d))*")  # a year does not count as digits
_WORD = re.compile(r"[^\W_]+")
_LATIN_OR_DIGIT = re.compile(r"[A-Za-z0-9]")
# Letters between digits, or at the start of a number, that count as digits: "1O45 7832", "lO45 7832".
_LETTER_AS_DIGIT = re.compile(
    r"\d[OoIl]{1,3}(?=\d)(?![A-Za-z\d]{20})"
    r"|(?<![^\W_])[OoIl]{1,3}(?=\d[\dOoIl]{0,20}+(?![^\W_]))(?=\d(?:[ ./-]?[\dOoIl]){2})|(?<=\d[ -])[OoIl]{1,3}(?=\d)"
)
_DIGIT_OF_LETTER = str.maketrans("OoIl", "0011")


class Leaf(NamedTuple):
    """A string or number in a JSON text."""

    start: int
    end: int
    """Offset at which the value ends (exclusive). `start` and `end` of a string exclude its quotation marks."""
    quote: str
    """Quotation mark to write around the placeholder of a number; empty for a string."""


@dataclass(frozen=True)
class NormalisedText:
    """A text and its folded form."""

    original: str
    text: str
    """Folded form of the original."""
    starts: tuple[int, ...] | None = None
    """Start offset in `original` of each character of `text`; None if all offsets are the same in both texts."""
    ends: tuple[int, ...] | None = None
    """End offset in `original` of each character of `text`, diacritics included; None if `starts` is None."""
    leaves: tuple[Leaf, ...] | None = None
    """The spans of a JSON text that may be replaced, in order; None for other texts, where any span may be replaced."""

    @property
    def with_tabs(self) -> str:
        """Return the folded text, with a tab instead of a space where the original has a tab between table cells. All
        offsets stay the same."""
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
        """Return the half-open span of `original` that corresponds to text[start:end]. The span includes the diacritics
        of the last letter."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]

    def places(self, start: int, end: int) -> list[Leaf]:
        """Return the spans of `original` to replace for text[start:end]. In JSON, these are the touched part of each
        string and the whole of each number that text[start:end] touches. In any other text, this is one span."""
        first, last = self.original_span(start, end)
        if self.leaves is None:
            return [Leaf(first, last, "")]
        found = []
        for leaf in self.leaves[bisect_right(self.leaves, first, key=lambda each: each.end) :]:
            if leaf.start >= last:
                break
            found.append(leaf if leaf.quote else Leaf(max(first, leaf.start), min(last, leaf.end), ""))
        return found


def rows_of_tables(lines: Sequence[str], mark: str) -> list[bool]:
    """Return one boolean for each line: True if the line is a row of a table with the delimiter `mark`. A table is a
    block of adjacent lines with the same number of delimiters. It has at least three lines, or two lines if one is a
    header line without digits. A year does not count as digits."""
    rows: list[bool] = []
    for count, group in groupby(lines, key=lambda line: line.count(mark)):
        block = list(group)
        is_table = len(block) > 2 or (len(block) == 2 and any(map(_HEAD.fullmatch, block)))
        rows += [count > 0 and is_table] * len(block)
    return rows


def normalise(original: str, characters: Characters | None = None) -> NormalisedText:
    """Fold a text. Characters that look the same become equal, invisible characters are removed, line breaks become
    newlines, and other spaces become plain spaces. For `characters`, see `decoded`."""
    text, characters = decoded(original, characters)
    if text.isascii() and _UNSEEN_IN_ASCII.search(text) is None:
        text = text.replace("\t", " ")
    else:
        folds = {character: _folded(character) for character in set(text)}
        if not _NUMBER_OF_SUPERSCRIPTS.search(text):
            folds.update({each: each for each in _SUPERSCRIPTS if each in folds})
        if any(len(fold) != 1 for fold in folds.values()):
            characters = _with_folds(characters or characters_of(text), folds)
        text = text.translate({ord(each): fold for each, fold in folds.items() if each != fold})
        if _LOOKALIKE.search(text):
            text = _WORD.sub(_without_imitations, text)
    text = _LETTER_AS_DIGIT.sub(lambda letters: letters.group().translate(_DIGIT_OF_LETTER), text)
    if characters is None:
        return NormalisedText(original, text)
    _, starts, ends = zip(*characters, strict=True) if characters else ((), (), ())
    return NormalisedText(original, text, starts, ends)


def _with_folds(characters: Characters, folds: dict[str, str]) -> Characters:
    """Return the folded characters. The span of a letter includes removed diacritics that follow it."""
    folded: Characters = []
    for each in characters:
        character, start, end = each
        fold = folds[character]
        if fold == character:
            folded.append(each)
        elif fold:
            folded += [(part, start, end) for part in fold]
        elif folded and folded[-1][2] == start and (character == TATWEEL or unicodedata.category(character)[0] == "M"):
            folded[-1] = (*folded[-1][:2], end)
    return folded


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


def _without_imitations(word: re.Match[str]) -> str:
    """Replace the confusables in a word with Latin letters if the word consists of confusables, contains a Latin letter
    or a digit, or begins with a character from U+0600 on."""
    letters = word.group()
    plain = letters.translate(_LOOKALIKES)
    if plain == letters:
        return letters
    return plain if plain.isascii() or _LATIN_OR_DIGIT.search(letters) or letters[0] >= "\u0600" else letters
