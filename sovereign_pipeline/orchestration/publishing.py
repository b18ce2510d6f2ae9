"""What follows once an artifact is there and its gates were evaluated: the registry, its index, the mirror in MLflow.

What belongs here: which stage is published where, and under which verdict. What does not: how (`registry/`). Each
publication is idempotent, so that materializing an unchanged asset again changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.mlflow_mirror import (
    follow_after_act,
    mirror_adapter,
    mirror_evaluation,
    mirror_training,
)
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.release.acts import issues_by_adapter
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.recall_index import index_adapter

Publication = Callable[[Workplace, ArtifactRef], dict[str, Any]]


def publish(stage: Stage, workplace: Workplace, ref: ArtifactRef, *, passed: bool) -> dict[str, Any]:
    """Publish an artifact. passed: every gate passed or was waived. Returns what the asset's page shows of it."""
    published: dict[str, Any] = {}
    if stage.kind in WHATEVER_THE_VERDICT:
        published |= WHATEVER_THE_VERDICT[stage.kind](workplace, ref)
    if passed and stage.kind in ONCE_PASSED:
        published |= ONCE_PASSED[stage.kind](workplace, ref)
    return published


def _mirror_training(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    return {"mlflow run": mirror_training(workplace.settings, workplace.store.open(ref))}


def _mirror_evaluation(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    return {"mlflow run": mirror_evaluation(workplace.settings, workplace.store.open(ref))}


def _register(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    registry = open_registry(workplace.settings)
    adapter = register(registry, workplace, ref)
    index_adapter(registry, workplace.store, adapter)
    version = _mirror_adapter(workplace, registry, adapter)
    with registry.reading() as session:
        issues = [issue.text for issue in issues_by_adapter(session, registry.settings, adapter.id).get(adapter.id, ())]
        recalls = [recall.id for recall in open_recalls(session, registry.settings, adapter.id)]
    return {
        "adapter": adapter.id,
        "version": adapter.version,
        "review by": adapter.review_date.isoformat(),
        **({"known issues": "; ".join(issues)} if issues else {}),
        **({"recalled by": ", ".join(recalls)} if recalls else {}),
        "mlflow version": version,
    }


def _mirror_adapter(workplace: Workplace, registry: Registry, adapter: Adapter) -> str:
    """MLflow's version, or what failed: the adapter is registered all the same."""
    try:
        version = mirror_adapter(workplace.settings, workplace.store, adapter)
    except Exception as error:  # whatever MLflow, its database or its disk raises
        workplace.progress(f"{adapter.id} is registered, and MLflow does not show it yet ({type(error).__name__})")
        return f"none: {type(error).__name__}; `sovereign adapters mlflow --repair` writes it anew"
    return follow_after_act(registry, workplace.settings, adapter.line, workplace.progress) or version


WHATEVER_THE_VERDICT: Mapping[str, Publication] = {
    "evaluation_report": _mirror_evaluation,
}
"""A report whose gates did not pass is looked at most."""

ONCE_PASSED: Mapping[str, Publication] = {
    "sft_adapter": _mirror_training,
    "aligned_adapter": _mirror_training,
    "registered_adapter": _register,
}
"""Once every gate passed or was waived."""
