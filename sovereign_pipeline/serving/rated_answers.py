"""Open transcripts, and turn rated answers into review prompts and preference rows.

Anyone with the public key can seal invented records. The gateway's journal has the digest of each true one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    ConflictError,
    InputError,
    IntegrityError,
    PrivacyError,
    SourceError,
)
from sovereign_pipeline.base.files import Frozen, write_atomically
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import LINE_NAME, Line
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import PLACEHOLDER
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.review.plan_stage import PromptRow
from sovereign_pipeline.serving.rollout.telemetry import Feedback, Thumb
from sovereign_pipeline.serving.scanning import language_of
from sovereign_pipeline.serving.screening import PuttingBack
from sovereign_pipeline.serving.transcripts import SUFFIX, Transcript, sealed_in, unseal
from sovereign_pipeline.split.similarity import normal_text


@dataclass(frozen=True)
class Opened:
    """The opened transcripts of a line."""

    transcripts: tuple[Transcript, ...]
    """Transcripts in the order of their records."""
    said: dict[str, Feedback]
    """Answer identifier (`given` of a transcript) -> its newest feedback."""
    spoilt: int
    """Number of invalid lines, such as those cut by a crash."""
    foreign: int
    """Number of records that are not in the journal."""


def open_transcripts(directory: Path, line: str, private_key: str, known: frozenset[str] | None) -> Opened:
    """Open every transcript file of a line.

    known: digests of the records that the journal names; None accepts every record.

    Raises PrivacyError, naming the file, if the key is invalid or opens no record of a file.
    """
    import pyrage

    try:
        identity = pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError(
            "The key file holds no age private key (AGE-SECRET-KEY-1…).", "Give the private key."
        ) from None
    if LINE_NAME.fullmatch(line) is None:
        raise InputError(
            f"'{line[:60]}' cannot be the name of a line.", "Give the name of a folder of the transcripts."
        )
    files = sorted((directory / line).glob(f"*{SUFFIX}"))
    if not files:
        raise InputError(
            f"{directory}: there are no transcripts of line {line}.", "Name the directory that was copied."
        )
    transcripts: list[Transcript] = []
    said: dict[str, Feedback] = {}
    spoilt = foreign = 0
    for file in files:
        sealed, cut = sealed_in(file.read_bytes())
        spoilt += cut
        opened = [(each, unseal(each, identity)) for each in sealed]
        if opened and all(record is None for _, record in opened):
            raise PrivacyError(
                f"{file}: this key opens nothing in it.",
                "Give the key whose public half was in use when the file was written, or restore the file.",
            )
        for each, record in opened:
            if record is None:
                spoilt += 1
            elif isinstance(record, Transcript) and record.line == line:
                is_known = known is None or each.sha256 in known
                foreign += not is_known
                transcripts += [record] if is_known else []
            elif not isinstance(record, Transcript):
                said[record.given] = record.feedback
    return Opened(tuple(transcripts), said, spoilt, foreign)


def digests_in_journal(directory: Path) -> frozenset[str]:
    """Return the transcript digests that a gateway's journal names. Raises IntegrityError if it names none, since it is
    then the wrong directory."""
    lines = (line for path in sorted(directory.glob("*.jsonl*")) for line in path.read_bytes().split(b"\n") if line)
    known = frozenset(digest for line in lines if (digest := _digest_in(line)) is not None)
    if not known:
        raise IntegrityError(
            f"{directory}: no answer there has a transcript.", "Name the copy of `answers` in SOVEREIGN_SERVING."
        )
    return known


def _digest_in(line: bytes) -> str | None:
    """Return the digest of an answer's transcript; None if it has none or the journal line was cut."""
    try:
        noted = json.loads(line)
    except ValueError:
        return None
    digest = noted.get("transcript") if isinstance(noted, dict) else None
    return digest if isinstance(digest, str) else None


def prompt_of(transcript: Transcript) -> str | None:
    """Return the prompt of a single-turn conversation; None for any other."""
    if len(transcript.messages) != 1 or transcript.messages[0].role != "user":
        return None
    return transcript.messages[0].content.strip() or None


def prompts_of(transcripts: Iterable[Transcript]) -> Iterator[PromptRow]:
    """Yield each question once, ignoring punctuation and spacing."""
    seen: set[str] = set()
    for transcript in transcripts:
        prompt = prompt_of(transcript)
        if prompt is None or normal_text(prompt) in seen:
            continue
        seen.add(normal_text(prompt))
        yield PromptRow(
            id=f"asked-{transcript.given[:16]}",
            language=language_of(prompt),
            classification=transcript.classification,
            prompt=prompt,
        )


Role = Literal["preferences", "labels"]


