"""Estimate peak memory and time of a training run.

The memory estimate adds up the tensors that PyTorch keeps for the backward pass. A test compares this sum with PyTorch,
and `benchmarks/training/memory_prediction.py` compares the estimates with real training runs. The estimated times were
not compared with measurements. They are based on the vendor's peak rates times an assumed utilisation, and are expected
to be accurate to a factor of about 1.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sovereign_pipeline.base_models.shapes import Shape
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.compute import Passed, flops_of

Device = Literal["cpu", "cuda"]

NF4_BYTES = 0.5 + 0.127 / 8
"""Bytes per parameter in NF4: half a byte, and 0.127 bit for the quantisation constants, which are themselves quantised
(Dettmers et al. 2023, section 3, "Double Quantization")."""
ADAMW_8BIT_BYTES = 2 * (1 + 4 / 256)
"""Bytes per parameter of 8-bit AdamW: two states of one byte, with a float32 constant for every 256 bytes (Dettmers et
al. 2022)."""
FLOAT32 = 4
"""Bytes of a float32."""
LOGIT_COPIES = 3
"""Number of float32 tensors that exist at the start of the backward pass on a CPU and have the shape of the logits of
all supervised positions, if logits are stored: the log-probabilities, the gradient of the negative log-likelihood, and
the gradient of the logits."""
LOGITS_AT_ONCE = 1 << 23
"""Number of logits that one process computes at once on a CPU if logits are not stored (32 MiB in float32)."""
TILE_POSITIONS, TILE_WORDS = 4096, 32768
"""Size of the tiles in which the fused head computes logits (TRL 1.16, chunked_logprob.py)."""
CPU_FRAMEWORK_BYTES = 560 << 20
"""Memory of the trainer's process without a model, in bytes. Measured for this project with torch 2.13, transformers
5.24, TRL 1.16 and peft 0.21: ru_maxrss of a trainer on the tests' tiny model, minus all other `Memory.parts` of that
model (benchmarks/training/memory_prediction.py)."""
CPU_HEAP_GAPS = 0.25
"""Memory that glibc's heap uses in addition to the activations, as a share of the activations' bytes. Measured for this
project.

Temporary tensors leave gaps between tensors that are kept. With gradient checkpointing, `_activations` estimates the
gaps without this constant. On CUDA, `USABLE_MEMORY` accounts for the allocator's gaps.
"""
CUDA_FRAMEWORK_BYTES = 768 << 20
"""Bytes that CUDA's context and kernels (about half a GiB) and cuBLAS workspaces need. Assumed, not measured."""
NCCL_BYTES = 1 << 30
"""Bytes that NCCL's buffers need if there are several devices. Assumed, not measured."""
SUPERVISED_SHARE = 0.5
"""Assumed share of supervised tokens, if the rows are unknown. In a public authority's letters, the measured share was
0.49 to 0.50."""


