"""Implement the common part of PPO, RLOO and GRPO: prompts, reward guards, held-out measurements, the state between
iterations, and reports."""

import json
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.intervals import clustered_interval
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.policy.rlhf import Reward, Rlhf
from sovereign_pipeline.training.compute import Passed, TrainingCompute, added
from sovereign_pipeline.training.guards import (
    check_adapter_moved,
    check_passes_repeat,
    check_rows_are_kept_apart,
    check_trainable,
    lora_b,
    start_probe,
)
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.models import save_adapter
from sovereign_pipeline.training.preflight import check_memory, give_memory_back
from sovereign_pipeline.training.report import (
    REPORT_FILE,
    RLHF_FILE,
    SAMPLES_FILE,
    TRAINING_LOG_FILE,
    HeldOutComparison,
    RewardFacts,
    RlhfReport,
    TrainingReport,
    TrlNumerics,
)
from sovereign_pipeline.training.rlhf.guards import (
    SAMPLED,
    Row,
    check_reward,
    check_spread_of_samples,
    differ,
    groups,
    reason_to_stop,
    repetition,
)
from sovereign_pipeline.training.rlhf.policy import POLICY, TwoAdapters
from sovereign_pipeline.training.rlhf.ppo import KlController
from sovereign_pipeline.training.rlhf.prompts import Prompt, drawn, read_all_prompts
from sovereign_pipeline.training.rlhf.rewards import Rewards, Score, rewards_of
from sovereign_pipeline.training.rlhf.sampling import Rollout, VllmSampler, sample
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline.training.trainer import Method, Outcome, training_conditions

FACTS, TENSORS = "state.json", "tensors.pt"
BEST_ADAPTER = "best_adapter"
PASSED = ("learned", "read", "sampled")


