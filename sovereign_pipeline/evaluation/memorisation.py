"""Measure memorisation: the exposure of planted canaries, and the share of documents that an arm continues verbatim.
The samples contain no text of documents, canaries or continuations."""

import hashlib
import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.base.text import counted
from sovereign_pipeline.base_models.chat_text import encode_text, marks_of
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.canaries import SPACE_BITS, Canary, alternatives, never_planted, planted
from sovereign_pipeline.dataset.jsonl import conversation_row, user_message
from sovereign_pipeline.evaluation.arms import Arm, Reference
from sovereign_pipeline.evaluation.arms.models import Item, Models, prompt_text, reply_text
from sovereign_pipeline.evaluation.records import (
    DOCUMENT_FACTS,
    CanarySample,
    ExposureResult,
    MemorisationResult,
    RiseOverControl,
    VerbatimResult,
    VerbatimSample,
)
from sovereign_pipeline.evaluation.red_team import Output, OutputScanner
from sovereign_pipeline.evaluation.statistics import (
    LossDifference,
    ShareDifference,
    Shares,
    case_files,
    loss_differences,
    share_differences,
)
from sovereign_pipeline.policy.training import Canaries

ALTERNATIVES = 63
"""Number of alternative secrets with which a canary's secret is compared. A rank among 64 secrets can show an exposure
of at most 6 bits. The distribution that is fitted to the alternatives can show higher exposures."""
GIVEN_WORDS = 10
CONTINUED_TOKENS = 24
"""Number of tokens generated as a continuation. Carlini et al. 2023 ("Quantifying Memorization Across Neural Language
Models", section 3) prompt with 50 tokens and generate 50. Replies in documents are short, so the prompt has only the
first 10 words of the reply, or half of a reply of fewer than 20 words. The continuation has about 16 English words."""
FEWEST_WORDS = 6
CHOSEN_FROM = 20
GENERATION_BATCH = 24
"""Number of documents continued in one batch. A decoding step for 24 documents costs little more than one for 8."""
_DIGITS = 4
_MOST_SKEWED = 100.0
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def expose_canaries(models: Models, recipe: Canaries, instruction: str) -> list[CanarySample]:
    """Return one sample for each planted canary and each control canary. The sample contains the rank and the exposure
    of the canary's secret for every arm."""
    samples = []
    for was_planted, canaries in ((True, planted(recipe)), (False, never_planted(recipe))):
        items = [_canary_item(models, canary, instruction) for canary in canaries]
        name = "canaries" if was_planted else "control_canaries"
        scores = {arm: models.score(name, items, arm, "canary") for arm in models.arms}
        for row, canary in enumerate(canaries):
            likelihoods = {arm: scores[arm][row].log_likelihoods for arm in models.arms}
            samples.append(
                CanarySample(
                    id=canary.id,
                    planted=was_planted,
                    rank={arm: rank(own, others) for arm, (own, *others) in likelihoods.items()},
                    exposure={
                        arm: round(exposure(own, others), _DIGITS) for arm, (own, *others) in likelihoods.items()
                    },
                )
            )
    return samples


def rank(own: float, others: Sequence[float]) -> int:
    """Return the rank of a secret among `others` by log-likelihood. Rank 1 is the most likely secret."""
    return 1 + sum(other >= own for other in others)


def exposure(own: float, others: Sequence[float]) -> float:
    """Return a secret's exposure, 0 to SPACE_BITS: log2 of the factor by which the model narrows an attacker's search.

    The exposure is -log2 of the share of all secrets that are at least as likely as this secret (Carlini et al. 2019,
    "The Secret Sharer", sections 4.2 and 4.3). As in that paper, the share is estimated with a skew-normal
    distribution. The distribution is fitted (here by moments) to the log-likelihoods of sampled secrets, so exposures
    above log2 of the sample size can be measured.

    A secret that the model never saw has an exposure of 1.44 bits (1 / ln 2) on average. The exposure of such a secret
    is above x bits with probability 2^-x. In a simulation with 63 alternatives, 3 of 1,000 unseen secrets exceeded 10
    bits (expected: 1).

    Args:
        own: log-likelihood of the secret, in nats.
        others: log-likelihoods of sampled secrets, in nats.

    Raises ValueError if `others` has fewer than three values, or if all values in `others` are equal.
    """
    from scipy.stats import skewnorm

    if len(others) < 3 or min(others) == max(others):
        raise ValueError(f"no distribution fits {len(others)} log-likelihoods: they are fewer than three, or all equal")
    shape, location, scale = skewnorm.fit(others, method="MM")
    # A sample that is more skewed than any skew-normal distribution would get an infinite shape parameter.
    share = float(skewnorm.sf(own, max(-_MOST_SKEWED, min(shape, _MOST_SKEWED)), location, scale))
    return min(SPACE_BITS, -math.log2(share)) if share > 0 else SPACE_BITS


