"""Placing placeholders in a text, and reading what came out as the gate will: what it would name is replaced too.

What belongs here: where the placeholders stand, and what is found around them afterwards. What does not: which value
has which placeholder (`case_files.py`), finding anything (`identifiers/`).

A placeholder may join what stood apart: "sent NAME_1@host" is an address. Only around placeholders can a second reading
find what the first one did not, so only there the text is read once more; and whole, where that finds something.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_CORRECTIONS, Corrections
from sovereign_pipeline.privacy.detection import Detector, guarded
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers, without_placeholders
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span, value_key

_AROUND = 120
"""Characters beside a placeholder that are read once more."""
_LONGEST_EDGE = 80
_MAY_HOLD_ONE = re.compile(r"[\d@©®]|\bat\b|&\w|%[0-9A-Fa-f]{2}")
_ROUNDS = 4
"""How often a text is read once more: each round replaces something."""


class Place(NamedTuple):
    """A half-open span of the original text, and what takes its place."""

    start: int
    end: int
    placeholder: str


@dataclass(frozen=True)
class Filled:
    """A text with its placeholders."""

    original: str
    places: tuple[Place, ...]
    """In reading order, without overlaps."""
    text: str
    starts: tuple[int, ...]
    """Where each placeholder begins in `text`."""

    @property
    def originals(self) -> list[tuple[str, str]]:
        """Each placeholder with the characters that it replaced."""
        return [(place.placeholder, self.original[place.start : place.end]) for place in self.places]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original behind text[start:end], with the whole of each value in it."""
        return self._place_of(start, last=False), self._place_of(end, last=True)

    def _place_of(self, position: int, last: bool) -> int:
        number = bisect_right(self.starts, position - last) - 1
        if number < 0:
            return position
        place, begun = self.places[number], self.starts[number]
        behind = position - begun - len(place.placeholder)
        if behind < 0 or (last and behind == 0):
            return place.end if last else place.start
        return place.end + behind


def filled(original: str, places: Sequence[Place]) -> Filled:
    """The text with its placeholders; of places that overlap, the later one begins where the earlier one ends."""
    pieces: list[str] = []
    kept: list[Place] = []
    starts: list[int] = []
    position = length = 0
    for place in sorted(places):  # what a tag holds was read before what it stands in
        start = max(place.start, position)  # one character of the original may stand for several, such as a ligature
        end = max(place.end, start)
        pieces += [original[position:start], place.placeholder]
        length += start - position
        starts.append(length)
        length += len(place.placeholder)
        kept.append(Place(start, end, place.placeholder))
        position = end
    return Filled(original, tuple(kept), "".join([*pieces, original[position:]]), tuple(starts))


Added = Callable[[str], list[Span]]
"""What the recipe's own recognizers find in a normalised text."""


class Remaining(NamedTuple):
    """What a second reading finds in a scrubbed text, in its normalised form."""

    left: list[Span]
    by_lists: list[Span]
    """What looks like an identifier, and is no personal data by the line's word lists."""


@dataclass(frozen=True)
class SecondReading:
    """How scrubbed text is read once more, by the scrubber and by the gate alike."""

    is_kept: Callable[[Kind], bool]
    """A kind that is kept is not counted, neither is a value that the same text labels as such a kind."""
    added: Added | None = None
    """None where the recipe has no recognizers of its own."""
    corrections: Corrections = NO_CORRECTIONS
    regions: Regions = AROUND

    @classmethod
    def by(cls, detector: Detector, language: str, is_kept: Callable[[Kind], bool]) -> "SecondReading":
        """As a line's detector reads texts of a language."""
        added = partial(detector.added_spans, language) if detector.has_added else None
        return cls(is_kept, added, detector.corrections, detector.regions)

    def of(self, content: str) -> Remaining:
        """Read a text."""
        normalised = normalise(content)
        spans = leftovers(normalised.with_tabs, self.regions)
        if self.added is not None:
            spans += self.added(without_placeholders(normalised.text))
        kept = {span.key for span in spans if self.is_kept(span.kind)}
        counted = [span for span in spans if span.key not in kept]
        left = self.corrections.without_never(normalised.text, counted)
        return Remaining(left, [span for span in counted if span not in left] if len(left) < len(counted) else [])


def reread(
    row: str,
    text: Filled,
    reading: SecondReading,
    placeholder_of: Callable[[Kind, str], str],
) -> tuple[Filled, list[Kind]]:
    """The text without what a second reading of it finds, and the kinds of that.

    Args:
        placeholder_of: the placeholder of a kind and of the key of its value.

    Raises PrivacyError, which names the row, when the reading raises.
    """
    replaced: list[Kind] = []
    for _ in range(_ROUNDS):
        left = guarded("the second reading", row, partial(_left_in, text, reading))
        if not left:
            break
        places = list(text.places)
        for start, end, kind in left:
            first, last = text.original_span(start, end)
            places = [place for place in places if place.end <= first or last <= place.start]
            key = value_key(kind, text.original[first:last])
            places.append(Place(first, last, placeholder_of(kind, key)))
            replaced.append(kind)
        text = filled(text.original, places)
    return text, replaced


def _left_in(text: Filled, reading: SecondReading) -> list[tuple[int, int, Kind]]:
    own = replace(reading, added=None)
    if reading.added is None and not any(own.of(window).left for window in _windows(text)):
        return []
    folded = normalise(text.text)
    return sorted(
        ((*folded.original_span(span.start, span.end), span.kind) for span in reading.of(text.text).left),
        key=lambda span: span[:2],
    )


def _windows(text: Filled) -> Iterator[str]:
    """What stands around the placeholders and may hold an identifier."""
    begun: tuple[int, int] | None = None
    for start, place in zip(text.starts, text.places, strict=True):
        window = (start - _AROUND, start + len(place.placeholder) + _AROUND)
        if begun is not None and window[0] > begun[1]:
            yield from _read(text.text, *begun)
            begun = window
        else:
            begun = (begun[0] if begun else window[0], window[1])
    if begun is not None:
        yield from _read(text.text, *begun)


def _read(text: str, start: int, end: int) -> Iterator[str]:
    window = text[_word_before(text, start) : _word_behind(text, end)]
    if _MAY_HOLD_ONE.search(without_placeholders(window)):
        yield window


def _word_before(text: str, position: int) -> int:
    """Where a word begins before a position, so that no number is cut."""
    if position <= 0:
        return 0
    place = text.rfind("\n", max(0, position - _LONGEST_EDGE), position)
    return place + 1 if place >= 0 else max(0, text.rfind(" ", 0, position))


def _word_behind(text: str, position: int) -> int:
    place = text.find("\n", position, position + _LONGEST_EDGE)
    if place < 0:
        place = text.find(" ", position)
    return place if place >= 0 else len(text)
