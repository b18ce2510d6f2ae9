"""Compute attention, LoRA layers and the loss of the output layer on CPUs, with fewer passes over memory than PyTorch's
own operations.

Each function keeps intermediate results small enough for the processor's cache, or adds into existing memory.
docs/benchmarks/training.md states the effect on speed. This module imports torch at its top, so import it inside
functions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sovereign_pipeline.training.sizing import LOGITS_AT_ONCE

BLOCK = 64
"""Number of queries whose scores are computed at once. Of 64, 128 and 256 the fastest for rows of 300 to 900 tokens."""


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Causal attention in blocks of queries, without storing the attention weights: the backward pass computes them
    again (Rabe and Staats 2021, arXiv 2112.05682). Scores and weights are in float32; see `_bfloat16_products` for the
    products of matrices."""

    @staticmethod
    def forward(context: Any, query: Any, key: Any, value: Any, scale: float) -> Any:
        blocks = _Blocks(query, key, value, scale)
        found = query.new_empty(*query.shape[:3], value.shape[-1])
        results = blocks.of_group(found)
        with _bfloat16_products():
            for block, seen in blocks:
                results[:, :, block] = blocks.of_heads(torch.bmm(blocks.weights(block, seen), blocks.values[:, :seen]))
        context.save_for_backward(query, key, value)
        context.scale = scale
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Any) -> Any:
        query, key, value = context.saved_tensors
        blocks = _Blocks(query, key, value, context.scale)
        gradients = blocks.of_group(gradient).float()
        of_query, of_key, of_value = (
            each.new_zeros(each.shape) for each in (blocks.queries, blocks.keys, blocks.values)
        )
        with _bfloat16_products():
            for block, seen in blocks:
                results = blocks.rows(gradients, block)
                weights = blocks.weights(block, seen)
                of_value[:, :seen].baddbmm_(weights.mT, results)
                of_weights = torch.bmm(results, blocks.values[:, :seen].mT)
                of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, torch.float32)
                of_query[:, :, block] = blocks.of_heads(torch.bmm(of_scores, blocks.keys[:, :seen]))
                of_key[:, :seen].baddbmm_(of_scores.mT, blocks.rows(blocks.queries, block))
        of_query = of_query.mul_(context.scale).view(query.shape)
        return of_query.to(query.dtype), of_key[None].to(key.dtype), of_value[None].to(value.dtype), None


