"""Convert JSON in conversations to lines of `key: value` for the detectors, so that each key labels its value.

Findings in these lines are mapped back to strings and numbers in the JSON text, so the text stays valid JSON. Field
names, names of tools and their parameters, and schema keywords are never replaced.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import PROPERTY_NAME, Document, properties_in
from sovereign_pipeline.privacy.names.lexicon import recased
from sovereign_pipeline.privacy.normalisation import APART, Characters, Leaf, NormalisedText, characters_of, normalise

_TOOLS = "tools"
_FIELD_NAME = re.compile(r"(?!.*(?:\d\D?){4})[a-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*", re.ASCII)
_RANGES_AND_COUNTS = re.compile(r"\[\^?(?:\w-\w)+\]|\{\d{1,4}(?:,\d{0,4})?\}", re.ASCII)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_CHARACTER = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|[^\\]", re.DOTALL)
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_-]+")
_KEYS_BEFORE_A_VALUE = 2
# Keys of tools and of JSON Schema. The values of other keys, such as descriptions and examples, are texts.
_OF_NAMES = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_OF_SCHEMAS = frozenset(
    re.findall(
        r"\S+",
        """
    function parameters items prefixItems additionalProperties anyOf allOf oneOf not if then else contains type name
    required strict format pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength
    minItems maxItems uniqueItems minProperties maxProperties nullable deprecated $ref $schema $id
""",
    )
)


def readings_of(document: Document, name: str, text: str) -> list[NormalisedText]:
    """Return the forms in which a text of a document is searched. The detectors search the first form. The second
    search, in the scrubbed text, uses all forms. JSON in a message has two forms: lines of `key: value`, and the whole
    text. The list of tools has only the lines, and any other text only the whole text.

    Args:
        name: name of the text, as in `Document.texts`.
        text: the text to search. After scrubbing, it differs from the text in `document`.
    """
    whole = normalise(text)
    if document.is_letter or not is_json(text):
        return [whole]
    leaves: list[Leaf] = []
    names = frozenset(filter(PROPERTY_NAME.fullmatch, properties_in(document.tools)))
    lines = list(_lines(characters_of(text), '"', (), names if name != _TOOLS else None, leaves))
    read = normalise(text, [each for line in lines for each in line])
    in_order = tuple(sorted(leaves))
    return [replace(each, leaves=in_order) for each in ((read,) if name == _TOOLS else (read, whole))]


def kept_words(document: Document) -> Iterator[str]:
    """Yield the words that scrubbing never replaces: names of tools and parameters, and values in schemas. The gate
    `no_identifier_left` searches these words for personal data. Ranges and counts in patterns, and limits such as
    2147483647, are left out."""
    for message in document.messages:
        yield from (call.name for call in message.tool_calls)
        if message.role == "tool" and message.name:
            yield message.name
    for value in _kept_in(document.tools):
        if not _is_limit(value):
            yield _RANGES_AND_COUNTS.sub(" ", str(value))


def names_in_tools(tools: Any) -> Iterator[str]:
    """Yield the names of tools and parameters, and the texts of schema keywords."""
    return (each for each in _kept_in(tools) if isinstance(each, str))


def names_a_field(word: str) -> bool:
    """Return True if a JSON key looks like a field's name. Other keys, such as a person's name, are searched as
    text."""
    return _FIELD_NAME.fullmatch(word) is not None


def is_json(text: str) -> bool:
    """Return True if a text is the JSON of an object or of a list."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def outline_of(reading: NormalisedText) -> str:
    """Return the part of a text that scrubbing must not change. For JSON, this is the text without the searched strings
    and numbers (`leaves`), quotation marks and backslashes. For any other text, return ""."""
    position, pieces = 0, []
    for leaf in reading.leaves or ():
        pieces.append(reading.original[position : leaf.start])
        position = leaf.end
    return re.sub(r'[\\"]', "", "".join([*pieces, reading.original[position:]])) if reading.leaves is not None else ""


def reject_equal_keys(document: Document, before: str, after: str) -> None:
    """Raise PrivacyError if scrubbing has made two different keys of one JSON object equal."""
    if _count_of_keys(after) < _count_of_keys(before):
        raise PrivacyError(
            f"Row {document.id}: two keys of one JSON object would get the same placeholder, because both name the "
            "same person or value. Nothing was written.",
            "Turn the keys into values in the source, or leave the row out with `exclude`.",
        )


def _count_of_keys(text: str) -> int:
    count = 0

    def counted(pairs: list[tuple[str, Any]]) -> None:
        nonlocal count
        count += len({key for key, _ in pairs})

    json.loads(text, object_pairs_hook=counted)
    return count


