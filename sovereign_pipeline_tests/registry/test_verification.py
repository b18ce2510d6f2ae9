"""Verification reads every byte, ends well when nothing changed, and names the file at the first change."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256
from sovereign_pipeline.record.manifest import MANIFEST_FILE
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.verification import VerificationReport, verify_adapter, verify_dataset
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.registry.bench import CHAIN, SHARDS, Bench

pytestmark = pytest.mark.slow


def verify(bench: Bench, adapter: Adapter) -> VerificationReport:
    return verify_adapter(bench.open_registry(), bench.store, bench.settings, adapter.id)


def test_what_was_registered_verifies_down_to_the_source_files(bench: Bench) -> None:
    bench.with_preferences()
    report = verify(bench, bench.register())
    kinds = [each.what for each in report.checked]
    assert set(kinds) == {stage.kind for stage in CHAIN} | {"gate_record", "base_model_files", "source_file"}
    assert kinds.count("gate_record") == sum(len(stage.gates) for stage in CHAIN)
    assert kinds.count("source_file") == 2
    assert report.notes == ()
    on_disk = {file for each in report.checked for file in _files(Path(each.path))}
    assert report.bytes == sum(file.stat().st_size for file in on_disk)
    assert report.files == len(on_disk)
    assert json.loads(json.dumps(report.to_dict()))["subject"] == "lamps-1.0.0"


@pytest.mark.parametrize("kind", ["sft_adapter", "gate_record"])
def test_a_time_changed_in_a_manifest_is_found_although_the_digest_is_the_same(bench: Bench, kind: str) -> None:
    adapter = bench.register()
    of_gate = bench.store.path_of(adapter.gate_records[0]["digest"])
    path = (of_gate if kind == "gate_record" else bench.artifact(kind).path) / MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["circumstances"]["created_at"] = "2020-01-01T00:00:00+00:00"
    path.write_bytes(canonical_json(manifest) + b"\n")
    _names(bench, adapter, path)


def test_a_missing_artifact_is_an_integrity_error_that_names_it(bench: Bench) -> None:
    adapter = bench.register()
    path = bench.artifact("raw_corpus").path
    path.rename(path.with_name("gone"))
    _names(bench, adapter, path)


def test_a_model_tuned_in_full_is_registered_and_every_shard_is_verified(bench: Bench) -> None:
    bench.with_preferences()
    bench.recipe["training"]["sft"] = {"adapter": "none"}
    adapter = bench.register()
    shards = [bench.artifact("aligned_adapter").file(f"model/{name}") for name in SHARDS]
    assert adapter.method == "sft-full+dpo"
    assert adapter.adapter_sha256 == digest_of({file.name: file_sha256(file) for file in shards})
    verify(bench, adapter)
    before = shards[1].read_bytes()
    shards[1].write_bytes(before[:-1] + b"!")
    _names(bench, adapter, shards[1])
    shards[1].write_bytes(before)
    forge(bench.open_registry(), lambda session: session.execute(text("UPDATE adapter SET source_sha256 = '0'")))
    _names(bench, adapter, shards[0].parent)  # its signature, which is looked at first, is of the whole directory


def test_a_changed_or_missing_file_of_the_base_model_is_named(bench: Bench) -> None:
    adapter = bench.register()
    path = bench.settings.models / "tiny" / "model.safetensors"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    _names(bench, adapter, path)
    path.unlink()
    _names(bench, adapter, path)
    path.write_bytes(before)
    verify(bench, adapter)


@pytest.mark.parametrize(
    ("statement", "named"),
    examples(__file__, "a_row_that_differs_from_its_record_is_found_although_its_entry_was_forged_too"),
)
def test_a_row_that_differs_from_its_record_is_found_although_its_entry_was_forged_too(
    bench: Bench, statement: str, named: str
) -> None:
    adapter = bench.register()
    forge(bench.open_registry(), lambda session: session.execute(text(statement)))
    with pytest.raises(IntegrityError, match=named):
        verify(bench, adapter)


def test_a_dataset_verifies_down_to_the_corpus(bench: Bench) -> None:
    adapter = bench.register()
    report = verify_dataset(bench.open_registry(), bench.store, bench.settings, adapter.dataset_digest[:8])
    assert list(dict.fromkeys(each.what for each in report.checked)) == [
        "training_dataset",
        "leakage_safe_split",
        "classified_corpus",
        "raw_corpus",
        "source_file",
    ]
    path = bench.artifact("training_dataset").path / "train.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(IntegrityError, match=r"train\.jsonl"):
        verify_dataset(bench.open_registry(), bench.store, bench.settings, adapter.dataset_digest)


@pytest.mark.parametrize(
    ("statement", "fact"),
    examples(__file__, "a_row_that_differs_from_its_dataset_is_found_although_its_entry_was_forged_too"),
)
def test_a_row_that_differs_from_its_dataset_is_found_although_its_entry_was_forged_too(
    bench: Bench, statement: str, fact: str
) -> None:
    adapter = bench.register()
    registry = bench.open_registry()
    forge(registry, lambda session: session.execute(text(f"UPDATE dataset SET {statement}")))
    with pytest.raises(IntegrityError, match=rf"differs from the artifact in {fact}\."):
        verify_dataset(registry, bench.store, bench.settings, adapter.dataset_digest)


def _files(path: Path) -> set[Path]:
    return {path} if path.is_file() else {file for file in path.rglob("*") if file.is_file()}


def _names(bench: Bench, adapter: Adapter, path: Path) -> None:
    with pytest.raises(IntegrityError) as refusal:
        verify(bench, adapter)
    assert str(path) in str(refusal.value)
