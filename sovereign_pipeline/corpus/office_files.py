"""Parse documents (DOCX, ODT, RTF, HTML, Markdown, text, PDF) and sheets of workbooks. This runs in the sandbox."""

import io
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from typing import IO, Any

from sovereign_pipeline.corpus.parsing import Unreadable, read_whole

MOST_UNPACKED = 512 << 20
"""Maximum unpacked size in bytes: of the parts of a DOCX or ODT file that are read, or of all parts of a workbook."""
LONGEST_TEXT = 500_000
"""Maximum length in characters of a document's text. The same limit applies to its margins and properties together."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_MATHS = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_WATERMARK = "{urn:schemas-microsoft-com:vml}textpath"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TEXT, _STYLE, _OFFICE, _META = (
    f"{{urn:oasis:names:tc:opendocument:xmlns:{name}:1.0}}" for name in ("text", "style", "office", "meta")
)
_NOT_SHOWN = frozenset(
    (_FALLBACK, f"{_TEXT}tracked-changes", f"{_OFFICE}annotation", f"{_WORD}del", f"{_WORD}moveFrom")
)
_PARAGRAPHS = frozenset((_WORD + "p", _DRAWING + "p", _TEXT + "p", _TEXT + "h"))
_TEXTS_OF_WORD = frozenset((_WORD + "t", _DRAWING + "t", _MATHS + "t"))
_BREAKS = {
    _WORD + "tab": "\t",
    _WORD + "ptab": "\t",
    _WORD + "noBreakHyphen": "-",
    _WORD + "br": "\n",
    _WORD + "cr": "\n",
    _TEXT + "tab": "\t",
    _TEXT + "line-break": "\n",
    _TEXT + "s": " ",
}
_EXTERNAL = re.compile(rb"relationships/(?:attachedTemplate|oleObject|frame|subDocument|package)\b")
_CHUNK = re.compile(rb"relationships/aFChunk\b")
_SIGNATURES = ((b"%PDF-", "PDF"), (b"PK\x03\x04", "ZIP"), (b"\xd0\xcf\x11\xe0", "OLE"), (b"{\\rtf", "RTF"))
_OF_SUFFIX = {".docx": "ZIP", ".odt": "ZIP", ".pdf": "PDF", ".rtf": "RTF", ".xlsx": "ZIP", ".ods": "ZIP", ".xls": "OLE"}


def parse_document(
    stream: IO[bytes], suffix: str, encoding: str | None = None, ocr: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the document in a file: its `text`, its `margins` (texts of headers and footers) and its `properties`. A
    PDF with scanned pages also has `ocr`, the result of `ocr.summary`.

    Args:
        encoding: encoding of text files; None for UTF-8, or UTF-16 with a byte order mark.
        ocr: version of tesseract, which reads scanned pages; None to reject scanned pages.

    Raises Unreadable if the file cannot be read, contains macros, or refers to external templates or objects. If `ocr`
    is None, a page without a text layer raises Unreadable, too.
    """
    parse = _PARSERS.get(suffix)
    if parse is None:
        raise Unreadable("a kind of file that is not read")
    content = read_whole(stream)
    _reject_other_format(content, suffix)
    options: dict[Any, dict[str, Any]] = {_text: {"encoding": encoding}, _pdf: {"has_ocr": ocr is not None}}
    parsed = parse(content, **options.get(parse, {}))
    text = unicodedata.normalize("NFC", parsed.pop("text")).replace("\r\n", "\n").replace("\0", "")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
    if not text:
        raise Unreadable("holds no text")
    found = {"text": text, "margins": [], "properties": {}, **parsed}
    if max(len(text), sum(map(len, (*found["margins"], *found["properties"].values())))) > LONGEST_TEXT:
        raise Unreadable(f"a text longer than {LONGEST_TEXT:,} characters")
    yield found


def _reject_other_format(content: bytes, suffix: str) -> None:
    if not content:
        raise Unreadable("empty")
    found = next((name for begin, name in _SIGNATURES if content[:1024].lstrip().startswith(begin)), None)
    expected = _OF_SUFFIX.get(suffix)
    if found == "OLE" and expected == "ZIP":
        raise Unreadable("encrypted, or in the old format of Microsoft Office")
    if found != expected:
        raise Unreadable(f"not in the format of its name{f', but {found}' if found else ''}")


