"""What a training leaves: an adapter beside its base or, tuned in full, a whole model. Whoever reads one gets it here.

What belongs here: telling the two apart, and where their files are. What does not: loading either.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import IntegrityError

# In the artifact, the file that a directory of either kind is known by; the directory has the kind's name.
_KNOWN_BY = {"adapter": "adapter/adapter_config.json", "model": "model/config.json"}


@dataclass(frozen=True)
class TunedModel:
    """holds: `adapter`, an ordinary PEFT directory that needs its base; or `model`, an ordinary transformers directory
    with tokenizer that stands alone."""

    holds: Literal["adapter", "model"]
    directory: Path

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files with the weights: one, or the shards of a large model in order. Raises IntegrityError for none."""
        files = tuple(sorted(self.directory.glob("*.safetensors")))
        if not files:
            raise IntegrityError(f"{self.directory}: there are no weights in *.safetensors. Train again.")
        return files

    @property
    def weights_sha256(self) -> str:
        """Of the one file, or over the names and SHA-256 of all shards."""
        digests = {file.name: file_sha256(file) for file in self.weights}
        return digest_of(digests) if len(digests) > 1 else next(iter(digests.values()))


def tuned_model(artifact: Artifact) -> TunedModel:
    """What a sft_adapter or aligned_adapter artifact holds. Raises IntegrityError unless it is exactly one of them."""
    names = {entry.path for entry in artifact.manifest.files}
    if _KNOWN_BY["adapter"] in names and _KNOWN_BY["model"] not in names:
        return TunedModel("adapter", artifact.path / "adapter")
    if _KNOWN_BY["model"] in names and _KNOWN_BY["adapter"] not in names:
        return TunedModel("model", artifact.path / "model")
    raise IntegrityError(
        f"{artifact.path}: this {artifact.ref.kind} must hold either {_KNOWN_BY['adapter']} or {_KNOWN_BY['model']}. "
        f"Materialize it again."
    )
