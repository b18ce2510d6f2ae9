"""What ties documents together."""

from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.split.grouping import Member, components


def member(id: str, case: str = "", author: str = "", links: tuple[str, ...] = ()) -> Member:
    return Member(id, case, author, links, is_preference=False)


def test_case_link_and_similarity_tie_transitively() -> None:
    members = [
        member("a", case="1"),
        member("b", case="1"),
        member("c", links=("b",)),
        member("d"),
        member("e", case="2"),
    ]
    assert components(members, [(2, 3)], by_author=False) == [0, 0, 0, 0, 4]


def test_a_link_to_a_document_that_is_not_there_ties_those_that_name_it() -> None:
    members = [member("a", links=("gone",)), member("b"), member("c", links=("gone",))]
    assert components(members, [], by_author=False) == [0, 1, 0]


def test_authors_tie_only_where_asked_and_an_unknown_author_never() -> None:
    members = [member("a", author="x"), member("b", author="x"), member("c"), member("d")]
    assert components(members, [], by_author=False) == [0, 1, 2, 3]
    assert components(members, [], by_author=True) == [0, 0, 2, 3]


def test_a_case_named_like_an_id_ties_nothing() -> None:
    assert components([member("a", case="b"), member("b", case="c")], [], by_author=False) == [0, 1]


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_those_of_a_flood(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = case
    found = components([member(str(number)) for number in range(count)], pairs, by_author=False)
    expected = list(range(count))
    for _ in range(count):
        for one, other in pairs:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert found == expected