# --- DOCX and ODT -----------------------------------------------------------------------------------------------------


def _parts(content: bytes, wanted: re.Pattern[str]) -> dict[str, bytes]:
    """Return a dict that maps the name of each part of a ZIP file to its content, for names that match `wanted`."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        infos = {info.filename: info for info in archive.infolist()}
        if any(info.flag_bits & 1 for info in infos.values()):
            raise Unreadable("encrypted")
        if any(name.lower().endswith(("vbaproject.bin", "basic/script-lc.xml")) for name in infos):
            raise Unreadable("holds macros")
        chosen = [info for name, info in infos.items() if wanted.fullmatch(name)]
        if sum(info.file_size for info in chosen) > MOST_UNPACKED:
            raise Unreadable(f"unpacks to more than {MOST_UNPACKED >> 20} MiB")
        return {info.filename: archive.open(info).read(info.file_size + 1) for info in chosen}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise Unreadable(f"damaged ({type(error).__name__})") from None


def _xml(part: bytes) -> Any:
    from lxml import etree

    if b"<!DOCTYPE" in part or b"<!ENTITY" in part:
        raise Unreadable("declares entities of XML")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(part, parser)
    except etree.XMLSyntaxError:
        raise Unreadable("damaged (XML)") from None


def _shown(element: Any) -> Iterator[str]:
    """Yield the visible text below an element of DOCX or ODF. A newline follows each paragraph. A newline also precedes
    a paragraph inside another paragraph, such as in a text box."""
    is_in_line = False
    for event, each in _walk(element):
        if each.tag in _PARAGRAPHS and (event == "end" or is_in_line):
            is_in_line = False
            yield "\n"
        if event == "end":
            continue
        if each.tag in _BREAKS:
            times = each.get(_TEXT + "c", "1")
            yield _BREAKS[each.tag] * (min(int(times), 100) if times.isdigit() else 1)
        if each.text and (each.tag in _TEXTS_OF_WORD or not each.tag or each.tag.startswith("{urn:oasis:")):
            is_in_line = True
            yield each.text


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield ("start", element) and ("end", element) for each visible element. In ODF, the text after a child element is
    yielded as a separate ("start", `_Tail`)."""
    todo: list[tuple[str, Any]] = [("start", root)]
    while todo:
        event, each = todo.pop()
        if not isinstance(each.tag, str):  # a comment, a processing instruction or a tail
            yield event, each
            continue
        if event == "start" and each.tag in _NOT_SHOWN:
            continue
        yield event, each
        if event == "start":
            todo.append(("end", each))
            for child in reversed(each):
                if child.tail and not each.tag.startswith(_WORD):
                    todo.append(("start", _Tail(child.tail)))
                if isinstance(child.tag, str):
                    todo.append(("start", child))


class _Tail:
    tag = ""

    def __init__(self, text: str) -> None:
        self.text = text

    def get(self, name: str, default: str) -> str:
        return default

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def _docx(content: bytes) -> dict[str, Any]:
    """Return the text, margins and properties of a Word document. Parts of the file are recognised by their root
    elements, because part names are arbitrary."""
    parts = _parts(content, re.compile(r"(?!customXml/|docProps/).*\.xml|docProps/(core|custom|app)\.xml|.*\.rels"))
    related = [part for name, part in parts.items() if name.endswith(".rels")]
    if any(b"External" in part and _EXTERNAL.search(part) for part in related):
        raise Unreadable("refers to an external template or object")
    if any(map(_CHUNK.search, related)):
        raise Unreadable("holds a document of another format")
    texts, watermarks = defaultdict[str, list[str]](list), list[str]()
    for name, part in sorted(parts.items()):
        if not name.endswith(".rels") and not name.startswith("docProps/"):
            root = _xml(part.replace(_STRICT, _WORD[1:-1].encode()))
            kind = root.tag.removeprefix(_WORD)
            if kind in ("document", "hdr", "ftr", "footnotes", "endnotes"):
                texts[kind].append("".join(_shown(root)))
                watermarks += (each.get("string", "") for each in root.iter(_WATERMARK))
    if len(texts["document"]) != 1:
        raise Unreadable("holds no Word document")
    return {
        "text": "\n".join((*texts["document"], "".join((*texts["footnotes"], *texts["endnotes"])))),
        "margins": [text for text in (*texts["hdr"], *texts["ftr"], *watermarks) if text.strip()],
        "properties": _properties(parts.get(f"docProps/{name}.xml") for name in ("core", "custom", "app")),
    }