@dataclass(frozen=True)
class Forward:
    """The tokens of one forward pass on one device."""

    tokens: int
    supervised: int
    """Number of tokens over which the loss is computed."""

    @classmethod
    def largest(cls, sft: Sft, preference: Preference | None) -> "Forward":
        """Return the largest possible forward pass. For SFT, it consists of full packs. Preference methods do not pack:
        each reply is a row of `max_length` tokens, and a pair is two rows."""
        hyper: Sft | Preference = preference or sft
        rows_a_unit = 2 if preference is not None and preference.method != "kto" else 1
        tokens = hyper.max_length * hyper.batch_size * rows_a_unit
        return cls(tokens, tokens if _is_trls(preference) else round(tokens * SUPERVISED_SHARE))


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes, on each device."""

    weights: int
    adapter: int
    """Bytes of the adapter's weights; 0 in full tuning, in which the model's own weights are trained."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    framework: int

    @property
    def parts(self) -> dict[str, int]:
        return dict(vars(self))

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def estimate(
    shape: Shape,
    sft: Sft,
    preference: Preference | None = None,
    *,
    device: Device,
    devices: int = 1,
    forward: Forward | None = None,
    under_mask: bool = False,
) -> Memory:
    """Estimate the peak memory of a training run on each of `devices` devices. Several devices shard weights, gradients
    and optimizer state (FSDP2, ZeRO-3). In QLoRA nothing is sharded: each device has the whole model.

    Args:
        forward: the largest forward pass; if None, `Forward.largest` is used.
        under_mask: True if padded rows are trained under a mask and all logits are stored, as in TRL's trainers and in
            the training of a reward model. Always so with the method `trl`.
    """
    under_mask = under_mask or _is_trls(preference)
    forward = forward or Forward.largest(sft, preference)
    held = 2 if sft.precision == "bfloat16" else FLOAT32
    full = sft.adapter == "none"
    trainable = shape.trainable(sft)
    shared = 1 if sft.adapter == "qlora" else devices
    # Trained weights are in float32; full tuning in bfloat16 keeps a cast copy for its passes (autocast).
    weights_in = FLOAT32 if full else held
    cast = shape.parameters * held if full and held < FLOAT32 else 0
    kernels = not under_mask and has_kernels(sft, device, devices)
    logits = _logits(shape, full, held, forward, device, kernels and shape.returns_output_layer)
    return Memory(
        weights=_weights(shape, sft, weights_in, shared) + cast // shared,
        adapter=0 if full else trainable * FLOAT32 // shared,
        gradients=trainable * FLOAT32 // shared + (FLOAT32 * _layer_parameters(shape) if full and shared > 1 else 0),
        optimizer=round(trainable * _optimizer_bytes(sft, device, devices) / shared),
        activations=_activations(shape, sft, preference, held, forward.tokens, logits, device, kernels, under_mask),
        logits=logits,
        framework=CPU_FRAMEWORK_BYTES if device == "cpu" else CUDA_FRAMEWORK_BYTES + (NCCL_BYTES if devices > 1 else 0),
    )


def host_bytes(shape: Shape, sft: Sft, devices: int) -> int:
    """Return the host memory in bytes that is needed to load the base model, in addition to `estimate`.

    Each of several processes reads the whole base model into host memory before sharding it. A single process reads the
    base model directly to its device, so it needs no additional memory.
    """
    if devices == 1:
        return 0
    held = 2 if sft.precision == "bfloat16" and sft.adapter != "none" else FLOAT32
    return devices * _weights(shape, sft, held, 1)


def optimizer_in_effect(sft: Sft, device: Device, devices: int = 1) -> Literal["adamw", "paged_adamw_8bit"]:
    """Return the recipe's optimizer, with `auto` resolved for the device."""
    if sft.optimizer == "auto":
        paged = device == "cuda" and devices == 1 and sft.adapter in ("qlora", "none")
        return "paged_adamw_8bit" if paged else "adamw"
    return sft.optimizer


def _optimizer_bytes(sft: Sft, device: Device, devices: int) -> float:
    """Return the number of bytes that AdamW's two states need for each trained parameter."""
    return 2 * FLOAT32 if optimizer_in_effect(sft, device, devices) == "adamw" else ADAMW_8BIT_BYTES


def _layer_parameters(shape: Shape) -> int:
    return (shape.parameters - shape.outside_layers) // shape.layers


def has_kernels(sft: Sft, device: Device, devices: int = 1) -> bool:
    """Return True if a training run without a mask uses `cpu_kernels.py`."""
    return device == "cpu" and devices == 1 and sft.adapter != "none"


def _is_trls(preference: Preference | None) -> bool:
    """Return True if TRL's own trainer trains. It pads rows and computes all logits."""
    return preference is not None and preference.method == "trl"


def _weights(shape: Shape, sft: Sft, held: int, shared: int) -> int:
    if sft.adapter == "qlora":
        return round(shape.quantised * NF4_BYTES + (shape.parameters - shape.quantised) * held)
    if shared == 1:
        return shape.parameters * held
    # These parameters are gathered while in use: those outside the layers, of this layer, and of the next (prefetch).
    gathered = shape.outside_layers + 2 * _layer_parameters(shape)
    return shape.parameters * held // shared + gathered * held


