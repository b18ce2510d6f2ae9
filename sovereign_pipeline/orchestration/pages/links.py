"""The files of an artifact that people read in a browser, and where they open.

What belongs here: which files of which kind; none of them holds text of a document. What does not: serving them
(`artifact_pages.py`).
"""

from collections.abc import Mapping

import dagster as dg

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.pinned import DESCRIPTOR
from sovereign_pipeline.corpus.stages import SOURCES
from sovereign_pipeline.dataset.jsonl import CARD, CARD_FOR_PEOPLE
from sovereign_pipeline.evaluation.records import REPORT_FILE, REPORT_PAGE, SCORES_FILE
from sovereign_pipeline.orchestration.pages.cells import Page
from sovereign_pipeline.privacy.vault import FINDINGS
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.record import RECORD_FILE
from sovereign_pipeline.review.closed_reviews import TABLES_FILE
from sovereign_pipeline.split import PROOF
from sovereign_pipeline.training.report import REPORT_FILE as TRAINING_REPORT_FILE

READABLE: Mapping[str, Mapping[str, str]] = {
    "raw_corpus": {SOURCES: "sources as read"},
    "scrubbed_corpus": {FINDINGS: "findings"},
    "leakage_safe_split": {PROOF: "proof of the split"},
    "training_dataset": {CARD_FOR_PEOPLE: "data card", CARD: "data card, JSON"},
    "preference_dataset": {CARD_FOR_PEOPLE: "data card", CARD: "data card, JSON"},
    "base_model": {DESCRIPTOR: "description of the model"},
    "sft_adapter": {TRAINING_REPORT_FILE: "training report"},
    "reward_model": {TRAINING_REPORT_FILE: "training report"},
    "aligned_adapter": {TRAINING_REPORT_FILE: "training report"},
    "capability_scores": {SCORES_FILE: "scores"},
    "private_scores": {SCORES_FILE: "scores"},
    "red_team_report": {REPORT_FILE: "red team report"},
    "evaluation_report": {REPORT_PAGE: "evaluation report", REPORT_FILE: "evaluation report, JSON"},
    "registered_adapter": {RECORD_FILE: "record"},
    "blind_review": {TABLES_FILE: "review"},
}
"""Kind -> file -> what the link is called."""


def links_to_files(settings: Settings, artifact: Artifact) -> Page:
    """A link for each file that opens in a browser while `sovereign up` runs."""
    listed = {entry.path for entry in artifact.manifest.files}
    return {
        label: dg.MetadataValue.url(url_of(settings, artifact.ref.digest, file))
        for file, label in READABLE.get(artifact.ref.kind, {}).items()
        if file in listed
    }


def url_of(settings: Settings, digest: str, file: str) -> str:
    return f"{settings.pages_url}/{digest}/{file}"
