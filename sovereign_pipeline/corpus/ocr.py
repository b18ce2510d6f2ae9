"""Read scanned pages of PDFs with Debian's program tesseract. It runs in the same sandbox as the parser that calls this
module."""

import re
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.sandbox import parts_of_machine
from sovereign_pipeline.corpus.parsing import Program, Unreadable, restart_limits

PACKAGES = {"eng": "tesseract-ocr", "ara": "tesseract-ocr-ara"}
"""Tesseract's name of a language -> Debian's package with the data for this language."""
LEAST_CONFIDENCE = 80.0
"""Minimum mean confidence of a page's words, from 0 to 100. docs/benchmarks/corpus.md has the measurements."""
LEAST_SHARE = 0.5
"""Minimum share of a page's strokes that lie in recognised words. Without this limit, a page would pass even if
tesseract reads only a few of its lines."""
GOOD_CONFIDENCE = 90.0
"""Product of mean confidence and share of strokes from which a page is not read again with other settings."""
MOST_PAGES = 100
SECONDS = 30
"""Maximum processor time in seconds of one run of tesseract. A page takes one to four runs."""
LARGEST_SIDE = 14_400
"""Maximum length of a page's side in points (5 metres), as in the PDF specification."""
_A3 = 1_191
"""Longer side of A3 in points. A larger page is scaled down to A3, because phones write a point for each pixel."""
_RENDERINGS = ((150, "0"), (300, "2"))
"""Resolution in dots per inch, and number of tesseract's thresholding method. Method 0 is Otsu's, which suits most
letters; method 2 is Sauvola's."""
_KEEP_LINES = ("-c", "textord_noise_rejrows=0", "-c", "textord_noise_rejwords=0")
"""Options without which tesseract drops whole lines of Arabic, because it classifies the dots of letters as noise
(tesseract-ocr, issue 4582)."""
_AT = "/ocr"
"""Directory in the sandbox with tesseract and its data."""
_ARABIC = re.compile("[\u0620-\u064a]")
_MARKS_OF_DIRECTION = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))


def find_tesseract() -> Program:
    """Return tesseract with its data for English and Arabic. Raises SourceError if the program or a part of the data is
    not installed."""
    path = shutil.which("tesseract")
    listed = _output(path, "--list-langs") if path is not None else ""
    directory = re.search(r'"(/.*)"', listed.partition("\n")[0])
    data = {name: Path(directory[1] if directory else "/", f"{name}.traineddata") for name in PACKAGES}
    missing = [package for name, package in PACKAGES.items() if path is None or not data[name].is_file()]
    if path is None or missing:
        raise SourceError(
            f"`ocr: tesseract` of a source needs tesseract with data for English and Arabic, and "
            f"{' and '.join(missing)} is not installed.",
            f"apt-get install {' '.join(missing)}",
        )
    # The second line has the version of leptonica, which prepares the pages.
    versions = [line.strip() for line in _output(path, "--version").splitlines()[:2]]
    decisive = {
        "code": file_sha256(Path(__file__)),
        "tesseract": versions,
        **{name: version(name) for name in ("pillow", "pypdfium2")},
        **{name: file_sha256(file) for name, file in data.items()},
    }
    program, *libraries = parts_of_machine(Path(path))
    mounted = {f"{_AT}/tesseract": Path(program), **{f"{_AT}/{file.name}": file for file in data.values()}}
    return Program(digest_of(decisive), mounted, tuple(libraries))


def _output(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, errors="replace", timeout=60, check=False)
    return done.stdout or done.stderr


@dataclass(frozen=True)
class ReadPage:
    """The text of a scanned page."""

    lines: list[str]
    """Lines in logical order, with an empty line between paragraphs."""
    words: int
    confidence: float
    """Mean confidence of the words, from 0 to 100."""
    share: float = 0.0
    """Share of the page's strokes that lie in words."""


def summary(pages: Mapping[int, ReadPage]) -> dict[str, Any]:
    """Return the number of pages and words, and the mean confidence of the words, for `files.jsonl`."""
    words = sum(page.words for page in pages.values())
    mean = sum(page.confidence * page.words for page in pages.values()) / words
    return {"pages": len(pages), "words": words, "confidence": round(mean, 1)}


# --- in the sandbox ---------------------------------------------------------------------------------------------------


def read_pages(content: bytes, numbers: list[int]) -> dict[int, ReadPage]:
    """Read some pages of a PDF, and return a dict from each page's number, from 1, to its text. Raises Unreadable for a
    page without words, and for a page below LEAST_CONFIDENCE or LEAST_SHARE."""
    import pypdfium2

    found = {}
    try:
        with pypdfium2.PdfDocument(content) as document:
            for number in numbers:
                found[number] = _read(document[number - 1], number)
    except pypdfium2.PdfiumError:
        raise Unreadable("damaged (PDF)") from None
    return found


