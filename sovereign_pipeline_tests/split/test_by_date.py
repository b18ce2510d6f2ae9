"""The split by date: nothing newer is trained, and everything held out is tied to something newer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sovereign_pipeline.artifacts.stage import Built, Inputs, Workplace
from sovereign_pipeline.split import gate
from sovereign_pipeline.split.files import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline.split.near_duplicates import NearDuplicates
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage

GATE = NO_CROSSING_GROUPS.name


def test_by_date_no_training_document_is_of_the_cut_day_or_later(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows[0]["case"] = institution.rows[27]["case"]  # of the first day and of the last
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert "No training document is newer than 2024-01-25" in verdicts[GATE].message
    proof = json.loads(split.file(PROOF).read_bytes())
    assert proof["date_cut"] == {
        "first_day_held_out": "2024-01-26",
        "newest_training_day": "2024-01-25",
        "older_documents_held_out_with_their_group": 1,
    }
    held_out = documents_of(split, HELD_OUT)
    assert {document.id for document in held_out if document.date < "2024-01-26"} == {"R-00000"}
    assert max(document.date for document in documents_of(split, TRAIN)) == "2024-01-25"


def test_a_split_that_was_not_made_by_date_is_refused_where_the_line_asks_for_it(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]

    def by_seed(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        other = workplace.line.split.model_copy(update={"by_date": False})
        line = workplace.line.model_copy(update={"split": other})
        return LEAKAGE_SAFE_SPLIT.build(replace(workplace, line=line), inputs, workspace)

    _, verdicts = materialize(institution.workplace(), split_stage(build=by_seed))
    assert not verdicts[GATE].passed
    assert "are neither newer than all training documents nor tied to one that is" in verdicts[GATE].message


def test_by_date_a_tie_that_minhash_misses_still_counts(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old near-duplicate of a new letter is held out with it; the gate finds the tie by the exact comparison."""
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows[0].update({key: institution.rows[27][key] for key in ("request", "response")})
    workplace = institution.workplace()
    split, verdicts = materialize(workplace, split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    monkeypatch.setattr(gate, "near_duplicates", lambda *arguments: NearDuplicates(np.empty((0, 2), int), 0, 0, 0))
    scrubbed = workplace.store.open_input(split.manifest, "scrubbed_corpus")
    again = gate.evaluate_no_crossing_groups(workplace, split, {"scrubbed_corpus": scrubbed})
    assert again.passed, again.message