def _logits(shape: Shape, full: bool, held: int, forward: Forward, device: Device, in_parts: bool) -> int:
    """Return the number of bytes for the logits. On CPUs, these are `LOGIT_COPIES` tensors for all supervised
    positions or, if logits are computed in parts (`cpu_kernels.token_scores`), the logits of one part in both
    precisions, plus the gradient of the head's input. On CUDA, these are the logits of one tile, plus the gradient of
    the head's input in float32. Full tuning adds the gradient of the head's weights, which is computed as a whole
    before it is accumulated."""
    if in_parts:
        part = min(forward.supervised * shape.vocabulary, LOGITS_AT_ONCE)
        return part * (FLOAT32 + held) + forward.supervised * shape.hidden * held
    if device == "cpu":
        gradient_of_head = shape.vocabulary * shape.hidden * held if full else 0
        return forward.supervised * shape.vocabulary * FLOAT32 * LOGIT_COPIES + gradient_of_head
    tile = min(forward.supervised, TILE_POSITIONS) * min(shape.vocabulary, TILE_WORDS) * held
    gradient_of_head = shape.vocabulary * shape.hidden * FLOAT32 if full else 0
    return tile + forward.supervised * shape.hidden * FLOAT32 + gradient_of_head


def _activations(
    shape: Shape,
    sft: Sft,
    preference: Preference | None,
    held: int,
    tokens: int,
    logits: int,
    device: Device,
    kernels: bool,
    under_mask: bool,
) -> int:
    """Return the number of bytes that are kept for the backward pass. If the backward pass itself needs more memory
    than the logits (`logits` bytes), the difference is added. With gradient checkpointing only each layer's input is
    kept, and one layer at a time is computed again (Chen et al. 2016). On a CPU, each layer's input then occupies a
    part of the memory that a larger tensor of the layer has freed, and the next layer cannot use the rest. In
    measurements, the heap grew by about the larger tensor's size with each layer."""
    layer = _layer_activations(shape, sft, preference, held, tokens, device, kernels, under_mask)
    # For one layer: the gradients of its feed-forward activations and, in QLoRA, one dequantised weight.
    working = (3 * shape.intermediate + 2 * shape.hidden) * tokens * held
    if sft.adapter == "qlora":
        working += max(each.inputs * each.outputs for each in shape.linears) * held
    outside = tokens * shape.hidden * (FLOAT32 + held)
    if sft.gradient_checkpointing:
        kept = outside + shape.layers * tokens * shape.hidden * held
        gaps = shape.layers * tokens * shape.intermediate * held
        at_once = max(0, layer + working - logits)
    else:
        kept = outside + shape.layers * layer
        gaps = round(kept * CPU_HEAP_GAPS)
        at_once = max(0, working - logits)
    return kept + at_once + (gaps if device == "cpu" else 0)


def _layer_activations(
    shape: Shape,
    sft: Sft,
    preference: Preference | None,
    held: int,
    tokens: int,
    device: Device,
    kernels: bool,
    under_mask: bool,
) -> int:
    """Return the number of bytes that one layer keeps for the backward pass, without gradient checkpointing.

    The estimate was compared with PyTorch for Llama, Qwen 3, Gemma 3 and Mixtral. Falcon keeps up to 40 % more bytes
    than estimated.
    """
    hyper: Sft | Preference = preference or sft
    adapted = sft.adapter != "none"
    targets = shape.targets(sft) if adapted else shape.linears
    inputs = sum(each.inputs for each in targets) / shape.layers
    width = shape.norms + shape.head_norms

    # PyTorch's attention keeps queries, keys, values and result. With a mask, keys and values are repeated for heads
    # that share them. On CPUs, other rows attend only to themselves, without a mask (`forward.py`). Queries
    # in bfloat16 then do not keep the result (`cpu_kernels.causal_attention`). In full tuning, the position embeddings
    # are in float32, and so are queries and keys.
    row_by_row = device == "cpu" and not under_mask
    if not row_by_row:
        attention = held * 4 * shape.query
    elif adapted and held < FLOAT32:
        attention = held * (shape.query + 2 * shape.key)
    else:
        attention = FLOAT32 * 2 * (shape.query + shape.key)
    # Elements per token, in the precision of the base. The feed-forward layer keeps input and output of its activation
    # function and, if it is gated, the tensor that the output is multiplied by.
    elements = float((3 if shape.gated else 1) * shape.intermediate)
    drops = sft.dropout > 0 and preference is None
    # One operation for the layer and its adapter keeps their common input (`cpu_kernels.use_lora_product`).
    in_one = kernels and sft.adapter == "lora" and not sft.dora and not drops
    if not in_one and (held < FLOAT32 or (adapted and drops)):
        # Each layer's own copy: for an adapter, cast to float32 and back, or with dropout; in full tuning, cast once.
        elements += inputs
    else:
        elements += 2 * shape.hidden + (0 if shape.experts_a_token else shape.intermediate)
        elements += shape.query if row_by_row else 0  # the concatenated results of the rows
    if shape.experts_a_token:
        elements += shape.intermediate + 2 * shape.experts_a_token * shape.hidden  # input and output
    if adapted:
        elements += sft.rank * len(targets) / shape.layers
    if adapted and sft.dora:
        elements += sum(each.outputs for each in targets) / shape.layers
    # A mask of tokens × tokens separates the rows of one pass. PyTorch's attention keeps this mask in each layer.
    if not row_by_row and (hyper.packing or hyper.batch_size > 1 or preference is not None):
        elements += tokens

    a_token = attention + held * elements + FLOAT32 * width  # a normalisation keeps its input in float32
    if not adapted:
        a_token += FLOAT32 * width  # and the input of its weight's gradient
    if adapted and drops:
        a_token += inputs  # a mask of one byte
    weights = held * shape.trainable(sft) / shape.layers if adapted and held < FLOAT32 else 0.0  # cast for the forward
    if adapted and sft.target_modules == "all-linear":
        weights += held * shape.expert_parameters / shape.layers  # PEFT adds the experts' adapter to a copy
    return round(tokens * a_token + weights)