class _Blocks:
    """The queries of one row in blocks, each with the keys that it may see.

    The query heads that share a key head are one group: `queries` has the shape [groups, heads, tokens, size], `keys`
    and `values` have [groups, tokens, size]. All are in float32, and the queries are scaled.
    """

    def __init__(self, query: Any, key: Any, value: Any, scale: float) -> None:
        self.queries = self.of_group(query.float() * scale, key.shape[1])
        self.keys, self.values = key[0].float(), value[0].float()
        self.earlier = self.keys.shape[1] - query.shape[2]
        """Number of keys before the key of the first query's token."""
        self.hidden = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu_(1)

    def __iter__(self) -> Iterator[tuple[slice, int]]:
        """Yield each block, and the number of keys that its last query may see."""
        tokens = self.queries.shape[2]
        for start in range(0, tokens, BLOCK):
            end = min(start + BLOCK, tokens)
            yield slice(start, end), end + self.earlier

    def of_group(self, tensor: Any, groups: int | None = None) -> Any:
        """View [1, heads, tokens, size] as [groups, heads of a group, tokens, size]."""
        _, heads, tokens, size = tensor.shape
        groups = groups or self.keys.shape[0]
        return tensor.reshape(groups, heads // groups, tokens, size)

    def rows(self, tensor: Any, block: slice) -> Any:
        """Return the block's part of [groups, heads, tokens, size] as [groups, heads · queries, size]."""
        return tensor[:, :, block].flatten(1, 2)

    def of_heads(self, rows: Any) -> Any:
        """View [groups, heads · queries, size] as [groups, heads, queries, size]."""
        return rows.view(rows.shape[0], self.queries.shape[1], -1, rows.shape[-1])

    def weights(self, block: slice, seen: int) -> Any:
        """Compute the attention weights of a block over the first `seen` keys, [groups, heads · queries, seen]."""
        scores = torch.bmm(self.rows(self.queries, block), self.keys[:, :seen].mT)
        queries = block.stop - block.start
        self.of_heads(scores)[..., seen - queries :].masked_fill_(self.hidden[:queries, :queries], -math.inf)
        return scores.softmax(-1)


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Let oneDNN round the float32 inputs of matrix products to bfloat16; the sums stay in float32. Processors without
    bfloat16 units compute in float32. The setting is the process's, so no other thread may compute meanwhile."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        settings.fp32_precision = before


def causal_attention(query: Any, key: Any, value: Any, scale: float) -> Any:
    """Compute attention within one row in bfloat16.

    query: [1, heads, tokens, size]. key, value: [1, key heads, tokens, size], with as many tokens as the query, or more
    if the row continues another row. The last query sees all keys, and each earlier query sees one key less than the
    next query. Returns [1, heads, tokens, size of a value].
    """
    return _Attention.apply(query, key, value, scale)


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """x·Wᵀ + s·(x·Aᵀ)·Bᵀ for a frozen weight W (Hu et al. 2021, section 4.1). The low-rank products are added into the
    frozen layer's result, and in the backward pass into its gradient."""

    @staticmethod
    def forward(context: Any, given: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        with torch.autocast("cpu", enabled=False):
            inputs = given.reshape(-1, given.shape[-1]).to(weight.dtype)
            a, b = a.to(weight.dtype), b.to(weight.dtype)
            reduced = torch.mm(inputs, a.t()).mul_(scale)
            # Not a view, because some models change a layer's result in place.
            found = given.new_empty(*given.shape[:-1], len(weight), dtype=weight.dtype)
            rows = found.view(-1, len(weight))
            if bias is None:
                torch.mm(inputs, weight.t(), out=rows)
            else:
                torch.addmm(bias, inputs, weight.t(), out=rows)
            torch.addmm(rows, reduced, b.t(), out=rows)
        context.save_for_backward(inputs, reduced, weight, a, b)
        context.scale, context.shape, context.dtype = scale, given.shape, given.dtype
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Any) -> Any:
        inputs, reduced, weight, a, b = context.saved_tensors
        of_given = None
        with torch.autocast("cpu", enabled=False):
            gradient = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
            of_reduced = torch.mm(gradient, b).mul_(context.scale)
            of_a, of_b = torch.mm(of_reduced.t(), inputs).float(), torch.mm(gradient.t(), reduced).float()
            if context.needs_input_grad[0]:
                of_given = torch.mm(gradient, weight)
                of_given = torch.addmm(of_given, of_reduced, a, out=of_given).to(context.dtype).view(context.shape)
        return of_given, None, None, of_a, of_b, None


def use_lora_product(model: Any) -> None:
    """Let the LoRA layers of a model on a CPU compute with one operation, where this does not change their meaning."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear:
            module.forward = _LoraForward(module)


class _LoraForward:
    """The forward of one LoRA layer of PEFT."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, given: Any, *others: Any, **named: Any) -> Any:
        layer, base = self.layer, self.layer.base_layer
        name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else ""
        if (
            others
            or named
            or layer.disable_adapters
            or layer.merged
            or name not in layer.lora_A
            or name in layer.lora_variant
            or layer.lora_B[name].bias is not None
            or _drops(layer.lora_dropout[name])
            or base.weight.requires_grad
        ):
            return type(layer).forward(layer, given, *others, **named)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return _LoraProduct.apply(given, base.weight, base.bias, a, b, layer.scaling[name])


def _drops(dropout: Any) -> bool:
    """Return True unless the dropout layer returns its input unchanged."""
    if type(dropout) is torch.nn.Dropout:
        return bool(dropout.p > 0 and dropout.training)
    return type(dropout) is not torch.nn.Identity


class _TokenScores(torch.autograd.Function):  # type: ignore[misc]
    """Log-probabilities of tokens, and the entropies of their distributions, from the inputs of a frozen output layer.

    Computes a part of the logits at a time, and stores none. The gradient of a log-probability with respect to the
    layer's input is computed in the forward pass, because the backward pass only multiplies it by a number.
    """

    @staticmethod
    def forward(context: Any, states: Any, weight: Any, targets: Any, temperature: float, entropies: bool) -> Any:
        count, vocabulary = len(targets), len(weight)
        at_once = max(1, min(count, LOGITS_AT_ONCE // vocabulary))
        found = torch.zeros(count, 2)
        with torch.autocast("cpu", enabled=False):
            inputs = states.reshape(count, states.shape[-1]).to(weight.dtype)
            gradients = torch.empty_like(inputs) if context.needs_input_grad[0] else None
            products = weight.new_empty(at_once, vocabulary)
            logits = torch.empty(at_once, vocabulary)
            for part in (slice(start, start + at_once) for start in range(0, count, at_once)):
                target = targets[part, None]
                product, scores = products[: len(target)], logits[: len(target)]
                scores.copy_(torch.mm(inputs[part], weight.t(), out=product)).div_(temperature)
                scores.sub_(scores.amax(-1, keepdim=True))
                own = scores.gather(1, target)
                exponentials = scores.exp() if entropies else scores.exp_()
                sums = exponentials.sum(-1, keepdim=True)
                found[part, :1] = own - sums.log()
                if entropies:
                    found[part, 1:] = sums.log() - scores.mul_(exponentials).sum(-1, keepdim=True) / sums
                if gradients is not None:
                    exponentials.mul_(-1 / sums).scatter_add_(1, target, torch.ones_like(sums))
                    torch.mm(product.copy_(exponentials), weight, out=gradients[part])
        if gradients is not None:
            context.save_for_backward(gradients)
        context.scale, context.shape, context.dtype = 1 / temperature, states.shape, states.dtype
        return found[None]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Any) -> Any:
        (gradients,) = context.saved_tensors
        of_states = gradients * (gradient[0, :, :1] * context.scale)
        return of_states.to(context.dtype).view(context.shape), None, None, None, None


def token_scores(states: Any, weight: Any, targets: Any, temperature: float, entropies: bool) -> Any:
    """Compute float32 [1, tokens, 2]: log-probability and entropy of each token, both in nats, from states of the shape
    [1, tokens, hidden size] and the output layer's weight. The logits are divided by the temperature.

    Only the log-probabilities have a gradient, and only with respect to the states. entropies: if False, the
    entropies are 0.
    """
    return _TokenScores.apply(states, weight, targets, temperature, entropies)
