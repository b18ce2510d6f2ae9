"""Pair the letters and replies of a folder of documents, and give each pair its fields and its classification level."""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import compared_as, folded
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.markings import Markings
from sovereign_pipeline.corpus.office_files import DOCUMENTS
from sovereign_pipeline.corpus.parsing import Outcome, Unit, Units, printable
from sovereign_pipeline.corpus.values import days_in, formats_of_column, is_hijri, is_identifier, is_iso
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder, iso_day

LEAST_EQUAL = 0.9
"""Minimum share of common words for two files with the same name, in two formats, to count as one letter."""
_SYSTEM_FILES = re.compile(r"\.|~\$|thumbs\.db$|desktop\.ini$", re.IGNORECASE)
_FIELDS = ("id", "case", "date", "author", "department", "language", "subject")
_DRAFT = re.compile(r"(?<![^\W\d_])(?:draft|مسوده)(?![^\W\d_])")
_COPY = re.compile(r"(?:copy of|نسخه من) | ?- ?copy(?: ?\(\d+\))?$| ?\(\d{1,2}\)$")
"""Prefixes and suffixes that file managers add to the name of a copy."""
_SUBJECT = re.compile(r"^[^\w\n]*(?:subject|re|الموضوع)\s*[:：]\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_DATE = re.compile(
    r"(?:^[^\w\n]*|\s\s|\||(?<=\d)\s)(?:date|dated|التاريخ)\s*[:：]\s*(\S.*?)\s*(?=$|\s\s|\||\s[^\W\d_.]+\.?\s?[:：])",
    re.IGNORECASE | re.MULTILINE,
)
_DAY = re.compile(r"(?:D:)?(\d{4})-?(\d\d)-?(\d\d)")


Number = tuple[str, ...]
"""Comparison form of a reference number: a tuple of its parts, without separators and leading zeros, with the year
before the serial number. `HB-0017/2024` and `hb/2024/17` are equal."""


@dataclass(frozen=True)
class Numbers:
    """The reference numbers in a letter."""

    own: tuple[Number, ...] = ()
    """Numbers of the letter itself, such as the sender's number and the number from the addressee's registry."""
    cited: tuple[Number, ...] = ()
    """Numbers of the letters that this letter answers. If such numbers are in a labelled line, such as `Your ref: 17`,
    those in sentences are ignored."""


@dataclass
class Letter:
    """A document of the folder."""

    name: str
    units: Units
    level: str | None
    """Highest level that the letter's markings state; None if it has no marking."""
    raised: bool
    """True if a marking in the text is higher than all markings in the path, margins and properties."""
    created: str
    """ISO day on which the file was created according to its properties; "" if they do not state it."""
    numbers: Numbers
    copies: list[str] = field(default_factory=list)
    """Names of other files that contain the same letter, in another format or as a copy."""

    @property
    def text(self) -> str:
        """Read the text again and return it. The texts of a folder may not fit into memory."""
        return str(self.units.again(self.name).item["text"])

    @property
    def stem(self) -> str:
        return _stem(self.name)

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(folded(word) for word in self.text.split())


Pair = tuple[Letter, Letter, Mapping[str, str], str]
"""A letter, the reply to it, the fields of their document, and the rule that pairs them."""


