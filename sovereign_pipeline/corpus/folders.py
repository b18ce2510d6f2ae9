"""Inspect a folder of documents or mail without a recipe: kinds of files, pairs by rule, and what would be left out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.extraction import KINDS, Extraction, extract, parsed_in
from sovereign_pipeline.corpus.letters import path_pattern
from sovereign_pipeline.corpus.office_files import DOCUMENTS
from sovereign_pipeline.corpus.parsing import files_of, units_of
from sovereign_pipeline.corpus.threads import likely_ours
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.recipe_model import FILL_IN

SIDES = (
    ("in", "out"),
    ("incoming", "outgoing"),
    ("request", "reply"),
    ("letter", "reply"),
    ("letter", "answer"),
    ("وارد", "صادر"),
    ("طلب", "رد"),
)
"""Words by which the file names of letters and replies usually differ."""
FORMS = (
    *("{case}/{date}-SIDE", "{case}/{date}_SIDE", "{case}/SIDE-{date}", "{case}/SIDE_{date}", "{case}/SIDE"),
    *("{date}-{case}-SIDE", "{date}_{case}_SIDE", "{case}-SIDE", "{case}_SIDE", "SIDE-{case}", "SIDE_{case}"),
    *("SIDE/{case}", "*/{case}/SIDE", "*/{case}-SIDE", "*/{case}_SIDE"),
)
"""Usual paths of letters and replies, the more specific first."""
_MAIL, _MAILDIR = (".eml", ".msg", ".mbox"), ("cur", "new")


@dataclass
class FolderFacts:
    """The inspected facts of a folder."""

    path: str
    suffixes: dict[str, int]
    """Suffix -> number of files."""
    source: dict[str, Any]
    """The proposed source."""
    outcomes: list[dict[str, Any]]
    """Outcome and reason, such as the rule that pairs two files -> number of documents."""


def look_at_folder(settings: Settings, folder: Path, named: Path, ladder: ClassificationLadder) -> FolderFacts:
    """Return the facts of a folder, with the source that pairs most documents, or that has the institution's likely
    domain. Raises SourceError for a folder without documents and mail.

    Args:
        named: path of the folder for a recipe.
    """
    files = files_of(folder)
    names = [file.name for file in files]
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    documents = [name for name in names if PurePosixPath(name).suffix.lower() in DOCUMENTS]
    mails = sum(name.lower().endswith(_MAIL) or PurePosixPath(name).parent.name in _MAILDIR for name in names)
    if not documents and not mails:
        raise SourceError(f"{folder}: the folder holds neither documents nor mail.", "Correct the path.")
    own: dict[str, Any]
    if mails > len(documents):
        units = units_of(KINDS["mail"][0], files, parsed_in(settings))
        ours = likely_ours(unit.item for unit in units if "sender" in unit.item)
        own = {"kind": "mail", "ours": [ours or f"{FILL_IN}: domains and addresses of the institution"]}
    else:
        own = {"kind": "documents", "pairs": {"reference": True, **_patterns(documents)}}
    source = {"name": "letters", **own, "path": named.as_posix(), "licence": FILL_IN, "retention": FILL_IN}
    extraction = extract(settings, Source.model_validate(source), folder, ladder)
    if any(row.get("classification") == "" for row in read_jsonl(extraction.rows)):
        source["classification_floor"] = FILL_IN
    return FolderFacts(str(folder), dict(suffixes.most_common()), source, _outcomes(extraction))


def _patterns(names: list[str]) -> dict[str, str]:
    """Return the usual patterns of letters and replies that pair most names, or none if they pair less than two."""
    stems = {str(PurePosixPath(name).with_suffix("")) for name in names}
    best, most = dict[str, str](), 1
    for form in FORMS:
        for sides in SIDES:
            letters, replies = (
                {match["case"] for stem in stems if (match := path_pattern(form.replace("SIDE", side)).fullmatch(stem))}
                for side in sides
            )
            if len(letters & replies) > most:
                most = len(letters & replies)
                best = {
                    name: form.replace("SIDE", side) for name, side in zip(("request", "reply"), sides, strict=True)
                }
    return best


def _outcomes(extraction: Extraction) -> list[dict[str, Any]]:
    counts = Counter((each["outcome"], each["reason"]) for each in extraction.files)
    return [
        {"outcome": outcome, "reason": reason if outcome != "duplicate" else "", "files": times}
        for (outcome, reason), times in sorted(counts.items(), key=lambda each: (each[0][0] != "row", -each[1]))
    ]
