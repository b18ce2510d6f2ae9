"""Taking in rated answers as a source file of a line: by somebody, with a reason, on record, and never by itself.

What belongs here: the line's consent, the rows' form and levels, the entry of the ledger, and where the file lies. What
does not: making the rows (`preferences.py`), and what becomes of a source (`corpus/`).
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sovereign_pipeline.base.errors import CeilingExceeded, ConflictError, InputError, SourceError
from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.serving.transcripts.preferences import LabelRow, PairRow, Role

TAKEN = "rated answers taken in"
_ROWS: Mapping[str, TypeAdapter[PairRow | LabelRow]] = {
    "preferences": TypeAdapter(PairRow),
    "labels": TypeAdapter(LabelRow),
}


@dataclass(frozen=True)
class Taken:
    """A source file that was taken in."""

    name: str
    """Of the source."""
    path: Path
    """As a recipe names it: below the data directory."""
    role: Role
    rows: int
    classification: str
    """The highest of its rows."""


def take_rated(registry: Registry, institution: Institution, line: Line, file: Path, actor: str, reason: str) -> Taken:
    """Enter it, then put the file where a recipe can name it. It is used once the line's recipe names it.

    Raises InputError where the line does not let answers become preferences, SourceError for a file of another form,
    CeilingExceeded for a row above the line's ceiling, and ConflictError for a file that was taken in already.
    """
    served = institution.serving.lines.get(line.line)
    if served is None or served.transcripts is None or not served.transcripts.preferences:
        raise InputError(
            f"Line {line.line} does not let rated answers become preferences.",
            f"Its consent is serving.lines.{line.line}.transcripts.preferences: true, in institution.yaml.",
        )
    if not reason.strip():
        raise InputError("A reason is missing.", "Say why these answers are to be trained on.")
    content = _content(file)
    rows, role = _rows(file, content)
    level = _level(file, rows, institution, line)
    digest = hashlib.sha256(content).hexdigest()
    name = f"rated-{digest[:12]}"
    path = Path("sources") / "rated" / f"{line.line}-{digest[:12]}.jsonl"
    target = registry.settings.data / path
    if target.exists():
        raise ConflictError(f"{target}: these rows were taken in already.", "Name them in the recipe, or other rows.")
    told = {
        "line": line.line,
        "file": path.as_posix(),
        "sha256": digest,
        "role": role,
        "rows": len(rows),
        "classification": level,
        "reason": reason.strip(),
    }
    with registry.writing() as session:
        audit_log.append(session, actor, TAKEN, told)
    _write(target, content)
    return Taken(name, path, role, len(rows), level)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: the file cannot be read ({type(error).__name__}).", "Name the file.") from None


def _rows(file: Path, content: bytes) -> tuple[list[PairRow | LabelRow], Role]:
    """All rows, which are of one role. No row is quoted."""
    lines = [line for line in content.split(b"\n") if line]
    role: Role = "labels" if lines and b'"label":' in lines[0] else "preferences"
    rows: list[PairRow | LabelRow] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_ROWS[role].validate_json(line))
        except ValidationError:
            raise SourceError(
                f"{file}: line {number} is no row of rated answers.", "Name a file of `preferences`, as it was made."
            ) from None
    if not rows:
        raise SourceError(f"{file}: the file has no rows.", "Name a file of `preferences`, as it was made.")
    if len({row.id for row in rows}) < len(rows):
        raise SourceError(f"{file}: an id stands there twice.", "Name a file of `preferences`, as it was made.")
    return rows, role


def _level(file: Path, rows: list[PairRow | LabelRow], institution: Institution, line: Line) -> str:
    ladder = institution.ladder
    for row in rows:
        if row.classification not in ladder:
            raise SourceError(
                f"{file}: row {row.id} has a level that is none of the institution's.",
                f"Levels: {', '.join(ladder.levels)}.",
            )
    highest = ladder.highest(row.classification for row in rows)
    if ladder.exceeds(highest, line.ceiling):
        raise CeilingExceeded(
            f"{file}: its rows are {highest}. The ceiling of line {line.line} is {line.ceiling}.",
            "Have the ceiling of the line raised.",
        )
    return highest


def _write(target: Path, content: bytes) -> None:
    """Whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = target.with_suffix(".new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(target)