UTILISATION = 0.30
"""Assumed share of the bfloat16 peak. Llama 3's pretraining reached 38 to 43 % on H100 (Grattafiori et al. 2024, table
4); a standard trainer with small batches and without fused kernels reaches less."""
LINK_UTILISATION = 0.8
"""Assumed share of a link's nominal rate that collective operations reach."""
USABLE_MEMORY = 0.95
"""Usable share of a card's memory; the rest is lost to allocator gaps."""
HOURS = 24.0
"""Limit in hours. A tier is recommended only if the training takes less time on its cards."""
COUNTS = (1, 2, 4, 8)
"""Numbers of cards. A tier is computed for each of these numbers and each type of card."""


@dataclass(frozen=True)
class Card:
    """A graphics card."""

    name: str
    mebibytes: int
    """Memory in MiB, as nvidia-smi shows it."""
    flops: float
    """Dense peak in bfloat16, FLOP/s."""
    bandwidth: float
    """Memory bandwidth, bytes/s."""
    link: float
    """Bandwidth to other cards, bytes/s in one direction."""


CARDS = (
    Card("RTX 6000 Ada 48 GB", 49_140, 364e12, 0.96e12, 32e9),
    Card("RTX PRO 6000 96 GB", 97_887, 504e12, 1.79e12, 64e9),
    Card("H100 80 GB", 81_559, 989e12, 3.35e12, 450e9),
    Card("H200 141 GB", 143_771, 989e12, 4.8e12, 450e9),
)
"""Cards with values from NVIDIA's data sheets: RTX 6000 Ada (PCIe 4), RTX PRO 6000 Blackwell (PCIe 5), H100 SXM and
H200 SXM (NVLink 4).

The peaks are without sparsity: half of the 728, 1008, 1979 and 1979 teraflops in the data sheets.
"""


@dataclass(frozen=True)
class Work:
    """The amount of data that a training run processes."""

    rows: int
    tokens: float
    """Mean number of tokens per row. For a pair, both replies count, each with its prompt."""
    epochs: float

    @property
    def all_tokens(self) -> float:
        return self.rows * self.tokens * self.epochs


