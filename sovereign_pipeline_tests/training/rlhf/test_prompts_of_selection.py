"""Prompts that choose the adapter that is kept come from the selection side, if the split has one."""

from pathlib import Path

from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.split import HELD_OUT, SELECTION
from sovereign_pipeline.training.rlhf.prompts import write_held_out_prompts
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage


def test_the_adapter_that_is_kept_is_chosen_on_the_selection_side(institution: DemoInstitution, tmp_path: Path) -> None:
    for share, side in ((0.0, HELD_OUT), (0.2, SELECTION)):
        institution.recipe["split"] = {"selection": share}
        split, _ = materialize(institution.workplace(), split_stage())
        write_held_out_prompts(tmp_path / "prompts.jsonl", split, "Answer.", 100, 7)
        written = {row["id"] for row in read_jsonl(tmp_path / "prompts.jsonl")}
        assert written == {document.id for document in documents_of(split, side)}
