"""An installation that release 0.1.0 made: the present code verifies it, finds its records, and makes nothing again."""

import tarfile
from pathlib import Path

import pytest

from sovereign_pipeline.artifacts import making
from sovereign_pipeline.artifacts.gate_status import gate_statuses
from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.hashing import canonical_json
from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.staleness import explain, stale_kinds
from sovereign_pipeline.artifacts.waiver import read_waiver
from sovereign_pipeline.ledger.catalog import list_adapters, list_datasets
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.orchestration.chain import CHAIN
from sovereign_pipeline.registry.record import RECORD_FILE, read_record
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.registry.verification import verify_adapter, verify_dataset
from sovereign_pipeline.workplace import open_workplace
from sovereign_pipeline_tests.end_to_end.conftest import Installation

HOME = Path(__file__).parent / "previous_release" / "home.tar.xz"
LINE = "harbour"
ADAPTERS = ["harbour-1.0.0", "harbour-1.0.1"]


@pytest.fixture
def previous(tmp_path: Path) -> Installation:
    with tarfile.open(HOME) as packed:
        packed.extractall(tmp_path, filter="data")
    return Installation(tmp_path)


@pytest.fixture
def same_libraries(previous: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the installed libraries have the versions with which the installation was made."""
    recorded = {
        name: version
        for manifest in previous.store.root.glob(f"*/{MANIFEST_FILE}")
        for name, version in Manifest.from_file(manifest).producer.libraries.items()
    }
    monkeypatch.setattr(making, "library_versions", lambda names: {name: recorded[name] for name in sorted(names)})


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_verifies(previous: Installation, adapter: str) -> None:
    report = verify_adapter(open_registry(previous.settings), previous.store, previous.settings, adapter)
    assert {each.what for each in report.checked} >= {"gate_record", "base_model_files", "source_file", "suite_file"}
    assert report.notes == ()


@pytest.mark.parametrize("name", ["suites/suite.jsonl", "red_team/prompts.jsonl", "sources/letters.jsonl"])
def test_a_file_outside_the_store_that_grew_is_a_note(previous: Installation, name: str) -> None:
    path = previous.settings.data / name
    path.write_text(path.read_text() + "\n")
    registry = open_registry(previous.settings)
    (note,) = verify_adapter(registry, previous.store, previous.settings, ADAPTERS[0]).notes
    assert str(path) in note


def test_the_registry_is_read_and_every_dataset_verifies(previous: Installation) -> None:
    registry = open_registry(previous.settings)
    assert [row["id"] for row in list_adapters(registry, LINE)] == ADAPTERS
    for row in list_datasets(registry, LINE):
        verify_dataset(registry, previous.store, previous.settings, row["digest"])


@pytest.mark.usefixtures("same_libraries")
def test_nothing_is_stale(previous: Installation) -> None:
    assert stale_kinds(CHAIN, open_workplace(previous.settings, LINE)) == []


def test_nothing_but_the_versions_of_libraries_makes_a_stage_stale(previous: Installation) -> None:
    explanations = explain(CHAIN, open_workplace(previous.settings, LINE))
    assert [each.kind for each in explanations] == [stage.kind for stage in CHAIN]
    reasons = [reason for each in explanations for reason in each.reasons if reason.cause != "upstream stale"]
    assert {reason.cause for reason in reasons} <= {"identity changed"}
    assert {change.field for reason in reasons for change in reason.changes} <= {"library"}


@pytest.mark.usefixtures("same_libraries")
def test_every_stage_reuses_its_artifact_and_every_gate_its_record(previous: Installation) -> None:
    workplace = open_workplace(previous.settings, LINE)
    before = sorted(workplace.store.root.iterdir())
    current: dict[str, ArtifactRef] = {}
    for stage in CHAIN:
        production = produce(stage, workplace, {each.kind: current[each.kind] for each in stage.inputs})
        assert production.reused
        assert production.ref == workplace.store.current(LINE, stage.kind)
        current[stage.kind] = production.ref
        if stage.passthrough_of(workplace.line) is None:
            assert evaluate_gates(stage, workplace, production.ref).keys() == {gate.name for gate in stage.gates}
    assert register(open_registry(previous.settings), workplace, current[CHAIN[-1].kind]).id == ADAPTERS[-1]
    assert sorted(workplace.store.root.iterdir()) == before


def test_the_record_of_every_gate_and_the_waiver_are_found(previous: Installation) -> None:
    workplace = open_workplace(previous.settings, LINE)
    statuses = list(gate_statuses(CHAIN, workplace))
    recorded = {each.gate.name: each.recorded for each in statuses if each.recorded is not None}
    assert recorded.keys() == {each.gate.name for each in statuses}
    (waived,) = [each for each in recorded.values() if not each.verdict.passed]
    assert waived.waiver is not None
    assert read_waiver(workplace.store.open(waived.waiver)).officer == "A. Officer"


@pytest.mark.parametrize("adapter", range(len(ADAPTERS)))
def test_a_record_is_written_as_it_was(previous: Installation, adapter: int) -> None:
    row = list_adapters(open_registry(previous.settings), LINE)[adapter]
    artifact = previous.store.open(previous.store.ref_of(row["record_digest"]))
    record = read_record(artifact)
    assert canonical_json(record.model_dump(mode="json")) + b"\n" == artifact.file(RECORD_FILE).read_bytes()
