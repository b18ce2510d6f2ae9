"""Run the Presidio recognizers that a recipe adds.

Presidio is slow to import. Import this module inside functions only.
"""

import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.policy.corpus import AddedRecognizer, Privacy
from sovereign_pipeline.privacy.names.name_models import without_torch
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import KIND_FACTS, Span

with without_torch():
    from presidio_analyzer import (
        AnalyzerEngine,
        EntityRecognizer,
        PatternRecognizer,
        RecognizerRegistry,
        RecognizerResult,
    )
    from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine

KIND_OF = {facts["entity"]: kind for kind, facts in KIND_FACTS.items()}


class AddedRecognizers:
    """Runs the recognizers that a recipe adds for one language, in Presidio's `AnalyzerEngine`."""

    def __init__(self, items: Sequence[AddedRecognizer], language: str) -> None:
        """
        Args:
            items: the recipe's recognizers. Recognizers for other languages are ignored.

        Raises PrivacyError if a recognizer cannot be loaded, misses the value in its canary, or, without `kind` in the
        recipe, returns an entity type that maps to no kind of personal data.
        """
        items = [item for item in items if language in item.languages]
        loaded = [_load(item, language) for item in items]
        self._language = language
        self._items = {recognizer.id: item for recognizer, item in zip(loaded, items, strict=True)}
        self._words = _Words(language)
        self._engine = self._engine_of(loaded) if loaded else None
        for item, recognizer in zip(items, loaded, strict=True):
            self._try_canary(item, recognizer)

    def spans(self, text: str) -> list[Span]:
        """Return the findings in a normalised text. Findings may overlap. Recognizers' exceptions propagate. Raises
        RecognizerSkippedError if Presidio skips a part of a recognizer."""
        if self._engine is None:  # an empty registry would load Presidio's own recognizers
            return []
        return [self._span(text, result) for result in _results(self._engine, text, self._language)]

    def _engine_of(self, recognizers: list[Any]) -> AnalyzerEngine:
        languages = [self._language]
        registry = RecognizerRegistry(recognizers, supported_languages=languages)
        return AnalyzerEngine(registry=registry, nlp_engine=self._words, supported_languages=languages)

    def _span(self, text: str, result: RecognizerResult) -> Span:
        item = self._items[result.recognition_metadata[RecognizerResult.RECOGNIZER_IDENTIFIER_KEY]]
        kind = item.kind if item.kind is not None else KIND_OF[result.entity_type]
        return Span(result.start, result.end, kind, text[result.start : result.end], labelled=False)

    def _try_canary(self, item: AddedRecognizer, recognizer: EntityRecognizer) -> None:
        """Raise PrivacyError unless the recognizer finds the value in its canary. The recognizer runs in a separate
        engine: if two recognizers of one engine return equal results, Presidio drops one of the results."""
        folded = normalise(item.canary.text)
        results = _results(self._engine_of([recognizer]), folded.text, self._language)
        found = [range(*folded.original_span(each.start, each.end)) for each in results]
        begin = item.canary.text.index(item.canary.finds)
        if not all(any(place in each for each in found) for place in range(begin, begin + len(item.canary.finds))):
            raise PrivacyError(
                f"{_place_of(item)} did not find the canary's value (`finds`). Nothing was written.",
                "Correct the canary, lower `score`, or repair the recognizer.",
            )


def try_added_recognizers(privacy: Privacy) -> None:
    """Load each added recognizer of a recipe in each of the recognizer's languages, and run it on its canary. Raises
    PrivacyError as `AddedRecognizers` does."""
    for language in {language for item in privacy.recognizers for language in item.languages}:
        AddedRecognizers(privacy.recognizers, language)


def recognizer_parts(item: AddedRecognizer) -> dict[str, str]:
    """Return a dict that identifies the code of a recognizer's class. `library NAME` is the version of a distribution
    that provides the class's top-level package. Without such a distribution, the dict has the SHA-256 of each of the
    package's files. It is empty if there is no class. Raises PrivacyError if the class cannot be imported."""
    if item.recognizer is None:
        return {}
    try:
        source = Path(inspect.getfile(_class_of(item)))
    except Exception as error:
        raise _load_error(item, error) from error
    package = item.recognizer.partition(".")[0]
    distributions = importlib.metadata.packages_distributions().get(package, [])
    if distributions:
        return {f"library {name}": importlib.metadata.version(name) for name in sorted(set(distributions))}
    root = next((parent for parent in source.parents if parent.name == package), None)
    files = sorted(root.rglob("*.py")) if root is not None else [source]
    return {file.relative_to(root or source.parent).as_posix(): file_sha256(file) for file in files}


