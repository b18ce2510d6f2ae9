"""Decrypt transcripts, and turn rated answers into review prompts and preference rows.

Anyone with the public key can encrypt invented records. A record therefore counts only if its digest is in the
gateway's journal. The ledger has the digest of each hourly file of this journal.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    ConflictError,
    InputError,
    IntegrityError,
    PrivacyError,
    SourceError,
)
from sovereign_pipeline.base.files import Frozen, write_atomically
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document, Message
from sovereign_pipeline.corpus.documents_from_rows import RATED, TAKEN
from sovereign_pipeline.dataset.jsonl import turn_of
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import LINE_NAME, Line
from sovereign_pipeline.privacy.json_texts import is_json
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import PLACEHOLDER
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.catalog import adapters_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.review.stages import PromptRow
from sovereign_pipeline.serving.gateway.stores import ANSWERED, Rated, facts_of, read_hour
from sovereign_pipeline.serving.rollout.telemetry import Feedback, Thumb
from sovereign_pipeline.serving.scanning import language_of
from sovereign_pipeline.serving.screening import document_with, in_texts, with_originals
from sovereign_pipeline.serving.transcripts import SUFFIX, Rating, Transcript, sealed_in, unseal
from sovereign_pipeline.split.shingles import normal_text


@dataclass(frozen=True)
class Opened:
    transcripts: tuple[Transcript, ...]
    """Transcripts in the order of their records."""
    said: dict[str, Feedback]
    """Mapping of answer identifier (`given` of a transcript) to the newest feedback by its encrypted time."""
    spoilt: int
    """Number of lines that are invalid, for example truncated by a crash, or that the key does not decrypt."""
    foreign: int
    """Number of records that are not in the journal."""
    twice: int
    """Number of lines that repeat a record."""
    missing: int
    """Number of records that the journal lists but no file contains: transcripts since the oldest hour of the files,
    and ratings of known answers."""
    unsure: frozenset[str]
    """Identifiers of answers whose newest feedback is unknown, because at least one of their ratings is missing."""


@dataclass(frozen=True)
class JournalCopy:
    """A line's records in a copy of the gateway's journal, from those hours that are in the ledger."""

    transcripts: Mapping[str, str]
    """Mapping of a sealed transcript's SHA-256 to the hour of its answer."""
    ratings: Mapping[str, str]
    """Mapping of a sealed rating's SHA-256 to the identifier of the rated answer, in the order of the journal."""
    lacking: frozenset[str]
    """Hours that the ledger lists for the line, but for which the journal has no matching file."""
    not_entered: int
    """Number of journal files that are ignored, because their hour is not in the ledger yet."""
    ends: str
    """Number and time of the newest entry in the copy of the ledger."""


def open_transcripts(directory: Path, line: str, private_key: str, journal: JournalCopy) -> Opened:
    """Decrypt every transcript file of a line. Raises PrivacyError if the key is invalid or decrypts no record of a
    file, InputError if there are no files, and IntegrityError if the journal lacks an hour that the ledger lists. Hours
    before the oldest transcript do not matter.

    journal: a copy of the journal, which lists the digests of the genuine records.
    """
    import pyrage

    try:
        identity = pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError(
            "The key file contains no age private key (AGE-SECRET-KEY-1…).", "Pass the path of the private key's file."
        ) from None
    files = sorted((directory / line).glob(f"*{SUFFIX}")) if LINE_NAME.fullmatch(line) else []
    if not files:
        raise InputError(
            f"{directory}: there are no transcripts of line '{line[:60]}'.",
            "Pass the path of a copy of the `transcripts` directory, and the name of a line that has a folder in "
            "that copy.",
        )
    found: dict[str, Transcript | Rating] = {}
    spoilt = foreign = twice = 0
    for file in files:
        sealed, cut = sealed_in(file.read_bytes())
        opened = [(each.sha256, unseal(each, identity)) for each in sealed]
        if opened and all(record is None for _, record in opened):
            raise PrivacyError(
                f"{file}: the private key decrypts no record in this file.",
                "Use the private key that belongs to the public key of this file, or restore the file from a copy.",
            )
        spoilt += cut + sum(record is None for _, record in opened)
        for sha256, record in opened:
            if record is None or (isinstance(record, Transcript) and record.line != line):
                continue
            twice += sha256 in found
            if sha256 not in (journal.transcripts if isinstance(record, Transcript) else journal.ratings):
                foreign += 1
                continue
            found.setdefault(sha256, record)
    transcripts = tuple(each for each in found.values() if isinstance(each, Transcript))
    ratings = {sha256: each for sha256, each in found.items() if isinstance(each, Rating)}
    # Anyone can rename a file, but the ledger confirms the journal's hour of a record.
    hours = (journal.transcripts[sha256] for sha256 in found if sha256 in journal.transcripts)
    oldest = min([files[0].name[: len("2026-11-27T04")], *hours])
    if lacking := sorted(hour for hour in journal.lacking if hour >= oldest):
        raise IntegrityError(
            f"{directory}: the ledger lists journal files for the hours {and_more(lacking)} UTC, but the journal "
            "has no matching file. The files are missing or were changed.",
            "Copy `answers` in SOVEREIGN_SERVING again, and find out who changed the copy.",
        )
    lost = [hour for sha256, hour in journal.transcripts.items() if sha256 not in found and hour >= oldest]
    unsure = [given for sha256, given in journal.ratings.items() if sha256 not in ratings]
    # The rating with the newest encrypted time counts; among equal times, the last in the journal.
    in_order = sorted((ratings[each] for each in journal.ratings if each in ratings), key=lambda each: each.at)
    said = {each.given: each.feedback for each in in_order}
    known = {each.given for each in transcripts}
    missing = len(lost) + sum(each in known for each in unsure)
    return Opened(transcripts, said, spoilt, foreign, twice, missing, frozenset(unsure))