@dataclass(frozen=True)
class Tier:
    """A number of equal cards, with the memory and time that a training run needs on them."""

    card: Card
    count: int
    memory: Memory
    """Memory on each card."""
    host: int
    """Host memory in bytes that all processes together need to load the base model."""
    tokens_per_second: float
    hours: float
    bound_by: str
    """Cause that limits the rate: computing, or the link between the cards."""

    @property
    def name(self) -> str:
        return f"{self.count} × {self.card.name}"

    def nodes(self, devices_a_node: int) -> int:
        """Return the number of cluster nodes needed for these cards. devices_a_node: number of cards in each node."""
        return -(-self.count // devices_a_node)

    def kilowatt_hours(self, device_watts: float) -> float:
        """Return the energy of the training run in kWh, if each card draws `device_watts`."""
        return self.count * device_watts * self.hours / 1000

    @property
    def usable(self) -> int:
        """Bytes of each card that a training run may use."""
        return round(self.card.mebibytes * USABLE_MEMORY) << 20

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable

    @property
    def in_time(self) -> bool:
        return self.fits and self.hours < HOURS


@dataclass(frozen=True)
class Recommendation:
    """The smallest and the recommended tier; both are None if every tier is too small or too slow."""

    smallest: Tier | None
    """Smallest tier that fits and ends in time."""
    recommended: Tier | None
    """The next larger tier that fits, ends in time and is not slower than `smallest`; `smallest` if there is none. The
    larger tier gives headroom."""


def tiers(
    shape: Shape, sft: Sft, preference: Preference | None, work: Work, utilisation: float = UTILISATION
) -> list[Tier]:
    """Return all tiers, sorted by peak rate, then by memory, in ascending order."""
    found = [_tier(shape, sft, preference, work, card, count, utilisation) for card in CARDS for count in COUNTS]
    return sorted(found, key=lambda tier: (tier.count * tier.card.flops, tier.count * tier.card.mebibytes))


def recommend(found: Sequence[Tier]) -> Recommendation:
    """Return the smallest tier that fits and ends in under 24 hours, and the recommended tier; see `Recommendation`.
    found: tiers, smallest first."""
    in_time = [tier for tier in found if tier.in_time]
    if not in_time:
        return Recommendation(None, None)
    smallest, *larger = in_time
    return Recommendation(smallest, next((tier for tier in larger if tier.hours <= smallest.hours), smallest))


def flops_a_token(shape: Shape, sft: Sft, preference: Preference | None, forward_tokens: int) -> float:
    """Return the number of floating-point operations of a training run per token.

    Operations are counted as in `compute.flops_of`, with attention over the whole pack. Preference methods add the
    reference's forward pass. For kto, policy and reference also read the mismatched replies of `rows.exchanged`.
    """
    learned = Passed.of_pass([forward_tokens], round(forward_tokens * SUPERVISED_SHARE), apart=False)
    reads = 0 if preference is None else 3 if preference.method == "kto" else 1
    return flops_of(shape, sft, learned, learned * reads).total / forward_tokens


def flops_of_work(shape: Shape, sft: Sft, preference: Preference | None, work: Work) -> float:
    """Return the number of floating-point operations of a whole training run."""
    return work.all_tokens * flops_a_token(shape, sft, preference, Forward.largest(sft, preference).tokens)


def _tier(
    shape: Shape, sft: Sft, preference: Preference | None, work: Work, card: Card, count: int, utilisation: float
) -> Tier:
    """Estimate memory and speed on `count` cards of one type.

    A step takes as long as the computing or the gathering of shards, whichever takes longer. With NF4, computing
    includes dequantising each weight once per pass.
    """
    tokens = Forward.largest(sft, preference).tokens
    held = 2 if sft.precision == "bfloat16" else 4
    peak = card.flops if held == 2 else card.flops / 2  # float32 as TensorFloat-32
    computing = tokens * flops_a_token(shape, sft, preference, tokens) / (peak * utilisation)
    passes = 3 if sft.gradient_checkpointing else 2
    if sft.adapter == "qlora":
        computing += passes * shape.quantised * (0.5 + held) / card.bandwidth
    linking = 0.0
    if count > 1 and sft.adapter != "qlora":
        gathers = 3 if sft.adapter == "none" else 2  # forward, backward, and the reduction of gradients
        linking = gathers * shape.parameters * held * (count - 1) / count / (card.link * LINK_UTILISATION)
    tokens_per_second = count * tokens / max(computing, linking)
    return Tier(
        card=card,
        count=count,
        memory=estimate(shape, sft, preference, device="cuda", devices=count),
        host=host_bytes(shape, sft, count),
        tokens_per_second=tokens_per_second,
        hours=work.all_tokens / tokens_per_second / 3600,
        bound_by="computing" if computing >= linking else "the link between the cards",
    )
