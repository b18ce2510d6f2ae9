"""What the pages of the corpus's assets show besides figures: their columns, and tables of counts.

What belongs here: the assets of the group `corpus`. Row ids, counts and reasons, never text of a document.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.stages import QUARANTINE, SOURCES
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline.dataset.quality import Finding
from sovereign_pipeline.dataset.tokens import as_table
from sovereign_pipeline.orchestration.pages.cells import Page, read_json, table
from sovereign_pipeline.privacy.vault import FINDINGS
from sovereign_pipeline.record.stage import Verdict
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import PROOF

QUARANTINED_SHOWN = 50
DOUBTFUL_SHOWN = 20

_DOCUMENT_COLUMNS = {
    "id": "row id in the source",
    "source": "name of the source in the recipe",
    "case": "case file; never on both sides of the split",
    "department": "",
    "author": "officer who wrote the reply",
    "date": "ISO day of the reply",
    "classification": "level on the institution's ladder",
    "language": "",
    "subject": "",
    "request": "the incoming document",
    "response": "the reply that was sent, or the chosen one",
    "rejected": "the rejected reply of a preference pair, else null",
    "label": "binary feedback: whether people found the reply good, else null",
    "links": "ids of rows of the same matter",
}

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    **{
        kind: _DOCUMENT_COLUMNS for kind in ("raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split")
    },
    "training_dataset": {"id": "row id", "instruction": "", "input": "subject and request", "output": "the reply"},
    "preference_dataset": {
        "id": "row id",
        "prompt": "whole user message",
        "chosen": "reply of a pair",
        "rejected": "reply of a pair",
        "completion": "in place of a pair: a reply with binary feedback",
        "label": "binary feedback: whether people found it good",
    },
}


def schema_of(kind: str) -> dict[str, dg.TableSchema]:
    """The column schema shown on the asset's definition, for assets of rows."""
    columns = _COLUMNS.get(kind)
    if columns is None:
        return {}
    described = [dg.TableColumn(name, "string", description=text or None) for name, text in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(columns=described)}


def raw_corpus(artifact: Artifact) -> Page:
    sources = read_json(artifact.file(SOURCES))
    shown = ("name", "role", "rows", "documents", "quarantined", "excluded", "not_selected", "licence", "retention")
    quarantined = [dict(row, id=row["id"] or "") for row in read_jsonl(artifact.file(QUARANTINE))]
    page: Page = {"sources": table([{name: source.get(name, 0) for name in shown} for source in sources])}
    excluded = [{"source": source["name"], **row} for source in sources for row in source.get("exclusions", [])]
    if excluded:
        page["excluded by the recipe"] = table(excluded)
    if quarantined:
        page[f"quarantine (first {QUARANTINED_SHOWN})"] = table(quarantined[:QUARANTINED_SHOWN])
    return page


def classified_corpus(artifact: Artifact) -> Page:
    summary = artifact.manifest.summary
    return {
        "ceiling": summary["ceiling"],
        "levels": table([{"level": level, "documents": count} for level, count in summary["levels"].items()]),
    }


def scrubbed_corpus(artifact: Artifact) -> Page:
    replaced = artifact.manifest.summary["replaced"]
    page: Page = {
        "replaced": table([{"personal data": kind, "occurrences": count} for kind, count in sorted(replaced.items())])
    }
    doubtful = read_json(artifact.file(FINDINGS)).get("doubtful", {})  # findings of earlier versions have none
    if doubtful:
        page[f"doubtful (first {DOUBTFUL_SHOWN} rows)"] = table(
            [
                {
                    "personal data": kind,
                    "occurrences": found["values"],
                    "rows": ", ".join(found["rows"][:DOUBTFUL_SHOWN]),
                }
                for kind, found in sorted(doubtful.items())
            ]
        )
    return page


def leakage_safe_split(artifact: Artifact) -> Page:
    proof = read_json(artifact.file(PROOF))
    return {"proof": table([{"fact": name, "value": value} for name, value in _flat(proof)])}


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every single value with the names that lead to it: `crossing: case`, `0`."""
    for name, value in facts.items():
        label = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, str(value)


def dataset(artifact: Artifact) -> Page:
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    return {
        "quality": table([_finding(finding) for finding in card.findings]),
        "tokens": table([dict(side) for side in as_table(card.tokens)]),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding.name,
        "look": "yes" if finding.warns else "",
        "rows": finding.count,
        "share": finding.share,
        "first row ids": ", ".join(finding.rows),
        "what it counts": finding.what,
        "what to do": finding.todo,
    }


def contamination(verdicts: Mapping[str, Verdict]) -> Page:
    """By suite; the row ids are in `listed.jsonl` of the gate's record."""
    verdict = verdicts.get(NOT_CONTAMINATED)
    if verdict is None:
        return {}
    return {"contamination": table([{"suite": name, **counts} for name, counts in verdict.evidence["suites"].items()])}
