"""Variants of one small file as a whole: compression, format, encoding; each with its expected outcome."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow

from sovereign_pipeline_tests.corpus.first_file import (
    ALL,
    NOT_SELECTED,
    ROWS,
    NotPassed,
    Read,
    Stop,
    Variant,
    Write,
    as_json,
    broken,
    content,
    csv_text,
    cut,
    everywhere,
    in_arabic_digits,
    jsonl,
    parquet,
    rows,
    stops_all,
    table,
    with_links,
    without,
    zstd,
)

Outcome = Read | Stop | NotPassed


def in_csv(
    what: str, outcome: Outcome, *given: Any, source: Mapping[str, Any] = MappingProxyType({}), **form: Any
) -> Variant:
    """Return a variant that `table` writes."""
    return Variant(what, "a.csv", table(*given, **form), outcome, source)


def in_jsonl(
    what: str, outcome: Outcome, *given: Any, source: Mapping[str, Any] = MappingProxyType({}), **form: Any
) -> Variant:
    """Return a variant that `jsonl` writes."""
    return Variant(what, "a.jsonl", jsonl(*given, **form), outcome, source)


def in_parquet(what: str, outcome: Outcome, *given: Any, **columns: Any) -> Variant:
    """Return a variant that `parquet` writes."""
    return Variant(what, "a.parquet", parquet(*given, **columns), outcome)


CUT = Stop("cannot be read to its end", "Get a whole copy")
NO_ROW = Stop("the file holds no row", "Export it again")
ENCODING = "Name the file's encoding under `encoding`"
ARABIC = everywhere(subject="المصباح القديم")
ACCENTS = everywhere(subject="Réverbère")


def _one_latin_cell() -> bytes:
    return csv_text(rows({"subject": "Lamp X"})).encode().replace(b"Lamp X", b"Lamp \xe9")


def _one_latin_line() -> bytes:
    lines = [json.dumps(row) for row in rows({"subject": "Lamp X"})]
    return "\n".join(lines).encode().replace(b"Lamp X", b"Lamp \xe9")


def _tar(packed: Callable[[bytes], bytes] = bytes) -> Write:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("letters.csv")
        member.size = len(csv_text())
        tar.addfile(member, io.BytesIO(csv_text().encode()))
    return content(packed(archive.getvalue()))


def _lines(begin: str = "", end: str = "") -> bytes:
    return "".join(f"{begin}{json.dumps(row)}{end}\n" for row in ROWS).encode()


FILES: dict[str, tuple[Variant, ...]] = {
    "Compression and format": (
        in_jsonl("JSONL", ALL),
        Variant("gzip", "a.jsonl.gz", jsonl(packed=gzip.compress), ALL),
        Variant("bzip2", "a.jsonl.bz2", jsonl(packed=bz2.compress), ALL),
        Variant("xz", "a.jsonl.xz", jsonl(packed=lzma.compress), ALL),
        Variant("zstd", "a.csv.zst", content(zstd(csv_text().encode())), ALL),
        Variant("gzip, cut", "a.jsonl.gz", jsonl(packed=lambda text: cut(gzip.compress(text))), CUT),
        Variant("xz, cut", "a.jsonl.xz", jsonl(packed=lambda text: cut(lzma.compress(text))), CUT),
        Variant("zstd, cut", "a.jsonl.zst", jsonl(packed=lambda text: cut(zstd(text))), CUT),
        in_jsonl("gzip by its bytes alone", Stop("holds gzip", "Rename the file"), packed=gzip.compress),
        Variant("gzip by its name alone", "a.jsonl.gz", jsonl(), Stop("it is not gzip", "Rename the file")),
        Variant("name in capitals", "A.CSV", table(), ALL),
        Variant(
            "a workbook", "a.xlsx", content(b"PK\x03\x04"), Stop("is a workbook", "Save the sheet as CSV in UTF-8")
        ),
        Variant(
            "a workbook named CSV", "a.csv", content(b"PK\x03\x04"), Stop("holds a ZIP archive, or a workbook", "save")
        ),
        Variant("a tar archive, packed", "a.tar.gz", content(b"\x1f\x8b"), Stop("is an archive", "Unpack it")),
        Variant("a tar archive named CSV", "a.csv", _tar(), Stop("holds a tar archive", "Unpack it")),
        Variant(
            "a packed tar archive named CSV", "a.csv.gz", _tar(gzip.compress), Stop("holds a tar archive", "Unpack it")
        ),
        Variant("a directory", "a.csv", Path.mkdir, Stop("is a directory", "Name the file in it")),
        Variant("a pipe", "a.jsonl", os.mkfifo, Stop("is a pipe, a socket or a device", "into a file")),
        Variant(
            "a device",
            "a.csv",
            lambda path: path.symlink_to("/dev/null"),
            Stop("a device", "into a file, and name that"),
        ),
        Variant("an archive", "a.zip", content(b"PK\x03\x04"), Stop("is an archive", "Unpack it")),
        Variant(
            "a name without a format", "a.txt", jsonl(), Stop("its name does not tell its format", "must end in .jsonl")
        ),
        Variant("one JSON array", "a.json", as_json(ROWS), ALL),
        Variant("one JSON array named JSONL", "a.jsonl", as_json(ROWS), Stop("holds one array", "Name the file .json")),
        Variant(
            "an array over many lines", "a.jsonl", as_json(ROWS, 1), Stop("holds one array", "Name the file .json")
        ),
        Variant(
            "objects over many lines",
            "a.jsonl",
            as_json(ROWS[0], 1),
            Stop("stand on several lines", "Write each on one"),
        ),
        Variant("a comma behind each line", "a.jsonl", content(_lines(end=",")), ALL),
        Variant("files joined, each with a mark", "a.jsonl", content(_lines(begin="\ufeff")), ALL),
        Variant("JSONL named JSON", "a.json", jsonl(), Stop("must be one array of objects", "on each line .jsonl")),
        Variant(
            "CSV named JSONL",
            "a.jsonl",
            table(),
            stops_all("not JSON (Extra data at column 5)", "as what it is", row=2),
        ),
        Variant("CSV named Parquet", "a.parquet", table(), Stop("is not Parquet", "Name the file as what it is")),
        in_parquet("Parquet", ALL),
    ),
    "Empty files": (
        Variant("no byte", "a.jsonl", content(b""), Stop("the file is empty", "Export it again")),
        Variant("no byte", "a.csv", content(b""), Stop("the file is empty", "Export it again")),
        Variant("no byte in gzip", "a.jsonl.gz", content(gzip.compress(b"")), NO_ROW),
        Variant("empty lines alone", "a.jsonl", content(b"\n \n"), NO_ROW),
        Variant(
            "a header alone",
            "a.csv",
            content(b",".join(n.encode() for n in ROWS[0])),
            Stop("no row below its header", "Export it again"),
        ),
        Variant("an empty array", "a.json", content(b"[ ]"), NO_ROW),
        in_jsonl(
            "no row is selected",
            Stop("6 not selected. 'open' holds true (6)", "Check `where`"),
            everywhere(open=True),
            source=NOT_SELECTED,
        ),
    ),
    "Encodings": (
        in_jsonl("UTF-8 with a mark", ALL, encoding="utf-8-sig"),
        in_csv("UTF-8 with a mark", ALL, encoding="utf-8-sig"),
        in_jsonl("UTF-16", Stop("is in UTF-16 by its first", "Set `encoding: utf-16`"), encoding="utf-16"),
        in_jsonl("UTF-16, named", ALL, encoding="utf-16", source={"encoding": "utf-16"}),
        in_jsonl("UTF-16 without a mark", Stop("UTF-16-LE", "Set `encoding: utf-16-le`"), encoding="utf-16-le"),
        in_csv(
            "UTF-16 without a mark, big end first, Arabic",
            Stop("UTF-16-BE", "Set `encoding: utf-16-be`"),
            ARABIC,
            encoding="utf-16-be",
        ),
        in_csv(
            "the same, named as utf-16",
            Stop("UTF-16-BE", "Set `encoding: utf-16-be`"),
            ARABIC,
            encoding="utf-16-be",
            source={"encoding": "utf-16"},
        ),
        in_csv(
            "the same, with Arabic names of columns",
            Stop("UTF-16-LE", "Set `encoding: utf-16-le`"),
            [{"الموضوع الأول": "المصباح", **row} for row in ROWS],
            encoding="utf-16-le",
        ),
        in_csv("UTF-32", Stop("is in UTF-32", "Set `encoding: utf-32`"), encoding="utf-32"),
        in_jsonl(
            "UTF-32 without a mark", Stop("is in UTF-32-LE", "Set `encoding: utf-32-le`"), ARABIC, encoding="utf-32-le"
        ),
        in_jsonl("the same, named", ALL, ARABIC, encoding="utf-32-le", source={"encoding": "utf-32-le"}),
        Variant(
            "UTF-16, as Excel's Unicode text",
            "a.tsv",
            table(delimiter="\t", encoding="utf-16"),
            ALL,
            {"encoding": "utf-16"},
        ),
        in_csv("cp1256", stops_all("not UTF-8", ENCODING), ARABIC, encoding="cp1256"),
        in_csv(
            "cp1256, also in the header",
            Stop("the header row is not UTF-8", ENCODING),
            everywhere(تاريخ="x"),
            encoding="cp1256",
        ),
        in_csv("cp1256, named", ALL, ARABIC, encoding="cp1256", source={"encoding": "cp1256"}),
        in_csv(
            "UTF-8, named as cp1256",
            Stop("is UTF-8 all through", "Remove `encoding`"),
            ARABIC,
            source={"encoding": "cp1256"},
        ),
        in_csv(
            "UTF-8 with a mark, named as cp1252",
            Stop("is in UTF-8", "Remove `encoding`"),
            encoding="utf-8-sig",
            source={"encoding": "cp1252"},
        ),
        in_jsonl("latin-1", stops_all("not UTF-8", ENCODING), ACCENTS, encoding="latin-1"),
        Variant("latin-1 in one line of UTF-8", "a.jsonl", content(_one_latin_line()), broken("not UTF-8")),
        Variant("latin-1 in one cell of UTF-8", "a.csv", content(_one_latin_cell()), broken("not UTF-8")),
    ),
}


def one_column(delimiter: str) -> Stop:
    return Stop(f"Its header is one column, with {delimiter} in it", f"Set `delimiter: {delimiter}`")


def _swallowed(first: int, last: int, column: str) -> Write:
    """A table in which a cell's closing quote is missing, and another row has one too many in the same column."""

    def lose(text: str) -> str:
        lines = text.split("\r\n")
        cells = [line.split(",") for line in lines]
        place = cells[0].index(column)
        cells[first][place] = f'"{cells[first][place]}'
        cells[last][place] = f'{cells[last][place]}"'
        return "\r\n".join(",".join(each) for each in cells)

    return table(with_links(";".join), edit=lose)


