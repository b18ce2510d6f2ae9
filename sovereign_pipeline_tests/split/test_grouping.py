"""What ties documents together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.grouping import Ties, components, key_of, matters_of

NO_PAIRS = np.empty((0, 2), np.int64)


def ties(*keys_of_rows: tuple[str, ...]) -> Ties:
    """The keys of row 0, of row 1, …"""
    tied = [(row, key_of(key)) for row, keys in enumerate(keys_of_rows) for key in keys]
    return Ties(np.array([row for row, _ in tied], np.int64), np.array([key for _, key in tied], np.uint64))


def test_ties_of_every_kind_and_similarity_tie_transitively() -> None:
    cases = ties(("1",), ("1",), (), (), ("2",))
    links = ties(("a",), ("b",), ("c", "b"), ("d",), ("e",))
    assert components(5, [cases, links], [np.array([[2, 3]])]).tolist() == [0, 0, 0, 0, 4]


def test_the_kinds_are_apart() -> None:
    assert components(2, [ties(("x",), ()), ties((), ("x",))], []).tolist() == [0, 1]


def test_a_document_carries_its_own_id_and_those_it_links_to() -> None:
    document = Document(
        id="a", source="", case="", department="", author="", date="2024-01-01", classification="", language="",
        subject="", request="", response="", links=("gone", "b"),
    )  # fmt: skip
    assert matters_of(document) == ("a", "gone", "b")
    other = document.model_copy(update={"id": "PRM\u2013017", "links": ("\u0661\u0668",)})
    assert matters_of(other) == ("prm-017", "18"), "ids and links are compared as case files are"


def test_a_link_to_a_document_that_is_not_there_ties_those_that_name_it() -> None:
    assert components(3, [ties(("a", "gone"), ("b",), ("c", "gone"))], []).tolist() == [0, 1, 0]


def test_the_keys_of_one_side() -> None:
    is_held_out = np.array([True, False, True])
    assert ties(("a", "b"), ("c",), ("d",)).on(is_held_out).tolist() == [key_of(each) for each in "abd"]


def test_documents_that_nothing_ties_stay_apart() -> None:
    assert components(3, [], [NO_PAIRS]).tolist() == [0, 1, 2]


numbers = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)),
        st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=2), min_size=n, max_size=n),
    )
)


@given(numbers)
def test_components_are_those_of_a_flood(case: tuple[int, list[tuple[int, int]], list[list[str]]]) -> None:
    count, pairs, keys = case
    found = components(count, [ties(*map(tuple, keys))], [NO_PAIRS, np.array(pairs, np.int64).reshape(-1, 2)])
    expected = list(range(count))
    edges = pairs + [(i, j) for i in range(count) for j in range(i) if set(keys[i]) & set(keys[j])]
    for _ in range(count):
        for one, other in edges:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert found.tolist() == expected
