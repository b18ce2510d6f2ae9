"""Define the stages raw_corpus (read, quarantine) and classified_corpus (inherit classification), with their gates."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.base.errors import CeilingExceeded, PrivacyError, QuarantineExceeded, SourceError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import and_more, counted, folded
from sovereign_pipeline.corpus.columns import SPELLINGS_REMEMBERED, ColumnScreen
from sovereign_pipeline.corpus.document import (
    Document,
    Quarantined,
    format_rows_by_reason,
    jsonl_line,
    read_documents,
    read_jsonl,
    remedy_for,
    write_documents,
    write_jsonl,
)
from sovereign_pipeline.corpus.documents_from_rows import SourceReader, levels_by_case, readers_of, source_digests
from sovereign_pipeline.corpus.extraction import extractor_of
from sovereign_pipeline.corpus.languages import unsearched_language
from sovereign_pipeline.corpus.ocr import find_tesseract
from sovereign_pipeline.corpus.parsing import digest_of_source
from sovereign_pipeline.corpus.values import format_values
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder, Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact

DOCUMENTS = "documents.jsonl"
QUARANTINE = "quarantine.jsonl"
SOURCES = "sources.json"
FILES = "files.jsonl"
"""File of a raw corpus with the outcome of each file or message, if there are sources of mail or documents."""
LEFT_OUT = "left_out.json"
"""File of a raw corpus with the result of `Readers.levels_left_out`. Missing if the result is empty."""
COLUMN_SECRET = "column_secret"
"""Key under which a manifest records the fingerprint of the secret for pseudonyms in columns."""


def _raw_config(line: Line) -> Config:
    extractors = {source.kind: version for source in line.sources if (version := extractor_of(source)) is not None}
    privacy = line.privacy.identity()
    of_columns = {name: privacy[name] for name in ("recognizers", "phone_regions") if name in privacy}
    return {
        "sources": [source.description for source in line.sources],
        "quarantine": line.quarantine.model_dump(mode="json", exclude={"max_links_without_row"}),
        # A key that a later release added is included only if it has an effect, so that older identities stay valid.
        **({"needs_author": True} if line.split.by_author else {}),
        **({"extractors": extractors} if extractors else {}),
        **({"ocr": find_tesseract().version} if any(source.ocr for source in line.sources) else {}),
        **({"keeps_turns": True} if any(source.layout != "columns" for source in line.sources) else {}),
        "columns": {
            "personal_data": line.privacy.columns,
            "keep_words": list(line.privacy.keep_words),
            **of_columns,
        },
    }


def _sensitive_kinds(institution: Institution, line: Line) -> Config:
    """Return the institution's treatment of each kind of personal data in this line of adapters."""
    return {"sensitive": dict(institution.treatments(line.line))}


def _outside_files(workplace: Workplace) -> dict[str, str]:
    return {**source_digests(workplace), **workplace.column_parts()}


