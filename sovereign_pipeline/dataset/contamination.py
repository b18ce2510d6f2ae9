"""Evaluate the gate not_contaminated: no more rows than the recipe allows may contain an evaluation item, and no row
may contain a text of held-out or selection documents. The labelled answers on which the red team's judges are measured
are not compared, because no model gets them as prompts."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import Countdown, and_more, counted
from sovereign_pipeline.corpus.document import Document, Message, json_in, read_documents, read_jsonl, strings_in
from sovereign_pipeline.dataset.jsonl import document_of, is_letter, row_files
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.stage import Config, Gate, Inputs, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import TRAIN, untrained
from sovereign_pipeline.split.contained_texts import (
    Boilerplate,
    TextCollector,
    Texts,
    crossing_texts,
    texts_in,
    texts_of,
)
from sovereign_pipeline.split.features import memory_for_runs, read_columns
from sovereign_pipeline.split.pieces import Pieces, in_pieces
from sovereign_pipeline.split.shingles import PLACEHOLDER, normal_text
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.suites.rows import (
    digest_of_items,
    identity_of_suite,
    level_of_red_team,
    level_of_suites,
    prompt_files,
    read_prompts,
    rows_of_suite,
    text_of,
)

NOT_CONTAMINATED = "not_contaminated"
RED_TEAM = "red-team prompts"
LONGEST_NAME = 6
"""Maximum number of words that one placeholder may replace: one more than a name of five words (given, father's,
grandfather's, article, tribe)."""
NO_EVALUATION = (
    "the recipe names no evaluation yet, so the rows were compared with the held-out documents alone, with no suite "
    "and no prompt; until it is named, no adapter can be trained or registered."
)
_KEY_OF_SHORT_TEXTS = 3
_HIDDEN = ""
"""Value that represents a placeholder in a list of words: no word is empty."""
_HIDDEN_WORD = re.compile(rf"\w*{PLACEHOLDER.pattern}\w*")  # with an attached Arabic prefix, as in `وNAME_3`
_FIELDS = {
    "input": "request",
    "prompt": "request",
    "output": "response",
    "chosen": "response",
    "completion": "response",
    "rejected": "rejected",
}
Words = tuple[str, ...]


@dataclass(frozen=True)
class SuiteItem:
    """A question or prompt on which a model that was trained on the dataset may be evaluated."""

    suite: str
    id: str
    question: str
    """Text of the question without its choices."""
    text: str
    """Complete text of the item, as a model receives it."""


@dataclass(frozen=True)
class HeldOutInRows:
    """The texts that a dataset's rows share with one side of the split that is never trained on: the held-out or the
    selection side."""

    documents: int
    found: tuple[tuple[str, str], ...]
    """Pairs (document id, row id) in which one contains a whole text of the other. Each pair occurs once."""
    in_pieces: tuple[tuple[str, str], ...]
    """Pairs (document id, id of a row with a piece of the document). A document has such pairs only if all rows
    together contain at least half of one of its texts."""
    pieces: Pieces
    by_fields: dict[str, int]
    """Maps `FIELD ~ FIELD` (a field of the document, a field of the row) to the number of pairs of texts."""


def _evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    verdict = contamination_of(workplace, artifact)
    for side, found in held_out_in_rows(workplace, row_files(artifact), inputs[LEAKAGE_SAFE_SPLIT.kind]).items():
        verdict = _with_held_out(verdict, found, side)
    return verdict


def contamination_of(workplace: Workplace, dataset: Artifact) -> Verdict:
    """Compare the rows of a dataset with every item of the recipe's evaluation, as in `evaluate_contamination`. The
    dataset may be the dataset of a parent adapter."""
    rows = row_files(dataset)
    return evaluate_contamination(workplace, _rows_in(rows), sum(1 for _ in _rows_in(rows)))


def _rows_in(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(map(read_jsonl, files))


def evaluate_contamination(workplace: Workplace, rows: Iterable[Mapping[str, Any]], total: int) -> Verdict:
    """Compare every row with every item of the recipe's evaluation. In a letter, all columns except the id are
    compared; in a conversation, all texts. The verdict lists the suite, item and row of each match. `total`: number of
    rows, for progress reports.

    If the recipe has no evaluation yet, the gate passes, and the verdict states the reason. No adapter can be trained
    on the dataset until the recipe has an evaluation, and then the gate is evaluated again. Raises CeilingExceeded for
    a suite above the line's ceiling, and SourceError for a suite that cannot be read.
    """
    if workplace.line.evaluation is None:
        return Verdict(True, NO_EVALUATION, {"rows": total, "evaluation": None, "suites": {}})
    level = workplace.institution.ladder.highest((level_of_suites(workplace), level_of_red_team(workplace)))
    limits = workplace.line.named_evaluation.contamination
    items = list(items_of(workplace))
    contamination = Contamination(items, limits.n)
    count = 0
    listed: list[dict[str, Any]] = []
    countdown = Countdown(workplace.progress, f"gate {NOT_CONTAMINATED}", total, "row")
    for row in rows:
        countdown.reached(count)
        count += 1
        if is_letter(row):
            text = "\n".join(str(value) for column, value in row.items() if column != "id")
        else:
            texts = document_of(row).texts.values()
            text = "\n".join(strings_in([json_in(each) or each for each in texts], with_keys=True))
        listed += [
            {"suite": suite, "item": item, "row": str(row["id"])} for suite, item in contamination.found_in(text)
        ]
    listed.sort(key=lambda each: (each["suite"], each["item"], each["row"]))
    contaminated = sorted({each["row"] for each in listed})
    evidence = {
        "rows": count,
        "contaminated_rows": len(contaminated),
        "share": round(len(contaminated) / count, 6) if count else 0.0,
        "max_share": limits.max_share,
        "suites": {
            suite: {
                "items": sum(item.suite == suite for item in items),
                "items_in_rows": len({each["item"] for each in listed if each["suite"] == suite}),
                "rows": len({each["row"] for each in listed if each["suite"] == suite}),
            }
            for suite in dict.fromkeys(item.suite for item in items)
        },
    }
    if not count:
        return Verdict(True, "the dataset is empty.", evidence, classification=level)
    message = (
        f"{len(contaminated):,} of {count:,} rows hold {limits.n} words in a row, or the whole of a shorter item, of "
        f"what the line is evaluated on; the recipe allows {limits.max_share:.2%}"
    )
    passed = len(contaminated) <= limits.max_share * count
    if not contaminated:
        return Verdict(passed, f"{message}.", evidence, classification=level)
    remedy = (
        ""
        if passed
        else " Take these rows out of their source or the items out of the suite, or raise "
        "evaluation.contamination.max_share if the shared words are a form that every letter has."
    )
    return Verdict(
        passed,
        f"{message}: {and_more(contaminated)}. The gate's record lists every row, suite and item.{remedy}",
        evidence,
        tuple(listed),
        level,
    )


def _with_held_out(verdict: Verdict, held_out: HeldOutInRows, side: str) -> Verdict:
    """Return a copy of the verdict that also lists the rows that share texts with the held-out or the selection side.
    If there are such rows, the gate fails. A recipe cannot allow them."""
    document = "held-out document" if side == "held_out" else "selection document"
    rows, pieces = ({row for _, row in found} for found in (held_out.found, held_out.in_pieces))
    evidence = {
        **verdict.evidence,
        side: {
            "documents": held_out.documents,
            "rows": len(rows),
            "texts_by_fields": held_out.by_fields,
            "rows_with_pieces": len(pieces),
            "largest_share_in_pieces": held_out.pieces.largest_share,
            "letters_of_a_piece": held_out.pieces.letters,
        },
    }
    every = dict.fromkeys((*held_out.found, *held_out.in_pieces))
    listed = tuple({"suite": f"{document}s", "item": item, "row": row} for item, row in every)
    if not every:
        return replace(verdict, message=f"{verdict.message}{held_out.pieces.remark}", evidence=evidence)
    problems = []
    if rows:
        fields = ", ".join(f"{count:,} {name}" for name, count in held_out.by_fields.items() if count)
        problems.append(
            f"{counted(len(rows), 'row shares', 'rows share')} a whole text with a {document} "
            f"({and_more(sorted(rows))}; by field: {fields})."
        )
    if pieces:
        documents = len({item for item, _ in held_out.in_pieces})
        problems.append(
            f"{counted(len(pieces), 'row contains', 'rows together contain')} half or more of a text of "
            f"{counted(documents, document)} ({and_more(sorted(pieces))})."
        )
    return replace(
        verdict,
        passed=False,
        message=" ".join([*problems, verdict.message]),
        evidence=evidence,
        listed=(*listed, *verdict.listed),
    )


def _config(line: Line) -> Config:
    evaluation = line.evaluation
    if evaluation is None:
        return {"evaluation": None}
    return {
        **evaluation.contamination.model_dump(mode="json"),
        "levels": {
            **{suite.name: suite.classification for suite in evaluation.capability},
            RED_TEAM: evaluation.red_team.classification,
        },
        "ceiling": line.ceiling,
    }


def _digests(workplace: Workplace) -> dict[str, str]:
    data, evaluation = workplace.settings.data, workplace.line.evaluation
    if evaluation is None:
        return {}
    suites = {f"suite:{suite.name}": identity_of_suite(workplace.settings, suite) for suite in evaluation.capability}
    prompts = prompt_files(data, evaluation.red_team)
    return {**suites, **{f"red_team:{name}": digest_of_items(path) for name, path in prompts.items()}}


NO_CONTAMINATION = Gate(
    name=NOT_CONTAMINATED,
    question=(
        "Do no more rows than the recipe allows hold an item of a suite or a red-team prompt of the line, and does "
        "none hold a text of the line's held-out documents?"
    ),
    code_version="3",
    evaluate=_evaluate,
    config=_config,
    external=_digests,
)
"""The contamination gate of a dataset. If suites, prompts or limits change, the gate is evaluated again, but nothing is
trained again."""


def items_of(workplace: Workplace) -> Iterator[SuiteItem]:
    """Yield every suite item and red-team prompt of the recipe's evaluation, except out-of-distribution prompts. Raises
    SourceError if the file of a suite is missing or is not a valid suite."""
    data, evaluation = workplace.settings.data, workplace.line.named_evaluation
    for suite in evaluation.capability:
        for row in rows_of_suite(workplace.settings, suite):
            question, text = text_of(row)
            yield SuiteItem(suite.name, row.id, question, text)
    for prompt in read_prompts(*prompt_files(data, evaluation.red_team).values()):
        # These prompts have no answer that could be learnt, and some contain no word.
        if prompt.kind == "out_of_distribution":
            continue
        yield SuiteItem(RED_TEAM, prompt.id, prompt.text, prompt.text)


@dataclass(frozen=True)
class _Text:
    item: tuple[str, str]
    words: Words


def words_of(text: str) -> Words:
    """Return the words in the split's comparison form (`normal_text`: lower case, no punctuation; Arabic without
    tatweel, vowel signs and direction marks; digits as 0-9), with an empty word for each placeholder."""
    words: list[str] = []
    for number, piece in enumerate(_HIDDEN_WORD.split(text)[::2]):
        words += [_HIDDEN] if number else []
        words += normal_text(piece).split()
    return tuple(words)


class Contamination:
    """Finds the evaluation items that a row contains. Keeps the words of all items and of one row in memory.

    A row contains an item if both share a run of `n` words, as in Brown et al. 2020, "Language Models are Few-Shot
    Learners", appendix C: 13 words, each "a lowercase, whitespace delimited word with no punctuation". (Brown et al.
    remove the run from the training text, and ignore runs that occur in more than 10 documents. This gate lists every
    matching row, and the recipe limits the share of such rows.) If a question without its choices has fewer than `n`
    words, a row contains the item if all words of the question occur in the row as one run.

    A row may have a placeholder where the item has a name. In a run of `n` words, a placeholder therefore counts as one
    word, and matches any 1 to LONGEST_NAME words of the item. Every run with one placeholder is found. A run with more
    placeholders is found if it has n/2 successive real words. In a question of fewer than `n` words, a placeholder
    matches no words, because too few real words would remain.
    """

    def __init__(self, items: Iterable[SuiteItem], n: int) -> None:
        self._n = n
        self._seed = n // 2  # in a run of n words with one placeholder, the longer side has at least this many words
        self._places: dict[Words, list[tuple[_Text, int]]] = defaultdict(list)
        self._short: dict[Words, list[_Text]] = defaultdict(list)
        for item in items:
            self._add(item)

    def _add(self, item: SuiteItem) -> None:
        text, question = (
            _Text((item.suite, item.id), tuple(map(sys.intern, words_of(each)))) for each in (item.text, item.question)
        )
        if not any(text.words) or not any(question.words):
            raise SourceError(
                f"Item {item.id} of {item.suite} cannot be compared with training rows, because it has no words.",
                "Correct the item, or remove it.",
            )
        if len(question.words) < self._n:
            self._short[question.words[:_KEY_OF_SHORT_TEXTS]].append(question)
        for start in range(len(text.words) - self._seed + 1 if len(text.words) >= self._n else 0):
            seed = text.words[start : start + self._seed]
            if all(seed):
                self._places[seed].append((text, start))

    def found_in(self, row: str) -> set[tuple[str, str]]:
        """Return the pair (suite, item id) of every item that the row contains."""
        words = words_of(row)
        found: set[tuple[str, str]] = set()
        for start in range(len(words)):
            for width in range(1, _KEY_OF_SHORT_TEXTS + 1):
                for text in self._short.get(words[start : start + width], ()):
                    if words[start : start + len(text.words)] == text.words:
                        found.add(text.item)
            for text, place in self._places.get(words[start : start + self._seed], ()):
                if text.item not in found and self._is_long_enough(words, start, text.words, place):
                    found.add(text.item)
        return found

    def _is_long_enough(self, row: Words, start: int, item: Words, place: int) -> bool:
        """Return True if row and item share a run of at least n words around a seed. The seed begins at word `start` of
        the row and at word `place` of the item."""
        wanted = self._n - self._seed
        before = _shared(row[max(0, start - wanted) : start][::-1], item[:place][::-1])
        after = _shared(row[start + self._seed : start + self._n], item[place + self._seed :])
        return before + self._seed + after >= self._n


def _shared(row: Words, item: Words) -> int:
    """Return the number of words at the beginning of `row` that match the beginning of `item`. Placeholders at the end
    of the match are not counted."""
    shared = 0
    places = {0}  # possible numbers of item words that match the row's words so far
    for number, word in enumerate(row, start=1):
        if word == _HIDDEN:
            places = {place + length for place in places for length in range(1, LONGEST_NAME + 1)}
            continue
        places = {place + 1 for place in places if place < len(item) and item[place] == word}
        if not places:
            break
        shared = number
    return shared


def held_out_in_rows(workplace: Workplace, rows: Sequence[Path], split: Artifact) -> dict[str, HeldOutInRows]:
    """Return a dict that maps the held-out and the selection side to the texts that rows share with the side's
    documents. A text is shared if a row's column contains a document's text, or a document's text contains the column.
    Only the split's documents determine which texts are boilerplate and are ignored. Rows cannot make a text
    boilerplate."""
    found = {}
    with workplace.store.workspace() as scratch:
        ids, texts = _read_rows(rows, _system_messages(split), scratch / "rows.texts")
        for name, side, others in untrained(split, scratch):
            held, other = (
                read_columns(file, scratch, workplace.progress, workplace.line.corpus) for file in (side, others)
            )
            of_split = Boilerplate.of(scratch, held.texts, other.texts)
            repeated = Boilerplate.of(scratch, held.texts, texts)
            boilerplate = of_split.marking_also(repeated)
            crossing = crossing_texts(held.texts, texts, boilerplate)
            pieces = in_pieces(held.texts, texts, memory_for_runs(workplace.line.corpus), other.texts)
            whole, parts = (
                tuple((held.ids[one], ids[row]) for one, row in pairs.tolist())
                for pairs in (crossing.documents, pieces.documents)
            )
            found[name] = HeldOutInRows(len(held), whole, parts, pieces, crossing.by_fields)
    return found


def _system_messages(split: Artifact) -> dict[str, str]:
    """Return a dict that maps a document's id to the system messages at the beginning of the document. The messages are
    joined as in the first user turn of the document's row."""
    found = {}
    for document in read_documents(split.file(TRAIN)):
        begun = takewhile(lambda turn: turn.role == "system", document.messages)
        if system := "\n\n".join(turn.content for turn in begun):
            found[document.id] = sys.intern(system)
    return found


def _with_system_message(document: Document, system: str) -> Document:
    """Return the document of a row after moving the system message from the user turn into its own turn. The system
    message is compared as context, because every conversation may have the same system message."""
    first, *others = document.messages
    if not system or first.role != "user" or system not in first.content:
        return document
    user = first.model_copy(update={"content": first.content.replace(system, "", 1)})
    return document.model_copy(update={"messages": (Message(role="system", content=system), user, *others)})


def _read_rows(rows: Iterable[Path], system_messages: Mapping[str, str], shingles: Path) -> tuple[list[str], Texts]:
    ids: list[str] = []
    collector = TextCollector()
    for number, row in enumerate(_rows_in(rows)):
        ids.append(str(row["id"]))
        if not is_letter(row):
            system = system_messages.get(str(row["id"]), "")
            collector.add(number, texts_of(_with_system_message(document_of(row), system)))
            continue
        for column, value in row.items():
            if column != "id" and isinstance(value, str):
                collector.add(number, texts_in(_FIELDS.get(column, "request"), value))
    return ids, collector.stored(shingles)
