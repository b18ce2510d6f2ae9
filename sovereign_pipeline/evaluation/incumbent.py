"""The incumbent: the registered adapter that a candidate would replace, and whether the two can be compared.

What belongs here: finding it in the registry, and verifying it. What does not: loading and scoring it (`arms/`).
"""

from dataclasses import dataclass

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import read_descriptor
from sovereign_pipeline.errors import CeilingExceeded
from sovereign_pipeline.ledger.catalog import incumbent_of
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import stated_weights

_EXTERNAL = "incumbent:"


@dataclass(frozen=True)
class Incumbent:
    """A verified adapter to compare with."""

    artifact: Artifact
    classification: str
    """The higher level of the artifact and of its registration."""


def incumbent_digests(workplace: Workplace) -> dict[str, str]:
    """`incumbent:<id>` -> digest of its artifact, as a stage's external input; empty where the line has none.

    The incumbent is the line's adapter in production, else its last registered one, that is not the present candidate,
    did not lose its blind review and was not rejected, recalled or retired: a candidate must not ship for being better
    than an adapter that may not ship. A registered candidate is still compared with the adapter before it, so that
    registering makes no score stale. Both are known by their weights: under another recipe the same ones are another
    artifact.
    """
    candidate = workplace.store.current(workplace.line.line, ALIGNED_ADAPTER.kind)
    row = _last_registered(workplace, candidate)
    return {} if row is None else {f"{_EXTERNAL}{row.id}": row.adapter_digest}


def is_incumbent(name: str) -> bool:
    """Whether an external input of scores is the incumbent's."""
    return name.startswith(_EXTERNAL)


def incumbent_in(manifest: Manifest) -> tuple[str, str] | None:
    """Id and digest of the incumbent that scores were compared with, from their manifest."""
    for name, digest in manifest.external_inputs.items():
        if is_incumbent(name):
            return name.removeprefix(_EXTERNAL), digest
    return None


def open_incumbent(workplace: Workplace, candidate: Artifact, base_model: Artifact) -> Incumbent | None:
    """The incumbent, every byte verified; None when the line has none, or none that can be compared.

    An incumbent on another base model is left out, and the report states it: template and tokens differ, so a loss per
    token of one is not a loss per token of the other. An error here would forbid a line to change its base model.
    Raises IntegrityError when bytes changed, NotFoundError when the artifact is gone, and CeilingExceeded when the
    incumbent is above the line's ceiling.
    """
    row = _last_registered(workplace, candidate.ref)
    if row is None or not has_base(workplace, row.adapter_digest, base_model):
        return None
    store, ladder = workplace.store, workplace.institution.ladder
    artifact = store.open(store.ref_of(row.adapter_digest).model_copy(update={"manifest_sha256": row.manifest_sha256}))
    level = ladder.highest((artifact.manifest.classification, row.classification))
    if ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {workplace.line.ceiling} at most; its incumbent {row.id} is {level}.",
            "Have the ceiling of the line raised, or begin a line of another name.",
        )
    return Incumbent(artifact, level)


def has_base(workplace: Workplace, digest: str, base_model: Artifact) -> bool:
    """Whether an adapter's artifact was tuned from exactly this base model, by the digests of both."""
    store = workplace.store
    theirs = store.open_input(store.read_manifest(store.ref_of(digest)), BASE_MODEL.kind)
    return bool(read_descriptor(theirs)["digest"] == read_descriptor(base_model)["digest"])


def _last_registered(workplace: Workplace, candidate: ArtifactRef | None) -> Adapter | None:
    line = workplace.line.line
    weights = stated_weights(workplace.store.read_manifest(candidate)) if candidate is not None else None
    return incumbent_of(open_registry(workplace.settings), line, weights, workplace.lost_review(line))
