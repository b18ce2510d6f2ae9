"""Load the Presidio recognizers that a recipe adds, and try each on its canary.

Functions that need Presidio import it themselves.
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
from sovereign_pipeline.policy.corpus import AddedRecognizer
from sovereign_pipeline.policy.personal_data import Kind

# Presidio's own names where it has one, so that its operators and other recognizers agree with them.
ENTITY_OF: dict[Kind, str] = {
    "CREDENTIAL": "CREDENTIAL", "EMAIL": "EMAIL_ADDRESS", "IBAN": "IBAN_CODE", "IP": "IP_ADDRESS",
    "COORDINATES": "COORDINATES", "SSN": "US_SSN", "DRIVING_LICENCE": "DRIVING_LICENCE", "NID": "OM_CIVIL_NUMBER",
    "RESIDENT_CARD": "OM_RESIDENT_CARD", "PASSPORT": "PASSPORT", "CR": "OM_COMMERCIAL_REGISTRATION",
    "DATE_OF_BIRTH": "DATE_OF_BIRTH", "ADDRESS": "STREET_ADDRESS", "PO_BOX": "PO_BOX", "PLATE": "VEHICLE_PLATE",
    "PHONE": "PHONE_NUMBER", "CARD": "CREDIT_CARD", "ACCOUNT": "BANK_ACCOUNT", "URL": "URL", "NAME": "PERSON",
    "AGE": "AGE", "DATE": "DATE_TIME", "ORGANISATION": "ORGANIZATION", "PLACE": "LOCATION", "NATIONALITY": "NRP",
}  # fmt: skip
KIND_OF: dict[str, Kind] = {entity: kind for kind, entity in ENTITY_OF.items()}


_PRESIDIO = logging.getLogger("presidio-analyzer")


def load_recognizer(item: AddedRecognizer, language: str) -> Any:
    """Return the `presidio_analyzer.EntityRecognizer` of a recipe entry, for texts of one language.

    Raises PrivacyError if the recognizer cannot be loaded, or returns an entity type that maps to no kind of personal
    data.
    """
    from presidio_analyzer import EntityRecognizer, PatternRecognizer

    _read_suffixes_from_the_package()
    recognizer: EntityRecognizer
    try:
        if item.definition is not None:
            recognizer = PatternRecognizer.from_dict({**item.definition, "supported_language": language})
        else:
            named = _class_of(item)
            if not (isinstance(named, type) and issubclass(named, EntityRecognizer)):  # before it is called
                raise PrivacyError(
                    f"{_place_of(item)} is not a Presidio recognizer.", "Name a subclass of EntityRecognizer."
                )
            _give_transformers(named)
            recognizer = named(supported_language=language, **item.arguments)
    except PrivacyError:
        raise
    except Exception as error:
        raise _load_error(item, error) from error
    recognizer.score_thresholds = {
        "default": item.score
    }  # applied before Presidio drops one of two overlapping results
    unknown = [entity for entity in recognizer.supported_entities if item.kind is None and entity not in KIND_OF]
    if unknown:
        raise PrivacyError(
            f"{_place_of(item)} returns {', '.join(unknown)}, which is not a known kind of personal data.",
            f"Set `kind:` for its findings to one of {', '.join(KIND_OF.values())}.",
        )
    return recognizer


def kind_of(item: AddedRecognizer, entity: str) -> Kind:
    """Return the kind of an added recognizer's finding."""
    return item.kind if item.kind is not None else KIND_OF[entity]


def context_is_read(recognizers: Sequence[Any]) -> bool:
    """Return whether any recognizer uses the words around a finding as context."""
    return any(recognizer.context for recognizer in recognizers)


def recognizer_parts(item: AddedRecognizer) -> dict[str, str]:
    """Return the recognizer's code version: the version of the distribution that contains its class, or the SHA-256
    of each source file if no distribution does. Raises PrivacyError if the recognizer is not installed."""
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


def reject_unless_found(item: AddedRecognizer, findings: Sequence[tuple[int, int]]) -> None:
    """Raise PrivacyError unless the findings cover the value `canary.finds` in the canary text of a recognizer."""
    begin = item.canary.text.index(item.canary.finds)
    wanted = range(begin, begin + len(item.canary.finds))
    if not all(any(start <= place < end for start, end in findings) for place in wanted):
        raise PrivacyError(
            f"{_place_of(item)} did not find what its canary holds. Nothing was written.",
            "Correct the canary, lower `score`, or repair the recognizer.",
        )


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    """Raise RecognizerSkippedError when Presidio logs a warning, such as a pattern that was skipped because it timed
    out."""
    if not _PRESIDIO.isEnabledFor(logging.WARNING):
        raise PrivacyError(
            "Presidio's warnings are switched off, so a pattern that was skipped would go unseen. Nothing was written.",
            "Set the level of the logger 'presidio-analyzer' to WARNING or below.",
        )
    handler = _Raising(logging.WARNING)
    _PRESIDIO.addHandler(handler)
    try:
        yield
    finally:
        _PRESIDIO.removeHandler(handler)


class RecognizerSkippedError(Exception):
    """Raised when Presidio skips a part of a recognizer."""


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RecognizerSkippedError


def _class_of(item: AddedRecognizer) -> Any:
    module, _, name = (item.recognizer or "").rpartition(".")
    return getattr(importlib.import_module(module), name)


def _give_transformers(recognizer: type[Any]) -> None:
    """Import what Presidio's own transformers recognizer needs, which `without_torch` hid."""
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
        "Correct it in the recipe, or install its package from the institution's own mirror.",
    )


def _place_of(item: AddedRecognizer) -> str:
    name = item.recognizer if item.recognizer is not None else (item.definition or {}).get("name", "without a name")
    return f"privacy.recognizers: {name}"


def _read_suffixes_from_the_package() -> None:
    """Make tldextract use its bundled list of public suffixes. Presidio's e-mail recognizer would otherwise download
    it."""
    import tldextract.tldextract

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
