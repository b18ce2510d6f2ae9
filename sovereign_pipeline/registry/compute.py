"""Add up the tokens, operations and energy of an adapter's training runs, and compare the operations with those that
trained its base model.

Regulation (EU) 2024/1689, Annex XI, section 1, asks the model's provider for the "computational resources used to train
the model (e.g. number of floating point operations)" (2 d) and the "known or estimated energy consumption" (2 e).

The Commission's guidelines for providers of general-purpose AI models (C(2025) 7719 final of 19 November 2025, points
59 and 60): a company that modifies such a model becomes a provider only if the modification is significant. The
indicative criterion is that "the training compute used for the modification is greater than a third of the training
compute of the original model" (in C(2025) 5045 final of July 2025, point 63). If that compute is not known, point 61
sets the limit to a third of 10^23 FLOP, or of 10^25 FLOP for a model with systemic risk.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.base_models.stages import BASE_MODEL, made_of
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.training.continuation import parent_adapter
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER

THIRD = 1 / 3
"""Share of the base model's training compute. A company that uses more compute to modify the model is presumed to
become a provider."""
_TRAININGS = (SFT_ADAPTER.kind, REWARD_MODEL.kind, ALIGNED_ADAPTER.kind)


@dataclass(frozen=True)
class Training:
    """The figures of one training run in an adapter's lineage."""

    kind: str
    line: str
    method: str
    digest: str
    tokens: int
    """Number of tokens that the model learned from."""
    tokens_generated: int
    flops: int
    kilowatt_hours: float | None
    energy_source: str
    """Source of the energy figure, or the reason why there is no figure."""


@dataclass(frozen=True)
class LineageCompute:
    """The training runs in an adapter's lineage, earliest first, and the operations that trained its base model."""

    trainings: Sequence[Training]
    base_flops: float | None
    """Operations that trained the base model, as stated on the base model's card."""
    base_source: str
    """Source of `base_flops`, or the reason why it is None."""

    @property
    def tokens(self) -> int:
        return sum(each.tokens for each in self.trainings)

    @property
    def flops(self) -> int:
        return sum(each.flops for each in self.trainings)

    @property
    def kilowatt_hours(self) -> float | None:
        """Return the energy of all training runs, or None if the energy of any run is unknown."""
        known = [each.kilowatt_hours for each in self.trainings if each.kilowatt_hours is not None]
        return sum(known) if len(known) == len(self.trainings) else None

    @property
    def share(self) -> float | None:
        """Return the operations of all training runs, divided by the operations that trained the base model. None if
        the base model's operations are unknown."""
        return None if self.base_flops is None else self.flops / self.base_flops


def compute_of(read: Callable[[str], Manifest], digest: str) -> LineageCompute:
    """Return the figures of all training runs behind an adapter: of the adapter, of its reward model and parent
    adapters, and of the base model if the base model was tuned here.

    Args:
        read: returns an artifact's manifest by the artifact's digest.
    """
    manifests = dict(_beneath(read, digest))
    found = [_training(key, each) for key, each in reversed(manifests.items()) if each.kind in _TRAININGS]
    bases = [
        each.summary
        for each in manifests.values()
        if each.kind == BASE_MODEL.kind and not made_of(each.external_inputs)
    ]
    different = {each["digest"] for each in bases}
    if len(different) != 1:
        return LineageCompute(found, None, f"the lineage has {len(different)} published base models")
    stated = next((each["training_compute"] for each in bases if "training_compute" in each), None)
    if stated is None:
        return LineageCompute(found, None, f"the card of {bases[0]['name']} does not state its training_compute")
    return LineageCompute(found, stated["flops"], stated["source"])


def _beneath(read: Callable[[str], Manifest], digest: str) -> Iterator[tuple[str, Manifest]]:
    seen, waiting = set[str](), [digest]
    while waiting:
        each = waiting.pop(0)
        if each in seen:
            continue
        seen.add(each)
        manifest = read(each)
        yield each, manifest
        parent = parent_adapter(manifest)
        waiting += [*manifest.inputs.values(), *made_of(manifest.external_inputs)]
        waiting += [parent[1]] if parent is not None else []


def _training(digest: str, manifest: Manifest) -> Training:
    summary, circumstances = manifest.summary, manifest.circumstances
    return Training(
        kind=manifest.kind,
        line=manifest.line,
        method=summary.get("method", "reward"),
        digest=digest,
        tokens=summary["tokens_trained"],
        tokens_generated=summary["compute"]["tokens_generated"],
        flops=summary["compute"]["flops"],
        kilowatt_hours=circumstances.measured.get("energy_kwh"),
        energy_source=circumstances.recorded.get("energy", "not known: nothing was recorded"),
    )