class RatedRow(Frozen):
    """The fields that both kinds of row share, named as a document's fields."""

    id: str
    case: str
    """Case id that all rows of one question share, so that they stay in one part of the split."""
    date: str
    classification: str
    language: str
    request: str
    response: str


class PairRow(RatedRow):
    rejected: str


class LabelRow(RatedRow):
    label: bool


@dataclass
class RatedRows:
    """The rows, and the number of omitted answers per reason."""

    rows: list[PairRow] | list[LabelRow]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Rated:
    transcript: Transcript
    prompt: str
    answer: str
    thumb: Thumb


def preferences_of(transcripts: Iterable[Transcript], said: Mapping[str, Feedback], role: Role) -> RatedRows:
    """Build rows from transcripts and their feedback. role: the role of the source."""
    left_out: Counter[str] = Counter()
    by_question: dict[str, list[_Rated]] = {}
    for transcript in transcripts:
        feedback = said.get(transcript.given)
        if feedback is None:
            left_out["not rated"] += 1
            continue
        rated, why = _rated(transcript, feedback)
        if rated is None:
            left_out[why] += 1
            continue
        by_question.setdefault(normal_text(rated.prompt), []).append(rated)
    if role == "labels":
        return RatedRows([_label(each, of[0]) for of in by_question.values() for each in of], left_out)
    pairs: list[PairRow] = []
    for of in by_question.values():
        made = list(_pairs(of))
        pairs += made
        left_out["no answer with the other thumb"] += len(of) - 2 * len(made)
    return RatedRows(pairs, +left_out)


def _rated(transcript: Transcript, feedback: Feedback) -> tuple[_Rated | None, str]:
    prompt = prompt_of(transcript)
    if prompt is None:
        return None, "a conversation of several turns"
    prompt, answer = (_put_back(text, transcript.originals) for text in (prompt, transcript.answer.strip()))
    if not answer:
        return None, "an empty answer"
    if any(PLACEHOLDER.search(normalise(text).text) for text in (prompt, answer)):
        return None, "a placeholder that stands for nobody"
    return _Rated(transcript, prompt, answer, feedback.thumb), ""


def _put_back(text: str, originals: Mapping[str, str]) -> str:
    putting = PuttingBack(dict(originals))
    return putting.feed(text) + putting.end()


def _pairs(of: Sequence[_Rated]) -> Iterator[PairRow]:
    """Pair one good with one bad answer, in their order. Equal answers make no pair. Neither do answers of adapters
    with different levels, because a row has one level."""
    for level in dict.fromkeys(each.transcript.classification for each in of):
        at_level = [each for each in of if each.transcript.classification == level]
        good, bad = ([each for each in at_level if each.thumb == thumb] for thumb in ("up", "down"))
        for chosen, rejected in zip(good, bad, strict=False):
            if normal_text(chosen.answer) != normal_text(rejected.answer):
                yield PairRow(**_facts(chosen, of[0]), rejected=rejected.answer)


def _label(rated: _Rated, first: _Rated) -> LabelRow:
    return LabelRow(**_facts(rated, first), label=rated.thumb == "up")


def _facts(rated: _Rated, first: _Rated) -> dict[str, str]:
    """Return the facts of a rated answer. first: the question's first answer, which names the case. A digest of the
    question could be guessed."""
    transcript = rated.transcript
    return {
        "id": f"rated-{transcript.given[:16]}",
        "case": f"asked-{first.transcript.given[:16]}",
        "date": transcript.at.date().isoformat(),
        "classification": transcript.classification,
        "language": language_of(rated.prompt),
        "request": rated.prompt,
        "response": rated.answer,
    }


TAKEN = "rated answers taken in"
_ROWS: Mapping[str, TypeAdapter[PairRow | LabelRow]] = {
    "preferences": TypeAdapter(PairRow),
    "labels": TypeAdapter(LabelRow),
}


@dataclass(frozen=True)
class TakenFile:
    """A source file that was imported."""

    name: str
    """Name of the source."""
    path: Path
    """Path below the data directory, as a recipe names it."""
    role: Role
    rows: int
    classification: str
    """Highest classification level of its rows."""


def take_rated(
    registry: Registry, institution: Institution, line: Line, file: Path, actor: str, reason: str
) -> TakenFile:
    """Log the import, then copy the file to where a recipe can name it. Training uses it once the line's recipe names
    it.

    Raises InputError if the line does not permit preferences from answers, SourceError for an invalid file,
    CeilingExceeded for a row above the line's ceiling, and ConflictError if the file was imported before.
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
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(target, content)
    return TakenFile(name, path, role, len(rows), level)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: the file cannot be read ({type(error).__name__}).", "Name the file.") from None


def _rows(file: Path, content: bytes) -> tuple[list[PairRow | LabelRow], Role]:
    """Read all rows, which must have the same role. Errors quote no row."""
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
