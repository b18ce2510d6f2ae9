"""The chain under Dagster: references from asset to asset, checks that block, and refusals in later runs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.dagster import assets
from sovereign_pipeline.dagster.chain import CHAIN
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.record.staleness import stale_kinds
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline_tests.conftest import QUESTIONS, DemoInstitution
from sovereign_pipeline_tests.dagster.conftest import CORPUS, Line, metadata, reasons
from sovereign_pipeline_tests.registry.bench import small_bench

pytestmark = pytest.mark.slow


def crossing(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """A split that puts one case file on both sides."""
    documents = list(read_documents(inputs["scrubbed_corpus"].file("documents.jsonl")))
    documents = [documents[0].model_copy(update={"case": documents[-1].case}), *documents[1:]]
    write_documents(workspace / "train.jsonl", documents[:-8])
    write_documents(workspace / "held_out.jsonl", documents[-8:])
    (workspace / "proof.json").write_text("{}\n")
    return Built(summary={})


def describe_base(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "base_model.json").write_text("{}\n")
    return Built(summary={})


DESCRIBED_BASE = replace(BASE_MODEL, build=describe_base)
FAULTY_SPLIT = replace(LEAKAGE_SAFE_SPLIT, build=crossing, code_version="faulty")


def test_the_corpus_rooms_run_and_a_second_run_changes_nothing(line: Line) -> None:
    assert stale_kinds(CHAIN, line.workplace)[:6] == CORPUS
    result = line.materialize(CORPUS)
    assert result.success
    events = [each.event_type_value for each in result.all_events]
    assert events.index("ASSET_MATERIALIZATION") < events.index("ASSET_CHECK_EVALUATION")
    for kind in CORPUS:
        current = line.workplace.store.current("lamps", kind)
        assert current is not None
        assert metadata(result, kind)["sha256"].value == current.digest
        provenance = line.instance.get_latest_data_version_record(dg.AssetKey(kind), partition_key="lamps")
        assert provenance is not None
        assert provenance.asset_materialization is not None
        assert (provenance.asset_materialization.tags or {})["dagster/data_version"] == current.digest
    assert not set(stale_kinds(CHAIN, line.workplace)) & set(CORPUS)
    again = line.materialize(CORPUS)
    for kind in CORPUS:
        assert metadata(again, kind)["sha256"] == metadata(result, kind)["sha256"]
        assert metadata(again, kind)["reused"].value is True
    with dg.instance_for_test() as another:  # which has no event of this store
        assert Line(line.institution, another).materialize(["training_dataset"]).success
    line.institution.rows[0]["response"] += " Indeed."
    line.institution.write()
    assert set(CORPUS) <= set(stale_kinds(CHAIN, line.workplace))


def test_a_failed_check_stops_the_same_run_and_later_ones_even_of_training_on_an_older_dataset(line: Line) -> None:
    assert line.materialize([*CORPUS, "base_model"], instead={"base_model": DESCRIBED_BASE}).success
    older = line.workplace.store.current("lamps", "training_dataset")
    result = line.materialize(CORPUS, instead={"leakage_safe_split": FAULTY_SPLIT})
    assert not result.success
    checks = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert [check.check_name for check in checks] == ["no_crossing_groups"]
    assert line.workplace.store.current("lamps", "training_dataset") == older
    result = line.materialize(["training_dataset"])
    assert "'no_crossing_groups' failed" in reasons(result)
    result = line.materialize(["sft_adapter"])
    assert not result.success and "leakage_safe_split" in reasons(result)
    assert line.workplace.store.current("lamps", "sft_adapter") is None


def test_a_question_that_a_row_holds_stops_the_trainer_until_one_of_them_is_gone(line: Line) -> None:
    assert line.materialize([*CORPUS, "base_model"], instead={"base_model": DESCRIBED_BASE}).success
    dataset = line.workplace.store.current("lamps", "training_dataset")
    line.institution.write_items("suites/suite.jsonl", [{**QUESTIONS[0], "question": "Is the lamp out?"}])
    result = line.materialize(["sft_adapter"])
    assert "'not_contaminated' has no record" in reasons(result)
    line.institution.write_items("suites/suite.jsonl", [{**QUESTIONS[0], "question": "The lamp is out?"}])
    result = line.materialize(["training_dataset"])
    assert [each.check_name for each in result.get_asset_check_evaluations() if not each.passed] == ["not_contaminated"]
    result = line.materialize(["sft_adapter"])
    assert "'not_contaminated' failed" in reasons(result)
    assert "out of the suite" in reasons(result)
    line.institution.write_items("suites/suite.jsonl", QUESTIONS)
    assert line.materialize(["training_dataset"]).success
    assert line.workplace.store.current("lamps", "training_dataset") == dataset


@pytest.mark.security_case(
    "A line's current artifacts are reset to older ones that passed every gate",
    "rejected: Dagster's event log has other digests",
)
def test_an_older_chain_that_passed_is_not_taken_for_the_one_that_ran(line: Line) -> None:
    store = line.workplace.store
    assert line.materialize(CORPUS).success
    older = {kind: store.current("lamps", kind) for kind in CORPUS}
    row = dict(line.institution.rows[0])
    line.institution.rows[0]["response"] += " Indeed."
    assert line.materialize(CORPUS).success
    line.institution.rows[0] = row
    for kind, ref in older.items():
        assert ref is not None
        store.make_current("lamps", kind, ref)
    result = line.materialize(["training_dataset"])
    assert not result.success
    assert "Line lamps: the store's current leakage_safe_split is" in reasons(result)
    assert "last materialization is a different artifact" in reasons(result)
    assert line.materialize(CORPUS).success


@pytest.mark.security_case(
    "A step that needs no unscrubbed text has the corpus variable, or a store that opens it",
    "only the stages up to the split, and registration, get SOVEREIGN_CORPUS",
)
def test_a_step_is_given_the_corpus_only_where_it_reads_it(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_CORPUS", str(line.workplace.settings.corpus))
    given: dict[str, tuple[bool, bool]] = {}

    def looking(kind: str, build: Callable[[Workplace, Inputs, Path], Built]) -> Callable[..., Built]:
        def look(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
            given[kind] = ("SOVEREIGN_CORPUS" in os.environ, workplace.store.corpus is not None)
            return build(workplace, inputs, workspace)

        return look

    stages = {stage.kind: replace(stage, build=looking(stage.kind, stage.build)) for stage in CHAIN}
    stages["base_model"] = replace(stages["base_model"], build=looking("base_model", describe_base))
    kinds = [*CORPUS, "base_model"]
    assert line.materialize(kinds, instead={kind: stages[kind] for kind in kinds}).success
    reads = {"raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split"}
    assert given == {kind: (kind in reads, kind in reads) for kind in kinds}
    recipe = line.workplace.line
    assert {stage.kind for stage in CHAIN if stage.reads_corpus(recipe)} == {*reads, "registered_adapter"}


def test_an_optional_input_is_asked_for_by_the_lines_that_read_it_alone(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins, whose pages and mirrors are not looked at: lines up to SECRET read the reward model."""
    monkeypatch.setattr(assets, "page_of", lambda *given: {})
    monkeypatch.setattr(assets, "publish", lambda *given, **named: None)
    built = {
        kind: replace(stage, inputs=(), build=describe_base, gates=(), config=lambda line: {}, external=lambda _: {})
        for kind, stage in {each.kind: each for each in CHAIN}.items()
        if kind in ("reward_model", "aligned_adapter")
    }
    instead = {
        **built,
        "reward_model": replace(built["reward_model"], passthrough_of=lambda line: None),
        "aligned_adapter": replace(
            built["aligned_adapter"],
            passthrough_of=lambda line: None,
            reads_optional=lambda line: ("reward_model",) if line.ceiling == "SECRET" else (),
        ),
    }
    line.institution.recipe["ceiling"] = "CONFIDENTIAL"
    assert line.materialize(["aligned_adapter"], instead).success
    line.institution.recipe["ceiling"] = "SECRET"
    result = line.materialize(["aligned_adapter"], instead)
    assert not result.success
    assert "Line lamps has no reward_model yet" in reasons(result)
    assert line.materialize(["reward_model", "aligned_adapter"], instead).success
    ref = line.workplace.store.current("lamps", "aligned_adapter")
    assert ref is not None
    assert list(line.workplace.store.read_manifest(ref).inputs) == ["reward_model"]


def test_what_mlflow_cannot_show_is_published_all_the_same(institution: DemoInstitution) -> None:
    bench = small_bench(institution)
    bench.register()
    (bench.settings.home / "mlflow").write_text("Where the directory of its database would be.")
    for stage in bench.chain:
        published = assets.publish(stage, bench.workplace(), bench.artifact(stage.kind).ref, passed=True)
        shown = {name: value for name, value in published.items() if name.startswith("mlflow")}
        mirrored = stage.kind in {*assets.ONCE_PASSED, *assets.WHATEVER_THE_VERDICT}
        assert [value.startswith("none: ") for value in shown.values()] == [True] * mirrored, stage.kind
