"""The two stages of the corpus room: raw_corpus (read and quarantine) and classified_corpus (inherit levels)."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents, write_jsonl
from sovereign_pipeline.corpus.reading import Quarantined, SourceReader
from sovereign_pipeline.errors import CeilingExceeded, QuarantineExceeded, SourceError
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.line import Line

DOCUMENTS = "documents.jsonl"
QUARANTINE = "quarantine.jsonl"
SOURCES = "sources.json"


def source_path(workplace: Workplace, source: Source) -> Path:
    return workplace.settings.data / source.path


def _source_digests(workplace: Workplace) -> dict[str, str]:
    return {f"source:{source.name}": _digest_of_source(workplace, source) for source in workplace.line.sources}


def _digest_of_source(workplace: Workplace, source: Source) -> str:
    path = source_path(workplace, source)
    if not path.is_file():
        raise SourceError(
            f"Line {workplace.line.line}: source '{source.name}' should be at {path}, and is not. Correct its path in "
            f"the recipe, or put the file there."
        )
    return file_sha256(path)


def _raw_config(line: Line) -> Config:
    return {
        "sources": [source.model_dump(mode="json") for source in line.sources],
        "quarantine": line.quarantine.model_dump(mode="json"),
    }


def build_raw_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the documents of every source, and a line of quarantine for each row that is none.

    The files themselves stay where they are and are pinned by digest: a copy would carry quarantined rows along, whose
    level may be unknown. Raises SourceError for an unreadable file and QuarantineExceeded above the share, per source.
    """
    seen: set[str] = set()
    kept = []
    quarantined: list[Quarantined] = []

    def documents() -> Iterator[Document]:
        for source in workplace.line.sources:
            path = source_path(workplace, source)
            reader = SourceReader(source, path, workplace.line.quarantine, workplace.institution.ladder, seen)
            for outcome in reader:
                if isinstance(outcome, Document):
                    yield outcome
                else:
                    quarantined.append(outcome)
            count = reader.count
            workplace.progress(
                f"{source.name}: {count.documents:,} documents, {count.quarantined:,} quarantined, "
                f"{count.not_selected:,} not selected"
            )
            _stop_above_share(workplace, source, path, count.rows - count.not_selected, quarantined)
            described = source.model_dump(mode="json", include={"name", "path", "role", "licence", "retention"})
            kept.append({**described, "sha256": file_sha256(path), **asdict(count)})

    rows = write_documents(workspace / DOCUMENTS, documents())
    if rows == 0:
        raise SourceError(
            f"Line {workplace.line.line}: its sources hold no document at all. Look at `where` and paths."
        )
    write_jsonl(workspace / QUARANTINE, (asdict(row) for row in quarantined))
    (workspace / SOURCES).write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    reasons = Counter(row.reason for row in quarantined)
    return Built(
        summary={
            "rows": rows,
            "quarantined": len(quarantined),
            "not_selected": sum(source["not_selected"] for source in kept),
            "quarantine_reasons": dict(sorted(reasons.items())),
            "sources": {source["name"]: source["documents"] for source in kept},
        },
        classification=workplace.institution.ladder.highest(
            document.classification for document in read_documents(workspace / DOCUMENTS)
        ),
    )


def _stop_above_share(
    workplace: Workplace, source: Source, path: Path, rows: int, quarantined: list[Quarantined]
) -> None:
    broken = [row for row in quarantined if row.source == source.name]
    limit = workplace.line.quarantine.max_share
    if not broken or len(broken) <= limit * rows:
        return
    shown = "; ".join(f"row {row.row}{f' ({row.id})' if row.id else ''}: {row.reason}" for row in broken[:10])
    more = f"; and {len(broken) - 10} more" if len(broken) > 10 else ""
    raise QuarantineExceeded(
        f"Line {workplace.line.line}: {len(broken)} of {rows} rows of source '{source.name}' ({path}) are broken, "
        f"{len(broken) / rows:.1%}, and the recipe allows {limit:.1%}. {shown}{more}. Correct the rows, or raise "
        f"quarantine.max_share in the recipe if that is right."
    )