def assemble(source: Source, ladder: ClassificationLadder, units: Units, folder: Path) -> Iterator[Any]:
    """Yield a row for each pair, and an Outcome for each unit that is in no row. A pair gets at least the highest level
    of all letters whose paths name the pair's case. Letters that are left out count, too."""
    assert source.pairs is not None
    markings, letters = Markings(ladder, source.levels), dict[str, Letter]()
    of_cases = dict[str, str | None]()
    for unit in units:
        path, letter = PurePosixPath(unit.name), None
        if "broken" not in unit.item and unit.name != source.pairs.table:
            try:
                letter = _letter(unit, units, markings)
            except RowRejected as rejected:
                unit.item["broken"] = str(rejected)
        if letter is not None and (case := _case_of(unit.name, source)):
            of_cases[case] = markings.highest(of_cases.get(case), letter.level)
        if unit.name == source.pairs.table:
            yield Outcome(unit.name, "left out", "the table of pairs")
        elif _SYSTEM_FILES.match(path.name):
            yield Outcome(unit.name, "left out", "a file of the system")
        elif _DRAFT.search(folded(path.stem).replace("_", " ")):
            yield Outcome(unit.name, "left out", "a draft, by its name")
        elif letter is not None:
            letters[unit.name] = letter
        elif unit.sha256 and path.suffix.lower() not in DOCUMENTS:
            yield Outcome(unit.name, "left out", unit.item["broken"])
        else:
            yield Outcome(unit.name, "quarantined", unit.item["broken"])
    yield from _without_copies(letters, ladder, source.pairs.reference)
    ambiguous = set[str]()
    for rule in (_by_path, _by_table, _by_reference):
        for found in rule(source, [*letters.values()], folder):
            if isinstance(found, Outcome):
                letters.pop(found.name, None)
                if found.name not in ambiguous:
                    yield found
                ambiguous.add(found.name)
            elif found[0].name in letters and found[1].name in letters:
                row = _row(found, ladder)
                yield {
                    **row,
                    "classification": markings.highest(row["classification"], of_cases.get(folded(row["case"]))) or "",
                }
                del letters[found[0].name], letters[found[1].name]
    for letter in letters.values():
        for name in (letter.name, *letter.copies):
            yield Outcome(name, "left out", "no rule pairs it")


def _case_of(name: str, source: Source) -> str:
    """Return the case that the recipe's patterns find in a path, in the form of `folded`; "" if they find none."""
    matches = (pattern.fullmatch(_stem(name)) for pattern in _patterns(source) or ())
    return next((folded(match["case"]) for match in matches if match and "case" in match.re.groupindex), "")


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _letter(unit: Unit, units: Units, markings: Markings) -> Letter:
    item = unit.item
    level, raised = markings.in_document(unit.name, item)
    dates = (item["properties"].get(name, "") for name in ("created", "creation-date", "CreationDate"))
    day = next((match for each in dates if (match := _DAY.match(each))), None)
    return Letter(unit.name, units, level, raised, "-".join(day.groups()) if day else "", numbers_of(item["text"]))


def _without_copies(letters: dict[str, Letter], ladder: ClassificationLadder, have_numbers: bool) -> Iterator[Outcome]:
    """Remove copies of letters from `letters`. Yield an Outcome for each file whose text differs from the text of a
    file with the same name in another format.

    A copy has the same name in another format, the same text and a name with a copy suffix such as `(1)`, or the same
    reference numbers and text.
    """
    by_stem = defaultdict(list)
    for letter in letters.values():
        by_stem[letter.stem].append(letter)
    for same in by_stem.values():
        best, *others = sorted(same, key=lambda letter: DOCUMENTS.index(PurePosixPath(letter.name).suffix.lower()))
        if all(is_copy(best.text, each.text) for each in others):
            _merge(letters, best, others, ladder)
        else:
            yield from _ambiguous(same, "its text differs from that of the file with the same name in another format")
            for each in same:
                del letters[each.name]
    by_mark = defaultdict(list)
    for letter in letters.values():
        by_mark[_without_copy_mark(letter.stem)].append(letter)
    for same in by_mark.values():
        best, *others = sorted(same, key=lambda letter: len(letter.stem))
        _merge(letters, best, [each for each in others if each.words == best.words], ladder)
    by_numbers = defaultdict(list)
    for letter in letters.values() if have_numbers else ():
        if letter.numbers.own:
            by_numbers[letter.numbers].append(letter)
    for same in by_numbers.values():
        best, *others = sorted(same, key=lambda letter: DOCUMENTS.index(PurePosixPath(letter.name).suffix.lower()))
        suffixes = {PurePosixPath(each.name).suffix.lower() for each in same}
        if all(
            is_copy(best.text, each.text) if len(suffixes) == len(same) else each.words == best.words for each in others
        ):
            _merge(letters, best, others, ladder)


