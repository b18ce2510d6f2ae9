"""What the gate can name, the scrubber replaced: addresses that were cut or misread, and what placeholders join."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub

SCRUBBER = Scrubber("lamps", "run", Privacy(name_models={}))
GATE = Detector(Privacy(name_models={}), dict.fromkeys(("URL", "DATE", "AGE"), "keep"))


def replaced(text: str) -> str:
    return scrub(SCRUBBER, document(text)).documents[0].request


@pytest.mark.parametrize(("text", "scrubbed"), examples(__file__, "an_address_that_was_cut_or_misread_is_replaced"))
def test_an_address_that_was_cut_or_misread_is_replaced(text: str, scrubbed: str) -> None:
    assert replaced(text) == scrubbed


@pytest.mark.parametrize("text", examples(__file__, "attributes_decorators_and_prices_are_no_addresses"))
def test_attributes_decorators_and_prices_are_no_addresses(text: str) -> None:
    assert replaced(text) == text


PIECES = st.sampled_from(examples(__file__, "pieces"))


@given(st.lists(PIECES, min_size=2, max_size=14))
@settings(deadline=None)
def test_nothing_is_left_that_the_gate_would_name(pieces: list[str]) -> None:
    after = replaced("".join(pieces))
    assert [span.kind for span in GATE.read_again("en", after).left] == []


def test_what_a_look_alone_tells_is_counted_by_kind_and_row() -> None:
    letters = [document("write to hamood@", id="R-1"), document("civil number 10457832", id="R-2")]
    findings = scrub(SCRUBBER, *letters).findings
    assert findings.to_json("run")["doubtful"] == {"EMAIL": {"values": 1, "rows": ["R-1"]}}
