"""Who is who within a case file: shorter names join fuller ones only where that is certain."""

import re
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.privacy.names.persons import PersonName, is_arabic, person_name, same_person
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub


def grouped(*texts: str) -> tuple[list[int], list[str]]:
    """For each name the index of the first name of the same person; and the ambiguous ones."""
    parsed = [person_name(text) for text in texts]
    persons, ambiguous = same_person(parsed)
    owners = [persons[name] for name in parsed]
    return [owners.index(owner) for owner in owners], [
        t for t, name in zip(texts, parsed, strict=True) if name in ambiguous
    ]


@pytest.mark.parametrize(("mentions", "owners", "ambiguous"), examples(__file__, "who_is_who"))
def test_who_is_who(mentions: list[str], owners: list[int], ambiguous: list[str]) -> None:
    assert grouped(*mentions) == (owners, ambiguous)


PARTS = st.sampled_from(["said", "ali", "salim", "hamed"])


@given(st.lists(st.builds(lambda g, f, s: f"{g} bin {f} Al {s.title()}i", PARTS, PARTS, PARTS), min_size=1, max_size=6))
def test_fuller_names_never_fall_together_and_spelling_never_parts_them(full: list[str]) -> None:
    respelt = [name.replace("Al ", "al-").upper() for name in full]
    owners, ambiguous = grouped(*full, *respelt)
    assert owners == [[*full, *full].index(name) for name in [*full, *full]]
    assert ambiguous == []


@pytest.mark.parametrize("spellings", examples(__file__, "what_differs_in_writing_alone_is_one_person"))
def test_what_differs_in_writing_alone_is_one_person(spellings: tuple[str, ...]) -> None:
    assert len({person_name(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    "mentions",
    examples(__file__, "one_person_in_two_scripts"),
)
def test_one_person_in_two_scripts(mentions: tuple[str, ...]) -> None:
    for order in permutations(mentions):
        assert grouped(*order) == ([0] * len(mentions), [])


GIVEN_PAIRS = [("said", "سعيد"), ("saud", "سعود"), ("salim", "سالم"), ("saleem", "سليم"), ("hamad", "حمد")]
GIVEN_PAIRS += [("hamed", "حامد"), ("ali", "علي"), ("rashid", "راشد"), ("saeed", "سعيد"), ("omar", "عمر")]
SURNAME_PAIRS = [("Al Busaidi", "البوسعيدي"), ("Al Saidi", "السعيدي"), ("Al Amri", "العامري"), ("Al Amri", "العمري")]
ARABIC_OF = dict(GIVEN_PAIRS)


@st.composite
def mentions(draw: st.DrawFn) -> str:
    script = draw(st.sampled_from([0, 1]))
    given = draw(st.sampled_from(GIVEN_PAIRS))[script]
    father = draw(st.sampled_from(GIVEN_PAIRS))[script]
    surname = draw(st.sampled_from(SURNAME_PAIRS))[script]
    kin = ("bin", "بن")[script]
    return draw(st.sampled_from([f"{given} {kin} {father} {surname}", f"{given} {surname}", surname, given]))


def fullest(name: PersonName) -> bool:
    return name.given is not None and bool(name.fathers) and name.surname is not None


@given(st.lists(mentions(), min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_joining_is_an_equivalence_that_does_not_depend_on_order(texts: list[str], chance: object) -> None:
    names = [person_name(text) for text in texts]
    persons, ambiguous = same_person(names)
    for name in names:  # the person of a person is that person: the classes do not overlap
        assert same_person([*names, persons[name]])[0][persons[name]] == persons[name]
    shuffled = list(names)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again, unsure = same_person(shuffled)
    assert (again, unsure) == (persons, ambiguous)


@given(st.lists(mentions(), min_size=2, max_size=7))
def test_two_full_names_of_one_script_never_fall_together(texts: list[str]) -> None:
    names = [person_name(text) for text in texts]
    persons, _ = same_person(names)
    for one, other in combinations(dict.fromkeys(names), 2):
        if fullest(one) and fullest(other) and persons[one] == persons[other]:
            arabic = {ARABIC_OF.get(each.given or "", each.given) for each in (one, other)}
            assert is_arabic(one.given or "") != is_arabic(other.given or "")
            assert len(arabic) == 1


def test_three_letters_in_two_scripts_are_about_one_person(patterns_only: Scrubber) -> None:
    first = document("Said Al Busaidi asks for a berth.", id="A", date="2024-01-01")
    second = document("أكد السيد سعيد البوسعيدي طلبه.", id="B", date="2024-02-01", language="ar")
    third = document("Mr Al-Busaidi paid. Saud Al Kindi did not.", id="C", date="2024-03-01")
    case = scrub(patterns_only, first, second, third)
    assert [each.request for each in case.documents] == [
        "NAME_1 asks for a berth.",
        "أكد السيد NAME_1 طلبه.",
        "Mr NAME_1 paid. NAME_2 did not.",
    ]
    assert case.findings.ambiguous == []


# (author, letter, reply, words that must be gone)
ONE_PERSON = examples(__file__, "one_person")


@pytest.mark.parametrize(
    ("author", "letter", "reply", "gone"), ONE_PERSON, ids=[str(i) for i in range(len(ONE_PERSON))]
)
def test_one_person_has_one_placeholder(
    patterns_only: Scrubber, author: str, letter: str, reply: str, gone: str
) -> None:
    scrubbed = scrub(patterns_only, document(letter, author=author, response=reply)).documents[0]
    text = "\n".join((scrubbed.author, scrubbed.request, scrubbed.response))
    assert set(re.findall(r"NAME_\d+", text)) == {"NAME_1"}, text
    left = [word for word in gone.split() if re.search(rf"(?<!\w){word}(?!\w)", text, re.IGNORECASE)]
    assert left == [], text


# (author, letter, reply): two persons, whatever their names share.
TWO_PERSONS = examples(__file__, "two_persons")


@pytest.mark.parametrize(("author", "letter", "reply"), TWO_PERSONS)
def test_two_persons_are_never_one(patterns_only: Scrubber, author: str, letter: str, reply: str) -> None:
    scrubbed = scrub(patterns_only, document(letter, author=author, response=reply)).documents[0]
    mine = set(re.findall(r"NAME_\d+", scrubbed.author + scrubbed.request))
    assert not mine & set(re.findall(r"NAME_\d+", scrubbed.response)), scrubbed.response
