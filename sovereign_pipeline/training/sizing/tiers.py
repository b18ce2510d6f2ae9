"""Time of a training on graphics cards, and the recommended card.

What belongs here: facts of the cards, the arithmetic of time, the rule of the recommendation. What does not: memory
(`sizing.py`).

Nothing here was measured on these cards. The rates are the maker's peaks times an assumed utilisation, so the hours are
good to a factor of about 1.5. A measured utilisation can be given instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.base_models.shapes import Shape
from sovereign_pipeline.policy.training.training import Preference, Sft
from sovereign_pipeline.training.sizing.sizing import Forward, Memory, estimate, host_bytes

UTILISATION = 0.30
"""Share of the peak in bfloat16. Assumed: Llama 3's pretraining reached 38 to 43 % on H100 (Grattafiori et al. 2024,
table 4); a stock trainer with small batches and without fused kernels stays below.
"""
LINK_UTILISATION = 0.8
"""Share of a link's nominal rate that collective operations reach. Assumed."""
USABLE_MEMORY = 0.95
"""Share of a card's memory; the allocator's gaps take the rest."""
HOURS = 24.0
"""The time within which a training must end."""
COUNTS = (1, 2, 4, 8)
"""Cards in a tier."""


@dataclass(frozen=True)
class Card:
    """A graphics card."""

    name: str
    mebibytes: int
    """As nvidia-smi shows them."""
    flops: float
    """Dense peak in bfloat16, 1/s."""
    bandwidth: float
    """Of its memory, bytes/s."""
    link: float
    """To other cards, bytes/s in one direction."""


CARDS = (
    Card("RTX 6000 Ada 48 GB", 49_140, 364e12, 0.96e12, 32e9),
    Card("RTX PRO 6000 96 GB", 97_887, 504e12, 1.79e12, 64e9),
    Card("H100 80 GB", 81_559, 989e12, 3.35e12, 450e9),
    Card("H200 141 GB", 143_771, 989e12, 4.8e12, 450e9),
)
"""From NVIDIA's data sheets: RTX 6000 Ada (PCIe 4), RTX PRO 6000 Blackwell (PCIe 5), H100 SXM and H200 SXM (NVLink 4).

The peaks are without sparsity: half of 728, 1008, 1979 and 1979 teraflops.
"""


@dataclass(frozen=True)
class Work:
    """The size of a training."""

    rows: int
    tokens: float
    """Mean of a row; of a pair, both replies with their prompts."""
    epochs: float

    @property
    def all_tokens(self) -> float:
        return self.rows * self.tokens * self.epochs


@dataclass(frozen=True)
class Tier:
    """A number of cards of one kind, with memory and time of the training there."""

    card: Card
    count: int
    memory: Memory
    """Of each card."""
    host: int
    """Bytes of the host into which several processes load the base."""
    tokens_per_second: float
    hours: float
    bound_by: str
    """What limits the rate."""

    @property
    def name(self) -> str:
        return f"{self.count} × {self.card.name}"

    @property
    def usable(self) -> int:
        """Bytes of each card that a training may take."""
        return round(self.card.mebibytes * USABLE_MEMORY) << 20

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable

    @property
    def in_time(self) -> bool:
        return self.fits and self.hours < HOURS


@dataclass(frozen=True)
class Recommendation:
    """Tiers among `CARDS`; None when there is none."""

    smallest: Tier | None
    """The smallest that fits and ends in time."""
    recommended: Tier | None
    """One tier larger."""


def tiers(
    shape: Shape, sft: Sft, preference: Preference | None, work: Work, utilisation: float = UTILISATION
) -> list[Tier]:
    """All tiers, smallest first: by peak rate, then by memory."""
    found = [_tier(shape, sft, preference, work, card, count, utilisation) for card in CARDS for count in COUNTS]
    return sorted(found, key=lambda tier: (tier.count * tier.card.flops, tier.count * tier.card.mebibytes))


def recommend(found: Sequence[Tier]) -> Recommendation:
    """The smallest tier that ends in under 24 hours, and for headroom the next one that fits and is not slower.

    found: smallest first. Without a next one, the smallest is itself recommended.
    """
    in_time = [tier for tier in found if tier.in_time]
    if not in_time:
        return Recommendation(None, None)
    smallest, *larger = in_time
    return Recommendation(smallest, next((tier for tier in larger if tier.hours <= smallest.hours), smallest))


def flops_a_token(shape: Shape, sft: Sft, preference: Preference | None, forward_tokens: int) -> float:
    """Floating-point operations per token.

    Forward: two for each parameter that the token passes (Kaplan et al. 2020, section 2.1), and attention over the
    whole pack. Backward: the same again for the gradients of activations and, in full tuning, of weights.
    Checkpointing: one more forward. Preferences: the reference's forward, and for kto the exchanged reply's by policy
    and reference.
    """
    linear = 2.0 * shape.active
    attention = 4.0 * shape.query * forward_tokens * shape.layers
    forward = linear + attention
    backward = (2 * linear if sft.adapter == "none" else linear) + 2 * attention
    adapter = 0.0 if sft.adapter == "none" else 6.0 * shape.trainable(sft)
    again = forward if sft.gradient_checkpointing else 0.0
    reference = 0.0 if preference is None else forward
    exchanged = 2 * forward if preference is not None and preference.method == "kto" else 0.0
    return forward + backward + adapter + again + reference + exchanged


def _tier(
    shape: Shape, sft: Sft, preference: Preference | None, work: Work, card: Card, count: int, utilisation: float
) -> Tier:
    """The time of a step is the longer of computing and gathering shards; out of NF4, each weight is also read and
    written once per pass.
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
        gathers = 3 if sft.adapter == "none" else 2  # forward, backward, and the gradients' way back
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
