"""A file that nobody described: what is found in it, and a recipe that reads it, in every form of one export."""

import csv
import json
from collections.abc import Callable
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
from sovereign_pipeline_tests.corpus import sources
from sovereign_pipeline_tests.examples import examples

Row = dict[str, Any]
INSTITUTION = Institution(name="Lamps", classification=tuple(LADDER))
ROWS: list[Row] = [
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


def written(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def look(path: Path, **how: Any) -> Suggestion:
    return suggest(inspect_file(path, **how), path, "lamps", INSTITUTION, [], None)


def proposed(path: Path, **how: Any) -> dict[str, Any]:
    """The source that is suggested for a file."""
    source: dict[str, Any] = look(path, **how).recipe["sources"][0]
    return source


def suggested(path: Path, rows: list[Row]) -> tuple[dict[str, Any], str]:
    """The source that is suggested for rows of JSON, and its notes."""
    suggestion = look(written(path, rows))
    return suggestion.recipe["sources"][0], "\n".join(suggestion.notes)


def reader_of(path: Path, described: dict[str, Any]) -> SourceReader:
    return SourceReader(Source.model_validate(described), path, Quarantine(), INSTITUTION.ladder, set())


def outcome_of(path: Path, described: dict[str, Any]) -> list[bool]:
    """Whether each row becomes a document."""
    return [isinstance(each, Document) for each in reader_of(path, described)]


def csv_file(path: Path, rows: list[Row], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]], delimiter="\t" if path.suffix == ".tsv" else delimiter)
        writer.writeheader()
        writer.writerows(row | ({"linked": ";".join(row["linked"])} if "linked" in row else {}) for row in rows)
    return path


def separated(separator: str) -> Callable[[list[int]], str]:
    return lambda ids: separator.join(map(str, ids))


def fraction(ids: list[int]) -> float | None:
    return float(ids[0]) if ids else None


FORMS: dict[str, tuple[str, Callable[[list[int]], Any], dict[str, str]]] = {
    "JSONL, gzipped": ("a.jsonl.gz", list, {}),
    "JSON": ("a.json", list, {}),
    "CSV, links as JSON": ("a.csv", json.dumps, {}),
    "CSV, links with spaces": ("a.csv", separated(" "), {}),
    "CSV with semicolons, links as fractions": ("a.csv", fraction, {"delimiter": ";"}),
    "CSV in cp1252": ("a.csv", separated(";"), {"encoding": "cp1252"}),
    "TSV in UTF-16": ("a.tsv", separated(","), {"encoding": "utf-16"}),
    "Parquet": ("a.parquet", list, {}),
    "Parquet, links as fractions": ("a.parquet", fraction, {}),
}
"""What the export is -> its file, the form of links, and what the suggested source names of its form."""


@pytest.mark.parametrize("form", FORMS)
def test_the_suggested_recipe_reads_every_row_and_keeps_its_links(tmp_path: Path, form: str) -> None:
    name, links, named = FORMS[form]
    rows = [{**row, "Grouped": links(row["Grouped"])} for row in ROWS]
    is_text = name.endswith(("csv", "tsv"))
    path = csv_file(tmp_path / name, rows, **named) if is_text else sources.write(tmp_path / name, *rows)
    facts = inspect_file(path)
    assert facts.rows == len(ROWS) and not facts.broken
    suites, prompts = [Path("suites/own.jsonl")], Path("red_team/prompts.jsonl")
    (described,) = suggest(facts, path, "lamps", INSTITUTION, suites, prompts).recipe["sources"]
    assert {key: described[key] for key in ("encoding", "delimiter") if key in described} == named
    assert described["columns"] == {
        "id": "Ref", "classification": "Level", "request": "Question", "response": "Answer", "subject": "Heading",
        "date": "Answered", "department": "Office",
    }  # fmt: skip
    assert [described[key] for key in ("links", "markup", "language_from_text")] == ["Grouped", "html", True]
    read = [
        (each.id, each.request, each.response, each.classification, each.links)
        for each in reader_of(path, described)
        if isinstance(each, Document)
    ]
    takes = 1 if links is fraction else None
    assert read == [
        (f"{row['Ref']}", row["Question"][3:-4], row["Answer"], row["Level"], tuple(map(str, row["Grouped"][:takes])))
        for row in ROWS
    ]


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
    csv_file(tmp_path / "a.csv", rows, "cp1256", ";")
    facts = inspect_file(tmp_path / "a.csv")
    assert (facts.encoding, facts.delimiter) == ("cp1256", ";")
    source = proposed(tmp_path / "a.csv")
    assert source["columns"] == {"id": "الرقم", "request": "الرسالة", "response": "الرد", "date": "التاريخ"}
    assert (source["language_from_text"], source["classification_floor"]) == (True, LADDER[-1])
    documents = list(reader_of(tmp_path / "a.csv", source))
    assert [(each.request, each.language) for each in documents if isinstance(each, Document)] == [
        (row["الرسالة"], "ar") for row in rows
    ]


