"""Run the local engine's model: load adapters, and compute batches whose rows use different adapters.

This module imports torch, transformers and PEFT.
"""

import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.base_models.batch import Compute, unsupported_layers
from sovereign_pipeline.serving.engines.engine import read_adapter
from sovereign_pipeline.serving.engines.text import Prompts, reading_base_model
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refused_by_engines

BASE = "__base__"
"""Stands for the base model without an adapter, in place of an adapter's digest."""


class Rows:
    """A forward pass in which each row of the batch has its own adapter, or none."""

    def __init__(self, model: Any) -> None:
        """Wrap `model`, a PeftModel in evaluation mode."""
        self._model = model
        self._runs: list[tuple[str, slice]] = []
        """Pairs of an adapter and the slice of adjacent rows that use it."""

    def take_layers(self) -> None:
        """Patch every adapter layer so that each row uses its own adapter. Call this method after each load. Raises
        ValueError if an adapter has weights in a layer that is not linear."""
        for layer in self._model.modules():
            if not isinstance(layer, LoraLayer):
                continue
            if type(layer) is Linear:
                layer.forward = partial(self._forward, layer)
            elif layer.lora_A or layer.lora_embedding_A:  # layers of an evicted adapter stay, without effect
                raise ValueError(
                    f"layers of type {type(layer.get_base_layer()).__name__} do not support batches with different "
                    f"adapters."
                )

    def compute(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """Run the model; row i uses adapter i. Raises ValueError for an adapter that is not loaded."""
        unknown = {*adapters} - {*self._model.peft_config, BASE}
        if unknown:  # a layer would skip the unknown adapter, and compute as the base model
            raise ValueError(f"these adapters are not loaded: {', '.join(sorted(unknown))}")
        self._runs, start = [], 0
        for adapter, rows in groupby(adapters):
            end = start + len(list(rows))
            if adapter != BASE:
                self._runs.append((adapter, slice(start, end)))
            start = end
        return self._model.get_base_model()(**inputs)

    def _forward(self, layer: Any, x: Any) -> Any:
        result = layer.base_layer(x)
        for adapter, rows in self._runs:
            down = layer.lora_A._modules.get(adapter)
            if down is None:
                continue
            up = layer.lora_B._modules[adapter]
            narrow = x[rows].reshape(-1, x.shape[-1]) @ down.weight.T
            wide = result[rows].view(-1, result.shape[-1])
            wide.addmm_(narrow, up.weight.T, alpha=layer.scaling[adapter])
        return result


def log_probabilities(compute: Compute, adapter: str, prompt: Sequence[int], tokens: Sequence[int]) -> Any:
    """Return log-probabilities with the adapter and without it: shape [2, len(tokens) + 1, vocabulary size]. Both are
    rows of one batch, like answers of two adapters. The last position is the one after `tokens`."""
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *tokens]] * 2)
        output = compute(
            [adapter, BASE],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            logits_to_keep=len(tokens) + 1,
        )
        return torch.log_softmax(output.logits.float(), dim=-1)