def _lines(
    characters: Characters, quote: str, path: Sequence[str], names: Collection[str] | None, leaves: list[Leaf]
) -> Iterator[Characters]:
    """For each string and number in JSON to search, yield one line for the detectors, and add its position to `leaves`.

    Args:
        characters: the characters of the JSON, each with its span in the text.
        quote: quotation mark to write around a number's placeholder. It is escaped if this JSON is inside a string of
            other JSON.
        path: keys that lead to this JSON if it is inside a string of other JSON.
        names: names of the parameters of the document's tools; None if this JSON is the list of tools.
    """
    text = "".join(character for character, _, _ in characters)
    keys, opened, is_key = [*path], "", False
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in ("{", "["):
            opened, is_key = opened + mark, mark == "{"
            keys.append("")
        elif mark in ("}", "]"):
            opened, is_key = opened[:-1], False
            keys.pop()
        elif mark in (":", ","):
            is_key = mark == "," and opened[-1] == "{"
        elif mark.startswith('"'):
            value = _characters_of_string(characters, token)
            word = "".join(character for character, _, _ in value)
            if is_key:
                keys[-1] = ""
            is_text = names is not None or _is_text_of_tool(keys)
            if is_text and not is_key and is_json(word):
                yield from _lines(value, json.dumps(quote)[1:-1], keys, names, leaves)
            elif word and is_text and not (is_key and (names_a_field(word) or word in (names or ()))):
                leaves.append(Leaf(characters[token.start()][2], characters[token.end() - 1][1], ""))
                yield _line(keys, value)
            if is_key:
                keys[-1] = word
        elif mark[0] in "-0123456789" and (names is not None or _is_text_of_tool(keys)):
            value = characters[token.start() : token.end()]
            leaves.append(Leaf(value[0][1], value[-1][2], quote))
            yield _line(keys, value)


def _characters_of_string(characters: Characters, token: re.Match[str]) -> Characters:
    """Return the characters of a JSON string, without its quotation marks and with its escapes decoded."""
    start, end = token.start() + 1, token.end() - 1
    if "\\" not in token.group():
        return characters[start:end]
    return [
        (
            json.loads(f'"{each.group()}"') if len(each.group()) > 1 else each.group(),
            characters[each.start()][1],
            characters[each.end() - 1][2],
        )
        for each in _CHARACTER.finditer(token.string, start, end)
    ]


def _line(keys: Sequence[str], value: Characters) -> Characters:
    """Return the line that the detectors search: a label, then the value. The label consists of the last two keys
    without digits before the value. In a line without capitals, names are capitalised. In the original, each character
    of the label maps to the value's start."""
    named = [key for key in keys if key and not re.search(r"\d", key)][-_KEYS_BEFORE_A_VALUE:]
    label = f"{_BETWEEN_WORDS.sub(' ', ' '.join(named)).lower()}: " if named else ""
    start, end = value[0][1], value[-1][2]
    cased = recased(label + "".join(character for character, _, _ in value))
    places = [(start, start)] * len(label) + [span for _, *span in value] + [(end, end)] * APART
    return [(each, *place) for each, place in zip(cased + "\n" * APART, places, strict=True)]


def _is_text_of_tool(keys: Sequence[str]) -> bool:
    """Return True if the value at the path `keys` in a tool's schema is free text."""
    are_names = False
    for key in keys:
        if are_names and key:
            are_names = False
        elif key in _OF_NAMES:
            are_names = True
        elif key and key not in _OF_SCHEMAS:
            return True
    return False


def _kept_in(value: Any, keys: Sequence[str] = ()) -> Iterator[str | float]:
    """Yield those values in tools that `readings_of` does not search: names, and the texts and numbers that belong to
    schema keywords."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from () if _is_text_of_tool(keys) or key in _OF_NAMES | _OF_SCHEMAS else (key,)
            yield from _kept_in(each, [*keys, key])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _kept_in(each, [*keys, ""])
    elif isinstance(value, str | float | int) and not _is_text_of_tool(keys):
        yield value


def _is_limit(value: str | float) -> bool:
    """Return True if a number is a limit rather than an identifier. The number, or the number plus one, must be a power
    of two or have at most two digits before its trailing zeros."""
    if isinstance(value, str) or value != int(value):
        return False
    return any(
        not each & (each - 1) or len(str(each).rstrip("0")) <= 2 for each in (abs(int(value)), abs(int(value)) + 1)
    )
