"""Personal data in a text that somebody wrote just now, by the detectors of a line: in a worker process.

The detectors are those of scrubbing, canaries included: a search in which a canary is missed finds nothing, it fails.
What belongs here: from passages to findings. What does not: the process (`scanner.py`), and what becomes of a finding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import PLACEHOLDER, kind_of
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline.serving.letters import is_arabic, language_of

FIELD = "request"
_IN_ARABIC_LETTERS = ("ar", "fa", "ur", "ps")
_WHOLE_PLACEHOLDER = re.compile(rf"(?:{'|'.join(KINDS)})_\d{{1,3}}(?!\d)")
_NO_LETTER = "…"
_MOST_MASKINGS = 3


@dataclass(frozen=True)
class LineDetectors:
    """What decides what is found in the texts of a line."""

    line: str
    privacy: Privacy
    treatments: Treatments
    words: WordLists

    def language_of(self, text: str) -> str:
        """The language by whose detectors a text is read: the first of the recipe that is written in its letters."""
        known, in_arabic = (*self.privacy.name_models, *self.privacy.patterns_only), is_arabic(text)
        return next((each for each in known if (each in _IN_ARABIC_LETTERS) == in_arabic), language_of(text))


@dataclass(frozen=True)
class Finding:
    """A half-open span of a text, and what is in it."""

    start: int
    end: int
    kind: Kind
    value: str
    """Equal for two findings of one value in the texts that were searched together."""


class TextDetectors:
    """The detectors of one line, loaded. What is found is kept nowhere."""

    def __init__(self, detectors: LineDetectors) -> None:
        self._detectors = detectors
        self._scrubber = Scrubber(
            detectors.line, "passing", detectors.privacy, detectors.treatments, words=detectors.words
        )

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """What is in each of the texts of one conversation, in reading order, without overlaps.

        What looks like a placeholder is none of it: models that were trained on scrubbed letters write them.

        Raises PrivacyError when a detector raises or misses its canary: then nothing is known about any text.
        """
        masked = [_masked(text) for text in texts]
        documents = [self._document(number, text) for number, text in enumerate(masked)]
        (case,) = self._scrubber.scrub([documents])
        rows: dict[str, list[MappingRow]] = {document.id: [] for document in documents}
        for row in case.mapping:
            rows[row.row].append(row)
        return [list(_places(after.request, rows[after.id])) for after in case.documents]

    def _document(self, number: int, text: str) -> Document:
        return Document(
            id=f"text {number + 1}",
            source="gateway",
            case="conversation",
            department="",
            author="",
            date="2000-01-01",
            classification="",
            language=self._detectors.language_of(text),
            subject="",
            request=text,
            response="",
        )


def _masked(text: str) -> str:
    """The text without what looks like a placeholder, each character at its place. A long number behind the name of a
    kind stays: it is no placeholder."""
    for _ in range(_MOST_MASKINGS):
        normalised = normalise(text)
        found = [
            normalised.original_span(each.start(), _end_of(normalised.text, each))
            for each in PLACEHOLDER.finditer(normalised.text)
        ]
        if not found:
            return text
        for start, end in found:
            text = text[:start] + _NO_LETTER * (end - start) + text[end:]
    raise PrivacyError("A text holds what looks like a placeholder in a way that cannot be read.", "Write it plainly.")


def _end_of(text: str, begun: re.Match[str]) -> int:
    whole = _WHOLE_PLACEHOLDER.match(text, begun.start())
    return whole.end() if whole is not None else begun.end() - 1


def _places(after: str, rows: Sequence[MappingRow]) -> list[Finding]:
    """Where each value stood: what lies between two placeholders is as it was."""
    found: list[Finding] = []
    before_at = after_at = 0
    for row in rows:
        place = after.index(row.placeholder, after_at)
        start = before_at + place - after_at
        before_at, after_at = start + len(row.original), place + len(row.placeholder)
        if row.original:
            found.append(Finding(start, before_at, kind_of(row.placeholder), row.placeholder))
    return found
