"""Variants of one small file as a whole: compression, format, encoding; each with its expected outcome."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from sovereign_pipeline_tests.corpus.dirty_files import (
    ROWS,
    Write,
    as_json,
    content,
    csv_text,
    cut,
    everywhere,
    jsonl,
    parquet,
    rows,
    table,
    zstd,
)
from sovereign_pipeline_tests.corpus.first_file import ALL, NOT_SELECTED, Stop, Variant, broken, stops_all

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
