"""The split with paraphrases: two wordings of one letter never cross, and without the model nothing is split."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.artifacts.stage import Built, Inputs, Workplace
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split.files import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import materialize, split_stage
from sovereign_pipeline_tests.split.test_paraphrases import WORDINGS

GATE = NO_CROSSING_GROUPS.name


def _tearing_apart_two_wordings(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """R-00016 is held out and R-00017, the same letter in other words, is not."""
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    documents = list(read_documents(inputs["scrubbed_corpus"].file(DOCUMENTS)))
    held = {d.id for d in read_documents(workspace / HELD_OUT)} - {"R-00017"} | {"R-00016"}
    write_documents(workspace / HELD_OUT, [d for d in documents if d.id in held])
    write_documents(workspace / TRAIN, [d for d in documents if d.id not in held])
    return built


@pytest.mark.parametrize(("build", "passes"), [(LEAKAGE_SAFE_SPLIT.build, True), (_tearing_apart_two_wordings, False)])
def test_paraphrases_never_cross_where_the_line_asks_for_it(
    institution: DemoInstitution, build: Any, passes: bool
) -> None:
    institution.recipe["split"] = {"paraphrases": {"cosine": 0.93}}
    texts = [text.split(" ") for wordings in WORDINGS for text in wordings]
    institution.rows = [
        letter(number, request=" ".join(words[:6]), response=" ".join(words[6:])) for number, words in enumerate(texts)
    ]
    split, verdicts = materialize(institution.workplace(), split_stage(build=build))
    proof = json.loads(split.file(PROOF).read_bytes())
    assert proof["crossing"]["paraphrase"] == 0
    assert proof["paraphrases"]["pairs"] >= 9
    assert verdicts[GATE].passed == passes, verdicts[GATE].message
    if not passes:
        assert re.search(r"paraphrase pairs? cross.*R-00016 ~ R-00017", verdicts[GATE].message)


def test_a_line_that_asks_for_paraphrases_without_the_model_stops(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.recipe["split"] = {"paraphrases": {}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        materialize(institution.workplace(), split_stage())