class _Words(SpacyNlpEngine):
    """A Presidio NLP engine that only splits a text into words, for recognizers that use the words around a finding."""

    def __init__(self, language: str) -> None:
        import spacy

        super().__init__()
        base = language.split("-")[0]
        # For other languages, spaCy's generic tokeniser splits texts at spaces and punctuation.
        self._split = spacy.blank(base if base in ("en", "ar") else "xx")
        self.nlp: Any = {language: self._split}

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        words = self._split(text)
        return NlpArtifacts([], words, [word.idx for word in words], [word.lower_ for word in words], self, language)


def _load(item: AddedRecognizer, language: str) -> Any:
    """Create the recognizer that an entry of the recipe describes, for texts in one language."""
    _read_suffixes_from_the_package()
    recognizer: EntityRecognizer
    try:
        if item.definition is not None:
            recognizer = PatternRecognizer.from_dict({**item.definition, "supported_language": language})
        else:
            named = _class_of(item)
            if not (isinstance(named, type) and issubclass(named, EntityRecognizer)):  # before the class is called
                raise PrivacyError(
                    f"{_place_of(item)} is not a Presidio recognizer.", "Name a subclass of EntityRecognizer."
                )
            _give_transformers(named)
            recognizer = named(supported_language=language, **item.arguments)
    except PrivacyError:
        raise
    except Exception as error:
        raise _load_error(item, error) from error
    # Presidio applies this threshold before it drops one of two overlapping results.
    recognizer.score_thresholds = {"default": item.score}
    unknown = [entity for entity in recognizer.supported_entities if item.kind is None and entity not in KIND_OF]
    if unknown:
        raise PrivacyError(
            f"{_place_of(item)} returns {', '.join(unknown)}, which is not a known kind of personal data.",
            f"Set `kind:` for its findings to one of {', '.join(KIND_OF.values())}.",
        )
    return recognizer


def _class_of(item: AddedRecognizer) -> Any:
    module, _, name = (item.recognizer or "").rpartition(".")
    return getattr(importlib.import_module(module), name)


def _give_transformers(recognizer: type[Any]) -> None:
    """Set torch and transformers in Presidio's Hugging Face recognizer. `without_torch` hid them during the import."""
    of_presidio: Any = importlib.import_module(
        "presidio_analyzer.predefined_recognizers.ner.huggingface_ner_recognizer"
    )
    if issubclass(recognizer, of_presidio.HuggingFaceNerRecognizer) and of_presidio.torch is None:
        import torch
        import transformers

        of_presidio.torch, of_presidio.hf_pipeline = torch, transformers.pipeline


def _load_error(item: AddedRecognizer, error: Exception) -> PrivacyError:
    return PrivacyError(
        f"{_place_of(item)} cannot be loaded ({type(error).__name__}).",
        "Correct this entry of the recipe, or install the recognizer's package from the institution's own mirror.",
    )


def _place_of(item: AddedRecognizer) -> str:
    name = item.recognizer if item.recognizer is not None else (item.definition or {}).get("name", "without a name")
    return f"privacy.recognizers: {name}"


def _read_suffixes_from_the_package() -> None:
    """Make tldextract use its bundled list of public suffixes. Presidio's e-mail recognizer would otherwise download
    the current list."""
    import tldextract.tldextract

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


_PRESIDIO = logging.getLogger("presidio-analyzer")


def _results(engine: AnalyzerEngine, text: str, language: str) -> list[RecognizerResult]:
    with _warnings_as_errors():
        return engine.analyze(text, language)


@contextmanager
def _warnings_as_errors() -> Iterator[None]:
    """In this context, raise RecognizerSkippedError when Presidio logs a warning, such as a pattern skipped after a
    timeout. Raises PrivacyError if Presidio's warnings are switched off."""
    if not _PRESIDIO.isEnabledFor(logging.WARNING):
        raise PrivacyError(
            "Presidio's warnings are switched off, so a skipped pattern would go unnoticed. Nothing was written.",
            "Set the level of the logger 'presidio-analyzer' to WARNING or below.",
        )
    handler = _Raising(logging.WARNING)
    _PRESIDIO.addHandler(handler)
    try:
        yield
    finally:
        _PRESIDIO.removeHandler(handler)


class RecognizerSkippedError(Exception):
    """Raised when Presidio skips a part of a recognizer, such as a pattern."""


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RecognizerSkippedError
