"""Characters that are written as something else: HTML entities and tags, percent-encoding, escapes, quoted-printable.

What belongs here: reading them, however often they were encoded one over the other, with the place of each character
that they stand for. What tags hold, such as their attributes, stands before the text that they cut. What does not:
folding characters (`normalisation.py`). Encodings that no person reads letter by letter, such as Base64, are not read.
"""

import html
import re
from collections.abc import Iterator, Sequence

# Every alternative begins with a sign, so that the library looks for these signs alone.
_ENCODED = re.compile(
    r"%(?:25)*[0-9A-Fa-f]{2}(?:%(?:25)*[0-9A-Fa-f]{2})*"
    r"|&(?:amp;)*(?:\#\d{1,20};?|\#[xX][0-9A-Fa-f]{1,20};?|[A-Za-z][A-Za-z0-9]{1,31};)"
    r"|\\u[0-9A-Fa-f]{4}|%u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"
    r"|=\r?\n|=(?<=\w=)40(?=[\w-]+\.\w)"
    # Tags without attributes, which hold nothing themselves.
    r"|</?(?:b|i|u|s|em|strong|span|font|small|mark|sup|sub|code|wbr|a) ?/?>|<!--\s*-->"
    r"|</?(?:br|p|div|td|th|tr|li|ul|ol|pre|table|tbody) ?/?>",
    re.IGNORECASE,
)
_ELEMENTS = (
    r"(?:b|i|u|s|em|strong|span|font|small|big|mark|sup|sub|code|wbr|a|br|hr|p|div|td|th|tr|li|ul|ol|dl|dt|dd|pre|table|tbody|"
    r"thead|tfoot|caption|center|img|h[1-6]|blockquote|html|head|body|meta|link|style|section|article|label|abbr|bdo|"
    r"bdi|del|ins|q|cite|time|input|form|button|[a-z]\d?:[a-z]\w*)"
)
# Another name in angle brackets may be a person's, so it is a tag only where it cuts a word.
_TAG = re.compile(
    rf"<!--(?P<comment>.{{0,2000}}?)-->|<(?:/?{_ELEMENTS}(?=[\s/>])(?P<attributes>[^<>]{{0,2000}})"
    r"|(?<=\S<)/?(?P<other>[a-z][\w:.-]{0,30}(?:\s[^<>@]{0,2000})?))>(?(other)(?=\S))",
    re.IGNORECASE | re.DOTALL,
)
_APART = "\n" * 16
"""More than any number, name or address may have within."""
_BYTE = re.compile(r"%(?:25)*([0-9A-Fa-f]{2})")
_MAY_BE_ENCODED = re.compile(r"[%&\\=<]")
_LINE_BREAKING = re.compile(r"</?(?:br|p|div|t|li|ul|ol|pre)", re.IGNORECASE)
_ROUNDS = 64
"""How many encodings over each other are read: more than anybody writes, so that no text is read for ever."""

Places = tuple[Sequence[int], Sequence[int]]
"""Where the source of each character begins and ends in the original."""


def decoded(original: str) -> tuple[str, Places | None]:
    """The text with encoded characters as themselves; None for the places when there are none."""
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
    """The text without its tags, and before it what they hold."""
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
"""Each character with its half-open span of the text."""


def _read(match: re.Match[str]) -> _Read | None:
    """What is written there, or None when it is no encoding after all."""
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
    """Characters of percent-encoded UTF-8; nothing when it is none."""
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