@pytest.mark.security_case(
    "A JSON row's level is null, other rows have one, and the source has a low floor", "the row is quarantined"
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


def replies(number: int = 100) -> list[Row]:
    """Letters of which every other one names the one before."""
    rows = [letter(each, id=str(4_669 + each), linked=[]) for each in range(number)]
    for each in range(1, number, 2):
        rows[each]["linked"] = [rows[each - 1]["id"]]
    return rows


def changed(change: Callable[[int, Row], Row], count: int = 100) -> list[Row]:
    """The letters, each of them with other values."""
    return [{**row, **change(number, row)} for number, row in enumerate(replies(count))]


def at(*places: int, count: int = 100, **changes: Any) -> list[Row]:
    """The letters, those at `places` with other values."""
    return changed(lambda number, _: changes if number in places else {}, count)


def without(rows: list[Row], *names: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def answered(change: Callable[[int], Row]) -> list[Row]:
    """Questions and answers without other columns than those of `change`."""
    return [{**pair(number, ("Question", "Answer")), **change(number)} for number in range(40)]


SUGGESTED: dict[str, tuple[Callable[[], list[Row]], Row, list[str]]] = {
    "nothing is known": (
        lambda: [{"x": 1}] * 2,
        {"id_from_row": True, "case_from_row": True, "constants.date": FILL_IN},
        ["request:", "response:", "date:", "classification:"],
    ),
    "one id is that of another row": (
        lambda: at(2, id="4669"),
        {"links": "linked", "id_from_row": None, "columns.id": None},
        ["id: 1 row of 100 with", "49 of 50 ids in 'linked' match a row by 'id', 1 match none."],
    ),
    "half of the ids repeat": (
        lambda: changed(lambda number, _: {"id": str(number % 50)}),
        {"id_from_row": None},
        ["50 of 100 rows repeat an id of 'id'"],
    ),
    "two cells of links are long": (
        lambda: changed(
            lambda number, row: {
                "linked": {98: ";".join(str(4_669 + n) for n in range(90)), 96: "withdrawn, see the file " * 40}.get(
                    number, ";".join(row["linked"])
                )
            }
        ),
        {"links": "linked"},
        ["140 of 140 ids"],
    ),
    "every row names another": (
        lambda: changed(lambda number, _: {"linked": [str(4_669 + (number ^ 1))]}), {"links": "linked"}, [],
    ),
    "every row names another in a column that no word tells": (
        lambda: without(changed(lambda number, _: {"other": str(4_669 + (number ^ 1))}), "linked"),
        {"links": None},
        ["100 of 100 ids in 'other'", "as in an id column"],
    ),
    "fewer than half of the links match": (
        lambda: changed(lambda number, row: {"linked": [("9" if number >= 20 else "") + id for id in row["linked"]]}),
        {"links": None},
        ["10 of 50 ids in 'linked' match a row by 'id', 40 match none."],
    ),
    "one tag among texts in angle brackets": (
        lambda: changed(
            lambda number, row: {
                "request": f"{row['request']} From <lamps@example.org>: x<y and y>z{' <b>urgent</b>' * (number == 5)}"
            }
        ),
        {"markup": None},
        ["markup: 1 of 100 values of 'request' have HTML tags", "100 have `<` before text that is not a tag"],
    ),
    "dates that no row decides": (
        lambda: changed(lambda number, _: {"date": f"0{1 + number % 9}/0{1 + number % 7}/2024"}),
        {"date": {"format": f"{FILL_IN}: dd/mm/yyyy or mm/dd/yyyy"}},
        ["date: 'date' may be dd/mm/yyyy or mm/dd/yyyy. Which format is correct?"],
    ),
    "dates with day and month in both orders": (
        lambda: without(
            changed(lambda number, _: {"Received": ("25/12/2024", "12/25/2024", "03/04/2024")[number % 3]}), "date"
        ),
        {"columns.date": f"{FILL_IN}: Received"},
        ["mixes day before month"],
    ),
    "a column of dates without one": (
        lambda: changed(lambda *_: {"date": "in spring"}),
        {"constants.date": None},
        ["date: the column 'date' does not have a date"],
    ),
    "a column of levels with other words": (
        lambda: changed(lambda number, _: {"classification": f"see file {number % 20}"}),
        {"constants.classification": None, "classification_floor": None},
        ["classification: 100 of 100 rows have words in"],
    ),
    "Hijri years": (
        lambda: without(changed(lambda number, _: {"Received": f"{1 + number % 28}/11/1445"}), "date"),
        {},
        ["date: 'Received' has years of the Hijri calendar, such as 1445"],
    ),
    "words for levels": (
        lambda: changed(
            lambda number, _: {
                "classification": (
                    "Public", "Internal", "سري", "Restreint", "public", "internal", "سرى", "RESTREINT"
                )[number % 8]
            }
        ),
        {
            "levels": {
                "Public": LADDER[0],
                "Internal": LADDER[1],
                **dict.fromkeys(("سري", "Restreint"), f"{FILL_IN}: {', '.join(LADDER)}"),
            },
            "classification_floor": None,
        },
        ["سري (25), Restreint (25)"],
    ),
    "a cell without a subject": (
        lambda: at(5, subject=" ", count=20), {}, ["subject: 1 row of 20 with no value in 'subject': quarantined."],
    ),
    "cells without a language": (
        lambda: at(0, 1, 2, language="", count=20),
        {"language_from_text": True},
        ["language: 3 rows of 20 with no value in 'language'; the language is detected from the row's text."],
    ),
    "codes that repeat": (
        lambda: answered(lambda number: {"Vorgang": f"C-{100 + number // 2}", "Pages": number % 4, "Fee": 1.5}),
        {"case_from_row": None, "columns.case": f"{FILL_IN}: 'Vorgang'"},
        ["20 values in 40 rows"],
    ),
    "a word that belongs to another one": (
        lambda: answered(lambda number: {"File name": f"letter {number % 3}"}),
        {"case_from_row": True, "columns.case": None},
        [],
    ),
}  # fmt: skip
"""What the rows are -> the rows; keys of the suggested source with the beginnings of their values, or None for a key
that it lacks; and parts of the notes."""


@pytest.mark.parametrize("name", SUGGESTED)
def test_what_is_suggested_and_said(tmp_path: Path, name: str) -> None:
    rows, expected, said = SUGGESTED[name]
    source, notes = suggested(tmp_path / "a.jsonl", rows())
    for key, value in expected.items():
        found: Any = source
        for part in key.split("."):
            found = found.get(part)
        assert found == value or (isinstance(value, str) and found.startswith(value)), (key, found)
    assert not [each for each in said if each not in notes], notes


def test_a_mixture_of_encodings_is_told_and_read_as_utf8(tmp_path: Path) -> None:
    lines = [json.dumps({**letter(n), "subject": f"café – {n}"}, ensure_ascii=False) + "\n" for n in range(30)]
    content = "".join(lines[:20]).encode() + "".join(lines[20:]).encode("cp1252")
    (tmp_path / "a.jsonl").write_bytes(content)
    facts = inspect_file(tmp_path / "a.jsonl")
    assert facts.encoding is None and facts.broken == {"not UTF-8": 10}
    assert facts.broken_rows["not UTF-8"][0] == 21
    suggestion = look(tmp_path / "a.jsonl")
    assert "encoding" not in suggestion.recipe["sources"][0]
    assert "encoding: a mixture; 10 of 30 rows" in "\n".join(suggestion.notes)


@pytest.mark.parametrize(("dates", "format", "days"), examples(__file__, "dates"))
def test_the_format_of_dates_is_found_and_read(tmp_path: Path, dates: list[str], format: Any, days: list[str]) -> None:
    path = csv_file(tmp_path / "a.csv", changed(lambda number, _: {"date": dates[number % len(dates)]}))
    source = proposed(path)
    assert source.get("date") == format and "date" not in source["constants"]
    read = [each.date for each in reader_of(path, source) if isinstance(each, Document)]
    assert read == [days[number % len(days)] for number in range(100)]


@pytest.mark.security_case(
    "A level column contains a person's name in one or two rows, and `sources look` suggests a recipe",
    "only words in at least three rows are shown",
)
def test_rare_words_of_a_column_of_levels_are_only_counted(tmp_path: Path) -> None:
    rows = changed(lambda number, _: {"classification": "Salim Harthi" if number in (7, 8) else "Restreint"})
    source, notes = suggested(tmp_path / "a.jsonl", rows)
    assert [*source["levels"]] == ["Restreint"] and "Salim" not in notes
    assert "levels: 1 word of 'classification' with fewer than 3 rows each are not shown" in notes
    source, notes = suggested(tmp_path / "a.jsonl", rows[7:9])
    assert "levels" not in source and "Salim" not in notes


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


def as_sharegpt(number: int, turns: int) -> Row:
    speakers = {"user": "human", "assistant": "gpt"}
    turns_ = [{"from": speakers[each["role"]], "value": each["content"]} for each in exchange(number, turns)]
    return {"conversations": turns_}


@pytest.mark.parametrize(
    ("layout", "row", "date"),
    [
        ("sharegpt", lambda number, turns: {"messages": exchange(number, turns)}, None),
        ("sharegpt", as_sharegpt, None),
        ("chatgpt", chatgpt, {"format": "unix"}),
        (
            "alpaca",
            lambda number, _: {"instruction": f"Is lamp {number} out?", "output": f"Lamp {number} is out."},
            None,
        ),
    ],
)
def test_layouts_are_recognised_and_rows_of_several_turns_are_counted(
    tmp_path: Path, layout: str, row: Callable[[int, int], Row], date: Row | None
) -> None:
    path = sources.write(tmp_path / "a.json", *(row(number, 3 if number < 4 else 1) for number in range(30)))
    facts, suggestion = inspect_file(path), look(path)
    source = suggestion.recipe["sources"][0]
    assert source["layout"] == layout and "request" not in source["columns"] and source.get("date") == date
    if layout != "alpaca":
        assert (facts.turns[1], facts.turns[3]) == (26, 4)
        assert any("4 rows have more turns, up to 3 requests" in note for note in suggestion.notes)
    if not date:
        source["constants"]["date"] = "2024-05-01"
    documents = [each for each in reader_of(path, source) if isinstance(each, Document)]
    assert [each.response for each in documents] == [f"Lamp {number} is out." for number in range(30)]
    assert documents[9].request == "Is lamp 9 out?"


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


def test_bytes_that_are_not_of_the_encoding_end_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("{}\n".encode("utf-16")[:-1])
    source = Source(name="a", path=tmp_path / "a.jsonl", encoding="utf-16", licence="own", retention="1 y")
    with pytest.raises(SourceError, match=r"a\.jsonl: the file is not valid utf-16 between the bytes"):
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


@pytest.mark.parametrize(("request_name", "response_name", "is_told"), examples(__file__, "sides"))
def test_the_sides_of_letters_are_told_by_names_and_texts_and_never_by_length_or_order(
    tmp_path: Path, request_name: str, response_name: str, is_told: bool
) -> None:
    names = (request_name, response_name)
    rows = [dict(reversed(pair(number, names, is_plain=not is_told).items())) for number in range(40)]
    suggestion = look(written(tmp_path / "a.jsonl", rows))
    columns = suggestion.recipe["sources"][0]["columns"]
    if is_told:
        assert (columns["request"], columns["response"]) == names
        assert any("with a salutation" in note for note in suggestion.notes)
    else:
        assert columns["request"].startswith(FILL_IN) and request_name in columns["request"]
        assert "sources.0.columns.request" in keys_to_fill_in(Line.model_validate(suggestion.recipe))


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
    source, _ = suggested(tmp_path / "a.jsonl", answered(lambda number: {name: VALUES[field](number)}))
    found = next(iter(source.get("where", {})), None) if field == "status" else source["columns"].get(field)
    assert found == name


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


def test_roles_calls_and_tools_are_counted(tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "burns", "arguments": '{"lamp": 5}'}}
    between: list[Row] = [
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "b"}]},
        *({"role": "tool", "tool_call_id": id, "content": "no"} for id in "ba"),
    ]
    rows: list[Row] = [{"messages": exchange(number)} for number in range(30)]
    for row in rows[:4]:
        row["messages"][1:1] = between
        row["messages"].insert(0, {"role": "system", "content": "You draft replies."})
        row["tools"] = [{"type": "function", "function": {"name": "burns"}}]
    suggestion = look(written(tmp_path / "a.jsonl", rows))
    notes = "\n".join(suggestion.notes)
    assert suggestion.recipe["sources"][0]["layout"] == "sharegpt"
    assert "Turns: 34 of assistant, 30 of user, 8 of tool, 4 of system, and 8 calls of tools." in notes
    assert "4 rows have tools." in notes
    assert suggestion.recipe["training"]["base_model"] == "smollm2-135m-tools"
