"""Links: every form in which an export lists ids is read, and links that name no row stop the line."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.document import RowRejected, read_documents
from sovereign_pipeline.corpus.stages import RAW_CORPUS, read_sources
from sovereign_pipeline.corpus.values import linked_ids, normal_id
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.examples import examples

FORMS: dict[str, tuple[Any, list[str]]] = {
    **examples(__file__, "forms"),
    "list with nulls": ([None, "5346", math.nan, Decimal("nan")], ["5346"]),
    "not a number": (math.nan, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_links_is_read(form: str) -> None:
    cell, expected = FORMS[form]
    assert linked_ids(cell) == tuple(expected)


@pytest.mark.parametrize(
    "cell",
    [True, [True], 1.5, [["5346"]], "[[5346]]", [{"id": 1}], '[{"id": 1}]', math.inf, b"5346", {"a": 1}],
    ids=str,
)
def test_what_is_no_list_of_ids_is_refused(cell: Any) -> None:
    with pytest.raises(RowRejected, match="neither a list of ids nor a text"):
        linked_ids(cell)


@pytest.mark.parametrize("cell", [1e20, [1e20], [float(2**53)], "4.669E+19", "[4.669e19]", ["1.2E+11"]], ids=str)
def test_links_that_have_lost_digits_are_refused(cell: Any) -> None:
    with pytest.raises(RowRejected, match="have lost digits"):
        linked_ids(cell)


def test_an_array_that_numpy_has_shortened_is_refused() -> None:
    with pytest.raises(RowRejected, match=r"the links are shortened"):
        linked_ids("[1 2 3 ... 998 999 1000]")


@given(st.lists(st.integers(0, 10**6), max_size=6))
def test_all_forms_of_the_same_ids_are_the_same(numbers: list[int]) -> None:
    expected = tuple(dict.fromkeys(str(number) for number in numbers))
    texts = [str(number) for number in numbers]
    forms: list[Any] = [numbers, texts, [float(number) for number in numbers], json.dumps(numbers), json.dumps(texts)]
    forms += [repr(texts), *(separator.join(texts) for separator in (",", ";", "|", " ", "; "))]
    assert {linked_ids(form) for form in forms} == {expected}


def test_an_id_has_one_spelling() -> None:
    assert [normal_id(text) for text in (" 5346 ", "5346.0", "4669.00", "-7.0", "5346.5", "R-1.0", "٥٣.٠")] == [
        "5346",
        "5346",
        "4669",
        "-7",
        "5346.5",
        "R-1.0",
        "53",
    ]


def test_a_link_to_a_row_that_is_not_selected_or_broken_names_a_row(institution: DemoInstitution) -> None:
    institution.rows[0]["status"] = "open"
    institution.rows[1]["date"] = "yesterday"
    for row in institution.rows:
        row.setdefault("status", "answered")
        row["grouped"] = [institution.rows[0]["id"], institution.rows[1]["id"]]
    institution.recipe["sources"][0] |= {"links": "grouped", "where": {"status": "answered"}}
    institution.recipe["quarantine"] = {"max_share": 0.5, "max_links_without_row": 0}
    institution.write()
    workplace = institution.workplace()
    ref = produce(RAW_CORPUS, workplace, {}).ref
    assert evaluate_gates(RAW_CORPUS, workplace, ref)["links_name_rows"].passed


def tied(institution: DemoInstitution, ids: list[str], links: list[Any]) -> tuple[list[tuple[str, ...]], int, int]:
    """The links of the documents made of rows with these ids and links, and how many name a row, and none."""
    rows = [{**letter(n), "id": id, "grouped": link} for n, (id, link) in enumerate(zip(ids, links, strict=True))]
    institution.rows = rows
    institution.recipe["sources"][0]["links"] = "grouped"
    institution.write()
    workplace = institution.workplace()
    raw = workplace.store.open(produce(RAW_CORPUS, workplace, {}).ref)
    (source,) = read_sources(raw)
    links_of = [document.links for document in read_documents(raw.file("documents.jsonl"))]
    return links_of, source["links"], source["links_without_row"]


def test_ids_and_links_are_compared_as_case_files_are(institution: DemoInstitution) -> None:
    ids = ["PRM-2024-17", "PRM-2024-18", "\u200f19", "020"]
    links, count, lost = tied(institution, ids, ["prm–2024–18", "PRM‑2024‑17", "", "20"])
    assert (links[0], links[1]) == (("prm–2024–18",), ("PRM‑2024‑17",))
    assert (count, lost) == (3, 1), "zeros in front count"


def test_a_slash_divides_ids_where_both_sides_are_ids(institution: DemoInstitution) -> None:
    ids = ["17", "18", "17/2024", "18/2024", "5"]
    links, count, lost = tied(institution, ids, ["18/5", "17 / 5", "18/2024", "17/9", "0"])
    assert links == [("18", "5"), ("17", "5"), ("18/2024",), ("17/9",), ()]
    assert (count, lost) == (6, 1)


def test_zero_is_an_id_where_a_row_has_it(institution: DemoInstitution) -> None:
    assert tied(institution, ["0", "1"], ["", "0"]) == ([(), ("0",)], 1, 0)


def test_a_link_to_the_row_itself_names_no_other_row(institution: DemoInstitution) -> None:
    assert tied(institution, ["1", "2"], ["1", "2;X9"])[1:] == (1, 1)
    assert tied(institution, ["1", "2"], ["1", "2"])[1:] == (0, 0)


def test_an_id_and_a_link_in_another_spelling_get_one_key() -> None:
    """Only ids that hold personal data get a key; links are compared without regard to letter case and dashes."""
    screen = ColumnScreen("replace", lambda value: frozenset({"NAME"}) if value else frozenset(), (), lambda: b"secret")
    assert screen.tied("SALIM\u201317") == screen.tied("salim-17") != screen.tied("salim-18")


def test_a_link_to_the_row_itself_is_told(institution: DemoInstitution) -> None:
    institution.recipe["sources"][0]["links"] = "linked"
    institution.rows = [{**letter(number), "linked": [letter(number)["id"]]} for number in range(4)]
    institution.write()
    workplace = institution.workplace()
    ref = produce(RAW_CORPUS, workplace, {}).ref
    verdict = evaluate_gates(RAW_CORPUS, workplace, ref)["links_name_rows"]
    assert verdict.passed
    assert verdict.message == "no row has a link to another row. 4 links name the row that has it."
    assert read_sources(workplace.store.open(ref))[0]["links_to_itself"] == 4
