"""Inspect a folder of documents or mail without a recipe: count its files, find rules that pair letters with replies,
and list the files that would be left out."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.documents_from_rows import sample_of
from sovereign_pipeline.corpus.extraction import BROKEN, KINDS, Extraction, cache_of, extract
from sovereign_pipeline.corpus.letters import (
    Number,
    Numbers,
    likely_ours,
    name_in_table,
    numbers_of,
    path_pattern,
    rows_of_table,
)
from sovereign_pipeline.corpus.office_files import DOCUMENTS, SCANNED
from sovereign_pipeline.corpus.parsing import SourceFile, files_of, units_of
from sovereign_pipeline.corpus.suggestion import TERMS, ask_for_quarantine, with_answers
from sovereign_pipeline.corpus.threads import likely_ours as likely_domain
from sovereign_pipeline.corpus.values import days_in, formats_of_column, is_iso
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.recipe_model import FILL_IN, validated

SIDES = (
    ("in", "out"),
    ("incoming", "outgoing"),
    ("request", "reply"),
    ("letter", "reply"),
    ("letter", "answer"),
    ("وارد", "صادر"),
    ("طلب", "رد"),
)
"""Pairs of words, in lower case, by which the path of a letter usually differs from the path of its reply."""
MAIL = (".eml", ".msg", ".mbox")
_MAILDIR, _OF_MAILDIR = ("cur", "new"), "of Maildir"


@dataclass
class FolderFacts:
    """The result of inspecting a folder, with the proposed source of a recipe."""

    path: str
    suffixes: dict[str, int]
    """Maps a suffix, or `of Maildir`, to the number of files."""
    source: dict[str, Any]
    more: dict[str, Any]
    """Keys to add to the proposed recipe, besides the source."""
    notes: list[str]
    """Assumptions, and decisions that a person must make."""
    outcomes: list[dict[str, Any]]
    """Objects with `outcome`, `reason` (such as the rule that pairs files) and `files` (the number of files)."""
    attachments: dict[str, int]
    """Maps a suffix to the number of attachments of mail."""
    attachments_with_text: int


def look_at_folder(
    settings: Settings, folder: Path, named: Path, ladder: ClassificationLadder, answers: Sequence[str] = ()
) -> FolderFacts:
    """Inspect a folder, and propose a source of a recipe: of mail if the folder has more mail than documents, otherwise
    of documents. For documents, the source has the path patterns that pair most files. For mail, it has the
    institution's likely domain, or FILL IN. Raises SourceError if the folder contains neither documents nor mail, or if
    no file becomes a row or is quarantined.

    Args:
        named: path of the folder, as the recipe will state it.
        answers: values of a person for keys of the source, as in `Suggestion.answered`.
    """
    files = files_of(folder)
    names = [file.name for file in files]
    suffixes = Counter(_OF_MAILDIR if _is_in_maildir(name) else PurePosixPath(name).suffix.lower() for name in names)
    documents = [name for name in names if PurePosixPath(name).suffix.lower() in DOCUMENTS]
    mails = sum(name.lower().endswith(MAIL) or _is_in_maildir(name) for name in names)
    if not documents and not mails:
        raise SourceError(f"{folder}: the folder contains neither documents nor mail.", "Correct the path.")
    own: dict[str, Any]
    attachments, with_text = Counter[str](), 0

    def messages() -> Iterator[dict[str, Any]]:
        nonlocal with_text
        attachments.clear()
        with_text = 0
        for unit in units_of(KINDS["mail"][0], files, cache_of(settings), {"attachments": "read"}):
            if "attachment" in unit.item:
                attachments[unit.item["attachment"]] += 1
                with_text += "text" in unit.item
            elif "broken" not in unit.item:
                yield unit.item

    if mails > len(documents):
        ours = likely_domain(messages())
        own = {"kind": "mail", "ours": [ours or _OURS]}
        own["attachments"] = "read"
    else:
        units = units_of(KINDS["documents"][0], files, cache_of(settings))
        numbers = {_stem(unit.name): numbers_of(unit.item["text"]) for unit in units if "broken" not in unit.item}
        own_numbers = likely_ours(numbers.values())
        table = next((file.name for file in files if _is_table_of_pairs(file, names)), None)
        pairs = {
            **_patterns({*map(_stem, documents)}, numbers),
            **({"table": table} if table else {}),
            "reference": True,
        }
        own = {"kind": "documents", "pairs": pairs, **({"ours": own_numbers} if own_numbers else {})}
    source = with_answers({"name": "letters", **own, "path": named.as_posix(), **TERMS}, answers)
    notes = [_ABOUT_KINDS[source["kind"]]]
    if source.get("ours") == [_OURS]:
        notes.append(f"ours: {_about_domains(messages())}")
        return FolderFacts(str(folder), dict(suffixes), source, {}, notes, [], dict(attachments), with_text)
    extraction = extract(settings, validated(Source, source, "The draft recipe"), folder, ladder)
    if not with_text:
        source.pop("attachments", None)
    outcomes = _outcomes(extraction)
    notes += _about_attachments(attachments, with_text) + _about_scans(outcomes)
    rows = [(str(row["date"]), row["classification"]) for row in read_jsonl(extraction.rows) if BROKEN not in row]
    _set_level(sum(not level for _, level in rows), len(rows), ladder, source, notes)
    _set_dates(Counter(date for date, _ in rows), source, notes)
    more = _ask_for_quarantine(source, folder, extraction, ladder, notes)
    return FolderFacts(str(folder), dict(suffixes), source, more, notes, outcomes, dict(attachments), with_text)


_OURS = f"{FILL_IN}: domains and addresses of the institution"
_MOST_DOMAINS = 5


def _about_domains(messages: Iterable[Mapping[str, Any]]) -> str:
    """Return a question that lists the most frequent domains and asks which of them belong to the institution."""
    counts = Counter[str]()
    for each in messages:
        counts.update({str(address).rpartition("@")[2] for address in (each["sender"], *each["recipients"])})
    found = ", ".join(f"{domain} ({times:,})" for domain, times in counts.most_common(_MOST_DOMAINS))
    return f"which domains are the institution's? The most frequent: {found or 'none'}."


_ABOUT_KINDS = {
    "documents": "pairs: check the pairs that the rules made, in files.jsonl of the raw corpus.",
    "mail": "ours: list every address and domain of the institution.",
}


def _set_level(without: int, rows: int, ladder: ClassificationLadder, source: dict[str, Any], notes: list[str]) -> None:
    if without and "classification_floor" not in source:
        source["classification_floor"] = ladder.levels[-1]
        what = "conversation" if source["kind"] == "mail" else "pair"
        notes.append(
            f"classification: {without:,} of {counted(rows, what)} without a marking get the highest level, "
            f"{ladder.levels[-1]}. If a lower level is right for all of them, set `classification_floor` to that level."
        )


def _set_dates(dates: Counter[str], source: dict[str, Any], notes: list[str]) -> None:
    """Set the formats of dates that are not ISO, ask for a date for letters without one, and add notes on both."""
    others = {date: times for date, times in dates.items() if date and not is_iso(date)}
    formats = formats_of_column(others) if others else ()
    date: dict[str, Any] = {}
    if formats:
        written = [" or ".join(alternatives) for alternatives in formats]
        if any(len(alternatives) > 1 for alternatives in formats):
            date["format"] = f"{FILL_IN}: {' and '.join(written)}"
            notes.append(f"date: dates may be {' and '.join(written)}; no letter shows which. Which format is correct?")
        else:
            date["format"] = written if len(written) > 1 else written[0]
            notes.append(f"date: dates are read as {' and '.join(written)}.")
    elif others:
        notes.append(
            f"date: {counted(sum(others.values()), 'letter has', 'letters have')} a date of unknown or ambiguous "
            f"format and will be quarantined. List the formats under `date.format`."
        )
    if (without := dates[""]) and "missing" not in source.get("date", {}):
        date["missing"] = f"{FILL_IN}: date of the letters without one, such as 2024-12-31"
        notes.append(f"date: {counted(without, 'letter has', 'letters have')} no date in text or file properties.")
    if date:
        source["date"] = {**date, **source.get("date", {})}


def _ask_for_quarantine(
    source: Mapping[str, Any], folder: Path, extraction: Extraction, ladder: ClassificationLadder, notes: list[str]
) -> dict[str, Any]:
    """Return the recipe key `quarantine` with a value to fill in. Return an empty dict if the recipe does not need the
    key. Reads rows with the draft recipe; if a date key is still to be filled in, a sample value replaces it."""
    date = dict(source.get("date", {}))
    if "missing" in date:
        date["missing"] = "2000-01-01"
    if FILL_IN in str(date.get("format")):
        date["format"] = date["format"].removeprefix(f"{FILL_IN}: ").split(" ")[0]
    of_source = validated(Source, {**source, **({"date": date} if date else {})}, "The draft recipe")
    sample = sample_of(of_source, folder, Quarantine(), ladder, ladder.levels[-1], (), extraction=extraction)
    return ask_for_quarantine(sample, notes) if sample.error is None else {}


def _about_attachments(suffixes: Mapping[str, int], with_text: int) -> list[str]:
    if not suffixes:
        return []
    advice = "`read` adds their text to the message, and quarantines conversations with unreadable attachments"
    text = f"{format_suffixes(suffixes)}; {with_text:,} have text"
    return [f"attachments: {text}. {advice}. `leave_out` ignores all attachments."]


def format_suffixes(suffixes: Mapping[str, int]) -> str:
    """Format suffixes, each with its number of files. The most frequent suffix comes first."""
    return ", ".join(
        f"{times:,} {suffix or 'without suffix'}"
        for suffix, times in sorted(suffixes.items(), key=lambda each: -each[1])
    )


def _about_scans(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    scanned = sum(each["files"] for each in outcomes if each["reason"] == SCANNED)
    have = counted(scanned, "file has", "files have")
    return [f"ocr: {have} scanned pages. To read them, set `ocr: tesseract`."] if scanned else []


def _is_in_maildir(name: str) -> bool:
    return PurePosixPath(name).parent.name in _MAILDIR


def _is_table_of_pairs(file: SourceFile, names: Collection[str]) -> bool:
    """Return True if a file is a CSV file and a row's cells under `request` and `reply` name files of the folder."""
    if PurePosixPath(file.name).suffix.lower() != ".csv" or file.problem:
        return False
    try:
        rows = rows_of_table(file.path)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    known = {*names, *map(_stem, names)}
    return any(all(name_in_table(row.get(side)) in known for side in ("request", "reply")) for row in rows)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _patterns(stems: Collection[str], numbers: Mapping[str, Numbers]) -> dict[str, str]:
    """Return two path patterns, `request` for letters and `reply` for replies: those that pair most documents, and
    among these, those that match most letters and replies. Return an empty dict if no patterns make two pairs, or one
    pair among at least two letters and two replies.

    Args:
        stems: names of the documents without suffix.
        numbers: maps a stem to the document's reference numbers. If many replies cite a letter other than the one that
            the patterns pair them with, the patterns count as pairing nothing.
    """
    owners = defaultdict[Number, set[str]](set)
    for stem, each in numbers.items():
        for number in each.own:
            owners[number].add(stem)
    best, most = dict[str, str](), (1, 1)
    for sides in SIDES:
        forms = [_forms(stems, side) for side in sides]
        for form in sorted(forms[0].keys() & forms[1].keys()):
            (request, letters), (reply, replies) = (each[form].most_common(1)[0] for each in forms)
            patterns = path_pattern(request), path_pattern(reply)
            shared = sorted({*patterns[0].groupindex} & {*patterns[1].groupindex} - {"date"})
            by_key = [
                {tuple(match[name] for name in shared): stem for stem in stems if (match := pattern.fullmatch(stem))}
                for pattern in patterns
            ]
            pairs = [(by_key[0][key], by_key[1][key]) for key in by_key[0].keys() & by_key[1].keys()] if shared else []
            answers = [
                (letter, cited)
                for letter, answer in pairs
                if answer in numbers and (cited := set[str]().union(*(owners[each] for each in numbers[answer].cited)))
            ]
            is_wrong = sum(letter not in cited for letter, cited in answers) > _MOST_WRONG * len(answers)
            if (found := (0 if is_wrong else len(pairs), min(letters, replies))) > most:
                best, most = {"request": request, "reply": reply}, found
    return best


