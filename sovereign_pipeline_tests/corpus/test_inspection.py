"""A file that nobody described: what is found in it, and a recipe that reads it, in every form of one export."""

import csv
import datetime
import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sovereign_pipeline.base.errors import RecipeError, SourceError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.inspection import LinkColumn, compared_columns, encoding_of, inspect_file
from sovereign_pipeline.corpus.suggestion import Suggestion, suggest
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import FILL_IN, keys_to_fill_in
from sovereign_pipeline_tests.conftest import LADDER, letter
from sovereign_pipeline_tests.examples import examples

INSTITUTION = Institution(name="Lamps", classification=tuple(LADDER))
ROWS: list[dict[str, Any]] = [
    {
        "Ref": 7_000 + number,
        "Internal key": 1 + number % 5,
        "Answered": f"2024-02-{number % 28 + 1:02d}",
        "Question": f"<p>When will lamp {number} in the café be mended?</p>",
        "Answer": f"It is mended in {number} days; “the café” is told, as ever.",
        "Office": "Lamps",
        "Heading": f"Lamp {number}",
        "Grouped": [7_000 + number - number % 3] if number % 3 else [],
        "Level": "INTERNAL" if number % 2 else "PUBLIC",
    }
    for number in range(60)
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def look(path: Path, **how: Any) -> Suggestion:
    return suggest(inspect_file(path, **how), path, "lamps", INSTITUTION, [], None)


def proposed(path: Path, **how: Any) -> dict[str, Any]:
    """The source that is suggested for a file."""
    source: dict[str, Any] = look(path, **how).recipe["sources"][0]
    return source


def suggested(path: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The source that is suggested for rows of JSON, and its notes."""
    suggestion = look(written(path, rows))
    return suggestion.recipe["sources"][0], "\n".join(suggestion.notes)


def reader_of(path: Path, described: dict[str, Any]) -> SourceReader:
    return SourceReader(Source.model_validate(described), path, Quarantine(), INSTITUTION.ladder, set())


def outcome_of(path: Path, described: dict[str, Any]) -> list[bool]:
    """Whether each row becomes a document."""
    return [isinstance(each, Document) for each in reader_of(path, described)]


Cell = Callable[[list[int]], Any]


def table(path: Path, links: Cell, encoding: str = "utf-8", delimiter: str = ",") -> None:
    rows = [{**row, "Grouped": links(row["Grouped"])} for row in ROWS]
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, [*ROWS[0]], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def joined(separator: str) -> Cell:
    return lambda ids: separator.join(map(str, ids))


def lines(path: Path, opened: Callable[..., Any] = open) -> None:
    with opened(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def array(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def first_as_fraction(ids: list[int]) -> float | None:
    return float(ids[0]) if ids else None


def parquet(path: Path, links: Cell) -> None:
    rows = [{**row, "Grouped": links(row["Grouped"])} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


FORMS: dict[str, tuple[str, Callable[[Path], None], dict[str, str]]] = {
    "JSONL": ("a.jsonl", lines, {}),
    "JSONL, gzipped": ("a.jsonl.gz", lambda path: lines(path, gzip.open), {}),
    "JSON": ("a.json", array, {}),
    "CSV, links as JSON": ("a.csv", lambda path: table(path, json.dumps), {}),
    "CSV, links with bars": ("a.csv", lambda path: table(path, joined("|")), {}),
    "CSV, links with spaces": ("a.csv", lambda path: table(path, joined(" ")), {}),
    "CSV, links as fractions": ("a.csv", lambda path: table(path, first_as_fraction), {}),
    "CSV with semicolons": ("a.csv", lambda path: table(path, joined(","), delimiter=";"), {"delimiter": ";"}),
    "CSV with a mark": ("a.csv", lambda path: table(path, joined(";"), "utf-8-sig"), {}),
    "CSV in cp1252": ("a.csv", lambda path: table(path, joined(";"), "cp1252"), {"encoding": "cp1252"}),
    "TSV in UTF-16": ("a.tsv", lambda path: table(path, joined(","), "utf-16", "\t"), {"encoding": "utf-16"}),
    "Parquet": ("a.parquet", lambda path: parquet(path, lambda ids: ids), {}),
    "Parquet, links as fractions": ("a.parquet", lambda path: parquet(path, first_as_fraction), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_suggested_recipe_reads_every_row_and_keeps_its_links(tmp_path: Path, form: str) -> None:
    name, write, named = FORMS[form]
    path = tmp_path / name
    write(path)
    facts = inspect_file(path)
    assert facts.rows == len(ROWS) and not facts.broken
    recipe = suggest(
        facts, path, "lamps", INSTITUTION, [Path("suites/own.jsonl")], Path("red_team/prompts.jsonl")
    ).recipe
    described = recipe["sources"][0]
    assert {key: described[key] for key in ("encoding", "delimiter") if key in described} == named
    source = Source.model_validate(described)
    assert source.columns == {
        "id": "Ref",
        "classification": "Level",
        "request": "Question",
        "response": "Answer",
        "subject": "Heading",
        "date": "Answered",
        "department": "Office",
    }
    assert (source.links, source.markup, source.language_from_text) == ("Grouped", "html", True)
    documents = list(SourceReader(source, path, Quarantine(), INSTITUTION.ladder, set()))
    assert all(isinstance(document, Document) for document in documents)
    for row, document in zip(ROWS, documents, strict=True):
        assert isinstance(document, Document)
        assert (document.id, document.response, document.classification) == (
            str(row["Ref"]),
            row["Answer"],
            row["Level"],
        )
        assert document.request == str(row["Question"])[3:-4]
        assert document.links == tuple(map(str, row["Grouped"]))


def link_columns(path: Path) -> list[LinkColumn]:
    """The columns that surely hold links."""
    return [each for each in compared_columns(inspect_file(path)) if each.doubt is None]


@pytest.mark.parametrize(
    ("row", "count", "expected"),
    [
        (lambda n: {"no": n, "count": n % 5, "other": n % 2 * 40}, 60, [("count", "no", 60, 60)]),
        # Every row has other ones, so that the column has as many different values as rows, like one of ids.
        (lambda n: {"no": n, "grouped": [str(n ^ 1), str(n ^ 2)]}, 8, [("grouped", "no", 16, 16)]),
        (lambda n: {"no": n, "line": n + 1}, 60, []),
        (lambda n: {**letter(n), "id": f"PRM–{n}", "linked": f"prm-{n ^ 1}"}, 20, [("linked", "id", 20, 20)]),
    ],
    ids=["ids by chance", "other links in every row", "two columns of ids", "another spelling of ids"],
)
def test_columns_of_links_are_told_from_others(
    tmp_path: Path, row: Callable[[int], dict[str, Any]], count: int, expected: list[Any]
) -> None:
    found = link_columns(written(tmp_path / "a.jsonl", [row(number) for number in range(count)]))
    assert [(each.column, each.ids, each.links, each.matched) for each in found] == expected


def test_an_arabic_export_of_windows_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "الرقم": f"م-{number}",
            "التاريخ": f"2024-01-{number % 28 + 1:02d}",
            "الرسالة": f"السلام عليكم، أرجو إفادتي عن المصباح رقم {number} في السوق القديم",
            "الرد": f"وعليكم السلام، نفيدكم بأن المصباح رقم {number} يعمل الآن",
        }
        for number in range(40)
    ]
    with (tmp_path / "a.csv").open("w", encoding="cp1256", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    facts = inspect_file(tmp_path / "a.csv")
    assert (facts.encoding, facts.delimiter) == ("cp1256", ";")
    source = proposed(tmp_path / "a.csv")
    assert source["columns"] == {"id": "الرقم", "request": "الرسالة", "response": "الرد", "date": "التاريخ"}
    assert (source["language_from_text"], source["classification_floor"]) == (True, LADDER[-1])
    documents = list(reader_of(tmp_path / "a.csv", source))
    assert [(each.request, each.language) for each in documents if isinstance(each, Document)] == [
        (row["الرسالة"], "ar") for row in rows
    ]


def test_what_is_not_known_is_left_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 1}\n')
    suggestion = look(tmp_path / "a.jsonl")
    source = suggestion.recipe["sources"][0]
    assert source["id_from_row"] and source["case_from_row"] and FILL_IN in source["constants"]["date"]
    assert {note.split(":")[0] for note in suggestion.notes} >= {"request", "response", "date", "classification"}


@pytest.mark.security_case(
    "A JSON row's level is null, other rows have one, and the source has a low floor",
    "the row is quarantined",
)
def test_a_level_that_is_null_is_not_the_constant(tmp_path: Path) -> None:
    rows = [{**letter(number), "classification": None if number == 1 else "INTERNAL"} for number in range(4)]
    written(tmp_path / "a.jsonl", rows)
    source = Source(
        name="a", path=tmp_path / "a.jsonl", constants={"classification": "PUBLIC"}, licence="own", retention="1 y"
    )
    found = list(SourceReader(source, tmp_path / "a.jsonl", Quarantine(), INSTITUTION.ladder, set()))
    assert [isinstance(each, Document) for each in found] == [True, False, True, True]


def test_a_time_zone_that_python_lacks_is_a_broken_row(tmp_path: Path) -> None:
    times = pyarrow.array([0, 1], pyarrow.timestamp("s", tz="Foo/Bar"))
    pyarrow.parquet.write_table(pyarrow.table({"at": times, "x": [1, 2]}), tmp_path / "a.parquet")
    facts = inspect_file(tmp_path / "a.parquet")
    assert facts.rows == 2 and facts.broken.total() == 2


def replies(number: int = 100) -> list[dict[str, Any]]:
    """Letters of which every other one names the one before."""
    rows = [letter(each, id=str(4_669 + each), linked=[]) for each in range(number)]
    for each in range(1, number, 2):
        rows[each]["linked"] = [rows[each - 1]["id"]]
    return rows


@pytest.mark.parametrize("id", ["4669", ""])
def test_one_id_that_is_none_takes_neither_ids_nor_links_away(tmp_path: Path, id: str) -> None:
    rows = replies()
    rows[2]["id"] = id
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["links"] == "linked" and "id_from_row" not in source and "id" not in source["columns"]
    assert "id: 1 row of 100 with" in notes and "49 of 50 ids in 'linked' match a row by 'id', 1 match none." in notes


def test_a_column_of_ids_that_repeats_many_is_told(tmp_path: Path) -> None:
    rows = [{**row, "id": str(number % 50)} for number, row in enumerate(replies())]
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert "id_from_row" not in source and "50 of 100 rows repeat an id of 'id'" in notes
    renamed = [{"ref" if name == "id" else name: value for name, value in row.items()} for row in rows]
    source, notes = suggested(tmp_path / "b.jsonl", renamed)
    assert source["id_from_row"] and "'ref' is not used: 50 of 100 rows" in notes


def test_one_long_cell_keeps_the_links_of_the_others(tmp_path: Path) -> None:
    rows = replies()
    for row in rows:
        row["linked"] = ";".join(row["linked"])
    rows[98]["linked"] = ";".join(row["id"] for row in rows[:90])
    rows[96]["linked"] = "withdrawn, see the file " * 40
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["links"] == "linked" and "140 of 140 ids" in notes


def test_pairs_in_which_every_row_names_the_other_are_links(tmp_path: Path) -> None:
    rows = [{**row, "linked": [str(4_669 + (number ^ 1))]} for number, row in enumerate(replies())]
    assert suggested(tmp_path / "a.jsonl", rows)[0]["links"] == "linked"
    as_text = [{**row, "linked": row["linked"][0]} for row in rows]
    assert suggested(tmp_path / "a.jsonl", as_text)[0]["links"] == "linked"
    few = [{**row, "linked": str(4_669 + number % 3)} for number, row in enumerate(rows)]
    assert suggested(tmp_path / "a.jsonl", few)[0]["links"] == "linked"
    unnamed = [{("other" if name == "linked" else name): value for name, value in row.items()} for row in as_text]
    source, notes = suggested(tmp_path / "a.jsonl", unnamed)
    assert "links" not in source and "100 of 100 ids in 'other'" in notes and "as in an id column" in notes


def test_links_of_which_fewer_than_half_match_are_told(tmp_path: Path) -> None:
    rows = replies()
    for row in rows[20:]:
        row["linked"] = ["9" + id for id in row["linked"]]
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert "links" not in source and "10 of 50 ids in 'linked' match a row by 'id', 40 match none." in notes


def test_links_as_decimals_of_parquet_are_links(tmp_path: Path) -> None:
    rows = [{**row, "linked": [Decimal(id) for id in row["linked"]]} for row in replies()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (found,) = link_columns(tmp_path / "a.parquet")
    assert (found.column, found.links, found.matched) == ("linked", 50, 50)


@pytest.mark.parametrize("wrong", [1, 10, 18])
def test_a_mixture_of_encodings_is_told_and_read_as_utf8(tmp_path: Path, wrong: int) -> None:
    rows = [{**letter(number), "subject": f"café – {number}"} for number in range(30)]
    written = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_bytes(
        b"".join(line.encode("utf-8" if number < 30 - wrong else "cp1252") for number, line in enumerate(written))
    )
    facts = inspect_file(tmp_path / "a.jsonl")
    assert facts.encoding is None and facts.broken == {"not UTF-8": wrong}
    assert facts.broken_rows["not UTF-8"][0] == 31 - wrong
    suggestion = look(tmp_path / "a.jsonl")
    assert "encoding" not in suggestion.recipe["sources"][0]
    assert f"encoding: a mixture; {wrong} of 30 rows" in "\n".join(suggestion.notes)


def test_one_tag_is_no_reason_to_delete_what_stands_in_angle_brackets(tmp_path: Path) -> None:
    rows = replies()
    for row in rows:
        row["request"] += " From <lamps@example.org>: x<y and y>z"
    rows[5]["request"] += " <b>urgent</b>"
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert "markup" not in source and "markup: 1 of 100 values of 'request' have HTML tags" in notes
    assert "100 have `<` before text that is no tag" in notes


ONE_TO_A_HUNDRED = [*enumerate(replies())]
FORMATS = {
    "%d.%m.%Y": "dd.mm.yyyy",
    "%d/%m/%Y": "dd/mm/yyyy",
    "%m/%d/%Y": "mm/dd/yyyy",
    "%m-%d-%Y": "mm-dd-yyyy",
    "%d-%b-%Y": "dd mmm yyyy",
    "%d %B %Y": "dd mmm yyyy",
    "%B %d, %Y": "mmm dd yyyy",
    "%a, %d %b %Y %H:%M:%S +0000": "dd mmm yyyy",
    "%m/%d/%Y %I:%M %p": "mm/dd/yyyy",
    "%Y/%m/%d": "yyyy/mm/dd",
    "%d.%m.%Y, %H:%M": "dd.mm.yyyy",
}
"""How a day is written -> the format that the recipe gets."""


def csv_file(path: Path, rows: list[dict[str, Any]], above: str = "") -> Path:
    with path.open("w", newline="") as stream:
        stream.write(above)
        writer = csv.DictWriter(stream, [*rows[0]])
        writer.writeheader()
        writer.writerows(row | ({"linked": ";".join(row["linked"])} if "linked" in row else {}) for row in rows)
    return path


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("date", ["in spring"], "date: the column 'date' does not have a date"),
        ("classification", [f"see file {n}" for n in range(20)], "classification: 100 of 100 rows have words in"),
    ],
)
def test_a_constant_is_not_proposed_beside_a_column_that_wins(
    tmp_path: Path, field: str, values: list[str], said: str
) -> None:
    rows = [{**row, field: values[number % len(values)]} for number, row in enumerate(replies())]
    path = csv_file(tmp_path / "a.csv", rows)
    suggestion = look(path)
    source = suggestion.recipe["sources"][0]
    assert field not in source["constants"] and "classification_floor" not in source
    (note,) = [each for each in suggestion.notes if each.startswith(f"{field}:")]
    assert note.startswith(said) and "quarantine" in note and "rename" in note
    assert not any(outcome_of(path, source))


@pytest.mark.parametrize(("written", "format"), [*FORMATS.items()])
def test_the_format_of_dates_is_found_and_read(tmp_path: Path, written: str, format: str) -> None:
    days = [datetime.date.fromisoformat(row["date"]).replace(day=1 + number % 28) for number, row in ONE_TO_A_HUNDRED]
    rows = [{**row, "date": day.strftime(written)} for (_, row), day in zip(ONE_TO_A_HUNDRED, days, strict=True)]
    path = csv_file(tmp_path / "a.csv", rows)
    source = proposed(path)
    assert source["date"] == {"format": format}
    reader = reader_of(path, source)
    assert [each.date for each in reader if isinstance(each, Document)] == [day.isoformat() for day in days]


@pytest.mark.parametrize(
    ("dates", "format"),
    [
        (["13.2.2024", "2024-03-01", "2024-04-01"], {"format": "dd.mm.yyyy"}),
        (["13.2.2024", "5 June 2024"], {"format": ["dd.mm.yyyy", "dd mmm yyyy"]}),
        (["20240301", "20240402"], None),
    ],
    ids=["ISO dates among others", "two formats", "days without dashes"],
)
def test_dates_of_several_forms_are_read(tmp_path: Path, dates: list[str], format: Any) -> None:
    rows = [{**row, "date": dates[number % len(dates)]} for number, row in ONE_TO_A_HUNDRED]
    path = csv_file(tmp_path / "a.csv", rows)
    source = proposed(path)
    assert source.get("date") == format and "date" not in source["constants"] and all(outcome_of(path, source))


def test_dates_that_no_row_decides_are_asked_about(tmp_path: Path) -> None:
    rows = [{**row, "date": f"0{1 + number % 9}/0{1 + number % 7}/2024"} for number, row in ONE_TO_A_HUNDRED]
    path = csv_file(tmp_path / "a.csv", rows)
    suggestion = look(path)
    assert suggestion.recipe["sources"][0]["date"] == {"format": f"{FILL_IN}: dd/mm/yyyy or mm/dd/yyyy"}
    assert "date: 'date' may be dd/mm/yyyy or mm/dd/yyyy. Which format is correct?" in suggestion.notes


@pytest.mark.security_case(
    "A level column contains a person's name in one or two rows, and `sources look` suggests a recipe",
    "only words in at least three rows are shown",
)
def test_rare_words_of_a_column_of_levels_are_only_counted(tmp_path: Path) -> None:
    rows = [{**row, "classification": "Restreint"} for _, row in ONE_TO_A_HUNDRED]
    rows[7]["classification"] = rows[8]["classification"] = "Salim Harthi"
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert [*source["levels"]] == ["Restreint"] and "Salim" not in notes
    assert "levels: 1 word of 'classification' with fewer than 3 rows each are not shown" in notes
    source, notes = suggested(tmp_path / "a.jsonl", rows[7:9])
    assert "levels" not in source and "Salim" not in notes


@pytest.mark.parametrize("name", ["date", "Received"])
def test_hijri_years_are_named_in_a_note(tmp_path: Path, name: str) -> None:
    rows = [{**row, name: f"{1 + number % 28}/11/1445"} for number, row in ONE_TO_A_HUNDRED]
    for row in rows if name != "date" else ():
        del row["date"]
    _, notes = suggested(tmp_path / "a.jsonl", rows)
    assert f"date: '{name}' has years of the Hijri calendar, such as 1445" in notes


def test_words_for_levels_are_written_into_the_recipe(tmp_path: Path) -> None:
    words = ["Public", "Internal", "سري", "Restreint"]
    spellings = [*words, "public", "internal", "سرى", "RESTREINT"]
    rows = [{**row, "classification": spellings[number % 8]} for number, row in ONE_TO_A_HUNDRED]
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    choice = f"{FILL_IN}: {', '.join(LADDER)}"
    assert source["levels"] == {"Public": LADDER[0], "Internal": LADDER[1], "سري": choice, "Restreint": choice}
    assert "classification_floor" not in source and "سري (25), Restreint (25)" in notes


def test_states_are_asked_about_and_columns_that_are_not_read_are_listed(tmp_path: Path) -> None:
    rows = [
        {**row, "status": "draft" if number < 40 else "final", "Pages": number % 3, "desk note": "x"}
        for number, row in enumerate(replies(1_000))
    ]
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["where"] == {"status": f"{FILL_IN}: final 960, draft 40"}
    assert "column 'status' has final 960, draft 40; which of these states should be used?" in notes
    assert "not read: 2 of 14 columns. Its columns: Pages, desk note." in notes
    read = Source.model_validate({**source, "where": {"status": ["final", "sent"]}})
    reader = SourceReader(read, tmp_path / "a.jsonl", Quarantine(), INSTITUTION.ladder, set())
    assert len(list(reader)) == 960 and reader.count.not_selected == 40


def exchange(number: int, turns: int = 1) -> list[dict[str, str]]:
    said = [("user", f"Is lamp {number} out?"), ("assistant", f"Lamp {number} is out.")] * turns
    return [{"role": role, "content": text} for role, text in said]


def chatgpt(number: int, turns: int = 1) -> dict[str, Any]:
    """A conversation as ChatGPT exports it: a tree of messages, with one of the system and one of a tool."""
    system = {"role": "system", "content": "You are helpful."}
    tool = {"role": "tool", "content": "search results"}
    nodes: dict[str, Any] = {"n0": {"message": None, "parent": None, "children": ["n1"]}}
    for place, turn in enumerate([system, *exchange(number, turns)[:1], tool, *exchange(number, turns)[1:]], start=1):
        content = {"content_type": "text", "parts": [turn["content"]]}
        message = {"author": {"role": turn["role"]}, "content": content, "recipient": "all"}
        nodes[f"n{place}"] = {"message": message, "parent": f"n{place - 1}", "children": [f"n{place + 1}"]}
    nodes[f"n{place}"]["children"] = []
    start = 1_714_000_000.25 + 86_400 * number
    about = {"title": f"Lamp {number}", "create_time": start, "conversation_id": f"c-{number}"}
    return {**about, "mapping": nodes, "current_node": f"n{place}"}


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("sharegpt", lambda number, turns: {"messages": exchange(number, turns)}),
        (
            "sharegpt",
            lambda number, turns: {
                "conversations": [
                    {"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]}
                    for each in exchange(number, turns)
                ]
            },
        ),
        ("chatgpt", chatgpt),
        ("alpaca", lambda number, turns: {"instruction": f"Is lamp {number} out?", "output": f"Lamp {number} is out."}),
    ],
)
def test_layouts_are_recognised_and_rows_of_several_turns_are_counted(
    tmp_path: Path, layout: str, row: Callable[[int, int], dict[str, Any]]
) -> None:
    rows = [row(number, 3 if number < 4 else 1) for number in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    facts = inspect_file(tmp_path / "a.json")
    suggestion = look(tmp_path / "a.json")
    source = suggestion.recipe["sources"][0]
    assert source["layout"] == layout and "request" not in source["columns"]
    if layout != "alpaca":
        assert (facts.turns[1], facts.turns[3]) == (26, 4)
        assert any("4 rows have more turns, up to 3 requests" in note for note in suggestion.notes)
    if layout == "chatgpt":
        assert source["date"] == {"format": "unix"} and source["columns"]["date"] == "create_time"
    else:
        source["constants"]["date"] = "2024-05-01"
    documents = list(reader_of(tmp_path / "a.json", source))
    assert [each.response for each in documents if isinstance(each, Document)] == [
        f"Lamp {number} is out." for number in range(30)
    ]
    assert isinstance(documents[9], Document) and documents[9].request == "Is lamp 9 out?"


@pytest.mark.parametrize("above", ["# exported in May\n", "Letters of the year\n"])
def test_lines_above_the_header_are_named(tmp_path: Path, above: str) -> None:
    path = csv_file(tmp_path / "a.csv", replies(), above)
    with pytest.raises(SourceError, match="its first line is a comment or a title"):
        inspect_file(path)
    with pytest.raises(SourceError, match="Its first line is a comment or a title"):
        outcome_of(path, {"name": "a", "path": path, "licence": "own", "retention": "1 y"})


@pytest.mark.security_case(
    "A table has no header, so that its first row would be shown as column names",
    "neither a run nor `sources look` quotes a cell",
)
def test_a_first_line_that_may_be_a_row_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("L1,F-1,lamps,Salim Harthi,3 May,PUBLIC,en,Lamp,The lamp is out,It is mended\n" * 9)
    with pytest.raises(SourceError, match="10 cells and no known column name") as look:
        inspect_file(path)
    with pytest.raises(SourceError, match="10 cells and no known column name") as run:
        outcome_of(path, {"name": "a", "path": path, "licence": "own", "retention": "1 y"})
    for said in (str(look.value), str(run.value)):
        assert "Salim" not in said and "The lamp" not in said


def test_empty_cells_are_told_with_what_becomes_of_their_rows(tmp_path: Path) -> None:
    rows = [letter(number) for number in range(20)]
    for row in rows[:3]:
        row["author"] = ""
    rows[4]["department"] = None
    rows[5]["subject"] = " "
    path = written(tmp_path / "a.jsonl", rows)
    notes = look(path).notes
    assert (
        "author: 3 rows of 20 with no value in 'author': read without it, or quarantined with `split.by_author`."
        in (notes)
    )
    assert "department: 1 row of 20 with no value in 'department': read without it." in notes
    assert "subject: 1 row of 20 with no value in 'subject': quarantined." in notes
    assert not [note for note in notes if note.startswith(("request:", "date:", "case:"))]


def test_the_language_of_rows_without_one_is_found_by_their_text(tmp_path: Path) -> None:
    rows = [letter(number) for number in range(20)]
    for row in rows[:3]:
        row["language"] = ""
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["language_from_text"] is True and all(outcome_of(tmp_path / "a.jsonl", source))
    assert "language: 3 rows of 20 with no value in 'language'; the language is detected from the row's text." in notes
    for row in rows:
        row["language"] = ""
    assert suggested(tmp_path / "a.jsonl", rows)[0]["language_from_text"] is True


def test_bytes_that_are_not_of_the_encoding_end_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("{}\n".encode("utf-16")[:-1])
    source = Source(name="a", path=tmp_path / "a.jsonl", encoding="utf-16", licence="own", retention="1 y")
    with pytest.raises(SourceError, match=r"a\.jsonl: not valid utf-16 within the bytes"):
        list(SourceReader(source, tmp_path / "a.jsonl", Quarantine(), INSTITUTION.ladder, set()))


@pytest.mark.parametrize("encoding", ["hex", "none", "unicode_escape", "utf-7", "x" * 300, "a\0b"])
def test_what_is_no_encoding_of_files_is_refused_in_a_recipe(encoding: str) -> None:
    with pytest.raises((ValueError, RecipeError), match="not an encoding"):
        Source(name="a", path=Path("a.csv"), encoding=encoding, licence="own", retention="1 y")


def test_one_long_line_is_read_in_blocks(tmp_path: Path) -> None:
    """A byte that is no UTF-8 among many characters that are does not make the file another encoding."""
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"a": "é" * 900_000}, ensure_ascii=False).encode() + b"\n\xff")
    assert encoding_of(tmp_path / "a.jsonl") is None


def pair(number: int, names: tuple[str, str], is_plain: bool = False) -> dict[str, str]:
    """A letter and its reply, which is the shorter one. Plain texts have neither a salutation nor a signature."""
    texts = letter(number)
    request = f"Dear Sir, {texts['request']} My mother and I have waited for {number} weeks. Yours, Lamp {number * 7}"
    reply = f"Dear reader, thank you for your letter. {texts['response']} Yours sincerely, Lamp Section"
    if is_plain:
        request, reply = f"{texts['request']} I have waited for {number} weeks.", texts["response"]
    return {"Ref": f"R-{number}", **dict(zip(names, (request, reply), strict=True))}


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(("request_name", "response_name", "is_told"), examples(__file__, "sides"))
def test_the_sides_of_letters_are_told_by_names_and_texts_and_never_by_length(
    tmp_path: Path, request_name: str, response_name: str, is_told: bool, is_reversed: bool
) -> None:
    names = (request_name, response_name)
    rows = [pair(number, names, is_plain=not is_told) for number in range(40)]
    if is_reversed:
        rows = [dict(reversed(row.items())) for row in rows]
    path = written(tmp_path / "a.jsonl", rows)
    suggestion = look(path)
    columns = suggestion.recipe["sources"][0]["columns"]
    if is_told:
        assert (columns["request"], columns["response"]) == names
        assert any("with a salutation" in note for note in suggestion.notes)
    else:
        assert columns["request"].startswith(FILL_IN) and request_name in columns["request"]
        assert "sources.0.columns.request" in keys_to_fill_in(Line.model_validate(suggestion.recipe))


def column_of(field: str, source: dict[str, Any]) -> str | None:
    if field == "status":
        return next(iter(source.get("where", {})), None)
    found: str | None = source["columns"].get(field)
    return found


VALUES: dict[str, Callable[[int], str]] = {
    "case": lambda number: f"C-{100 + number // 2}",
    "date": lambda number: f"{1 + number % 28:02d}.03.2024",
    "author": lambda number: ("M. Lopez", "A. Said", "K. Nair")[number % 3],
    "department": lambda number: ("Lamps", "Harbour")[number % 2],
    "classification": lambda number: ("PUBLIC", "سري")[number % 2],
    "status": lambda number: ("draft", "final")[number % 2],
    "language": lambda number: "en",
}


@pytest.mark.parametrize(("field", "name"), examples(__file__, "columns"))
def test_columns_are_told_by_words_in_their_names(tmp_path: Path, field: str, name: str) -> None:
    rows = [{**pair(number, ("Question", "Answer")), name: VALUES[field](number)} for number in range(40)]
    source, _ = suggested(tmp_path / "a.jsonl", rows)
    assert column_of(field, source) == name


@pytest.mark.parametrize("name", examples(__file__, "not_cases"))
def test_a_word_that_belongs_to_another_word_is_no_case(tmp_path: Path, name: str) -> None:
    rows = [{**pair(number, ("Question", "Answer")), name: f"letter {number % 3}"} for number in range(40)]
    source, _ = suggested(tmp_path / "a.jsonl", rows)
    assert source["case_from_row"] and "case" not in source["columns"]


def test_codes_that_repeat_are_asked_about_as_case_files(tmp_path: Path) -> None:
    rows = [
        {**pair(number, ("Question", "Answer")), "Vorgang": f"C-{100 + number // 2}", "Pages": number % 4, "Fee": 1.5}
        for number in range(40)
    ]
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert "case_from_row" not in source and source["columns"]["case"].startswith(f"{FILL_IN}: 'Vorgang'")
    assert "20 values in 40 rows" in notes and "may 'Pages'" not in notes and "may 'Fee'" not in notes


def test_a_header_in_an_unknown_language_is_read_once_a_person_says_that_it_is_one(tmp_path: Path) -> None:
    rows = [pair(number, ("Anfrage", "Antwort")) for number in range(40)]
    path = csv_file(tmp_path / "a.csv", [{"Vorgang": row.pop("Ref"), **row} for row in rows])
    with pytest.raises(SourceError, match="3 cells and no known column name") as refused:
        inspect_file(path)
    assert "--header" in str(refused.value.hint)
    source = proposed(path, has_header=True)
    assert source["columns"] == {"response": "Antwort", "request": "Anfrage", "id": "Vorgang"}
    source["constants"]["date"] = "2024-05-01"
    source["constants"]["subject"] = "Lamps"
    assert all(outcome_of(path, source))


def test_dates_with_day_and_month_in_both_orders_are_named(tmp_path: Path) -> None:
    rows = [{**row, "date": ("25/12/2024", "12/25/2024", "03/04/2024")[number % 3]} for number, row in ONE_TO_A_HUNDRED]
    for row in rows:
        row["Received"] = row.pop("date")
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["columns"]["date"] == f"{FILL_IN}: Received" and "mixes day before month" in notes


def test_dates_in_no_format_of_their_column_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "date": "soon" if number < 2 else "25/12/2024"} for number, row in ONE_TO_A_HUNDRED]
    assert "date: 2 rows without a date in 'date': quarantined." in suggested(tmp_path / "a.jsonl", rows)[1]


def test_roles_calls_and_tools_are_counted(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You draft replies."}
    call = {"id": "a", "type": "function", "function": {"name": "burns", "arguments": '{"lamp": 5}'}}
    rows: list[dict[str, Any]] = []
    for number in range(30):
        user, reply = exchange(number)
        calls = [{"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "b"}]}]
        results = [{"role": "tool", "tool_call_id": id, "content": "no"} for id in "ba"]
        between = [*calls, *results] if number < 4 else []
        rows.append({"messages": [*([system] if number < 5 else []), user, *between, reply]})
        rows[-1] |= {"tools": [{"type": "function", "function": {"name": "burns"}}]} if number < 6 else {}
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert source["layout"] == "sharegpt"
    assert "Turns: 34 of assistant, 30 of user, 8 of tool, 5 of system, and 8 calls of tools." in notes
    assert "6 rows have tools." in notes
    path = tmp_path / "a.jsonl"
    suggestion = look(path)
    assert suggestion.recipe["training"]["base_model"] == "smollm2-135m-tools"
