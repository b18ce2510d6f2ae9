"""What is signed about an artifact: its provenance and, for some kinds, more.

Each signature lies in a file of its own beside what it is about (`manifest.json.sigstore.json`), and is no part of the
artifact's digest. What belongs here: which signatures belong to an artifact, and what they say. What does not: whose
key counts, and the ledger (`seals.py`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, Manifest
from sovereign_pipeline.signing.bundles import SUFFIX
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.model_directory import sign_listed
from sovereign_pipeline.signing.predicates import (
    BILL_OF_MATERIALS,
    EVALUATION,
    GATE,
    PROVENANCE,
    RECORD,
    provenance,
)
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement

PROVENANCE_BUNDLE = MANIFEST_FILE + SUFFIX


@dataclass(frozen=True)
class Attestation:
    """A statement about one file of an artifact."""

    file: str
    predicate_type: str
    sha256: str
    predicate: Mapping[str, Any]

    @property
    def bundle(self) -> str:
        return self.file + SUFFIX


@dataclass(frozen=True)
class WeightsList:
    """The OpenSSF's signature of a directory with weights: every file in it by its SHA-256."""

    directory: str
    files: Mapping[str, str]
    """Path below the directory -> SHA-256."""
    name: str

    @property
    def bundle(self) -> str:
        return self.directory + SUFFIX


Said = Callable[[Manifest, dict[str, Any]], dict[str, Any]]
"""The predicate, from an artifact's manifest and the content of the file that it is about."""


def _gate(manifest: Manifest, verdict: dict[str, Any]) -> dict[str, Any]:
    (evaluated,) = manifest.inputs.values()
    return {"gate": manifest.producer.config["gate"], "artifact": evaluated, "outcome": verdict["outcome"]}


def _evaluation(manifest: Manifest, report: dict[str, Any]) -> dict[str, Any]:
    return {"line": manifest.line, "artifact": manifest.digest, "outcome": manifest.summary["outcome"]}


def _record(manifest: Manifest, record: dict[str, Any]) -> dict[str, Any]:
    return {"line": manifest.line, "adapter": manifest.inputs["aligned_adapter"]}


def _bill_of_materials(manifest: Manifest, bill: dict[str, Any]) -> dict[str, Any]:
    return bill


ATTESTED: Mapping[str, Mapping[str, tuple[str, Said]]] = {
    "gate_record": {"verdict.json": (GATE, _gate)},
    "evaluation_report": {"report.json": (EVALUATION, _evaluation)},
    "registered_adapter": {
        "record.json": (RECORD, _record),
        "bill_of_materials.json": (BILL_OF_MATERIALS, _bill_of_materials),
    },
}
"""Kind of artifact -> its files with a statement of their own -> the predicate, and what it says."""

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("sft_adapter", "aligned_adapter"), ("adapter", "model")),
    "reward_model": ("reward",),
}
"""Kind of artifact -> the directories in it that others load as they are."""


def bundles_of(manifest: Manifest) -> tuple[str, ...]:
    """The file names of all signatures that belong to an artifact."""
    return (
        PROVENANCE_BUNDLE,
        *(name + SUFFIX for name in _attested_files(manifest)),
        *(each.bundle for each in weights_of(manifest)),
    )


def provenance_of(manifest: Manifest) -> dict[str, Any]:
    """How the artifact was made, as SLSA has it."""
    return provenance(
        manifest.kind,
        manifest.producer.config,
        {**manifest.inputs, **manifest.external_inputs},
        builder=manifest.circumstances.source_sha256,
        libraries=manifest.producer.libraries,
        finished_on=manifest.circumstances.created_at,
    )


def attestations_of(directory: Path, manifest: Manifest) -> Iterator[Attestation]:
    """The statements besides the provenance. The artifact's files must be verified already."""
    for name, sha256 in _attested_files(manifest).items():
        predicate_type, said = ATTESTED[manifest.kind][name]
        yield Attestation(name, predicate_type, sha256, said(manifest, json.loads((directory / name).read_bytes())))


def weights_of(manifest: Manifest) -> Iterator[WeightsList]:
    """The directories with weights, each with the files that the manifest lists in it."""
    for directory in WEIGHTS.get(manifest.kind, ()):
        inside = f"{directory}/"
        files = {
            entry.path.removeprefix(inside): entry.sha256 for entry in manifest.files if entry.path.startswith(inside)
        }
        if files:
            yield WeightsList(directory, files, manifest.digest)


def signatures(
    signer: Signer, directory: Path, manifest: Manifest, manifest_sha256: str
) -> Iterator[tuple[str, bytes]]:
    """Every signature of an artifact that is being sealed: file name and bytes."""
    made = Statement((Subject(MANIFEST_FILE, manifest_sha256),), PROVENANCE, provenance_of(manifest))
    yield PROVENANCE_BUNDLE, sign_statement(signer, made)
    for each in attestations_of(directory, manifest):
        statement = Statement((Subject(each.file, each.sha256),), each.predicate_type, each.predicate)
        yield each.bundle, sign_statement(signer, statement)
    for weights in weights_of(manifest):
        yield weights.bundle, sign_listed(signer, weights.files, weights.name)


def _attested_files(manifest: Manifest) -> dict[str, str]:
    """Those of the kind's files with a statement that this artifact has, with their SHA-256."""
    attested = ATTESTED.get(manifest.kind, {})
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path in attested}
