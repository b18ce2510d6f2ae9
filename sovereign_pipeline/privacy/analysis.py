"""Run this project's recognizers and the recipe's own for one language in Presidio's `AnalyzerEngine`.

The project's recognizers work in any Presidio analyzer:

    analyzer.registry.add_recognizer(IdentifierRecognizer("en"))
    analyzer.registry.add_recognizer(NameRecognizer("en"))

This module imports Presidio. Import it inside functions only.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from sovereign_pipeline.policy.corpus import AddedRecognizer, Privacy
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.added_recognizers import (
    ENTITY_OF,
    KIND_OF,
    context_is_read,
    kind_of,
    load_recognizer,
    reject_unless_found,
    warnings_as_errors,
)
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.latin_names import firms, recased
from sovereign_pipeline.privacy.names.name_models import LABELS, Entity, NameModel, without_torch
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise
from sovereign_pipeline.privacy.spans import Span, value_key

with without_torch():
    from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry, RecognizerResult
    from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer, LemmaContextAwareEnhancer
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

# --- name models as Presidio's language engine ------------------------------------------------------------------------


class TextArtifacts(NlpArtifacts):
    """The entities that a name model found in one text, and the text's words if a recognizer needs context."""

    def __init__(self, entities: Sequence[Entity], words: Any = None, is_letter: bool = False) -> None:
        """
        Args:
            words: the text as a `spacy.tokens.Doc`; None if no recognizer needs the words around a finding.
            is_letter: whether the text may end with a signature.
        """
        # `NormalisedText.with_tabs` of the text, if the text contains tabs.
        self.is_letter = is_letter
        self.with_tabs = ""
        self.entities = list(entities)
        self.tokens = words if words is not None else []
        self.tokens_indices = [token.idx for token in self.tokens]
        self.lemmas = [token.lower_ for token in self.tokens]
        self.keywords = [token.lower_ for token in self.tokens if not token.is_stop and not token.is_punct]
        self.scores = [1.0] * len(self.entities)
        self.nlp_engine = None


class NameModelEngine(NlpEngine):
    """A Presidio NLP engine that runs the name model of one language, or none if names are found by patterns alone."""

    def __init__(self, language: str, model: NameModel | None, *, with_words: bool = False) -> None:
        """
        Args:
            with_words: tokenise texts, for recognizers that use the context of a finding.
        """
        self.language = language
        self._model = model
        self._words: Any = None
        if with_words:
            import spacy

            # Other languages have no tokeniser here: texts are split at spaces and punctuation.
            base = language.split("-")[0]
            self._words = spacy.blank(base if base in ("en", "ar") else "xx")

    def load(self) -> None:
        """Do nothing: the model passed to the constructor is already loaded."""

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> TextArtifacts:
        return next(artifacts for _, artifacts in self.process_batch([text], language))

    def process_batch(
        self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **kwargs: Any
    ) -> Iterator[tuple[str, TextArtifacts]]:
        """Implement Presidio's method. `batch_size` is ignored: the model batches the texts by length itself."""
        batch = list(texts)
        found: Iterable[list[Entity]] = ([] for _ in batch)
        if self._model is not None:
            found = self._model.entities([recased(text) for text in batch])
        for text, entities in zip(batch, found, strict=True):
            yield text, TextArtifacts(entities, self._words(text) if self._words is not None else None)

    def is_stopword(self, word: str, language: str) -> bool:
        return self._words is not None and bool(self._words.vocab[word].is_stop)

    def is_punct(self, word: str, language: str) -> bool:
        return self._words is not None and bool(self._words.vocab[word].is_punct)

    def get_supported_entities(self) -> list[str]:
        return []  # `NameRecognizer` filters the model's entities by the word lists first

    def get_supported_languages(self) -> list[str]:
        return [self.language]


LABELLED, BY_LENGTH = "labelled", "by_length"
"""Keys of a result's metadata, for the fields of `Span` with these names."""
_CERTAIN, _LIKELY, _BY_LENGTH_ALONE = 1.0, 0.85, 0.6
_OF_MODELS: frozenset[Kind] = frozenset({"NAME", "ORGANISATION", "PLACE", "NATIONALITY"})
_STRUCTURED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in _OF_MODELS)


# --- the own recognizers ----------------------------------------------------------------------------------------------


class _OwnRecognizer(EntityRecognizer):
    """A recognizer that reads texts in their normalised form."""

    name: str

    def __init__(self, language: str, kinds: Iterable[Kind], normalised: bool) -> None:
        self._is_normalised = normalised
        super().__init__([ENTITY_OF[kind] for kind in kinds], supported_language=language)

    def load(self) -> None:
        """Do nothing: patterns are compiled at import."""

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
    """A recognizer of structured identifiers in English and Arabic: numbers of persons, cards, accounts and firms,
    phones, e-mail and postal addresses, dates of birth, IP addresses. It runs the usual and the stricter patterns.
    Its findings never overlap."""

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
            also: the kinds of `KEPT_BY_DEFAULT` to detect.
            regions: regions of phone numbers without a prefix.
            normalised: whether the texts are already normalised.
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
    """A recognizer of names of people. It finds names by pattern and word list, and adds the persons of a name model
    that the word lists do not rule out. On request it also reports the model's places, organisations and nationalities.

    If decoding moves words of the text, entities of a spaCy model that Presidio ran count only where the words keep
    their order.
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
            also: those of ORGANISATION, PLACE, NATIONALITY and DATE that the recognizer reports too.
            patterns: the name patterns, built with the recipe's words that are never names.
            normalised: whether the texts are already normalised.
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
    """Return the entities in the artifacts, of this project's name model or of a spaCy model that Presidio ran."""
    found = artifacts.entities if artifacts is not None else []
    return [
        each if isinstance(each, Entity) else Entity(each.start_char, each.end_char, LABELS[each.label_])
        for each in found
        if isinstance(each, Entity) or each.label_ in LABELS
    ]


