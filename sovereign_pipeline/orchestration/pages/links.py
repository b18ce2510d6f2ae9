"""The files of an artifact that people read in a browser, and where they open.

What belongs here: which files of which kind; none of them holds text of a document. What does not: serving them
(`artifact_pages.py`).
"""

from collections.abc import Mapping

import dagster as dg

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.dataset.files import CARD, CARD_FOR_PEOPLE
from sovereign_pipeline.orchestration.pages.cells import Page
from sovereign_pipeline.settings import Settings

READABLE: Mapping[str, Mapping[str, str]] = {
    "raw_corpus": {"sources.json": "sources as read"},
    "scrubbed_corpus": {"findings.json": "findings"},
    "leakage_safe_split": {"proof.json": "proof of the split"},
    "training_dataset": {CARD_FOR_PEOPLE: "data card", CARD: "data card, JSON"},
    "preference_dataset": {CARD_FOR_PEOPLE: "data card", CARD: "data card, JSON"},
    "base_model": {"base_model.json": "description of the model"},
    "sft_adapter": {"report.json": "training report"},
    "aligned_adapter": {"report.json": "training report"},
    "capability_scores": {"scores.json": "scores"},
    "private_scores": {"scores.json": "scores"},
    "red_team_report": {"report.json": "red team report"},
    "evaluation_report": {"report.html": "evaluation report", "report.json": "evaluation report, JSON"},
    "registered_adapter": {"record.json": "record"},
    "blind_review": {"review.md": "review"},
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
