"""The chain under Dagster: references from asset to asset, checks that block, and refusals in later runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pyrage import x25519

from sovereign_pipeline.artifacts.gates import waive
from sovereign_pipeline.artifacts.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.staleness import stale_kinds
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.definitions import build_definitions
from sovereign_pipeline.orchestration.chain import CHAIN, chain_with
from sovereign_pipeline.orchestration.partitions import register_lines
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline_tests.conftest import QUESTIONS, DemoInstitution

CORPUS = [
    "raw_corpus",
    "classified_corpus",
    "scrubbed_corpus",
    "leakage_safe_split",
    "training_dataset",
    "preference_dataset",
]


class Line:
    """One installation under Dagster, with an instance that lives as long as the test."""

    def __init__(self, institution: DemoInstitution, instance: dg.DagsterInstance) -> None:
        self.institution = institution
        self.instance = instance
        self.workplace = institution.workplace()
        settings = institution.settings
        settings.vault_public_key.write_text(str(x25519.Identity.generate().to_public()))
        register_lines(instance, settings)

    def materialize(self, kinds: Sequence[str], instead: dict[str, Stage] | None = None) -> dg.ExecuteInProcessResult:
        """Run the named assets, some of them with another stage than the real one."""
        self.institution.write()
        definitions = build_definitions(self.institution.settings, instead)
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(kind) for kind in kinds],
            partition_key=self.institution.recipe["line"],
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def line(institution: DemoInstitution) -> Iterator[Line]:
    with dg.instance_for_test() as instance:
        yield Line(institution, instance)


def reasons(result: dg.ExecuteInProcessResult) -> str:
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    described = [each.user_failure_data.description for each in failures if each.user_failure_data]
    return "\n".join(text for text in described if text)


def metadata(result: dg.ExecuteInProcessResult, kind: str) -> dict[str, Any]:
    events = result.get_asset_materialization_events()
    (event,) = [each for each in events if each.asset_key == dg.AssetKey(kind)]
    return dict(event.step_materialization_data.materialization.metadata)


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


DESCRIBED_BASE = replace(BASE_MODEL, build=describe_base, external=lambda workplace: {})
FAULTY_SPLIT = replace(LEAKAGE_SAFE_SPLIT, build=crossing, code_version="faulty")


def test_the_corpus_rooms_run_and_the_data_version_is_the_digest(line: Line) -> None:
    result = line.materialize(CORPUS)
    assert result.success
    for kind in CORPUS:
        current = line.workplace.store.current("lamps", kind)
        assert current is not None
        assert metadata(result, kind)["sha256"].value == current.digest
        provenance = line.instance.get_latest_data_version_record(dg.AssetKey(kind), partition_key="lamps")
        assert provenance is not None
        assert provenance.asset_materialization is not None
        assert (provenance.asset_materialization.tags or {})["dagster/data_version"] == current.digest


def test_pages_show_counts_classification_and_links_and_no_document_text(line: Line) -> None:
    result = line.materialize(CORPUS)
    page = metadata(result, "training_dataset")
    assert page["classification"].value == "PUBLIC"
    assert page["dagster/row_count"].value > 30
    assert "leakage_safe_split" in page["input leakage_safe_split"].value
    assert [record.data for record in page["contamination"].records] == [
        {"suite": "red-team prompts", "items": 4, "items_in_rows": 0, "rows": 0},
        {"suite": "suite", "items": 2, "items_in_rows": 0, "rows": 0},
    ]
    assert page["findings to look at"].value == 1
    findings = {record.data["finding"]: record.data for record in page["quality"].records}
    assert (findings["clipped answers"]["look"], findings["HTML left in"]["look"]) == ("yes", "")
    assert findings["clipped answers"]["first row ids"].startswith("R-0000")
    assert [record.data["side"] for record in page["tokens"].records] == ["training", "held out"]
    secret_words = [f"w{number}x" for number in range(40)]
    for kind in CORPUS:
        shown = repr(metadata(result, kind))
        assert not any(word in shown for word in secret_words), kind


def test_the_page_of_the_split_shows_its_proof_as_a_table(line: Line) -> None:
    line.materialize(CORPUS[:3])
    page = metadata(line.materialize(["leakage_safe_split"]), "leakage_safe_split")
    facts = {record.data["fact"]: record.data["value"] for record in page["proof"].records}
    assert facts["crossing: case"] == facts["crossing: link"] == facts["crossing: near duplicate"] == "0"
    assert facts["rows: train"] == "35"
    assert facts["components: largest: rows"] == "1"
    assert facts["parameters: seed"] == "7"
    assert float(facts["held out share of letters"]) >= 0.12


def test_a_second_run_finds_everything_and_changes_nothing(line: Line) -> None:
    first = line.materialize(CORPUS)
    again = line.materialize(CORPUS)
    for kind in CORPUS:
        assert metadata(again, kind)["sha256"] == metadata(first, kind)["sha256"]
        assert metadata(again, kind)["reused"].value is True


def test_a_document_above_the_ceiling_stops_the_run_before_anything_further(line: Line) -> None:
    line.institution.recipe["ceiling"] = "INTERNAL"
    line.institution.rows[7]["classification"] = "SECRET"
    result = line.materialize(CORPUS)
    assert not result.success
    assert "row R-00007 of source 'letters' is SECRET" in reasons(result)
    assert line.workplace.store.current("lamps", "classified_corpus") is None


def test_a_failed_check_stops_the_same_run(line: Line) -> None:
    result = line.materialize(CORPUS, instead={"leakage_safe_split": FAULTY_SPLIT})
    assert not result.success
    checks = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert [check.check_name for check in checks] == ["no_crossing_groups"]
    assert line.workplace.store.current("lamps", "training_dataset") is None


def test_a_later_run_that_selects_only_what_is_below_a_failed_check_is_refused(line: Line) -> None:
    line.materialize(CORPUS, instead={"leakage_safe_split": FAULTY_SPLIT})
    result = line.materialize(["training_dataset"])
    assert not result.success
    assert "'no_crossing_groups' failed" in reasons(result)


def test_training_alone_is_refused_after_the_split_failed_even_with_an_older_dataset(line: Line) -> None:
    assert line.materialize([*CORPUS, "base_model"], instead={"base_model": DESCRIBED_BASE}).success
    line.materialize(["leakage_safe_split"], instead={"leakage_safe_split": FAULTY_SPLIT})
    result = line.materialize(["sft_adapter"])
    assert not result.success
    assert "leakage_safe_split" in reasons(result)
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


def test_an_asset_whose_input_was_never_made_says_which(line: Line) -> None:
    result = line.materialize(["classified_corpus"])
    assert "has no raw_corpus yet.\nHint: Materialize raw_corpus first" in reasons(result)


def test_the_plan_names_exactly_what_would_change(line: Line) -> None:
    below = stale_kinds(CHAIN, line.workplace)
    assert below[:6] == CORPUS
    line.materialize(CORPUS)
    assert not set(stale_kinds(CHAIN, line.workplace)) & set(CORPUS)
    line.institution.rows[0]["response"] += " Indeed."
    line.institution.write()
    assert set(CORPUS) <= set(stale_kinds(CHAIN, line.workplace))


def in_doubt(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return Verdict(False, "31 rows could have shown 0.18.", {"rows": 31}, inconclusive=True)


DOUBT = Gate("in_doubt", "Is it?", "1", in_doubt, officer_may=lambda line: line.gates.capability.officer_may)
DOUBTED_SPLIT = replace(LEAKAGE_SAFE_SPLIT, gates=(*LEAKAGE_SAFE_SPLIT.gates, DOUBT))
INSTEAD = {"leakage_safe_split": DOUBTED_SPLIT}
UNTIL_DATASET = CORPUS[:5]


def check_of_doubt(result: dg.ExecuteInProcessResult) -> Any:
    return next(each for each in result.get_asset_check_evaluations() if each.check_name == "in_doubt")


def test_an_inconclusive_check_stops_the_run_and_says_that_no_officer_may_help(line: Line) -> None:
    result = line.materialize(UNTIL_DATASET, instead=INSTEAD)
    assert not result.success
    check = check_of_doubt(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (check.metadata["outcome"].value, check.metadata["officer may"].value) == ("inconclusive", "nothing")
    assert line.workplace.store.current("lamps", "training_dataset") is None


def test_what_an_officer_waived_continues_and_still_shows_that_the_gate_did_not_pass(line: Line) -> None:
    line.institution.recipe["gates"] = {"capability": {"officer_may": "accept_inconclusive"}}
    check = check_of_doubt(line.materialize(UNTIL_DATASET, instead=INSTEAD))
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert check.metadata["officer may"].value == "accept inconclusive"
    assert "sovereign gates waive lamps in_doubt --officer NAME" in check.metadata["command"].value
    workplace = line.institution.workplace()
    split = workplace.store.current("lamps", "leakage_safe_split")
    assert split is not None
    stages = chain_with(INSTEAD)
    assert "leakage_safe_split" in stale_kinds(stages, workplace)
    waive(DOUBTED_SPLIT, DOUBT, workplace, split, "A. Officer", "More letters come in March.")
    assert not {"raw_corpus", "leakage_safe_split"} & set(stale_kinds(stages, workplace))
    assert "training_dataset" in stale_kinds(stages, workplace)
    result = line.materialize(UNTIL_DATASET, instead=INSTEAD)
    assert result.success
    check = check_of_doubt(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.metadata["waived by"].value, check.metadata["waiver"].value) == ("A. Officer", "accept")
    assert "Waived by A. Officer: More letters come in March." in check.description
    assert workplace.store.current("lamps", "training_dataset") is not None
