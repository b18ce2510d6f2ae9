"""One asset's page: the verdict and the headline figures first, digests and producer last.

What belongs here: the order, and what is true of every artifact. What each kind has to show is in `figures.py`
(numbers), `corpus.py` and `models.py` (tables and texts), and `links.py` (files that open in a browser).
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.orchestration.pages import corpus, models
from sovereign_pipeline.orchestration.pages.cells import Page, link, table
from sovereign_pipeline.orchestration.pages.figures import HEADLINES, Figures, figures_of
from sovereign_pipeline.orchestration.pages.links import links_to_files
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.stage import Production, Stage, Verdict, Workplace, stated_identity
from sovereign_pipeline.record.staleness import compare
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS

MIRRORED = ("mlflow run", "mlflow version")
"""Of what publishing gave, the references into MLflow: nothing to read at a glance."""


def page_of(
    workplace: Workplace,
    production: Production,
    verdicts: Mapping[str, Verdict],
    outcome: str = "",
    published: Mapping[str, Any] | None = None,
    idle: str | None = None,
    before: ArtifactRef | None = None,
) -> Page:
    """Metadata of one materialization, in the order in which the page shows it.

    Args:
        outcome: the verdicts of all gates in one line.
        published: what publishing gave, such as the adapter's id and version.
        idle: why there was nothing to do (`nothing_to_do`); the page is short then.
        before: the line's artifact of this kind until now.
    """
    artifact = workplace.store.open(production.ref)
    manifest = artifact.manifest
    if idle is not None:
        return {
            "verdict": idle,
            "classification": manifest.classification,
            "reused": production.reused,
            "artifact": link(artifact.ref.kind, artifact.ref.digest),
            "sha256": artifact.ref.digest,
        }
    figures = figures_of(artifact)
    return {
        "verdict": outcome,
        **{name: value for name, value in (published or {}).items() if name not in MIRRORED},
        **dict(list(figures.items())[:HEADLINES]),
        **links_to_files(workplace.settings, artifact),
        **_why_made(workplace, artifact.ref, before),
        "signature": _signature(workplace, artifact),
        "classification": manifest.classification,
        "seconds to make": manifest.circumstances.measured["seconds"],
        "reused": production.reused,
        "created at": manifest.circumstances.created_at,
        "line owner": workplace.line.owner,
        **dict(list(figures.items())[HEADLINES:]),
        **_DETAILS.get(artifact.ref.kind, _no_details)(artifact),
        **corpus.contamination(verdicts),
        **{name: value for name, value in (published or {}).items() if name in MIRRORED},
        **_row_count(manifest),
        **_history(workplace.line.line, figures),
        **_inputs(manifest),
        "sha256": artifact.ref.digest,
        "dagster/uri": artifact.path.as_uri(),
        "manifest": _whole_manifest(artifact),
    }


def nothing_to_do(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> str | None:
    """Why the stage had nothing to do for this line, in one sentence; None when it had."""
    passthrough = stage.passthrough_input(workplace.line)
    if passthrough is not None:
        missing = "reward model" if stage.kind == "reward_model" else "preference training"
        return f"nothing to do: the line has no {missing}; {passthrough.kind} is passed through"
    if stage.kind == "preference_dataset" and workplace.store.read_manifest(ref).summary["rows"] == 0:
        return "nothing to do: the line has no preference training; the dataset is empty"
    return None


def _why_made(workplace: Workplace, ref: ArtifactRef, before: ArtifactRef | None) -> Page:
    """What differs from the line's artifact before: input, key of the recipe, library or file. Nothing if none does."""
    if before is None or before.digest == ref.digest or before.kind != ref.kind:
        return {}
    try:
        earlier = workplace.store.read_manifest(before)
    except IntegrityError as error:
        return {"why it was made": f"The artifact before it cannot be read. {error.message}"}
    changes = compare(stated_identity(earlier), stated_identity(workplace.store.read_manifest(ref)))
    return {
        "why it was made": table(
            [
                {"changed": each.field, "name": each.name, "before": each.before or "", "now": each.now or ""}
                for each in changes
            ]
        )
    }


def _history(line: str, figures: Figures) -> Page:
    """The headline figures under the line's name: Dagster's plot over time draws one curve for each label, from the
    events of all lines."""
    return {f"{line}: {name}": value for name, value in list(figures.items())[:HEADLINES]}


def _row_count(manifest: Manifest) -> Page:
    has_rows = "rows" in manifest.summary and bool(corpus.schema_of(manifest.kind))
    return {"dagster/row_count": manifest.summary["rows"]} if has_rows else {}


def _signature(workplace: Workplace, artifact: Artifact) -> str:
    is_demonstration = trust_root(workplace.settings).is_demonstration
    return f"by the pipeline, with {DEMONSTRATION_KEYS}" if is_demonstration else "by the pipeline"


def _inputs(manifest: Manifest) -> Page:
    page: Page = {f"input {kind}": link(kind, digest) for kind, digest in manifest.inputs.items()}
    if manifest.external_inputs:
        page["input files"] = table(
            [{"file": name, "sha256": sha256} for name, sha256 in manifest.external_inputs.items()]
        )
    return page


def _whole_manifest(artifact: Artifact) -> dg.MetadataValue:
    """Everything by which an auditor holds the artifact to its record. Dagster folds JSON of its length."""
    ref = artifact.ref
    return dg.MetadataValue.json(
        {"sha256": ref.digest, "manifest_sha256": ref.manifest_sha256, **artifact.manifest.model_dump(mode="json")}
    )


def _no_details(artifact: Artifact) -> Page:
    return {}


_DETAILS: Mapping[str, Callable[[Artifact], Page]] = {
    "raw_corpus": corpus.raw_corpus,
    "classified_corpus": corpus.classified_corpus,
    "scrubbed_corpus": corpus.scrubbed_corpus,
    "leakage_safe_split": corpus.leakage_safe_split,
    "training_dataset": corpus.dataset,
    "preference_dataset": corpus.dataset,
    "base_model": models.base_model,
    "sft_adapter": models.adapter,
    "reward_model": models.reward_model,
    "aligned_adapter": models.adapter,
    "capability_scores": models.capability_scores,
    "private_scores": models.private_scores,
    "red_team_report": models.red_team_report,
    "evaluation_report": models.evaluation_report,
    "registered_adapter": models.registered_adapter,
    "blind_review": models.blind_review,
}
