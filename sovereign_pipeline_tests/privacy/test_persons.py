"""Who is who within a case file: shorter names join fuller ones only where that is certain."""

from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.privacy.persons import person_name, same_person


def grouped(*texts: str) -> tuple[list[int], list[str]]:
    """For each name the index of the first name of the same person; and the ambiguous ones."""
    parsed = [person_name(text) for text in texts]
    persons, ambiguous = same_person(parsed)
    owners = [persons[name] for name in parsed]
    return [owners.index(owner) for owner in owners], [
        t for t, name in zip(texts, parsed, strict=True) if name in ambiguous
    ]


def test_a_surname_alone_is_the_only_person_of_that_name() -> None:
    assert grouped("Mr Al-Busaidi", "Said Al Busaidi", "said al-busaidi") == ([0, 0, 0], [])


def test_a_fathers_name_may_be_left_out() -> None:
    assert grouped("Hamood bin Rashid Al Araimi", "Hamood Al Araimi", "Hamood") == ([0, 0, 0], [])
    assert grouped("ناصر بن سيف الحبسي", "السيد ناصر الحبسي", "الحبسي")[0] == [0, 0, 0]


def test_two_people_of_one_surname_are_never_guessed() -> None:
    assert grouped("Faisal Al Balushi", "Marwa Al Balushi", "Al Balushi") == ([0, 1, 2], ["Al Balushi"])


def test_fathers_tell_people_apart() -> None:
    owners, ambiguous = grouped("Ali bin Humaid Al Harrasi", "Ali bin Zahir Al Harrasi", "Ali Al Harrasi")
    assert owners == [0, 1, 2]
    assert ambiguous == ["Ali Al Harrasi"]


def test_a_son_is_not_his_father() -> None:
    assert grouped("Khamis Al Ghailani", "Faisal bin Khamis Al Ghailani")[0] == [0, 1]


PARTS = st.sampled_from(["said", "ali", "salim", "hamed"])


@given(st.lists(st.builds(lambda g, f, s: f"{g} bin {f} Al {s.title()}i", PARTS, PARTS, PARTS), min_size=1, max_size=6))
def test_fuller_names_never_fall_together_and_spelling_never_parts_them(full: list[str]) -> None:
    respelt = [name.replace("Al ", "al-").upper() for name in full]
    owners, ambiguous = grouped(*full, *respelt)
    assert owners == [[*full, *full].index(name) for name in [*full, *full]]
    assert ambiguous == []
