"""Our name models as Presidio's language engine: a batch of texts at a time, and what was found in each.

What belongs here: the engine, and the artifacts that it hands to the recognizers. What does not: a model
(`names/spacy_model.py`, `names/transformers_model.py`). Imports Presidio, so import it inside functions alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

from sovereign_pipeline.privacy.names.entities import Entity, NameModel
from sovereign_pipeline.privacy.names.recasing import recased


class TextArtifacts(NlpArtifacts):
    """What a name model found in one text, and its words where a recognizer asks for context."""

    def __init__(self, entities: Sequence[Entity], words: Any = None, is_letter: bool = False) -> None:
        """
        Args:
            words: the text as a `spacy.tokens.Doc`; None when no recognizer reads the words around a finding.
            is_letter: the text may end with a signature.
        """
        # `NormalisedText.with_tabs` of the text, where it holds any.
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
    """A name model of one language, or none, where names are found by patterns alone."""

    def __init__(self, language: str, model: NameModel | None, *, with_words: bool = False) -> None:
        """
        Args:
            with_words: cut texts into words, for recognizers that read the context of a finding.
        """
        self.language = language
        self._model = model
        self._words: Any = None
        if with_words:
            import spacy

            # Languages without rules of their own are cut at spaces and punctuation.
            base = language.split("-")[0]
            self._words = spacy.blank(base if base in ("en", "ar") else "xx")

    def load(self) -> None:
        """Nothing: the model is loaded when it is given."""

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> TextArtifacts:
        return next(artifacts for _, artifacts in self.process_batch([text], language))

    def process_batch(
        self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **kwargs: Any
    ) -> Iterator[tuple[str, TextArtifacts]]:
        """See Presidio. All texts are one batch, whatever `batch_size` says: the model cuts it by length itself."""
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
        return []  # what the model found counts only once the word lists have judged it (`NameRecognizer`)

    def get_supported_languages(self) -> list[str]:
        return [self.language]