@dataclass
class RunState:
    """The state of an RLHF run between iterations. It is saved in each checkpoint.

    No state of a random generator is saved, because the seed of every draw is derived from the recipe's seed and the
    draw's name, which contains the iteration.
    """

    kl: KlController
    iteration: int = 0
    """Number of finished iterations."""
    log: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each iteration, as in the training log."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """Replies to a few fixed prompts, at the start, in the middle and at the end of the training."""
    held_out_start: dict[str, float] = field(default_factory=dict)
    """Mapping of prompt id to the reward of the parent adapter's reply, for the held-out prompts that are measured only
    at the start and at the end."""
    gold_of_parent: float = 0.0
    """The parent adapter's mean reward on the held-out prompts that are used to choose the best adapter."""
    judged_of_parent: dict[str, list[str]] = field(default_factory=dict)
    """Mapping of held-out prompt id to the names of the reward parts that gave the parent adapter's reply a score.
    Prompts for which all parts abstained are absent."""
    best_iteration: int = 0
    """Number of the iteration with the best adapter; 0 for the parent adapter."""
    best_gold: float = 0.0
    best_adapter: dict[str, Any] = field(default_factory=dict)
    """Mapping of name to tensor, for the best adapter so far; on the CPU."""
    stopped: str | None = None
    """Reason why the training ended early; None if it did not end early."""
    learned: Passed = field(default_factory=Passed)
    """Token counts so far of the forward passes that a backward pass follows."""
    read: Passed = field(default_factory=Passed)
    """Token counts so far of all other forward passes, except the sampler's."""
    sampled: Passed = field(default_factory=Passed)
    """Token counts so far of the passes that sampled replies for learning."""

    def keep_best(self, policy: TwoAdapters, gold: float) -> None:
        """Store the policy's current adapter as the best one. gold: its mean held-out reward."""
        self.best_iteration, self.best_gold = self.iteration, gold
        self.best_adapter = {name: each.detach().cpu().clone() for name, each in policy.adapter.items()}

    def save(self, directory: Path, tensors: Mapping[str, Any]) -> None:
        """Write the state into a checkpoint. tensors: the algorithm's own tensors."""
        import torch

        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != BEST_ADAPTER}
        facts |= {name: vars(facts[name]) for name in ("kl", *PASSED)}
        # Keys are not sorted, so that the rows keep the column order of the training log.
        (directory / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        torch.save({**tensors, BEST_ADAPTER: self.best_adapter}, directory / TENSORS)

    @classmethod
    def load(cls, directory: Path) -> "tuple[RunState, dict[str, Any]]":
        """Read the state and the algorithm's tensors from a checkpoint."""
        import torch

        facts = json.loads((directory / FACTS).read_bytes())
        tensors = torch.load(directory / TENSORS, map_location="cpu", weights_only=True)
        kl = KlController(**facts.pop("kl"))
        facts |= {name: Passed(**facts[name]) for name in PASSED}
        return cls(kl=kl, best_adapter=tensors.pop(BEST_ADAPTER), **facts), tensors


def put_back(policy: TwoAdapters, adapter: dict[str, Any]) -> None:
    """Set the policy's adapter to the tensors in `adapter`, by name."""
    import torch

    with torch.no_grad():
        for name, parameter in policy.adapter.items():
            parameter.copy_(adapter[name])


def totals(scores: dict[str, Score]) -> dict[str, float]:
    """Return a mapping of id to reward. Ids for which all parts of the reward abstain are omitted."""
    return {name: score.total for name, score in scores.items() if score.total is not None}


def compared(
    parent: dict[str, float], adapter: dict[str, float], prompts: Sequence[Prompt], seed: int
) -> HeldOutComparison:
    """Compare the rewards of the adapter and its parent (mappings of prompt id to reward), on the prompts for which the
    parent has a reward. seed: seed of the confidence interval."""
    both = [prompt for prompt in prompts if prompt.row.id in parent]
    before = [parent[prompt.row.id] for prompt in both]
    after = [adapter[prompt.row.id] for prompt in both]
    differences = [later - earlier for earlier, later in zip(before, after, strict=True)]
    cases = [prompt.row.case for prompt in both]
    low, high = clustered_interval(differences, cases, seed)
    return HeldOutComparison(
        prompts=len(both),
        cases=len(set(cases)),
        parent=fmean(before),
        adapter=fmean(after),
        difference=fmean(differences),
        low=low,
        high=high,
    )


def mean_parts(scores: Sequence[Score], names: Sequence[str], prefix: str) -> dict[str, float]:
    """Return a mapping of `PREFIX/NAME` to the mean of the scores that NAME, a part of the reward, gave. Replies for
    which the part abstains do not count. A part that abstains for all replies has no entry. If the part uses a reward
    model, `PREFIX_raw/NAME` is the mean of the reward model's raw scores, in logits."""
    found: dict[str, Any] = {}
    for name in names:
        said = [score.parts[name] for score in scores if score.parts[name] is not None]
        if said:
            found[f"{prefix}/{name}"] = fmean(each for each in said if each is not None)
        raw = [score.raw[name] for score in scores if name in score.raw]
        if raw:
            found[f"{prefix}_raw/{name}"] = fmean(raw)
    return found


@dataclass(frozen=True)
class Next:
    """Decisions after an iteration: what the training does next."""

    saves: bool
    """True if a checkpoint is due."""
    ends: bool
    """True if the training ends after this iteration: it was the last one, or a guard ended the training."""
    stops: bool
    """True if a stop was requested before the training's end."""


class RewardedMethod(Method):
    """A method that learns from a reward. A subclass adds the reference to the model and implements `learn`."""

    _policy: TwoAdapters
    _compared: int | None = None
    """Number of replies that the algorithm compares with one another; None if it compares all replies of an
    iteration."""
    _engine: VllmSampler | None = None
    state: RunState

    def __init__(self, job: TrainingJob, hooks: TrainerHooks) -> None:
        super().__init__(job, hooks)
        assert job.reward is not None
        self._rlhf: Rlhf = job.reward.rlhf
        self._tokens = 0
        """Number of tokens sampled for learning in this process."""
        self._learning_since = 0.0
        self._resumed_at = 0

    @abstractmethod
    def add_reference(self, model: Any) -> TwoAdapters:
        """Add the reference to the model. model: the result of `load_trainable`."""

    @abstractmethod
    def restore(self, checkpoint: Path) -> RunState:
        """Return the run state in a checkpoint, and restore the algorithm's own state from the same checkpoint."""

    @property
    @abstractmethod
    def optimizer(self) -> Any:
        """The optimizer that updates the policy's adapter."""

    @abstractmethod
    def passed_in(self, rollouts: Sequence[Rollout]) -> tuple[Passed, Passed]:
        """Return the token counts of an iteration that learns from these replies: first of the forward passes that a
        backward pass follows, then of all others except the sampler's."""

    def numerics(self) -> TrlNumerics | None:
        """Return the TRL trainer and its effective arguments, for the report; None if TRL does not compute the loss."""
        return None

    def read_data(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._prompts = read_all_prompts(self.job, tokenizer)
        iterations = drawn(self._prompts.training, self._rlhf.iterations, self._rlhf.prompts, self.job.seed)
        self._drawn = [[prompt for prompt in each for _ in range(self._rlhf.group)] for each in iterations]
        """Prompts of each iteration. A prompt is repeated for each of its replies."""
        self._fixed = self._prompts.training[: self._rlhf.samples]
        self._rows = [
            EncodedRow(each.row.id, (Completion(each.ids, each.response_ids),)) for each in self._prompts.training
        ]

    def check_memory(self) -> None:
        every = self._prompts.training + self._prompts.watched + self._prompts.compared
        check_memory(self.job, [prompt.ids for prompt in every])

    def prepare(self, model: Any) -> None:
        job, rollouts = self.job, self._rlhf.rollouts
        self._trainable = check_trainable(model, job.sft.adapter)
        self._adapter_before = lora_b(model.named_parameters())
        self._policy = self.add_reference(model)
        for adapter in (POLICY, self._policy.reference):
            with self._policy.running(adapter) as running:
                check_passes_repeat(running, self._rows, job.sft.precision)
        self._engine = None if rollouts is None else VllmSampler(rollouts, job.identity, self._policy.write_adapter)
        self._rewards, self._gold = rewards_of(job, model, self._tokenizer)
        self.hooks.progress("judging replies of the institution and replies that are plainly bad")
        check_reward(self._rewards, self._prompts.training, self._text, self._rlhf.max_new_tokens)
        self.check_stop()
        if job.packs and len(self._rows) > 1:
            with self._policy.running() as running:
                check_rows_are_kept_apart(running, self._rows, job.sft.precision, job.sft.max_length)

    def start(self, checkpoint: Path | None) -> None:
        self.state = self._first_state() if checkpoint is None else self.restore(checkpoint)
        self._resumed_at = self.state.iteration
        self._learning_since = time.monotonic()

    @property
    def progress_made(self) -> tuple[int, int]:
        return self._resumed_at, self._tokens

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _first_state(self) -> RunState:
        """Build the state before the first iteration: check the rewards of samples, and measure the parent adapter.
        Raises TrainingFailed if the rewards do not differ, or if the tools abstain for every prompt of a held-out set.
        """
        self.hooks.progress(f"sampling up to {SAMPLED} replies before the first step")
        scores: list[float | None] = []
        compared = self._compared or SAMPLED
        for number, start in enumerate(range(0, SAMPLED, self._rlhf.replies)):
            prompts = self._drawn[number % len(self._drawn)][: SAMPLED - start]
            rollouts = self._sample(prompts, f"before/{number}")
            scores += [score.total for score in self._judge(prompts, rollouts)]
            if any(map(differ, groups(scores, compared))):
                break
        check_spread_of_samples(scores, compared)
        state = RunState(KlController(self._rlhf.kl.coefficient, self._rlhf.kl_target, self._rlhf.kl.horizon))
        self.check_stop()
        self.hooks.progress("measuring the parent adapter on held-out prompts")
        measured = self._measured(self._prompts.watched), self._measured(self._prompts.compared)
        watched, state.held_out_start = map(totals, measured)
        if not watched or not state.held_out_start:
            raise TrainingFailed(
                "The tools abstain for every held-out prompt, so no adapter could be chosen.",
                "Correct the tools in training.rlhf, or hold out more documents.",
            )
        state.gold_of_parent = fmean(watched.values())
        state.judged_of_parent = {
            prompt: score.judged for each in measured for prompt, score in each.items() if score.total is not None
        }
        state.keep_best(self._policy, state.gold_of_parent)
        self._keep_samples(state, "start")
        self.check_stop()
        return state

    def _judged(self, iteration: int, rate: float, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> Row:
        """Return the metrics of an iteration's replies before the update, as a row of the training log. iteration:
        counted from 0. rate: learning rate. Raises TrainingFailed if fewer than two replies have a reward, or if
        `cut_replies` ignores the scores of cut replies and fewer than two replies ended."""
        totals_ = [score.total for score in scores if score.total is not None]
        if len(totals_) < 2:
            raise TrainingFailed(
                f"Iteration {iteration + 1}: the tools abstain for {len(rollouts) - len(totals_)} of {len(rollouts)} "
                f"replies.",
                "Change the tools so that they judge more replies.",
            )
        ended = sum(each.ended for each in rollouts)
        is_excluded = self._rlhf.cut_replies == "excluded"
        judged = sum(each.ended and score.total is not None for each, score in zip(rollouts, scores, strict=True))
        if self._rlhf.cut_replies != "terminal" and (judged if is_excluded else ended) < 2:
            others = f", the tools abstain for {ended - judged} others" if is_excluded and judged < ended else ""
            raise TrainingFailed(
                f"Iteration {iteration + 1}: {len(rollouts) - ended} of {len(rollouts)} replies were cut at "
                f"{self._rlhf.max_new_tokens} tokens{others}, and cut_replies: {self._rlhf.cut_replies} ignores "
                f"the scores of cut replies.",
                "Raise training.rlhf.max_new_tokens until most replies end, or set cut_replies: terminal.",
            )
        compared = groups([score.total for score in scores], self._compared or len(scores))
        by_group = {"groups_without_spread": fmean(not differ(each) for each in compared)}
        return {
            "step": float(iteration + 1),
            "learning_rate": rate,
            "reward": fmean(totals_),
            "reward_spread": pstdev(totals_),
            **(by_group if self._compared is not None else {}),
            "abstained": 1 - len(totals_) / len(rollouts),
            **mean_parts(scores, self._rewards.names, "reward"),
            "reply_tokens": fmean(len(each.completion.reply_ids) for each in rollouts),
            "missing_ends": fmean(not each.ended for each in rollouts),
            "repetition": fmean(repetition(self._text(each.completion.reply_ids)) for each in rollouts),
        }

    def _penalised(self, rollout: Rollout, score: float) -> float:
        """Return the score minus the penalty for a missing end of turn."""
        return score - self._rlhf.missing_end_penalty * (not rollout.ended)

    def _ended(
        self, state: RunState, row: Row, rollouts: Sequence[Rollout], learned_from: Sequence[Rollout] | None = None
    ) -> None:
        """Finish an iteration after its update: log its metrics, measure the held-out reward if due, and report
        progress. learned_from: the replies that the policy learned from; None: all replies. Raises TrainingFailed if a
        metric is not finite."""
        give_memory_back()
        self._count(state, rollouts, rollouts if learned_from is None else learned_from)
        if not all(value == value and abs(value) != float("inf") for value in row.values()):
            raise TrainingFailed(
                f"Iteration {state.iteration + 1}: a loss or a divergence is not finite.",
                "Lower training.rlhf.learning_rate, or train with precision: float32.",
            )
        state.iteration += 1
        state.log.append(dict(row))
        self._measure(state)
        self._tokens += sum(len(each.completion.reply_ids) for each in rollouts)
        took = time.monotonic() - self._learning_since
        left = took / (state.iteration - self._resumed_at) * (self._rlhf.iterations - state.iteration)
        self.hooks.on_step(Step(state.iteration, self._rlhf.iterations, row["loss"], self._tokens / took, left))
        self.hooks.progress(_describe(state.log[-1]))

    def _count(self, state: RunState, rollouts: Sequence[Rollout], learned_from: Sequence[Rollout]) -> None:
        """Add the token counts of an iteration's passes to the state."""
        learned, read = self.passed_in(learned_from)
        prompts = [each.completion.prompt_ids for each in rollouts]
        replies = [len(each.completion.reply_ids) for each in rollouts]
        state.learned, state.read = state.learned + learned, state.read + read
        state.sampled = state.sampled + Passed.sampled(prompts, replies, padded=self._engine is None)
        if any(part.reward_model for part in self._rlhf.reward):
            lengths = [len(each.completion) for each in rollouts]
            state.read = state.read + added(Passed.of_pass([each], 0, apart=True) for each in lengths)

    def _measure(self, state: RunState) -> None:
        """If due in this iteration, measure the held-out reward, update the best adapter, and store samples. Then set
        `stopped` if a guard ends the training."""
        is_last = state.iteration == self._rlhf.iterations
        if state.iteration % self._rlhf.measure_every == 0 or is_last:
            self.hooks.progress(f"measuring {len(self._prompts.watched)} held-out prompts")
            scores = self._measured(self._prompts.watched)
            found = self._as_for_parent(scores)
            if found is not None:
                gold = fmean(found.values())
                state.log[-1] |= {"gold": gold, **mean_parts([*scores.values()], self._gold.names, "gold")}
                if gold > state.best_gold:
                    state.keep_best(self._policy, gold)
        if state.iteration == (self._rlhf.iterations + 1) // 2:
            self._keep_samples(state, "middle")
        state.stopped = None if is_last else reason_to_stop(state.log, self._rlhf)

    def _as_for_parent(self, scores: Mapping[str, Score]) -> dict[str, float] | None:
        """Return a mapping of prompt id to reward, over exactly the prompts and parts that have a score for the parent
        adapter. Return None if such a part abstains now, because abstentions alone could then raise the mean."""
        judged, found = self.state.judged_of_parent, dict[str, float]()
        for prompt, score in scores.items():
            if prompt not in judged:
                continue
            total = self._gold.total_over(judged[prompt], score)
            if total is None:
                return None
            found[prompt] = total
        return found

    def _next(self, state: RunState) -> Next:
        """Decide whether to save a checkpoint after this iteration, and whether to end or stop the training."""
        is_over = state.iteration == self._rlhf.iterations or state.stopped is not None
        is_wanted = self.hooks.should_stop()
        is_due = is_wanted or state.iteration % self.job.checkpoints.every_steps == 0
        return Next(saves=is_due and not is_over, ends=is_over, stops=is_wanted and not is_over)

    def _stopped(self, state: RunState) -> TrainingStopped:
        return TrainingStopped(
            f"The training was stopped, as requested, at step {state.iteration} of {self._rlhf.iterations}.",
            "Run again; the training resumes from the checkpoint of this step.",
        )

    def finish(self) -> Outcome:
        """Restore the best adapter, and compare this adapter with its parent. Raises TrainingFailed if no adapter had a
        higher held-out reward than the parent, or if the two cannot be compared."""
        hooks, job, state, policy = self.hooks, self.job, self.state, self._policy
        if state.stopped is not None:
            hooks.progress(f"ending after iteration {state.iteration}: {state.stopped}")
        if state.best_iteration == 0:
            because = f" The training ended early: {state.stopped}." if state.stopped else ""
            raise TrainingFailed(
                f"In {state.iteration} iterations, no adapter had a higher held-out reward than the parent's "
                f"{state.best_gold:.3f}, so no adapter is saved. A measurement counts only if every reward part that "
                f"scored the parent's replies also scores the adapter's replies.{because}",
                "Use a reward that the SFT adapter earns partly, raise iterations, or change learning_rate or kl.",
            )
        hooks.progress(f"keeping the adapter of iteration {state.best_iteration}; comparing it with its parent")
        with policy.running(policy.reference) as model:
            probe = start_probe(model, self._rows, hooks.progress)
        put_back(policy, state.best_adapter)
        check_adapter_moved(lora_b(policy.adapter.items()), self._adapter_before)
        with policy.running() as model:
            loss_after = probe.loss(model)
        self._keep_samples(state, "end")
        prompts = self._drawn[state.best_iteration - 1]
        sampled = [each.completion for each in self._sample_here(prompts, "kept")]
        divergence = policy.divergence(sampled, self._rlhf.temperature)

        def save() -> None:
            alone = policy.alone()
            save_adapter(alone, alone.state_dict(), job)

        return Outcome(
            save,
            files={
                RLHF_FILE: self._rlhf_report(self._as_for_parent(self._measured(self._prompts.compared)), divergence),
                REPORT_FILE: self._report(probe.before, loss_after),
                TRAINING_LOG_FILE: [{**row, "step": int(row["step"])} for row in state.log],
                SAMPLES_FILE: state.samples,
            },
        )

    def _rlhf_report(self, adapter_scores: dict[str, float] | None, divergence: float) -> RlhfReport:
        """Build the report. adapter_scores: result of `_as_for_parent` for the compared prompts; if None, raises
        TrainingFailed. divergence: KL divergence of the saved adapter from its parent, in nats per reply."""
        state, rlhf = self.state, self._rlhf
        if adapter_scores is None:
            raise TrainingFailed(
                "For some held-out prompts, the tools judge the parent's reply but abstain for the adapter's reply, so "
                "the two cannot be compared.",
                "Change the tools so that they judge more replies.",
            )
        comparison = compared(state.held_out_start, adapter_scores, self._prompts.compared, self.job.seed)
        return RlhfReport(
            algorithm=rlhf.algorithm,
            reward=_facts(rlhf.reward, self._rewards),
            gold=_facts(rlhf.measured, self._gold),
            iterations=state.iteration,
            stopped=state.stopped,
            best_iteration=state.best_iteration,
            gold_of_parent=state.gold_of_parent,
            gold_of_best=state.best_gold,
            divergence_of_best=divergence,
            cut_replies=rlhf.cut_replies,
            cut_share=fmean(row["missing_ends"] for row in state.log),
            kl_coefficient=state.kl.coefficient,
            rollouts=state.iteration * rlhf.replies,
            sampler="trainer" if self._engine is None else f"vLLM {self._engine.version}",
            prompts_cut=len(self._prompts.cut),
            comparison=comparison,
            held_out_parent=state.held_out_start,
            held_out_adapter=adapter_scores,
        )

    def _report(self, loss_before: float, loss_after: float) -> TrainingReport:
        log, rlhf, policy, training = self.state.log, self._rlhf, self._policy, self._prompts.training
        prompts = sum(len(prompt.ids) for prompt in training)
        # Estimated number of tokens in one epoch of all updates. Replies count with their sampled lengths. Prompts
        # count with their mean length. A prompt that replies share counts once, even if two passes read it.
        replies = sum(row["reply_tokens"] for row in log) * rlhf.replies
        asked = prompts / len(training) * len(log) * (rlhf.prompts if policy.shares_prompts else rlhf.replies)
        return TrainingReport(
            **training_conditions(self.job, self.optimizer, policy.model),
            trl=self.numerics(),
            steps=len(log),
            rows=len(training),
            tokens=prompts,
            tokens_trained=round((replies + asked) * rlhf.epochs),
            compute=TrainingCompute.of(
                read_shape(str(self.job.base_model)),
                self.job.sft,
                self.state.learned,
                self.state.read,
                self.state.sampled,
                tokens_generated=round(replies),
            ),
            supervised_share=round(replies / (replies + asked), 6),
            rows_cut=len(self._prompts.cut),
            rows_cut_ids=self._prompts.cut,
            units_left_out=0,
            first_loss=log[0]["loss"],
            last_loss=log[-1]["loss"],
            trainable_parameters=self._trainable,
            scheduler="linear",
            data_order_sha256=digest_of(
                [[prompt.row.id for prompt in each] for each in self._drawn[: self.state.iteration]]
            ),
            probe_loss_before=loss_before,
            probe_loss_after=loss_after,
        )

    def _sample(self, prompts: Sequence[Prompt], draw: str) -> list[Rollout]:
        """Sample one reply for each prompt. draw: unique name of this draw in the training. The random numbers depend
        only on the recipe's seed and this name."""
        if self._engine is None:
            return self._sample_here(prompts, draw)
        ids = [prompt.ids for prompt in prompts]
        return self._engine.sample(ids, self.job.eos_ids, **self._drawing(draw))

    def _sample_here(self, prompts: Sequence[Prompt], draw: str) -> list[Rollout]:
        """Sample like `_sample`, but always in the trainer instead of on a vLLM server."""
        with self._policy.running() as model:
            return sample(model, [prompt.ids for prompt in prompts], self.job.eos_ids, **self._drawing(draw))

    def _drawing(self, draw: str) -> dict[str, Any]:
        return {
            "most_tokens": self._rlhf.max_new_tokens,
            "temperature": self._rlhf.temperature,
            "seed": int.from_bytes(sha256(f"{self.job.seed}/{draw}".encode()).digest()[:7]),
        }

    def _judge(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], rewards: Rewards | None = None
    ) -> list[Score]:
        written = [each.completion.reply_ids for each in rollouts]
        replies = [prompt.answered(self._text(ids), ids) for prompt, ids in zip(prompts, written, strict=True)]
        return (rewards or self._rewards).judge(replies)

    def _greedy(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Return the policy's greedy reply to each prompt."""
        found: list[Rollout] = []
        with self._policy.running() as model:
            for start in range(0, len(prompts), self._rlhf.replies):
                ids = [prompt.ids for prompt in prompts[start : start + self._rlhf.replies]]
                most = self._rlhf.max_new_tokens
                found += sample(model, ids, self.job.eos_ids, most_tokens=most, temperature=1.0, seed=None)
        return found

    def _measured(self, prompts: Sequence[Prompt]) -> dict[str, Score]:
        """Return a mapping of prompt id to the score of the policy's greedy reply, by the gold reward."""
        scores = self._judge(prompts, self._greedy(prompts), self._gold)
        return {prompt.row.id: score for prompt, score in zip(prompts, scores, strict=True)}

    def _keep_samples(self, state: RunState, when: str) -> None:
        state.samples += [
            {"id": prompt.row.id, "when": when, "reply": self._text(each.completion.reply_ids)}
            for prompt, each in zip(self._fixed, self._greedy(self._fixed), strict=True)
        ]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _describe(row: Row) -> str:
    parts = "".join(f", {name.removeprefix('reward/')} {row[name]:.3f}" for name in row if name.startswith("reward/"))
    gold = f", held out {row['gold']:.3f}" if "gold" in row else ""
    return (
        f"reward {row['reward']:.3f}{parts}{gold}, KL {row['kl']:.2f} at coefficient {row['kl_coefficient']:.3f}, "
        f"{row['reply_tokens']:.0f} tokens a reply"
    )


def _facts(parts: tuple[Reward, ...], rewards: Rewards) -> dict[str, RewardFacts]:
    return {part.name: RewardFacts(weight=part.weight, identity=rewards.identities[part.name]) for part in parts}
