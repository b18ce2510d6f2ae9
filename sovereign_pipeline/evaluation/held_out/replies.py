"""Generated replies of each arm to held-out documents, compared with the true replies by chrF and ROUGE-L.

What belongs here: which documents are answered, and the figures. What does not: the similarity of two texts
(`reference_match.py`). Only for a line whose recipe has `evaluation.references`, since generating takes longer than
all other work on the held-out documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.formats import sft_row
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Answer, Models
from sovereign_pipeline.evaluation.held_out.private import held_out_item
from sovereign_pipeline.evaluation.held_out.records import ReplyResult, ReplySample, WrittenReply
from sovereign_pipeline.evaluation.held_out.reference_match import chrf, rouge_l
from sovereign_pipeline.evaluation.statistics.case_files import case_files
from sovereign_pipeline.evaluation.statistics.paired import loss_differences
from sovereign_pipeline.policy.evaluation import References
from sovereign_pipeline.suites.items import rank
from sovereign_pipeline.wording import counted


@dataclass(frozen=True)
class ReplyOutcome:
    """What `private_scores` stores of the replies."""

    samples: list[ReplySample]
    replies: list[WrittenReply]
    result: ReplyResult


def write_replies(
    models: Models, held_out: Sequence[Document], instruction: str, settings: References, batch_size: int, seed: int
) -> ReplyOutcome:
    """Generate every arm's replies to held-out documents (greedy, as served) and compare them with the true replies.

    Documents are taken in the order in which they are scored. Raises InputError when the model can take none of them
    with `max_new_tokens` more.
    """
    ordered = sorted(
        (document for document in held_out if not document.is_preference),
        key=lambda document: rank(seed, document.id),
    )
    items = {document.id: held_out_item(models, document, instruction) for document in ordered[: settings.max_rows]}
    fitting = [
        document
        for document in ordered[: settings.max_rows]
        if models.token_counts(items[document.id])[0] + settings.max_new_tokens <= models.max_length
    ]
    if not fitting:
        raise InputError(
            f"None of {counted(len(items), 'held-out document')} leaves room for {settings.max_new_tokens} tokens of a "
            f"reply; the model takes {models.max_length} tokens.",
            "Lower evaluation.references.max_new_tokens.",
        )
    prompts = [items[document.id].context for document in fitting]
    answers = {arm: models.answer(prompts, arm, settings.max_new_tokens, batch_size, "reply") for arm in models.arms}
    samples, replies = [], []
    for place, document in enumerate(fitting):
        given = {arm: answers[arm][place] for arm in models.arms}
        samples.append(_sample(document, sft_row(document, instruction)["output"], given))
        texts = {arm: answer.text.strip() for arm, answer in given.items()}
        replies.append(WrittenReply(id=document.id, answers=texts))
    return ReplyOutcome(samples, replies, reply_result(samples, seed))


def reply_result(samples: Sequence[ReplySample], seed: int) -> ReplyResult:
    """The figures of the replies, from their samples alone."""
    cases = case_files(samples)
    return ReplyResult(
        chrf=loss_differences([sample.chrf for sample in samples], cases, seed),
        rouge_l=loss_differences([sample.rouge_l for sample in samples], cases, seed),
    )


def _sample(document: Document, reference: str, answers: Mapping[Arm, Answer]) -> ReplySample:
    return ReplySample(
        id=document.id,
        case=document.case,
        department=document.department,
        language=document.language,
        chrf={arm: chrf(answer.text.strip(), reference) for arm, answer in answers.items()},
        rouge_l={arm: rouge_l(answer.text, reference) for arm, answer in answers.items()},
        tokens={arm: answer.tokens for arm, answer in answers.items()},
        stopped={arm: answer.stopped for arm, answer in answers.items()},
    )
