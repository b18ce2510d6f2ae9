"""Names of people by a trained model of one language, from an installed package or a local directory.

What belongs here: loading a model, refusing one that is not there, asking it for persons. What does not: judging what
it found (`name_patterns.py`).
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.errors import PrivacyError


class NameModel:
    """A spaCy model of one language, with only the parts that find entities."""

    def __init__(self, language: str, model: str) -> None:
        """model: an installed package or a local directory. Raises PrivacyError when it is neither, or no model."""
        import spacy

        directory = name_model_directory(model)
        try:
            self._pipeline: Any = spacy.load(
                directory if Path(model).is_absolute() else model,
                exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter", "morphologizer"],
            )
        except (OSError, ValueError) as error:
            raise PrivacyError(
                f"privacy.name_models.{language}: {model} cannot be loaded as a spaCy model ({type(error).__name__}). "
                f"Install it again, or name another one."
            ) from None
        _drop_unheard_vectors(self._pipeline)

    def persons(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int]]]:
        """For each text the spans that the model takes for a person, in batches. Only PERSON and PER count."""
        for document in self._pipeline.pipe(texts, batch_size=64):
            yield [
                (entity.start_char, entity.end_char) for entity in document.ents if entity.label_ in ("PERSON", "PER")
            ]


def _drop_unheard_vectors(pipeline: Any) -> None:
    """A shared tok2vec that the entity recognizer does not listen to costs a third of the time and changes nothing."""
    if "tok2vec" in pipeline.pipe_names and "ner" in pipeline.pipe_names:
        listeners = pipeline.get_pipe("tok2vec").listening_components
        if "ner" not in listeners:
            pipeline.remove_pipe("tok2vec")


def name_model_directory(model: str) -> Path:
    """Where a model's files are, without importing it. Raises PrivacyError that names the command to install it."""
    if Path(model).is_absolute():
        if (Path(model) / "meta.json").is_file():
            return Path(model)
        raise PrivacyError(f"{model}: there is no spaCy model in this directory (no meta.json). Correct the recipe.")
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    if found is None or found.origin is None:
        raise PrivacyError(
            f"The name model '{model}' is not installed. Run `pip install {model.replace('_', '-')}` from the "
            f"institution's own package mirror, or name a local directory in privacy.name_models."
        )
    return Path(found.origin).parent
