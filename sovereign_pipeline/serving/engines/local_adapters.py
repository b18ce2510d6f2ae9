"""The base model in the engine's process, and the adapters in memory beside it.

Of adapters that are not pinned, a bounded number is in memory; one that was put out is read again when it is asked for,
and must still have the bytes that it had. What belongs here: what is loaded, and what this engine does not do. What
does not: computing (`local_batch.py`). Imports torch, transformers and PEFT.
"""

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.serving.engines.adapter_files import read_adapter
from sovereign_pipeline.serving.engines.local_rows import Rows
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS

NO_ONES = "no-ones"
LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose keys and values can be joined and split by rows; a state of a recurrent layer cannot."""
MAY_DIFFER = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Keys of `adapter_config.json` with which this engine computes as PEFT does. Every other one must be PEFT's default:
DoRA, modules saved whole, tensors of experts and what is yet to be invented cannot stand in one batch with others."""


@dataclass(frozen=True)
class Known:
    """An adapter that may be asked."""

    directory: Path
    files: Mapping[str, str]
    """File -> SHA-256; of what was loaded first."""
    pinned: bool


@dataclass(frozen=True)
class InUse:
    """Which adapters answers need."""

    computing: Collection[str]
    """Those that must stay in memory."""
    needed: Collection[str]
    """And those of answers that wait for a place."""


class Model:
    """One base model with its tokenizer, and adapters by digest."""

    def __init__(self, base: Path, resident: int) -> None:
        """Raises EngineRefused for a base model that this engine cannot compute with.

        Args:
            resident: how many adapters that are not pinned are in memory at most, but for those that compute.
        """
        disable_progress_bar()
        self._resident = resident
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise EngineRefused(
                f"{base} cannot be loaded as a base model ({type(error).__name__}).", "Restore or fetch it again."
            ) from error
        config = model.config.get_text_config(decoder=True)
        others = {*(getattr(config, "layer_types", None) or ())} - LAYERS
        if others or getattr(model, "_is_stateful", False):
            raise EngineRefused(
                f"{base}: the local engine does not do layers of the kind {', '.join(sorted(others)) or 'recurrent'}.",
                "Serve this base model with another engine.",
            )
        if self.tokenizer.chat_template is None:
            raise EngineRefused(f"{base}: the tokenizer has no chat template.", "Use an instruction-tuned base model.")
        self.context = int(config.max_position_embeddings)
        self.template_sha256 = sha256(str(self.tokenizer.chat_template).encode()).hexdigest()
        self.end_of_turn = _end_of_turn(model, self.tokenizer)
        self._model = _with_room_for_adapters(model)
        self._rows = Rows(self._model)
        self._rows.take_layers()
        self.compute = self._rows.compute
        self._known: dict[str, Known] = {}
        self._leaving: set[str] = set()
        self._in_memory: list[str] = []
        """The one that was asked last stands last."""

    def knows(self, digest: str) -> bool:
        """Whether an adapter may be asked."""
        return digest in self._known and digest not in self._leaving

    def files_of(self, digest: str) -> dict[str, str]:
        """File -> SHA-256, of what was loaded."""
        return dict(self._known[digest].files)

    def load(self, digest: str, directory: Path, files: Mapping[str, str], pinned: bool, in_use: InUse) -> None:
        """Take an adapter into memory. Raises EngineRefused."""
        content = read_adapter(directory, files)
        known = Known(directory, {name: sha256(each).hexdigest() for name, each in content.items()}, pinned)
        if digest not in self._in_memory:
            self._load(digest, content)
        self._known[digest] = known
        self._leaving.discard(digest)
        self._touch(digest)
        self._make_room(in_use)

    def make_ready(self, digest: str, in_use: InUse) -> None:
        """Let the adapter be in memory now. Raises EngineRefused where it cannot be read again as it was."""
        known = self._known[digest]
        if digest not in self._in_memory:
            self._load(digest, read_adapter(known.directory, known.files))
        self._touch(digest)
        self._make_room(in_use)

    def forget(self, digest: str, in_use: InUse) -> None:
        """It is not asked any more; its memory is free once no answer needs it."""
        if digest in self._known:
            self._leaving.add(digest)
        self._make_room(in_use)

    def _touch(self, digest: str) -> None:
        self._in_memory.remove(digest)
        self._in_memory.append(digest)

    def _make_room(self, in_use: InUse) -> None:
        """Put out what is to be forgotten, and of the others those that were not asked for the longest time."""
        for digest in self._leaving - set(in_use.needed):
            self._leaving.discard(digest)
            del self._known[digest]
            if digest in self._in_memory:
                self._put_out(digest)
        loose = [each for each in self._in_memory if not self._known[each].pinned]
        surplus = max(0, len(loose) - self._resident)
        for digest in [each for each in loose[:-1] if each not in in_use.computing][:surplus]:
            self._put_out(digest)

    def _put_out(self, digest: str) -> None:
        self._model.delete_adapter(digest)
        self._in_memory.remove(digest)

    def _load(self, digest: str, content: Mapping[str, bytes]) -> None:
        _assert_done_here(content[ADAPTER_CONFIG])
        with tempfile.TemporaryDirectory(prefix="adapter-") as name:
            for file, data in content.items():
                (Path(name) / file).write_bytes(data)
            try:
                self._model.load_adapter(name, adapter_name=digest, torch_device="cpu")
                _assert_all_tensors(self._model, digest, Path(name))
                self._rows.take_layers()
            except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
                self._take_back(digest)
                raise EngineRefused(
                    f"Adapter {digest[:12]} does not fit this base model: {_first_line(error)}",
                    "It belongs to another base model, or was changed after its training.",
                ) from None
            except EngineRefused:
                self._take_back(digest)
                raise
        self._in_memory.append(digest)

    def _take_back(self, digest: str) -> None:
        """Remove what a load left that did not succeed."""
        if digest in self._model.peft_config:
            self._model.delete_adapter(digest)
            return
        for module in self._model.modules():
            if isinstance(module, BaseTunerLayer):
                module.delete_adapter(digest)


