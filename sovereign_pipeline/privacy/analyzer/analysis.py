"""One language's texts through Presidio's `AnalyzerEngine`: the own recognizers, the added ones, the name model.

What belongs here: putting the engine together and reading its results. What does not: which texts are searched, and
what becomes of the findings (`detection.py`). Imports Presidio, so import it inside functions alone.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer, LemmaContextAwareEnhancer

from sovereign_pipeline.policy.corpus import AddedRecognizer, Privacy
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.analyzer.added_recognizers import (
    context_is_read,
    kind_of,
    load_recognizer,
    refuse_unless_found,
    stopping_at_warnings,
)
from sovereign_pipeline.privacy.analyzer.artifacts import NameModelEngine, TextArtifacts
from sovereign_pipeline.privacy.analyzer.entities import KIND_OF
from sovereign_pipeline.privacy.analyzer.own_recognizers import (
    BY_LENGTH,
    LABELLED,
    IdentifierRecognizer,
    NameRecognizer,
)
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.names.entities import NameModel
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span, value_key


class Analysis:
    """The analyzer of one language and recipe."""

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
            model: None where names are found by patterns alone.
            also: the kinds of `KEPT_BY_DEFAULT` that are looked for too.
            added: the recipe's recognizers; those for other languages are left out.
            regions: where phones without a prefix are from.

        Raises PrivacyError when one of them cannot be loaded, or does not find what its canary holds.
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
        """What the name model finds in each of these normalised texts. Raises what the model raises."""
        return [artifacts for _, artifacts in self._model.process_batch(texts, self._language)]

    def spans(self, text: str, artifacts: TextArtifacts) -> list[Span]:
        """Every finding in a normalised text, in no order; some may overlap. Raises what a recognizer raises."""
        return [self._span(text, result) for result in self._results(self._engine, text, artifacts)]

    def added_spans(self, text: str) -> list[Span]:
        """The findings of the recipe's recognizers alone."""
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
        # Without recognizers of others there is nothing that Presidio could skip.
        with stopping_at_warnings() if self._added else nullcontext():
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
        """Alone: beside the others, Presidio drops one of two equal findings."""
        folded = normalise(item.canary.text)
        results = self._results(self._engine_of([recognizer]), folded.text, self.artifacts_of([folded.text])[0])
        refuse_unless_found(item, [folded.original_span(each.start, each.end) for each in results])


def try_added_recognizers(privacy: Privacy) -> None:
    """Load each recognizer of a recipe, for each of its languages, and try its canary. Raises PrivacyError."""
    patterns = NamePatterns(privacy.keep_words)
    for language in {language for item in privacy.recognizers for language in item.languages}:
        Analysis(language, None, patterns, (), privacy.recognizers)


def _recognizer_of(result: Any) -> str:
    return str(result.recognition_metadata[result.RECOGNIZER_IDENTIFIER_KEY])


class _WithoutContext(ContextAwareEnhancer):
    """No recognizer reads words around its findings, so nothing is copied to be changed."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, 0)

    def enhance_using_context(self, text: str, raw_results: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return raw_results