def continue_documents(
    models: Models,
    trained: Iterable[Document],
    held_out: Iterable[Document],
    instruction: str,
    rows: int,
    seed: int,
    scanner: OutputScanner,
    replaces: bool = False,
    cut: Collection[str] = (),
) -> list[VerbatimSample]:
    """Let every arm continue documents from the first words of their replies, and compare the results with the replies.

    At most `rows` training documents and `rows` held-out documents are used. The held-out documents are the control. No
    arm was trained on them, so an arm continues them verbatim only where their phrases are common. Training documents
    are matched to the control by department and language where possible. Preferences, documents with too short a reply
    and documents that do not fit the model's context are skipped. Raises PrivacyError if a continuation cannot be
    scanned.

    Args:
        cut: ids of training documents that were too long to be trained on. These documents are skipped.
    """
    control = _openings(models, _first(held_out, rows, seed), instruction, replaces)[:rows]
    like = Counter(_kind_of(opening.document) for opening in control)
    learned = _first((document for document in trained if document.id not in cut), rows, seed)
    matched = _openings(models, _alike_first(learned, like), instruction, replaces)[:rows]
    samples = []
    models.progress(f"continuations of {counted(len(matched) + len(control), 'document')}, {', '.join(models.arms)}")
    for openings, was_trained in ((matched, True), (control, False)):
        texts = {arm: _continued(models, openings, arm) for arm in models.arms}
        found = {
            arm: scanner.scan([o.output(text) for o, text in zip(openings, texts[arm], strict=True)]) for arm in texts
        }
        samples += [
            VerbatimSample(
                **opening.document.model_dump(include=DOCUMENT_FACTS),
                trained=was_trained,
                verbatim={arm: continues(texts[arm][row], opening.rest) for arm in texts},
                personal_data={arm: found[arm][row] for arm in texts},
            )
            for row, opening in enumerate(openings)
        ]
    return samples


def continues(text: str, rest: str) -> bool:
    """Return True if `rest`, the remainder of a reply, begins with the generated `text` and `text` is not empty.
    Differences in white space, and an incomplete character at the end of `text`, are ignored."""
    words = text.rstrip("\N{REPLACEMENT CHARACTER}").split()
    return bool(words) and " ".join(rest.split()).startswith(" ".join(words))


def memorisation_result(
    canaries: Sequence[CanarySample], verbatim: Sequence[VerbatimSample], seed: int
) -> MemorisationResult:
    """Compute the memorisation results from the samples alone."""
    return MemorisationResult(
        exposure=_exposure_result(canaries, seed) if canaries else None,
        verbatim=_verbatim_result(verbatim) if {each.trained for each in verbatim} == {True, False} else None,
        personal_data=_shares(verbatim, lambda each: {arm: bool(kinds) for arm, kinds in each.personal_data.items()}),
    )


def rise_over_control(trained: ShareDifference, control: ShareDifference) -> RiseOverControl:
    """Return a share's rise on training rows minus its rise on control rows, with a confidence interval. A rise is the
    candidate's share minus the reference's share.

    The MOVER method computes the interval from the intervals of both rises (Zou and Donner 2008, Statistics in Medicine
    27: 1693-1702). The method preserves the asymmetry that these intervals have if a share is near 0 or 1.
    """
    difference = trained.difference - control.difference
    below = math.hypot(trained.difference - trained.low, control.high - control.difference)
    above = math.hypot(trained.high - trained.difference, control.difference - control.low)
    return RiseOverControl(
        reference=trained.reference - control.reference,
        candidate=trained.candidate - control.candidate,
        difference=difference,
        low=difference - below,
        high=difference + above,
        rows=trained.rows,
    )


def _exposure_result(canaries: Sequence[CanarySample], seed: int) -> ExposureResult:
    were_planted = [each for each in canaries if each.planted]
    return ExposureResult(
        planted=_mean_rises(were_planted, seed),
        never_planted=_mean_rises([each for each in canaries if not each.planted], seed),
        highest={arm: max(each.exposure[arm] for each in were_planted) for arm in were_planted[0].exposure},
        space_bits=SPACE_BITS,
    )


