"""Links: every form in which an export lists ids is read, and links that name no row stop the line."""

import math
from decimal import Decimal
from typing import Any

import pytest

from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.document import RowRejected, read_documents
from sovereign_pipeline.corpus.stages import RAW_CORPUS, read_sources
from sovereign_pipeline.corpus.values import linked_ids, normal_id
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.corpus.sources import raw_corpus_of
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


NO_LINKS: list[Any] = [True, [True], 1.5, [["5346"]], "[[5346]]", [{"id": 1}], '[{"id": 1}]', math.inf, b"5346"]
LOST: list[Any] = [1e20, [1e20], [float(2**53)], "4.669E+19", "[4.669e19]", ["1.2E+11"]]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([*NO_LINKS, {"a": 1}], "neither a list of ids nor a text"),
        (LOST, "have lost digits"),
        (["[1 2 3 ... 998 999 1000]"], "the links are shortened"),
    ],
)
def test_what_is_no_list_of_whole_ids_is_refused(cells: list[Any], reason: str) -> None:
    for cell in cells:
        with pytest.raises(RowRejected, match=reason):
            linked_ids(cell)


def test_an_id_has_one_spelling() -> None:
    written = (" 5346 ", "5346.0", "4669.00", "-7.0", "5346.5", "R-1.0", "٥٣.٠")
    assert [*map(normal_id, written)] == ["5346", "5346", "4669", "-7", "5346.5", "R-1.0", "53"]


def test_a_link_to_a_row_that_is_not_selected_or_broken_names_a_row(institution: DemoInstitution) -> None:
    institution.rows[0]["status"] = "open"
    institution.rows[1]["date"] = "yesterday"
    for row in institution.rows:
        row.setdefault("status", "answered")
        row["grouped"] = [institution.rows[0]["id"], institution.rows[1]["id"]]
    institution.recipe["sources"][0] |= {"links": "grouped", "where": {"status": "answered"}}
    institution.recipe["quarantine"] = {"max_share": 0.5, "max_links_without_row": 0}
    raw_corpus_of(institution)


def tied(institution: DemoInstitution, ids: list[str], links: list[Any]) -> tuple[list[tuple[str, ...]], int, int]:
    """The links of the documents made of rows with these ids and links, and how many name a row, and none."""
    both = enumerate(zip(ids, links, strict=True))
    institution.rows = [{**letter(n), "id": id, "grouped": link} for n, (id, link) in both]
    institution.recipe["sources"][0]["links"] = "grouped"
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


def test_a_link_to_the_row_itself_names_no_other_row_and_zero_names_a_row_that_has_it(
    institution: DemoInstitution,
) -> None:
    assert tied(institution, ["0", "1"], ["", "0"]) == ([(), ("0",)], 1, 0)
    assert tied(institution, ["1", "2"], ["1", "2;X9"])[1:] == (1, 1)
    assert tied(institution, ["1", "2"], ["1", "2"])[1:] == (0, 0)


def test_an_id_and_a_link_in_another_spelling_get_one_key() -> None:
    """Only ids that hold personal data get a key; links are compared without regard to letter case and dashes."""
    screen = ColumnScreen("replace", lambda value: frozenset({"NAME"}) if value else frozenset(), (), lambda: b"secret")
    assert screen.tied("SALIM\u201317") == screen.tied("salim-17") != screen.tied("salim-18")
