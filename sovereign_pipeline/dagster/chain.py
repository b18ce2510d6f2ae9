"""List the stages in the order of the chain, with the description and owner of each asset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.stage import Stage
from sovereign_pipeline.registry.registration import REGISTERED_ADAPTER
from sovereign_pipeline.release.requests import BLIND_REVIEW
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER

DEVICE_POOL = "gpu"
"""Dagster pool of the training device (GPU or CPU). Only one step at a time can use the device."""

CHAIN: tuple[Stage, ...] = (
    RAW_CORPUS,
    CLASSIFIED_CORPUS,
    SCRUBBED_CORPUS,
    LEAKAGE_SAFE_SPLIT,
    TRAINING_DATASET,
    PREFERENCE_DATASET,
    BASE_MODEL,
    SFT_ADAPTER,
    REWARD_MODEL,
    ALIGNED_ADAPTER,
    CAPABILITY_SCORES,
    PRIVATE_SCORES,
    RED_TEAM_REPORT,
    EVALUATION_REPORT,
    REGISTERED_ADAPTER,
)

AFTER_PEOPLE: tuple[Stage, ...] = (BLIND_REVIEW,)
"""Stages that a line's run does not include, because they wait for people. A sensor materializes such a stage when the
people are done."""


@dataclass(frozen=True)
class Presentation:
    """The description and owner of an asset, from `assets.yaml`."""

    group: str
    owner: str
    kinds: Sequence[str]
    holds: str

    materializing: str
    """Effect and cost of materializing the asset."""

    pool: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Maps a column of the asset's rows to its description."""

    @property
    def description(self) -> str:
        return f"{self.holds}\n\n**Materializing it** {self.materializing}"


PRESENTATION: Mapping[str, Presentation] = {
    kind: Presentation(**each)
    for kind, each in yaml.safe_load(Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8")).items()
}


def chain_with(replacements: Mapping[str, Stage]) -> tuple[Stage, ...]:
    """Return every stage in order, after replacing some stages. A stage that reads a replaced stage reads the
    replacement instead. Raises ValueError for an unknown stage name.

    replacements: mapping of stage name to the stage to use instead.
    """
    real = {stage.kind: stage for stage in (*CHAIN, *AFTER_PEOPLE)}
    if unknown := sorted(replacements.keys() - real.keys()):
        raise ValueError(f"no stage has the name {', '.join(unknown)}")
    made: dict[str, Stage] = {}
    for kind, stage in real.items():
        own = replacements.get(kind, stage)
        inputs, optional = (
            tuple(made[each.kind] if each is real.get(each.kind) else each for each in given)
            for given in (own.inputs, own.optional_inputs)
        )
        is_same = inputs == own.inputs and optional == own.optional_inputs
        made[kind] = own if is_same else replace(own, inputs=inputs, optional_inputs=optional)
    return tuple(made.values())