_MOST_WRONG = 0.1
"""Maximum share of the paired replies with citations that may not cite the letter with which the patterns pair them."""


def _forms(stems: Collection[str], side: str) -> dict[str, Counter[str]]:
    """Return a dict that maps a form to its path patterns, each with its number of paths. `side`: a word, such as `in`,
    that each pattern contains. In the form, `_SIDE` replaces this word, so that letters and their replies have one
    form."""
    word = re.compile(rf"(?<![^\W\d_]){side}(?![^\W\d_])", re.IGNORECASE)
    found = {stem: matches for stem in sorted(stems) if (matches := [*word.finditer(stem)])}
    parents = Counter(part for stem in found for part in {*stem.split("/")[:-1]})
    usual = {part for part, times in parents.items() if times > len(found) / 2}
    forms = defaultdict[str, Counter[str]](Counter)
    for stem, matches in found.items():
        for match in {matches[0], matches[-1]}:
            marked = f"{stem[: match.start()]}{_SIDE}{stem[match.end() :]}"
            for other_names in ("*", "{name}"):
                form = _form(marked, usual, other_names)
                forms[form][form.replace(_SIDE, match[0])] += 1
    return forms


_SIDE = "\0"
_DATE_IN_PATH = re.compile(r"(?<!\d)(?:\d{4}([._-]?)\d\d\1\d\d|\d{1,2}([._-])\d{1,2}\2\d{4})(?!\d)")
_FIXED = re.compile(rf"({_SIDE}|\{{date\}})")
_VARIABLE = re.compile(r"[^\s_.-](?:.*[^\s_.-])?")


