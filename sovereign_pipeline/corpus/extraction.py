"""Extract rows from the mail or documents of a source, with a record of what became of each file.

A kind of source plugs in with two functions, named in `KINDS`:

- a parser, which runs in the sandbox (`parsing.py` says what it yields and raises);
- an assembler, `assemble(source, ladder, units, folder)`. It gets a `Unit` for each document or message, in the order
  of the files' names, also for broken ones. It yields rows and `Outcome`s, in any order, and names every unit exactly
  once: in `files` of a row, or in an Outcome. A row is a dict with `id`, `case`, `date`, `author`, `department`,
  `subject`, `messages` (in OpenAI's form), `classification` ("" without a marking), `files` (names of its units), and
  optionally `language` and `rule` (how it was put together, for the record).

Each row becomes a line of a JSONL file that is read as any source with the layout `sharegpt`. Each quarantined unit
becomes a line of its own with its reason.
"""

import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import digest_of, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.document import jsonl_line
from sovereign_pipeline.corpus.parsing import Outcome, Unit, files_of, parser_version, units_of
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder

KINDS = {
    "documents": (
        "sovereign_pipeline.corpus.office_files:parse_document",
        "sovereign_pipeline.corpus.letters:assemble",
    ),
    "mail": ("sovereign_pipeline.corpus.mail:parse_mail", "sovereign_pipeline.corpus.threads:assemble"),
}
"""Kind of a source -> its parser and its assembler."""
BROKEN = "quarantined"
"""Key of a line that is no row: the reason why its unit is quarantined."""


@dataclass
class Extraction:
    """The rows of a source, and the outcome of each of its files."""

    rows: Path
    """JSONL file of the rows and the quarantined units."""
    number_of_files: int
    files: list[dict[str, Any]] = field(default_factory=list)
    """For each document or message: `source`, `path`, `sha256`, `outcome` (`row`, `left out`, `quarantined` or
    `duplicate`), `reason`, `row` (id) and `others`."""

    @property
    def counts(self) -> dict[str, Any]:
        """Return the number of files and units, and of units by outcome and reason, for `sources.json`."""
        outcomes = Counter(each["outcome"] for each in self.files)
        left_out = Counter(each["reason"] for each in self.files if each["outcome"] == "left out")
        return {
            "files": self.number_of_files,
            "units": len(self.files),
            "in_rows": outcomes["row"],
            "duplicates": outcomes["duplicate"],
            "units_quarantined": outcomes["quarantined"],
            "left_out": dict(sorted(left_out.items())),
        }


def extractor_of(source: Source) -> str | None:
    """Return the version of a source's parser, for the identity of what is made from it; None for a table."""
    return parser_version(KINDS[source.kind][0]) if source.kind in KINDS else None


def parsed_in(settings: Settings) -> Path:
    """Return the cache of parsed files."""
    return settings.corpus / "cache" / "parsed"


def extract(
    settings: Settings,
    source: Source,
    path: Path,
    ladder: ClassificationLadder,
    progress: Callable[[str], None] = lambda message: None,
) -> Extraction:
    """Write the rows of a source of mail or documents below the corpus root. Parsed files are cached there.

    Raises SourceError if the folder cannot be listed or a unit is unaccounted for, and SandboxUnavailable.
    """
    parser, assembler = KINDS[source.kind]
    options = {"encoding": source.encoding} if source.encoding else {}
    listed, seen = files_of(path), dict[str, str]()

    def units() -> Iterator[Unit]:
        for unit in units_of(
            parser, listed, parsed_in(settings), options, lambda said: progress(f"{source.name}: {said}")
        ):
            seen[unit.name] = unit.sha256
            yield unit

    folder = path if path.is_dir() else path.parent
    lines, accounted = list[str](), list[tuple[str, dict[str, Any]]]()
    for each in pkgutil.resolve_name(assembler)(source, ladder, units(), folder):
        if isinstance(each, Outcome):
            accounted.append((each.name, {"outcome": each.kind, "reason": each.reason, "others": list(each.others)}))
            if each.kind == "quarantined":
                lines.append(jsonl_line({"id": each.name, BROKEN: each.reason}))
            continue
        names = each["files"]
        rule = each.pop("rule", "")
        accounted += [(name, {"outcome": "row", "reason": rule, "row": each["id"]}) for name in names]
        lines.append(jsonl_line({**each, "files": [{"path": name, "sha256": seen[name]} for name in names]}))
    accounted.sort(key=lambda each: each[0])
    unlike = Counter(name for name, _ in accounted)
    unlike.subtract(seen.keys())
    if wrong := [name for name, times in unlike.items() if times]:
        raise SourceError(
            f"{path}: {counted(len(wrong), 'file or message is', 'files or messages are')} not accounted for exactly "
            f"once: {and_more(wrong)}.",
            "Remove these files, and report this bug.",
        )
    key = digest_of([str(path), source.description, ladder.levels, sorted(seen.items())])
    rows = settings.corpus / "cache" / "rows" / f"{source.name}-{key[:16]}.jsonl"
    write_atomically(rows, "".join(lines))
    found = [{"source": source.name, "path": name, "sha256": seen[name], **what} for name, what in accounted]
    return Extraction(rows, len(listed), found)
