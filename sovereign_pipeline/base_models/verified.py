"""Verifying and describing a model directory.

What belongs here: hashing every file, and reading facts without loading the model. Whoever reads a model directory gets
it from `open_base_model`. What does not: cards (`cards.py`), and getting the files (`fetching.py`).
"""

import json
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import IntegrityError, RecipeError
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base_models.cards import BaseModelCard, card_path, load_card, model_directory

DESCRIPTOR = "base_model.json"


def verify(settings: Settings, card: BaseModelCard, progress: Progress) -> None:
    """Raise IntegrityError naming the first file of the model directory that is missing, extra or changed."""
    verify_files(model_directory(settings, card), card.name, card.files, progress)


def open_base_model(settings: Settings, base_model: Artifact, progress: Progress) -> Path:
    """The directory of the model that a base_model artifact describes, every file verified.

    Raises IntegrityError naming the first file that is missing, extra or changed.
    """
    descriptor = read_descriptor(base_model)
    directory = _directory_of(settings, descriptor["name"])
    verify_files(directory, descriptor["name"], descriptor["files"], progress)
    return directory


def _directory_of(settings: Settings, name: str) -> Path:
    """Where its card says. An auditor's copy has no cards, and the model under the home."""
    under_home = settings.models / name
    if not card_path(settings, name).exists() and under_home.is_dir():
        return under_home
    return model_directory(settings, load_card(settings, name))


def read_descriptor(base_model: Artifact) -> dict[str, Any]:
    """The content of `base_model.json`, as `describe` returns it."""
    content: dict[str, Any] = json.loads(base_model.file(DESCRIPTOR).read_bytes())
    return content


def describe(settings: Settings, card: BaseModelCard) -> dict[str, Any]:
    """The content of `base_model.json`, read from the verified files without loading the model.

    `digest` is over all files, `parameters` counts the elements of the weight files, `eos_ids` are the token ids that
    end a generated turn. Raises RecipeError for a chat template that shows today's date.
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
    """The chat template's text. Raises IntegrityError for a model without one, which has no turns."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = json.loads((directory / "tokenizer_config.json").read_bytes()).get("chat_template")
    if not isinstance(template, str):
        raise IntegrityError(f"{directory}: the tokenizer has no chat template.", "Use the model's instruct variant.")
    return template


def refuse_todays_date(template: str, directory: Path) -> None:
    """Raise RecipeError for a chat template that shows the day on which it is used, as Llama 3.2's does.

    A training that runs past midnight would see other prompts, and an answer would depend on the day. No fixed day is
    put in its place here: training, evaluation and serving all read the template, so it is set there.
    """
    if "strftime_now" in template:
        raise RecipeError(
            f"{directory}: the chat template shows today's date (strftime_now), so the same inputs would not make the "
            f"same adapter.",
            "In a copy of the model, replace it by a fixed date in quotes. Then name the copy and the new SHA-256 in "
            "the model's card.",
        )


def eos_ids(directory: Path) -> list[int]:
    """Token ids at which generation stops. Raises IntegrityError when the model names none."""
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        found = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return sorted(found) if isinstance(found, list) else [found]
    raise IntegrityError(
        f"{directory}: neither generation_config.json nor config.json names an eos token id.",
        "Use a complete copy of the model.",
    )


def _parameters(directory: Path) -> int:
    """Number of elements over all safetensors files, from their headers (8 bytes of length, then JSON)."""
    total = 0
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                total += prod(tensor["shape"])
    if total == 0:
        raise IntegrityError(f"{directory}: there are no weights in *.safetensors.", "Use a model in that format.")
    return total


def verify_files(directory: Path, name: str, files: dict[str, str], progress: Progress) -> None:
    """Compare a model directory with the pinned digests. `files`: relative path -> SHA-256.

    Raises IntegrityError naming the first file that is missing, extra or changed.
    """
    if not directory.is_dir():
        raise IntegrityError(
            f"{directory}: the base model {name} is missing.", "Fetch or restore it.", act="fetch_model", model=name
        )
    present = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if not file.is_dir()}
    for extra in sorted(present - files.keys()):
        raise IntegrityError(f"{directory / extra}: this file does not belong to the base model {name}.", "Remove it.")
    restore = f"Restore it, or remove {directory} and fetch the model again."
    sizes = {file: (directory / file).stat().st_size for file in files if file in present}
    work, hashed = Countdown(progress, f"verifying the base model {name}", sum(sizes.values()), "byte"), 0
    for file, digest in sorted(files.items()):
        path = directory / file
        if file not in present:
            raise IntegrityError(
                f"{path}: the file is missing from the base model {name}.", restore, act="fetch_model", model=name
            )
        if file_sha256(path) != digest:
            raise IntegrityError(
                f"{path}: these are not the pinned bytes of the base model {name}.",
                restore,
                act="fetch_model",
                model=name,
            )
        hashed += sizes[file]
        work.reached(hashed)