def _form(marked: str, usual: Collection[str], other_names: str) -> str:
    """Return the form of a path that contains `_SIDE`. A date becomes `{date}`. The folder nearest to the file becomes
    `{case}`, and each higher folder becomes `{folder}`. Folders in `usual` stay unchanged. If all folders are in
    `usual`, the rest of the file's name becomes `{case}`.

    Args:
        other_names: replacement for the rest of a file name in a case's folder.
    """
    *folders, name = _DATE_IN_PATH.sub(lambda match: "{date}" if _is_date(match[0]) else match[0], marked).split("/")
    parts, has_case = list[str](), False
    for place, part in enumerate(reversed([*folders, name])):
        pieces = _FIXED.split(part)
        if place and len(pieces) == 1:
            parts.append(part if part in usual else "{folder}" if has_case else "{case}")
            has_case |= part not in usual
            continue
        has_folder = any(each not in usual and len(_FIXED.split(each)) == 1 for each in folders)
        for number, piece in enumerate(pieces):
            if number % 2 == 0 and (rest := _VARIABLE.search(piece)):
                other = other_names if (place == 0 and has_folder) or has_case else "{case}"
                has_case |= other == "{case}"
                pieces[number] = f"{piece[: rest.start()]}{other}{piece[rest.end() :]}"
        parts.append("".join(pieces))
    return "/".join(reversed(parts))


def _is_date(text: str) -> bool:
    return is_iso(text) or bool(days_in(text.replace("_", "-")))


def _outcomes(extraction: Extraction) -> list[dict[str, Any]]:
    counts = Counter(
        (each["outcome"], each["reason"] if each["outcome"] != "duplicate" else "") for each in extraction.files
    )
    return [
        {"outcome": outcome, "reason": reason, "files": times}
        for (outcome, reason), times in sorted(counts.items(), key=lambda each: (each[0][0] != "row", -each[1]))
    ]