class Matcher:
    """The state of one answer in its grammar. The state determines which tokens may come next."""

    def __init__(self, vocabulary: Any, grammar: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)
        self._mask = torch.zeros((vocabulary.vocab_size + 31) // 32, dtype=torch.int32)
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.nbytes)
        self.assert_whole()

    def masked(self, logits: Any) -> Any:
        """Return a copy of the logits, with minus infinity for every token that the grammar forbids next."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.nbytes)
        bits = (self._mask[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        return logits.masked_fill(bits.flatten()[: len(logits)] == 0, float("-inf"))

    def is_over_after(self, token: int) -> bool:
        """Add a token, and return True if it completes the answer. Raises EngineRefused if the grammar is too
        complex."""
        self._matcher.consume_token(token)
        self.assert_whole()
        return bool(self._matcher.is_stopped())

    def assert_whole(self) -> None:
        """Raise EngineRefused if the matcher has failed, because the grammar is too complex."""
        if self._matcher.is_error():
            raise EngineRefused("The grammar of the answer is too complex.", "Use a simpler schema.")


NO_ONES = "no-ones"


class Model:
    """A base model with its tokenizer and the loaded adapters."""

    def __init__(self, base: Path) -> None:
        """Load the base model. Raises EngineRefused if the model cannot be read or this engine does not support it."""
        disable_progress_bar()
        self.prompts = Prompts.read(base)
        with reading_base_model(base):
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        for weights in (*model.parameters(), *model.buffers()):
            weights.data = weights.data.clone()  # copied: loaded weights are pages of a file that may change
        config = model.config.get_text_config(decoder=True)
        if unsupported := unsupported_layers(model):
            raise EngineRefused(
                f"{base}: the local engine does not support layers of type {', '.join(unsupported)}.",
                "Serve this base model with another engine.",
            )
        self.context = int(config.max_position_embeddings)
        self._vocabulary_size = int(config.vocab_size)
        self.end_of_turn = self.prompts.end_of_turn(model.generation_config.eos_token_id)
        self._model = _with_room_for_adapters(model)
        self._rows = Rows(self._model)
        self._rows.take_layers()
        self.compute = self._rows.compute
        self._loaded: set[str] = set()
        self._leaving: set[str] = set()
        """Adapters that are unloaded once no answer needs them."""

    def matcher(self, grammar: str) -> "Matcher":
        return Matcher(self._vocabulary, grammar)

    @cached_property
    def _vocabulary(self) -> Any:
        from llguidance import hf

        try:
            return hf.from_tokenizer(self.prompts.tokenizer, self._vocabulary_size, [*self.end_of_turn])
        except (ValueError, TypeError) as error:
            raise EngineRefused(
                f"The tokenizer of this base model does not support response_format and tools: {_first_line(error)}",
                "Send the request without tools and response_format.",
            ) from None

    def knows(self, digest: str) -> bool:
        return digest in self._loaded - self._leaving

    def load(self, digest: str, directory: Path, files: Mapping[str, str]) -> None:
        content = read_adapter(directory, files)
        if digest not in self._loaded:
            self._load(digest, content)
            self._loaded.add(digest)
        self._leaving.discard(digest)

    def forget(self, digest: str) -> None:
        """Stop accepting requests for an adapter. `remove_left` later frees the adapter's memory."""
        self._leaving |= {digest} & self._loaded

    def remove_left(self, needed: Callable[[], Collection[str]]) -> None:
        """Free the memory of forgotten adapters that no answer needs."""
        if self._leaving:
            for digest in self._leaving - set(needed()):
                self._leaving.discard(digest)
                self._loaded.discard(digest)
                self._model.delete_adapter(digest)

    def _load(self, digest: str, content: Mapping[str, bytes]) -> None:
        _assert_done_here(digest, content[ADAPTER_CONFIG])
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
                    "Check whether it belongs to a different base model, or was changed after its training.",
                ) from None
            except EngineRefused:
                self._take_back(digest)
                raise

    def _take_back(self, digest: str) -> None:
        """Remove the remains of a failed load."""
        if digest in self._model.peft_config:
            self._model.delete_adapter(digest)
            return
        for module in self._model.modules():
            if isinstance(module, BaseTunerLayer):
                module.delete_adapter(digest)


def _with_room_for_adapters(model: Any) -> Any:
    """Wrap the base model with one unused adapter. PEFT always needs an adapter, even before the first adapter is
    loaded and after the last one is evicted."""
    linear = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    config = LoraConfig(r=1, target_modules=[linear], task_type="CAUSAL_LM")
    return get_peft_model(model, config, adapter_name=NO_ONES).eval()


def _assert_done_here(digest: str, content: bytes) -> None:
    """Raise EngineRefused if an adapter's configuration is invalid, or if this engine's outputs would differ from
    PEFT's."""
    try:
        config = json.loads(content)
        reasons = refused_by_engines({**config, "fan_in_fan_out": None})
    except (ValueError, TypeError, AttributeError):
        raise EngineRefused(
            f"{ADAPTER_CONFIG} is not the configuration of an adapter.", "Train the adapter again."
        ) from None
    if reasons:
        raise EngineRefused(
            f"The local engine does not serve adapter {digest[:12]}: {'; '.join(reasons)}.",
            "Train it without these features.",
        )


def _assert_all_tensors(model: Any, digest: str, directory: Path) -> None:
    """Raise EngineRefused unless the tensors in the file are exactly those of the loaded adapter. PEFT silently skips
    tensors that match no module."""
    placed = get_peft_model_state_dict(model, adapter_name=digest, save_embedding_layers=False)
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
        there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: tuple(tensor.shape) for name, tensor in placed.items()}
    if not there or there != expected:
        wrong = sorted({*there.items()} ^ {*expected.items()})
        example = f", such as {wrong[0][0]}" if wrong else ""
        raise EngineRefused(
            f"Adapter {digest[:12]} does not fit this base model: {len(wrong)} tensors match no module or are "
            f"missing{example}.",
            "Check whether it belongs to a different base model, or was changed after its training.",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
