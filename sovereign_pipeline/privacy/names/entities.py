"""What a name model finds, whatever library it is of: entities with one set of labels.

What belongs here: the labels, and what every model must be able to do. What does not: a library's own models
(`spacy_model.py`, `transformers_model.py`), choosing and loading one (`name_models.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from sovereign_pipeline.base.errors import PrivacyError

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
    """A half-open span of a text, and what the model takes it for."""

    start: int
    end: int
    label: Label


class NameModel(Protocol):
    """A loaded model of one language."""

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """For each text the entities whose label is in LABELS, in reading order. Raises what the model raises."""
        ...


def refuse_without_persons(where: str, labels: Iterable[str]) -> None:
    """Raise PrivacyError when none of a model's own labels stands for persons. `where` begins the message."""
    if not any(LABELS.get(label) == "PERSON" for label in labels):
        persons = ", ".join(label for label, kind in LABELS.items() if kind == "PERSON")
        raise PrivacyError(
            f"{where} finds no persons: none of its labels is one of {persons}.",
            "Name another model, or correct its labels (`id2label` in config.json).",
        )


def cannot_be_loaded(where: str, kind: str, error: Exception) -> PrivacyError:
    """The error for a model that its library does not load. `where` begins the message."""
    return PrivacyError(
        f"{where} cannot be loaded as a {kind} model ({type(error).__name__}).",
        "Install or copy the model again, or name another one.",
    )
