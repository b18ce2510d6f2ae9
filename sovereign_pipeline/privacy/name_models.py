"""Names of people, places, organisations and dates by a trained model of one language.

What belongs here: loading a model from an installed package or a local directory, refusing one that is not there or
cannot be trusted, asking it for entities. What does not: judging what it found (`name_patterns.py`).
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from sovereign_pipeline.errors import PrivacyError

Label = Literal["PERSON", "PLACE", "ORGANISATION", "NATIONALITY", "DATE"]

# What each label set calls them: OntoNotes 5 (spaCy), CoNLL 2003 and ANERcorp, Wojood. Every other label is left out.
LABELS: dict[str, Label] = {
    "PER": "PERSON",
    "PERS": "PERSON",
    "PERSON": "PERSON",
    "GPE": "PLACE",
    "LOC": "PLACE",
    "FAC": "PLACE",
    "ORG": "ORGANISATION",
    "NORP": "NATIONALITY",
    "DATE": "DATE",
    "TIME": "DATE",
}


class Entity(NamedTuple):
    """Characters start to end (exclusive) of a text, and what the model takes them for."""

    start: int
    end: int
    label: Label


class NameModel(Protocol):
    """A loaded model of one language."""

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """For each text the entities whose label is in LABELS, in reading order. Raises what the model raises."""
        ...


def load_name_model(language: str, model: str) -> NameModel:
    """Load a model from an installed package or a local directory. Raises PrivacyError when it cannot be used."""
    return SpacyModel(language, model, name_model_directory(model))


class SpacyModel:
    """A spaCy model, with only the parts that find entities."""

    def __init__(self, language: str, model: str, directory: Path) -> None:
        """model: as the recipe names it. directory: where it is. Raises PrivacyError."""
        import spacy

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
        _refuse_without_persons(
            language, model, {label for pipe in self._pipeline.pipe_labels.values() for label in pipe}
        )
        _drop_unheard_vectors(self._pipeline)

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """As NameModel says, in batches of 64 texts."""
        for document in self._pipeline.pipe(texts, batch_size=64):
            yield [
                Entity(entity.start_char, entity.end_char, LABELS[entity.label_])
                for entity in document.ents
                if entity.label_ in LABELS
            ]


def _refuse_without_persons(language: str, model: str, labels: set[str]) -> None:
    if not any(LABELS.get(label) == "PERSON" for label in labels):
        raise PrivacyError(
            f"privacy.name_models.{language}: {model} does not find persons: none of its labels is one of "
            f"{', '.join(label for label, kind in LABELS.items() if kind == 'PERSON')}. Name another model."
        )


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
