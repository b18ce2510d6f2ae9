"""Files that may lie in a folder of documents, with what becomes of each: a test's table, and a part of a page."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sovereign_pipeline.corpus.office_files import SCANNED
from sovereign_pipeline_tests.corpus import office

TEXT = "Ref: LMP/1\n\nThe lamp is out. Please mend it soon, with many thanks from all of us."
ARABIC = "السلام عليكم، نرجو إصلاح المصباح القديم في المنطقة الثانية مع الشكر."
ROW, LEFT_OUT, QUARANTINED = "row", "left out", "quarantined"
_DAMAGED = "damaged (BadZipFile)"
_EXTERNAL = '<R Type="http://x/relationships/{0}" Target="http://elsewhere.example/x" TargetMode="External"/>'


class File(NamedTuple):
    what: str
    name: str
    """Name of the letter. Its reply is a whole text file, except in a row of its own."""
    content: bytes | Callable[[Path], object]
    outcome: str = ROW
    reason: str = "paired by path"


def _broken(what: str, name: str, content: bytes | Callable[[Path], object], reason: str) -> File:
    return File(what, name, content, QUARANTINED, reason)


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
_ODF_MACRO = {"Basic/script-lb.xml": "<x/>"}
_ODF_ENCRYPTED = {"META-INF/manifest.xml": "<manifest><encryption-data/></manifest>"}

FILES = (
    File("DOCX", "a.docx", office.docx(TEXT)),
    File("ODT", "a.odt", office.odt(TEXT)),
    File("RTF", "a.rtf", office.rtf(TEXT)),
    File("HTML", "a.html", office.html(TEXT)),
    File("Markdown", "a.md", TEXT.encode()),
    File("text", "a.txt", TEXT.encode()),
    File("text in UTF-16", "a.txt", TEXT.encode("utf-16")),
    File("PDF with a text layer", "a.pdf", office.pdf(TEXT)),
    File("PDF, Arabic in visual order", "a.pdf", office.pdf(ARABIC)),
    File("PDF, Arabic in logical order", "a.pdf", office.pdf(ARABIC, order="logical")),
    File("name in capitals", "A.DOCX", office.docx(TEXT)),
    File("name with a newline", "a\nb.docx", office.docx(TEXT)),
    File("name with two dots", "..a...docx", office.docx(TEXT), LEFT_OUT, "a file of the system"),
    File("name of 250 characters", f"{'a' * 240}.docx", office.docx(TEXT)),
    File("name that is no UTF-8", os.fsdecode(b"a\xff.docx"), office.docx(TEXT)),
    File(
        "a hyperlink",
        "a.docx",
        office.docx(TEXT, parts={"word/_rels/document.xml.rels": _EXTERNAL.format("hyperlink")}),
    ),
    File(
        "deeply nested DOCX",
        "a.docx",
        office.docx(TEXT, parts={"word/footnotes.xml": f"<w:x {office._W}>{_nested(200)}</w:x>"}),
    ),
    File("a picture", "a.jpg", b"\xff\xd8\xff", LEFT_OUT, "a kind of file that is not read"),
    File(
        "an archive", "a.zip", office.zipped({"a.docx": office.docx(TEXT)}), LEFT_OUT, "a kind of file that is not read"
    ),
    File("an executable", "a.exe", b"MZ", LEFT_OUT, "a kind of file that is not read"),
    File("old Word", "a.doc", _OLE, LEFT_OUT, "a kind of file that is not read"),
    File("Word with macros by its name", "a.docm", office.docx(TEXT), LEFT_OUT, "a kind of file that is not read"),
    File("no suffix", "README", b"x", LEFT_OUT, "a kind of file that is not read"),
    File("lock of an open document", "~$a.docx", b"x", LEFT_OUT, "a file of the system"),
    File("hidden file", ".a.docx", office.docx(TEXT), LEFT_OUT, "a file of the system"),
    File("Thumbs.db", "Thumbs.db", b"x", LEFT_OUT, "a file of the system"),
    _broken("scanned PDF", "a.pdf", office.pdf(TEXT, scanned=True), SCANNED),
    _broken("scanned PDF with a stamp in letters", "a.pdf", office.pdf("Page 1", on_image=True), SCANNED),
    _broken("PDF whose letters are drawn", "a.pdf", _drawn(), SCANNED),
    _broken(
        "PDF, Arabic in no known order", "a.pdf", office.pdf("رررر دددد"), "the order of its Arabic text cannot be told"
    ),
    _broken("PDF with an empty page", "a.pdf", office.pdf(""), "holds no text"),
    _broken(
        "encrypted PDF", "a.pdf", office.pdf(TEXT).replace(b"/Root 1 0 R", b"/Root 1 0 R /Encrypt 1 0 R"), "encrypted"
    ),
    _broken("PDF, cut", "a.pdf", office.pdf(TEXT)[:300], "damaged (PDF)"),
    _broken(
        "PDF whose pages contain themselves",
        "a.pdf",
        f"%PDF-1.4\n{_LOOP}trailer << /Root 1 0 R >>".encode(),
        "damaged (PDF)",
    ),
    _broken("PDF, the first bytes alone", "a.pdf", b"%PDF-1.7", "damaged (PDF)"),
    _broken("DOCX, cut", "a.docx", office.docx(TEXT)[:-50], _DAMAGED),
    _broken(
        "DOCX, one byte changed", "a.docx", office.docx(TEXT).replace(b"word/document", b"word/dokument", 1), _DAMAGED
    ),
    _broken("ODT, cut", "a.odt", office.odt(TEXT)[:100], _DAMAGED),
    _broken("encrypted DOCX", "a.docx", _OLE, "encrypted, or in the old format of Microsoft Office"),
    _broken("encrypted ZIP named DOCX", "a.docx", _encrypted_zip(), "encrypted"),
    _broken("encrypted ODT", "a.odt", office.odt(TEXT, parts=_ODF_ENCRYPTED), "encrypted"),
    _broken("DOCX with macros", "a.docx", office.docx(TEXT, parts={"word/vbaProject.bin": b"x"}), "holds macros"),
    _broken("ODT with macros", "a.odt", office.odt(TEXT, parts=_ODF_MACRO), "holds macros"),
    *(
        _broken(
            f"DOCX with an external {kind}",
            "a.docx",
            office.docx(TEXT, parts={"word/_rels/settings.xml.rels": _EXTERNAL.format(kind)}),
            "refers to an external template or object",
        )
        for kind in ("attachedTemplate", "oleObject", "frame", "subDocument")
    ),
    _broken(
        "DOCX with a document of another format",
        "a.docx",
        office.docx(
            TEXT, parts={"word/_rels/document.xml.rels": '<a Type="x/relationships/aFChunk" Target="b.html"/>'}
        ),
        "holds a document of another format",
    ),
    _broken("a long text", "a.txt", b"A lamp. " * 65_536, "a text longer than 500,000 characters"),
    _broken("ZIP bomb", "a.docx", office.bomb(office.docx(TEXT)), "unpacks to more than 512 MiB"),
    _broken("ZIP bomb that lies", "a.docx", _lying(b"<w:document>" + b" " * 10_000), _DAMAGED),
    _broken(
        "XML bomb", "a.docx", office.docx("", parts={"word/document.xml": _entities()}), "declares entities of XML"
    ),
    _broken(
        "XML that reads a file",
        "a.odt",
        office.odt("", parts={"content.xml": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'}),
        "declares entities of XML",
    ),
    _broken(
        "XML, cut",
        "a.docx",
        office.docx("", parts={"word/document.xml": f"<w:document {office._W}><w:p>"}),
        "damaged (XML)",
    ),
    _broken(
        "deeply nested XML",
        "a.docx",
        office.docx("", parts={"word/document.xml": f"<w:x {office._W}>{_nested(9000)}</w:x>"}),
        "damaged (XML)",
    ),
    _broken("a ZIP archive named DOCX", "a.docx", office.zipped({"a.txt": "x"}), "holds no Word document"),
    _broken("DOCX named ODT", "a.odt", office.docx(TEXT), "holds no text document"),
    _broken("DOCX named PDF", "a.pdf", office.docx(TEXT), "not in the format of its name, but ZIP"),
    _broken("PDF named DOCX", "a.docx", office.pdf(TEXT), "not in the format of its name, but PDF"),
    _broken("PDF named text", "a.txt", office.pdf(TEXT), "not in the format of its name, but PDF"),
    _broken("RTF named text", "a.txt", office.rtf(TEXT), "not in the format of its name, but RTF"),
    _broken("text named RTF", "a.rtf", TEXT.encode(), "not in the format of its name"),
    _broken("RTF with an object", "a.rtf", rb"{\rtf1 {\object\objdata 0102}x}", "holds an embedded object"),
    _broken("half a character", "a.rtf", rb"{\rtf1 a\u-10240?b}", "holds half a character (a lone surrogate)"),
    _broken("RTF, cut", "a.rtf", office.rtf(TEXT)[:-1], "damaged (RTF)"),
    _broken("no byte", "a.docx", b"", "empty"),
    _broken("spaces alone", "a.txt", b" \n ", "holds no text"),
    _broken("HTML without text", "a.html", b"<html><script>x()</script></html>", "holds no text"),
    _broken(
        "HTML nested 100,000 times",
        "a.html",
        b"<div>" * 100_000 + b"x",
        "ended its parser: damaged, or too much time or memory",
    ),
    _broken("text in cp1256", "a.txt", ARABIC.encode("cp1256"), "not UTF-8: name the `encoding` of the source"),
    _broken("binary named text", "a.txt", b"a\x00b" * 99, "no text"),
    _broken("300 MiB", "a.pdf", _huge, "larger than 256 MiB"),
    _broken("a link out of the folder", "a.docx", lambda path: path.symlink_to("/etc/passwd"), "a link"),
    _broken("a link to a folder", "a", lambda path: path.symlink_to("/etc"), "a link"),
    _broken("a link that leads nowhere", "a.docx", lambda path: path.symlink_to("x"), "a link"),
    _broken("a pipe", "a.docx", os.mkfifo, "no regular file"),
    _broken(
        "a marking that the ladder lacks",
        "a.docx",
        office.docx(TEXT, header="RESTRICTED"),
        "a marking is not in the ladder, nor in `levels`",
    ),
)
