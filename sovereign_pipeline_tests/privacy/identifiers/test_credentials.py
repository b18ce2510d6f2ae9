"""Passwords, keys, tokens and coordinates: found in what people write, and not in what only looks like them."""

import time

import pytest

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub

# Invented, in the forms of the services; cut in two, so that no scanner of this repository takes one for real.
SERVICES = (
    "AKIA" + "QWERTZUIOPLKJHGF",
    "ghp_" + "aB3" * 12,
    "glpat-" + "aB3xY" * 4,
    "xoxb-" + "1234567890-abcdefghij",
    "sk_live_" + "aB3xY9" * 4,
    "SG." + "aB3xY9kLmNoPqRsTuVwXyZ"[:22] + "." + "a" * 43,
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiJsYW1wIn0." + "c2lnbmF0dXJl",
)


def found(text: str) -> list[tuple[str, str]]:
    plain = normalise(text).text
    return [
        (span.kind, plain[span.start : span.end])
        for span in structured_spans(plain)
        if span.kind in ("CREDENTIAL", "COORDINATES")
    ]


@pytest.mark.parametrize("key", SERVICES)
def test_a_key_of_a_service_is_found_wherever_it_stands(key: str) -> None:
    assert found(f"Use {key} for the feed.") == [("CREDENTIAL", key)]
    assert found(key) == [("CREDENTIAL", key)]


@pytest.mark.parametrize(("text", "value"), examples(__file__, "a_labelled_secret_is_found"))
def test_a_labelled_secret_is_found(text: str, value: str) -> None:
    assert found(text) == [("CREDENTIAL", value)]


def test_a_private_key_is_found_whole() -> None:
    key = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow" + "IBAAKC\nAQEAx/z+9a\n-----END RSA PRIVATE KEY-----"
    scrubber = Scrubber("lamps", "run", Privacy(name_models={}))
    whole, cut = (
        scrub(scrubber, document(f"Here it is:\n{text}")).documents[0].request
        for text in (f"{key}\nThanks", key[: key.index("-----END")])
    )
    assert whole == "Here it is:\nCREDENTIAL_1\nThanks"
    assert cut.strip() == "Here it is:\nCREDENTIAL_1"


@pytest.mark.parametrize("text", examples(__file__, "words_about_secrets_are_none"))
def test_words_about_secrets_are_none(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(("text", "value"), examples(__file__, "coordinates_are_found"))
def test_coordinates_are_found(text: str, value: str) -> None:
    assert [kind for kind, _ in found(text)] == ["COORDINATES"]
    assert found(text)[0][1] == value


@pytest.mark.parametrize("text", examples(__file__, "other_numbers_are_no_coordinates"))
def test_other_numbers_are_no_coordinates(text: str) -> None:
    assert found(text) == []


def test_both_are_replaced_and_the_rest_of_the_text_stays() -> None:
    scrubber = Scrubber("lamps", "run", Privacy(name_models={}))
    text = "The password is Lantern-7719x; the boat lies at 23.62345, 58.59321 since May."
    case = scrub(scrubber, document(text))
    assert case.documents[0].request == "The password is CREDENTIAL_1; the boat lies at COORDINATES_1 since May."
    assert [row.original for row in case.mapping] == ["Lantern-7719x", "23.62345, 58.59321"]


@pytest.mark.parametrize(
    "piece", ["password: ", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "23°", "1.2345,", "://a:b"]
)
def test_a_long_text_of_one_form_takes_time_in_proportion(piece: str) -> None:
    def seconds(times: int) -> float:
        started = time.process_time()
        structured_spans(piece * times)
        return time.process_time() - started

    seconds(100)
    assert seconds(8_000) < 40 * max(seconds(1_000), 0.01)  # 64 times, were it the square
