"""The suites that a line's recipe names, own files and published ones of the mirror, opened the same way.

What belongs here: which rows are asked, how, and what identifies them. What a published suite is: `suite_cards.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.errors import RecipeError, SovereignError
from sovereign_pipeline.policy.evaluation import CapabilitySuite
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.suites.cards import (
    AnyTask,
    ChoiceTask,
    SuiteCard,
    card_path,
    load_suite_card,
    suite_digest,
    suite_folder,
    suite_names,
)
from sovereign_pipeline.suites.items import digest_of_items, rank, read_items
from sovereign_pipeline.suites.rows import AnyRow, Question, read_asked, read_examples

OWN_TASK = ChoiceTask(kind="choice", continuation="text", metric="acc_norm", prompt="{question}")
"""How an own suite is asked: the question alone; the choice that is most likely per character counts."""


@dataclass(frozen=True)
class Suite:
    """rows: those that are asked, of `rows_there` in all. examples: subject -> rows that are shown, `few_shot` of them
    at most."""

    name: str
    task: AnyTask
    rows: tuple[AnyRow, ...]
    rows_there: int
    examples: Mapping[str, Sequence[AnyRow]]


def open_suite(settings: Settings, entry: CapabilitySuite, seed: int) -> Suite:
    """Read what a recipe's entry names. Raises SourceError, RecipeError, NotFoundError or IntegrityError."""
    there = rows_of_suite(settings, entry)
    task: AnyTask = OWN_TASK
    examples: dict[str, list[AnyRow]] = {}
    if entry.suite is not None:
        card = load_suite_card(settings, entry.suite)
        task, shown = card.task, card.task.few_shot_rows if entry.few_shot is None else entry.few_shot
        examples = {subject: rows[:shown] for subject, rows in read_examples(settings, card).items()}
        if shown and not examples:
            raise RecipeError(
                f"The suite '{card.suite}' has no examples to show, and few_shot is {shown}. Leave few_shot out of the "
                f"recipe, or name a file of examples in {card_path(settings, card.suite)}."
            )
    rows = chosen_rows(there, entry.max_rows, seed)
    return Suite(entry.name, task, tuple(rows), len(there), examples)


def rows_of_suite(settings: Settings, entry: CapabilitySuite) -> list[AnyRow]:
    """Every row that may be asked, whatever `max_rows` says."""
    if entry.suite is not None:
        return read_asked(settings, load_suite_card(settings, entry.suite))
    return [*read_items(settings.data / entry.own_path, Question)]


def identity_of_suite(settings: Settings, entry: CapabilitySuite) -> str:
    """SHA-256 of the bytes of its files and of how it is asked. Which rows are chosen is the recipe's to say."""
    if entry.suite is None:
        return digest_of_items(settings.data / entry.own_path)
    card = load_suite_card(settings, entry.suite)
    asked = card.model_dump(mode="json", include={"language", "files", "task"})
    return digest_of({"files": suite_digest(settings, card), "asked": asked})


def chosen_rows(rows: Sequence[AnyRow], at_most: int | None, seed: int) -> list[AnyRow]:
    """At most so many rows, in their order in the suite; which ones depends on the seed and their ids alone, so that a
    larger number keeps those of a smaller one."""
    ranked = sorted(rows, key=lambda row: rank(seed, row.id))
    kept = {row.id for row in ranked[:at_most]}
    return [row for row in rows if row.id in kept]


@dataclass(frozen=True)
class SuiteState:
    """What is known of one published suite. rows, examples, digest: None while something is missing or damaged, which
    `problem` then says. lines: whose recipes name it."""

    card: SuiteCard
    folder: str
    rows: int | None
    examples: int | None
    digest: str | None
    problem: str | None
    lines: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        card = self.card
        return {
            "suite": card.suite,
            "rows": self.rows,
            "examples": self.examples,
            "language": card.language,
            "sector": card.sector,
            "kind": card.task.kind,
            "digest": self.digest,
            "pinned": card.sha256 is not None,
            "lines": list(self.lines),
            "folder": self.folder,
            "problem": self.problem,
        }


def examine_suites(settings: Settings, used_by: Mapping[str, Sequence[str]]) -> list[SuiteState]:
    """Look at every suite that has a card, and read it whole. used_by: suite -> lines whose recipes name it.

    Raises RecipeError for a card that is not valid, and NotFoundError when a line names a suite without a card.
    """
    cards = [load_suite_card(settings, name) for name in sorted({*suite_names(settings), *used_by})]
    return [_state(settings, card, used_by.get(card.suite, ())) for card in cards]


def _state(settings: Settings, card: SuiteCard, lines: Sequence[str]) -> SuiteState:
    folder = str(suite_folder(settings, card))
    try:
        digest = suite_digest(settings, card)
        rows, examples = len(read_asked(settings, card)), sum(map(len, read_examples(settings, card).values()))
    except SovereignError as error:  # what there is to say of this suite; the others are looked at all the same
        return SuiteState(card, folder, None, None, None, str(error), tuple(lines))
    return SuiteState(card, folder, rows, examples, digest, None, tuple(lines))
