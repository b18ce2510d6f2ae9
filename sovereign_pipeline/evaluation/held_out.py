"""Score the arms on a line's held-out documents: loss, multiple choice, and similarity of generated replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import counted, folded
from sovereign_pipeline.corpus.document import Document, Message
from sovereign_pipeline.dataset.jsonl import conversation_row
from sovereign_pipeline.evaluation.arms import Arm, Reference
from sovereign_pipeline.evaluation.arms.models import Answer, Item, Models, Score, prompt_text, reply_text
from sovereign_pipeline.evaluation.records import (
    DOCUMENT_FACTS,
    AnswerRow,
    PrivateResult,
    PrivateSample,
    PrivateScores,
    PrivateSelection,
    ReplyResult,
    ReplySample,
    TurnSample,
)
from sovereign_pipeline.evaluation.statistics import (
    LossDifference,
    case_files,
    grouped,
    loss_differences,
    share_differences,
)
from sovereign_pipeline.policy.evaluation import References
from sovereign_pipeline.split.shingles import normal_text
from sovereign_pipeline.suites.rows import rank

CHOICE_TOKEN_BUDGET = 10_000
"""Maximum number of tokens of wrong replies that each arm scores. Scoring them takes about 25 s on 2 CPU cores with a
model of 135M parameters. A document whose wrong replies would exceed the rest of the budget gets a loss but no multiple
choice. `choice_rows` in scores.json is the number of documents with a multiple choice."""
LOSS_DIGITS = 6
"""Number of decimal digits to which losses are rounded. Further digits depend on the machine, as float32 sums do."""
SCORE_DIGITS = 6


@dataclass(frozen=True)
class HeldOutSettings:
    """The recipe's settings for selecting held-out documents and building their prompts."""

    instruction: str
    seed: int
    max_rows: int | None
    distractors: int
    """Number of wrong replies that are offered in addition to the true reply in the multiple choice."""
    supervise: Literal["all", "last"] = "all"
    """Assistant turns of a conversation that are trained on, and therefore scored: all turns, or only the last."""
    replaces: bool = False
    """True if a conversation's system message replaces the line's instruction (`dataset.jsonl.as_served`)."""


@dataclass(frozen=True)
class HeldOutTurn:
    """One turn of the assistant in a held-out document."""

    number: int
    """Number of the turn among the assistant's turns in the document, from 1."""
    message: Message
    item: Item
    """Item for scoring: the conversation before the turn is the context, and the turn is the only continuation."""


@dataclass(frozen=True)
class _Encoded:
    """A held-out document, rendered with the chat template, with its token counts."""

    document: Document
    turns: Sequence[HeldOutTurn]
    """The document's scored turns; at least one."""
    context_tokens: int
    """Number of tokens before the last turn."""
    reply_tokens: int
    """Number of tokens of the last turn."""

    @property
    def reply(self) -> str:
        return self.turns[-1].item.continuations[0]


def score_held_out(
    models: Models, held_out: Sequence[Document], settings: HeldOutSettings
) -> tuple[list[PrivateSample], PrivateScores]:
    """Score up to `max_rows` held-out documents with every arm. Returns one sample per document, and the scores.

    Preference documents and documents that do not fit the model's context are skipped. The loss is the mean negative
    log-likelihood per token of the true reply, including its end-of-turn token. In a conversation, the loss covers
    every turn that training would supervise.

    In the multiple choice, the true last reply must have a lower loss than each of `distractors` wrong replies. A wrong
    reply belongs to a document of another case in the same language, if possible from the same department.

    Raises InputError if no document can be scored.
    """
    encoded = [_encoded(models, document, settings) for document in held_out if not document.is_preference]
    replied = [each for each in encoded if each is not None]
    chosen = sorted(replied, key=lambda each: rank(settings.seed, each.document.id))[: settings.max_rows]
    fitting = [each for each in chosen if each.context_tokens + each.reply_tokens <= models.max_length]
    if not fitting:
        raise InputError(
            f"None of {counted(len(replied), 'held-out document')} can be scored: they do not fit the "
            f"model's context of {models.max_length} tokens.",
            "Give the line more documents or raise split.held_out_share.",
        )
    wrong = _wrong_replies(models, fitting, replied, settings)
    items = []
    for each in fitting:
        *earlier, last = (turn.item for turn in each.turns)
        offered = (each.reply, *(other.reply for other in wrong[each.document.id]))
        items += [*earlier, replace(last, continuations=offered)]
    scores = {arm: iter(models.score("held_out", items, arm, "reply")) for arm in models.arms}
    samples = [_sample(each, {arm: [next(of) for _ in each.turns] for arm, of in scores.items()}) for each in fitting]
    selection = PrivateSelection(
        held_out=len(replied),
        chosen=len(chosen),
        too_long=tuple(sorted({each.document.id for each in chosen} - {each.document.id for each in fitting})),
        distractors=settings.distractors,
        choice_rows=sum(sample.choices > 0 for sample in samples),
        choice_tokens=sum(other.reply_tokens for others in wrong.values() for other in others),
        choice_token_budget=CHOICE_TOKEN_BUDGET,
    )
    return samples, PrivateScores(
        dtype=models.dtype, selection=selection, result=private_result(samples, settings.seed)
    )


