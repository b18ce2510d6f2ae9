"""The recognizers of this project as Presidio recognizers, usable in anybody's Presidio:

    analyzer.registry.add_recognizer(IdentifierRecognizer("en"))
    analyzer.registry.add_recognizer(NameRecognizer("en"))

What belongs here: the form of their findings. What does not: finding anything (`identifiers/`, `names/`). Imports
Presidio, so import it inside functions alone.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from presidio_analyzer import EntityRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NlpArtifacts

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.analyzer.entities import ENTITY_OF
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.entities import LABELS, Entity
from sovereign_pipeline.privacy.names.firms import firms
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise
from sovereign_pipeline.privacy.spans import Span

LABELLED, BY_LENGTH = "labelled", "by_length"
"""Keys of a result's metadata: see `Span`."""
_CERTAIN, _LIKELY, _BY_LENGTH_ALONE = 1.0, 0.85, 0.6
_OF_MODELS: frozenset[Kind] = frozenset({"NAME", "ORGANISATION", "PLACE", "NATIONALITY"})
_STRUCTURED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in _OF_MODELS)


class _OwnRecognizer(EntityRecognizer):
    """A recognizer that reads texts in their normalised form."""

    name: str

    def __init__(self, language: str, kinds: Iterable[Kind], normalised: bool) -> None:
        self._is_normalised = normalised
        super().__init__([ENTITY_OF[kind] for kind in kinds], supported_language=language)

    def load(self) -> None:
        """Nothing: patterns are compiled at their import."""

    def _folded(self, text: str) -> NormalisedText:
        return NormalisedText(text, text) if self._is_normalised else normalise(text)

    def _results(self, folded: NormalisedText, spans: Iterable[Span], entities: Collection[str]) -> list[Any]:
        found = []
        for span in spans:
            if ENTITY_OF[span.kind] not in entities:
                continue
            score = _CERTAIN if span.labelled else _BY_LENGTH_ALONE if span.by_length else _LIKELY
            metadata = {
                RecognizerResult.RECOGNIZER_NAME_KEY: self.name,
                RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id,
                LABELLED: span.labelled,
                BY_LENGTH: span.by_length,
            }
            start, end = folded.original_span(span.start, span.end)
            found.append(RecognizerResult(ENTITY_OF[span.kind], start, end, score, recognition_metadata=metadata))
        return found


class IdentifierRecognizer(_OwnRecognizer):
    """Numbers of persons, cards, accounts and firms, phones, e-mail and postal addresses, dates of birth, machines'
    addresses; in English and Arabic, in either reading, without overlaps."""

    def __init__(
        self,
        language: str = "en",
        also: Collection[Kind] = KEPT_BY_DEFAULT,
        regions: Regions = AROUND,
        *,
        normalised: bool = False,
    ):
        """
        Args:
            also: which of `KEPT_BY_DEFAULT` are looked for.
            regions: where phones without a prefix are from.
            normalised: the texts are normalised already.
        """
        self._also = frozenset(also)
        self._regions = regions
        wanted = [kind for kind in _STRUCTURED if kind not in KEPT_BY_DEFAULT or kind in self._also]
        super().__init__(language, wanted, normalised)

    def analyze(self, text: str, entities: Collection[str], nlp_artifacts: NlpArtifacts | None = None) -> list[Any]:
        folded = self._folded(text)
        with_tabs = getattr(nlp_artifacts, "with_tabs", "") if self._is_normalised else folded.with_tabs
        return self._results(folded, structured_spans(with_tabs or folded.text, self._also, self._regions), entities)


class NameRecognizer(_OwnRecognizer):
    """Names of people by pattern and word list and, of what a name model found, those that the word lists do not rule
    out; and the places, bodies and nationalities of the model, where they are wanted.

    In a text with encoded characters or tags that move its words, a model of Presidio's own counts only as far as its
    words stand in the same order as before.
    """

    def __init__(
        self,
        language: str = "en",
        also: Collection[Kind] = (),
        patterns: NamePatterns | None = None,
        *,
        normalised: bool = False,
    ):
        """
        Args:
            also: ORGANISATION, PLACE, NATIONALITY, DATE, if the model's findings of these are wanted.
            patterns: with the words of a recipe that are never names.
            normalised: the texts are normalised already.
        """
        self._patterns = patterns if patterns is not None else NamePatterns()
        self._also = frozenset(also)
        wanted = [kind for kind in KINDS if kind == "NAME" or kind in self._also]
        super().__init__(language, wanted, normalised)

    def analyze(self, text: str, entities: Collection[str], nlp_artifacts: NlpArtifacts | None = None) -> list[Any]:
        folded = self._folded(text)
        of_model = _placed(folded, _entities_of(nlp_artifacts))
        signed = bool(getattr(nlp_artifacts, "is_letter", False))
        names = self._patterns.spans(folded.text, of_model, signed=signed)
        others = [
            Span(start, end, label, folded.text[start:end], labelled=False)
            for start, end, label in of_model
            if label != "PERSON" and label in self._also
        ]
        if "ORGANISATION" in self._also:
            bodies = firms(folded.text)
            others += [Span(start, end, "ORGANISATION", folded.text[start:end]) for start, end in bodies]
        return self._results(folded, [*names, *others], entities)


def _entities_of(artifacts: NlpArtifacts | None) -> list[Entity]:
    """What a model found: ours, or one of spaCy's that Presidio ran."""
    found = artifacts.entities if artifacts is not None else []
    return [
        each if isinstance(each, Entity) else Entity(each.start_char, each.end_char, LABELS[each.label_])
        for each in found
        if isinstance(each, Entity) or each.label_ in LABELS
    ]


def _placed(folded: NormalisedText, entities: Sequence[Entity]) -> list[Entity]:
    """Entities of the original text, where they stand in the normalised one."""
    if folded.starts is None:
        return list(entities)
    starts = folded.starts
    placed = [Entity(bisect_left(starts, each.start), bisect_left(starts, each.end), each.label) for each in entities]
    return [each for each in placed if each.start < each.end]
