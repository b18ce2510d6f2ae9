"""Where phones without a prefix are from, as a recipe says."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.preview import how_found
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

KUWAIT = {"valid": ["KW"], "grouped": []}
FRANCE = {"valid": ["OM", "FR"]}


def scrubbed(text: str, regions: dict[str, Any] | None) -> str:
    recipe = {"name_models": {}, **({"phone_regions": regions} if regions else {})}
    return scrub(Scrubber("lamps", "run", Privacy.model_validate(recipe)), document(text)).documents[0].request


@pytest.mark.parametrize(
    ("text", "regions", "result"),
    [
        ("he is at 50123456 today", None, "he is at NID_1 today"),
        ("he is at 50123456 today", KUWAIT, "he is at PHONE_1 today"),
        ("the desk, 01--42--27--12--34, knows", None, "the desk, 01--42--27--12--34, knows"),
        ("the desk, 01--42--27--12--34, knows", FRANCE, "the desk, PHONE_1, knows"),
        ("under Decree 53/2019, 4521 tonnes", FRANCE, "under Decree 53/2019, 4521 tonnes"),
    ],
)
def test_a_number_is_a_phone_where_it_is_valid_in_the_recipes_regions(
    text: str, regions: dict[str, Any] | None, result: str
) -> None:
    assert scrubbed(text, regions) == result


def test_the_gate_reads_by_the_same_regions() -> None:
    recipe = Privacy.model_validate({"name_models": {}, "phone_regions": FRANCE})
    text = "the desk, 01--42--27--12--34, knows"

    def kinds(privacy: Privacy) -> list[str]:
        return [span.kind for span in Detector(privacy, {}).read_again("en", text).left]

    assert kinds(recipe) == ["PHONE"]
    assert kinds(Privacy(name_models={})) == []


def test_the_default_changes_no_identity_and_another_one_does() -> None:
    named = Privacy.model_validate({"phone_regions": {"valid": ["OM"]}})
    assert named.identity() == Privacy().identity()
    assert "phone_regions" not in Privacy().identity()
    assert Privacy.model_validate({"phone_regions": KUWAIT}).identity()["phone_regions"]["valid"] == ["KW"]


@pytest.mark.parametrize("regions", [{"valid": ["Oman"]}, {"valid": []}, {"grouped": ["XX"]}])
def test_what_is_no_region_is_refused(regions: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Privacy.model_validate({"phone_regions": regions})


def test_a_person_is_told_of_the_regions() -> None:
    treatments = Institution(name="Lamp Office", classification=("OPEN",)).treatments("lamps")
    facts = {each.kind: each for each in how_found(Privacy.model_validate({"phone_regions": KUWAIT}), treatments)}
    assert set(facts) == set(KINDS)
    assert "valid in KW; any other eight digits" in facts["PHONE"].remark