def read_journal(directory: Path, line: str, ledger: Path, log: str) -> JournalCopy:
    """Read a line's records from a copy of the gateway's journal, and compare each hour with the ledger.

    Args:
        directory: copy of the journal.
        ledger: an export of the audit log, with its checkpoint in the same folder.
        log: public key of the log.

    Raises:
        IntegrityError: the log's key did not sign the export's checkpoint, the export does not begin with the entries
            that the checkpoint covers, or a finished hour differs from the ledger.
        InputError: a file cannot be read, or the checkpoint or the key is malformed.
    """
    entered, ends = audit_log.signed_entries(ledger, log, ANSWERED)
    hours = [each for each in entered if each.get("line") == line]
    transcripts: dict[str, str] = {}
    ratings: dict[str, str] = {}
    not_entered = 0
    for path in sorted(directory.glob("*.jsonl*")):
        hour = path.name.partition(".")[0]
        noted, unreadable = read_hour(path)
        facts = facts_of(hour, line, noted, unreadable)
        noted = [each for each in noted if each.line == line]
        if not noted:
            continue
        if facts in hours:
            hours.remove(facts)
        elif not path.name.endswith(".jsonl"):
            raise IntegrityError(
                f"{path}: the records of this hour differ from the ledger's entry for the hour.",
                "Copy `answers` in SOVEREIGN_SERVING again, and find out who changed the copy.",
            )
        else:
            not_entered += 1
            continue
        for each in noted:
            if isinstance(each, Rated):
                ratings[each.rating] = each.given
            elif each.transcript is not None:
                transcripts[each.transcript] = hour
    lacking = frozenset(str(each["hour"]).partition(":")[0] for each in hours)
    return JournalCopy(transcripts, ratings, lacking, not_entered, ends)


def prompt_of(transcript: Transcript) -> str | None:
    """Return the prompt of a single-turn conversation; None for any other conversation or a blank prompt."""
    if len(transcript.messages) != 1 or transcript.messages[0].role != "user":
        return None
    return transcript.messages[0].content.strip() or None


def prompts_of(transcripts: Iterable[Transcript]) -> Iterator[PromptRow]:
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


Layout = Literal["columns", "sharegpt"]


class RatedRow(Frozen):
    """A preference pair or a row with a label. The layout is `columns` for letters and `sharegpt` for conversations."""

    id: str
    case: str
    """Case id. All rows of one question have the same case id, so the split keeps them together."""
    date: str
    classification: str
    language: str
    request: str | None = None
    response: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    chosen: tuple[dict[str, Any], ...] | None = None
    """Chosen reply of a pair, as a list of one message."""
    rejected: str | tuple[dict[str, Any], ...] | None = None
    label: bool | None = None


_FIELDS: Mapping[tuple[Role, Layout], set[str]] = {
    ("preferences", "columns"): {"request", "response", "rejected"},
    ("labels", "columns"): {"request", "response", "label"},
    ("preferences", "sharegpt"): {"messages", "tools", "chosen", "rejected"},
    ("labels", "sharegpt"): {"messages", "tools", "label"},
}
"""Maps a role and a layout to the fields that such rows have in addition to those in `_COMMON`."""
_COMMON = {"id", "case", "date", "classification", "language"}