def _spaced(text: str) -> str:
    """Every cell in quotes, and a space behind each delimiter."""
    return "".join(
        ", ".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in csv.reader(io.StringIO(text))
    )


def _space_before(text: str) -> str:
    return text.replace(',"', ', "')


TABLES: dict[str, tuple[Variant, ...]] = {
    "Tables of text": (
        in_csv("commas", ALL),
        in_csv("all cells in quotes, LF", ALL, quoting=csv.QUOTE_ALL, end="\n"),
        in_csv("line ends of CR alone", ALL, end="\r"),
        in_csv("line breaks in a cell", ALL, rows({"response": "The lamp\nis\r\nmended"})),
        Variant("tabs", "a.tsv", table(delimiter="\t"), ALL),
        in_csv("semicolons", one_column('";"'), delimiter=";"),
        in_csv("semicolons, named", ALL, delimiter=";", source={"delimiter": ";"}),
        in_csv("tabs in CSV", one_column('"\\t"'), delimiter="\t"),
        in_csv("bars", one_column('"|"'), delimiter="|"),
        Variant("commas in TSV", "a.tsv", table(), one_column('","')),
        in_csv(
            "a first line for Excel",
            Stop("a note for Excel", "Delete that line"),
            delimiter=";",
            edit=lambda text: f"sep=;\n{text}",
            source={"delimiter": ";"},
        ),
        in_csv(
            "a title above the header",
            Stop("Its first line is a comment or a title", "Delete the lines above"),
            edit=lambda text: f"All letters of this year\n{text}",
        ),
        in_csv(
            "no header",
            Stop("Its first line seems to be a row", "Write the names"),
            edit=lambda text: text.split("\r\n", 1)[1],
        ),
        in_csv(
            "two columns of one name",
            Stop("the name of another column: 'subject'", "a name of its own"),
            edit=lambda text: text.replace("author", "subject", 1),
        ),
        in_csv(
            "no header, and two cells of the first row are the same",
            Stop("its first line seems to be a row", "Write the names"),
            everywhere(author="lamps", date="x", linked=""),
            edit=lambda text: text.split("\r\n", 1)[1],
        ),
        in_csv(
            "a title in one cell of many",
            Stop("its first line is a comment or a title", "Delete the lines above"),
            edit=lambda text: f"The lamp is out{',' * 10}\r\n{text}",
        ),
        in_csv(
            "a title in every cell",
            Stop("its first line is a comment or a title", "Delete the lines above"),
            edit=lambda text: f"{','.join(['The lamp is out'] * 11)}\r\n{text}",
        ),
        in_csv(
            "two columns without a name",
            Stop("2 columns have no name in the first line", "a name of its own"),
            edit=lambda text: text.replace("author", "", 1).replace("subject", "", 1),
        ),
        in_csv(
            "two columns of one name that is not known",
            Stop("the name of another column (columns 2, 4)", "a name of its own"),
            edit=lambda text: text.replace("author", "mended", 1).replace("case", "mended", 1),
        ),
        in_csv(
            "the same in capitals",
            Stop("the columns 'subject' and 'Subject' have the same name", "Rename"),
            everywhere(Subject="x"),
        ),
        in_csv(
            "a quote is missing",
            Stop("from line 2: not CSV", "Correct the quotes"),
            edit=lambda text: text.replace("The lamp is m", '"The lamp is m', 1),
        ),
        *(
            Variant(
                f"quotes are lost, so that rows {first} to {last} stand in one '{column}'",
                "a.csv",
                _swallowed(first, last, column),
                Stop(f"lines {first + 1} to {last + 1}: a quoted cell of one row seems to hold whole", "Correct the"),
            )
            for first, last, column in ((2, 3, "request"), (1, 5, "response"), (3, 4, "id"), (1, 6, "subject"))
        ),
        in_csv(
            "lines like cells in a letter",
            ALL,
            rows({"response": "Mended,\n4669, lamp, lamps,\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\nand"}),
        ),
        in_csv("spaces before quotes", ALL, edit=_spaced),
        in_csv("spaces before quotes alone", ALL, rows({"subject": " x, y"}), edit=_space_before),
        in_csv(
            "spaces behind quotes",
            Stop("the header row is not CSV", "Correct the quotes"),
            quoting=csv.QUOTE_ALL,
            edit=lambda text: text.replace('",', '" ,'),
        ),
        in_csv(
            "a cell of three megabytes",
            broken("longer than 1,000,000 bytes"),
            rows({"request": "The lamp, is out. " * 170_000}),
        ),
        Variant(
            "two exports in one, each with a header",
            "a.csv",
            content(csv_text(ROWS[:3]).encode("utf-8-sig") + csv_text(ROWS[3:]).encode("utf-8-sig")),
            Read(6, 1, reason="repeats the header: several exports in one file"),
        ),
        Variant(
            "two exports in one, of other columns",
            "a.csv",
            content((csv_text(ROWS[:3]) + csv_text([dict(reversed(row.items())) for row in ROWS[3:]])).encode()),
            Stop("line 5: the header stands there again with its columns in another order", "Split the file"),
        ),
        in_csv(
            "quotes with backslashes",
            Stop("from line 2: not CSV", "without a backslash"),
            quoting=csv.QUOTE_ALL,
            edit=lambda text: text.replace("mended", '\\"mended\\"', 1),
        ),
        in_csv(
            "a row is too short",
            Read(6, 1, reason="has 2 cells where the header has 11"),
            edit=lambda text: f"{text}4700,x\r\n",
        ),
        in_csv(
            "a line of totals",
            Read(6, 1, reason="missing field: case, date, language, subject, request, response"),
            edit=lambda text: f"{text}Total: 6{',' * 10}\r\n",
        ),
        in_csv(
            "a delimiter behind each row",
            stops_all("has 12 cells where the header has 11", "correct `delimiter`"),
            edit=lambda text: text.replace("\r\n", ",\r\n").replace(",\r\n", "\r\n", 1),
        ),
    )
}