def _read(page: Any, number: int) -> ReadPage:
    """Return the best reading of a page. Each rendering of the page is read with the data of both languages. If Arabic
    was found, the rendering is also read with the Arabic data alone, because with both tesseract reads some Arabic
    words as Latin words."""
    if max(page.get_size()) > LARGEST_SIDE:
        raise Unreadable(f"page {number} is larger than 5 metres")
    best = ReadPage([], 0, 0.0)
    for dots_per_inch, method in _RENDERINGS:
        picture = page.render(scale=dots_per_inch / 72 * min(1.0, _A3 / max(page.get_size())), grayscale=True).to_pil()
        strokes = _strokes(picture)
        for languages in ("ara+eng", "ara"):
            if languages == "ara+eng" or any(map(_ARABIC.search, best.lines)):
                table = _recognised(picture, number, languages, dots_per_inch, method)
                best = max(best, _page_of_table(table, strokes), key=lambda read: read.confidence * read.share)
        if best.confidence * best.share >= GOOD_CONFIDENCE:
            break
    if not best.words:
        raise Unreadable(f"page {number} is scanned, and OCR finds no words")
    if best.confidence < LEAST_CONFIDENCE:
        raise Unreadable(f"page {number} is scanned, and OCR's mean confidence is below {LEAST_CONFIDENCE:g}")
    if best.share < LEAST_SHARE:
        raise Unreadable(f"page {number} is scanned, and OCR finds words in less than half of its strokes")
    return best


def _strokes(picture: Any) -> Any:
    """Return a picture with one point for each dark stroke, at the stroke's upper left end. A long line therefore has
    one point, as a letter's stroke has."""
    from PIL import ImageChops, ImageFilter

    smooth = picture.filter(ImageFilter.MedianFilter(3))
    middle = sum(smooth.getextrema()) / 2
    dark = smooth.point(lambda grey: 255 if grey < middle else 0)
    left = ImageChops.subtract(dark, ImageChops.offset(dark, 1, 0))
    return ImageChops.subtract(left, ImageChops.offset(left, 0, 1))


def _recognised(picture: Any, number: int, languages: str, dots_per_inch: int, method: str) -> str:
    """Return tesseract's TSV of a page."""
    how = ("-l", languages, "--dpi", str(dots_per_inch), "-c", f"thresholding_method={method}", *_KEEP_LINES)
    try:
        done = subprocess.run(
            [f"{_AT}/tesseract", "-", "-", "--tessdata-dir", _AT, *how, "-c", "tessedit_create_tsv=1"],
            input=f"P5 {picture.width} {picture.height} 255\n".encode() + picture.tobytes(),
            capture_output=True,
            check=False,
            env={"OMP_THREAD_LIMIT": "1", "LC_ALL": "C"},
            preexec_fn=_limit_time,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreadable(f"tesseract does not start ({type(error).__name__})") from None
    restart_limits()
    if done.returncode < 0:
        raise Unreadable(f"page {number} takes tesseract more than {SECONDS} seconds, or too much memory")
    if done.returncode:
        raise Unreadable(f"tesseract cannot read page {number}")
    table: bytes = done.stdout
    return table.decode(errors="replace")


def _limit_time() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))


def _page_of_table(table: str, strokes: Any) -> ReadPage:
    """Convert tesseract's TSV to a page. The TSV has a row for each word in reading order, with the word's position and
    the numbers of its block, paragraph and line."""
    from PIL import ImageDraw

    lines, last, confidences = list[list[str]](), ("", "", ""), list[float]()
    outside = strokes.copy()
    drawing = ImageDraw.Draw(outside)
    for row in table.splitlines()[1:]:
        level, _, block, paragraph, line, _, left, top, width, height, confidence, text = row.split("\t")
        text = text.translate(_MARKS_OF_DIRECTION).strip()
        if level != "5" or not text:
            continue
        confidences.append(float(confidence))
        drawing.rectangle((int(left) - 2, int(top) - 2, int(left) + int(width) + 2, int(top) + int(height) + 2), 0)
        if (block, paragraph, line) != last:
            if lines and (block, paragraph) != last[:2]:
                lines.append([])
            lines.append([])
            last = block, paragraph, line
        lines[-1].append(text)
    share = 1 - outside.histogram()[255] / max(1, strokes.histogram()[255])
    mean = sum(confidences) / len(confidences) if confidences else 0.0
    return ReadPage([" ".join(words) for words in lines], len(confidences), mean, share)