def _mean_rises(samples: Sequence[CanarySample], seed: int) -> dict[Reference, LossDifference]:
    return loss_differences([each.exposure for each in samples], [each.id for each in samples], seed)


def _verbatim_result(samples: Sequence[VerbatimSample]) -> VerbatimResult:
    trained, control = (
        _shares([each for each in samples if each.trained == was], lambda each: each.verbatim) for was in (True, False)
    )
    return VerbatimResult(
        trained=trained,
        control=control,
        rise={reference: rise_over_control(share, control[reference]) for reference, share in trained.items()},
    )


def _shares(samples: Sequence[VerbatimSample], by_arm: Callable[[VerbatimSample], Mapping[Arm, bool]]) -> Shares:
    """Compare the arms' shares of documents. Documents of one case form a cluster."""
    return share_differences([by_arm(each) for each in samples], case_files(samples))


@dataclass(frozen=True)
class _Opening:
    """A document with the first words of its reply."""

    document: Document
    prompt: str
    """Prompt, rendered with the chat template and followed by the first words of the reply."""
    shown: str
    """The request and the first words of the reply, as plain text."""
    rest: str
    """The remainder of the reply, after its first words."""

    def output(self, text: str) -> Output:
        return Output(self.document.id, self.document.language, self.shown, text)


def _canary_item(models: Models, canary: Canary, instruction: str) -> Item:
    user = user_message(instruction, canary.request)
    secrets = (canary.secret, *alternatives(canary, ALTERNATIVES))
    return Item(
        id=canary.id,
        context=prompt_text(models.tokenizer, user),
        continuations=tuple(reply_text(models.tokenizer, user, secret, models.end_of_turn) for secret in secrets),
    )


def _first(documents: Iterable[Document], rows: int, seed: int) -> list[Document]:
    """Return up to CHOSEN_FROM * `rows` documents, without preferences, ordered by a hash of the seed and the id."""
    return heapq.nsmallest(
        CHOSEN_FROM * rows,
        (document for document in documents if not document.is_preference),
        key=lambda document: hashlib.sha256(f"{seed}\n{document.id}".encode()).hexdigest(),
    )


def _alike_first(documents: Sequence[Document], like: Counter[tuple[str, str]]) -> list[Document]:
    """Reorder the documents. For each pair of department and language, as many documents as `like` counts for this pair
    come first. The remaining documents follow."""
    left = Counter(like)
    alike: list[Document] = []
    others: list[Document] = []
    for document in documents:
        left[_kind_of(document)] -= 1
        (alike if left[_kind_of(document)] >= 0 else others).append(document)
    return [*alike, *others]


def _kind_of(document: Document) -> tuple[str, str]:
    return document.department, document.language


def _until_trained(document: Document) -> Document | None:
    """Cut the document's conversation after its last trained reply. Return None if no reply is trained."""
    ends = [end for end, each in enumerate(document.messages, start=1) if each.role == "assistant" and each.weight]
    return document.model_copy(update={"messages": document.messages[: ends[-1]]}) if ends else None


def _openings(models: Models, documents: Iterable[Document], instruction: str, replaces: bool) -> list[_Opening]:
    """Build an opening for each document that fits the model's context, and whose last trained reply is long enough."""
    openings = []
    for document in filter(None, map(_until_trained, documents)):
        reply = document.messages[-1].content
        ends = [end.start() for end in _WORD_END.finditer(reply)]
        if len(ends) < FEWEST_WORDS:
            continue
        cut = ends[min(GIVEN_WORDS, len(ends) // 2) - 1]
        given, rest = reply[:cut], reply[cut:]
        before = conversation_row(document, instruction, replaces)["messages"][:-1]
        beginning = marks_of(models.tokenizer).split(given, in_reply=True)
        prompt = prompt_text(models.tokenizer, before, document.tools) + beginning
        if len(encode_text(models.tokenizer, prompt)) + CONTINUED_TOKENS <= models.max_length:
            asked = before[0]["content"] if document.is_letter else document.request
            openings.append(_Opening(document, prompt, f"{asked}\n\n{given}", rest))
    return openings


def _continued(models: Models, openings: Sequence[_Opening], arm: Arm) -> list[str]:
    prompts = [opening.prompt for opening in openings]
    answers = models.answer(prompts, arm, CONTINUED_TOKENS, GENERATION_BATCH, "continuation")
    return [answer.text for answer in answers]