_MARGINS_OF_ODT = [f"{name}{page}" for name in ("header", "footer") for page in ("", "-left", "-first")]


def _odt(content: bytes) -> dict[str, Any]:
    parts = _parts(content, re.compile(r"content\.xml|styles\.xml|meta\.xml|META-INF/manifest\.xml|Basic/.*"))
    if b"encryption-data" in parts.get("META-INF/manifest.xml", b""):
        raise Unreadable("encrypted")
    if any(name.startswith("Basic/") for name in parts):
        raise Unreadable("holds macros")
    if "content.xml" not in parts:
        raise Unreadable("holds no text document")
    margins = list[str]()
    if "styles.xml" in parts:
        # LibreOffice uses its own elements for headers and footers of first pages.
        of_pages = _xml(parts["styles.xml"]).iter(*(f"{{*}}{name}" for name in _MARGINS_OF_ODT))
        margins = ["".join(_shown(each)) for each in of_pages]
    body = _xml(parts["content.xml"]).find(_OFFICE + "body")
    return {
        "text": "".join(_shown(body)) if body is not None else "",
        "margins": [text for text in margins if text.strip()],
        "properties": _properties([parts.get("meta.xml")]),
    }


def _properties(parts: Any) -> dict[str, str]:
    """Return a dict that maps the name of each property of a document to the property's text. The name is the `name`
    attribute, or else the element's local name."""
    found = defaultdict[str, list[str]](list)
    for part in filter(None, parts):
        for each in _xml(part).iter():
            if isinstance(each.tag, str) and each.text and each.text.strip():
                own = each.get("name") or each.get(_META + "name")
                parent = each.getparent()
                own = own or (parent.get("name") if parent is not None else None)
                found[str(own or each.tag.rpartition("}")[2])].append(each.text.strip())
    return _joined(found)