def private_result(samples: Sequence[PrivateSample], seed: int) -> PrivateResult:
    """Compute the results on held-out documents from the samples alone."""
    offered = [sample for sample in samples if sample.choices]
    return PrivateResult(
        loss=losses_of(samples, seed),
        loss_by_token=loss_differences(
            [sample.losses for sample in samples],
            case_files(samples),
            seed,
            weights=[sample.tokens for sample in samples],
        ),
        choice=share_differences([sample.correct for sample in offered], case_files(offered)),
        by_language={name: losses_of(rows, seed) for name, rows in grouped(samples, "language").items()},
        by_department={name: losses_of(rows, seed) for name, rows in grouped(samples, "department").items()},
        by_turn=_losses_by_turn(samples, seed),
    )


def _losses_by_turn(samples: Sequence[PrivateSample], seed: int) -> dict[int, dict[Reference, LossDifference]]:
    rows: dict[int, list[tuple[PrivateSample, TurnSample]]] = {}
    for sample in samples:
        for turn in sample.turns:
            rows.setdefault(turn.turn, []).append((sample, turn))
    return {
        number: loss_differences([turn.losses for _, turn in of], case_files(sample for sample, _ in of), seed)
        for number, of in sorted(rows.items())
    }


def losses_of(samples: Sequence[PrivateSample], seed: int) -> dict[Reference, LossDifference]:
    """Compare the candidate's loss with the loss of each reference. `samples` must not be empty."""
    return loss_differences([sample.losses for sample in samples], case_files(samples), seed)


def held_out_turns(models: Models, document: Document, instruction: str, replaces: bool = False) -> list[HeldOutTurn]:
    """Return the assistant's turns in a document, rendered with the chat template. Turns of weight 0 are left out."""
    served = conversation_row(document, instruction, replaces)["messages"]
    places = [place for place, turn in enumerate(served) if turn["role"] == "assistant"]
    written = [message for message in document.messages if message.role == "assistant"]
    turns = []
    for number, (place, message) in enumerate(zip(places, written, strict=True), start=1):
        if not message.weight:
            continue
        before, reply = served[:place], [served[place]]
        name = document.id if document.is_letter else f"{document.id}, turn {number}"
        context = prompt_text(models.tokenizer, before, document.tools)
        following = reply_text(models.tokenizer, before, reply, models.end_of_turn, document.tools)
        turns.append(HeldOutTurn(number, message, Item(name, context, (following,))))
    return turns


def _encoded(models: Models, document: Document, settings: HeldOutSettings) -> _Encoded | None:
    """Return a document with its scored turns and token counts; None if no turn of the document is scored."""
    turns = held_out_turns(models, document, settings.instruction, settings.replaces)
    if settings.supervise == "last":
        turns = [turn for turn in turns if turn.message is document.messages[-1]]
    if not turns:
        return None
    return _Encoded(document, turns, *models.token_counts(turns[-1].item))


def _wrong_replies(
    models: Models, rows: Sequence[_Encoded], replied: Sequence[_Encoded], settings: HeldOutSettings
) -> dict[str, list[_Encoded]]:
    """Return a mapping of document id to the wrong replies that are offered in addition to the true reply. A document's
    list is empty if its wrong replies would exceed the rest of the token budget, or if there are fewer than
    `distractors` suitable replies."""
    wrong: dict[str, list[_Encoded]] = {}
    left = CHOICE_TOKEN_BUDGET
    for row in rows:
        others = [
            other
            for other in replied
            if other.document.language == row.document.language
            and folded(other.document.case) != folded(row.document.case)
            and other.reply != row.reply
            and row.context_tokens + other.reply_tokens <= models.max_length
        ]
        # A wrong reply from the same department is harder to distinguish from the true reply.
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


def _sample(encoded: _Encoded, scores: Mapping[Arm, Sequence[Score]]) -> PrivateSample:
    scored = len(scores["base"][-1].losses)
    choices = scored if scored > 1 else 0
    tokens = [score.tokens[0] for score in scores["base"]]
    return PrivateSample(
        **encoded.document.model_dump(include=DOCUMENT_FACTS),
        tokens=sum(tokens),
        losses={
            arm: round(-sum(score.log_likelihoods[0] for score in of) / sum(tokens), LOSS_DIGITS)
            for arm, of in scores.items()
        },
        choices=choices,
        correct={arm: _prefers_true_reply(of[-1]) for arm, of in scores.items()} if choices else {},
        turns=()
        if encoded.document.is_letter
        else tuple(
            TurnSample(
                turn=turn.number,
                tokens=tokens[place],
                losses={arm: round(of[place].losses[0], LOSS_DIGITS) for arm, of in scores.items()},
            )
            for place, turn in enumerate(encoded.turns)
        ),
    )