@dataclass
class RatedRows:
    """The rows built from rated answers, and the number of omitted answers per reason. If at least one row is a
    conversation, all rows are conversations."""

    rows: list[RatedRow]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Rated:
    transcript: Transcript
    document: Document
    """The conversation with its answer. The caller's original texts are in place of the placeholders."""
    thumb: Thumb

    @property
    def prompt(self) -> str:
        return self.document.request

    @property
    def answer(self) -> str:
        return self.document.response


def preferences_of(opened: Opened, role: Role) -> RatedRows:
    """Build rows from rated transcripts, for a source with this role (`preferences` or `labels`)."""
    left_out: Counter[str] = Counter()
    by_question: dict[str, list[_Rated]] = {}
    for transcript in opened.transcripts:
        feedback = opened.said.get(transcript.given)
        if transcript.given in opened.unsure:
            left_out["one of its ratings is missing"] += 1
            continue
        if feedback is None:
            left_out["not rated"] += 1
            continue
        rated, why = _rated(transcript, feedback)
        if rated is None:
            left_out[why] += 1
            continue
        by_question.setdefault(normal_text(rated.prompt), []).append(rated)
    # Each item: an answer, the rejected answer of a pair, and the question's first answer.
    found: list[tuple[_Rated, _Rated | None, _Rated]] = []
    for of in by_question.values():
        if role == "labels":
            found += [(each, None, of[0]) for each in of]
        else:
            pairs = list(_pairs(of))
            found += [(*pair, of[0]) for pair in pairs]
            left_out["no answer with the opposite thumb"] += len(of) - 2 * len(pairs)
    is_letters = all(each.document.is_letter for each, _, _ in found)
    return RatedRows([_row(*each, is_letters) for each in found], +left_out)


_TRAINED_ORDER = re.compile(r"s?(ua(t+a)*)+")
"""Regular expression for the order of roles in a conversation that can be trained on. Each role is represented by its
first letter."""


def _rated(transcript: Transcript, feedback: Feedback) -> tuple[_Rated | None, str]:
    answer = Message(role="assistant", content=transcript.answer.strip(), tool_calls=transcript.calls)
    messages = [each.model_copy(update={"content": each.content.strip()}) for each in (*transcript.messages, answer)]
    if not _TRAINED_ORDER.fullmatch("".join(each.role[0] for each in messages)):
        return None, "turns in an order that training does not accept"
    if not all(each.as_text for each in messages):
        return None, "an empty answer" if not answer.as_text else "an empty turn"
    if answer.tool_calls and feedback.thumb == "down":
        return None, "a tool call with a bad rating"
    put_back = partial(with_originals, originals=transcript.originals)
    document = document_with([_changed(each, put_back) for each in messages], in_texts(transcript.tools, put_back))
    if any(PLACEHOLDER.search(normalise(text).text) for text in document.texts.values()):
        return None, "a placeholder without an original"
    return _Rated(transcript, document, feedback.thumb), ""


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    """Return a message with the function `change` applied to all its texts, including texts within JSON."""
    content = message.content
    if is_json(content):
        content = json.dumps(in_texts(json.loads(content), change), ensure_ascii=False)
    calls = [call.model_copy(update={"arguments": in_texts(call.arguments, change)}) for call in message.tool_calls]
    return message.model_copy(update={"content": change(content), "tool_calls": tuple(calls)})


def _pairs(of: Sequence[_Rated]) -> Iterator[tuple[_Rated, _Rated]]:
    """Pair liked with disliked answers to one question. Equal answers are not paired. Both answers of a pair have the
    same classification level, because a row has one level."""
    for level in dict.fromkeys(each.transcript.classification for each in of):
        at_level = [each for each in of if each.transcript.classification == level]
        good, bad = ([each for each in at_level if each.thumb == thumb] for thumb in ("up", "down"))
        for chosen, rejected in zip(good, bad, strict=False):
            if normal_text(chosen.answer) != normal_text(rejected.answer):
                yield chosen, rejected


def _row(rated: _Rated, other: _Rated | None, first: _Rated, is_letter: bool) -> RatedRow:
    """Build a preference pair if `other`, the rejected answer, is not None. Otherwise build a row with a label.

    first: the first answer to this question. The case id is built from this answer's id and not from a digest of the
        question, because such a digest would let anyone test whether a guessed question was asked.
    """
    transcript = rated.transcript
    facts: dict[str, Any] = {
        "id": f"rated-{transcript.given[:16]}",
        "case": f"asked-{first.transcript.given[:16]}",
        "date": transcript.at.date().isoformat(),
        "classification": transcript.classification,
        "language": language_of(rated.prompt),
        "label": rated.thumb == "up" if other is None else None,
    }
    if is_letter:
        rejected = other.answer if other is not None else None
        return RatedRow(**facts, request=rated.prompt, response=rated.answer, rejected=rejected)
    turns, tools = _turns(rated), rated.document.tools
    if other is None:
        return RatedRow(**facts, messages=turns, tools=tools)
    return RatedRow(**facts, messages=turns[:-1], tools=tools, chosen=turns[-1:], rejected=_turns(other)[-1:])


