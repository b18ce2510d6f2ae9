"""Versions, dates, idempotence, two processes at once, and everything that must stop a registration."""

import datetime
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from sovereign_pipeline.base.errors import GateRefused, InputError, IntegrityError
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import next_version, register
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.registry.bench import REGISTERED_ADAPTER, Bench
from sovereign_pipeline_tests.waiting import SECONDS

pytestmark = pytest.mark.slow


def test_the_row_holds_the_facts_of_the_record_and_the_dates(bench: Bench) -> None:
    bench.institution.may_copy = lambda: False  # not the date of an equal one
    adapter = bench.register()
    record = read_record(bench.artifact("registered_adapter"))
    trained = bench.artifact("sft_adapter")
    assert adapter.id == "lamps-1.0.0"
    assert {name: getattr(adapter, name) for name in record.row_facts} == record.row_facts
    assert adapter.manifest_sha256 == trained.ref.manifest_sha256
    assert adapter.record_digest == bench.refs["registered_adapter"].digest
    assert adapter.source_sha256 == trained.manifest.circumstances.source_sha256
    assert adapter.review_date == adapter.registered_at.date() + datetime.timedelta(days=180)
    assert abs(datetime.datetime.now(datetime.UTC) - adapter.registered_at) < datetime.timedelta(hours=1)
    assert {each["gate"] for each in adapter.gate_records} >= {"not_empty", "record_matches_artifacts"}


def test_registering_the_same_record_again_changes_nothing(bench: Bench) -> None:
    first = bench.register()
    again = bench.register()
    assert (again.id, again.registered_at) == (first.id, first.registered_at)
    with bench.open_registry().reading() as session:
        assert len(session.scalars(select(Adapter)).all()) == 1


def test_what_changed_decides_the_version(bench: Bench) -> None:
    versions = [bench.register().version]
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    versions.append(bench.register().version)
    bench.institution.rows.append(letter(900))
    versions.append(bench.register().version)
    bench.with_base_model("other")
    versions.append(bench.register().version)
    bench.with_preferences()
    versions.append(bench.register().version)
    assert versions == ["1.0.0", "1.0.1", "1.1.0", "2.0.0", "3.0.0"]


def test_one_base_model_has_one_name(bench: Bench) -> None:
    first = bench.register()
    bench.with_card("alias", bench.settings.models / "tiny")
    bench.recipe["training"]["base_model"] = "alias"
    with pytest.raises(InputError, match="exactly the files of tiny"):
        bench.register()
    with bench.open_registry().reading() as session:
        assert [adapter.id for adapter in session.scalars(select(Adapter))] == [first.id]


def test_what_the_engine_does_not_serve_is_refused_with_the_reason(bench: Bench) -> None:
    bench.recipe["training"]["sft"] = {**bench.recipe["training"].get("sft", {}), "dora": True}
    bench.institution.rules["serving"] = {"base_models": {"tiny": {"engine": "vllm"}}}
    with pytest.raises(InputError, match=r"\(serving\.engine\) cannot serve .*: the engine does not support DoRA"):
        bench.register()
    with bench.open_registry().reading() as session:
        assert not session.scalars(select(Adapter)).all()
    bench.institution.rules["serving"] = {"engine": "vllm", "base_models": {"tiny": {"engine": "local"}}}
    assert bench.register().version == "1.0.0"


@given(
    st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=8), st.sampled_from(["base", "data", "none"])
)
def test_a_version_is_always_above_all_earlier_ones(numbers: list[tuple[int, int, int]], changed: str) -> None:
    facts: dict[str, Any] = dict.fromkeys(
        ("base_model_digest", "method", "dataset_digest", "preference_dataset_digest"), "as before"
    )
    differing = {"base": {"method": "sft-qlora"}, "data": {"dataset_digest": "other"}, "none": {}}[changed]
    earlier = [Adapter(version=".".join(str(part) for part in each), **{**facts, **differing}) for each in numbers]
    record: Any = SimpleNamespace(row_facts=facts)
    version = tuple(int(part) for part in next_version(record, earlier).split("."))
    highest = max(numbers)
    assert version > highest
    zeros = {"base": version[1:] == (0, 0), "data": version[2] == 0, "none": version[:2] == highest[:2]}
    assert zeros[changed]


def test_a_gate_that_never_answered_stops_it(bench: Bench) -> None:
    record = bench.run()
    bench.forget_verdicts("raw_corpus")
    _refused(bench, record, GateRefused, "has no record")


def test_one_changed_byte_anywhere_stops_it(bench: Bench) -> None:
    record = bench.run()
    for kind, file in (
        ("sft_adapter", "adapter/adapter_model.safetensors"),
        ("training_dataset", "train.jsonl"),
        ("raw_corpus", "documents.jsonl"),
        ("evaluation_report", "report.html"),
        ("registered_adapter", "bill_of_materials.json"),
    ):
        path = bench.artifact(kind).file(file)
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        _refused(bench, record, IntegrityError, file)
        path.write_bytes(content)


def _refused(bench: Bench, record: ArtifactRef, error: type[Exception], message: str) -> None:
    registry = bench.open_registry()
    with pytest.raises(error, match=message):
        register(registry, bench.workplace(), record, REGISTERED_ADAPTER)
    with registry.reading() as session:
        assert session.scalars(select(Adapter)).all() == []


def _register_in_process(root: Path, recipe: dict[str, Any], barrier: Any, answers: Any) -> None:
    bench = Bench(DemoInstitution(root, recipe, []))
    workplace = bench.institution.workplace_as_written()
    record = bench.store.current(recipe["line"], "registered_adapter")
    assert record is not None
    registry = bench.open_registry()
    barrier.wait(timeout=SECONDS)
    adapter = register(registry, workplace, record, REGISTERED_ADAPTER)
    answers.put((adapter.id, adapter.registered_at.isoformat()))


def test_processes_that_register_at_once_agree(bench: Bench, database: str) -> None:
    """Several processes, one record: one row, and every process is told of that row."""
    bench.run()
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (bench.institution.root, bench.recipe, barrier, answers)
    processes = [context.Process(target=_register_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    told = {answers.get(timeout=SECONDS) for _ in processes}
    for process in processes:
        process.join(timeout=SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(told) == 1
    with bench.open_registry().reading() as session:
        assert [adapter.id for adapter in session.scalars(select(Adapter))] == ["lamps-1.0.0"]
