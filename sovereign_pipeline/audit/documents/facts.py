"""What documents are written from: the facts about one adapter, as an evidence package holds them.

What belongs here: reading them from the package's files. What does not: the form of any document.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.stage import Outcome
from sovereign_pipeline.registry.record import AdapterRecord

TLP = ("CLEAR", "GREEN", "AMBER", "RED")
"""The Traffic Light Protocol's labels, lowest first."""


@dataclass(frozen=True)
class VerdictFacts:
    """What a gate said of one artifact."""

    stage: str
    gate: str
    outcome: Outcome
    message: str
    waived_because: str | None
    """The officer's reason; None where nobody waived it."""


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter and all that it was made of."""

    id: str
    version: str
    institution: str
    """Its name."""
    record: AdapterRecord
    manifests: Mapping[str, Manifest]
    """Kind -> manifest, of the record and of everything that it was made of; inputs before what was made of them."""
    verdicts: Sequence[VerdictFacts]
    card: Mapping[str, Any]
    """The data card of the training dataset."""
    sources: Sequence[Mapping[str, Any]]
    """The source files, as `sources.json` has them."""
    issues: Sequence[str]
    """Known issues, in officers' words."""
    history: Sequence[Mapping[str, Any]]
    """Its transitions, as `release/standing.py` has them."""
    review_date: str
    registered_at: str
    made_at: str
    """Of the package; UTC."""


def facts_of(
    files: Mapping[str, bytes],
    adapter_id: str,
    institution: str,
    made_at: str,
    issues: Sequence[str],
    history: Sequence[Mapping[str, Any]],
) -> AdapterFacts:
    """The facts about an adapter from a package's files, verified before. issues, history: those of the adapter."""
    row = json.loads(files[f"registry/{adapter_id}.json"])

    def file(digest: str, name: str) -> bytes:
        return files[f"artifacts/{digest}/{name}"]

    record = AdapterRecord.model_validate_json(file(row["record_digest"], "record.json"))
    digests = {**record.lineage, "registered_adapter": row["record_digest"]}
    manifests = {
        kind: Manifest.model_validate_json(file(digest, "manifest.json")) for kind, digest in sorted(digests.items())
    }
    verdicts = [_verdict(each, file) for each in row["gate_records"]]
    return AdapterFacts(
        id=adapter_id,
        version=row["version"],
        institution=institution,
        record=record,
        manifests={kind: manifests[kind] for kind in _in_order(manifests)},
        verdicts=verdicts,
        card=json.loads(file(record.training_dataset.digest, "card.json")),
        sources=json.loads(file(record.lineage["raw_corpus"], "sources.json")),
        issues=issues,
        history=history,
        review_date=row["review_date"],
        registered_at=row["registered_at"],
        made_at=made_at,
    )


def tlp_of(manifest: Manifest) -> str:
    """The label for an artifact's level, by its place in the institution's ladder; between two, the stricter one."""
    top = len(manifest.ladder) - 1
    place = manifest.ladder.index(manifest.classification)
    return TLP[math.ceil(place * (len(TLP) - 1) / top)] if top else TLP[-1]


def _verdict(stated: Mapping[str, Any], file: Any) -> VerdictFacts:
    verdict, waiver = json.loads(file(stated["digest"], "verdict.json")), stated.get("acceptance")
    reason = waiver["reason"] if waiver else None
    return VerdictFacts(stated["stage"], stated["gate"], verdict["outcome"], verdict["message"], reason)


def _in_order(manifests: Mapping[str, Manifest]) -> list[str]:
    """The kinds, each after its inputs."""
    by_digest = {manifest.digest: kind for kind, manifest in manifests.items()}
    found: list[str] = []

    def add(kind: str) -> None:
        for digest in manifests[kind].inputs.values():
            if digest in by_digest:
                add(by_digest[digest])
        if kind not in found:
            found.append(kind)

    for kind in manifests:
        add(kind)
    return found