def _turns(rated: _Rated) -> tuple[dict[str, Any], ...]:
    return tuple(dict(turn_of(each)) for each in rated.document.messages)


@dataclass(frozen=True)
class TakenFile:
    name: str
    """Name of the source."""
    path: Path
    """Path relative to the data directory, as written in a recipe."""
    role: Role
    layout: Layout
    rows: int
    classification: str
    """Highest classification level of the file's rows."""


def take_rated(
    registry: Registry, institution: Institution, line: Line, file: Path, actor: str, reason: str
) -> TakenFile:
    """Log the import of a file of rated answers, then copy the file into the data directory. To train on these rows,
    the line's recipe must name the copy as a source.

    Raises InputError if the line does not permit preferences from rated answers or the reason is missing, SourceError
    for an invalid file, CeilingExceeded for a row above the line's ceiling, and ConflictError if the file was imported
    before.
    """
    if not institution.serving.makes_preferences(line.line):
        raise InputError(
            f"Line {line.line} does not permit preferences from rated answers.",
            f"To permit it, set serving.lines.{line.line}.transcripts.preferences: true in institution.yaml.",
        )
    if not reason.strip():
        raise InputError("A reason is missing.", "State why the line is to be trained on these answers.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: the file cannot be read ({type(error).__name__}).", "Correct the path.") from None
    rows, role, layout = _rows(file, content)
    with registry.reading() as session:
        served = {each.classification for each in adapters_of(session, line.line)}
    level = _level(file, rows, institution, line, served)
    digest = hashlib.sha256(content).hexdigest()
    name = f"rated-{digest[:12]}"
    path = RATED / f"{line.line}-{digest[:12]}.jsonl"
    target = registry.settings.data / path
    if target.exists():
        raise ConflictError(
            f"{target}: these rows were already imported.", "Name this file in the recipe, or import different rows."
        )
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
    return TakenFile(name, path, role, layout, len(rows), level)


def _rows(file: Path, content: bytes) -> tuple[list[RatedRow], Role, Layout]:
    """Return a file's rows, and their common role and layout. Raises SourceError, which quotes no row, if a row is
    invalid, if ids repeat, or if roles or layouts differ."""
    hint = "Pass an unchanged file that `sovereign-transcripts preferences` wrote."
    rows: list[RatedRow] = []
    kinds: set[tuple[Role, Layout]] = set()
    for number, line in enumerate((line for line in content.split(b"\n") if line), start=1):
        try:
            rows.append(RatedRow.model_validate_json(line))
            kinds.add(_kind_of(rows[-1]))
        except (ValidationError, StopIteration):
            raise SourceError(f"{file}: line {number} is not a row of rated answers.", hint) from None
    if len(kinds) != 1 or len({row.id for row in rows}) < len(rows):
        wrong = "no rows" if not rows else "rows of different roles or layouts" if len(kinds) > 1 else "a duplicate id"
        raise SourceError(f"{file}: the file has {wrong}.", hint)
    return rows, *kinds.pop()


def _kind_of(row: RatedRow) -> tuple[Role, Layout]:
    """Return the role and layout of a row. Raises StopIteration if its fields match no role and layout."""
    given = {name for name, value in row if value is not None}
    return next(
        kind
        for kind, fields in _FIELDS.items()
        if given == row.model_fields_set == _COMMON | fields
        and isinstance(row.rejected, str) == (kind == ("preferences", "columns"))
    )


def _level(file: Path, rows: list[RatedRow], institution: Institution, line: Line, served: Collection[str]) -> str:
    """Return the rows' highest classification level. served: the levels of the line's adapters, or empty if unknown.
    Raises SourceError for a row with any other level, and CeilingExceeded for a row above the line's ceiling."""
    ladder = institution.ladder
    for row in rows:
        if row.classification not in ladder or (served and row.classification not in served):
            raise SourceError(
                f"{file}: the classification level of row {row.id} is not one of the institution's levels, or no "
                f"adapter of line {line.line} has this level.",
                f"The institution's levels are {', '.join(ladder.levels)}.",
            )
    highest = ladder.highest(row.classification for row in rows)
    if ladder.exceeds(highest, line.ceiling):
        raise CeilingExceeded(
            f"{file}: a row is classified {highest}. The ceiling of line {line.line} is {line.ceiling}.",
            "Have the ceiling of the line raised.",
        )
    return highest