def _without_copy_mark(stem: str) -> str:
    path = PurePosixPath(stem)
    return str(path.with_name(_COPY.sub("", folded(path.name)) or "-"))


def _merge(letters: dict[str, Letter], letter: Letter, copies: Sequence[Letter], ladder: ClassificationLadder) -> None:
    """Remove the copies of a letter from `letters`, and give the letter the highest of its own level and the copies'
    levels."""
    same = [letter, *copies]
    letter.raised = any(each.raised for each in same)
    letter.level = max((each.level for each in same if each.level), key=ladder.rank, default=None)
    for each in copies:
        letter.copies += [each.name, *each.copies]
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
    row["case"] = fields.get("case") or ("/".join(request.numbers.own[0]) if request.numbers.own else row["id"])
    raised = ", level raised by a marking in the text" if request.raised or reply.raised else ""
    return {**row, "rule": f"paired by {rule}{raised}"}


# --- rules ------------------------------------------------------------------------------------------------------------


def _by_path(source: Source, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    """Pair each letter with the reply whose path has the same values for the patterns' placeholders. If several letters
    or replies have the same values, their dates decide."""
    patterns = _patterns(source)
    if patterns is None or not (shared := {*patterns[0].groupindex} & {*patterns[1].groupindex} - {"date"}):
        return
    groups: dict[tuple[str, ...], tuple[list[Letter], list[Letter]]] = defaultdict(lambda: ([], []))
    values: dict[str, dict[str, str]] = {}
    for letter in letters:
        matches = [pattern.fullmatch(letter.stem) for pattern in patterns]
        if all(matches):
            yield from _ambiguous([letter], "its path fits letters and replies")
        for side, match in enumerate(matches):
            if match is not None and not all(matches):
                values[letter.name] = match.groupdict()
                groups[tuple(match[name] for name in sorted(shared))][side].append(letter)
    days = _days({each["date"] for each in values.values() if "date" in each})
    for each in values.values():
        each |= {"date": days[each["date"]]} if each.get("date") in days else {}
    dates = {name: each.get("date", "") for name, each in values.items()}
    for requests, replies in groups.values():
        whole, rest = _by_date(requests, replies, dates)
        for (request,), (reply,) in whole:
            fields = {**values[request.name], **values[reply.name]}
            yield request, reply, {name: value for name, value in fields.items() if name in _FIELDS}, "path"
        if all(rest):
            yield from _ambiguous([*rest[0], *rest[1]], "its path fits several letters or replies")


Sides = tuple[list[Letter], list[Letter]]
"""Letters, and replies to these letters."""


def _by_date(requests: list[Letter], replies: list[Letter], dates: Mapping[str, str]) -> tuple[list[Sides], Sides]:
    """Pair the letters and replies of one case. Return the pairs, and the letters and replies that remain ambiguous.

    If each reply has the same date as a letter, letter and reply with equal dates are a pair. Otherwise letters and
    replies must alternate by date, and each reply answers the letter before it. If a date is unreadable, a case must
    have exactly one letter and one reply to be a pair.
    """
    are_days = all(is_iso(dates[each.name]) for each in (*requests, *replies))
    if len(requests) == len(replies) == 1 and not (are_days and dates[replies[0].name] < dates[requests[0].name]):
        return [(requests, replies)], ([], [])
    at: dict[str, Sides] = defaultdict(lambda: ([], []))
    for side, of_side in enumerate((requests, replies)):
        for letter in of_side:
            at[dates[letter.name]][side].append(letter)
    runs = list[Sides]()
    if all(at[dates[reply.name]][0] for reply in replies):
        runs = [*at.values()]
    elif are_days and not any(map(all, at.values())):
        for day in sorted(at):
            if not runs or (at[day][0] and runs[-1][1]):  # the next letter after a reply
                runs.append(([], []))
            for side in (0, 1):
                runs[-1][side].extend(at[day][side])
    else:
        return [], (requests, replies)
    whole = [run for run in runs if len(run[0]) == len(run[1]) == 1]
    ambiguous = [run for run in runs if run not in whole and all(run)]
    return whole, ([each for run in ambiguous for each in run[0]], [each for run in ambiguous for each in run[1]])


def _days(written: Collection[str]) -> dict[str, str]:
    """Return a dict from each date in a path to its ISO day. A date is omitted if the dates as a whole do not reveal
    its order of day and month."""
    forms = formats_of_column(Counter(each.replace("_", "-") for each in written))
    found = dict[str, str]()
    for each in written:
        days = {day for form, day in days_in(each.replace("_", "-")).items() if (form,) in forms}
        if is_iso(each):
            found[each] = iso_day(each).isoformat()
        elif len(days) == 1:
            found[each] = days.pop().isoformat()
    return found


def _patterns(source: Source) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
    assert source.pairs is not None
    if not source.pairs.request or not source.pairs.reply:
        return None
    return path_pattern(source.pairs.request), path_pattern(source.pairs.reply)


def path_pattern(written: str) -> re.Pattern[str]:
    """Compile a path pattern of the recipe to a regular expression. `{name}` matches a part of a file name or folder
    name, and `*` matches any text within such a name."""
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


def _by_table(source: Source, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    assert source.pairs is not None
    if not source.pairs.table:
        return
    path = folder / source.pairs.table
    if not path.is_file() or path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise SourceError(
            f"{path}: the table of pairs is not a regular file in the source's folder.", "Put the table there."
        )
    try:
        rows = rows_of_table(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: the table of pairs cannot be read ({type(error).__name__}).") from None
    if not rows or not {"request", "reply"} <= rows[0].keys():
        raise SourceError(f"{path}: the table of pairs needs the columns `request` and `reply`.", "Correct the table.")
    by_name = {
        name: letter for letter in letters for each in (letter.name, *letter.copies) for name in (each, _stem(each))
    }
    named = [
        (by_name.get(name_in_table(row["request"])), by_name.get(name_in_table(row["reply"])), row) for row in rows
    ]
    times = Counter(letter.name for request, reply, _ in named for letter in (request, reply) if letter is not None)
    for request, reply, row in named:
        if request is None or reply is None:
            continue
        if request is reply or times[request.name] > 1 or times[reply.name] > 1:
            yield from _ambiguous([request, reply], "the table names it more than once")
        else:
            yield request, reply, {name: row[name] or "" for name in _FIELDS if name in row}, "table"


def rows_of_table(path: Path) -> list[dict[str, str | None]]:
    """Return the rows of a table of pairs as dicts, keyed by column names in lower case. The table's delimiter is `,`
    or `;`."""
    text = path.read_text(encoding="utf-8-sig")
    head = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    return [{str(name).strip().lower(): value for name, value in row.items() if name is not None} for row in table]


def name_in_table(cell: str | None) -> str:
    """Return the file name in a table's cell, in the form of `SourceFile.name`. The cell may omit the suffix."""
    return printable((cell or "").strip().replace("\\", "/").removeprefix("./"))


def _by_reference(source: Source, letters: Sequence[Letter], folder: Path) -> Iterator[Pair | Outcome]:
    """Pair each reply with the letter whose number the reply cites. A group of documents that are connected by
    citations must consist of one letter and one reply. Otherwise, all of them are ambiguous."""
    assert source.pairs is not None
    if not source.pairs.reference:
        return
    owners = defaultdict[Number, list[Letter]](list)
    for letter in letters:
        for number in letter.numbers.own:
            owners[number].append(letter)
    patterns = _patterns(source)
    ours = [number_of(each) for each in source.ours]

    def is_reply(letter: Letter) -> bool | None:
        """Return True if the institution wrote a letter, False if it did not, and None if neither the letter's path nor
        its number shows this."""
        fits = [pattern.fullmatch(letter.stem) is not None for pattern in patterns or ()]
        if any(fits) and not all(fits):
            return fits[1]
        if ours and letter.numbers.own:
            return any(number[: len(each)] == each for number in letter.numbers.own for each in ours)
        return None

    side = {letter.name: is_reply(letter) for letter in letters}
    answered = {
        reply.name: {
            letter.name: letter
            for number in reply.numbers.cited
            for letter in owners[number]
            if letter is not reply and not side[letter.name]
        }
        for reply in letters
        if (side[reply.name] if ours else side[reply.name] is not False)
    }
    if not ours and patterns is None:
        yield from _of_both_sides(answered, {letter.name: letter for letter in letters})
    for joined in _connected(answered, {letter.name: letter for letter in letters}):
        replies = [each for each in joined if answered.get(each.name)]
        if len(joined) == 2 and len(replies) == 1:
            (reply,) = replies
            (request,) = answered[reply.name].values()
            yield request, reply, {}, "reference number"
        else:
            yield from _ambiguous(joined, "several letters or replies have or cite its reference number")


def _of_both_sides(answered: Mapping[str, Mapping[str, Letter]], letters: Mapping[str, Letter]) -> Iterator[Outcome]:
    """Yield an Outcome for each letter in a citation if one of its letters has a number from a series that both cites
    and is cited. Such a series may belong to the institution or to a correspondent, so a letter to the institution
    could be mistaken for a reply."""
    citing = {series_of(letters[name].numbers) for name, cited in answered.items() if cited}
    cited = {series_of(letter.numbers) for each in answered.values() for letter in each.values()}
    both = (citing & cited) - {""}
    reason = "its series of reference numbers is on both sides: set `ours`"
    for name, others in answered.items():
        pair = [letters[name], *others.values()]
        if len(pair) > 1 and any(series_of(each.numbers) in both for each in pair):
            yield from _ambiguous(pair, reason)


def _connected(answered: Mapping[str, Mapping[str, Letter]], letters: Mapping[str, Letter]) -> Iterator[list[Letter]]:
    """Yield each group of letters that are connected by citations."""
    group = {name: name for name in letters}

    def first(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for reply, requests in answered.items():
        for request in requests:
            group[first(request)] = first(reply)
    found = defaultdict(list)
    for name, letter in letters.items():
        found[first(name)].append(letter)
    yield from (each for each in found.values() if len(each) > 1)


# --- reference numbers ------------------------------------------------------------------------------------------------


_WORDS = dict(
    line.split(": ", 1)
    for line in Path(__file__).with_name("reference_words.txt").read_text(encoding="utf-8").splitlines()[1:]
)
_OF_NUMBERS, _OF_OWN, _ONLY_OWN, _LETTERS, _ARABIC_LETTERS, _CONNECTING, _EARLIER = (
    "|".join(sorted(map(re.escape, _WORDS[name].split()), key=len, reverse=True))
    for name in ("numbers", "own", "own alone", "letters", "Arabic letters", "connecting", "earlier")
)
"""Parts of regular expressions: each matches any word of one list in reference_words.txt."""
_SEPARATORS = r"[/\\._()-]"
_NUMBER = rf"(?=(?:[^\W_]|{_SEPARATORS})*?\d)[^\W_]+(?:{_SEPARATORS}+[^\W_]+)*"
_GAP = r"[\s.:,;/#()\[\]\"'*|-]*"
"""Characters that may be between a label and its number."""
_LABEL = rf"(?:{_OF_NUMBERS}|{_OF_OWN})"
_OWN = re.compile(
    rf"(?:^|\s\s|\||\bDAY\b)[\W_]{{0,40}}(?P<label>{_LABEL}(?:[\s./]+{_LABEL}){{0,9}})\b{_GAP}(?P<number>{_NUMBER})(?P<rest>.*)$"
)
_LABEL_ALONE = re.compile(rf"^[\W_]*{_LABEL}(?:[\s./]+{_LABEL})*[\s.:]*$")
_YOURS_ALONE = re.compile(
    rf"^[\W_]*(?:your?|yr|y)[\s./]+(?:{_LETTERS}|ref|reference|no|number)(?:[\s.]+(?:{_OF_NUMBERS}))?[\s.:]*$"
)
_IS_NUMBER_LABEL = re.compile(rf"\b(?:{_OF_NUMBERS}|{_ONLY_OWN}|quote)\b")
_ENDS_A_LABELLED_LINE = re.compile(
    r"[\W_]*(?:$|(?:dated?|of|on|from|بتاريخ|وتاريخ|التاريخ|تاريخ|المورخ|في|DAY|your?|yr|y/|our|مرجعكم|رقمكم|اشارتكم|كتابكم|خطابكم)\b)"
)
_ONE = rf"(?:{_CONNECTING}|DAY)"
_CITED = re.compile(
    rf"(?:\b(?:your|yr)\s+(?:(?P<between>(?:[^\W\d_]+\s+){{0,2}}?)(?:{_LETTERS})|ref|reference|no|number)|\by/ref"
    rf"|\b(?:reply|response|answer)\s+to\s+(?:the\s+)?(?:{_LETTERS})|\b(?:رد|ردا|جوابا)\s+علي\s+(?:ال)?(?:{_ARABIC_LETTERS})"
    rf"|\b(?:[وفبل]|لل|ال)*(?:{_ARABIC_LETTERS})(?:كم|يكم|تكم|\s+[^\W\d_]+كم))\b"
    rf"(?:{_GAP}\b{_ONE}\b)*{_GAP}(?P<number>{_NUMBER})(?P<more>(?:\s*(?:,|&|\band\b|\bو)\s*(?:no\.?\s*)?{_NUMBER})*)"
)
_WORD, _TH = r"[^\W\d_]{3,10}", "(?:st|nd|rd|th)?"
_DATE_LIKE = re.compile(
    rf"(?<![\w/.-])(?:\d{{1,4}}([./-])\d{{1,2}}\1\d{{1,4}}|\d{{1,2}}{_TH}\.? (?:of )?{_WORD}(?: {_WORD})?,? \d{{4}}"
    rf"|{_WORD}\.? \d{{1,2}}{_TH},? \d{{4}})(?: ?(?:م|ه|ad|ah))?(?![\w/-])"
)
_OF_YEAR = re.compile(r"\b(\d+) (?:of|لسنه|لعام|/ ?لسنه) ((?:19|20)\d\d)\b")


def numbers_of(text: str) -> Numbers:
    """Return the reference numbers of a letter's text."""
    lines = _joined([_plain(line) for line in text.splitlines()])
    own = dict.fromkeys(number for line in lines for number in _own_in(line))
    labelled, others = dict[Number, None](), dict[Number, None]()
    for line in lines:
        for number, is_label in _cited_in(line):
            (labelled if is_label else others).setdefault(number)
    cited = tuple(labelled or others)
    return Numbers(tuple(each for each in own if each not in cited), cited)


def number_of(written: str) -> Number:
    """Return the comparison form of a reference number."""
    parts = [each.lstrip("0") or "0" for each in re.findall(r"[^\W_]+", _plain(written))]
    if len(parts) > 1 and _is_year(parts[-1]) and parts[-2].isdigit() and not any(map(_is_year, parts[:-1])):
        parts[-2:] = [parts[-1], parts[-2]]
    return tuple(parts)


def _plain(line: str) -> str:
    """Return the comparison form of a line: case-folded, with `DAY` in place of each date, and without spaces around
    `/` and `-` in numbers."""
    line = "".join(
        "-" if unicodedata.category(each) == "Pd" else compared_as(each) for each in unicodedata.normalize("NFKC", line)
    ).casefold()
    line = re.sub(r" ?/ ?", "/", re.sub(r"\s{3,}", "  ", line))
    line = _DATE_LIKE.sub(lambda found: " DAY " if _is_date(found[0]) else found[0], line)
    line = re.sub(r"(?<=\d) - (?=\d)", "-", line)
    return _OF_YEAR.sub(r"\2/\1", line)


def _is_date(text: str) -> bool:
    text = re.sub(r" ?(?:م|ه|ad|ah)$", "", text)
    return bool(days_in(text)) or is_iso(text) or is_hijri(text)


def _joined(lines: list[str]) -> list[str]:
    """Return the lines, with a label joined to the number in the next line, and with the wrapped lines of a paragraph
    joined."""
    joined = list[str]()
    for line in lines:
        if joined and line.strip() and joined[-1].strip():
            before = joined[-1]
            is_label = _LABEL_ALONE.match(before) or _YOURS_ALONE.match(before)
            if (is_label and re.fullmatch(rf"\W*{_NUMBER}.*", line)) or len(before) > _LEAST_WRAPPED:
                joined[-1] = f"{before.rstrip()} {line.lstrip()}"
                continue
        joined.append(line)
    return joined


_LEAST_WRAPPED = 50
"""Minimum length in characters of a line that is joined with the next line."""
_LONGEST_OF_LABELS = 2_000
"""Maximum length in characters of a line that is searched for labels and numbers. Search time grows with the square of
the length."""


def _own_in(line: str) -> Iterator[Number]:
    """Yield the letter's own number in a line that consists of labels, numbers and dates."""
    match = _OWN.search(line) if len(line) <= _LONGEST_OF_LABELS else None
    if match is not None and _IS_NUMBER_LABEL.search(match["label"]) and _ENDS_A_LABELLED_LINE.match(match["rest"]):
        number = number_of(match["number"])
        if not (len(number) == 1 and _is_year(number[0])):
            yield number


def _cited_in(line: str) -> Iterator[tuple[Number, bool]]:
    """Yield each number that follows words such as `your letter`, with True if the number is in a labelled line, and
    False if it is in a sentence."""
    for match in _CITED.finditer(line):
        if re.search(rf"\b(?:{_EARLIER})\b", match["between"] or ""):
            continue
        is_label = _ENDS_A_LABELLED_LINE.match(line[match.end() :]) is not None and len(line) < _LEAST_WRAPPED * 2
        for written in re.findall(_NUMBER, f"{match['number']} {match['more']}"):
            number = number_of(written)
            if not (len(number) == 1 and _is_year(number[0])):
                yield number, is_label


def _is_year(part: str) -> bool:
    return len(part) == 4 and part[:2] in ("19", "20") and part.isdigit()


# --- the institution's own numbers ------------------------------------------------------------------------------------

LEAST_OF_OURS = 0.9
"""Minimum share of all citations in which one of the institution's number series cites or is cited."""
LEAST_IN_A_SERIES = 5
"""Minimum number of citations for considering a number series."""


def likely_ours(letters: Iterable[Numbers]) -> list[str]:
    """Return the prefixes of the institution's own numbers, such as `hb/dg`. Return an empty list if they cannot be
    determined.

    Each citation connects a letter of the institution with a letter of somebody else. In nearly every citation,
    therefore, exactly one of the two letters has a number of the institution's series.
    """
    letters = [*letters]
    owners = defaultdict[Number, list[Numbers]](list)
    for letter in letters:
        for number in letter.own:
            owners[number].append(letter)
    citations = [
        ({series_of(reply)}, {series_of(letter)})
        for reply in letters
        for number in reply.cited
        for letter in owners[number]
        if letter is not reply
    ]
    chosen, left = set[str](), citations
    while left:
        counts = Counter(series for sides in left for series in sides[0] | sides[1] if series)
        series, times = next(iter(counts.most_common(1)), ("", 0))
        if times < LEAST_IN_A_SERIES:
            break
        chosen.add(series)
        left = [sides for sides in left if not (sides[0] | sides[1]) & chosen]
        if any(sides[0] <= chosen and sides[1] <= chosen for sides in citations):
            return []
    return sorted(chosen) if citations and len(left) <= (1 - LEAST_OF_OURS) * len(citations) else []


def series_of(letter: Numbers) -> str:
    """Return the part of a letter's own number before the year and the serial number."""
    return "/".join(takewhile(lambda part: not part.isdigit(), letter.own[0])) if letter.own else ""
