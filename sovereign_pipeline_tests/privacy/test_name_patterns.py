"""Names are found by patterns, and institutions are not; what a model finds is judged by the same word lists."""

import pytest

from sovereign_pipeline.policy.line import Privacy
from sovereign_pipeline.privacy.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub


def names(text: str, signed: bool = False) -> list[str]:
    patterns = NamePatterns()
    return [text[span.start : span.end] for span in patterns.spans(normalise(text).text, signed=signed)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am Hamood bin Rashid Al Araimi of Sur.", ["Hamood bin Rashid Al Araimi"]),
        ("Now Said Al Busaidi tells me", ["Said Al Busaidi"]),
        ("from Mr Al-Busaidi together", ["Al-Busaidi"]),
        ("Amer bin Salem Kashoob, civil number", ["Amer bin Salem Kashoob"]),
        ("the buyer, Ms Hanne Solberg, has", ["Hanne Solberg"]),
        ("Mr. Rakesh Menon came", ["Rakesh Menon"]),
        ("the signature of engineer Kamil Al Abri", ["Kamil Al Abri"]),
        ("my deckhand Rohan was bitten", ["Rohan"]),
        ("Zamzam bint Salim Al Farsi", ["Zamzam bint Salim Al Farsi"]),
        ("طلب السيد ناصر الحبسي في الحساب", ["ناصر الحبسي"]),
        ("المحامية عبير بنت سعود الريامية، هاتف", ["عبير بنت سعود الريامية"]),
        ("انتهت مهلة العريمي ولم يقدم", ["العريمي"]),
        ("منها للفاضل سيف بن حميد الرحبي الذي", ["سيف بن حميد الرحبي"]),
        ("ومندوبها توماس إيكلوند، جواز السفر رقم", ["توماس إيكلوند"]),
        ("المقيم رافي كومار ناير، بطاقة مقيم رقم", ["رافي كومار ناير"]),
        ("المهندسة إيمان إلى", ["إيمان"]),
    ],
)
def test_a_name_is_found_without_its_title(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "the Directorate of Permits in Muscat, under Article 14 of the Coastal Works Regulation",
        "Section 20 of the Harbour Safety Code, the Small Harbours By-law, the Schedule of Fees, Item 3",
        "between Ras Al Hadd, Al Ashkharah, Bandar Khayran, Al Suwaiq and Jalan Bani Bu Ali",
        "Al Batinah Hull Works LLC and Marsa Supply Boats LLC asked on Friday, 3 March",
        "my dhow Fath Al Bahr, the trawler Wafaa, Reem 2",
        "تفيد الدائرة القانونية والتعاميم، استناداً إلى النظام الداخلي للموانئ الصغيرة",
        "يلتزم المكتب البحري، السجل التجاري، الرمز البريدي، الرصيف العلوي، السيد المدير، يوقف الربان مؤقتاً",
    ],
)
def test_what_is_no_person_stays(text: str) -> None:
    assert names(text) == []


def test_a_signature_is_a_name_only_at_the_end_of_a_letter() -> None:
    letter = "The aircraft weighs 900 grams. Tomas Verhelst, Saltline Pictures"
    assert names(letter, signed=True) == ["Tomas Verhelst"]
    assert names(letter) == []
    assert names("Please reply. Giulia, rally secretary", signed=True) == ["Giulia"]


def test_a_keep_word_of_the_recipe_is_never_a_name() -> None:
    kept = Scrubber("lamps", "run", Privacy(name_models={}, keep_words=("Maqbali",)))
    text = "The quay of Al Maqbali is closed."
    assert scrub(kept, document(text)).documents[0].request == text


def test_the_model_finds_names_that_no_pattern_knows(with_model: Scrubber, patterns_only: Scrubber) -> None:
    text = "Yesterday I met Margaret I. Thompson and Jürgen Müller at the counter."
    scrubbed = scrub(with_model, document(text)).documents[0]
    assert scrubbed.request == "Yesterday I met NAME_1 and NAME_2 at the counter."
    assert scrub(patterns_only, document(text)).documents[0].request == text


def test_the_model_does_not_turn_places_and_laws_into_people(with_model: Scrubber) -> None:
    text = (
        "With reference to your letter of 3 March 2024, the Directorate of Permits advises as follows.\nMooring S-14 "
        "at Sidab and the kiosk in Khasab, Muttrah or Al Ashkharah fall under Article 6 of the Small Harbours By-law.\n"
        "Please quote file PRM/2024/017 in any further correspondence."
    )
    assert scrub(with_model, document("", response=text)).documents[0].response == text
