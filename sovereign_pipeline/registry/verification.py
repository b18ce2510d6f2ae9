"""Proving that a registered adapter still is what was registered: every byte is read again, down to the source files.

What belongs here: the walk and what it compares. What does not: how an artifact is hashed (`artifacts/store.py`) or a
base model's files (`training/base_models.py`).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sovereign_pipeline.artifacts.gates import GATE_RECORD
from sovereign_pipeline.artifacts.hashing import file_sha256, short
from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.artifacts.waiver import GATE_WAIVER
from sovereign_pipeline.base_models.verified import open_base_model
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.catalog import find_adapter, show_adapter, show_dataset
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.registry.building import dataset_facts
from sovereign_pipeline.registry.dataset_cards import open_dataset
from sovereign_pipeline.registry.record import RECORD_FILE, AdapterRecord, disagreements, read_record
from sovereign_pipeline.registry.registration import assert_parent_is_registered
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.training.tuned_model import tuned_model


@dataclass(frozen=True)
class Checked:
    """One thing whose every byte was hashed and found as recorded. bytes: their number, the manifest's included."""

    what: str
    digest: str
    path: str
    files: int
    bytes: int


@dataclass(frozen=True)
class VerificationReport:
    """subject: the adapter's id or the dataset's digest. notes: what differs without being wrong, such as a source file
    that has grown since."""

    subject: str
    checked: tuple[Checked, ...]
    notes: tuple[str, ...]

    @property
    def files(self) -> int:
        return sum(each.files for each in self.checked)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.checked)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "files": self.files, "bytes": self.bytes}


def verify_adapter(registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str) -> VerificationReport:
    """Hash everything an adapter stands on, and compare the registry's row with the record. What it went on from is
    verified in the same way.

    Raises IntegrityError naming the file at the first byte, manifest or fact that is not the registered one, and
    NotFoundError for an adapter that is not registered.
    """
    row = find_adapter(registry, adapter_id)
    record_ref = ArtifactRef(
        kind="registered_adapter",
        line=row.line,
        digest=row.record_digest,
        manifest_sha256=row.record_manifest_sha256,
    )
    artifact = store.open(record_ref)
    record = read_record(artifact)
    checked = [_checked(artifact)]
    _assert_row_says_what_record_says(registry, row, record, artifact)
    ancestors, sources = _lineage(store, artifact)
    checked += [_checked(each) for each in ancestors]
    _assert_adapter_is_registered_one(row, next(each for each in ancestors if each.ref.digest == row.adapter_digest))
    checked += _gate_records(store, row, record, artifact)
    differing = disagreements(store, record, artifact.manifest)
    if differing:
        raise IntegrityError(f"{artifact.path / RECORD_FILE}: {'; '.join(differing)}. Register the adapter anew.")
    checked.append(
        _base_model(settings, record, next(each for each in ancestors if each.manifest.kind == "base_model"))
    )
    live, notes = _live_sources(settings, sources)
    checked += live
    if record.started_from is not None:
        assert_parent_is_registered(registry, record, artifact)
        earlier = verify_adapter(registry, store, settings, record.started_from.adapter)
        checked, notes = [*checked, *earlier.checked], [*notes, *earlier.notes]
    return VerificationReport(adapter_id, tuple(dict.fromkeys(checked)), tuple(dict.fromkeys(notes)))


def verify_dataset(registry: Registry, store: ArtifactStore, settings: Settings, digest: str) -> VerificationReport:
    """Hash a registered dataset and all that it was made from. `digest` may be shortened.

    The registry's row is compared with what the dataset's card and files say. Raises IntegrityError naming the file at
    the first byte, or the fact, that is not the registered one, and NotFoundError.
    """
    row = show_dataset(registry, digest)
    artifact = open_dataset(store, row)
    ancestors, sources = _lineage(store, artifact)
    _assert_row_says_what_dataset_says(row, artifact, sources)
    live, notes = _live_sources(settings, sources)
    return VerificationReport(
        row["digest"], (_checked(artifact), *(_checked(each) for each in ancestors), *live), tuple(notes)
    )


def _lineage(store: ArtifactStore, artifact: Artifact) -> tuple[list[Artifact], list[dict[str, Any]]]:
    """Everything an artifact was made from, every byte read, and what raw_corpus says of the institution's files."""
    ancestors = [store.open(ref) for ref, _ in lineage(store, artifact.manifest)]
    sources: list[dict[str, Any]] = []
    for each in ancestors:
        if each.manifest.kind == "raw_corpus":
            sources = json.loads(each.file("sources.json").read_bytes())
    return ancestors, sources


def _checked(artifact: Artifact) -> Checked:
    manifest = artifact.manifest
    size = sum(entry.size for entry in manifest.files) + (artifact.path / MANIFEST_FILE).stat().st_size
    return Checked(manifest.kind, artifact.ref.digest, str(artifact.path), len(manifest.files) + 1, size)


