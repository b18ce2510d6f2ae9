"""How long a training takes on which graphics cards, and which of them to get.

What belongs here: facts of the cards, the arithmetic of time, the rule of the recommendation. What does not: memory
(`sizing.py`).

Nothing here was measured on these cards. The rates are their maker's peaks times a stated utilisation, so take the
hours as good to a factor of about one and a half. Whoever has measured gives that utilisation instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.base_models.shapes import Shape
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.sizing.sizing import Forward, Memory, estimate, host_bytes

# Of the peak in bfloat16. Llama 3's pretraining reached 38 to 43 % on H100 (Grattafiori et al. 2024, table 4); a stock
# trainer with small batches and without fused kernels stays below.
UTILISATION = 0.30
# Of a link's nominal rate, what collective operations reach.
LINK_UTILISATION = 0.8
# Of a card's memory, what may be planned with: the allocator leaves gaps.
USABLE_MEMORY = 0.95
HOURS = 24.0
COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Card:
    """mebibytes: as nvidia-smi shows. flops: dense bfloat16 peak, 1/s. bandwidth: of memory, bytes/s. link: to other
    cards, bytes/s in one direction."""

    name: str
    mebibytes: int
    flops: float
    bandwidth: float
    link: float


# NVIDIA's data sheets: RTX 6000 Ada (PCIe 4), RTX PRO 6000 Blackwell (PCIe 5), H100 SXM and H200 SXM (NVLink 4). The
# peaks are without sparsity: half of 728, 1008, 1979 and 1979 teraflops.
CARDS = (
    Card("RTX 6000 Ada 48 GB", 49_140, 364e12, 0.96e12, 32e9),
    Card("RTX PRO 6000 96 GB", 97_887, 504e12, 1.79e12, 64e9),
    Card("H100 80 GB", 81_559, 989e12, 3.35e12, 450e9),
    Card("H200 141 GB", 143_771, 989e12, 4.8e12, 450e9),
)


@dataclass(frozen=True)
class Work:
    """What is to be done. tokens: mean of a row, of a pair both replies with their prompts."""

    rows: int
    tokens: float
    epochs: float

    @property
    def all_tokens(self) -> float:
        return self.rows * self.tokens * self.epochs


@dataclass(frozen=True)
class Tier:
    """One kind of card, so many of them, and what the training needs there.

    usable: bytes of each card that may be planned with. host: bytes of the host that several processes load the base
    into. bound_by: what limits the rate.
    """

    card: Card
    count: int
    memory: Memory
    host: int
    tokens_per_second: float
    hours: float
    bound_by: str

    @property
    def name(self) -> str:
        return f"{self.count} × {self.card.name}"

    @property
    def usable(self) -> int:
        return round(self.card.mebibytes * USABLE_MEMORY) << 20

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable

    @property
    def in_time(self) -> bool:
        return self.fits and self.hours < HOURS


@dataclass(frozen=True)
class Recommendation:
    """smallest: that fits and ends in time. recommended: one tier more. None: there is none among `CARDS`."""

    smallest: Tier | None
    recommended: Tier | None


def tiers(
    shape: Shape, sft: Sft, preference: Preference | None, work: Work, utilisation: float = UTILISATION
) -> list[Tier]:
    """Every tier, smallest first: by peak rate, then by memory."""
    found = [_tier(shape, sft, preference, work, card, count, utilisation) for card in CARDS for count in COUNTS]
    return sorted(found, key=lambda tier: (tier.count * tier.card.flops, tier.count * tier.card.mebibytes))


def recommend(found: Sequence[Tier]) -> Recommendation:
    """The smallest tier that ends in under 24 hours, and for headroom the next one that is not slower and fits as well.

    found: smallest first. Where there is no next one, the smallest is the largest there is, and is recommended.
    """
    in_time = [tier for tier in found if tier.in_time]
    if not in_time:
        return Recommendation(None, None)
    smallest, *larger = in_time
    return Recommendation(smallest, next((tier for tier in larger if tier.hours <= smallest.hours), smallest))


def flops_a_token(shape: Shape, sft: Sft, preference: Preference | None, forward_tokens: int) -> float:
    """Floating-point operations that a token costs.

    Forward: two a parameter that the token goes through (Kaplan et al. 2020, section 2.1), and attention over the whole
    pack. Backward: the same again for the gradients of activations, and, in full tuning, of weights. Checkpointing: one
    more forward. Preferences: the reference's forward, and for kto the exchanged reply's by policy and reference.
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
    """One forward and backward takes the longer of computing and gathering shards; out of NF4, on top, each weight is
    read and written once a pass."""
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
