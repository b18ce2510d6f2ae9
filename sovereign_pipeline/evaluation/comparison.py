"""Which models one stage of the evaluation compares, opened with their cache and their progress.

What belongs here: finding and verifying them, and the level of what they give. What does not: what they are asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Inputs, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models, open_models
from sovereign_pipeline.evaluation.arms.score_cache import Origin, ScoreCache
from sovereign_pipeline.evaluation.incumbent import open_incumbent
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model


@dataclass(frozen=True)
class Comparison:
    """The arms of one stage."""

    stage: str
    base: Path
    """The verified directory."""
    tuned: Mapping[Arm, TunedModel]
    levels: tuple[str, ...]
    """Classification levels of what is not among the stage's inputs."""
    cache: ScoreCache
    precision: str
    """Of all arms."""

    @contextmanager
    def open(self) -> Iterator[Models]:
        """Load the arms. Progress begins with the name of the stage."""

        def progress(message: str) -> None:
            self.cache.workplace.progress(f"{self.stage}: {message}")

        with open_models(self.base, self.tuned, self.cache, progress, precision=self.precision) as models:
            yield models


def compare(stage: str, workplace: Workplace, inputs: Inputs, *levels: str) -> Comparison:
    """The arms that a stage compares. `levels`: of its items that are not among its inputs.

    Raises what `open_incumbent` and `open_base_model` raise.
    """
    candidate, base_model = inputs[ALIGNED_ADAPTER.kind], inputs[BASE_MODEL.kind]
    base = open_base_model(workplace.settings, base_model, workplace.progress)
    incumbent = open_incumbent(workplace, candidate, base_model)
    tuned: dict[Arm, Artifact] = {"candidate": candidate}
    if incumbent is not None:
        tuned["incumbent"] = incumbent.artifact
    others = [artifact for artifact in inputs.values() if artifact not in (candidate, base_model)]
    highest = workplace.institution.ladder.highest
    cache = ScoreCache(
        workplace=workplace,
        level=highest([*levels, *(artifact.manifest.classification for artifact in others)]),
        origins=_origins(workplace, base_model, tuned),
    )
    return Comparison(
        stage=stage,
        base=base,
        tuned={arm: tuned_model(artifact) for arm, artifact in tuned.items()},
        levels=(*levels, *((incumbent.classification,) if incumbent is not None else ())),
        cache=cache,
        precision=workplace.line.named_evaluation.precision,
    )


def _origins(workplace: Workplace, base_model: Artifact, tuned: Mapping[Arm, Artifact]) -> dict[Arm, Origin]:
    """Of the artifacts' own levels. A registration may be higher for what the adapter was evaluated on; that is a level
    of the stage (`Comparison.levels`), and not of what the weights give."""
    files, level = {"base_model": read_descriptor(base_model)["digest"]}, base_model.manifest.classification
    origins: dict[Arm, Origin] = {"base": Origin(files, level)}
    for arm, artifact in tuned.items():
        higher = workplace.institution.ladder.highest((level, artifact.manifest.classification))
        origins[arm] = Origin({**files, "tuned": artifact.ref.digest}, higher)
    return origins
