"""Official texts full of bodies, places, laws, offices and diseases, in which nothing is replaced as a name.

Every text is invented. What belongs here: texts that hold no name of a person, and what speaks against one.
"""

import time

import pytest

from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub

OFFICIAL = [
    "The Secretary of State will write to (a) Kent, (b) Hampshire and (c) Surrey before the Harbours Bill is read.",
    "The Water Resources Act and the Apprenticeship Levy apply in Nottingham, Exeter and Great Yarmouth.",
    "Vaccination against COVID, Hepatitis B and Japanese Encephalitis is offered at Ealing Hospital.",
    "The Department for Infectious Diseases met the Dean of the Faculty and the Dean of Students in March.",
    "Sent: Monday, 4 May\nSubject: Coastal Erosion: Lowestoft\nThe Minister of Transport has replied.",
    "In Korea, Chad, Jordan and Georgia the Red Cross works with the World Food Programme.",
    "The draft Renters Bill, the Grant Scheme and the Mark Scheme were sent to the Church Commissioners.",
    "HMP Garth and HMP Ranby hold offenders from Derby; RAF Marham and HMS Lancaster train crews.",
    "Parkinson's Disease, Crohn's Disease, Down Syndrome and Lyme Disease are listed in Annex B.",
    "Zero Hours Contracts: Retail Sector",
    "The Barnett formula and the Leveson Inquiry are described in the Green Paper of the Cabinet Office.",
    "The University of Lancaster, Bishop Grosseteste University and King's College teach Marine Law.",
    "Residents of Sohar, Salalah and Nizwa may apply at the Ministry of Housing, Muscat.",
    "The Port of Duqm, the Sohar Freezone and Bandar Khayran come under the Maritime Law of 2023.",
    "Question: will the Chancellor of the Exchequer review the Winter Fuel Payment in the Spring Budget?",
    "The Elizabeth Line, the Prince Edward Island ferry, the Victoria Falls bridge and St. Anne's station are closed.",
    "The Royal Navy, the Army Board, the Home Office, HM Treasury and NHS England sent observers.",
    "The frigate MV Said 4 and the dhow Noor 12 lie in Khasab; the vessel Rashid 2 was sold.",
    "يسري التفسير على القرار. أعلنت وزارة النقل ودائرة الموانئ في ولاية صحار أن القانون البحري يسري على ميناء الدقم.",
    "السلام عليكم ورحمة الله وبركاته، تحية طيبة وبعد، نرفق كتاب رسمي موقع. وتفضلوا بقبول فائق الاحترام",
    "السيد/ مدير الدائرة المحترم، السادة/ شركة الموانئ، لدى المحل أثاث فاخر جديد، وعتيق الطراز، ووديعة البنك",
    "ناقش مجلس الشورى ومجلس الدولة مشروع قانون الصحة العامة، وأكد الوزير أن مستشفى خولة وجامعة السلطان قابوس شريكان.",
]


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
    [
        ("السيد پژمان چاوش گلي دفع", "دفع"),
        ("Mr Rezaی called", "called"),
        ("السيد محمدRezai دفع", "دفع"),
        ("السيد هێمن ڕێبین دفع", "دفع"),
    ],
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
