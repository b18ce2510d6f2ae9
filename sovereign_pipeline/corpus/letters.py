"""Pair the letters and replies of a folder of documents, and give each pair its fields and its classification level."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.markings import Markings
from sovereign_pipeline.corpus.office_files import DOCUMENTS
from sovereign_pipeline.corpus.parsing import Outcome, Unit, Units
from sovereign_pipeline.corpus.values import is_identifier
from sovereign_pipeline.policy.corpus import Pairs, Source
from sovereign_pipeline.policy.institution import ClassificationLadder

LEAST_EQUAL = 0.9
"""Minimum share of words that two files of one name must share to be one letter in two formats."""
_SYSTEM_FILES = re.compile(r"\.|~\$|thumbs\.db$|desktop\.ini$", re.IGNORECASE)
_FIELDS = ("id", "case", "date", "author", "department", "language", "subject")
_NUMBER = r"\s*(?:no|number|رقم)?\s*[.:]*\s*((?=[\w/.-]*\d)[\w]+(?:[/.-]\w+)*)"
_OWN = re.compile(
    rf"^\W*(?:(?:our\s+)?ref(?:erence)?|الرقم|رقمنا|المرجع|مرجعنا){_NUMBER}", re.IGNORECASE | re.MULTILINE
)
_CITED = re.compile(
    r"(?:your\s+(?:ref(?:erence)?|letter)|reference\s+to\s+(?:your\s+)?letter|in\s+reply\s+to(?:\s+letter)?"
    rf"|كتابكم|رقمكم|مرجعكم|خطابكم|رسالتكم){_NUMBER}",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"^\W*(?:subject|re|الموضوع)\s*[:：]\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_DATE = re.compile(r"^\W*(?:date|dated|التاريخ)\s*[:：]\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_DAY = re.compile(r"(?:D:)?(\d{4})-?(\d\d)-?(\d\d)")


@dataclass
class Letter:
    """A document of the folder."""

    name: str
    units: Units
    level: str | None
    """Level by its markings; None without one."""
    raised: bool
    """Whether a marking within the text is above the ones outside it."""
    created: str
    """Day on which the file was created, by its properties, or ""."""
    copies: list[str] = field(default_factory=list)
    """Names of the files with the same letter in another format."""

    @property
    def text(self) -> str:
        """Return the text. It is read again, because a folder may have more texts than memory."""
        return str(self.units.again(self.name).item["text"])

    @property
    def stem(self) -> str:
        return _stem(self.name)


Pair = tuple[Letter, Letter, Mapping[str, str], str]
"""Letter, reply, fields of the document, and the rule."""


def assemble(source: Source, ladder: ClassificationLadder, units: Units, folder: Path) -> Iterator[Any]:
    """Yield a row for each pair, and an Outcome for each unit that is in no row."""
    assert source.pairs is not None
    markings, letters = Markings(ladder, source.levels), dict[str, Letter]()
    for unit in units:
        if unit.name == source.pairs.table:
            yield Outcome(unit.name, "left out", "the table of pairs")
        elif _SYSTEM_FILES.match(PurePosixPath(unit.name).name):
            yield Outcome(unit.name, "left out", "a file of the system")
        elif "broken" not in unit.item:
            try:
                letters[unit.name] = _letter(unit, units, markings)
            except RowRejected as rejected:
                yield Outcome(unit.name, "quarantined", str(rejected))
        elif unit.sha256 and PurePosixPath(unit.name).suffix.lower() not in DOCUMENTS:
            yield Outcome(unit.name, "left out", unit.item["broken"])
        else:
            yield Outcome(unit.name, "quarantined", unit.item["broken"])
    yield from _without_copies(letters, ladder)
    ambiguous = set[str]()
    for rule in (_by_path, _by_table, _by_reference):
        for found in rule(source.pairs, [*letters.values()], folder):
            if isinstance(found, Outcome):
                letters.pop(found.name, None)
                if found.name not in ambiguous:
                    yield found
                ambiguous.add(found.name)
            elif found[0].name in letters and found[1].name in letters:
                yield _row(found, ladder)
                del letters[found[0].name], letters[found[1].name]
    for letter in letters.values():
        for name in (letter.name, *letter.copies):
            yield Outcome(name, "left out", "no rule pairs it")


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _letter(unit: Unit, units: Units, markings: Markings) -> Letter:
    item = unit.item
    level, raised = markings.in_document(unit.name, item)
    dates = (item["properties"].get(name, "") for name in ("created", "creation-date", "CreationDate"))
    day = next((match for each in dates if (match := _DAY.match(each))), None)
    return Letter(unit.name, units, level, raised, "-".join(day.groups()) if day else "")


def _without_copies(letters: dict[str, Letter], ladder: ClassificationLadder) -> Iterator[Outcome]:
    """Remove the copies of a letter in another format, and yield the files of one name with different texts."""
    by_stem = defaultdict(list)
    for letter in letters.values():
        by_stem[letter.stem].append(letter)
    for same in by_stem.values():
        best, *others = sorted(same, key=lambda letter: DOCUMENTS.index(PurePosixPath(letter.name).suffix.lower()))
        if all(is_copy(best.text, each.text) for each in others):
            best.copies += [each.name for each in others]
            best.raised = any(each.raised for each in same)
            best.level = max((each.level for each in same if each.level), key=ladder.rank, default=None)
            for each in others:
                del letters[each.name]
        else:
            yield from _ambiguous(same, "another text than the file of the same name in another format")
            for each in same:
                del letters[each.name]


def is_copy(text: str, other: str) -> bool:
    """Return whether two texts are one letter in two formats. One of them may have more lines, such as a PDF's
    margins."""
    words, others = (Counter(folded(word) for word in each.split()) for each in (text, other))
    return (words & others).total() >= LEAST_EQUAL * min(words.total(), others.total())


def _ambiguous(letters: Iterable[Letter], reason: str) -> Iterator[Outcome]:
    names = tuple(sorted(name for letter in letters for name in (letter.name, *letter.copies)))
    for name in names:
        yield Outcome(name, "quarantined", reason, tuple(each for each in names if each != name))


def _row(pair: Pair, ladder: ClassificationLadder) -> dict[str, Any]:
    request, reply, fields, rule = pair
    text, text_of_reply = request.text, reply.text
    own = _OWN.search(text)
    stated = (match[1] for each in (text_of_reply, text) if (match := _DATE.search(each)))
    subject = _SUBJECT.search(text)
    row: dict[str, Any] = {
        "id": request.stem if is_identifier(request.stem) else sha256(request.stem.encode()).hexdigest(),
        "date": next(stated, reply.created or request.created),
        "author": "",
        "department": "",
        "subject": subject[1].strip() if subject else "",
        **{name: value for name, value in fields.items() if value},
        "classification": max((each.level for each in (request, reply) if each.level), key=ladder.rank, default=""),
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text_of_reply}],
        "files": [request.name, *request.copies, reply.name, *reply.copies],
    }
    row["case"] = fields.get("case") or (own[1] if own else row["id"])
    raised = ", level raised by a marking in the text" if request.raised or reply.raised else ""
    return {**row, "rule": f"paired by {rule}{raised}"}


# --- rules ------------------------------------------------------------------------------------------------------------


def _by_path(pairs: Pairs, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    """Pair by the values in the paths. If several letters or replies have the same, the date must be equal, too."""
    if not pairs.request or not pairs.reply:
        return
    groups: dict[tuple[str, ...], tuple[list[Letter], list[Letter]]] = defaultdict(lambda: ([], []))
    values: dict[str, dict[str, str]] = {}
    patterns = path_pattern(pairs.request), path_pattern(pairs.reply)
    shared = sorted(set(patterns[0].groupindex) & set(patterns[1].groupindex))
    for letter in letters:
        matches = [pattern.fullmatch(letter.stem) for pattern in patterns]
        if all(matches):
            yield from _ambiguous([letter], "its path fits letters and replies")
        for side, match in enumerate(matches):
            if match is not None and not all(matches):
                values[letter.name] = match.groupdict()
                groups[tuple(match[name] for name in shared if name != "date")][side].append(letter)
    for requests, replies in groups.values():
        if len(requests) > 1 or len(replies) > 1:
            by_date: dict[str | None, tuple[list[Letter], list[Letter]]] = defaultdict(lambda: ([], []))
            for side, of_side in enumerate((requests, replies)):
                for letter in of_side:
                    by_date[values[letter.name].get("date")][side].append(letter)
            whole = [each for each in by_date.values() if [*map(len, each)] == [1, 1]]
            rest = [
                [letter for each in by_date.values() if each not in whole for letter in each[side]] for side in (0, 1)
            ]
        else:
            whole, rest = ([(requests, replies)] if requests and replies else []), [[], []]
        for (request,), (reply,) in whole:
            fields = {**values[request.name], **values[reply.name]}
            yield request, reply, {name: value for name, value in fields.items() if name in _FIELDS}, "path"
        if all(rest):
            yield from _ambiguous([*rest[0], *rest[1]], "its path fits several letters or replies")


def path_pattern(written: str) -> re.Pattern[str]:
    """Return the pattern of paths: `{name}` is a part of one name, and `*` any other part of it."""
    seen, parts = set[str](), []
    for part in re.split(r"(\{[a-z_]+\}|\*)", written):
        name = part[1:-1]
        if part == "*":
            parts.append("[^/]*")
        elif part.startswith("{") and part.endswith("}"):
            parts.append(
                f"(?P={name})"
                if name in seen
                else rf"(?P<{name}>{'[0-9][0-9./_-]*[0-9]' if name == 'date' else '[^/]+?'})"
            )
            seen.add(name)
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def _by_table(pairs: Pairs, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    if not pairs.table:
        return
    path = folder / pairs.table
    try:
        rows = [*csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: the table of pairs cannot be read ({type(error).__name__}).") from None
    if not rows or not {"request", "reply"} <= rows[0].keys():
        raise SourceError(f"{path}: the table of pairs needs the columns `request` and `reply`.", "Correct the table.")
    by_name = {name: letter for letter in letters for name in (letter.name, letter.stem, *letter.copies)}
    named = [(by_name.get(row["request"] or ""), by_name.get(row["reply"] or ""), row) for row in rows]
    times = Counter(letter.name for request, reply, _ in named for letter in (request, reply) if letter is not None)
    for request, reply, row in named:
        if request is None or reply is None:
            continue
        if request is reply or times[request.name] > 1 or times[reply.name] > 1:
            yield from _ambiguous([request, reply], "the table names it more than once")
        else:
            yield request, reply, {name: row[name] or "" for name in _FIELDS if name in row}, "table"


def _by_reference(pairs: Pairs, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    """Pair each reply with the letter whose number it cites. A letter without its own number, or whose number others
    have, too, is found by none."""
    if not pairs.reference:
        return
    owners, citing = defaultdict(list), defaultdict(list)
    cited: dict[str, set[str]] = {}
    for letter in letters:
        text = letter.text
        cites = {folded(match[1]) for match in _CITED.finditer(text)}
        if own := {folded(match[1]) for match in _OWN.finditer(text)} - cites:
            owners[min(own, key=folded(text).find)].append(letter)
        cited[letter.name] = cites
    for letter in letters:
        for number in cited[letter.name]:
            if number in owners:
                citing[number].append(letter)
    for number, replies in citing.items():
        requests = [each for each in owners[number] if each not in replies]
        among = [each for each in cited[replies[0].name] if each in owners]
        if len(requests) == len(replies) == len(among) == 1:
            yield requests[0], replies[0], {}, "reference number"
        elif requests:
            others = [letter for each in among for letter in owners[each]]
            yield from _ambiguous(
                {id(each): each for each in (*requests, *replies, *others)}.values(),
                "several letters or replies have or cite its reference number",
            )
