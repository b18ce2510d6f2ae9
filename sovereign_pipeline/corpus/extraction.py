"""Extract rows from the mail or documents of a source, and record the outcome of each file.

Each kind of source has two functions, listed in `KINDS`:

- a parser, which runs in the sandbox (`parsing.py` describes what a parser yields and raises);
- an assembler, `assemble(source, ladder, units, folder)`, which forms rows from parsed files.

The assembler receives a `Unit` for each document, message or attachment, including broken ones, in the order of file
names. It keeps no texts in memory, because there may be millions of units: `units.again` reads a unit a second time,
and `units.notes` stores facts about units on disk. The assembler yields rows and `Outcome`s in any order. Each unit is
in `files` of one row, or in one Outcome, but never in both. A row is a dict with `id`, `case`, `date`, `author`,
`department`, `subject`, `messages` (in OpenAI's form), `classification` ("" without a marking), `files` (names of the
row's units), and optionally `language` and `rule` (the rule that formed the row).

Each row becomes one line of a JSONL file, and so does each quarantined unit, with the reason for quarantine. The file
is then read like a source with the layout `sharegpt`.
"""

import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import digest_of, file_sha256, read_secret, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.document import jsonl_line, read_jsonl
from sovereign_pipeline.corpus.ocr import find_tesseract
from sovereign_pipeline.corpus.parsing import (
    Cache,
    Outcome,
    Unit,
    Units,
    digest_of_files,
    files_of,
    parser_version,
    units_of,
)
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder

KINDS = {
    "documents": (
        "sovereign_pipeline.corpus.office_files:parse_document",
        "sovereign_pipeline.corpus.letters:assemble",
    ),
    "mail": ("sovereign_pipeline.corpus.mail:parse_mail", "sovereign_pipeline.corpus.threads:assemble"),
}
"""Maps the kind of a source to its parser and its assembler."""
BROKEN = "quarantined"
"""Key that marks a line as a quarantined unit instead of a row. The key's value is the reason."""


@dataclass
class Extraction:
    """The result of extracting a source: the rows, and the outcome of each file."""

    rows: Path
    """JSONL file of the rows and the quarantined units."""
    outcomes: Path
    """JSONL file with, for each document, message or attachment: `source`, `path`, `sha256`, `outcome` (`row`, `left
    out`, `quarantined` or `duplicate`), `reason`, `row` (id) and `others` (names of other units that the reason
    concerns). A line about a unit that OCR read also has `ocr`: the numbers of `pages` and `words`, and the mean
    `confidence` of the words."""
    counts: dict[str, Any]
    """Counts for `sources.json`: files, units, and units by outcome and reason."""

    @property
    def files(self) -> Iterator[dict[str, Any]]:
        return read_jsonl(self.outcomes)


_OF_ASSEMBLERS = ("letters.py", "markings.py", "reference_words.txt", "threads.py")
"""Files of this package that determine how rows and their levels are formed from parsed files."""


def extractor_of(source: Source) -> str | None:
    """Return a digest of the code that parses and assembles a source. Return None for tables and databases, which need
    no such code.

    The digest is part of the identity of a raw corpus.
    """
    if source.kind not in KINDS:
        return None
    code = [file_sha256(Path(__file__).with_name(name)) for name in _OF_ASSEMBLERS]
    return digest_of([parser_version(KINDS[source.kind][0]), code])


def cache_of(settings: Settings) -> Cache:
    return Cache(settings.corpus / "cache" / "parsed", read_secret(settings.caches_key))


