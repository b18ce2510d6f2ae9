"""What hides a value from a plain pattern does not hide it from the scrubber; the gate refuses what is left."""

import time
import unicodedata
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers, structured_spans
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub
from sovereign_pipeline_tests.privacy.spellings import SPELLINGS, Outcome, Spelling

SCRUBBER = Scrubber("lamps", "run", Privacy(name_models={}))
ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
PERSIAN = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def outcome_of(scrubber: Scrubber, text: str, language: str, hidden: Sequence[str]) -> Outcome:
    scrubbed = scrub(scrubber, document(text, language=language)).documents[0].request
    if not any(piece in scrubbed for piece in hidden):
        return "replaced"
    return "refused" if leftovers(normalise(scrubbed).text) else "passes"


@pytest.mark.security_case(
    (
        "Personal data is spelled in more than a hundred ways: across line ends and quote marks, "
        "encoded, with confusables, in file names and URLs"
    ),
    "replaced, except for the spellings that the table lists as missed",
)
@pytest.mark.parametrize("spelling", SPELLINGS, ids=[f"{each.kind}-{each.how}" for each in SPELLINGS])
def test_each_spelling_has_the_outcome_that_the_table_states(patterns_only: Scrubber, spelling: Spelling) -> None:
    assert all(piece in unicodedata.normalize("NFC", spelling.text) for piece in spelling.hidden)
    assert outcome_of(patterns_only, spelling.text, spelling.language, spelling.hidden) == spelling.outcome


BREAKS = st.sampled_from(["\n", "\r\n", "\n> ", "\n>> ", "\n > ", "\u2028", "\x85", "\v", "  ", "\t", " \n"])
MARKS = st.sampled_from(
    ["/", " / ", "_", ".", ". ", ", ", "-", " - ", "–", "\u200b", "\u00ad", "|", '" "', "*", "\\", "&nbsp;"]
)
SEPARATORS = st.one_of(BREAKS, MARKS, st.tuples(MARKS, BREAKS).map("".join))
DIGITS = st.sampled_from([{}, ARABIC_INDIC, PERSIAN, FULL_WIDTH])
LABELS = st.sampled_from(
    [
        ("en", "my civil number is "),
        ("en", "> civil\n> number: "),
        ("en", "national ID no. "),
        ("ar", "الرقم المدني "),
        ("ar", "رقمه المدني: "),
    ]
)


@given(LABELS, SEPARATORS, DIGITS, DIGITS, st.sampled_from(["", ".", ", as asked", "\nYours faithfully"]))
def test_a_labelled_number_is_replaced_whatever_stands_between_its_parts(
    label: tuple[str, str], separator: str, first: dict[int, int], second: dict[int, int], after: str
) -> None:
    language, words = label
    parts = "1045".translate(first), "7832".translate(second)
    text = f"{words}{separator.join(parts)}{after}"
    assert outcome_of(SCRUBBER, text, language, parts) == "replaced"


@given(st.lists(SEPARATORS, min_size=3, max_size=3), st.sampled_from(["", "card ", "> paid by "]))
def test_a_card_number_is_replaced_whatever_stands_between_its_groups(separators: list[str], before: str) -> None:
    if sum("\n" in normalise(each).text for each in separators) > 1:
        return  # four figures one below the other are a column
    groups = ("5500", "0000", "0000", "0004")
    text = before + "".join(f"{group}{gap}" for group, gap in zip(groups, [*separators, ""], strict=True))
    assert outcome_of(SCRUBBER, text, "en", ("5500", "0004")) == "replaced"


@given(st.lists(SEPARATORS, min_size=4, max_size=4))
def test_an_iban_is_replaced_whatever_stands_between_its_groups(separators: list[str]) -> None:
    groups = ("OM82", "0270", "3100", "4556", "6770012")
    text = "".join(f"{group}{gap}" for group, gap in zip(groups, [*separators, ""], strict=True))
    assert outcome_of(SCRUBBER, f"to {text} please", "en", groups[1:]) == "replaced"


AT = st.sampled_from(
    ["@", "%40", "%2540", "&#64;", "&commat;", "＠", " @ ", "@\n", "\n@", "@\n> ", "[at]", " (at) ", "@\u200b"]
)


@given(AT, st.sampled_from([".", "%2E", "&#46;", "．"]), st.sampled_from(["", "write to ", "> mail: ", "<"]))
def test_an_address_is_replaced_however_its_signs_are_written(at: str, dot: str, before: str) -> None:
    text = f"{before}hamood.araimi{at}canary{dot}example and so on"
    assert outcome_of(SCRUBBER, text, "en", ("araimi", "canary")) == "replaced"


@pytest.mark.parametrize(("text", "scrubbed"), examples(__file__, "what_follows_a_value_stays"))
def test_what_follows_a_value_stays(patterns_only: Scrubber, text: str, scrubbed: str) -> None:
    assert scrub(patterns_only, document(text)).documents[0].request == scrubbed


ORDINARY = examples(__file__, "ordinary")


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_text_stays_as_it_is(patterns_only: Scrubber, text: str) -> None:
    assert scrub(patterns_only, document(text)).documents[0].request == text
    assert leftovers(normalise(text).text) == []


READINGS: dict[str, Callable[[str], object]] = {
    "leftovers and names": lambda text: (leftovers(read := normalise(f"{text}.pdf").text), NamePatterns().spans(read)),
    "identifiers": lambda text: structured_spans(normalise(f"1 {text} 1").with_tabs),
    "names": lambda text: NamePatterns().spans(normalise(text).text, signed=True),
}
REPEATED = [(reading, piece) for reading, pieces in examples(__file__, "repeated").items() for piece in pieces]


@pytest.mark.parametrize(("reading", "piece"), REPEATED)
def test_a_long_text_of_one_pattern_does_not_make_a_reading_slow(reading: str, piece: str) -> None:
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    READINGS[reading](text)
    assert time.process_time() - started < 10


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
