"""The table of everything that finds structured identifiers, and the function that runs it over a text.

What belongs here: which pattern finds which kind, with which check and how certain it is. What does not: the patterns
(`labels.py`, `shapes.py`), the checks (`checks.py`), the two searches that are no single pattern (`addresses.py`,
`long_numbers.py`), names of people (`names/`).

Patterns run on normalised text (`normalisation.py`), so one pattern covers both digit sets and marked Arabic. Only the
value is reported, never its label.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, Kind
from sovereign_pipeline.privacy.identifiers import checks, shapes
from sovereign_pipeline.privacy.identifiers.addresses import address_spans
from sovereign_pipeline.privacy.identifiers.labels import LABELLED_PATTERNS
from sovereign_pipeline.privacy.identifiers.long_numbers import long_numbers
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps

Clue = Literal["a digit", "an @", "anything"]
_DIGIT = re.compile("[0-9]")


def _always(value: str) -> bool:
    return True


def _never(value: str) -> bool:
    return False


@dataclass(frozen=True)
class Recognizer:
    """One pattern that finds one kind. The value is the pattern's named group that matched, or all that it matched."""

    kind: Kind
    pattern: re.Pattern[str]
    accepts: Callable[[str], bool] = _always
    """Whether a value that matched is one of this kind at all."""
    is_certain: Callable[[str], bool] = _always
    """Whether the value's label or check digits leave no doubt about its kind (`Span.labelled`)."""
    needs: Clue = "a digit"
    """What a text must hold before the pattern is tried: most texts hold no identifier."""

    def spans(self, text: str) -> Iterator[Span]:
        """Every value of a normalised text, in reading order."""
        for match in self.pattern.finditer(text):
            group = match.lastgroup or 0
            value = match[group]
            if self.accepts(value):
                yield Span(*match.span(group), self.kind, value_key(self.kind, value), self.is_certain(value))


RECOGNIZERS: tuple[Recognizer, ...] = (
    *(Recognizer(kind, pattern) for kind, pattern in LABELLED_PATTERNS),
    Recognizer("EMAIL", shapes.EMAIL, needs="an @"),
    Recognizer("IBAN", shapes.IBAN, checks.has_digits_of_an_iban, checks.has_iban_check_digits),
    Recognizer("CARD", shapes.CARD_NUMBER, checks.has_card_check_digit, _never),
    Recognizer("PHONE", shapes.PREFIXED_PHONE, is_certain=_never),
    Recognizer("PHONE", shapes.LOCAL_PHONE, checks.is_omani_phone, _never),
    Recognizer("PHONE", shapes.GROUPED_PHONE, checks.is_grouped_phone, _never),
    Recognizer("PHONE", shapes.PHONE_BEFORE_ITS_LABEL),
    Recognizer("PASSPORT", shapes.PASSPORT_SHAPE, is_certain=_never),
    Recognizer("SSN", shapes.SSN, is_certain=_never),
    Recognizer("IP", shapes.IP_V4),
    Recognizer("IP", shapes.IP_V6),
    Recognizer("DATE", shapes.ANY_DATE, is_certain=_never),
    Recognizer("AGE", shapes.AGE),
    Recognizer("URL", shapes.URL, is_certain=_never, needs="anything"),
)

# Only for text that was scrubbed already: they take more than they should.
STRICT_RECOGNIZERS: tuple[Recognizer, ...] = (
    Recognizer("EMAIL", shapes.STRICT_EMAIL, is_certain=_never),
    Recognizer("PHONE", shapes.STRICT_PREFIX, is_certain=_never),
    Recognizer("IBAN", shapes.STRICT_IBAN, is_certain=_never),
)


def structured_spans(text: str, also: frozenset[Kind] = frozenset()) -> list[Span]:
    """Every structured identifier of a normalised text, without overlaps, in reading order.

    Args:
        also: the kinds of `KEPT_BY_DEFAULT` that are looked for too.
    """
    clues = _clues(text)
    found = [
        span
        for recognizer in RECOGNIZERS
        if recognizer.needs in clues and (recognizer.kind not in KEPT_BY_DEFAULT or recognizer.kind in also)
        for span in recognizer.spans(text)
    ]
    if "a digit" in clues:
        found += [
            Span(start, end, "ADDRESS", value_key("ADDRESS", text[start:end])) for start, end in address_spans(text)
        ]
        found += long_numbers(text)
    return without_overlaps(found)


def leftovers(text: str) -> list[Span]:
    """The stricter reading of normalised text that was scrubbed."""
    strict = [span for recognizer in STRICT_RECOGNIZERS for span in recognizer.spans(text)]
    return without_overlaps([*structured_spans(text), *strict])


def _clues(text: str) -> set[Clue]:
    clues: set[Clue] = {"anything"}
    if "@" in text:
        clues.add("an @")
    if _DIGIT.search(text):
        clues.add("a digit")
    return clues