def _placed(folded: NormalisedText, entities: Sequence[Entity]) -> list[Entity]:
    """Map entities from positions in the original text to positions in the normalised text."""
    if folded.starts is None:
        return list(entities)
    starts = folded.starts
    placed = [Entity(bisect_left(starts, each.start), bisect_left(starts, each.end), each.label) for each in entities]
    return [each for each in placed if each.start < each.end]


# --- the analyzer -----------------------------------------------------------------------------------------------------


class Analysis:
    """An analyzer of texts in one language, configured by one recipe."""

    def __init__(
        self,
        language: str,
        model: NameModel | None,
        patterns: NamePatterns,
        also: Collection[Kind],
        added: Sequence[AddedRecognizer] = (),
        regions: Regions = AROUND,
    ) -> None:
        """
        Args:
            model: the name model; None if names are found by patterns alone.
            also: the kinds of `KEPT_BY_DEFAULT` to detect too.
            added: the recipe's recognizers; those for other languages are ignored.
            regions: regions of phone numbers without a prefix.

        Raises PrivacyError if a recognizer cannot be loaded or misses the value in its canary.
        """
        items = [item for item in added if language in item.languages]
        loaded = [load_recognizer(item, language) for item in items]
        self._added = {recognizer.id: item for recognizer, item in zip(loaded, items, strict=True)}
        self._language = language
        own = (
            IdentifierRecognizer(language, also, regions, normalised=True),
            NameRecognizer(language, also, patterns, normalised=True),
        )
        self._enhancer = LemmaContextAwareEnhancer() if context_is_read(loaded) else _WithoutContext()
        self._model = NameModelEngine(language, model, with_words=context_is_read(loaded))
        self._engine = self._engine_of([*own, *loaded])
        for item, recognizer in zip(items, loaded, strict=True):
            self._try_canary(item, recognizer)

    def artifacts_of(self, texts: Sequence[str]) -> list[TextArtifacts]:
        """Run the name model over normalised texts. Exceptions of the model propagate."""
        return [artifacts for _, artifacts in self._model.process_batch(texts, self._language)]

    def spans(self, text: str, artifacts: TextArtifacts) -> list[Span]:
        """Return every finding in a normalised text, unordered and possibly overlapping. Exceptions of recognizers
        propagate."""
        return [self._span(text, result) for result in self._results(self._engine, text, artifacts)]

    def added_spans(self, text: str) -> list[Span]:
        """Return the findings of the recipe's recognizers alone."""
        if not self._added:
            return []
        results = self._results(self._engine, text, self.artifacts_of([text])[0])
        return [self._span(text, result) for result in results if _recognizer_of(result) in self._added]

    def _engine_of(self, recognizers: list[Any]) -> AnalyzerEngine:
        return AnalyzerEngine(
            registry=RecognizerRegistry(recognizers, supported_languages=[self._language]),
            nlp_engine=self._model,
            supported_languages=[self._language],
            context_aware_enhancer=self._enhancer,
        )

    def _results(self, engine: AnalyzerEngine, text: str, artifacts: TextArtifacts) -> list[Any]:
        # Presidio can skip only the recipe's recognizers.
        with warnings_as_errors() if self._added else nullcontext():
            return engine.analyze(text, self._language, nlp_artifacts=artifacts)

    def _span(self, text: str, result: Any) -> Span:
        item = self._added.get(_recognizer_of(result))
        value = text[result.start : result.end]
        if item is not None:
            kind = kind_of(item, result.entity_type)
            return Span(result.start, result.end, kind, value_key(kind, value), labelled=False)
        kind = KIND_OF[result.entity_type]
        flags = result.recognition_metadata
        return Span(result.start, result.end, kind, value, flags[LABELLED], flags[BY_LENGTH])

    def _try_canary(self, item: AddedRecognizer, recognizer: Any) -> None:
        """Verify a recognizer's canary in an engine of its own: beside other recognizers, Presidio drops one of two
        equal results."""
        folded = normalise(item.canary.text)
        results = self._results(self._engine_of([recognizer]), folded.text, self.artifacts_of([folded.text])[0])
        reject_unless_found(item, [folded.original_span(each.start, each.end) for each in results])


def try_added_recognizers(privacy: Privacy) -> None:
    """Load each recognizer of a recipe, for each of its languages, and verify its canary. Raises PrivacyError."""
    patterns = NamePatterns(privacy.keep_words)
    for language in {language for item in privacy.recognizers for language in item.languages}:
        Analysis(language, None, patterns, (), privacy.recognizers)


def _recognizer_of(result: Any) -> str:
    return str(result.recognition_metadata[result.RECOGNIZER_IDENTIFIER_KEY])


class _WithoutContext(ContextAwareEnhancer):
    """A context enhancer that returns the results unchanged, used if no recognizer needs context. It saves Presidio
    a copy."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, 0)

    def enhance_using_context(self, text: str, raw_results: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return raw_results
