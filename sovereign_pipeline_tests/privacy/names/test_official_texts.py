"""Official texts full of bodies, places, laws, offices and diseases, in which nothing is replaced as a name.

Every text is invented.
"""

import time

import pytest

from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub

OFFICIAL = examples(__file__, "official")


@pytest.mark.parametrize("text", OFFICIAL, ids=[str(i) for i in range(len(OFFICIAL))])
def test_nothing_is_taken_for_a_name(patterns_only: Scrubber, text: str) -> None:
    language = "ar" if text[0] >= "\u0600" else "en"
    assert scrub(patterns_only, document(text, language=language)).documents[0].request.count("NAME_") == 0


@pytest.mark.slow
@pytest.mark.parametrize("text", OFFICIAL[:18], ids=[str(i) for i in range(18)])
def test_nothing_is_taken_for_a_name_with_the_model(with_model: Scrubber, text: str) -> None:
    scrubbed = scrub(with_model, document(text)).documents[0].request
    assert "NAME_" not in scrubbed, scrubbed


@pytest.mark.parametrize(
    ("text", "entity"), examples(__file__, "what_stands_beside_a_finding_of_a_model_speaks_against_it")
)
def test_what_stands_beside_a_finding_of_a_model_speaks_against_it(text: str, entity: str) -> None:
    start = text.index(entity)
    assert NamePatterns().spans(text, [Entity(start, start + len(entity), "PERSON")]) == []


def test_an_uncertain_finding_does_not_spread() -> None:
    patterns = NamePatterns()
    text = "then we met Saltmarsh there"
    (span,) = patterns.spans(text, [Entity(12, 21, "PERSON")])
    assert not patterns.may_spread(text, span)
    titled = "Mr Saltmarsh came."
    assert patterns.may_spread(titled, patterns.spans(titled)[0])


def test_an_everyday_word_of_a_name_is_replaced_only_where_it_is_the_person(patterns_only: Scrubber) -> None:
    text = "I am Grant Oakes. The Grant Scheme opens. Grant called. We met Grant. A Grant is due."
    scrubbed = scrub(patterns_only, document(text)).documents[0].request
    assert scrubbed == "I am NAME_1. The Grant Scheme opens. NAME_1 called. We met NAME_1. A Grant is due."


@pytest.mark.parametrize(
    ("text", "left"),
    examples(__file__, "names_in_letters_of_other_languages_are_replaced_whole"),
)
def test_names_in_letters_of_other_languages_are_replaced_whole(patterns_only: Scrubber, text: str, left: str) -> None:
    scrubbed = scrub(patterns_only, document(text, language="ar", author="Pejman Chavosh")).documents[0].request
    assert scrubbed.split()[-1] == left
    assert set(scrubbed.split()[1:-1]) <= {"NAME_1", "NAME_2"}, scrubbed


@pytest.mark.parametrize(
    "piece", ["السيد ", "محمد ", "أبو ", "بن ", "Grant ", "Oakes, Tamsin ", "said al ", "A, B and "]
)
def test_a_long_run_of_cues_does_not_make_the_patterns_slow(piece: str) -> None:
    started = time.process_time()
    NamePatterns().spans(piece * 20_000, signed=True)
    assert time.process_time() - started < 10
