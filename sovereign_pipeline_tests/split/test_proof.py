"""The file `proof.json`: its form is stored in artifacts and must not change unnoticed."""

from pathlib import Path

from sovereign_pipeline.split import PROOF
from sovereign_pipeline.split.proof import Proof
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import materialize, split_stage

STORED = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")


def test_the_proof_is_stored_in_the_same_form_byte_for_byte(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows += [letter(number, id=f"S-{number}", date="2024-01-02") for number in range(3)]
    split, _ = materialize(institution.workplace(), split_stage())
    assert split.file(PROOF).read_text() == STORED
    assert Proof.model_validate_json(STORED).to_json() == STORED
