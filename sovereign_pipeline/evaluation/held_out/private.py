"""The line's own held-out letters: how well each arm predicts the true reply, and whether it prefers it to others.

What belongs here: which rows and which wrong replies are looked at, and what is made of their scores. How text becomes
a scored continuation is `chat.py` and `models.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.formats import sft_row, user_message
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.arms.chat import prompt_text, reply_text
from sovereign_pipeline.evaluation.arms.models import Item, Models, Score
from sovereign_pipeline.evaluation.held_out.records import PrivateResult, PrivateSample, PrivateScores, PrivateSelection
from sovereign_pipeline.evaluation.records import LOSS_DIGITS
from sovereign_pipeline.evaluation.statistics.paired import LossDifference, loss_differences, share_differences
from sovereign_pipeline.suites.items import rank

# Tokens of wrong replies that one arm may score: about 25 s on 2 CPU cores for a model of 135M parameters. Rows beyond
# it are scored on their true reply alone; `selection` in scores.json says how many.
CHOICE_TOKEN_BUDGET = 10_000


@dataclass(frozen=True)
class HeldOutSettings:
    """The part of the recipe that decides which rows are looked at and how they are shown to the model."""

    instruction: str
    seed: int
    max_rows: int | None
    distractors: int


@dataclass(frozen=True)
class _Letter:
    document: Document
    context: str
    reply: str
    context_tokens: int
    reply_tokens: int


def score_held_out(
    models: Models, held_out: Sequence[Document], settings: HeldOutSettings
) -> tuple[list[PrivateSample], PrivateScores]:
    """Score the held-out letters (preferences are passed over) with every arm.

    Loss: mean negative log-likelihood per token of the reply with its end-of-turn token, given exactly the ids that
    training uses. Choice: the true reply has the lowest such loss among itself and `distractors` replies to other
    cases in the same language, of the same department while there are any. Raises InputError when there is no letter to
    score.
    """
    letters = [_letter(models, document, settings.instruction) for document in held_out if not document.is_preference]
    chosen = _first(letters, settings.max_rows, settings.seed)
    fitting = [letter for letter in chosen if letter.context_tokens + letter.reply_tokens <= models.max_length]
    if not fitting:
        raise InputError(
            f"Of {len(letters)} held-out letters none can be scored (the model takes {models.max_length} tokens). "
            f"Give the line more letters or raise split.held_out_share."
        )
    wrong = _wrong_replies(models, fitting, letters, settings)
    items = [
        Item(
            id=letter.document.id,
            context=letter.context,
            continuations=(letter.reply, *(other.reply for other in wrong[letter.document.id])),
        )
        for letter in fitting
    ]
    scores = {arm: models.score("held_out", items, arm) for arm in models.arms}
    samples = [_sample(letter, {arm: scores[arm][row] for arm in models.arms}) for row, letter in enumerate(fitting)]
    selection = PrivateSelection(
        held_out=len(letters),
        chosen=len(chosen),
        too_long=tuple(sorted({letter.document.id for letter in chosen} - {item.id for item in items})),
        distractors=settings.distractors,
        choice_rows=sum(sample.choices > 0 for sample in samples),
        choice_tokens=sum(other.reply_tokens for others in wrong.values() for other in others),
        choice_token_budget=CHOICE_TOKEN_BUDGET,
    )
    return samples, PrivateScores(
        dtype=models.dtype, selection=selection, result=private_result(samples, settings.seed)
    )


def private_result(samples: Sequence[PrivateSample], seed: int) -> PrivateResult:
    """Everything that is said about the private slice, from its samples alone."""
    offered = [sample for sample in samples if sample.choices]
    return PrivateResult(
        loss=losses_of(samples, seed),
        choice=share_differences([sample.correct for sample in offered], [sample.case for sample in offered]),
        by_language={
            language: losses_of([sample for sample in samples if sample.language == language], seed)
            for language in sorted({sample.language for sample in samples})
        },
        by_department={
            department: losses_of([sample for sample in samples if sample.department == department], seed)
            for department in sorted({sample.department for sample in samples})
        },
    )


def held_out_item(models: Models, document: Document, instruction: str) -> Item:
    """The letter as context and its true reply as the only continuation."""
    row = sft_row(document, instruction)
    user = user_message(row["instruction"], row["input"])
    return Item(
        id=document.id,
        context=prompt_text(models.tokenizer, user),
        continuations=(reply_text(models.tokenizer, user, row["output"], models.end_of_turn),),
    )


def _letter(models: Models, document: Document, instruction: str) -> _Letter:
    item = held_out_item(models, document, instruction)
    context, reply = models.token_counts(item)
    return _Letter(document, item.context, item.continuations[0], context, reply)


def _first(letters: Sequence[_Letter], at_most: int | None, seed: int) -> list[_Letter]:
    """At most so many letters, in an order that depends on the seed and the ids alone."""
    ordered = sorted(letters, key=lambda letter: rank(seed, letter.document.id))
    return ordered[:at_most]


def _wrong_replies(
    models: Models, rows: Sequence[_Letter], letters: Sequence[_Letter], settings: HeldOutSettings
) -> dict[str, list[_Letter]]:
    """Row id -> replies offered beside the true one; none once the token budget is spent, or with too few others."""
    wrong: dict[str, list[_Letter]] = {}
    left = CHOICE_TOKEN_BUDGET
    for row in rows:
        others = [
            other
            for other in letters
            if other.document.language == row.document.language
            and other.document.case != row.document.case
            and other.reply != row.reply
            and row.context_tokens + other.reply_tokens <= models.max_length
        ]
        # Replies of the same department are the harder ones to tell apart.
        others.sort(
            key=lambda other: (
                other.document.department != row.document.department,
                rank(settings.seed, row.document.id, other.document.id),
            )
        )
        offered = others[: settings.distractors]
        cost = sum(other.reply_tokens for other in offered)
        enough = len(offered) == settings.distractors and cost <= left
        wrong[row.document.id] = offered if enough else []
        left -= cost if enough else 0
    return wrong


def _sample(letter: _Letter, scores: Mapping[Arm, Score]) -> PrivateSample:
    asked = len(scores["base"].losses)
    choices = asked if asked > 1 else 0
    return PrivateSample(
        id=letter.document.id,
        case=letter.document.case,
        department=letter.document.department,
        language=letter.document.language,
        tokens=scores["base"].tokens[0],
        losses={arm: round(score.losses[0], LOSS_DIGITS) for arm, score in scores.items()},
        choices=choices,
        correct={arm: _prefers_the_true_one(score) for arm, score in scores.items()} if choices else {},
    )


def _prefers_the_true_one(score: Score) -> bool:
    true, *others = score.losses
    return all(true < other for other in others)


def losses_of(samples: Sequence[PrivateSample], seed: int) -> dict[Reference, LossDifference]:
    """Loss of the candidate over some letters against each reference. Not empty."""
    return loss_differences([sample.losses for sample in samples], [sample.case for sample in samples], seed)
