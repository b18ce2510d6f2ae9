"""What is found in one text, as a pure function of the text: identifiers, names by pattern, names by model.

What belongs here: the order in which detectors run, which of two findings wins, their written form, and the digest of
all that decides them. What does not: what an identifier or a name looks like (`recognizers.py`, `name_patterns.py`),
anything that depends on the other texts of a case (`scrubbing.py`).
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.artifacts.making import library_versions
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.privacy.identifiers.recognizers import Span, structured_spans, value_key, without_overlaps
from sovereign_pipeline.privacy.names.name_models import Entity, NameModel, load_name_model
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, recased
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise

_SPAN = struct.Struct("<IIBB")  # start, end, index of the kind, flags
_LABELLED, _BY_LENGTH = 1, 2

Found = TypeVar("Found")


class Text(NamedTuple):
    """One field of one document. key: digest of all of it that the detectors are given. row: the document's id.
    is_letter: it may end with a signature."""

    key: bytes
    row: str
    language: str
    is_letter: bool
    normalised: NormalisedText
    is_canary: bool = False

    @classmethod
    def of(cls, row: str, language: str, is_letter: bool, original: str, is_canary: bool = False) -> "Text":
        key = sha256(f"{language}\0{is_letter:d}\0{original}".encode("utf-8", "surrogatepass")).digest()
        return cls(key, row, language, is_letter, normalise(original), is_canary)

    @property
    def original(self) -> str:
        return self.normalised.original


class Detector:
    """The detectors of one recipe. A name model is loaded when a text of its language is first searched."""

    def __init__(self, privacy: Privacy, treatments: Treatments) -> None:
        """treatments: what is done with each kind; those that are kept unless asked for are searched only then."""
        self.patterns = NamePatterns(privacy.keep_words)
        self._asked = frozenset(kind for kind in KEPT_BY_DEFAULT if treatments.get(kind, "keep") != "keep")
        self._models: dict[str, NameModel] = {}
        self._name_models = privacy.name_models

    def find(self, texts: Sequence[Text]) -> list[bytes]:
        """What is in each text, in its written form (`read_findings`).

        Raises PrivacyError when a detector raises (naming the row), or when a name model finds nobody in the canary
        of its language that is among the texts.
        """
        entities: dict[Text, list[Entity]] = {}
        for language in dict.fromkeys(text.language for text in texts):
            if language in self._name_models:
                entities |= self._by_model(language, [text for text in texts if text.language == language])
        return [
            guarded("the recognizers", text.row, partial(self._find, text, entities.get(text, []))) for text in texts
        ]

    def _find(self, text: Text, entities: Sequence[Entity]) -> bytes:
        content = text.normalised.text
        names = self.patterns.spans(content, entities, signed=text.is_letter)
        others = [
            Span(start, end, label, content[start:end], labelled=False)
            for start, end, label in entities
            if label != "PERSON" and label in self._asked
        ]
        return _written(without_overlaps([*structured_spans(content, self._asked), *names, *others]))

    def _by_model(self, language: str, texts: Sequence[Text]) -> dict[Text, list[Entity]]:
        found = _entities(self._model(language), texts)
        canaries = [entities for text, entities in found.items() if text.is_canary]
        persons = [entity for entities in canaries for entity in entities if entity.label == "PERSON"]
        if canaries and not persons:
            raise PrivacyError(
                f"The name model of language '{language}' found no person in the canary text, so it finds none "
                f"elsewhere. Nothing was written. Install the model again, or name another one in the recipe."
            )
        return found

    def _model(self, language: str) -> NameModel:
        if language not in self._models:
            self._models[language] = load_name_model(language, self._name_models[language])
        return self._models[language]


def read_findings(content: bytes, text: NormalisedText) -> list[Span] | None:
    """The spans behind the written form, or None when it does not fit the text. Their keys are taken from the text."""
    if len(content) % _SPAN.size:
        return None
    spans: list[Span] = []
    position = 0
    for start, end, kind, flags in _SPAN.iter_unpack(content):
        if not position <= start < end <= len(text.text) or kind >= len(KINDS):
            return None
        key = _key(text.text, start, end, kind)
        spans.append(Span(start, end, KINDS[kind], key, bool(flags & _LABELLED), bool(flags & _BY_LENGTH)))
        position = end
    return spans


def detector_digest(
    privacy: Privacy, treatments: Treatments, name_model_digests: Mapping[str, str], libraries: tuple[str, ...]
) -> str:
    """Digest of all that decides what is found: recipe, policy, models, libraries, and this room's own code.

    The code is taken as it stands, not by a version that somebody must remember to raise.
    """
    return digest_of(
        {
            "privacy": privacy.model_dump(mode="json"),
            "treatments": dict(treatments),
            "models": dict(name_model_digests),
            "libraries": library_versions(libraries),
            "code": {file.name: file_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))},
        }
    )


def _written(spans: Sequence[Span]) -> bytes:
    return b"".join(
        _SPAN.pack(
            span.start,
            span.end,
            KINDS.index(span.kind),
            _LABELLED * span.labelled | _BY_LENGTH * span.by_length,
        )
        for span in spans
    )


_NAME = KINDS.index("NAME")
_value_key = lru_cache(maxsize=65_536)(value_key)  # one value stands several times in a case
_BY_THEIR_TEXT = frozenset(KINDS.index(kind) for kind in ("PLACE", "ORGANISATION", "NATIONALITY"))


def _key(text: str, start: int, end: int, kind: int) -> str:
    value = text[start:end]
    if kind in _BY_THEIR_TEXT:
        return value
    if kind != _NAME:
        return _value_key(KINDS[kind], value)
    # The article after the Arabic preposition "ل" has lost its first letter.
    return f"ا{value}" if text[start - 1 : start + 1] == "لل" else value


def _entities(model: NameModel, texts: Sequence[Text]) -> dict[Text, list[Entity]]:
    """All that the model found; when it raises, the text that makes it raise is looked for so that its row is named."""
    try:
        return _entities_in(model, texts)
    except Exception:
        for text in texts:
            guarded("the name model", text.row, partial(_entities_in, model, [text]))
        raise PrivacyError(
            f"The name model raised in a batch that begins with row {texts[0].row}, and in none of its texts alone. "
            f"Nothing was written. Run again; if it stays, reinstall the model."
        ) from None


def _entities_in(model: NameModel, texts: Sequence[Text]) -> dict[Text, list[Entity]]:
    found = model.entities([recased(text.normalised.text) for text in texts])
    return dict(zip(texts, found, strict=True))


def guarded(detector: str, row: str, find: Callable[[], Found]) -> Found:
    """Run a detector; whatever it raises stops the scrubbing and names the row. The cause may quote text: not kept."""
    try:
        return find()
    except Exception as error:
        raise PrivacyError(
            f"Row {row}: {detector} raised {type(error).__name__}, so it is not known what the row holds. Nothing was "
            f"written. Correct the row or the detector, and run again."
        ) from None