def build_raw_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the documents of every source, and the quarantined rows with the reasons for quarantine.

    The corpus records the digests of the source files, but contains no copies. A copy would contain quarantined rows,
    and the classification level of such a row may be unknown. Raises SourceError if a file is unreadable or does not
    match the recipe, or if no row becomes a document. Raises QuarantineExceeded for too many broken rows. Raises
    PrivacyError if an exclusion contains personal data, if a row's id, case, department or link contains a kind that
    the policy stops at, or if the secret for pseudonyms has changed.
    """
    secret = cache(workplace.column_secret)
    readers = readers_of(workplace, RAW_CORPUS.config_at(workplace), secret)
    for reader in readers.of_sources:
        reader.exclusions.refuse_personal_data()
    quarantined: list[Quarantined] = []

    def documents() -> Iterator[Document]:
        for reader in readers.of_sources:
            source = reader.source
            broken: list[Quarantined] = []
            for outcome in reader:
                if isinstance(outcome, Document):
                    yield outcome
                else:
                    broken.append(outcome)
            count = reader.count
            workplace.progress(
                f"source '{source.name}': {count.documents:,} documents, {count.quarantined:,} rows quarantined, "
                f"{count.excluded:,} excluded, {count.not_selected:,} not selected"
            )
            reader.reject_unlike_recipe()
            reader.exclusions.reject_unmatched(reader.path)
            _stop_above_share(workplace, reader, broken)
            quarantined.extend(broken)

    rows = write_documents(workspace / DOCUMENTS, documents())
    if rows == 0:
        counts = "; ".join(
            f"'{reader.source.name}' has {reader.count.rows:,} rows, {reader.count.quarantined:,} of them quarantined, "
            f"{reader.count.excluded:,} excluded and {reader.count.not_selected:,} not selected"
            for reader in readers.of_sources
        )
        raise SourceError(
            f"Line {workplace.line.line}: the sources have no documents: {counts}.",
            "Check `where`, `exclude` and `path` of each source.",
        )
    described = readers.described(source_digests(workplace))
    write_jsonl(workspace / QUARANTINE, (asdict(row) for row in quarantined))
    if any(reader.extraction for reader in readers.of_sources):
        write_jsonl(workspace / FILES, readers.files)
    if left_out := readers.levels_left_out(workspace / DOCUMENTS, workplace.institution.ladder):
        (workspace / LEFT_OUT).write_text(json.dumps(left_out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (workspace / SOURCES).write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    reasons = Counter(row.reason for row in quarantined)
    return Built(
        summary={
            "rows": rows,
            "quarantined": len(quarantined),
            "excluded": sum(source["excluded"] for source in described),
            "not_selected": sum(source["not_selected"] for source in described),
            "quarantine_reasons": dict(sorted(reasons.items())),
            "sources": {source["name"]: source["documents"] for source in described},
        },
        classification=workplace.institution.ladder.highest(
            document.classification for document in read_documents(workspace / DOCUMENTS)
        ),
        recorded=_recorded_secret(workplace, secret()) if secret.cache_info().currsize else {},
    )


def _recorded_secret(workplace: Workplace, secret: bytes) -> dict[str, str]:
    """Return the fingerprint of the secret for pseudonyms. Raises PrivacyError if the newest raw corpus has a different
    fingerprint: rows that were trained on could then no longer be matched with held-out rows."""
    fingerprint = sha256(secret).hexdigest()
    store = workplace.store
    made = [store.read_manifest(ref).circumstances for ref in store.indexed(RAW_CORPUS.kind)]
    earlier = [(each.created_at, each.recorded[COLUMN_SECRET]) for each in made if COLUMN_SECRET in each.recorded]
    if earlier and max(earlier)[1] != fingerprint:
        raise PrivacyError(
            f"Line {workplace.line.line}: the secret in columns.key differs from the secret of earlier corpora.",
            "Restore columns.key from the backup of the vault, or set privacy.columns to quarantine.",
        )
    return {COLUMN_SECRET: fingerprint}


def _stop_above_share(workplace: Workplace, reader: SourceReader, broken: list[Quarantined]) -> None:
    count, limit = reader.count, workplace.line.quarantine.max_share
    rows = count.rows - count.not_selected - count.excluded
    if not broken or len(broken) <= limit * rows:
        return
    levels = f" Unknown levels: {format_values(reader.unknown_levels)}." if reader.unknown_levels else ""
    raise QuarantineExceeded(
        f"Line {workplace.line.line}: {len(broken):,} of {rows:,} rows of source '{reader.source.name}' "
        f"({reader.path}) are broken, {len(broken) / rows:.1%}; the recipe allows {limit:.1%}. "
        f"{format_rows_by_reason(broken)}.{levels}",
        remedy_for(broken, workplace.institution.ladder),
        act="look_at_source",
        file=str(reader.path),
    )


def build_classified_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the documents, each with the highest classification level in its case.

    Every row of the sources counts for the level of its case, even if the row is excluded, quarantined or not selected.
    All spellings of a case count as one (`folded`). Raises CeilingExceeded, which names rows and levels, if the level
    of a case is above the line's ceiling.
    """
    ladder = workplace.institution.ladder
    raw = inputs["raw_corpus"].file(DOCUMENTS)
    by_case = {**levels_by_case(raw, ladder), **_left_out(inputs["raw_corpus"])}
    _stop_above_ceiling(workplace, raw, by_case)
    histogram: Counter[str] = Counter()
    raised = 0

    def classified() -> Iterator[Document]:
        nonlocal raised
        for document in read_documents(raw):
            level = by_case[folded(document.case)]
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


