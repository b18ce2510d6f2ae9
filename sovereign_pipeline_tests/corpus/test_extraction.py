"""Folders of documents as a source: what is read, which reply answers which letter, and what becomes of each file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.stages import DOCUMENTS, FILES, RAW_CORPUS, read_sources
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import office

ENGLISH = """Ref: LMP/2024/{0}
Date: 2024-03-12
Subject: Lamp {0}

The lamp of street {0} is out. Please mend it soon, with thanks."""
REPLY = """Ref: OUT/{0}
Your ref: LMP/2024/{0}
Date: 2024-03-19

We have mended the lamp of street {0}. Thank you for the letter."""
ARABIC = """الرقم: م/2024/{0}
التاريخ: 2024-04-02
الموضوع: المصباح القديم

السلام عليكم، نرجو إصلاح المصباح رقم {0} في المنطقة الثانية."""
ARABIC_REPLY = """الرقم: ص/{0}
التاريخ: 2024-04-09

إشارة إلى كتابكم رقم م/2024/{0}، تم إصلاح المصباح المذكور في المنطقة الثانية."""
WRITERS: dict[str, Callable[..., bytes]] = {
    ".docx": office.docx,
    ".odt": office.odt,
    ".rtf": office.rtf,
    ".html": office.html,
    ".pdf": office.pdf,
    ".txt": lambda text, header="": f"{header}\n{text}".encode(),
    ".md": lambda text, header="": f"{header}\n{text}".encode(),
}


def raw_corpus(institution: DemoInstitution, **source: Any) -> Artifact:
    """Build a raw corpus from the folder `sources/folder`, pass its gates, and return it."""
    own = {"name": "letters", "path": "sources/folder", "kind": "documents", "classification_floor": "PUBLIC"}
    institution.recipe["sources"] = [{**own, "licence": "own", "retention": "1 year", **source}]
    institution.recipe.setdefault("quarantine", {"max_share": 0.9})
    workplace = institution.workplace()
    raw = produce(RAW_CORPUS, workplace, {}).ref
    verdicts = evaluate_gates(RAW_CORPUS, workplace, raw)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    return workplace.store.open(raw)


def put(institution: DemoInstitution, files: dict[str, bytes]) -> Path:
    folder = institution.settings.data / "sources" / "folder"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def outcomes(raw: Artifact) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["outcome"], row["reason"]) for row in read_jsonl(raw.file(FILES))}  # type: ignore[misc]


BY_PATH = {"request": "{case}/{date}-in", "reply": "{case}/{date}-out"}


def test_eighty_pairs_of_every_kind_are_read_whole(institution: DemoInstitution) -> None:
    files, texts = dict[str, bytes](), dict[str, tuple[str, str]]()
    for number in range(80):
        suffixes = [*WRITERS]
        kind, other = suffixes[number % 7], suffixes[(number // 7) % 7]
        pair = (ENGLISH, REPLY) if number % 2 else (ARABIC, ARABIC_REPLY)
        request, reply = (text.format(number) for text in pair)
        files[f"c{number}/2024-03-12-in{kind}"] = WRITERS[kind](request)
        files[f"c{number}/2024-03-19-out{other}"] = WRITERS[other](reply)
        texts[f"c{number}/2024-03-12-in"] = request, reply
    put(institution, files)
    raw = raw_corpus(institution, pairs=BY_PATH)
    found = {document.id: document for document in read_documents(raw.file(DOCUMENTS))}
    assert found.keys() == texts.keys()

    def words(text: str) -> list[str]:
        return text.split()

    for id, (request, reply) in texts.items():
        assert words(found[id].request) == words(request)
        assert words(found[id].response) == words(reply)
        assert (found[id].case, found[id].date) == (id.partition("/")[0], "2024-03-19")
    assert Counter(outcome for outcome, _ in outcomes(raw).values()) == {"row": 160}
    (source,) = read_sources(raw)
    assert (source["files"], source["in_rows"], source["documents"]) == (160, 160, 80)
