"""Passwords, keys, tokens and coordinates: found in what people write, and not in what only looks like them."""

import time

import pytest

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The password is Lantern-7719x.", "Lantern-7719x"),
        ("Password: Lantern7", "Lantern7"),
        ("password for the portal = 'hunter2!'", "hunter2!"),
        ("Your passcode is now 884213, do not share it.", "884213"),
        ("PIN: 4471", "4471"),
        ("The door code was 55#19", "55#19"),
        ("api_key=Zx81Qp0m", "Zx81Qp0m"),
        ('{"client_secret": "pQ9-zz-81"}', "pQ9-zz-81"),
        ("Access token => tok_99aZ", "tok_99aZ"),
        ("Log in with pass word: myDogRex", "myDogRex"),
        ("كلمة المرور: Lantern-7719x", "Lantern-7719x"),
        ("كلمة السر هي 7719ab", "7719ab"),
        ("الرقم السري للبطاقة: ٤٤٧١", "4471"),
        ("رمز الدخول = Qq7!19", "Qq7!19"),
        ("see https://clerk:s3cretRope@files.canary.example/x", "s3cretRope"),
    ],
)
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


@pytest.mark.parametrize(
    "text",
    [
        "The password is required.",
        "Password: attached separately",
        "The password policy: at least twelve characters",
        "The access code is shared at the desk.",
        "Please reset your password and PIN.",
        "The key is with the harbour master.",
        "The secret key to good service is patience.",
        "The security code is 3-digit on the back.",
        "كلمة المرور المرسلة إليكم سابقا",
        "الرقم السري لا يعطى لأحد",
        "Token fees: none. Key dates: 4 May, 7 June.",
        "See https://files.canary.example:8443/a/b",
        "The account key performance indicators were met in 2024.",
    ],
)
def test_words_about_secrets_are_none(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The boat lies at 23.62345, 58.59321.", "23.62345, 58.59321"),
        ("GPS 23.6234 / 58.5932", "23.6234 / 58.5932"),
        ("position: 23.62, 58.59", "23.62, 58.59"),
        ("at 23°37'24\"N 58°35'35\"E", "23°37'24\"N 58°35'35\"E"),
        ("at 23° 37.40' N, 58° 35.59' E near the pier", "23° 37.40' N, 58° 35.59' E"),
        ("23.6234N, 58.5932E", "23.6234N, 58.5932E"),
        ("Latitude: 23.62345", "23.62345"),
        ("الإحداثيات ٢٣.٦٢٣٤٥، ٥٨.٥٩٣٢١", "23.62345، 58.59321"),
        ("خط العرض: 23.6234", "23.6234"),
        ("https://maps.canary.example/@-33.86882,151.20929,17z", "-33.86882,151.20929"),
    ],
)
def test_coordinates_are_found(text: str, value: str) -> None:
    assert [kind for kind, _ in found(text)] == ["COORDINATES"]
    assert found(text)[0][1] == value


@pytest.mark.parametrize(
    "text",
    [
        "The rate rose from 0.3845 to 0.3850.",
        "rates 0.3845, 0.3850 and 1.0812",
        "Section 4.12, 5.13 and 6.14 apply.",
        "heated to 45° and cooled to 12°",
        "lengths of 12.5000, 190.2500 m",
        "The long 2.50 m pole and the position of clerk 4.1",
        "versions 2.13.0, 3.11.7",
        "OMR 1234.5678, 2345.6789",
    ],
)
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