def _joined(values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return a dict that maps each property to a text with one value per line. A property may have several values."""
    return {name: "\n".join(every) for name, every in values.items()}


# --- RTF, HTML, text --------------------------------------------------------------------------------------------------


def _rtf(content: bytes) -> dict[str, Any]:
    from striprtf.striprtf import rtf_to_text

    text = content.decode("latin-1")
    if re.search(r"\\(?:objdata|objupdate|object)\b", text):
        raise Unreadable("holds an embedded object")
    if text.count("{") != text.count("}") + text.count("\\{") - text.count("\\}"):
        raise Unreadable("damaged (RTF)")

    def of_groups(names: str) -> list[str]:
        begin = rf"\{{\\(?:\*\\)?(?:{names})\b"
        return [rtf_to_text(f"{{{_page(text)}{group}}}") for group in _groups(text, begin)]

    properties = {"info": of_groups("title|subject|keywords|doccomm|category|company|staticval")}
    margins = of_groups("header[lrf]?|footer[lrf]?|shptxt|dptxbxtext")
    return {"text": rtf_to_text(text), "margins": margins, "properties": _joined(properties)}


def _page(text: str) -> str:
    return "".join(match[0] for match in [re.search(r"\\ansicpg\d+", text)] if match) + " "


def _groups(text: str, begin: str) -> Iterator[str]:
    """Yield the content of each RTF group that begins with the pattern `begin`, without the matched beginning."""
    for match in re.finditer(begin, text):
        depth = 1
        for each in _BRACES.finditer(text, match.end()):
            depth += {"{": 1, "}": -1}.get(each[0], 0)
            if not depth:
                yield text[match.end() : each.start()]
                break


_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def _html(content: bytes) -> dict[str, Any]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(content, "html.parser")
    properties = {"title": [each.get_text() for each in soup.find_all("title")]}
    for each in soup.find_all("meta", attrs={"name": True}):
        properties.setdefault(str(each.get("name")), []).append(str(each.get("content", "")))
    for end in soup.find_all(["br", "p", "li", "tr", "div", "h1", "h2", "h3", "h4", "td"]):
        end.append("\n")
    # A marking may span several elements, or be next to another element, so both ways to join them are used.
    margins = [each.get_text(between) for each in soup.find_all(["header", "footer"]) for between in ("", "\t")]
    for each in soup.find_all(["script", "style", "head", "header", "footer", "template"]):
        each.decompose()
    text = "\n".join(" ".join(line.split()) for line in soup.get_text().splitlines())
    return {"text": text, "margins": margins, "properties": _joined(properties)}


def _text(content: bytes, encoding: str | None = None) -> dict[str, Any]:
    try:
        text = content.decode(encoding or ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"))
    except UnicodeError:
        raise Unreadable(f"not {encoding or 'UTF-8'}: name the `encoding` of the source") from None
    if "\0" in text:
        raise Unreadable("no text")
    return {"text": text}


# --- PDF --------------------------------------------------------------------------------------------------------------

_ARABIC = re.compile(r"[\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefe]")
_ARABIC_WORD = re.compile(r"[\u0621-\u064a]{3,}")
_NUMBER = r"[0-9\u0660-\u0669\u06f0-\u06f9](?:[0-9\u0660-\u0669\u06f0-\u06f9./:,-]*[0-9\u0660-\u0669\u06f0-\u06f9])?"
_LATIN = r"[0-9A-Za-z\u00c0-\u024f](?:[^\u0590-\u08ff\ufb1d-\ufefe]*[0-9A-Za-z\u00c0-\u024f])?"
_LEFT_TO_RIGHT = re.compile(rf"(?=[^\u0590-\u08ff\ufb1d-\ufefe]*[A-Za-z\u00c0-\u024f]){_LATIN}|{_NUMBER}")
"""Pattern of the runs in a line of Arabic that are read from left to right: a text with Latin letters, or one
number."""
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_LEAST_EVIDENCE = 2
_LINES_OF_A_MARGIN = 3
_WIDE = 2.0
"""Minimum gap between two columns of a line, as a multiple of the character size."""
_LEAST_OF_PAGE, _LEAST_CHARACTERS, _LEAST_CURVES = 0.4, 200, 50
"""Thresholds for scanned pages: a share of the page, a number of characters and a number of curves. A page counts as
scanned if images cover at least this share and it has fewer characters, such as those of a stamp. A page without
characters counts as scanned if it has an image, or at least this number of curves, which may be letters."""
_STAMPS = ("FreeText", "Stamp", "Widget")
SCANNED = "has scanned pages, without a text layer: set `ocr: tesseract`"
_Line = tuple[str, str]
"""A line of a PDF, read in two ways: with Arabic from right to left, and with all characters from left to right."""


def _pdf(content: bytes, has_ocr: bool) -> dict[str, Any]:
    """Return the text, margins and properties of a PDF. Lines are formed from the positions of characters, because a
    file often stores Arabic in visual order. If `has_ocr` is true, OCR reads scanned pages. Otherwise, a scanned page
    raises Unreadable."""
    from pdfminer.converter import PDFPageAggregator
    from pdfminer.pdfdocument import PDFDocument, PDFEncryptionError, PDFPasswordIncorrect
    from pdfminer.pdfinterp import PDFPageInterpreter, PDFResourceManager
    from pdfminer.pdfpage import PDFPage
    from pdfminer.pdfparser import PDFParser, PDFSyntaxError
    from pdfminer.pdftypes import resolve1
    from pdfminer.psexceptions import PSException
    from pdfminer.utils import decode_text

    from sovereign_pipeline.corpus.ocr import MOST_PAGES, read_pages, summary

    pages, scanned, stamps = list[list[_Line]](), list[int](), list[str]()
    try:
        document = PDFDocument(PDFParser(io.BytesIO(content)))
        resources = PDFResourceManager()
        device = PDFPageAggregator(resources)
        interpreter = PDFPageInterpreter(resources, device)
        for number, page in enumerate(PDFPage.create_pages(document), start=1):
            interpreter.process_page(page)
            characters, is_scanned = _characters(device.get_result())
            pages.append([_line(line) for line in _lines(characters)])
            stamps += _stamps(page)
            if is_scanned:
                if not has_ocr:
                    raise Unreadable(SCANNED)
                scanned.append(number)
                if len(scanned) > MOST_PAGES:
                    raise Unreadable(f"has more than {MOST_PAGES} scanned pages")
    except (PDFPasswordIncorrect, PDFEncryptionError):
        raise Unreadable("encrypted") from None
    except (PDFSyntaxError, PSException):
        raise Unreadable("damaged (PDF)") from None
    way = _way_of_reading([line for page in pages for line in page])
    read = [[line[way] for line in page] for page in pages]
    recognised = read_pages(content, scanned) if scanned else {}
    for number, page_read in recognised.items():
        read[number - 1] = page_read.lines
    margins = [line for page in read for line in (*page[:_LINES_OF_A_MARGIN], *page[-_LINES_OF_A_MARGIN:]) if line]
    properties = defaultdict[str, list[str]](list)
    for info in document.info:
        for name, value in info.items():
            if isinstance(found := resolve1(value), bytes):
                properties[name].append(decode_text(found))
    text = "\n\n".join("\n".join(page) for page in read).replace("\t", " ")
    parsed = {"text": text, "margins": [*margins, *stamps], "properties": _joined(properties)}
    return {**parsed, "ocr": summary(recognised)} if recognised else parsed


def _way_of_reading(lines: list[_Line]) -> int:
    """Return the index of the correct reading in each `_Line`: 0 if the Arabic letters of the PDF are in visual order,
    or 1 if they are in logical order from left to right. Raises Unreadable if the words do not show the order."""
    evidence = sum(_is_in_order(turned) - _is_in_order(kept) for turned, kept in lines if turned != kept)
    if abs(evidence) < _LEAST_EVIDENCE and any(turned != kept for turned, kept in lines):
        raise Unreadable("the order of its Arabic letters cannot be determined")
    return 0 if evidence >= 0 else 1


def _is_in_order(text: str) -> int:
    """Count the words that begin with the article or end in a letter that occurs only at a word's end. Return this
    count minus the number of words that would meet these conditions if read backwards."""
    words: list[str] = _ARABIC_WORD.findall(text)
    begins = sum(word.startswith(("ال", "وال", "بال")) - word.startswith(("ة", "ى")) for word in words)
    return begins + sum(word.endswith(("ة", "ى")) - word.endswith(("لا", "لاو", "لاب")) for word in words)


def _characters(page: Any) -> tuple[list[Any], bool]:
    """Return the characters of a page, including the characters in embedded forms, and True if the page is scanned."""
    from pdfminer.layout import LTChar, LTCurve, LTFigure, LTImage

    characters, curves, images, todo = list[Any](), 0, list[float](), [page]
    while todo:
        for each in todo.pop():
            if isinstance(each, LTChar):
                if each.get_text().startswith("(cid:"):
                    raise Unreadable("its font does not name its characters")
                characters.append(each)
            elif isinstance(each, LTFigure):
                todo.append(each)
            elif isinstance(each, LTImage):
                images.append(each.width * each.height)
            curves += isinstance(each, LTCurve)
    if not characters:
        return [], bool(images) or curves >= _LEAST_CURVES
    letters = sum(not each.get_text().isspace() for each in characters)
    return characters, letters < _LEAST_CHARACTERS and sum(images) >= _LEAST_OF_PAGE * page.width * page.height


def _stamps(page: Any) -> Iterator[str]:
    """Yield the texts of a page's stamps, margin comments and form fields. Such a text may state a classification."""
    from pdfminer.pdftypes import dict_value, list_value, resolve1
    from pdfminer.psparser import PSLiteral
    from pdfminer.utils import decode_text

    for each in list_value(page.annots or []):
        annotation = {name: resolve1(value) for name, value in dict_value(each).items()}
        if getattr(annotation.get("Subtype"), "name", None) in _STAMPS:
            values = (annotation.get(name) for name in ("Contents", "V", "Name"))
            for value in values:
                if isinstance(value, bytes):
                    yield decode_text(value)
                elif isinstance(value, PSLiteral):  # a usual stamp, such as /TopSecret
                    yield re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(value.name).removeprefix("SB"))


