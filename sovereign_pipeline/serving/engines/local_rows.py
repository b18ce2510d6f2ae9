"""A forward pass in which each row of the batch has its own adapter, or none.

PEFT can do that (`adapter_names`), but looks through every module of the model at each call, and gathers the rows of
each adapter in each layer: with eight adapters that takes longer than the base model itself. Here the rows of an
adapter stand together, so that a layer takes slices. The adapters are PEFT's own tensors, and the arithmetic is LoRA's:
the base layer's output, plus B(A(x)) times the scale.

What belongs here: that pass. What does not: which adapters are in memory (`local_adapters.py`), and which rows there
are (`local_batch.py`). Imports torch and PEFT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from peft.tuners.lora.layer import Linear, LoraLayer

BASE = "__base__"
"""The name of no adapter."""


@dataclass
class _Run:
    """Rows next to each other that have the same adapter."""

    adapter: str
    start: int
    end: int


class Rows:
    """What the layers of one model read while they compute."""

    def __init__(self, model: Any) -> None:
        """`model`: a PeftModel in evaluation mode."""
        self._model = model
        self._runs: list[_Run] = []
        self._names: list[str] = []

    def take_layers(self) -> None:
        """Let every layer that has adapters compute by rows; called again after each load, which may add some.

        Raises ValueError for a kind of layer that this does not know.
        """
        for layer in self._model.modules():
            if not isinstance(layer, LoraLayer):
                continue
            if type(layer) is Linear:
                layer.forward = partial(self._forward, layer)
            elif layer.lora_A or layer.lora_embedding_A:  # one that was put out leaves its layers, without effect
                raise ValueError(f"adapters on {type(layer.get_base_layer()).__name__} cannot share a batch here.")

    def compute(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """The model's output, where row i has the adapter of place i. Raises ValueError for one that is not loaded."""
        unknown = {*adapters} - {*self._model.peft_config, BASE}
        if unknown:  # a layer would pass over it, and answer as the base model
            raise ValueError(f"no adapter {', '.join(sorted(unknown))} in memory")
        self._runs, start = [], 0
        for adapter, rows in groupby(adapters):
            end = start + len(list(rows))
            if adapter != BASE:
                self._runs.append(_Run(adapter, start, end))
            start = end
        return self._model.get_base_model()(**inputs)

    def _forward(self, layer: Any, x: Any) -> Any:
        result = layer.base_layer(x)
        for run in self._runs:
            down = layer.lora_A._modules.get(run.adapter)
            if down is None:
                continue
            up = layer.lora_B._modules[run.adapter]
            rows = x[run.start : run.end]
            narrow = rows.reshape(-1, rows.shape[-1]) @ down.weight.T
            wide = result[run.start : run.end].view(-1, result.shape[-1])
            wide.addmm_(narrow, up.weight.T, alpha=layer.scaling[run.adapter])
        return result
