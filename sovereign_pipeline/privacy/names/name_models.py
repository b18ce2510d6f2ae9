"""The name model of a language: where its files are, of which kind it is, loading it.

What belongs here: finding a model in an installed package or a local directory, and refusing one that is not there.
What does not: running one (`spacy_model.py`, `transformers_model.py`), judging what it found (`name_patterns.py`).
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Literal

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.privacy.names.entities import NameModel
from sovereign_pipeline.privacy.names.spacy_model import SpacyModel
from sovereign_pipeline.privacy.names.transformers_model import TransformersModel

ModelKind = Literal["spacy", "transformers"]

# The libraries whose version changes what a model of each kind finds.
LIBRARIES: dict[ModelKind, tuple[str, ...]] = {
    "spacy": ("spacy", "thinc"),
    "transformers": ("tokenizers", "torch", "transformers"),
}


def load_name_model(language: str, model: str) -> NameModel:
    """Load a model from an installed package or a local directory. Raises PrivacyError when it cannot be used."""
    where = f"privacy.name_models.{language}: {model}"
    directory = name_model_directory(model)
    match _kind_of(directory):
        case "spacy":
            return SpacyModel(where, directory if Path(model).is_absolute() else model)
        case "transformers":
            return TransformersModel(where, directory)


def is_spacy_model(model: str) -> bool:
    """Whether it is a spaCy model. Raises PrivacyError when there is no model, or none of a known kind."""
    return _kind_of(name_model_directory(model)) == "spacy"


def name_model_directory(model: str) -> Path:
    """Where a model's files are, without importing it. Raises PrivacyError that says how to get it."""
    if Path(model).is_absolute():
        _kind_of(Path(model))
        return Path(model)
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    if found is None or found.origin is None:
        raise PrivacyError(
            f"The name model '{model}' is not installed.",
            f"Run `pip install {model.replace('_', '-')}` from the institution's own package mirror, or name a local "
            f"directory in privacy.name_models.",
        )
    return Path(found.origin).parent


def name_model_parts(model: str) -> dict[str, str]:
    """All that decides what a model finds: file -> SHA-256, library -> version. Raises PrivacyError."""
    directory = name_model_directory(model)
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {
        **{file.relative_to(directory).as_posix(): file_sha256(file) for file in files},
        **{f"library {name}": importlib.metadata.version(name) for name in LIBRARIES[_kind_of(directory)]},
    }


def _kind_of(directory: Path) -> ModelKind:
    """The kind, by the files there. Raises PrivacyError when there is no model, or none that finds entities."""
    if (directory / "meta.json").is_file():
        return "spacy"
    if not (directory / "config.json").is_file():
        raise PrivacyError(
            f"{directory}: this directory holds no name model: neither meta.json (spaCy) nor config.json "
            f"(transformers).",
            f"On a machine with a network run `hf download PUBLISHER/MODEL --local-dir {directory.name}` and copy the "
            f"result there, or correct privacy.name_models in the recipe.",
        )
    try:
        architectures = json.loads((directory / "config.json").read_text()).get("architectures") or []
    except (ValueError, AttributeError):
        raise PrivacyError(
            f"{directory / 'config.json'}: not a model's configuration.", "Copy the model again."
        ) from None
    if any(str(each).endswith("ForTokenClassification") for each in architectures):
        return "transformers"
    raise PrivacyError(
        f"{directory}: its architecture ({', '.join(map(str, architectures)) or 'none'}) does not label tokens; that "
        f"of a name model ends in ForTokenClassification.",
        "Name another model.",
    )
