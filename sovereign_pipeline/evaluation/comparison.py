"""Find and verify the models that an evaluation stage compares: the base, the candidate and the incumbent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import CeilingExceeded
from sovereign_pipeline.base_models.pinned import open_base_model, read_descriptor
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models, Origin, ScoreCache, open_models
from sovereign_pipeline.record.catalog import incumbent_of
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Inputs, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import TunedModel, stated_weights, tuned_model

_EXTERNAL = "incumbent:"


@dataclass(frozen=True)
class Comparison:
    """The arms that one stage compares."""

    stage: str
    base: Path
    """Directory of the verified base model."""
    tuned: Mapping[Arm, TunedModel]
    levels: tuple[str, ...]
    """Classification levels of data that is not among the stage's inputs, such as test items."""
    cache: ScoreCache
    precision: str
    """Precision in which every arm is loaded."""

    @property
    def classification(self) -> str:
        """The highest classification level in `levels`."""
        return self.cache.workplace.institution.ladder.highest(self.levels)

    @contextmanager
    def open(self) -> Iterator[Models]:
        """Load the arms. Progress messages begin with the stage's name."""

        def progress(message: str) -> None:
            self.cache.workplace.progress(f"{self.stage}: {message}")

        with open_models(self.base, self.tuned, self.cache, progress, precision=self.precision) as models:
            yield models


def compare(stage: str, workplace: Workplace, inputs: Inputs, *levels: str) -> Comparison:
    """Find and verify the arms that a stage compares.

    Args:
        levels: classification levels of items that are not among the stage's inputs.

    Raises the errors of `open_incumbent` and `open_base_model`.
    """
    candidate, base_model = inputs[ALIGNED_ADAPTER.kind], inputs[BASE_MODEL.kind]
    base = open_base_model(workplace.settings, base_model, workplace.progress)
    incumbent = open_incumbent(workplace, candidate, base_model)
    tuned: dict[Arm, Artifact] = {"candidate": candidate}
    of_incumbent: list[str] = []
    if incumbent is not None:
        tuned["incumbent"], *of_incumbent = incumbent
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
        levels=(*levels, *of_incumbent),
        cache=cache,
        precision=workplace.line.named_evaluation.precision,
    )


def _origins(workplace: Workplace, base_model: Artifact, tuned: Mapping[Arm, Artifact]) -> dict[Arm, Origin]:
    """Return the digests and the classification level of each arm's weights.

    The registration of an adapter may have a higher level than its weights, because of the evaluation data. This higher
    level applies to the stage (`Comparison.levels`), not to the weights.
    """
    files, level = {"base_model": read_descriptor(base_model)["digest"]}, base_model.manifest.classification
    origins: dict[Arm, Origin] = {"base": Origin(files, level)}
    for arm, artifact in tuned.items():
        higher = workplace.institution.ladder.highest((level, artifact.manifest.classification))
        origins[arm] = Origin({**files, "tuned": artifact.ref.digest}, higher)
    return origins


def incumbent_digests(workplace: Workplace) -> dict[str, str]:
    """Return `incumbent:<id>` -> artifact digest, as an external input of a stage; empty if the line has no incumbent.

    The incumbent is the line's adapter in production, or its last registered adapter if none is in production. Adapters
    that lost their blind review, or were rejected, recalled or retired, are skipped: to be better than an adapter that
    must not be served proves nothing. The present candidate is skipped too. A candidate that is registered is therefore
    still compared with the adapter before it, and its registration makes no score stale. Adapters are identified by the
    digest of their weights, because the same weights under another recipe are another artifact.
    """
    candidate = workplace.store.current(workplace.line.line, ALIGNED_ADAPTER.kind)
    row = _last_registered(workplace, candidate)
    return {} if row is None else {f"{_EXTERNAL}{row.id}": row.adapter_digest}


def is_incumbent(name: str) -> bool:
    """Return True if the external input with this name is the incumbent. name: name among the external inputs of
    scores."""
    return name.startswith(_EXTERNAL)


def incumbent_in(manifest: Manifest) -> tuple[str, str] | None:
    """Return the id and digest of the incumbent from the manifest of scores; None if the scores were computed without
    an incumbent."""
    for name, digest in manifest.external_inputs.items():
        if is_incumbent(name):
            return name.removeprefix(_EXTERNAL), digest
    return None


def open_incumbent(workplace: Workplace, candidate: Artifact, base_model: Artifact) -> tuple[Artifact, str] | None:
    """Open the incumbent and verify every byte; return None if the line has no incumbent that can be compared.

    Returns the artifact and its classification level: the level in the manifest or the level of the registration,
    whichever is higher. An incumbent on another base model is skipped, and the report states so. Template and tokens of
    such an incumbent differ, so its losses per token are not comparable. If this were an error, a line could never
    change its base model. Raises IntegrityError if bytes changed, NotFoundError if the artifact is missing, and
    CeilingExceeded if the incumbent's level is above the line's ceiling.
    """
    row = _last_registered(workplace, candidate.ref)
    if row is None or not has_base(workplace, row.adapter_digest, base_model):
        return None
    store, ladder = workplace.store, workplace.institution.ladder
    artifact = store.open(store.ref_of(row.adapter_digest).model_copy(update={"manifest_sha256": row.manifest_sha256}))
    level = ladder.highest((artifact.manifest.classification, row.classification))
    if ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {workplace.line.ceiling}, but its incumbent {row.id} is "
            f"{level}.",
            "Have the ceiling of the line raised, or create another line.",
        )
    return artifact, level


def has_base(workplace: Workplace, digest: str, base_model: Artifact) -> bool:
    """Return True if an adapter was tuned from exactly this base model, according to the digests of both."""
    store = workplace.store
    theirs = store.open_input(store.read_manifest(store.ref_of(digest)), BASE_MODEL.kind)
    return bool(read_descriptor(theirs)["digest"] == read_descriptor(base_model)["digest"])


def _last_registered(workplace: Workplace, candidate: ArtifactRef | None) -> Adapter | None:
    line = workplace.line.line
    weights = stated_weights(workplace.store.read_manifest(candidate)) if candidate is not None else None
    return incumbent_of(open_registry(workplace.settings), line, weights, workplace.lost_review(line))
