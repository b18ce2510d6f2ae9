"""The parent adapter: found, verified, refused when it does not fit, and recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    IntegrityError,
    NotFoundError,
    RecipeError,
    SovereignError,
    TrainingFailed,
)
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import BILL_OF_MATERIALS_FILE
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline.training.continuation import parent_adapter
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline_tests.conftest import A_LABEL
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.training.continuation.chain import NEW, SHAPE, Office, evaluated

pytestmark = pytest.mark.slow


def test_a_retrained_adapter_carries_digest_level_and_lineage_of_the_earlier_one(
    office: Office, lamps: Adapter
) -> None:
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    adapter, record_ref = office.register(workplace)
    store = workplace.store
    current = store.current("lanterns", "sft_adapter")
    assert current is not None
    artifact = store.open(current)
    assert parent_adapter(artifact.manifest) == ("lamps-1.0.0", lamps.adapter_digest)
    assert artifact.manifest.summary["started_from"] == {
        "adapter": "lamps-1.0.0",
        "digest": lamps.adapter_digest,
        "classification": "CONFIDENTIAL",
    }
    assert artifact.manifest.classification == adapter.classification == "CONFIDENTIAL"
    record = read_record(store.open(record_ref))
    assert record.parent_adapter is not None
    assert record.parent_adapter.digest == lamps.adapter_digest
    bill = json.loads(store.open(record_ref).file(BILL_OF_MATERIALS_FILE).read_bytes())
    (earlier,) = [each for each in bill["components"] if each["name"] == "lamps-1.0.0"]
    assert earlier["hashes"] == [{"alg": "SHA-256", "content": lamps.adapter_sha256}]
    assert earlier["bom-ref"] in bill["dependencies"][0]["dependsOn"]
    registry = open_registry(workplace.settings)
    report = verify_adapter(registry, store, workplace.settings, adapter.id)
    assert lamps.adapter_digest in {each.digest for each in report.checked}
    assert len(report.checked) == len(set(report.checked))
    file = store.open(store.ref_of(lamps.dataset_digest)).file("train.jsonl")
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(IntegrityError, match=lamps.dataset_digest):
        verify_adapter(registry, store, workplace.settings, adapter.id)


def test_the_trainer_is_given_the_verified_directory_and_none_whose_bytes_changed(
    office: Office, lamps: Adapter
) -> None:
    jobs = []

    def launch(job: Path) -> None:
        jobs.append(TrainingJob.read(job))
        raise TrainingFailed("stopped by the test")

    sft = replace(office.sft, build=SFT_ADAPTER.build)
    workplace = replace(office.line("lanterns", NEW, start_from="lamps-1.0.0"), launch=launch)
    with pytest.raises(TrainingFailed, match="stopped by the test"):
        office.make(workplace, sft)
    directory = workplace.store.path_of(lamps.adapter_digest) / "adapter"
    assert [job.parent_adapter for job in jobs] == [directory]
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        office.make(workplace, sft)
    assert len(jobs) == 1


UNFIT: list[tuple[dict[str, Any], type[SovereignError], str]] = [
    ({"start_from": "lamps-2.0.0"}, NotFoundError, "Known adapters: lamps-1.0.0"),
    ({"base_model": "other"}, RecipeError, r"trained on the base model small .* but the line's base model is other"),
    ({"sft": {**SHAPE, "rank": 8}}, RecipeError, r"Set training\.sft\.rank: 4 \(now 8\)"),
    ({"sft": {**SHAPE, "alpha": 9}}, RecipeError, r"Set training\.sft\.alpha: 8 \(now 9\)"),
    ({"sft": {**SHAPE, "rslora": True}}, RecipeError, r"Set training\.sft\.rslora: false \(now true\)"),
    ({"sft": {**SHAPE, "dora": True}}, RecipeError, r"Set training\.sft\.dora: false \(now true\)"),
    (
        {"sft": {**SHAPE, "target_modules": ["q_proj"]}},
        RecipeError,
        r"Set training\.sft\.target_modules: \[down_proj, gate_proj",
    ),
]


def test_an_adapter_that_does_not_fit_is_refused_with_what_to_set(
    office: Office, lamps: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for training, error, says in UNFIT:
        with pytest.raises(error, match=says):
            office.make(office.line("lanterns", NEW, **{"start_from": "lamps-1.0.0", **training}), office.sft)
    settings = office.institution.settings
    monkeypatch.setenv("SOVEREIGN_HOME", str(settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(settings.data))
    office.institution.write_items("red_team/judge_labels.jsonl", [A_LABEL])
    for start, error_of_check in (("lamps-1.0.0", type(None)), ("lamps-1.0.1", NotFoundError)):
        office.line("lanterns", NEW, start_from=start)
        checked = CliRunner().invoke(app, ["lines", "check", str(settings.data / "lines" / "lanterns.yaml")])
        assert isinstance(checked.exception, error_of_check), checked.output
    office.institution.recipe["ceiling"] = "INTERNAL"
    with pytest.raises(CeilingExceeded, match=r"lamps-1\.0\.0 .*CONFIDENTIAL.* INTERNAL"):
        office.make(office.line("lanterns", NEW, start_from="lamps-1.0.0"), office.sft)


def test_another_adapter_under_the_same_name_is_found_by_the_gate_and_by_verification(
    office: Office, lamps: Adapter
) -> None:
    """The registry's row, changed by who has the log's key, leads to another adapter that is whole and good."""
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    adapter, _ = office.register(workplace)
    registry, store = open_registry(workplace.settings), workplace.store
    artifact = store.open(store.ref_of(adapter.adapter_digest))
    other = {"adapter_digest": artifact.ref.digest, "manifest_sha256": artifact.ref.manifest_sha256}
    forge(registry, lambda session: session.execute(update(Adapter).where(Adapter.id == "lamps-1.0.0").values(other)))
    verdict = evaluated(workplace, artifact)
    assert not verdict.passed and "is registered with the artifact" in verdict.message
    with pytest.raises(IntegrityError, match="another adapter is registered under that id"):
        verify_adapter(registry, store, workplace.settings, adapter.id)
