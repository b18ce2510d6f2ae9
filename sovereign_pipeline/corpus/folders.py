"""Inspect a folder of documents or mail without a recipe: kinds of files, pairs by rule, and what would be left out."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.dates import days_in, is_iso
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.extraction import KINDS, Extraction, cache_of, extract
from sovereign_pipeline.corpus.letters import name_in_table, path_pattern, rows_of_table
from sovereign_pipeline.corpus.office_files import DOCUMENTS
from sovereign_pipeline.corpus.parsing import SourceFile, files_of, units_of
from sovereign_pipeline.corpus.reference_numbers import Number, Numbers, likely_ours, numbers_of
from sovereign_pipeline.corpus.threads import likely_ours as likely_domain
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
"""Words by which the paths of letters and replies usually differ, in lower case."""
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
    attachments: dict[str, int]
    """Suffix -> number of attachments of mail."""
    attachments_with_text: int


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
    attachments, with_text = Counter[str](), 0

    def messages() -> Iterator[dict[str, Any]]:
        nonlocal with_text
        for unit in units_of(KINDS["mail"][0], files, cache_of(settings), {"attachments": "read"}):
            if "attachment" in unit.item:
                attachments[unit.item["attachment"]] += 1
                with_text += "text" in unit.item
            elif "broken" not in unit.item:
                yield unit.item

    if mails > len(documents):
        ours = likely_domain(messages())
        own = {"kind": "mail", "ours": [ours or f"{FILL_IN}: domains and addresses of the institution"]}
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
    source = {"name": "letters", **own, "path": named.as_posix(), "licence": FILL_IN, "retention": FILL_IN}
    extraction = extract(settings, Source.model_validate(source), folder, ladder)
    if not with_text:
        source.pop("attachments", None)
    if any(row.get("classification") == "" for row in read_jsonl(extraction.rows)):
        source["classification_floor"] = FILL_IN
    counts = dict(suffixes.most_common()), dict(attachments.most_common())
    return FolderFacts(str(folder), counts[0], source, _outcomes(extraction), counts[1], with_text)


def _is_table_of_pairs(file: SourceFile, names: Collection[str]) -> bool:
    """Return whether a file is a CSV file whose columns `request` and `reply` name files of the folder."""
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
    """Return the patterns of letters and replies that pair most names, or else the ones that tell most replies from
    letters. Returns none if they pair or tell less than two.

    Args:
        stems: names of the documents without suffix.
        numbers: stem -> the document's reference numbers. Patterns that often pair a reply with another letter than the
            one that it cites pair nothing: such names are counted separately on each side.
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
"""Maximum share of replies that cite another letter than the one that patterns pair with them."""


def _forms(stems: Collection[str], side: str) -> dict[str, Counter[str]]:
    """Return form of a path, with a mark for the side's word -> patterns of this form, with the number of paths."""
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
    """Return the form of a path: the side's mark, `{date}`, `{case}` for the folder above or else for what remains of
    the name, and `{folder}` for folders further above. Folders in `usual` stay as they are.

    Args:
        other_names: form of what remains of a name in the folder of a case.
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
    counts = Counter((each["outcome"], each["reason"]) for each in extraction.files)
    return [
        {"outcome": outcome, "reason": reason if outcome != "duplicate" else "", "files": times}
        for (outcome, reason), times in sorted(counts.items(), key=lambda each: (each[0][0] != "row", -each[1]))
    ]
