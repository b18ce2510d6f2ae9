"""What an asset's page shows of its artifact: counts, digests, tables and plots, read from the artifact's own files.

What belongs here: presentation. What does not: judging, or anything that would show text of a document.
"""

from collections.abc import Callable, Mapping

import dagster as dg

from sovereign_pipeline.artifacts.making import Production
from sovereign_pipeline.artifacts.stage import Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.orchestration.pages.cells import Page, link, table
from sovereign_pipeline.orchestration.pages.corpus import (
    build_card,
    classified_corpus,
    contamination,
    proof,
    raw_corpus,
)
from sovereign_pipeline.orchestration.pages.models import adapter, red_team, registered, review, training_report


def page_of(workplace: Workplace, production: Production, verdicts: Mapping[str, Verdict]) -> Page:
    """Metadata of one materialization: what is true of every artifact, then what its kind has to show."""
    artifact = workplace.store.open(production.ref)
    manifest = artifact.manifest
    page: Page = {
        "classification": manifest.classification,
        "line owner": workplace.line.owner,
        "sha256": artifact.ref.digest,
        "dagster/uri": artifact.path.as_uri(),
        "made at": manifest.circumstances.created_at,
        "found, not made again": production.reused,
        **_PAGES.get(artifact.ref.kind, _summary)(artifact),
        **contamination(verdicts),
        "files": table([{"file": entry.path, "bytes": entry.size, "sha256": entry.sha256} for entry in manifest.files]),
        "producer": dg.MetadataValue.json(
            {
                "code_version": manifest.producer.code_version,
                "source_sha256": manifest.circumstances.source_sha256,
                "config": manifest.producer.config,
                "libraries": manifest.producer.libraries,
            }
        ),
        **{f"made from {kind}": link(kind, digest) for kind, digest in manifest.inputs.items()},
    }
    if manifest.external_inputs:
        page["outside files"] = table(
            [{"file": name, "sha256": sha256} for name, sha256 in manifest.external_inputs.items()]
        )
    if artifact.manifest.circumstances.measured:
        page["measured"] = table(
            [{"what": name, "value": value} for name, value in manifest.circumstances.measured.items()]
        )
    if "rows" in manifest.summary:
        page["dagster/row_count"] = manifest.summary["rows"]
    return page


def _summary(artifact: Artifact) -> Page:
    return {"summary": dg.MetadataValue.json(artifact.manifest.summary)}


_PAGES: Mapping[str, Callable[[Artifact], Page]] = {
    "raw_corpus": raw_corpus,
    "classified_corpus": classified_corpus,
    "leakage_safe_split": proof,
    "training_dataset": build_card,
    "preference_dataset": build_card,
    "sft_adapter": adapter,
    "aligned_adapter": adapter,
    "red_team_report": red_team,
    "evaluation_report": training_report,
    "registered_adapter": registered,
    "blind_review": review,
}
