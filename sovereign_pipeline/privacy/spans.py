"""Define findings in a text, resolve overlaps between findings, and number placeholders such as `NAME_1`."""

import bisect
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.normalisation import normalise

_FACTS = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text(encoding="utf-8"))
KIND_FACTS: dict[Kind, dict[str, str]] = {kind: _FACTS[kind] for kind in KINDS}
"""The facts about each kind of personal data in `kinds.toml`."""
_PRECEDENCE = {kind: place for place, kind in enumerate(KINDS)}
# Identifiers take precedence over names, and names over a name model's places, organisations and dates.
_TIERS: dict[Kind, int] = {"NAME": 1, "ORGANISATION": 2, "PLACE": 2, "NATIONALITY": 2, "DATE": 2, "AGE": 2}
_TRIMMED_BY_OTHERS = frozenset({"ORGANISATION", "PLACE"})
_LINKING_WORDS = ("and", "of")
_COUNTRY_PREFIX = re.compile(r"^(?:00)?968(?=\d{8}$)")


@dataclass(frozen=True)
class Span:
    """A finding: a half-open span of normalised text, and the kind of personal data in it."""

    start: int
    end: int
    kind: Kind
    key: str
    """Key that is equal for all mentions of one value."""
    labelled: bool = True
    """True if a label or check digits make the kind certain. Within a case, an uncertain span takes the kind of a
    certain span with the same key."""
    by_length: bool = False
    """True if the evidence is weak, such as the number of digits alone. Overlapping identifiers take precedence."""


def value_key(kind: Kind, value: str) -> str:
    """Return a key that is equal for all spellings of a value. It ignores separators, letter case, and the prefix 968
    of an Omani phone number."""
    plain = "".join(character for character in value if character.isalnum()).casefold()
    return _COUNTRY_PREFIX.sub("", plain) if kind == "PHONE" else plain


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in reading order. If two spans overlap, drop the weaker span.

    Identifiers are stronger than names, and names are stronger than places, organisations, nationalities, dates and
    ages. Within each of these three groups, labelled spans are stronger than unlabelled spans, and then spans without
    `by_length` than spans with it. Among equals, the order of `KINDS` decides, and then the length. A weaker place or
    organisation is trimmed instead of dropped: its part outside the stronger span stays. A name that overlaps an
    identifier is trimmed too, because an e-mail address may include the end of the name before it.
    """
    kept: list[Span] = []  # always in reading order
    for span in sorted(spans, key=_weakness):
        place = bisect.bisect_left(kept, span.start, key=attrgetter("start"))
        free_before = place == 0 or kept[place - 1].end <= span.start
        free_after = place == len(kept) or span.end <= kept[place].start
        if free_before and free_after:
            kept.insert(place, span)
        elif span.kind in _TRIMMED_BY_OTHERS or _is_name_beside_identifier(span, kept):
            for piece in _uncovered_pieces(span, kept):
                kept.insert(bisect.bisect_left(kept, piece.start, key=attrgetter("start")), piece)
    return kept


def _is_name_beside_identifier(span: Span, kept: Iterable[Span]) -> bool:
    if span.kind != "NAME" or len(span.key) != span.end - span.start:
        return False
    return not any(each.kind == "NAME" for each in kept if each.end > span.start and each.start < span.end)


def _weakness(span: Span) -> tuple[int, bool, bool, int, int, int]:
    """Return a sort key that puts the strongest span first."""
    return (
        _TIERS.get(span.kind, 0),
        not span.labelled,
        span.by_length,
        _PRECEDENCE[span.kind],
        span.start - span.end,
        span.start,
    )


def _uncovered_pieces(span: Span, kept: Iterable[Span]) -> list[Span]:
    """Return the pieces of a span that no span in `kept` covers and that have at least two letters. The key of `span`
    must be its text."""
    gaps = []
    position = span.start
    for other in [each for each in kept if each.end > span.start and each.start < span.end]:
        gaps.append((position, other.start))
        position = max(position, other.end)
    gaps.append((position, span.end))
    pieces = []
    for start, end in gaps:
        words = re.search(r"\w(?:.*\w)?", span.key[start - span.start : max(0, end - span.start)], re.DOTALL)
        if words is None or words.group() in _LINKING_WORDS:
            continue
        if sum(character.isalpha() for character in words.group()) >= 2:
            pieces.append(replace(span, start=start + words.start(), end=start + words.end(), key=words.group()))
    return pieces


PLACEHOLDER = re.compile(rf"(?<![A-Z_])(?:{'|'.join(KINDS)})_\d")
AUTHOR = "author"


class Placeholders:
    """The placeholders of one case file. For each kind, they are numbered in the order in which values first appear."""

    def __init__(self) -> None:
        self._given: dict[tuple[Kind, object], str] = {}
        self._last: Counter[Kind] = Counter()

    def of(self, kind: Kind, value: object) -> str:
        """Return the placeholder of a value. Equal values get the same placeholder."""
        if (kind, value) not in self._given:
            self._last[kind] += 1
            self._given[kind, value] = f"{kind}_{self._last[kind]}"
        return self._given[kind, value]


def kind_of(placeholder: str) -> Kind:
    """Return the kind in a placeholder, such as NAME for `NAME_1`. The placeholder may have quotation marks."""
    kind: Kind = placeholder.lstrip('\\"').rsplit("_", 1)[0]  # type: ignore[assignment]
    return kind


def reject_placeholders(document: Document) -> None:
    """Raise PrivacyError if a document already contains text that looks like a placeholder. After scrubbing, such a
    text could not be distinguished from a real placeholder."""
    for field, text in {**document.texts, AUTHOR: document.author}.items():
        if "_" in text and PLACEHOLDER.search(normalise(text).text):
            raise PrivacyError(
                f"Row {document.id}: the field {field} already contains text that looks like a placeholder. After "
                f"scrubbing, the text could not be distinguished from a real placeholder.",
                "Correct the row in its source, or leave it out with `exclude`.",
            )