def _assert_row_says_what_record_says(
    registry: Registry, row: Adapter, record: AdapterRecord, artifact: Artifact
) -> None:
    expected: dict[str, Any] = {"id": f"{record.line}-{row.version}", **record.row_facts}
    manifests = artifact.manifest.circumstances.input_manifests
    expected["manifest_sha256"] = manifests["aligned_adapter"]
    wrong = [name for name, value in expected.items() if getattr(row, name) != value]
    shown = show_adapter(registry, row.id)
    datasets = {each["digest"]: each for each in shown["datasets"]}
    for dataset in record.datasets:
        said = dataset.model_dump(mode="json", exclude={"file"})
        wrong += [f"dataset.{name}" for name, value in said.items() if datasets[dataset.digest][name] != value]
    base = record.base_model.model_dump(mode="json")
    wrong += [f"base_model.{name}" for name, value in base.items() if shown["base"][name] != value]
    if wrong:
        raise IntegrityError(
            f"{artifact.path / RECORD_FILE}: the registry's row of {row.id} says otherwise in {', '.join(wrong)}. The "
            f"registry was changed past its triggers: restore it from a copy."
        )


def _assert_row_says_what_dataset_says(row: dict[str, Any], artifact: Artifact, sources: list[dict[str, Any]]) -> None:
    """A row of an earlier version, without a card's digest, states what its manifest states and no more."""
    if row["card_sha256"] is None:
        files = [entry.sha256 for entry in artifact.manifest.files]
        wrong = [] if row["file_sha256"] in files else ["file_sha256"]
        wrong += [] if row["classification"] == artifact.manifest.classification else ["classification"]
    else:
        said = dataset_facts(artifact, sources).model_dump(mode="json", exclude={"file"})
        wrong = [name for name, value in said.items() if row[name] != value]
    if wrong:
        raise IntegrityError(
            f"{artifact.path}: the registry's row of dataset {short(row['digest'])} says otherwise in "
            f"{', '.join(wrong)}. The registry was changed past its triggers: restore it from a copy."
        )


def _assert_adapter_is_registered_one(row: Adapter, adapter: Artifact) -> None:
    circumstances, tuned = adapter.manifest.circumstances, tuned_model(adapter)
    same = (
        tuned.weights_sha256 == row.adapter_sha256
        and adapter.ref.manifest_sha256 == row.manifest_sha256
        and circumstances.source_sha256 == row.source_sha256
    )
    if not same:
        raise IntegrityError(f"{tuned.weights[0]}: not the adapter registered as {row.id}. Restore it from a copy.")


def _gate_records(store: ArtifactStore, row: Adapter, record: AdapterRecord, artifact: Artifact) -> Iterator[Checked]:
    """Each gate's answer and its acceptance, by the manifests that were registered; none that the record names is left
    out, and no acceptance is there that it does not name."""
    registered = {(each["stage"], each["gate"], each["digest"]): each for each in row.gate_records}
    named = {(each.stage, each.gate, each.record): each.acceptance for each in record.gates}
    missing = named.keys() - registered.keys()
    if missing:
        raise IntegrityError(
            f"{artifact.path / RECORD_FILE}: names {len(missing)} gate records that the registry's row of {row.id} "
            f"does not. Restore the registry from a copy."
        )
    for key, each in registered.items():
        yield _checked(store.open(_registered_ref(row, GATE_RECORD, each)))
        said, accepted = named.get(key), dict(each.get("acceptance") or {})
        if accepted:
            yield _checked(store.open(_registered_ref(row, GATE_WAIVER, accepted)))
            del accepted["manifest_sha256"]
        if accepted != (said.model_dump(mode="json") if said is not None else {}):
            raise IntegrityError(
                f"{artifact.path / RECORD_FILE}: the registry's row of {row.id} names another acceptance of the gate "
                f"'{each['gate']}'. Restore the registry from a copy."
            )


def _registered_ref(row: Adapter, kind: str, said: dict[str, Any]) -> ArtifactRef:
    return ArtifactRef(kind=kind, line=row.line, digest=said["digest"], manifest_sha256=said["manifest_sha256"])


def _base_model(settings: Settings, record: AdapterRecord, artifact: Artifact) -> Checked:
    directory = open_base_model(settings, artifact)
    files = record.base_model.files
    size = sum((directory / file.name).stat().st_size for file in files)
    return Checked("base_model_files", record.base_model.digest, str(directory), len(files), size)


def _live_sources(settings: Settings, sources: list[dict[str, Any]]) -> tuple[list[Checked], list[str]]:
    """The institution's own files as they lie there today. They may grow after training, so a difference is a note."""
    checked, notes = [], []
    for source in sources:
        path = settings.data / source["path"]
        recorded = source["sha256"]
        if not path.is_file():
            notes.append(f"{path}: the source '{source['name']}' ({short(recorded)}) is no longer there.")
        elif file_sha256(path) != recorded:
            notes.append(f"{path}: the source '{source['name']}' was changed since it was read ({short(recorded)}).")
        else:
            checked.append(Checked("source_file", recorded, str(path), 1, path.stat().st_size))
    return checked, notes
