"""Files that may lie in a folder of documents, with what becomes of each: a test's table, and a part of a page."""

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline_tests.corpus import office
from sovereign_pipeline_tests.examples import examples

TEXT = "Ref: LMP/1\n\nThe lamp is out. Please mend it soon, with many thanks from all of us."
ARABIC = "السلام عليكم، نرجو إصلاح المصباح القديم في المنطقة الثانية مع الشكر."
ROW, LEFT_OUT, QUARANTINED = "row", "left out", "quarantined"


class File(NamedTuple):
    what: str
    name: str
    """Name of the letter. Its reply is a whole text file, except in a row of its own."""
    content: bytes | Callable[[Path], object]
    outcome: str = ROW
    reason: str = "paired by path"


def _nested(depth: int) -> str:
    return "<w:p>" * depth + "</w:p>" * depth


def _entities() -> str:
    lines = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE x [<!ENTITY a0 "lol">{lines}]><w:document>&a9;</w:document>'


def _encrypted_zip() -> bytes:
    whole = bytearray(office.docx(TEXT))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = whole.find(mark)
        while start >= 0:
            whole[start + place] |= 1
            start = whole.find(mark, start + 4)
    return bytes(whole)


def _lying(content: bytes) -> bytes:
    """A ZIP file with a part that unpacks to more than it says."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", content * 1000)
    head, *parts = stream.getvalue().split(b"PK\x01\x02")
    return b"PK\x01\x02".join([head, *(part[:20] + b"\x10\x00\x00\x00" + part[24:] for part in parts)])


def _drawn() -> bytes:
    """A PDF with lines instead of letters."""
    drawing = " ".join(f"{x} 700 m {x + 3} 710 l S" for x in range(50, 650, 6))
    return b"%PDF-1.4\n" + b"".join(
        b"%d 0 obj\n%s\nendobj\n" % each
        for each in enumerate((
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 842] /Contents 4 0 R >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing.encode()),
        ), start=1)
    ) + b"trailer << /Root 1 0 R >>\n"  # fmt: skip


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b"%PDF-1.4\n")
        stream.truncate(300 << 20)


_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
_LOOP = (
    "1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Kids [2 0 R] /Count 1 >>\nendobj\n"
)

MADE: Mapping[str, bytes | Callable[[Path], object]] = {
    "text in UTF-16": TEXT.encode("utf-16"),
    "PDF whose letters are drawn": _drawn(),
    "encrypted PDF": office.pdf(TEXT).replace(b"/Root 1 0 R", b"/Root 1 0 R /Encrypt 1 0 R"),
    "PDF, cut": office.pdf(TEXT)[:300],
    "PDF whose pages contain themselves": f"%PDF-1.4\n{_LOOP}trailer << /Root 1 0 R >>".encode(),
    "DOCX, cut": office.docx(TEXT)[:-50],
    "DOCX, one byte changed": office.docx(TEXT).replace(b"word/document", b"word/dokument", 1),
    "ODT, cut": office.odt(TEXT)[:100],
    "encrypted ZIP named DOCX": _encrypted_zip(),
    "old Word": _OLE,
    "encrypted DOCX": _OLE,
    "an archive": office.zipped({"a.docx": office.docx(TEXT)}),
    "a long text": b"A lamp. " * 65_536,
    "ZIP bomb": office.bomb(office.docx(TEXT)),
    "ZIP bomb that lies": _lying(b"<w:document>" + b" " * 10_000),
    "XML bomb": office.docx("", parts={"word/document.xml": _entities()}),
    "deeply nested DOCX": office.docx(TEXT, parts={"word/footnotes.xml": f"<w:x {office._W}>{_nested(200)}</w:x>"}),
    "deeply nested XML": office.docx("", parts={"word/document.xml": f"<w:x {office._W}>{_nested(9000)}</w:x>"}),
    "XML, cut": office.docx("", parts={"word/document.xml": f"<w:document {office._W}><w:p>"}),
    "a ZIP archive named DOCX": office.zipped({"a.txt": "x"}),
    "RTF, cut": office.rtf(TEXT)[:-1],
    "HTML nested 100,000 times": b"<div>" * 100_000 + b"x",
    "text in cp1256": ARABIC.encode("cp1256"),
    "binary named text": b"a\x00b" * 99,
    "300 MiB": _huge,
    "a link out of the folder": lambda path: path.symlink_to("/etc/passwd"),
    "a link to a folder": lambda path: path.symlink_to("/etc"),
    "a link that leads nowhere": lambda path: path.symlink_to("x"),
    "a pipe": os.mkfifo,
}
"""Entry of the table that is neither a whole document nor a short text -> its content."""


def _file(what: str, name: str, content: Any = None, *outcome: str) -> File:
    """Return an entry of `document_files.json`. content: bytes as a text; or the format of a whole document, perhaps
    with other arguments of its writer; nothing for an entry of MADE."""
    if content is None:
        made = MADE[what]
    elif isinstance(content, dict):
        ((suffix, how),) = content.items()
        made = office.WRITERS[suffix](**{"text": TEXT, **how})
    else:
        made = content.replace("{text}", TEXT).encode("latin-1")
    return File(what, name, made, *outcome)


FILES = tuple(_file(*row) for row in examples(__file__, "files"))
