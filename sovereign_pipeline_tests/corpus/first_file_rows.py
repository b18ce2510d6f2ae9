"""Variants of the rows of one small file: columns, links, ids, dates, levels, texts; each with its expected outcome."""

import datetime
import json
from decimal import Decimal

import pyarrow

from sovereign_pipeline_tests.corpus.dirty_files import (
    ROWS,
    content,
    everywhere,
    in_arabic_digits,
    jsonl,
    parquet,
    rows,
    table,
    with_links,
    without,
)
from sovereign_pipeline_tests.corpus.first_file import (
    ALL,
    NOT_SELECTED,
    NotPassed,
    Read,
    Stop,
    Variant,
    broken,
    stops_all,
)


def _cut_line() -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in ROWS)[:-40]


ROWS_OF_FILES: dict[str, tuple[Variant, ...]] = {
    "Columns": (
        Variant(
            "a column that the file lacks",
            "a.csv",
            table(),
            Stop("'letter' (for request). Its columns: id, case, department", "Name the right column"),
            {"columns": {"request": "letter"}},
        ),
        Variant(
            "the same",
            "a.jsonl",
            jsonl(),
            Stop("'letter' (for request). Its columns: id, case, department", "Name the right column"),
            {"columns": {"request": "letter"}},
        ),
        Variant(
            "`where` names no column",
            "a.csv",
            table(),
            Stop("'state' (for `where`)", "Correct `where`"),
            {"where": {"state": "x"}},
        ),
        Variant(
            "`links` names no column",
            "a.jsonl",
            jsonl(),
            Stop("'grouped' (for `links`)", "Correct `links`"),
            {"links": "grouped"},
        ),
        Variant(
            "a field without a column",
            "a.csv",
            table(without("subject")),
            Stop("the file lacks: 'subject'", "`constants`"),
        ),
        Variant(
            "no levels",
            "a.jsonl",
            jsonl(without("classification")),
            Stop("the file lacks: 'classification'", "`classification_floor`"),
        ),
        Variant("columns in capitals", "a.jsonl", jsonl([{k.upper(): v for k, v in row.items()} for row in ROWS]), ALL),
        Variant(
            "rows with a state",
            "a.csv",
            table([{**row, "open": str(number < 2)} for number, row in enumerate(ROWS)]),
            Read(4, not_selected=2, links=2),
            NOT_SELECTED,
        ),
        *(
            Variant(
                f"rows with a state, as {no!r} and {yes!r}",
                "a.csv",
                table([{**row, "open": yes if number < 2 else no} for number, row in enumerate(ROWS)]),
                Read(4, not_selected=2, links=2),
                NOT_SELECTED,
            )
            for no, yes in (("0", "1"), ("0.0", "1.0"), ("", "x"), ("No ", "Yes"), ("null", "t"))
        ),
        Variant(
            "a row is excluded",
            "a.csv",
            table(),
            Read(5, excluded=1),
            {"exclude": [{"id": "4674", "reason": "withdrawn"}]},
        ),
        Variant(
            "an exclusion names no row",
            "a.csv",
            table(),
            Stop("names 1 id that no row has: 4700", "Correct the id"),
            {"exclude": [{"id": "4700", "reason": "withdrawn"}]},
        ),
    ),
    "Links": (
        *(
            Variant(f"{what} in a cell", "a.csv", table(with_links(form)), ALL)
            for what, form in {
                "a JSON list": json.dumps,
                "a list of Python": repr,
                "`a;b`": ";".join,
                "`a|b`": "|".join,
                "`a,b`": ",".join,
                "`a b`": " ".join,
                "`a، b` (an Arabic comma)": "، ".join,
                "`{a,b}`": lambda ids: "{" + ",".join(ids) + "}",
            }.items()
        ),
        Variant(
            "one number, such as `4669.0`",
            "a.csv",
            table(with_links(lambda ids: float(ids[0]) if ids else "")),
            Read(links=2),
        ),
        Variant("lists of fractions", "a.parquet", parquet(with_links(lambda ids: [float(id) for id in ids])), ALL),
        Variant(
            "one fraction, or null",
            "a.parquet",
            parquet(with_links(lambda ids: float(ids[0]) if ids else None)),
            Read(links=2),
        ),
        Variant(
            "an object",
            "a.jsonl",
            jsonl(with_links(lambda ids: {"ids": ids})),
            stops_all("the links are neither a list of ids nor a text of them", "List the ids"),
        ),
        Variant(
            "a row that names itself alone",
            "a.jsonl",
            jsonl([{**row, "linked": row["linked"] or [row["id"]]} for row in ROWS]),
            ALL,
        ),
        Variant(
            "other ids than the rows'",
            "a.jsonl",
            jsonl(with_links(lambda ids: [f"X-{id}" for id in ids])),
            NotPassed("links_name_rows", "3 of 3 in 'letters'; the recipe allows 50%"),
        ),
    ),
    "Ids": (
        Variant("`4669.00`", "a.csv", table([{**row, "id": f"{row['id']}.00"} for row in ROWS]), ALL),
        Variant("fractions", "a.parquet", parquet([{**row, "id": float(row["id"])} for row in ROWS]), ALL),
        Variant("decimals", "a.parquet", parquet(id=pyarrow.array([Decimal(f"{row['id']}.00") for row in ROWS])), ALL),
        Variant(
            "digits lost in a workbook",
            "a.csv",
            table(everywhere(id="4.669E+11")),
            stops_all("id or case is a number such as 1.2E+11, which has lost digits", "Export the column as text"),
        ),
        Variant("Arabic digits, Latin ones in links", "a.jsonl", jsonl(in_arabic_digits("id")), ALL),
        Variant("one id twice", "a.jsonl", jsonl(rows({"id": "4669"})), broken("duplicate id")),
        Variant("one id twice", "a.jsonl", jsonl(rows({"id": "4669"})), broken("duplicate id"), {"id_from_row": True}),
        Variant("no id in one row", "a.jsonl", jsonl(rows({"id": None})), broken("missing field: id")),
        Variant("no id in one row", "a.jsonl", jsonl(rows({"id": None})), ALL, {"id_from_row": True}),
        Variant(
            "a letter for an id",
            "a.jsonl",
            jsonl(rows({"id": "The lamp is out. " * 20})),
            broken("id or case is longer than 200 characters or holds control characters"),
        ),
    ),
    "Dates, levels and languages": (
        Variant("times", "a.jsonl", jsonl(everywhere(date="2024-02-15T10:00:00Z")), ALL),
        Variant("timestamps", "a.parquet", parquet(date=pyarrow.array([datetime.datetime(2024, 2, 3)] * 6)), ALL),
        Variant(
            "timestamps of a time zone",
            "a.parquet",
            parquet(date=pyarrow.array([0] * 6, pyarrow.timestamp("s", "UTC"))),
            ALL,
        ),
        Variant("Arabic digits", "a.jsonl", jsonl(in_arabic_digits("date")), ALL),
        Variant(
            "day, month, year",
            "a.csv",
            table(everywhere(date="15/02/2024")),
            stops_all("date is not an ISO date, such as 2024-12-31", "Write dates as 2024-12-31"),
        ),
        Variant(
            "days as a workbook counts them",
            "a.csv",
            table(everywhere(date="45337")),
            stops_all("date is a number, as workbooks keep days", "Write dates as 2024-12-31"),
        ),
        *(
            Variant(
                f"{unit} since 1970",
                "a.csv",
                table(everywhere(date=date)),
                stops_all(f"date is a number of {unit} since 1970", "Write dates as 2024-12-31"),
            )
            for unit, date in (
                ("seconds", "1706918400"),
                ("milliseconds", "1812060112300"),
                ("nanoseconds", "1706918400000000000"),
            )
        ),
        Variant(
            "a day of the Hijri calendar",
            "a.jsonl",
            jsonl(rows({"date": "1445-08-05"})),
            broken("date is not between the years 1800 and 2100: a slip, or of another calendar"),
        ),
        Variant(
            "a day for no day",
            "a.jsonl",
            jsonl(rows({"date": "9999-12-31"})),
            broken("date is not between the years 1800 and 2100: a slip, or of another calendar"),
        ),
        Variant(
            "one day for all, unquoted in YAML",
            "a.jsonl",
            jsonl(without("date")),
            ALL,
            {"constants": {"date": datetime.date(2024, 2, 3)}},
        ),
        Variant(
            "one day for all that is none",
            "a.jsonl",
            jsonl(without("date")),
            Stop("the constant 'date' is not an ISO date", "Correct the file"),
            {"constants": {"date": "3/2/2024"}},
        ),
        Variant(
            "no level in one row",
            "a.jsonl",
            jsonl(rows({"classification": ""})),
            broken("unknown or missing classification level"),
        ),
        Variant(
            "levels in small letters",
            "a.jsonl",
            jsonl(everywhere(classification="public")),
            stops_all("unknown or missing classification level", "PUBLIC, INTERNAL, CONFIDENTIAL, SECRET"),
        ),
        Variant(
            "names of languages",
            "a.jsonl",
            jsonl(everywhere(language="the English one")),
            stops_all("language is not a BCP 47 language tag, such as en or ar-OM", "one language under `constants`"),
        ),
    ),
    "Departments and authors": (
        Variant("no author in one row", "a.csv", table(rows({"author": ""})), ALL),
        Variant("no department in one row", "a.jsonl", jsonl(rows({"department": None})), ALL),
        Variant("no subject in one row", "a.csv", table(rows({"subject": ""})), broken("missing field: subject")),
    ),
    "Texts and types": (
        Variant("CRLF", "a.jsonl", jsonl(end="\r\n"), ALL),
        Variant(
            "line ends of CR alone",
            "a.jsonl",
            jsonl(end="\r"),
            stops_all("not JSON (several lines that end in CR alone)", "each line ending in LF"),
        ),
        Variant("U+2028 in a text", "a.jsonl", jsonl(rows({"response": "Mended\u2028today\u2029."})), ALL),
        Variant("U+2028 in a cell", "a.csv", table(rows({"response": "Mended\u2028today\u2029."})), ALL),
        Variant("NUL in a text", "a.jsonl", jsonl(rows({"response": "Mended\0."})), broken("holds a NUL character")),
        Variant("NUL in a cell", "a.csv", table(rows({"response": "Mended\0."})), broken("holds a NUL character")),
        Variant(
            "half a character",
            "a.jsonl",
            jsonl(rows({"response": "M\ud800"}), ascii_only=True),
            broken("holds half a character (a lone surrogate)"),
        ),
        Variant(
            "half a character",
            "a.jsonl",
            jsonl(rows({"response": "M\ud800"}), ascii_only=True),
            broken("holds half a character (a lone surrogate)"),
            {"markup": "html"},
        ),
        Variant(
            "a reply of direction marks alone",
            "a.jsonl",
            jsonl(rows({"response": "\u200f \u200e\u202b"})),
            broken("missing field: response"),
        ),
        Variant(
            "a reply of blank letters alone",
            "a.jsonl",
            jsonl(rows({"response": "\u3164\u2800"})),
            broken("missing field: response"),
        ),
        Variant(
            "a reply of tags alone",
            "a.jsonl",
            jsonl(rows({"response": "<p><br/></p>"})),
            broken("missing field: response"),
            {"markup": "html"},
        ),
        Variant(
            "an object for a text",
            "a.jsonl",
            jsonl(rows({"request": {"text": "The lamp is out."}})),
            broken("neither text, number nor date: request"),
        ),
        Variant(
            "a list for a text",
            "a.jsonl",
            jsonl(rows({"request": ["The lamp is out."]})),
            broken("neither text, number nor date: request"),
        ),
        Variant(
            "NaN for a text",
            "a.jsonl",
            jsonl(rows({"subject": float("nan")})),
            broken("neither text, number nor date: subject"),
        ),
        Variant(
            "objects for texts",
            "a.parquet",
            parquet(request=pyarrow.array([{"text": "x"}] * 6)),
            stops_all("neither text, number nor date: request", "Correct the rows"),
        ),
        Variant(
            "bytes for texts",
            "a.parquet",
            parquet(request=pyarrow.array([b"x"] * 6)),
            stops_all("neither text, number nor date: request", "Correct the rows"),
        ),
        Variant(
            "a text in a dictionary",
            "a.parquet",
            parquet(department=pyarrow.array(["lamps"] * 6).dictionary_encode()),
            ALL,
        ),
        Variant(
            "one key twice",
            "a.jsonl",
            content(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS[:5]) + b'{"id": "7", "id": "8"}'),
            broken("names a field twice"),
        ),
        Variant(
            "the last line cut",
            "a.jsonl",
            content(_cut_line()),
            broken("not JSON (Unterminated string starting at column 296)"),
        ),
        Variant(
            "a text above a megabyte",
            "a.jsonl",
            jsonl(rows({"request": "The lamp is out. " * 70_000})),
            broken("longer than 1,000,000 bytes"),
        ),
    ),
}
