"""What happens once an asset's artifact is there and its gates were asked: the registry, and the mirror in MLflow.

Each is idempotent, so that materializing an unchanged asset again changes nothing. MLflow is a view: nothing reads it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Workplace

After = Callable[[Workplace, ArtifactRef], dict[str, Any]]


def mirror_training(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    from sovereign_pipeline.registry.mlflow_mirror import mirror_training

    return {"mlflow run": mirror_training(workplace.settings, workplace.store.open(ref))}


def mirror_evaluation(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    from sovereign_pipeline.registry.mlflow_mirror import mirror_evaluation

    return {"mlflow run": mirror_evaluation(workplace.settings, workplace.store.open(ref))}


def register(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.registry.mlflow_mirror import mirror_adapter
    from sovereign_pipeline.registry.registration import register

    adapter = register(open_registry(workplace.settings), workplace, ref)
    version = mirror_adapter(workplace.settings, workplace.store, adapter)
    return {
        "adapter": adapter.id,
        "version": adapter.version,
        "review by": adapter.review_date.isoformat(),
        "mlflow version": version,
    }


# Whatever the gates said: a report that they refused is looked at most.
ONCE_JUDGED: Mapping[str, After] = {
    "evaluation_report": mirror_evaluation,
}

# Once every gate said yes, or an officer let it pass.
ONCE_PASSED: Mapping[str, After] = {
    "sft_adapter": mirror_training,
    "aligned_adapter": mirror_training,
    "registered_adapter": register,
}
