"""Count the floating-point operations (FLOPs) of a training.

Only matrix products are counted: a product of [m, k] and [k, n] is 2·m·k·n operations. A forward pass is then two
operations for each weight and token (Kaplan et al. 2020, section 2.1). Attention is two products over all pairs of a
row's tokens, without a discount for the causal mask (Chowdhery et al. 2022, appendix B). In the backward pass, the
gradients of activations cost as much as the forward pass. The gradients of trained weights cost as much again. The
trained weights are the adapter's in LoRA (Hu et al. 2021, section 4), and all weights in full tuning. The gradient of
the first layer's input is not needed, so frozen weights that are multiplied with this input have no backward product.
Not counted: norms, activation functions, softmax, DoRA's norms, dequantisation, the optimizer.

A test compares these counts with `torch.utils.flop_counter.FlopCounterMode` on real steps. Guards, probes, held-out
measurements, and steps repeated after a kill are not counted either, so that equal trainings have equal figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base_models.shapes import Shape
from sovereign_pipeline.policy.training import Sft

READS_EMBEDDINGS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value")
"""Names of the linear layers that read the first layer's input."""


@dataclass(frozen=True)
class Passed:
    """Token counts of one or more forward passes through a model, padding included."""

    tokens: int = 0
    predicted: int = 0
    """Number of positions whose logits are computed."""
    pairs: int = 0
    """Number of token pairs for which each attention head of each layer computes a score."""

    def __add__(self, other: "Passed") -> "Passed":
        return Passed(self.tokens + other.tokens, self.predicted + other.predicted, self.pairs + other.pairs)

    def __mul__(self, times: int) -> "Passed":
        return Passed(self.tokens * times, self.predicted * times, self.pairs * times)

    @classmethod
    def of_pass(cls, lengths: Sequence[int], predicted: int, apart: bool) -> "Passed":
        """Return the counts of one pass over rows without padding. apart: True if attention is computed within each row
        only. If False, attention is computed for all token pairs of the pass, and a mask discards the pairs across
        rows."""
        tokens = sum(lengths)
        return cls(tokens, predicted, sum(each**2 for each in lengths) if apart else tokens**2)

    @classmethod
    def padded(cls, rows: int, length: int, predicted: int) -> "Passed":
        """Return the counts of one pass over rows that are padded to `length` tokens."""
        return cls(rows * length, predicted, rows * length**2)

    @classmethod
    def sampled(cls, prompts: Sequence[Sequence[int]], replies: Sequence[int], padded: bool) -> "Passed":
        """Return the counts of sampling one reply for each prompt. replies: lengths of the replies, in tokens.

        Equal prompts pass through the model once. Then each token of a reply passes through the model, except the last
        token.
        padded: True if prompts are padded to the longest, and all replies take as many steps as the longest.
        """
        starts = [len(each) for each in dict.fromkeys(map(tuple, prompts))]
        begun, steps = [len(each) for each in prompts], [each - 1 for each in replies]
        if padded and prompts:
            starts, begun = [max(starts)] * len(starts), [max(begun)] * len(begun)
            steps = [max(steps)] * len(steps)
        pairs = sum(n * start + n * (n + 1) // 2 for start, n in zip(begun, steps, strict=True))
        return cls(sum(starts) + sum(steps), len(starts) + sum(steps), sum(each**2 for each in starts) + pairs)


def added(parts: Iterable[Passed]) -> Passed:
    """Return the sum of the token counts of several passes."""
    total = Passed()
    for part in parts:
        total = total + part
    return total


@dataclass(frozen=True)
class Flops:
    """Numbers of floating-point operations, by part of the model."""

    layers: int
    """Operations of the linear layers, and of the experts that a token uses."""
    adapter: int
    head: int
    """Operations of the layer that computes logits."""
    attention: int

    @property
    def total(self) -> int:
        return self.layers + self.adapter + self.head + self.attention


def flops_of(shape: Shape, sft: Sft, learned: Passed, read: Passed) -> Flops:
    """Return the operations of a training. learned: token counts of passes with a backward pass. read: token counts of
    passes without a backward pass."""
    matrices = shape.quantised + shape.active - shape.parameters + shape.expert_parameters
    adapter = 0 if sft.adapter == "none" else _adapter(shape, sft)
    forward = _forward(shape, matrices, adapter, learned + read)
    again = _forward(shape, matrices, adapter, learned)
    if sft.adapter == "none":
        backward = Flops(2 * again.layers, 0, 2 * again.head, 2 * again.attention)
    else:
        # With gradient checkpointing, transformers gives the embeddings a gradient.
        first = [] if sft.gradient_checkpointing else [each for each in shape.linears if _reads_embeddings(each.name)]
        adapted = {each.name for each in shape.targets(sft)}
        unread = sum(each.inputs * each.outputs for each in first)
        unread_by_adapter = sum(sft.rank * each.inputs for each in first if each.name in adapted)
        backward = Flops(
            again.layers - 2 * unread * learned.tokens,
            2 * again.adapter - 2 * unread_by_adapter * learned.tokens,
            again.head,
            2 * again.attention,
        )
    repeated = sft.gradient_checkpointing
    return Flops(
        layers=forward.layers + backward.layers + repeated * again.layers,
        adapter=forward.adapter + backward.adapter + repeated * again.adapter,
        head=forward.head + backward.head,  # outside the layers; only layers are checkpointed
        attention=forward.attention + backward.attention + repeated * again.attention,
    )


def _forward(shape: Shape, matrices: int, adapter: int, passed: Passed) -> Flops:
    return Flops(
        layers=2 * matrices * passed.tokens,
        adapter=2 * adapter * passed.tokens,
        head=2 * shape.hidden * shape.vocabulary * passed.predicted,
        attention=4 * shape.query * shape.layers * passed.pairs,
    )


def _adapter(shape: Shape, sft: Sft) -> int:
    """Return the number of adapter weights that each token uses: r·(in + out) for each target layer. Adapters of
    experts count only for the experts that the token uses."""
    plain = sum(sft.rank * (each.inputs + each.outputs) for each in shape.targets(sft))
    if not shape.expert_parameters or sft.target_modules != "all-linear":
        return plain
    used = (shape.active - shape.parameters + shape.expert_parameters) / shape.expert_parameters
    return plain + round((sft.rank * shape.adapter - plain) * used)


def _reads_embeddings(name: str) -> bool:
    parts = name.split(".")
    return "0" in parts and parts[-1] in READS_EMBEDDINGS


COUNTED = (
    "matrix products, 2·m·k·n each: linear layers, adapters, logits, and attention over all pairs of a row; backward "
    "without gradients of frozen weights; without guards, probes and held-out measurements"
)


class TrainingCompute(Frozen):
    """The numbers of tokens and operations of a training, counted as `training/compute.py` describes."""

    tokens_read: int
    """Number of tokens in passes without learning: by the reference, by a reward model, or by the policy before its
    update. Includes padding."""
    tokens_generated: int
    """Number of tokens that the policy sampled for learning."""
    flops: int
    """Floating-point operations, including sampling and passes without learning."""
    flops_by_part: dict[str, int]
    counted: str
    """Sentence that says which operations are counted."""

    @classmethod
    def of(
        cls, shape: Shape, sft: Sft, learned: Passed, read: Passed, sampled: Passed, tokens_generated: int
    ) -> "TrainingCompute":
        flops = flops_of(shape, sft, learned, read + sampled)
        return cls(
            tokens_read=read.tokens,
            tokens_generated=tokens_generated,
            flops=flops.total,
            flops_by_part=vars(flops),
            counted=COUNTED,
        )