def build_classified_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Inherit classification: a document is at least as high as the highest document of its case file.

    Raises CeilingExceeded, naming row id and level, before anything further is made of the line.
    """
    ladder = workplace.institution.ladder
    raw = inputs["raw_corpus"].file(DOCUMENTS)
    by_case: dict[str, str] = {}
    for document in read_documents(raw):
        level = by_case.get(document.case, document.classification)
        by_case[document.case] = ladder.highest((level, document.classification))
    _stop_above_ceiling(workplace, raw)
    histogram: Counter[str] = Counter()
    raised = 0

    def classified() -> Iterator[Document]:
        nonlocal raised
        for document in read_documents(raw):
            level = by_case[document.case]
            raised += level != document.classification
            histogram[level] += 1
            yield document.model_copy(update={"classification": level})

    rows = write_documents(workspace / DOCUMENTS, classified())
    return Built(
        summary={
            "rows": rows,
            "raised_by_case": raised,
            "levels": {level: histogram[level] for level in ladder.levels if histogram[level]},
            "ceiling": workplace.line.ceiling,
        },
        classification=ladder.highest(histogram),
    )


def _stop_above_ceiling(workplace: Workplace, documents: Path) -> None:
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    above = [
        (document.id, document.classification, document.source)
        for document in read_documents(documents)
        if ladder.exceeds(document.classification, ceiling)
    ]
    if not above:
        return
    shown = "; ".join(f"row {id} of source '{source}' is {level}" for id, level, source in above[:10])
    more = f"; and {len(above) - 10} more" if len(above) > 10 else ""
    raise CeilingExceeded(
        f"Line {workplace.line.line} may hold {ceiling} at most: {shown}{more}. Nothing further was made. Take these "
        f"documents out of the line's sources, or have the ceiling of the line raised."
    )


def evaluate_classification_inherited(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Recomputed from the raw documents: no level fell, each case has one level, the manifest has the highest."""
    ladder = workplace.institution.ladder
    fallen: list[str] = []
    level_of: dict[str, str] = {}
    mixed: dict[str, None] = {}
    highest = ladder.levels[0]
    pairs = zip(
        read_documents(inputs["raw_corpus"].file(DOCUMENTS)), read_documents(artifact.file(DOCUMENTS)), strict=True
    )
    for before, after in pairs:
        if before.id != after.id or ladder.exceeds(before.classification, after.classification):
            fallen.append(after.id)
        if level_of.setdefault(after.case, after.classification) != after.classification:
            mixed[after.case] = None
        highest = ladder.highest((highest, after.classification))
    evidence = {"lowered": len(fallen), "cases_with_mixed_levels": len(mixed), "highest": highest}
    if fallen:
        return Verdict(False, f"{len(fallen)} documents lost their level or place, first {fallen[0]}.", evidence)
    if mixed:
        return Verdict(False, f"{len(mixed)} case files hold more than one level, first {next(iter(mixed))}.", evidence)
    if artifact.manifest.classification != highest:
        return Verdict(False, f"the corpus says {artifact.manifest.classification}, its documents {highest}.", evidence)
    if ladder.exceeds(highest, workplace.line.ceiling):
        return Verdict(False, f"{highest} is above the line's ceiling {workplace.line.ceiling}.", evidence)
    return Verdict(True, f"no level fell; {len(level_of):,} case files; the corpus is {highest}.", evidence)


def evaluate_rows_accounted_for(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """The source files, read again: every row is a document, quarantined, or not selected."""
    if artifact.manifest.external_inputs != _source_digests(workplace):
        return Verdict(False, "a source file was changed since it was read.", {})
    documents = sum(1 for _ in read_documents(artifact.file(DOCUMENTS)))
    with artifact.file(QUARANTINE).open("rb") as stream:
        quarantined = sum(1 for _ in stream)
    seen: set[str] = set()
    read = 0
    for source in workplace.line.sources:
        path = source_path(workplace, source)
        reader = SourceReader(source, path, workplace.line.quarantine, workplace.institution.ladder, seen)
        for _ in reader:
            pass
        read += reader.count.rows - reader.count.not_selected
    evidence = {"rows": read, "documents": documents, "quarantined": quarantined}
    passed = read == documents + quarantined
    return Verdict(passed, f"{read:,} rows = {documents:,} documents + {quarantined:,} quarantined.", evidence)


RAW_CORPUS = Stage(
    kind="raw_corpus",
    code_version="2",
    build=build_raw_corpus,
    config=_raw_config,
    external=_source_digests,
    gates=(
        Gate(
            name="rows_accounted_for",
            question="Is every row of every source file a document, or quarantined with a reason?",
            code_version="2",
            evaluate=evaluate_rows_accounted_for,
        ),
    ),
)

CLASSIFIED_CORPUS = Stage(
    kind="classified_corpus",
    code_version="2",
    build=build_classified_corpus,
    inputs=(RAW_CORPUS,),
    config=lambda line: {"ceiling": line.ceiling},
    gates=(
        Gate(
            name="classification_inherited",
            question="Did no level fall, and is the corpus as high as its highest document?",
            code_version="1",
            evaluate=evaluate_classification_inherited,
            config=lambda line: {"ceiling": line.ceiling},
        ),
    ),
)
