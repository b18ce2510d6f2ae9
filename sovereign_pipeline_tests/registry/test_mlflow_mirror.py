"""The mirror shows the registry's facts and the loss curve, once, however often it is asked."""

import json
from typing import Any

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.tables import Adapter, row_as_dict
from sovereign_pipeline.registry.mlflow_mirror import mirror_adapter, mirror_evaluation, mirror_training
from sovereign_pipeline_tests.registry.bench import Bench

pytestmark = pytest.mark.slow


def client_of(settings: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)


def mirror(bench: Bench, adapter: Adapter) -> str:
    return mirror_adapter(bench.settings, bench.store, adapter)


def test_training_and_adapter_are_mirrored_once_with_the_same_facts(bench: Bench) -> None:
    adapter = bench.register()
    trained = bench.artifact("sft_adapter")
    runs = {mirror_training(bench.settings, trained) for _ in range(2)}
    versions = {mirror(bench, adapter) for _ in range(2)}
    assert len(runs) == 1
    assert versions == {"1"}

    client = client_of(bench.settings)
    run = client.get_run(runs.pop())
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert run.data.params["learning_rate"] == str(trained.manifest.producer.config["learning_rate"])
    assert (run.data.tags["artifact_digest"], run.info.status) == (trained.ref.digest, "FINISHED")

    (version,) = client.search_model_versions("name = 'lamps'")
    for name, value in row_as_dict(adapter).items():
        said = version.tags[name]
        assert (said if isinstance(value, str) else json.loads(said)) == value
    assert version.source == trained.path.as_uri()
    registered = client.get_run(version.run_id)
    assert registered.data.metrics["held-out loss against the base: difference"] == -0.25
    report = bench.artifact("evaluation_report").ref.digest
    assert f"{bench.settings.pages_url}/{report}/report.html" in registered.data.tags["mlflow.note.content"]
    assert client.list_artifacts(version.run_id) == []  # a copy would carry no marking
    assert len(client.search_runs([client.get_experiment_by_name("lamps").experiment_id])) == 2


def test_a_report_is_mirrored_once_though_nothing_was_registered(bench: Bench) -> None:
    bench.run(until=bench.chain[-2])
    report = bench.artifact("evaluation_report")
    (run_id,) = {mirror_evaluation(bench.settings, report) for _ in range(2)}
    client = client_of(bench.settings)
    run = client.get_run(run_id)
    assert run.data.tags["outcome"] == "better"
    assert run.data.tags["artifact_digest"] == report.ref.digest
    assert set(run.data.metrics) == {f"held-out loss against the base: {name}" for name in ("candidate", "difference")}
    assert f"/{report.ref.digest}/report.html), PUBLIC" in run.data.tags["mlflow.note.content"]
    assert client.search_model_versions("name = 'lamps'") == []
