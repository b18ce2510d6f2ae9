"""Scanned pages of PDFs: what OCR reads, what is quarantined, and what the record says of it."""

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.cli import doctor
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.ocr import LEAST_CONFIDENCE, find_tesseract
from sovereign_pipeline.corpus.office_files import SCANNED
from sovereign_pipeline.corpus.stages import DOCUMENTS, FILES, RAW_CORPUS, read_sources
from sovereign_pipeline.dataset.jsonl import CARD_FOR_PEOPLE
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.policy.line import load_lines
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import office, scans, test_attachments
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, put, raw_corpus
from sovereign_pipeline_tests.dataset.chain import card_of, dataset_stage
from sovereign_pipeline_tests.split.chain import materialize

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="needs tesseract: apt-get install tesseract-ocr tesseract-ocr-ara"
)

ENGLISH = """SECRET
Our reference: LMP/2024/17

Dear Sir or Madam,
The lamp of the second street has been out since Monday evening. Several
neighbours have complained, and two children fell on the steps last night.
Please mend it soon, and tell us on which day your workers will come."""
ARABIC = """الموضوع: المصباح القديم في المنطقة الثانية

السلام عليكم ورحمة الله وبركاته،
نرجو منكم إصلاح المصباح القديم في المنطقة الثانية، فقد انطفأ منذ مساء الاثنين
واشتكى عدد من الجيران، وسقط طفلان على الدرج ليلة أمس بسبب الظلام.
نأمل أن تخبرونا باليوم الذي سيحضر فيه العمال إلى الشارع."""
ARABIC_REPLY = "إشارة إلى كتابكم، فقد تم إصلاح المصباح المذكور في الشارع الثاني، مع الشكر على رسالتكم."
SCANS = {"request": "{case}/in", "reply": "{case}/out"}


def _kept(found: str, truth: str) -> float:
    """Share of the words that were found in their order."""
    wanted = scans.words([truth])
    matches = SequenceMatcher(None, wanted, scans.words([found]), autojunk=False).get_matching_blocks()
    return sum(match.size for match in matches) / len(wanted)


def _put(institution: DemoInstitution, letters: dict[str, bytes]) -> None:
    for case, content in letters.items():
        reply = (
            ARABIC_REPLY if case == "arabic" else "We have mended the lamp of this street. Thank you for the letter."
        )
        put(institution, {f"{case}/in.pdf": content, f"{case}/out.txt": reply.encode()})