def _lines(characters: list[Any]) -> Iterator[list[Any]]:
    """Yield each line as a list of its characters from left to right. Yield an empty list for a vertical gap."""
    line = list[Any]()
    for each in sorted(characters, key=lambda each: (-(each.y0 + each.y1) / 2, each.x0)):
        middle = (each.y0 + each.y1) / 2
        if line and abs(middle - sum((of.y0 + of.y1) / 2 for of in line[-3:]) / len(line[-3:])) > 0.4 * each.height:
            yield sorted(line, key=lambda each: each.x0)
            if line[0].y0 - each.y1 > 0.7 * each.height:
                yield []
            line = []
        line.append(each)
    if line:
        yield sorted(line, key=lambda each: each.x0)


def _line(characters: list[Any]) -> _Line:
    """Return a line as a `_Line`, with a tab between columns."""
    pieces, end, end_of_word = list[str](), None, None
    for each in characters:
        text = each.get_text()
        if end is not None and each.x0 - end > 0.2 * each.size and text.strip() and pieces[-1] != " ":
            pieces.append(" ")
        if text.strip():
            if end_of_word is not None and each.x0 - end_of_word > _WIDE * each.size:
                pieces[-1] = "\t"
            end_of_word = max(end_of_word or each.x1, each.x1)
        if not (text == " " and pieces and pieces[-1] == " "):
            pieces.append(text)
        end = max(end or each.x1, each.x1)
    kept = unicodedata.normalize("NFKC", "".join(pieces)).strip()
    if _ARABIC.search(kept) is None:
        return kept, kept
    # The letters of a ligature are in logical order, so the order of pieces is reversed, but not the letters in a
    # piece.
    turned = unicodedata.normalize("NFKC", "".join(reversed(pieces)).translate(_MIRRORED)).strip()
    return _LEFT_TO_RIGHT.sub(lambda match: match[0][::-1].translate(_MIRRORED), turned), kept