def _cut_line() -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in ROWS)[:-40]


ROWS_OF_FILES: dict[str, tuple[Variant, ...]] = {
    "Columns": (
        in_csv(
            "a column that the file lacks",
            Stop("'letter' (for request). Its columns: id, case, department", "Name the right column"),
            source={"columns": {"request": "letter"}},
        ),
        in_jsonl(
            "the same",
            Stop("'letter' (for request). Its columns: id, case, department", "Name the right column"),
            source={"columns": {"request": "letter"}},
        ),
        in_csv(
            "`where` names no column",
            Stop("'state' (for `where`)", "Correct `where`"),
            source={"where": {"state": "x"}},
        ),
        in_jsonl(
            "`links` names no column", Stop("'grouped' (for `links`)", "Correct `links`"), source={"links": "grouped"}
        ),
        in_csv("a field without a column", Stop("the file lacks: 'subject'", "`constants`"), without("subject")),
        in_jsonl(
            "no levels", Stop("the file lacks: 'classification'", "`classification_floor`"), without("classification")
        ),
        in_jsonl("columns in capitals", ALL, [{k.upper(): v for k, v in row.items()} for row in ROWS]),
        in_csv(
            "rows with a state",
            Read(4, not_selected=2, links=2),
            [{**row, "open": str(number < 2)} for number, row in enumerate(ROWS)],
            source=NOT_SELECTED,
        ),
        *(
            in_csv(
                f"rows with a state, as {no!r} and {yes!r}",
                Read(4, not_selected=2, links=2),
                [{**row, "open": yes if number < 2 else no} for number, row in enumerate(ROWS)],
                source=NOT_SELECTED,
            )
            for no, yes in (("0", "1"), ("0.0", "1.0"), ("", "x"), ("No ", "Yes"), ("null", "t"))
        ),
        in_csv("a row is excluded", Read(5, excluded=1), source={"exclude": [{"id": "4674", "reason": "withdrawn"}]}),
        in_csv(
            "an exclusion names no row",
            Stop("names 1 id that no row has: 4700", "Correct the id"),
            source={"exclude": [{"id": "4700", "reason": "withdrawn"}]},
        ),
    ),
    "Links": (
        *(
            in_csv(f"{what} in a cell", ALL, with_links(form))
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
        in_csv("one number, such as `4669.0`", Read(links=2), with_links(lambda ids: float(ids[0]) if ids else "")),
        in_parquet("lists of fractions", ALL, with_links(lambda ids: [float(id) for id in ids])),
        in_parquet("one fraction, or null", Read(links=2), with_links(lambda ids: float(ids[0]) if ids else None)),
        in_jsonl(
            "an object",
            stops_all("the links are neither a list of ids nor a text of them", "List the ids"),
            with_links(lambda ids: {"ids": ids}),
        ),
        in_jsonl(
            "a row that names itself alone", ALL, [{**row, "linked": row["linked"] or [row["id"]]} for row in ROWS]
        ),
        in_jsonl(
            "other ids than the rows'",
            NotPassed("links_name_rows", "3 of 3 in 'letters'; the recipe allows 50%"),
            with_links(lambda ids: [f"X-{id}" for id in ids]),
        ),
    ),
    "Ids": (
        in_csv("`4669.00`", ALL, [{**row, "id": f"{row['id']}.00"} for row in ROWS]),
        in_parquet("fractions", ALL, [{**row, "id": float(row["id"])} for row in ROWS]),
        in_parquet("decimals", ALL, id=pyarrow.array([Decimal(f"{row['id']}.00") for row in ROWS])),
        in_csv(
            "digits lost in a workbook",
            stops_all("id or case is a number such as 1.2E+11, which has lost digits", "Export the column as text"),
            everywhere(id="4.669E+11"),
        ),
        in_jsonl("Arabic digits, Latin ones in links", ALL, in_arabic_digits("id")),
        in_jsonl("one id twice", broken("duplicate id"), rows({"id": "4669"})),
        in_jsonl("one id twice", broken("duplicate id"), rows({"id": "4669"}), source={"id_from_row": True}),
        in_jsonl("no id in one row", broken("missing field: id"), rows({"id": None})),
        in_jsonl("no id in one row", ALL, rows({"id": None}), source={"id_from_row": True}),
        in_jsonl(
            "a letter for an id",
            broken("id or case is longer than 200 characters or holds control characters"),
            rows({"id": "The lamp is out. " * 20}),
        ),
    ),
    "Dates, levels and languages": (
        in_jsonl("times", ALL, everywhere(date="2024-02-15T10:00:00Z")),
        in_parquet("timestamps", ALL, date=pyarrow.array([datetime.datetime(2024, 2, 3)] * 6)),
        in_parquet("timestamps of a time zone", ALL, date=pyarrow.array([0] * 6, pyarrow.timestamp("s", "UTC"))),
        in_jsonl("Arabic digits", ALL, in_arabic_digits("date")),
        in_csv(
            "day, month, year",
            stops_all("date is not an ISO date, such as 2024-12-31", "Name how dates are written"),
            everywhere(date="15/02/2024"),
        ),
        in_csv(
            "day, month, year",
            ALL,
            everywhere(date="15/02/2024"),
            source={"date": {"format": "dd/mm/yyyy"}},
        ),
        in_csv(
            "day, month, year, read as month, day, year",
            stops_all("date is not written as mm/dd/yyyy", "Name how dates are written"),
            everywhere(date="15/02/2024"),
            source={"date": {"format": "mm/dd/yyyy"}},
        ),
        in_csv(
            "the month's name, in Arabic digits",
            ALL,
            everywhere(date="١٥ شباط ٢٠٢٤"),
            source={"date": {"format": "dd mmm yyyy"}},
        ),
        in_csv(
            "days as a workbook counts them",
            stops_all("date is a number, as workbooks keep days", "Name how dates are written"),
            everywhere(date="45337"),
        ),
        *(
            in_csv(
                f"{unit} since 1970",
                stops_all(f"date is a number of {unit} since 1970", "Name how dates are written"),
                everywhere(date=date),
            )
            for unit, date in (
                ("seconds", "1706918400"),
                ("milliseconds", "1812060112300"),
                ("nanoseconds", "1706918400000000000"),
            )
        ),
        in_jsonl(
            "a day of the Hijri calendar",
            broken("date is not between the years 1800 and 2100: a slip, or of another calendar"),
            rows({"date": "1445-08-05"}),
        ),
        in_jsonl(
            "a day for no day",
            broken("date is not between the years 1800 and 2100: a slip, or of another calendar"),
            rows({"date": "9999-12-31"}),
        ),
        in_jsonl(
            "one day for all, unquoted in YAML",
            ALL,
            without("date"),
            source={"constants": {"date": datetime.date(2024, 2, 3)}},
        ),
        in_jsonl(
            "one day for all that is none",
            Stop("the constant 'date' is not an ISO date", "Correct the file"),
            without("date"),
            source={"constants": {"date": "3/2/2024"}},
        ),
        in_jsonl(
            "no level in one row", broken("unknown or missing classification level"), rows({"classification": ""})
        ),
        in_jsonl(
            "levels in small letters",
            stops_all("unknown or missing classification level", "PUBLIC, INTERNAL, CONFIDENTIAL, SECRET"),
            everywhere(classification="public"),
        ),
        in_jsonl(
            "own words for levels",
            ALL,
            rows({"classification": "Internal"}, {"classification": "سري"}),
            source={"levels": {"internal": "INTERNAL", "سري": "CONFIDENTIAL"}},
        ),
        in_jsonl(
            "own words for levels, one of them not in the recipe",
            Stop("lacks words of the column 'classification': سري (1)", "Give each word a level under `levels`"),
            rows({"classification": "Internal"}, {"classification": "سري"}),
            source={"levels": {"Internal": "INTERNAL"}},
        ),
        in_jsonl("no language", ALL, without("language"), source={"language_from_text": True}),
        in_jsonl(
            "Arabic letters under English",
            NotPassed("languages_right", "6 of 6 documents have a text in another language than their own"),
            everywhere(request="السلام عليكم، نود الاستفسار عن المصباح القديم في السوق"),
        ),
        in_jsonl(
            "Arabic letters without a language",
            ALL,
            [
                {**row, "response": "نفيدكم بأن المصباح القديم يعمل الآن", "request": "نود الاستفسار عن المصباح القديم"}
                for row in without("language")
            ],
            source={"language_from_text": True},
        ),
        in_jsonl(
            "names of languages",
            stops_all("language is not a BCP 47 language tag, such as en or ar-OM", "one language under `constants`"),
            everywhere(language="the English one"),
        ),
    ),
    "Departments and authors": (
        in_csv("no author in one row", ALL, rows({"author": ""})),
        in_jsonl("no department in one row", ALL, rows({"department": None})),
        in_csv("no subject in one row", broken("missing field: subject"), rows({"subject": ""})),
    ),
    "Texts and types": (
        in_jsonl("CRLF", ALL, end="\r\n"),
        in_jsonl(
            "line ends of CR alone",
            stops_all("not JSON (several lines that end in CR alone)", "each line ending in LF"),
            end="\r",
        ),
        in_jsonl("U+2028 in a text", ALL, rows({"response": "Mended\u2028today\u2029."})),
        in_csv("U+2028 in a cell", ALL, rows({"response": "Mended\u2028today\u2029."})),
        in_jsonl("NUL in a text", broken("holds a NUL character"), rows({"response": "Mended\0."})),
        in_csv("NUL in a cell", broken("holds a NUL character"), rows({"response": "Mended\0."})),
        in_jsonl(
            "half a character",
            broken("holds half a character (a lone surrogate)"),
            rows({"response": "M\ud800"}),
            ascii_only=True,
        ),
        in_jsonl(
            "half a character",
            broken("holds half a character (a lone surrogate)"),
            rows({"response": "M\ud800"}),
            ascii_only=True,
            source={"markup": "html"},
        ),
        in_jsonl(
            "a reply of direction marks alone",
            broken("missing field: response"),
            rows({"response": "\u200f \u200e\u202b"}),
        ),
        in_jsonl(
            "a reply of blank letters alone", broken("missing field: response"), rows({"response": "\u3164\u2800"})
        ),
        in_jsonl(
            "a reply of tags alone",
            broken("missing field: response"),
            rows({"response": "<p><br/></p>"}),
            source={"markup": "html"},
        ),
        in_jsonl(
            "an object for a text",
            broken("neither text, number nor date: request"),
            rows({"request": {"text": "The lamp is out."}}),
        ),
        in_jsonl(
            "a list for a text",
            broken("neither text, number nor date: request"),
            rows({"request": ["The lamp is out."]}),
        ),
        in_jsonl("NaN for a text", broken("neither text, number nor date: subject"), rows({"subject": float("nan")})),
        in_parquet(
            "objects for texts",
            stops_all("neither text, number nor date: request", "Correct the rows"),
            request=pyarrow.array([{"text": "x"}] * 6),
        ),
        in_parquet(
            "bytes for texts",
            stops_all("neither text, number nor date: request", "Correct the rows"),
            request=pyarrow.array([b"x"] * 6),
        ),
        in_parquet("a text in a dictionary", ALL, department=pyarrow.array(["lamps"] * 6).dictionary_encode()),
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
        in_jsonl(
            "a text above a megabyte",
            broken("longer than 1,000,000 bytes"),
            rows({"request": "The lamp is out. " * 70_000}),
        ),
    ),
}
