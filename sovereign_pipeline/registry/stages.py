"""The stage `registered_adapter`: it writes the record that is registered.

What belongs here: the declaration. What does not: building the record (`building.py`), and entering it into the
registry, which has a state of its own (`registration.py`).
"""

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.stages import EVALUATION_REPORT
from sovereign_pipeline.registry.building import registered_adapter_stage
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER

REGISTERED_ADAPTER = registered_adapter_stage(
    (ALIGNED_ADAPTER, EVALUATION_REPORT, TRAINING_DATASET, PREFERENCE_DATASET, BASE_MODEL)
)