def _left_out(raw_corpus: Artifact) -> dict[str, str]:
    """Read the result of `Readers.levels_left_out` from a raw corpus. Return an empty dict if none is stored."""
    if all(entry.path != LEFT_OUT for entry in raw_corpus.manifest.files):
        return {}
    levels: dict[str, str] = json.loads(raw_corpus.file(LEFT_OUT).read_bytes())
    return levels


def _stop_above_ceiling(workplace: Workplace, documents: Path, by_case: Mapping[str, str]) -> None:
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    own, of_case = list[str](), list[str]()
    for document in read_documents(documents):
        level, named = document.classification, f"row {document.id} of source '{document.source}' is"
        if ladder.exceeds(level, ceiling):
            own.append(f"{named} {level}")
        elif ladder.exceeds(level := by_case[folded(document.case)], ceiling):
            of_case.append(f"{named} in a case file with a {level} row")
    if own or of_case:
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {ceiling}, but "
            f"{and_more(own + of_case, separator='; ')}. No further artifact of the line was built.",
            "Remove the whole case files of these documents from the line's sources, or raise the line's ceiling.",
        )


def evaluate_classification_inherited(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Compare the documents with the raw corpus. Verify that no document's level fell, that all documents of a case
    have the same level, and that none of the case's rows that became no document has a higher one. Also verify that the
    manifest states the highest level of all documents, and that this level is not above the line's ceiling."""
    ladder = workplace.institution.ladder
    left_out = _left_out(inputs["raw_corpus"])
    fallen: list[str] = []
    level_of: dict[str, str] = {}
    mixed: dict[str, None] = {}
    highest = ladder.levels[0]
    pairs = zip(
        read_documents(inputs["raw_corpus"].file(DOCUMENTS)), read_documents(artifact.file(DOCUMENTS)), strict=True
    )
    for before, after in pairs:
        least = ladder.highest((before.classification, left_out.get(folded(after.case), before.classification)))
        if before.id != after.id or ladder.exceeds(least, after.classification):
            fallen.append(after.id)
        if level_of.setdefault(folded(after.case), after.classification) != after.classification:
            mixed[after.case] = None
        highest = ladder.highest((highest, after.classification))
    evidence = {"lowered": len(fallen), "cases_with_mixed_levels": len(mixed), "highest": highest}
    if fallen:
        documents = counted(len(fallen), "document has", "documents have")
        problem = "a lower level or a different place than in the raw corpus"
        return Verdict(False, f"{documents} {problem}: {and_more(fallen)}.", evidence)
    if mixed:
        cases = counted(len(mixed), "case file has", "case files have")
        return Verdict(False, f"{cases} more than one level: {and_more(mixed)}.", evidence)
    if artifact.manifest.classification != highest:
        stated = artifact.manifest.classification
        return Verdict(False, f"the manifest states {stated}, and the highest document is {highest}.", evidence)
    if ladder.exceeds(highest, workplace.line.ceiling):
        return Verdict(False, f"{highest} is above the line's ceiling {workplace.line.ceiling}.", evidence)
    cases = counted(len(level_of), "case file")
    return Verdict(True, f"no level fell; {cases}; the corpus is {highest}.", evidence)


def evaluate_rows_accounted_for(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Verify that every row of the source files is stored unchanged as a document, quarantined, excluded, or not
    selected. The rows' levels are also checked by code that the build does not use."""
    if artifact.manifest.external_inputs != _outside_files(workplace):
        return Verdict(False, "a source file or a word list has changed since it was read.", {})
    ladder, readers = workplace.institution.ladder, readers_of(workplace, RAW_CORPUS.config_at(workplace))
    found = compare_with_sources(artifact, DOCUMENTS, QUARANTINE, readers.of_sources, ladder)
    evidence = {
        "rows": found.rows,
        "documents": found.documents,
        "quarantined": found.quarantined,
        "excluded": found.excluded,
        "not_selected": found.not_selected,
        "different": len(found.different),
        "lowered": len(found.lowered),
    }
    highest, stated = ladder.highest(found.levels), artifact.manifest.classification
    if found.lowered:
        documents = counted(len(found.lowered), "document is", "documents are")
        return Verdict(False, f"{documents} below the level of the row: {and_more(found.lowered)}.", evidence)
    if found.different:
        documents = counted(len(found.different), "document differs from its row", "documents differ from their rows")
        return Verdict(False, f"{documents}: {and_more(found.different)}.", evidence)
    if found.quarantine_differs:
        return Verdict(False, "the quarantined rows are not the rows that are broken in the source files.", evidence)
    if any(stored != read for stored, read in zip_longest(_files(artifact), readers.files)):
        return Verdict(False, f"{FILES} differs from the outcomes of reading the files a second time.", evidence)
    if read_sources(artifact) != readers.described(artifact.manifest.external_inputs):
        return Verdict(False, f"{SOURCES} and the sources differ in files, terms or counts.", evidence)
    if stated != highest:
        return Verdict(False, f"the manifest states {stated}, and the highest document is {highest}.", evidence)
    if _left_out(artifact) != readers.levels_left_out(artifact.file(DOCUMENTS), ladder):
        return Verdict(False, f"{LEFT_OUT} and the rows that became no document differ in levels.", evidence)
    passed = found.rows == found.documents + found.quarantined + found.excluded + found.not_selected
    message = (
        f"{found.rows:,} rows = {found.documents:,} documents + {found.quarantined:,} quarantined + "
        f"{found.excluded:,} excluded + {found.not_selected:,} not selected, each as read."
    )
    if outcomes := Counter(each["outcome"] for each in readers.files):
        evidence |= {"units": outcomes.total(), **{f"units_{outcome}": times for outcome, times in outcomes.items()}}
        parts = " + ".join(f"{times:,} {outcome}" for outcome, times in sorted(outcomes.items()))
        message += f" {counted(outcomes.total(), 'file or message', 'files or messages')} = {parts}."
    if unread := sum(reader.left_out_unread for reader in readers.of_sources):
        rows = counted(unread, "row that became no document states", "rows that became no document state")
        message += f" {rows} no level or case that can be read, and raise no case file."

    return Verdict(passed, message, evidence)


def _files(raw_corpus: Artifact) -> Iterator[dict[str, object]]:
    has = any(entry.path == FILES for entry in raw_corpus.manifest.files)
    return read_jsonl(raw_corpus.file(FILES)) if has else iter(())


def read_sources(raw_corpus: Artifact) -> list[dict[str, Any]]:
    """Return the content of `sources.json`: one dict for each source."""
    sources: list[dict[str, Any]] = json.loads(raw_corpus.file(SOURCES).read_bytes())
    return sources


def _changed_rows(workplace: Workplace, ref: ArtifactRef) -> str:
    raw = workplace.store.open_as_given(ref)
    documents = raw.file(DOCUMENTS) if not raw.withheld else None
    screen = ColumnScreen.of(raw.manifest.producer.config, workplace.kinds_in_columns, workplace.column_secret)
    changed = changed_sources(workplace.settings.data, raw.manifest, read_sources(raw), documents, screen)
    return " ".join(str(each) for each in changed).rstrip(".")


def evaluate_links_name_rows(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Verify that in each source the share of links to missing rows is at most the recipe's limit. The gate
    `rows_accounted_for` verifies the counts that are used here."""
    limit = workplace.line.quarantine.max_links_without_row
    sources = [row for row in read_sources(artifact) if row["links"]]
    shares = {row["name"]: row["links_without_row"] / row["links"] for row in sources}
    evidence = {name: round(share, 4) for name, share in shares.items()}
    to_itself = sum(row.get("links_to_itself", 0) for row in read_sources(artifact))
    own = f" {counted(to_itself, 'link leads', 'links lead')} from a row to itself." if to_itself else ""
    if not sources:
        return Verdict(True, f"no row has a link to another row.{own}", evidence)
    counts = ", ".join(f"{row['links_without_row']:,} of {row['links']:,} in '{row['name']}'" for row in sources)
    message = f"links that name no row: {counts}; the recipe allows {limit:.0%} of a source.{own}"
    if max(shares.values()) > limit:
        return Verdict(False, f"{message} Compare the ids with the links; leading zeros count.", evidence)
    return Verdict(True, message, evidence)


MOST_IN_OTHER_LANGUAGE = 0.02
"""Maximum share of documents with a text that is certainly in a different language than the document."""


def evaluate_languages_right(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Verify that at most MOST_IN_OTHER_LANGUAGE of the documents have a text in a language that differs from the
    document's. In such a text, name detection would miss names or find wrong ones. A document may have texts in two
    languages if names are detected in both languages, and the scripts differ."""
    counts, wrong, documents = Counter[str](), list[str](), 0
    for document in read_documents(artifact.file(DOCUMENTS)):
        documents += 1
        found = unsearched_language(document.texts_in_language, document.language, workplace.line.privacy.detected)
        if found is not None:
            counts[f"{document.language}, found {found}"] += 1
            wrong.append(document.id)
    share = len(wrong) / max(1, documents)
    evidence = {"documents": documents, "in_other_language": len(wrong), "share": round(share, 6), "languages": counts}
    named = "; ".join(f"{stated}: {times:,}" for stated, times in counts.most_common())
    message = f"{len(wrong):,} of {documents:,} documents have a text in another language than their own ({share:.1%})"
    if share <= MOST_IN_OTHER_LANGUAGE:
        return Verdict(True, f"{message}; at most {MOST_IN_OTHER_LANGUAGE:.0%} may.", evidence)
    return Verdict(
        False,
        f"{message}, more than {MOST_IN_OTHER_LANGUAGE:.0%} ({named}): {and_more(wrong)}. Correct the column of "
        f"languages, or remove the constant `language` and set `language_from_text: true`. Leave out rows in two "
        f"languages with `exclude`.",
        evidence,
        tuple({"document": id} for id in wrong),
    )


# --- changed sources --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangedRows:
    """The documents of one source that differ from the source's current file."""

    withdrawn: tuple[str, ...]
    """Ids of documents whose row is no longer in the source file, or is now broken."""
    reclassified: tuple[str, ...]
    """Ids of documents whose classification level changed."""
    reworded: tuple[str, ...]
    """Ids of documents in which a text or field changed, but not the level."""
    added: int
    """Number of added rows that would become documents."""

    def __str__(self) -> str:
        named = {"withdrawn": self.withdrawn, "reclassified": self.reclassified, "reworded": self.reworded}
        parts = [f"{counted(len(ids), 'row')} {what} ({and_more(ids)})" for what, ids in named.items() if ids]
        if self.added:
            parts.append(f"{counted(self.added, 'row')} added")
        return "; ".join(parts) or "no row changed"


@dataclass(frozen=True)
class ChangedSource:
    """A source file that was changed or removed since the raw corpus was built."""

    name: str
    path: str
    sha256: str
    """SHA-256 of the file from which the corpus was built."""
    state: Literal["changed", "missing"]
    rows: ChangedRows | None
    """Changed rows. None if the source is not a table, or if its file or the corpus's documents are missing or
    unreadable."""

    def __str__(self) -> str:
        subject = f"{self.path}: the source '{self.name}' ({short(self.sha256)})"
        if self.state == "missing":
            return f"{subject} is missing."
        return f"{subject} has changed since it was read{f': {self.rows}' if self.rows is not None else ''}."


def changed_sources(
    data: Path, manifest: Manifest, sources: list[dict[str, Any]], documents: Path | None, screen: ColumnScreen
) -> Iterator[ChangedSource]:
    """Yield every source file of a raw corpus that is missing or changed.

    Args:
        data: the directory that the institution edits.
        manifest: the manifest of the raw corpus.
        sources: the content of the raw corpus's `sources.json`.
        documents: the raw corpus's verified file of documents; None if unreadable.
        screen: the screen for the raw corpus's configuration (`ColumnScreen.of`).
    """
    for source in sources:
        path = data / source["path"]
        if not path.exists():
            yield ChangedSource(source["name"], str(path), source["sha256"], "missing", None)
        elif digest_of_source(path) != source["sha256"]:
            rows = _compare_rows(path, source["name"], manifest, documents, screen) if documents is not None else None
            yield ChangedSource(source["name"], str(path), source["sha256"], "changed", rows)


def _compare_rows(
    path: Path, name: str, manifest: Manifest, documents: Path, screen: ColumnScreen
) -> ChangedRows | None:
    """Return the changed rows of one source. Return None if the source is not a table, or cannot be read with its
    settings in the manifest."""
    try:
        config: Mapping[str, Any] = manifest.producer.config
        sources = {each["name"]: Source.model_validate(each) for each in config["sources"]}
        source, limits = sources[name], Quarantine.model_validate(config["quarantine"])
    except (KeyError, ValidationError):  # another release recorded them in another form
        return None
    if source.kind != "table":
        return None
    then, of_others = dict[str, tuple[str, bytes]](), set[str]()
    for document in read_documents(documents):
        if document.source == name:
            then[document.id] = document.classification, _digest(document)
        else:
            of_others.add(document.id)
    reclassified, reworded, added, found = list[str](), list[str](), 0, set[str]()
    reader = SourceReader(source, path, limits, ClassificationLadder(manifest.ladder), of_others, screen=screen)
    try:
        for now in reader:
            if not isinstance(now, Document):
                continue
            level, digest = then.get(now.id, (None, b""))
            found.add(now.id)
            if level is None:
                added += 1
            elif level != now.classification:
                reclassified.append(now.id)
            elif digest != _digest(now):
                reworded.append(now.id)
        reader.reject_unlike_recipe()
    except SourceError:
        return None
    withdrawn = [id for id in then if id not in found]
    return ChangedRows(tuple(withdrawn), tuple(reclassified), tuple(reworded), added)


def _digest(document: Document) -> bytes:
    return sha256(jsonl_line(document.model_dump()).encode()).digest()


@dataclass
class Comparison:
    rows: int = 0
    documents: int = 0
    quarantined: int = 0
    excluded: int = 0
    not_selected: int = 0
    different: list[str] = field(default_factory=list)
    """Ids of documents that differ from their row or have no row, and of rows whose document is missing."""
    lowered: list[str] = field(default_factory=list)
    """Ids of documents below the classification level of their row or source."""
    quarantine_differs: bool = False
    levels: set[str] = field(default_factory=set)


def compare_with_sources(
    corpus: Artifact, documents: str, quarantine: str, readers: Iterable[SourceReader], ladder: ClassificationLadder
) -> Comparison:
    """Compare a raw corpus with its sources, row by row. The rows of both have the same order.

    This module and the reader compute a row's classification level with different code, so that one of them notices an
    error of the other. If both missed a level, everything built from the row would have too low a level.

    Args:
        documents: the name of the corpus's file of documents.
        quarantine: the name of the corpus's file of quarantined rows.
        readers: one reader for each source, in the order of the recipe.

    Raises SourceError for a source that cannot be read, and IntegrityError for a stored row that is not a document.
    """
    found = Comparison()
    broken: list[dict[str, object]] = []

    def from_sources() -> Iterator[Document]:
        for reader in readers:
            for outcome in reader:
                if isinstance(outcome, Quarantined):
                    broken.append(asdict(outcome))
                    continue
                if _is_below_what_is_stated(outcome, reader, ladder):
                    found.lowered.append(outcome.id)
                found.levels.add(outcome.classification)
                yield outcome
            found.rows += reader.count.rows
            found.excluded += reader.count.excluded
            found.not_selected += reader.count.not_selected

    for again, stored in zip_longest(from_sources(), read_documents(corpus.file(documents))):
        found.documents += stored is not None
        if again == stored:
            continue
        found.different += dict.fromkeys(each.id for each in (stored, again) if each is not None)
        if again and stored and again.id == stored.id and ladder.exceeds(again.classification, stored.classification):
            found.lowered.append(again.id)
    stored_broken = list(read_jsonl(corpus.file(quarantine)))
    found.quarantined = len(stored_broken)
    found.quarantine_differs = stored_broken != broken
    return found


def _is_below_what_is_stated(document: Document, reader: SourceReader, ladder: ClassificationLadder) -> bool:
    """Return True if the row or the source of a document states a level that is above the document's level, or that is
    not in the ladder."""
    source = reader.source
    of_source = [level for level in (source.classification_floor, source.constants.get("classification")) if level]
    column = source.columns.get("classification", "classification")
    stated = [*map(reader.level_of, _values_under(column, reader.row.values or {})), *of_source]
    return any(level not in ladder or ladder.exceeds(level, document.classification) for level in stated)


def _values_under(column: str, values: Mapping[str, Any]) -> list[str]:
    """Return the filled values of all columns whose names have the same letters and digits as `column`."""
    wanted = _letters(column)
    return [text for name, value in values.items() if _letters(name) == wanted and (text := _text(value))]


def _text(value: Any) -> str:
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


@lru_cache(maxsize=SPELLINGS_REMEMBERED)
def _letters(name: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFKD", name).casefold() if each.isalnum())


RAW_CORPUS = Stage(
    kind="raw_corpus",
    code_version="9",
    build=build_raw_corpus,
    config=_raw_config,
    policy=_sensitive_kinds,
    external=_outside_files,
    changed_rows=_changed_rows,
    reads_corpus=lambda line: True,
    selects_rows=True,
    gates=(
        Gate(
            name="rows_accounted_for",
            question=(
                "Is every row of every source file a document with exactly its text and level, quarantined or excluded "
                "with a reason, or not selected?"
            ),
            code_version="7",
            evaluate=evaluate_rows_accounted_for,
        ),
        Gate(
            name="languages_right",
            question="Are nearly all texts in the language that their document states, or in one that is searched too?",
            code_version="2",
            evaluate=evaluate_languages_right,
            config=lambda line: {"detected": sorted(line.privacy.detected)},
        ),
        Gate(
            name="links_name_rows",
            question="Do the links between rows name rows that the sources have?",
            code_version="1",
            evaluate=evaluate_links_name_rows,
            config=lambda line: {"max_links_without_row": line.quarantine.max_links_without_row},
        ),
    ),
)

CLASSIFIED_CORPUS = Stage(
    kind="classified_corpus",
    code_version="4",
    build=build_classified_corpus,
    inputs=(RAW_CORPUS,),
    reads_corpus=lambda line: True,
    selects_rows=True,
    config=lambda line: {"ceiling": line.ceiling},
    gates=(
        Gate(
            name="classification_inherited",
            question="Did no level fall, and is the corpus as high as its highest document?",
            code_version="3",
            evaluate=evaluate_classification_inherited,
            config=lambda line: {"ceiling": line.ceiling},
        ),
    ),
)