def _prefers_true_reply(score: Score) -> bool:
    true, *others = score.losses
    return all(true < other for other in others)


@dataclass(frozen=True)
class ReplyOutcome:
    """The results of generated replies that the stage `private_scores` stores."""

    samples: list[ReplySample]
    replies: list[AnswerRow]
    result: ReplyResult


def write_replies(
    models: Models,
    held_out: Sequence[Document],
    instruction: str,
    settings: References,
    batch_size: int,
    seed: int,
    replaces: bool = False,
) -> ReplyOutcome:
    """Generate every arm's replies to held-out documents, and compare them with the true replies. Decoding is greedy,
    and prompts are built as in serving.

    Documents are selected in the same order as in `score_held_out`. Raises InputError if no document leaves room for
    `max_new_tokens` tokens in the model's context.
    """
    replied = [document for document in held_out if not document.is_preference]
    chosen = sorted(replied, key=lambda document: rank(seed, document.id))[: settings.max_rows]
    turns = {document.id: held_out_turns(models, document, instruction, replaces) for document in chosen}
    items = {name: of[-1].item for name, of in turns.items() if of}
    fitting = [
        document
        for document in chosen
        if document.id in items
        and models.token_counts(items[document.id])[0] + settings.max_new_tokens <= models.max_length
    ]
    if not fitting:
        raise InputError(
            f"None of {counted(len(items), 'held-out document')} leaves room for a reply of "
            f"{settings.max_new_tokens} tokens in the model's context of {models.max_length} tokens.",
            "Lower evaluation.references.max_new_tokens.",
        )
    prompts = [items[document.id].context for document in fitting]
    answers = {arm: models.answer(prompts, arm, settings.max_new_tokens, batch_size, "reply") for arm in models.arms}
    samples, replies = [], []
    for place, document in enumerate(fitting):
        given = {arm: answers[arm][place] for arm in models.arms}
        samples.append(_reply_sample(document, turns[document.id][-1].message.as_text, given))
        texts = {arm: answer.text.strip() for arm, answer in given.items()}
        replies.append(AnswerRow(id=document.id, answers=texts))
    return ReplyOutcome(samples, replies, reply_result(samples, seed))


def reply_result(samples: Sequence[ReplySample], seed: int) -> ReplyResult:
    """Compute the results of generated replies from the samples alone."""
    cases = case_files(samples)
    return ReplyResult(
        chrf=loss_differences([sample.chrf for sample in samples], cases, seed),
        rouge_l=loss_differences([sample.rouge_l for sample in samples], cases, seed),
    )


def _reply_sample(document: Document, reference: str, answers: Mapping[Arm, Answer]) -> ReplySample:
    return ReplySample(
        **document.model_dump(include=DOCUMENT_FACTS),
        chrf={arm: chrf(answer.text.strip(), reference) for arm, answer in answers.items()},
        rouge_l={arm: rouge_l(answer.text, reference) for arm, answer in answers.items()},
        tokens={arm: answer.tokens for arm, answer in answers.items()},
        stopped={arm: answer.stopped for arm, answer in answers.items()},
    )


def chrf(reply: str, reference: str) -> float:
    """Return the chrF2 score of one reply, 0 to 1: the F-score of character n-grams, with recall weighted twice as much
    as precision. N-grams have up to 6 characters, and spaces are removed.

    The score is defined in Popović 2015 ("chrF: character n-gram F-score for automatic MT evaluation"). It is computed
    with sacreBLEU's defaults for a sentence: beta 2, no word n-grams, no smoothing. Character n-grams need no
    tokenizer. This suits Arabic, where clitics change the form of a word.
    """
    score = _chrf().sentence_score(reply, [reference]).score
    return round(float(score) / 100, SCORE_DIGITS)


def rouge_l(reply: str, reference: str) -> float:
    """Return the ROUGE-L F1 score of one reply, 0 to 1, which is based on the longest common subsequence of words.

    The score is defined in Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"), section 3.1, with beta
    1 as in `rouge_score`. The tokenizer of `rouge_score` deletes every letter except a-z, which removes all Arabic
    text. This function uses the words of `normal_text` instead (lower case, no punctuation, Arabic without vowel signs
    and tatweel, digits as 0-9), without stemming.
    """
    score = _rouge().score(reference, reply)["rougeL"].fmeasure
    return round(float(score), SCORE_DIGITS)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return normal_text(text).split()

    return RougeScorer(["rougeL"], tokenizer=Words())
