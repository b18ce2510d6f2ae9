"""The chain in order, and what comes after it only when people have done their part. Every other place that walks
stages takes them from here."""

from sovereign_pipeline.artifacts.stage import Stage
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.report.stages import EVALUATION_REPORT
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.review.stages import BLIND_REVIEW
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER

CHAIN: tuple[Stage, ...] = (
    RAW_CORPUS,
    CLASSIFIED_CORPUS,
    SCRUBBED_CORPUS,
    LEAKAGE_SAFE_SPLIT,
    TRAINING_DATASET,
    PREFERENCE_DATASET,
    BASE_MODEL,
    SFT_ADAPTER,
    ALIGNED_ADAPTER,
    CAPABILITY_SCORES,
    PRIVATE_SCORES,
    RED_TEAM_REPORT,
    EVALUATION_REPORT,
    REGISTERED_ADAPTER,
)

# Not part of what `sovereign run` makes: each waits for people, and a sensor materializes it when they are done.
AFTER_PEOPLE: tuple[Stage, ...] = (BLIND_REVIEW,)
