"""Gates as Dagster checks: what stops a run, and what an officer's waiver changes."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from sovereign_pipeline.dagster.chain import chain_with
from sovereign_pipeline.record.stage import Gate, Inputs, Verdict, Workplace
from sovereign_pipeline.record.staleness import stale_kinds
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline_tests.dagster.conftest import CORPUS, Line
from sovereign_pipeline_tests.officers import waive

pytestmark = pytest.mark.slow


def in_doubt(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return Verdict(False, "31 rows could have shown 0.18.", {"rows": 31}, inconclusive=True)


DOUBT = Gate("in_doubt", "Is it?", "1", in_doubt, officer_may=lambda line: line.gates.capability.officer_may)
DOUBTED_SPLIT = replace(LEAKAGE_SAFE_SPLIT, gates=(*LEAKAGE_SAFE_SPLIT.gates, DOUBT))
INSTEAD = {"leakage_safe_split": DOUBTED_SPLIT}
UNTIL_DATASET = CORPUS[:5]


def check_of_doubt(result: dg.ExecuteInProcessResult) -> Any:
    return next(each for each in result.get_asset_check_evaluations() if each.check_name == "in_doubt")


def test_an_inconclusive_check_stops_the_run_until_an_officer_who_may_has_waived_it(line: Line) -> None:
    result = line.materialize(UNTIL_DATASET, instead=INSTEAD)
    assert not result.success
    check = check_of_doubt(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (check.metadata["outcome"].value, check.metadata["officer may"].value) == ("inconclusive", "nothing")
    assert line.workplace.store.current("lamps", "training_dataset") is None

    line.institution.recipe["gates"] = {"capability": {"officer_may": "accept_inconclusive"}}
    check = check_of_doubt(line.materialize(UNTIL_DATASET, instead=INSTEAD))
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert check.metadata["officer may"].value == "accept inconclusive"
    assert "sovereign gates waive lamps in_doubt --reason TEXT --key FILE" in check.metadata["command"].value
    workplace = line.institution.workplace()
    split = workplace.store.current("lamps", "leakage_safe_split")
    assert split is not None
    stages = chain_with(INSTEAD)
    assert "leakage_safe_split" in stale_kinds(stages, workplace)
    waive(DOUBTED_SPLIT, DOUBT, workplace, split, "More letters come in March.")
    assert not {"raw_corpus", "leakage_safe_split"} & set(stale_kinds(stages, workplace))
    assert "training_dataset" in stale_kinds(stages, workplace)
    result = line.materialize(UNTIL_DATASET, instead=INSTEAD)
    assert result.success
    check = check_of_doubt(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.metadata["waived by"].value, check.metadata["waiver"].value) == ("Demonstration Officer 1", "accept")
    assert "Waived by Demonstration Officer 1: More letters come in March." in check.description
    assert workplace.store.current("lamps", "training_dataset") is not None