def _with_room_for_adapters(model: Any) -> Any:
    """The base as a PeftModel with one adapter that no answer names: so there is one before the first is loaded, and
    after the last was put out, and an adapter that does not fit leaves nothing on the base."""
    linear = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    config = LoraConfig(r=1, target_modules=[linear], task_type="CAUSAL_LM")
    return get_peft_model(model, config, adapter_name=NO_ONES).eval()


def _assert_done_here(content: bytes) -> None:
    """Raise EngineRefused for an adapter that this engine would not compute as PEFT alone does."""
    try:
        given = json.loads(content)
        kind = given["peft_type"]
    except (ValueError, TypeError, KeyError):
        raise EngineRefused(f"{ADAPTER_CONFIG} is not the configuration of an adapter.", "Train again.") from None
    if kind != "LORA":
        raise EngineRefused(f"The local engine does LoRA alone, and this adapter is {kind}.", "Train LoRA or QLoRA.")
    default = LoraConfig().to_dict()
    # How the weights were begun does not matter once they are trained, but for what changes the base model too.
    begun = given.get("init_lora_weights", True) in (True, False, None, "gaussian", "orthogonal")
    odd = [
        name
        for name, value in given.items()
        if name not in MAY_DIFFER | {"init_lora_weights"} and value not in (default.get(name), None, False, [], {})
    ]
    if not begun:
        odd.append("init_lora_weights")
    if odd:
        raise EngineRefused(
            f"The local engine does not do {', '.join(sorted(odd))} of this adapter in one batch with others.",
            "Leave it out of training.sft, or serve the line with another engine.",
        )


def _assert_all_tensors(model: Any, digest: str, directory: Path) -> None:
    """Every tensor of the file has its place in the model, and every place its tensor: PEFT passes over others."""
    placed = get_peft_model_state_dict(model, adapter_name=digest, save_embedding_layers=False)
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
        there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: tuple(tensor.shape) for name, tensor in placed.items()}
    if not there or there != expected:
        wrong = sorted({*there.items()} ^ {*expected.items()})
        example = f", such as {wrong[0][0]}" if wrong else ""
        raise EngineRefused(
            f"Adapter {digest[:12]} matches no module of this base model: {len(wrong)} tensors have no place or are "
            f"missing{example}.",
            "It belongs to another base model, or was changed after its training.",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _end_of_turn(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids at which generation stops: the model's own list, and the tokenizer's end of sequence."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)
