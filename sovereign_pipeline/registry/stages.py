"""The one stage of the registry room: `registered_adapter`, the record that a registration stands on.

The stage writes the record; putting it into the registry, which has a state of its own, is `registration.py`.
"""

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.report.stages import EVALUATION_REPORT
from sovereign_pipeline.registry.building import registered_adapter_stage
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER

REGISTERED_ADAPTER = registered_adapter_stage(
    (ALIGNED_ADAPTER, EVALUATION_REPORT, TRAINING_DATASET, PREFERENCE_DATASET, BASE_MODEL)
)
