"""The gate of the split: planted crossings, and files that are not a split of the corpus, are refused."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import holding_out, materialize, split_stage

GATE = NO_CROSSING_GROUPS.name


_torn_apart = holding_out(lambda held, every: held - {"R-00000"} | {"R-00001"})
"""R-00000 goes to training and R-00001 is held out, whatever ties them."""


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ({"case": "CASE/00000"}, "1 case crosses"),
        ({"related": ["R-00000"]}, "1 link crosses"),
        ({key: letter(0)[key] for key in ("request", "response")}, "1 near-duplicate pair crosses"),
        (
            {"request": letter(0)["request"] + " indeed", "response": letter(0)["response"]},
            "1 near-duplicate pair crosses",
        ),
        (
            {"author": "Only One"},
            "1 author crosses",
        ),
    ],
)
def test_a_planted_crossing_is_refused(institution: DemoInstitution, planted: dict[str, Any], says: str) -> None:
    institution.recipe["sources"][0]["links"] = "related"
    if "author" in planted:
        institution.recipe["split"] = {"by_author": True}
        institution.rows = [letter(number, author=f"Officer {number}") for number in range(40)]
        institution.rows[0]["author"] = "Only One"
    institution.rows = [{"related": [], **row} for row in institution.rows]
    institution.rows[1].update(planted)
    _, verdicts = materialize(institution.workplace(), split_stage(build=_torn_apart))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message
    assert institution.rows[1]["request"] not in verdicts[GATE].message


def test_the_same_documents_split_honestly_pass(institution: DemoInstitution) -> None:
    institution.rows[1].update({"case": "CASE/00000", "author": "x"})
    _, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed


def _dropping(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    write_documents(workspace / TRAIN, list(read_documents(workspace / TRAIN))[1:])
    return built


def _doubling(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    held_out = list(read_documents(workspace / HELD_OUT))
    write_documents(workspace / TRAIN, [*read_documents(workspace / TRAIN), held_out[0]])
    return built


_holding_out_little = holding_out(lambda held, every: {min(held)})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (_dropping, "is missing, changed or out of order"),
        (_doubling, "1 id crosses"),
        (_holding_out_little, "1 of 40 letters are held out; the recipe asks for 12%"),
    ],
)
def test_files_that_are_not_a_split_of_the_corpus_are_refused(
    institution: DemoInstitution, build: Any, says: str
) -> None:
    _, verdicts = materialize(institution.workplace(), split_stage(build=build))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message
