"""Read the result of a training run (an adapter or a whole model), and decide which adapters an engine can serve."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.store import Artifact

ADAPTER_DIRECTORY = "adapter"
"""Name of the PEFT directory in the artifact."""
MODEL_DIRECTORY = "model"
"""Name of the directory in the artifact of a full tuning. It contains the model and its tokenizer for transformers."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_WEIGHTS = "*.safetensors"
_ADAPTER_MARK = f"{ADAPTER_DIRECTORY}/{ADAPTER_CONFIG}"
_MODEL_MARK = f"{MODEL_DIRECTORY}/config.json"


@dataclass(frozen=True)
class TunedModel:
    """A trained adapter or a fully tuned model, and the directory of its files."""

    holds: Literal["adapter", "model"]
    directory: Path

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files: a single file, or the sorted shards of a large model. Raises IntegrityError if there are no
        weight files."""
        files = tuple(sorted(self.directory.glob(_WEIGHTS)))
        if not files:
            raise IntegrityError(f"{self.directory}: there is no *.safetensors file with weights.", "Train again.")
        return files

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the single weight file. For several shards, one SHA-256 over the shards' names and digests."""
        return _over({file.name: file_sha256(file) for file in self.weights})


def stated_weights(manifest: Manifest) -> str:
    """Return the same value as `TunedModel.weights_sha256`, computed from the manifest of an sft_adapter or
    aligned_adapter. No weight file is read."""
    directories = {ADAPTER_DIRECTORY, MODEL_DIRECTORY}
    paths = {PurePosixPath(entry.path): entry.sha256 for entry in manifest.files}
    return _over(
        {
            path.name: digest
            for path, digest in paths.items()
            if str(path.parent) in directories and path.match(_WEIGHTS)
        }
    )


def _over(digests: Mapping[str, str]) -> str:
    return digest_of(dict(digests)) if len(digests) != 1 else next(iter(digests.values()))


def tuned_model(artifact: Artifact) -> TunedModel:
    """Return the adapter or model in an sft_adapter or aligned_adapter. Raises IntegrityError if the artifact contains
    neither or both."""
    names = {entry.path for entry in artifact.manifest.files}
    if _ADAPTER_MARK in names and _MODEL_MARK not in names:
        return TunedModel("adapter", artifact.path / ADAPTER_DIRECTORY)
    if _MODEL_MARK in names and _ADAPTER_MARK not in names:
        return TunedModel("model", artifact.path / MODEL_DIRECTORY)
    raise IntegrityError(
        f"{artifact.path}: this {artifact.ref.kind} must contain either {_ADAPTER_MARK} or {_MODEL_MARK}.",
        f"Materialize {artifact.ref.kind} again.",
    )


DONE = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",  # has an effect only with megatron_config
        "peft_type",
        "peft_version",
        "qalora_group_size",  # has an effect only with use_qalora
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Keys of `adapter_config.json` that cannot make an engine's output differ from PEFT's, regardless of their values."""
BEGUN = (True, False, None, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base model unchanged."""
NAMES = {"use_dora": "DoRA", "modules_to_save": "modules that are saved whole"}


def refused_by_engines(config: Mapping[str, Any]) -> list[str]:
    """Return the reasons why no engine serves an adapter with this `adapter_config.json`; empty if there is no reason.
    A key with an unknown meaning counts as unsupported, unless its value is empty."""
    if config.get("peft_type") != "LORA":
        return [f"the engine serves only LoRA adapters, and this is {config.get('peft_type')}"]
    reasons = [
        f"the engine does not support {NAMES.get(key, key)}"
        for key, value in sorted(config.items())
        if key not in DONE | {"bias", "init_lora_weights"} and value not in (None, False, [], {})
    ]
    if config.get("bias", "none") != "none":
        reasons.append("the engine does not support bias")
    if config.get("init_lora_weights", True) not in BEGUN:
        reasons.append(f"init_lora_weights {config['init_lora_weights']} changed the base model")
    return reasons


def refused_by_vllm(config: Mapping[str, Any], largest_rank: int) -> list[str]:
    """Return the reasons why vLLM cannot serve an adapter with this `adapter_config.json`; empty if vLLM can serve
    it."""
    if reasons := refused_by_engines(config):
        return reasons
    rank = max([int(config.get("r", 8)), *(int(each) for each in (config.get("rank_pattern") or {}).values())])
    return [f"the adapter's rank is {rank}, above serving.vllm.rank {largest_rank}"] if rank > largest_rank else []
