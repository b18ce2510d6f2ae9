"""Check the reward before RLHF, and check the policy during RLHF.

Before RLHF, plainly bad replies must score below the institution's replies. During RLHF, a check raises TrainingFailed
if a measured value shows an error. `reason_to_stop` returns the reason why the training should end.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.rewards import Rewards

Row = Mapping[str, float]
"""Metrics of one iteration in the training log."""

COMPARED = 24
"""Largest number of the institution's replies with which bad replies are compared."""
LEAST_ABOVE = 0.01
"""Minimum difference between the mean score of the institution's replies and that of bad replies."""
SAMPLED = 64
"""Maximum number of replies that are sampled before the first step. Training starts only if these replies have at least
two different rewards."""
LEAST_SPREAD = 1e-6
LARGEST_RATIO_OFF = {"float32": 1e-4, "bfloat16": 2e-2}
LARGEST_SAMPLER_GAP = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest accepted gap between the log-probabilities of the sampler and those of the update: mean over tokens, in nats.
The sampler's passes are padded and cached and the update's passes are packed, so rounding differs."""
FEW = 3
"""Number of iterations for a mean. To detect a drift, the mean over the first iterations is compared with the mean over
the last iterations."""
LENGTH_FACTOR = 3.0
MORE_REPETITION, MORE_MISSING_ENDS = 0.25, 0.5
GRAM = 4


def check_reward(rewards: Rewards, prompts: Sequence[Prompt], text_of: Callable[[list[int]], str], tokens: int) -> None:
    """Raise TrainingFailed if the mean score of a kind of plainly bad reply is above the institution's mean score minus
    `LEAST_ABOVE`, or if the reward abstains for all of the institution's replies.

    Bad replies are: an empty reply; repeated first words; the first sentence alone; the most frequent words of all
    replies; and the first sentences of other replies. text_of: function that decodes token ids. tokens: maximum
    length of the policy's replies; the institution's replies are truncated to this number of tokens.
    """
    chosen = prompts[:: max(1, len(prompts) // COMPARED)][:COMPARED]
    texts = [text_of(prompt.response_ids[:tokens]) for prompt in chosen]
    width = len(chosen[0].response_ids[:tokens])
    words = _frequent_words(texts)
    openings = [_first_sentence(text) for text in texts]

    def repeated(text: str) -> str:
        return " ".join(text.split()[:5] * width)

    kinds = {
        "empty replies": ["" for _ in texts],
        "replies of repeated words": [repeated(text) for text in texts],
        "replies of their first sentence alone": [
            opening if opening != text else "" for opening, text in zip(openings, texts, strict=True)
        ],
        "replies stuffed with frequent words": [" ".join(words) for _ in texts],
        "replies stuffed with other replies' first sentences": [
            " ".join(other for other in dict.fromkeys(openings) if other != own) for own in openings
        ],
    }
    of_true = _totals(rewards, chosen, texts, [prompt.response_ids[:tokens] for prompt in chosen])
    if all(score is None for score in of_true):
        raise TrainingFailed(
            f"The reward abstains for all {len(chosen)} of the institution's replies that were scored as a check.",
            "Correct the tools in training.rlhf.reward.",
        )
    for kind, bad in kinds.items():
        pairs = [
            (true, score)
            for true, score in zip(of_true, _totals(rewards, chosen, bad), strict=True)
            if true is not None and score is not None
        ]
        if not pairs:  # the tool abstains for such replies, so the policy learns nothing from them
            continue
        true, score = (fmean(side) for side in zip(*pairs, strict=True))
        if score > true - LEAST_ABOVE:
            raise TrainingFailed(
                f"The reward does not need a good reply: {kind} score {score:.3f}, but the institution's own replies "
                f"score {true:.3f} (mean over {len(pairs)} prompts, with {tokens} tokens per reply).",
                "Change the tools in training.rlhf.reward. Or add a part of the reward that gives such replies a low "
                "score, or train the reward model on pairs with such replies as rejected ones. If the rewarded text "
                "comes later in a reply, raise max_new_tokens.",
            )


def differ(scores: Sequence[float | None]) -> bool:
    """Return True if the scores include at least two different rewards."""
    said = [score for score in scores if score is not None]
    return len(said) > 1 and pstdev(said) >= LEAST_SPREAD


def groups(scores: Sequence[float | None], size: int) -> list[Sequence[float | None]]:
    """Split the scores into consecutive groups of `size`. Each group belongs to one prompt if `size` is the number of
    replies to a prompt and the scores are in the order of the prompts."""
    return [scores[start : start + size] for start in range(0, len(scores), size)]


def check_spread_of_samples(scores: Sequence[float | None], compared: int) -> None:
    """Raise TrainingFailed unless, in at least one group, replies sampled from the initial policy have different
    rewards. With equal rewards, the policy could learn nothing. compared: number of consecutive replies in a group,
    which the algorithm compares with one another."""
    if any(map(differ, groups(scores, compared))):
        return
    said = [score for score in scores if score is not None]
    what = f"the same reward, {said[0]:.3f}" if said else "no reward: the tools abstain"
    if differ(scores):
        what = f"the same reward as the other replies to their prompt, in groups of {compared}"
    raise TrainingFailed(
        f"All {len(scores)} replies that were sampled before the first step have {what}.",
        "Use a reward that some replies of the SFT adapter earn, or train SFT longer.",
    )


def check_sampler(gap: float, precision: str, by_server: bool = False) -> None:
    """Raise TrainingFailed if `gap` exceeds `LARGEST_SAMPLER_GAP`. gap: difference between the log-probabilities of the
    sampler and the update, mean over tokens, nats. by_server: True if a vLLM server sampled the replies."""
    if not gap <= LARGEST_SAMPLER_GAP[precision]:
        raise TrainingFailed(
            f"The log-probabilities of sampled tokens differ by {gap:.4f} nats per token between the sampler and the "
            f"update. The replies were not sampled from the policy that learns.",
            "Start vLLM with the line's base model, in the precision of the training, and with --logprobs-mode "
            "processed_logprobs: see 'Rollouts by vLLM' in docs/how-to/reward.md."
            if by_server
            else "Set packing: false in training.sft, or algorithm: ppo in training.rlhf. If neither helps, RLHF is "
            "not possible with this model.",
        )


def check_first_ratio(off: float, precision: str) -> None:
    """Raise TrainingFailed if, at an iteration's first step, the policy has changed since the batch was sampled. off:
    largest |ratio − 1| over the tokens."""
    if not off <= LARGEST_RATIO_OFF[precision]:
        raise TrainingFailed(
            f"Before the first step of an iteration, the ratio of a token's probabilities differs from 1 by {off:.5f}. "
            f"The policy changed after it sampled the replies.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )


def reason_to_stop(log: Sequence[Row], rlhf: Rlhf) -> str | None:
    """Return the reason why the training should end after the last logged iteration; None if it should continue."""
    now = log[-1]
    if now["reward_spread"] < LEAST_SPREAD:
        return f"all replies of iteration {now['step']:.0f} have the same reward, {now['reward']:.3f}"
    if now.get("groups_without_spread") == 1:
        return (
            f"in iteration {now['step']:.0f}, all replies to the same prompt have the same reward, so that none is "
            f"better than another"
        )
    if now["kl"] > rlhf.kl.budget:
        return f"the divergence from the parent adapter is {now['kl']:.1f} nats per reply, above kl.budget"
    return _drift(log) or _gold_fell(log, rlhf.patience)


def _drift(log: Sequence[Row]) -> str | None:
    if len(log) < 2 * FEW:
        return None

    def of(name: str) -> tuple[float, float]:
        return fmean(row[name] for row in log[:FEW]), fmean(row[name] for row in log[-FEW:])

    start, end = of("reply_tokens")
    if not start / LENGTH_FACTOR <= end <= start * LENGTH_FACTOR:
        return f"replies went from {start:.0f} to {end:.0f} tokens"
    start, end = of("repetition")
    if end > start + MORE_REPETITION:
        return f"the share of repeated runs of {GRAM} words went from {start:.2f} to {end:.2f}"
    start, end = of("missing_ends")
    if end > start + MORE_MISSING_ENDS:
        return f"the share of replies without end of turn went from {start:.2f} to {end:.2f}"
    return None


def _gold_fell(log: Sequence[Row], patience: int) -> str | None:
    """Return a message if the reward is over-optimised (Gao et al. 2022): the optimised reward rises while the reward
    on held-out prompts falls. Otherwise return None."""
    measured = [row for row in log if "gold" in row]
    best = max(measured, key=lambda row: (row["gold"], -row["step"]), default=None)
    if best is None:
        return None
    since = [row for row in measured if row["step"] > best["step"]][-patience:]

    def proxy(until: float) -> float:
        return fmean(row["reward"] for row in log if until - FEW < row["step"] <= until)

    if len(since) == patience and all(
        row["gold"] < best["gold"] and proxy(row["step"]) > proxy(best["step"]) for row in since
    ):
        return (
            f"the reward rose from {proxy(best['step']):.3f} to {proxy(since[-1]['step']):.3f} while the held-out "
            f"reward fell from {best['gold']:.3f} to {since[-1]['gold']:.3f}; {patience} measurements in a row are "
            f"below its best value"
        )
    return None


def repetition(text: str) -> float:
    """Return the share of a text's word 4-grams that occurred earlier in the text; 0 for a short text."""
    words = text.split()
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _totals(
    rewards: Rewards, prompts: Sequence[Prompt], texts: Sequence[str], ids: Sequence[list[int]] | None = None
) -> list[float | None]:
    given = [None] * len(texts) if ids is None else ids
    replies = [prompt.answered(text, of) for prompt, text, of in zip(prompts, texts, given, strict=True)]
    return [score.total for score in rewards.judge(replies)]


def _first_sentence(text: str) -> str:
    """Return the text up to the first line break, or up to a full stop before a space if that comes first."""
    line = text.strip().split("\n")[0]
    end = line.find(". ")
    return line if end < 0 else line[: end + 1]


def _frequent_words(texts: Sequence[str]) -> list[str]:
    """Return the words that occur in the most texts, the most frequent first. The result has at most as many words as
    the longest text."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in dict.fromkeys(text.split()):
            counts[word] = counts.get(word, 0) + 1
    longest = max(len(text.split()) for text in texts)
    return sorted(counts, key=lambda word: (-counts[word], word))[:longest]
