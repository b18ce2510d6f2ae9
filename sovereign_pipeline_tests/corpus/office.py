"""Write small documents and workbooks of each kind, whole and damaged."""

import io
import re
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any
from xml.sax.saxutils import escape

from sovereign_pipeline_tests.corpus.outlook import compound

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_O = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "style", "table", "meta")
)
_SHEETS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def bomb(archive: bytes) -> bytes:
    """A ZIP file whose parts say that each unpacks to 2 GB."""
    parts = archive.split(b"PK\x01\x02")
    return b"PK\x01\x02".join([parts[0], *(part[:20] + b"\x00\x00\x00\x80" + part[24:] for part in parts[1:])])


def docx(
    text: str,
    header: str = "",
    footer: str = "",
    properties: Mapping[str, str] = {},
    parts: Mapping[str, str | bytes] = {},
) -> bytes:
    """parts: further parts, or other content of one, by path."""

    def paragraphs(lines: str) -> str:
        runs = (f'<w:p><w:r><w:t xml:space="preserve">{escape(line)}</w:t></w:r></w:p>' for line in lines.split("\n"))
        return "".join(runs)

    own = "".join(f"<dc:{name}>{escape(value)}</dc:{name}>" for name, value in properties.items())
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f"<w:document {_W}><w:body>{paragraphs(text)}</w:body></w:document>",
            "word/header1.xml": f"<w:hdr {_W}>{paragraphs(header)}</w:hdr>",
            "word/footer1.xml": f"<w:ftr {_W}>{paragraphs(footer)}</w:ftr>",
            "docProps/core.xml": f'<p xmlns:dc="http://purl.org/dc/elements/1.1/">{own}</p>',
            **parts,
        }
    )


def word_part(kind: str, content: str) -> str:
    """Return a part of a DOCX file. kind: `hdr`, `ftr` or `document`."""
    vml = 'xmlns:v="urn:schemas-microsoft-com:vml"'
    return f"<w:{kind} {_W} {vml}><w:p><w:r>{content}</w:r></w:p></w:{kind}>"


def odf_part(content: str) -> str:
    return f'<office:x {_O} xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0">{content}</office:x>'


def odt(
    text: str, header: str = "", properties: Mapping[str, str] = {}, parts: Mapping[str, str | bytes] = {}
) -> bytes:
    def paragraphs(lines: str) -> str:
        return "".join(f"<text:p>{escape(line)}</text:p>" for line in lines.split("\n"))

    own = "".join(
        f'<meta:user-defined meta:name="{name}">{value}</meta:user-defined>' for name, value in properties.items()
    )
    body = f"<office:body><office:text>{paragraphs(text)}</office:text></office:body>"
    return zipped(
        {
            "content.xml": f"<office:document-content {_O}>{body}</office:document-content>",
            "styles.xml": f"<office:x {_O}><style:header>{paragraphs(header)}</style:header></office:x>",
            "meta.xml": f"<office:document-meta {_O}>{own}</office:document-meta>",
            **parts,
        }
    )


def rtf(text: str, header: str = "") -> bytes:
    def escaped(lines: str) -> str:
        return "".join(
            "\\par\n"
            if each == "\n"
            else f"\\{each}"
            if each in "\\{}"
            else each
            if each.isascii()
            else f"\\u{ord(each)}?"
            for each in lines
        )

    return f"{{\\rtf1\\ansi\\ansicpg1256{{\\header {escaped(header)}}}{escaped(text)}}}".encode()


def html(text: str, header: str = "") -> bytes:
    lines = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    head = '<head><meta charset="utf-8"><style>p {}</style></head>'
    return f"<html>{head}<body><header>{header}</header>{lines}</body></html>".encode()


def pdf(
    text: str, header: str = "", *, order: str = "visual", scanned: bool = False, on_image: bool = False, page: str = ""
) -> bytes:
    """A PDF with one page.

    Args:
        order: of the characters of Arabic lines, `visual` as programs write them, or `logical`.
        on_image: whether there is an image behind the text.
        page: further keys of the page.
    """
    lines = [*([header, ""] if header else []), *text.split("\n")]
    shown = [visual(line) if order == "visual" else line for line in lines]
    characters = sorted({each for line in shown for each in line})
    mapped = "\n".join(f"<{ord(each):04x}> <{ord(each):04x}>" for each in characters)
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <0000> <ffff> "
        f"endcodespacerange {len(characters)} beginbfchar\n{mapped}\nendbfchar endcmap end end"
    )
    drawn = "\n".join(
        f"BT /F 10 Tf 50 {780 - 14 * number} Td <{''.join(f'{ord(each):04x}' for each in line)}> Tj ET"
        for number, line in enumerate(shown)
    )
    image = "q 500 0 0 700 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x00 EI Q"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 842] /Contents 4 0 R {page} /Resources << /Font << /F 5 0 R "
        ">> >> >>",
        _stream(image if scanned else f"{image} {drawn}" if on_image else drawn),
        "<< /Type /Font /Subtype /Type0 /BaseFont /Any /Encoding /Identity-H "
        "/DescendantFonts [6 0 R] /ToUnicode 7 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Any /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) "
        "/Supplement 0 >> /FontDescriptor 8 0 R /DW 500 >>",
        _stream(cmap),
        "<< /Type /FontDescriptor /FontName /Any /Flags 4 /FontBBox [0 -200 1000 800] /Ascent 800 /Descent -200 >>",
    ]
    written, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return f"{written}{end}startxref\n{len(written)}\n%%EOF\n".encode("latin-1")