# --- workbooks --------------------------------------------------------------------------------------------------------

ROWS_OF_AN_ITEM = 1_000
_MOST_DIGITS = 10**15
"""Minimum size at which a number in a workbook may have lost digits."""


def parse_sheet(stream: IO[bytes], suffix: str, sheet: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sheet in objects with the key `rows`. Each object has at most `ROWS_OF_AN_ITEM` rows. Each
    cell is a text. Empty rows are omitted.

    Args:
        sheet: name of the sheet; None if the workbook has only one. Raises Unreadable for an unknown name.
    """
    with _workbook(stream, suffix) as book:
        if sheet is None and len(book.sheet_names) > 1:
            raise Unreadable(f"has {len(book.sheet_names)} sheets: name one under `sheet`")
        if sheet is not None and sheet not in book.sheet_names:
            raise Unreadable("has no sheet of this name")
        rows = [
            cells
            for row in book.get_sheet_by_name(sheet or book.sheet_names[0]).to_python(skip_empty_area=True)
            if any(cells := [*map(_cell, row)])
        ]
    width = max((place for row in rows for place, cell in enumerate(row, start=1) if cell), default=0)
    for first in range(0, len(rows), ROWS_OF_AN_ITEM):
        yield {"rows": [row[:width] for row in rows[first : first + ROWS_OF_AN_ITEM]]}


def parse_sheet_names(stream: IO[bytes], suffix: str) -> Iterator[dict[str, Any]]:
    """Yield one object with the names of a workbook's sheets under the key `sheets`."""
    with _workbook(stream, suffix) as book:
        yield {"sheets": book.sheet_names}


@contextmanager
def _workbook(stream: IO[bytes], suffix: str) -> Iterator[Any]:
    import python_calamine

    content = read_whole(stream)
    _reject_other_format(content, suffix)
    if suffix != ".xls" and any(b"<!ENTITY" in part for part in _parts(content, re.compile(r".*\.xml")).values()):
        raise Unreadable("declares entities of XML")
    try:
        yield python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
    except python_calamine.PasswordError:
        raise Unreadable("encrypted") from None
    except python_calamine.CalamineError as error:
        raise Unreadable(f"damaged ({type(error).__name__})") from None


def _cell(value: Any) -> str:
    """Return a cell as text, as a CSV export would. A number that may have lost digits is written as 1.2E+17."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and float(value).is_integer():
        return str(int(value)) if abs(value) < _MOST_DIGITS else f"{float(value):E}"
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return str(value).strip() if isinstance(value, str | float | date | time | timedelta) else ""


_PARSERS: Mapping[str, Callable[..., dict[str, Any]]] = {
    ".docx": _docx,
    ".odt": _odt,
    ".rtf": _rtf,
    ".html": _html,
    ".htm": _html,
    ".md": _text,
    ".markdown": _text,
    ".txt": _text,
    ".pdf": _pdf,
}
DOCUMENTS = tuple(_PARSERS)
"""Suffixes of documents. If a letter exists in several formats, the first of these formats is read."""
