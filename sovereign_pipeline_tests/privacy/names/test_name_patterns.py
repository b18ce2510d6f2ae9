"""Names are found by patterns, and institutions are not; what a model finds is judged by the same word lists."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.names.latin_names import FAVOURS
from sovereign_pipeline.privacy.names.lexicon import recased
from sovereign_pipeline.privacy.names.name_models import Entity, Label
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub


def names(text: str, signed: bool = False) -> list[str]:
    patterns = NamePatterns()
    return [text[span.start : span.end] for span in patterns.spans(normalise(text).text, signed=signed)]


@pytest.mark.parametrize(("text", "expected"), examples(__file__, "a_name_is_found_without_its_title"))
def test_a_name_is_found_without_its_title(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize("text", examples(__file__, "what_is_no_person_stays"))
def test_what_is_no_person_stays(text: str) -> None:
    assert names(text) == []


def test_a_signature_is_a_name_only_at_the_end_of_a_letter() -> None:
    letter = "The aircraft weighs 900 grams. Tavish Verhelm, Saltline Pictures"
    assert names(letter, signed=True) == ["Tavish Verhelm"]
    assert names(letter) == []
    assert names("Please reply. Jolanka, rally secretary", signed=True) == ["Jolanka"]
    assert names("Please reply.\nRegards,\nGrant\n", signed=True) == ["Grant"]
    assert names("He gave his regards, Grant Scheme or none", signed=True) == []


@pytest.mark.parametrize(
    ("text", "label", "entity", "expected"),
    examples(__file__, "what_a_model_says_is_judged"),
)
def test_what_a_model_says_is_judged(text: str, label: Label, entity: str, expected: list[str]) -> None:
    start = text.index(entity)
    spans = NamePatterns().spans(text, [Entity(start, start + len(entity), label)])
    assert [text[span.start : span.end] for span in spans] == expected


@given(st.text(alphabet="abcxyz é'.-\nß", max_size=60))
def test_a_recased_text_keeps_every_position(text: str) -> None:
    shown = recased(text)
    assert len(shown) == len(text)
    assert shown.casefold() == text.casefold()


def test_a_keep_word_of_the_recipe_is_never_a_name() -> None:
    kept = Scrubber("lamps", "run", Privacy(name_models={}, keep_words=("Maqbali",)))
    text = "The quay of Al Maqbali is closed."
    assert scrub(kept, document(text)).documents[0].request == text


def test_the_policy_trades_precision_for_recall_and_doubtful_names_are_listed() -> None:
    text = "We met Helen Baker. The ferry to Chad is late. We saw Grant there. Hope is here. Verdan began writing."
    found = {favour: {(each.start, each.end) for each in NamePatterns((), favour).spans(text)} for favour in FAVOURS}
    assert found["recall"] > found["balanced"] >= found["precision"] > set()
    names, doubtful = NamePatterns().explained(text, None, signed=False)
    assert names.keys() == found["balanced"] and {*doubtful} == found["recall"] - found["balanced"]
    helen = text.index("Helen")
    assert "first word: given name +" in names[helen, helen + len("Helen Baker")]


@pytest.mark.slow
def test_the_model_finds_names_that_no_pattern_knows(with_model: Scrubber, patterns_only: Scrubber) -> None:
    text = "Yesterday I met Wacharee Suthipong and Ottokar Brandl at the counter."
    scrubbed = scrub(with_model, document(text)).documents[0]
    assert scrubbed.request == "Yesterday I met NAME_1 and NAME_2 at the counter."
    assert scrub(patterns_only, document(text)).documents[0].request == text


@pytest.mark.slow
def test_the_model_does_not_turn_places_and_laws_into_people(with_model: Scrubber) -> None:
    text = (
        "With reference to your letter of 3 March 2024, the Directorate of Permits advises as follows.\nMooring S-14 "
        "at Sidab and the kiosk in Khasab, Muttrah or Al Ashkharah fall under Article 6 of the Small Harbours By-law.\n"
        "Please quote file PRM/2024/017 in any further correspondence."
    )
    assert scrub(with_model, document("", response=text)).documents[0].response == text


@pytest.mark.parametrize("signs", ["|", " ", "Van der ", "> \n"])
def test_a_long_row_of_signs_takes_no_longer_for_each_of_them(signs: str) -> None:
    text = signs * (64_000 // len(signs))
    started = time.process_time()
    assert NamePatterns().spans(text) == []
    assert time.process_time() - started < 10