@needs_tesseract
def test_scanned_pages_are_read_in_the_order_of_reading(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, parse = Counter[Path](), parsing.Sandboxes.items_of

    def noted(self: parsing.Sandboxes, path: Path) -> Iterator[dict[str, Any]]:
        parsed[path] += 1
        return parse(self, path)

    monkeypatch.setattr(parsing.Sandboxes, "items_of", noted)
    typed = office.pdf("The typed page stays as it is.\n\nPlease read on.")
    english = scans.page(ENGLISH, 150)
    _put(institution, {
        "english": scans.pdf(english, dots_per_inch=150),
        "arabic": scans.pdf(scans.skewed(scans.page(ARABIC, 200), 1), dots_per_inch=200),
        "mixed": scans.joined(typed, scans.pdf(english, dots_per_inch=150), typed),
    })  # fmt: skip
    raw = raw_corpus(institution, pairs=SCANS, constants={"date": "2024-03-12"}, ocr="tesseract")
    assert {*parsed.values()} == {1}  # the gate reads the files from the cache
    documents = {each.id.partition("/")[0]: each for each in read_documents(raw.file(DOCUMENTS))}
    assert _kept(documents["english"].request, ENGLISH) == 1
    assert _kept(documents["arabic"].request, ARABIC) > 0.9
    first, page, last = documents["mixed"].request.partition(documents["english"].request)
    assert page and "stays as it is" in first and "stays as it is" in last
    assert (documents["english"].classification, documents["arabic"].classification) == ("SECRET", "PUBLIC")

    read: dict[Any, Any] = {row["path"]: row["ocr"] for row in read_jsonl(raw.file(FILES)) if "ocr" in row}
    assert {name: each["pages"] for name, each in read.items()} == {
        "english/in.pdf": 1, "arabic/in.pdf": 1, "mixed/in.pdf": 1,
    }  # fmt: skip
    (source,) = read_sources(raw)
    words = sum(each["words"] for each in read.values())
    mean = sum(each["confidence"] * each["words"] for each in read.values()) / words
    assert source["ocr"] == {
        "documents": 3,
        "pages": 3,
        "mean_confidence": pytest.approx(mean, abs=0.051),
        "lowest_confidence": read["arabic/in.pdf"]["confidence"],
    }


@needs_tesseract
def test_scanned_attachments_of_mail_are_read(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "SECONDS", 2)  # for each page, not for the message
    page = scans.page(ENGLISH, 150)
    files = [
        ("letter.pdf", scans.pdf(*[page] * 3, dots_per_inch=150)),
        ("same.pdf", scans.pdf(page, dots_per_inch=150)),
    ]
    letter = test_attachments.message("1", "a@mail.example", "See below.", files)
    reply = test_attachments.message("2", "a@mail.example", test_attachments.REPLY, sent=True, answers="1")
    put(institution, {"1.eml": bytes(letter), "2.eml": bytes(reply)})
    own = {"kind": "mail", "ours": [test_attachments.DESK], "attachments": "read", "ocr": "tesseract"}
    raw = raw_corpus(institution, **own)
    (document,) = read_documents(raw.file(DOCUMENTS))
    assert _kept(document.request, "\n".join(["See below", *[ENGLISH] * 4])) == 1
    assert document.classification == "SECRET"
    (source,) = read_sources(raw)
    assert (source["ocr"]["documents"], source["ocr"]["pages"]) == (2, 4)


def _image_bomb(side: int = 20_000) -> bytes:
    """A PDF of 0.2 MB with an image in black and white of 20,000 by 20,000 pixels."""
    packed = zlib.compressobj(1)
    pixels = b"".join([*(packed.compress(bytes(side * side // 800)) for _ in range(100)), packed.flush()])
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /XObject << /I 5 0 R >> "
        b">> >>",
        b"<< /Length 31 >>\nstream\nq 600 0 0 800 0 0 cm /I Do Q  \nendstream",
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray /BitsPerComponent 1 /Filter "
        b"/FlateDecode /Length %d >>\nstream\n%s\nendstream" % (side, side, len(pixels), pixels),
    ]
    written = b"%PDF-1.4\n" + b"".join(b"%d 0 obj\n%s\nendobj\n" % each for each in enumerate(objects, 1))
    return written + b"trailer << /Size 6 /Root 1 0 R >>\n%%EOF\n"


def _beside_drawing(page: Image.Image) -> Image.Image:
    """Return the page with a net of short lines below the text."""
    for x in range(200, page.width - 200, 10):
        for y in range(800, page.height - 200, 10):
            page.paste(0, (x, y, x + 2, y + 4))
    return page


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a page of 10 by 10 metres": (
        lambda: scans.pdf(Image.new("L", (8, 8), 255), dots_per_inch=0.02), "page 1 is larger than 5 metres",
    ),
    "3,000 pages": (lambda: scans.pdf(*[Image.new("L", (8, 8), 255)] * 3_000), "has more than 100 scanned pages"),
    "an image of 0.4 gigapixels": (_image_bomb, "page 1 is scanned, and OCR finds no words"),
    "a strip of 5 metres": (
        lambda: scans.pdf(Image.new("L", (8, 800), 255), dots_per_inch=4), "page 1 is scanned, and OCR finds no words",
    ),
    "a blank page": (
        lambda: scans.pdf(scans.page("", 150), dots_per_inch=150), "page 1 is scanned, and OCR finds no words",
    ),
    "a page that nobody can read": (
        lambda: scans.pdf(scans.blurred(scans.page(ENGLISH, 150), 5), dots_per_inch=150),
        f"page 1 is scanned, and OCR's mean confidence is below {LEAST_CONFIDENCE:g}",
    ),
    "a page of which OCR reads a part": (
        lambda: scans.pdf(_beside_drawing(scans.page(ENGLISH, 150)), dots_per_inch=150),
        "page 1 is scanned, and OCR finds words in less than half of its strokes",
    ),
    "cut off": (lambda: scans.pdf(scans.page(ENGLISH, 150), dots_per_inch=150)[:5_000], "damaged (PDF)"),
}  # fmt: skip
"""What the PDF is -> its content, and the reason why it is quarantined."""


@needs_tesseract
@pytest.mark.security_case(
    "Scanned PDFs are huge: a page of 10 metres, thousands of pages, an image of 0.4 gigapixels; or unreadable",
    "OCR runs in the sandbox within limits for each page; each file is quarantined by its reason, and the next is read",
)
def test_huge_and_unreadable_scans_are_quarantined_by_reason(institution: DemoInstitution) -> None:
    letters = {f"{number}": content() for number, (content, _) in enumerate(HOSTILE.values())}
    _put(institution, {**letters, "whole": scans.pdf(scans.page(ENGLISH, 150), dots_per_inch=150)})
    raw = raw_corpus(institution, pairs=SCANS, constants={"date": "2024-03-12"}, ocr="tesseract")
    found = outcomes(raw)
    assert {what: found[f"{number}/in.pdf"] for number, what in enumerate(HOSTILE)} == {
        what: ("quarantined", reason) for what, (_, reason) in HOSTILE.items()
    }
    assert found["whole/in.pdf"][0] == "row"


@needs_tesseract
def test_a_card_states_what_ocr_read(institution: DemoInstitution) -> None:
    _put(institution, {"scan": scans.pdf(scans.page(ENGLISH, 150), dots_per_inch=150)})
    own = {"name": "scans", "kind": "documents", "path": "sources/folder", "pairs": SCANS, "ocr": "tesseract"}
    terms = {"licence": "own", "retention": "1 year", "constants": {"date": "2024-03-12"}}
    institution.recipe["sources"].append({**own, **terms, "classification_floor": "PUBLIC"})
    dataset, _ = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    letters, read = card_of(dataset).sources
    assert letters.ocr is None
    assert read.ocr is not None and (read.ocr.documents, read.ocr.pages) == (1, 1)
    assert f"| scans | 1 | 1 | {read.ocr.mean_confidence} |" in dataset.file(CARD_FOR_PEOPLE).read_text()


@needs_tesseract
def test_other_data_of_a_language_is_another_identity(
    institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(**source: str) -> str:
        own = {"name": "scans", "kind": "documents", "path": "sources/folder", "pairs": SCANS}
        institution.recipe["sources"] = [{**own, "licence": "own", "retention": "1 year", **source}]
        return digest_of(RAW_CORPUS.config(institution.workplace().line))

    without, with_ocr = identity(), identity(ocr="tesseract")
    data = tmp_path / "tessdata"
    data.mkdir()
    for path, file in find_tesseract().mounted.items():
        if path.endswith(".traineddata"):
            shutil.copy(file, data / file.name)
    monkeypatch.setenv("TESSDATA_PREFIX", str(data))
    assert identity(ocr="tesseract") == with_ocr
    with (data / "ara.traineddata").open("ab") as stream:
        stream.write(b"x")
    assert len({identity(ocr="tesseract"), with_ocr, without}) == 3


@pytest.mark.parametrize("missing", ["program", "data"])
def test_a_missing_program_is_reported_before_a_file_is_read(
    institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    _put(institution, {"scan": scans.pdf(Image.new("L", (8, 8), 255))})
    institution.write()
    if missing == "program":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        program = tmp_path / "tesseract"
        program.write_text(f"#!/bin/sh\necho 'List of available languages in \"{tmp_path}/\" (0):'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(parsing.Sandboxes, "items_of", lambda *_: pytest.fail("a file was read"))
    with pytest.raises(SourceError) as refused:
        raw_corpus(institution, pairs=SCANS, ocr="tesseract")
    assert "tesseract-ocr-ara" in str(refused.value)
    (finding,) = doctor.ocr(load_lines(institution.settings.data, institution.workplace().institution).valid)
    assert not finding.ok


def test_a_look_at_a_folder_counts_the_scanned_files(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(institution, {str(number): scans.pdf(Image.new("L", (8, 8), 255)) for number in range(3)})
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    folder = str(institution.settings.data / "sources" / "folder")
    shown = json.loads(CliRunner().invoke(app, ["sources", "look", folder, "--json"]).stdout)
    assert [each["files"] for each in shown["outcomes"] if each["reason"] == SCANNED] == [3]
    assert "ocr: 3 files" in CliRunner().invoke(app, ["sources", "look", folder, "--recipe"]).output