def _stream(content: str) -> str:
    return f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"


def visual(line: str) -> str:
    """Return a line as it is seen from left to right: Arabic turned, with numbers and Latin words as they are."""
    if not re.search("[\u0600-\u06ff]", line):
        return line
    turned = line[::-1].translate(str.maketrans("()", ")("))
    return re.sub(r"[0-9A-Za-z](?:[0-9A-Za-z/.\\ -]*[0-9A-Za-z])?", lambda match: match[0][::-1], turned)


def xlsx(sheets: Mapping[str, Sequence[Sequence[Any]]], parts: Mapping[str, str | bytes] = {}) -> bytes:
    """parts: further parts, or other content of one, by path."""
    books = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>' for number, name in enumerate(sheets, 1)
    )
    related = "".join(
        f'<Relationship Id="r{number}" Type="{_OFFICE_DOCUMENT}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, len(sheets) + 1)
    )
    related += f'<Relationship Id="s" Type="{_OFFICE_DOCUMENT}/styles" Target="styles.xml"/>'
    book = f'<Relationship Id="r" Type="{_OFFICE_DOCUMENT}/officeDocument" Target="xl/workbook.xml"/>'
    formats = '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs>'
    written = {
        f"xl/worksheets/sheet{number}.xml": f"<worksheet {_SHEETS}><sheetData>{_cells(rows)}</sheetData></worksheet>"
        for number, rows in enumerate(sheets.values(), 1)
    }
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": f'<Relationships xmlns="{_RELATIONSHIPS}">{book}</Relationships>',
            "xl/workbook.xml": f'<workbook {_SHEETS} xmlns:r="{_OFFICE_DOCUMENT}"><sheets>{books}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONSHIPS}">{related}</Relationships>',
            "xl/styles.xml": f"<styleSheet {_SHEETS}>{formats}</styleSheet>",
            **written,
            **parts,
        }
    )


def _cells(rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, date):
            return f'<c s="1"><v>{(value - date(1899, 12, 30)).days}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value!r}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>' if value else "<c/>"

    return "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)


def ods(sheets: Mapping[str, Sequence[Sequence[Any]]]) -> bytes:
    def cell(value: Any) -> str:
        typed = 'office:value-type="string"'
        if isinstance(value, bool):
            typed = f'office:value-type="boolean" office:boolean-value="{str(value).lower()}"'
        elif isinstance(value, date):
            typed = f'office:value-type="date" office:date-value="{value}"'
        elif isinstance(value, int | float):
            typed = f'office:value-type="float" office:value="{value!r}"'
        return f"<table:table-cell {typed}><text:p>{escape(str(value))}</text:p></table:table-cell>"

    tables = "".join(
        f'<table:table table:name="{name}">'
        + "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
        + "</table:table>"
        for name, rows in sheets.items()
    )
    body = f"<office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body>"
    manifest = 'xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"'
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f"<m:manifest {manifest}/>",
            "content.xml": f"<office:document-content {_O}>{body}</office:document-content>",
        }
    )


def xls(sheets: Mapping[str, Sequence[Sequence[Any]]]) -> bytes:
    """Write a workbook in the binary format of Excel 97 (MS-XLS)."""
    bodies = [_record(0x0809, _BEGIN + b"\x10\0" + bytes(12)) + _cells_of_xls(rows) for rows in sheets.values()]
    names = [struct.pack("<BB", len(name), 1) + name.encode("utf-16-le") for name in sheets]
    formats = b"".join(_record(0x00E0, struct.pack("<HH16x", 0, number)) for number in (0, 14))
    head = _record(0x0809, _BEGIN + b"\x05\0" + bytes(12)) + formats
    place, placed = len(head) + sum(10 + len(name) for name in names) + 4, b""
    for name, body in zip(names, bodies, strict=True):
        placed += _record(0x0085, struct.pack("<IH", place, 0) + name)
        place += len(body)
    return compound({("Workbook",): head + placed + _record(0x000A, b"") + b"".join(bodies)})


_BEGIN = b"\0\x06"


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("<HH", kind, len(content)) + content


def _cells_of_xls(rows: Sequence[Sequence[Any]]) -> bytes:
    def cell(row: int, column: int, value: Any) -> bytes:
        is_date = isinstance(value, date)
        place = struct.pack("<HHH", row, column, is_date)
        if isinstance(value, bool):
            return _record(0x0205, place + bytes((value, 0)))
        if is_date or isinstance(value, int | float):
            number = (value - date(1899, 12, 30)).days if is_date else value
            return _record(0x0203, place + struct.pack("<d", number))
        return _record(0x0204, place + struct.pack("<HB", len(value), 1) + value.encode("utf-16-le"))

    every = ((row, column, value) for row, values in enumerate(rows) for column, value in enumerate(values))
    return b"".join(cell(*each) for each in every) + _record(0x000A, b"")


def _text(text: str, header: str = "") -> bytes:
    return f"{header}\n{text}".encode() if header else text.encode()


WRITERS: Mapping[str, Callable[..., bytes]] = {
    ".docx": docx, ".odt": odt, ".rtf": rtf, ".html": html, ".pdf": pdf, ".txt": _text, ".md": _text,
}  # fmt: skip
"""Suffix -> function that writes a document with a text, and with a header if one is given."""