def extract(
    settings: Settings,
    source: Source,
    path: Path,
    ladder: ClassificationLadder,
    progress: Callable[[str], None] = lambda message: None,
) -> Extraction:
    """Parse a source of mail or documents, and write its rows below the corpus root. The parsed files are cached below
    the corpus root, too.

    Raises SandboxUnavailable if this machine cannot run the parsers in a sandbox. Raises SourceError if the folder
    cannot be listed, if no unit becomes a row or is quarantined, or if a unit is not in exactly one row or outcome.
    """
    parser, assembler = KINDS[source.kind]
    program = find_tesseract() if source.ocr else None
    options = {"encoding": source.encoding} if source.encoding else {}
    options |= {"ocr": program.version} if program is not None else {}
    options |= {"attachments": source.attachments} if source.kind == "mail" else {}
    listed = files_of(path)
    folder = path if path.is_dir() else path.parent
    key = digest_of([str(path), source.description, ladder.levels, digest_of_files(listed)])
    rows = settings.corpus / "cache" / "rows" / f"{source.name}-{key[:16]}.jsonl"
    counts, left_out = Counter[str](), Counter[str]()

    def lines() -> Iterator[str]:
        for each in pkgutil.resolve_name(assembler)(source, ladder, units, folder):
            if isinstance(each, Outcome):
                account(each.name, {"outcome": each.kind, "reason": each.reason, "others": each.others})
                left_out[each.reason] += each.kind == "left out"
                if each.kind == "quarantined":
                    yield jsonl_line({"id": each.name, BROKEN: each.reason})
                continue
            names, rule = each["files"], each.pop("rule", "")
            for name in names:
                account(name, {"outcome": "row", "reason": rule, "row": each["id"]})
            files = [{"path": name, "sha256": units.digests.get(name, "")} for name in names]
            yield jsonl_line({**each, "files": files})
        wrong.extend(name for name in units.digests if name not in accounted)
        wrong.extend(name for name in accounted if name not in units.digests)
        if wrong:
            raise SourceError(
                f"{path}: {counted(len(wrong), 'file or message has', 'files or messages have')} no outcome, or more "
                f"than one: {and_more(wrong)}.",
                "Remove these files, and report this bug.",
            )

    def account(name: str, what: dict[str, Any]) -> None:
        if name in accounted:
            wrong.append(name)
        accounted[name] = what
        counts[what["outcome"]] += 1

    def noting_ocr(found: Iterator[Unit]) -> Iterator[Unit]:
        for unit in found:
            if "ocr" in unit.item:
                recognised[unit.name] = unit.item["ocr"]
            yield unit

    def ocr_of(name: str) -> dict[str, Any]:
        return {"ocr": recognised[name]} if name in recognised else {}

    found = units_of(
        parser, listed, cache_of(settings), options, lambda said: progress(f"{source.name}: {said}"), program
    )
    with Units(noting_ocr(found), rows.parent) as units:
        accounted, recognised, wrong = units.notes("accounted"), units.notes("recognised"), list[str]()
        write_atomically(rows, lines())
        if not rows.stat().st_size:
            reasons = and_more(f"{times:,} left out: {reason}" for reason, times in (+left_out).most_common())
            raise SourceError(
                f"{path}: none of {counted(counts.total(), 'file or message', 'files or messages')} became a document "
                f"({reasons}).",
                "Correct `pairs` or `ours` of the source. `sovereign sources look` proposes values for these keys.",
            )
        outcomes = rows.with_suffix(".outcomes.jsonl")
        all_ = ((name, units.digests[name], {**accounted[name], **ocr_of(name)}) for name in accounted)
        write_atomically(
            outcomes,
            (jsonl_line({"source": source.name, "path": name, "sha256": sha, **what}) for name, sha, what in all_),
        )
        ocr = _counts_of_ocr(recognised.values()) if source.ocr else {}
    return Extraction(
        rows,
        outcomes,
        {
            "files": len(listed),
            "units": counts.total(),
            **({"attachments": units.attachments} if units.attachments else {}),
            "in_rows": counts["row"],
            "duplicates": counts["duplicate"],
            "units_quarantined": counts["quarantined"],
            "left_out": dict(sorted((+left_out).items())),
            **ocr,
        },
    )


def _counts_of_ocr(read: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    documents, pages, words, sum_of_words, lowest = 0, 0, 0, 0.0, None
    for each in read:
        documents, pages, words = documents + 1, pages + each["pages"], words + each["words"]
        sum_of_words += each["confidence"] * each["words"]
        lowest = each["confidence"] if lowest is None else min(lowest, each["confidence"])
    mean = round(sum_of_words / words, 1) if words else None
    return {"ocr": {"documents": documents, "pages": pages, "mean_confidence": mean, "lowest_confidence": lowest}}
