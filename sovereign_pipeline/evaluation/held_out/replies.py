"""What each arm writes to held-out letters, beside what a person wrote: chrF and ROUGE-L.

What belongs here: which letters are answered, and what is made of the replies. How alike two texts are:
`reference_match.py`. Only for a line whose recipe asks for it (`evaluation.references`), since writing takes longer
than everything else that is measured of the held-out slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.formats import sft_row
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Answer, Models
from sovereign_pipeline.evaluation.held_out.private import held_out_item
from sovereign_pipeline.evaluation.held_out.records import ReplyResult, ReplySample, WrittenReply
from sovereign_pipeline.evaluation.held_out.reference_match import chrf, rouge_l
from sovereign_pipeline.evaluation.statistics.paired import loss_differences
from sovereign_pipeline.policy.evaluation import References
from sovereign_pipeline.suites.items import rank


@dataclass(frozen=True)
class ReplyOutcome:
    samples: list[ReplySample]
    replies: list[WrittenReply]
    result: ReplyResult


def write_replies(
    models: Models, held_out: Sequence[Document], instruction: str, asked: References, batch_size: int, seed: int
) -> ReplyOutcome:
    """Let every arm answer held-out letters (greedy, as served) and compare with the true replies.

    Letters are taken in the order in which the held-out slice is scored. Raises InputError when the model can take none
    of them with `max_new_tokens` more.
    """
    letters = [document for document in held_out if not document.is_preference]
    letters.sort(key=lambda document: rank(seed, document.id))
    contexts = {letter.id: held_out_item(models, letter, instruction) for letter in letters[: asked.max_rows]}
    fitting = [
        letter
        for letter in letters[: asked.max_rows]
        if models.token_counts(contexts[letter.id])[0] + asked.max_new_tokens <= models.max_length
    ]
    if not fitting:
        raise InputError(
            f"Of {len(contexts)} held-out letters none leaves room for {asked.max_new_tokens} tokens of a reply (the "
            f"model takes {models.max_length}). Lower evaluation.references.max_new_tokens."
        )
    prompts = [contexts[letter.id].context for letter in fitting]
    answers = {arm: models.answer(prompts, arm, asked.max_new_tokens, batch_size) for arm in models.arms}
    samples, replies = [], []
    for place, letter in enumerate(fitting):
        said = {arm: answers[arm][place] for arm in models.arms}
        samples.append(_sample(letter, sft_row(letter, instruction)["output"], said))
        replies.append(WrittenReply(id=letter.id, answers={arm: answer.text.strip() for arm, answer in said.items()}))
    return ReplyOutcome(samples, replies, reply_result(samples, seed))


def reply_result(samples: Sequence[ReplySample], seed: int) -> ReplyResult:
    """Everything that is said about the replies, from their samples alone."""
    cases = [sample.case for sample in samples]
    return ReplyResult(
        chrf=loss_differences([sample.chrf for sample in samples], cases, seed),
        rouge_l=loss_differences([sample.rouge_l for sample in samples], cases, seed),
    )


def _sample(letter: Document, reference: str, said: dict[Arm, Answer]) -> ReplySample:
    return ReplySample(
        id=letter.id,
        case=letter.case,
        department=letter.department,
        language=letter.language,
        chrf={arm: chrf(answer.text.strip(), reference) for arm, answer in said.items()},
        rouge_l={arm: rouge_l(answer.text, reference) for arm, answer in said.items()},
        tokens={arm: answer.tokens for arm, answer in said.items()},
        stopped={arm: answer.stopped for arm, answer in said.items()},
    )
