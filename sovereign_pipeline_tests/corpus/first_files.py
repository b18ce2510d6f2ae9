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
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow

from sovereign_pipeline_tests.corpus.dirty_files import (
    ROWS,
    Write,
    as_json,
    content,
    csv_text,
    cut,
    everywhere,
    in_arabic_digits,
    jsonl,
    parquet,
    rows,
    table,
    with_links,
    without,
    zstd,
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

CUT = Stop("cannot be read to its end", "Get a whole copy")
NO_ROW = Stop("the file holds no row", "Export it again")
ENCODING = "Name the file's encoding under `encoding`"
ARABIC = everywhere(subject="المصباح القديم", language="ar")
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
        Variant("JSONL", "a.jsonl", jsonl(), ALL),
        Variant("gzip", "a.jsonl.gz", jsonl(packed=gzip.compress), ALL),
        Variant("bzip2", "a.jsonl.bz2", jsonl(packed=bz2.compress), ALL),
        Variant("xz", "a.jsonl.xz", jsonl(packed=lzma.compress), ALL),
        Variant("zstd", "a.csv.zst", content(zstd(csv_text().encode())), ALL),
        Variant("gzip, cut", "a.jsonl.gz", jsonl(packed=lambda text: cut(gzip.compress(text))), CUT),
        Variant("xz, cut", "a.jsonl.xz", jsonl(packed=lambda text: cut(lzma.compress(text))), CUT),
        Variant("zstd, cut", "a.jsonl.zst", jsonl(packed=lambda text: cut(zstd(text))), CUT),
        Variant(
            "gzip by its bytes alone", "a.jsonl", jsonl(packed=gzip.compress), Stop("holds gzip", "Rename the file")
        ),
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
        Variant("Parquet", "a.parquet", parquet(), ALL),
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
        Variant(
            "no row is selected",
            "a.jsonl",
            jsonl(everywhere(open=True)),
            Stop("6 not selected. 'open' holds true (6)", "Check `where`"),
            NOT_SELECTED,
        ),
    ),
    "Encodings": (
        Variant("UTF-8 with a mark", "a.jsonl", jsonl(encoding="utf-8-sig"), ALL),
        Variant("UTF-8 with a mark", "a.csv", table(encoding="utf-8-sig"), ALL),
        Variant(
            "UTF-16", "a.jsonl", jsonl(encoding="utf-16"), Stop("is in UTF-16 by its first", "Set `encoding: utf-16`")
        ),
        Variant("UTF-16, named", "a.jsonl", jsonl(encoding="utf-16"), ALL, {"encoding": "utf-16"}),
        Variant(
            "UTF-16 without a mark",
            "a.jsonl",
            jsonl(encoding="utf-16-le"),
            Stop("UTF-16-LE", "Set `encoding: utf-16-le`"),
        ),
        Variant(
            "UTF-16 without a mark, big end first, Arabic",
            "a.csv",
            table(ARABIC, encoding="utf-16-be"),
            Stop("UTF-16-BE", "Set `encoding: utf-16-be`"),
        ),
        Variant(
            "the same, named as utf-16",
            "a.csv",
            table(ARABIC, encoding="utf-16-be"),
            Stop("UTF-16-BE", "Set `encoding: utf-16-be`"),
            {"encoding": "utf-16"},
        ),
        Variant(
            "the same, with Arabic names of columns",
            "a.csv",
            table([{"الموضوع الأول": "المصباح", **row} for row in ROWS], encoding="utf-16-le"),
            Stop("UTF-16-LE", "Set `encoding: utf-16-le`"),
        ),
        Variant("UTF-32", "a.csv", table(encoding="utf-32"), Stop("is in UTF-32", "Set `encoding: utf-32`")),
        Variant(
            "UTF-32 without a mark",
            "a.jsonl",
            jsonl(ARABIC, encoding="utf-32-le"),
            Stop("is in UTF-32-LE", "Set `encoding: utf-32-le`"),
        ),
        Variant("the same, named", "a.jsonl", jsonl(ARABIC, encoding="utf-32-le"), ALL, {"encoding": "utf-32-le"}),
        Variant(
            "UTF-16, as Excel's Unicode text",
            "a.tsv",
            table(delimiter="\t", encoding="utf-16"),
            ALL,
            {"encoding": "utf-16"},
        ),
        Variant("cp1256", "a.csv", table(ARABIC, encoding="cp1256"), stops_all("not UTF-8", ENCODING)),
        Variant(
            "cp1256, also in the header",
            "a.csv",
            table(everywhere(تاريخ="x"), encoding="cp1256"),
            Stop("the header row is not UTF-8", ENCODING),
        ),
        Variant("cp1256, named", "a.csv", table(ARABIC, encoding="cp1256"), ALL, {"encoding": "cp1256"}),
        Variant(
            "UTF-8, named as cp1256",
            "a.csv",
            table(ARABIC),
            Stop("is UTF-8 all through", "Remove `encoding`"),
            {"encoding": "cp1256"},
        ),
        Variant(
            "UTF-8 with a mark, named as cp1252",
            "a.csv",
            table(encoding="utf-8-sig"),
            Stop("is in UTF-8", "Remove `encoding`"),
            {"encoding": "cp1252"},
        ),
        Variant("latin-1", "a.jsonl", jsonl(ACCENTS, encoding="latin-1"), stops_all("not UTF-8", ENCODING)),
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
        Variant("commas", "a.csv", table(), ALL),
        Variant("all cells in quotes, LF", "a.csv", table(quoting=csv.QUOTE_ALL, end="\n"), ALL),
        Variant("line ends of CR alone", "a.csv", table(end="\r"), ALL),
        Variant("line breaks in a cell", "a.csv", table(rows({"response": "The lamp\nis\r\nmended"})), ALL),
        Variant("tabs", "a.tsv", table(delimiter="\t"), ALL),
        Variant("semicolons", "a.csv", table(delimiter=";"), one_column('";"')),
        Variant("semicolons, named", "a.csv", table(delimiter=";"), ALL, {"delimiter": ";"}),
        Variant("tabs in CSV", "a.csv", table(delimiter="\t"), one_column('"\\t"')),
        Variant("bars", "a.csv", table(delimiter="|"), one_column('"|"')),
        Variant("commas in TSV", "a.tsv", table(), one_column('","')),
        Variant(
            "a first line for Excel",
            "a.csv",
            table(delimiter=";", edit=lambda text: f"sep=;\n{text}"),
            Stop("a note for Excel", "Delete that line"),
            {"delimiter": ";"},
        ),
        Variant(
            "a title above the header",
            "a.csv",
            table(edit=lambda text: f"All letters of this year\n{text}"),
            Stop("Its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "no header",
            "a.csv",
            table(edit=lambda text: text.split("\r\n", 1)[1]),
            Stop("Its first line seems to be a row", "Write the names"),
        ),
        Variant(
            "two columns of one name",
            "a.csv",
            table(edit=lambda text: text.replace("author", "subject", 1)),
            Stop("the name of another column: 'subject'", "a name of its own"),
        ),
        Variant(
            "no header, and two cells of the first row are the same",
            "a.csv",
            table(everywhere(author="lamps", date="x", linked=""), edit=lambda text: text.split("\r\n", 1)[1]),
            Stop("its first line seems to be a row", "Write the names"),
        ),
        Variant(
            "a title in one cell of many",
            "a.csv",
            table(edit=lambda text: f"The lamp is out{',' * 10}\r\n{text}"),
            Stop("its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "a title in every cell",
            "a.csv",
            table(edit=lambda text: f"{','.join(['The lamp is out'] * 11)}\r\n{text}"),
            Stop("its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "two columns without a name",
            "a.csv",
            table(edit=lambda text: text.replace("author", "", 1).replace("subject", "", 1)),
            Stop("2 columns have no name in the first line", "a name of its own"),
        ),
        Variant(
            "two columns of one name that is not known",
            "a.csv",
            table(edit=lambda text: text.replace("author", "mended", 1).replace("case", "mended", 1)),
            Stop("the name of another column (columns 2, 4)", "a name of its own"),
        ),
        Variant(
            "the same in capitals",
            "a.csv",
            table(everywhere(Subject="x")),
            Stop("the columns 'subject' and 'Subject' have the same name", "Rename"),
        ),
        Variant(
            "a quote is missing",
            "a.csv",
            table(edit=lambda text: text.replace("The lamp is m", '"The lamp is m', 1)),
            Stop("from line 2: not CSV", "Correct the quotes"),
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
        Variant(
            "lines like cells in a letter",
            "a.csv",
            table(rows({"response": "Mended,\n4669, lamp, lamps,\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\nand"})),
            ALL,
        ),
        Variant("spaces before quotes", "a.csv", table(edit=_spaced), ALL),
        Variant("spaces before quotes alone", "a.csv", table(rows({"subject": " x, y"}), edit=_space_before), ALL),
        Variant(
            "spaces behind quotes",
            "a.csv",
            table(quoting=csv.QUOTE_ALL, edit=lambda text: text.replace('",', '" ,')),
            Stop("the header row is not CSV", "Correct the quotes"),
        ),
        Variant(
            "a cell of three megabytes",
            "a.csv",
            table(rows({"request": "The lamp, is out. " * 170_000})),
            broken("longer than 1,000,000 bytes"),
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
        Variant(
            "quotes with backslashes",
            "a.csv",
            table(quoting=csv.QUOTE_ALL, edit=lambda text: text.replace("mended", '\\"mended\\"', 1)),
            Stop("from line 2: not CSV", "without a backslash"),
        ),
        Variant(
            "a row is too short",
            "a.csv",
            table(edit=lambda text: f"{text}4700,x\r\n"),
            Read(6, 1, reason="has 2 cells where the header has 11"),
        ),
        Variant(
            "a line of totals",
            "a.csv",
            table(edit=lambda text: f"{text}Total: 6{',' * 10}\r\n"),
            Read(6, 1, reason="missing field: case, date, language, subject, request, response"),
        ),
        Variant(
            "a delimiter behind each row",
            "a.csv",
            table(edit=lambda text: text.replace("\r\n", ",\r\n").replace(",\r\n", "\r\n", 1)),
            stops_all("has 12 cells where the header has 11", "correct `delimiter`"),
        ),
    )
}


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
