"""Train with TRL's losses and forward passes: ORPO, CPO and SimPO on pairs, and RLOO and GRPO with a reward.

TRL's trainers run with this package's token ids, plan, checkpoints and guards. For RLOO and GRPO, replies come from
this package's sampler. Each draw of the sampler has its own seed, so that a resumed training samples the same replies
as an uninterrupted training. TRL gets no text, because TRL prints the prompt and the reply if a reward abstains. This
module imports torch, datasets and transformers at its top, so import it inside functions.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import OPTIMIZER_ARGUMENTS, TRAINERS, Rlhf
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.compute import Passed
from sovereign_pipeline.training.devices import add_up
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods.ppo import ADAM_EPSILON, LARGEST_GRADIENT
from sovereign_pipeline.training.methods.sft import GuardedTrainer, training_arguments
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.preflight import rows_a_pass
from sovereign_pipeline.training.report import TrlNumerics
from sovereign_pipeline.training.rlhf.guards import Row, check_first_ratio, check_sampler
from sovereign_pipeline.training.rlhf.policy import POLICY, TwoAdapters
from sovereign_pipeline.training.rlhf.ppo import clip_share, mismatch_weights
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.run import RewardedMethod, RunState
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.rows import EncodedRow, in_tables, mapped
from sovereign_pipeline.training.trainer import RowsMethod

_CLASSES = {
    "cpo": ("trl.experimental.cpo", "CPOTrainer", "CPOConfig"),
    "dpo": ("trl", "DPOTrainer", "DPOConfig"),
    "grpo": ("trl", "GRPOTrainer", "GRPOConfig"),
    "orpo": ("trl.experimental.orpo", "ORPOTrainer", "ORPOConfig"),
    "rloo": ("trl", "RLOOTrainer", "RLOOConfig"),
}
"""Mapping of trainer name to module, trainer class and argument class."""
REFERENCE = "ref"
"""Name that TRL gives its frozen copy of the adapter."""
SHAPING: dict[str, dict[str, Any]] = {
    "rloo": {"normalize_advantages": False},
    "grpo": {"importance_sampling_level": "token", "loss_type": "dapo", "scale_rewards": "group"},
}
"""Arguments that shape the loss, for each trainer. The values are TRL's defaults. They are stated here so that a later
version of TRL does not change the loss unnoticed."""
OF_BOTH = (
    *("beta", "epsilon", "gradient_accumulation_steps", "mask_truncated_completions", "max_completion_length", "min_p"),
    *("num_generations", "num_iterations", "per_device_train_batch_size", "repetition_penalty", "steps_per_generation"),
    *("temperature", "top_k", "top_p"),
)


class TrlPairsMethod(RowsMethod):
    """A preference method on pairs that uses a TRL trainer."""

    def build_trainer(self) -> Any:
        return trl_trainer(self.job, self.model, self.plan, self.tokenizer, self.hooks)

    def learn(self, checkpoint: Path | None) -> None:
        super().learn(checkpoint)
        self.trainer.check_reference_kept()

    def passed(self) -> tuple[Passed, Passed]:
        assert self.job.preference is not None
        learned, _ = super().passed()
        return learned, learned * self.job.preference.has_copied_reference

    def numerics(self) -> TrlNumerics:
        assert self.job.preference is not None
        assert self.job.preference.trainer is not None
        listed = TRAINERS[self.job.preference.trainer]
        return _numerics(self.job.preference.trainer, listed.stability, listed.arguments, self.trainer.args)


class TrlRewardMethod(RewardedMethod):
    """RLOO or GRPO, with a TRL trainer. Both algorithms compare several replies to one prompt."""

    def add_reference(self, model: Any) -> TwoAdapters:
        self._row: Row = {}
        """Metrics of the current iteration's replies."""
        self._rollouts: list[Rollout] = []
        self._stops = False
        # TRL replaces this function by one that divides all logits by the temperature. `learn` restores the original.
        self._own_forward = model.get_base_model().forward
        group = self._compared = self._rlhf.group
        self.prompts = [prompt for each in self._drawn for prompt in each[::group]]
        """Prompts in training order, one for each group of replies."""
        self._trainer = reward_trainer(self, model, self._tokenizer)
        adapters = TwoAdapters(model, self.job.sft.precision, REFERENCE)
        _check_copy(adapters)
        return adapters

    def restore(self, checkpoint: Path) -> RunState:
        state, _ = RunState.load(checkpoint)  # transformers restores adapter and optimizer
        return state

    @property
    def optimizer(self) -> Any:
        return self._trainer.optimizer

    def numerics(self) -> TrlNumerics:
        algorithm = self._rlhf.algorithm
        return _numerics(algorithm, "stable", (*OF_BOTH, *SHAPING[algorithm]), self._trainer.args)

    def learn(self, checkpoint: Path | None) -> None:
        state = self.state
        self._trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._policy.model.get_base_model().forward = self._own_forward
        self._trainer.check_reference_kept()
        if self._stops:
            raise self._stopped(state)
        if state.iteration < self._rlhf.iterations and state.stopped is None:
            raise TrainingFailed(
                f"The training ended after iteration {state.iteration} of {self._rlhf.iterations} without a request "
                f"to stop. Nothing was saved.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def passed_in(self, rollouts: Sequence[Rollout]) -> tuple[Passed, Passed]:
        """Return the token counts: first of the forward passes that a backward pass follows, then of all others.
        Replies are padded, with logits at every position. The reference reads the replies once. The policy reads the
        replies once before the first step; GRPO skips this if it takes only one step on the same replies."""
        rlhf, given = self._rlhf, [each.completion for each in rollouts]
        longest = max(len(each.prompt_ids) for each in given) + max(len(each.reply_ids) for each in given)
        once = Passed.padded(len(rollouts), longest, predicted=len(rollouts) * longest)
        return once * rlhf.epochs, once * (1 + (rlhf.algorithm == "rloo" or rlhf.epochs * rlhf.minibatches > 1))

    def sampled(self, prompts: Sequence[Prompt], iteration: int) -> list[Rollout]:
        """Sample one reply to each prompt. iteration: counted from 0."""
        return self._sample(prompts, f"rollouts/{iteration}")

    def rewarded(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> list[float | None]:
        """Return the reward of each reply, penalties included. The policy does not learn from replies with None."""
        scores = self._judge(prompts, rollouts)
        iteration = self.state.iteration
        rate = self._rlhf.learning_rate * (1 - iteration / self._rlhf.iterations)
        self._rollouts, self._row = list(rollouts), self._judged(iteration, rate, rollouts, scores)
        return [
            None if score.total is None else self._penalised(each, score.total)
            for each, score in zip(rollouts, scores, strict=True)
        ]

    def iteration_ended(self, numbers: dict[str, float]) -> tuple[bool, bool]:
        """Finish an iteration, and log its metrics. Returns two values: True if a checkpoint must be saved, and True if
        the training must end."""
        coefficient = {"kl_coefficient": self.state.kl.coefficient}
        self._ended(self.state, {**self._row, **coefficient, **numbers}, self._rollouts)
        following = self._next(self.state)
        self._stops = following.stops
        return following.saves, following.ends or following.stops


def _check_copy(adapters: TwoAdapters) -> None:
    """Raise TrainingFailed if TRL's reference differs from the parent adapter. The KL divergence would then be measured
    from the wrong model."""
    tensors = dict(adapters.model.named_parameters())
    other = [
        name
        for name, each in adapters.adapter.items()
        if not torch.equal(each, tensors[name.replace(f".{POLICY}.", f".{adapters.reference}.")])
    ]
    if other:
        raise TrainingFailed(
            f"{len(other)} tensors of TRL's reference differ from the parent adapter's.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )


class EncodedPairs(Dataset):  # type: ignore[misc]
    """Pre-tokenised rows that bypass TRL's own preprocessing."""

    def map(self, *arguments: Any, **named: Any) -> "EncodedPairs":
        return self

    def filter(self, *arguments: Any, **named: Any) -> "EncodedPairs":
        return self


class TrlTrainer(GuardedTrainer):
    """A mixin for every TRL trainer. It checks that the reference does not change, and disables TRL's telemetry."""

    reference: dict[str, Any]
    """Initial tensors of the reference (TRL's frozen copy); empty if there is no reference."""
    _step_losses: list[float]
    """Losses of the batches so far in this step."""

    def remember_reference(self: Any) -> None:
        """Store the reference's tensors. Call this method after TRL's own `__init__`, which creates the reference."""
        tensors = self.model.named_parameters()
        self.reference = {name: each.detach().cpu().clone() for name, each in tensors if ".ref." in name}

    def check_reference_kept(self: Any) -> None:
        """Raise TrainingFailed if the reference (TRL's frozen copy) differs from its initial tensors."""
        now = dict(self.model.named_parameters())
        moved = [name for name, before in self.reference.items() if not torch.equal(now[name].detach().cpu(), before)]
        if moved:
            raise TrainingFailed(
                f"{len(moved)} tensors of the reference changed during the training, so the losses are wrong.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            check_step(self.state.global_step, self.state.max_steps, logs, self.mean_loss())
            self._step_losses = []
        super().log(logs, start_time)  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """Send nothing. TRL's own method would report each new trainer to a server."""


class TrlSteps(TrlTrainer):
    """A mixin for a TRL trainer that learns from rows. Among the base classes, list it before the trainer."""

    def __init__(self: Any, job: TrainingJob, plan: Plan, **named: Any) -> None:
        self.prepare(job, plan)
        super().__init__(**named)
        self._step_losses = []
        self.remember_reference()

    def compute_loss(self: Any, *arguments: Any, **named: Any) -> Any:
        found = super().compute_loss(*arguments, **named)  # type: ignore[misc]
        loss = found[0] if isinstance(found, tuple) else found
        self._step_losses.append(float(loss.detach()))
        return found

    def mean_loss(self: Any) -> float:
        """Return the mean loss over the step's batches. All batches have equal sizes on all devices; see `plan.py`."""
        (total,) = add_up(self.job, [sum(self._step_losses)])
        return total / (len(self._step_losses) * int(self.job.devices.count))


def trl_trainer(job: TrainingJob, model: Any, plan: Plan, tokenizer: Any, hooks: TrainerHooks) -> Any:
    """Build the trainer of a job. Raises TrainingFailed if TRL rejects the recipe's arguments, and the errors of
    `mapped` and `check_adapters`."""
    preference = job.preference
    assert preference is not None and preference.trainer is not None
    base, argument_class = _classes(preference.trainer)
    trainer_class: Any = type(f"Guarded{base.__name__}", (TrlSteps, base), {})
    is_dpo = preference.trainer == "dpo"
    arguments = preference.arguments.items()
    given: dict[str, Any] = {name: list(each) if isinstance(each, tuple) else each for name, each in arguments}
    if is_dpo and isinstance(given.get("loss_type"), str):
        given["loss_type"] = [given["loss_type"]]
    try:
        rows = mapped(job, in_tables(_row(row, apart=is_dpo) for row in plan.rows), EncodedPairs)
        with padding_kept(model):
            trainer = trainer_class(
                job,
                plan,
                model=model,
                args=training_arguments(job, argument_class, max_length=job.tuning.max_length, **given),
                train_dataset=rows,
                processing_class=tokenizer,
            )
    except (ValueError, TypeError, NotImplementedError) as error:
        # Rows contain only token ids, so this message is about the arguments and quotes no text.
        raise TrainingFailed(
            f"TRL's trainer {preference.trainer} rejects these arguments: {' '.join(str(error).split())}",
            "Correct training.preference.arguments.",
        ) from error
    name, has_reference = f"TRL's trainer {preference.trainer}", preference.has_copied_reference
    check_adapters(trainer.model, name, trainer.reference, has_reference)
    trainer.add_hooks(hooks)
    return trainer


@contextmanager
def padding_kept(model: Any) -> Iterator[None]:
    """Restore the model's padding token after the block. TRL sets its own padding token in the model while a trainer is
    built, and the model may be saved later."""
    padding = model.config.get_text_config(), model.generation_config
    before = [each.pad_token_id for each in padding]
    yield
    for each, value in zip(padding, before, strict=True):
        each.pad_token_id = value


def _numerics(name: str, stability: Any, shaping: Iterable[str], arguments: Any) -> TrlNumerics:
    """Return the trainer that ran and its effective arguments, for the report."""
    module, trainer, _ = _CLASSES[name]
    shown = {each: getattr(arguments, each) for each in sorted((*shaping, *OPTIMIZER_ARGUMENTS))}
    return TrlNumerics(trainer=f"{module}.{trainer}", stability=stability, arguments=shown)


def _classes(name: str) -> tuple[Any, Any]:
    """Import the trainer and argument class from the installed TRL."""
    module_name, trainer, arguments = _CLASSES[name]
    module = importlib.import_module(module_name)
    return getattr(module, trainer), getattr(module, arguments)


def _row(row: EncodedRow, apart: bool) -> dict[str, list[int]]:
    """Return the columns that the trainer's collator reads. apart: True keeps the prompt and the replies separate;
    False appends each reply to the prompt."""
    chosen, rejected = row.completions
    if apart:
        replies = {"chosen_ids": list(chosen.reply_ids), "rejected_ids": list(rejected.reply_ids)}
        return {"prompt_ids": list(chosen.prompt_ids), **replies}
    columns: dict[str, list[int]] = {}
    for name, each in (("chosen", chosen), ("rejected", rejected)):
        columns[f"{name}_input_ids"] = each.ids
        columns[f"{name}_attention_mask"] = [1] * len(each)
        columns[f"{name}_labels"] = each.labels
    return columns


def check_adapters(model: Any, trainer: str, reference: Mapping[str, Any], has_reference: bool) -> None:
    """Raise TrainingFailed unless all trained tensors are in float32, and there is a frozen reference if, and only if,
    `has_reference` is True. trainer: name for the message. reference: tensors of the reference by name."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    narrow = [name for name, each in trained.items() if each.dtype != torch.float32]
    if narrow or reference.keys() & trained.keys() or bool(reference) != has_reference:
        raise TrainingFailed(
            f"{trainer} trains {len(trained)} tensors, {len(narrow)} of them not in float32, and its reference has "
            f"{len(reference)} tensors. This does not match the recipe.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )


@dataclass
class _Iteration:
    """The metrics of one iteration's passes. `gap` (see `BeforeUpdate.sampler_gap`) and `entropy` are sums over tokens;
    `_RewardSteps.numbers` divides them by `tokens`."""

    divergence: float
    """KL(policy, reference) of a whole reply: mean over the batch, in nats."""
    losses: list[float] = field(default_factory=list)
    """Losses, one for each step."""
    outside: list[float] = field(default_factory=list)
    """Share of ratios outside the clipping range, for each pass."""
    tokens: float = 0.0
    """Number of tokens in the first step's passes. `gap`, `entropy` and `ratio_off` are also computed over these
    passes."""
    gap: float = 0.0
    entropy: float = 0.0
    ratio_off: float = 0.0


class _RewardSteps(TrlTrainer):
    """A mixin for RLOOTrainer and GRPOTrainer. Among the base classes, list it before the trainer."""

    def __init__(self: Any, method: TrlRewardMethod, rlhf: Rlhf, **named: Any) -> None:
        self.checkpoint_directory = CheckpointDirectory.of(method.job)
        self.job, self._rlhf, self._method = method.job, rlhf, method
        self.steps_an_iteration = self._rlhf.epochs * self._rlhf.minibatches
        self._asked: list[Prompt] = []
        self._rollouts: list[Rollout] = []
        self._seen: _Iteration | None = None
        self._before: dict[str, Any] = {}
        """Mapping of adapter name to the log-probabilities of an iteration's replies before the update."""
        self._pass: tuple[Any, Any] = (None, None)
        """Log-probabilities and entropies of the current pass with gradient."""
        self._step_losses = []
        self._largest_weight = rlhf.largest_weight(method.job.sft.precision)
        self._inputs: dict[str, Any] = {}
        """Batch of the current pass with gradient."""
        super().__init__(reward_funcs=[self.reward], **named)  # type: ignore[call-arg]
        self.eos_token_ids = [*method.job.eos_ids]  # TRL counts a reply as cut unless it ends with one of these ids
        self.remember_reference()

    @property
    def iteration(self: Any) -> int:
        """Number of the current iteration, counted from 0."""
        return int(self.state.global_step // self.steps_an_iteration)

    def _tokenize_prompts(self: Any, prompts: list[str]) -> Any:
        self._asked = [self._method.prompts[int(place)] for place in prompts]
        return [prompt.ids for prompt in self._asked], None, {}

    def _sampled(self: Any) -> list[list[int]]:
        self._rollouts = self._method.sampled(self._asked, self.iteration)
        return [each.completion.reply_ids for each in self._rollouts]

    def _calculate_rewards(self: Any, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        unsaid = [""] * len(completions)
        return super()._calculate_rewards(inputs, prompts, unsaid, completion_ids)  # type: ignore[misc]

    def reward(self: Any, **_: Any) -> list[float | None]:
        """Return the rewards of the replies that were sampled last. TRL calls this method as its reward function."""
        found: list[float | None] = self._method.rewarded(self._asked, self._rollouts)
        return found

    def _get_per_token_logps_and_entropies(self: Any, *given: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*given, **named)  # type: ignore[misc]
        if torch.is_grad_enabled():
            self._pass = found[0].detach(), found[1].detach()
            if self._largest_weight is not None:
                self._weigh(self._inputs, self._inputs.get("before", self._pass[0]), self._largest_weight)
        else:
            self._before[self.model.active_adapter] = found[0]
        return found

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        self._before = {}
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        mask = output["completion_mask"]
        # In the batch, TRL reorders and splits these log-probabilities together with the replies.
        output["sampled"] = sampled = torch.zeros(mask.shape, device=mask.device)
        for row, each in zip(sampled, self._rollouts, strict=True):
            row[: len(each.log_probabilities)] = torch.tensor(each.log_probabilities)
        if POLICY in self._before:  # TRL skips this pass if the policy cannot have changed
            output["before"] = self._before[POLICY]
        gaps = (self._before.get(POLICY, sampled) - self._before[REFERENCE]) * mask
        self._seen = _Iteration(divergence=float(gaps.sum()) / int(mask.any(1).sum()))
        torch.manual_seed(self.job.seed + self.iteration)  # TRL puts the replies into a random order
        return output

    def _compute_loss(self: Any, model: Any, inputs: Any) -> Any:
        self._inputs = inputs = dict(inputs)  # TRL uses a batch again in each epoch
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        log, entropy = self._pass
        counted = inputs["completion_mask"].bool()
        self._step_losses.append(float(loss.detach()))
        before = inputs.get("before", log)
        self._seen.outside.append(self._share_outside(log, before, counted))
        if self.state.global_step % self.steps_an_iteration == 0 and bool(counted.any()):
            self._see_first_step(log[counted], before[counted], inputs["sampled"][counted], entropy[counted])
        return loss

    def _share_outside(self: Any, log: Any, before: Any, counted: Any) -> float:
        return clip_share(log[counted], before[counted], self._rlhf.clip) if bool(counted.any()) else 0.0

    def _weigh(self, inputs: dict[str, Any], before: Any, cap: float) -> None:
        """Apply importance weights (`mismatch_weights`) to the batch, because the sampler's distribution differs
        slightly from the policy's."""
        raise NotImplementedError

    def _see_first_step(self: Any, log: Any, before: Any, sampled: Any, entropy: Any) -> None:
        """Record the metrics of a pass in the iteration's first step. Raises TrainingFailed if the policy is not the
        policy that sampled the replies."""
        seen, precision = self._seen, self.job.sft.precision
        seen.tokens += len(log)
        seen.gap += float((log - sampled).abs().sum())
        seen.entropy += float(entropy.sum())
        seen.ratio_off = max(seen.ratio_off, float(((log - before).exp() - 1).abs().max()))
        check_sampler(float((log - sampled).abs().mean()), precision)
        check_first_ratio(seen.ratio_off, precision)

    def mean_loss(self: Any) -> float:
        whole = sum(self._step_losses)
        return float(whole if self.loss_is_scaled_for_ga else whole / len(self._step_losses))

    def numbers(self: Any) -> dict[str, float]:
        """Return the metrics of the finished iteration, for the training log."""
        seen = self._seen
        tokens = max(seen.tokens, 1.0)  # 0 if cut replies are excluded and all replies of the first step were cut
        return {
            "loss": fmean(seen.losses),
            "clip_share": fmean(seen.outside),
            "first_ratio_off": seen.ratio_off,
            "kl": seen.divergence,
            "entropy": seen.entropy / tokens,
            "sampler_gap": seen.gap / tokens,
        }

    def step_ended(self: Any) -> None:
        """Record the loss of the step. `_Iterations` calls this method before the losses of the step's batches are
        cleared."""
        self._seen.losses.append(self.mean_loss())

    def save_beside(self: Any, directory: Any) -> None:
        self._method.state.save(directory, {})


class _RlooSteps(_RewardSteps):
    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any) -> Any:
        return self._sampled()

    def _weigh(self, inputs: dict[str, Any], before: Any, cap: float) -> None:
        """Apply one importance weight to each whole reply, because RLOO has one ratio per reply."""
        of_update, of_sampler = ((each * inputs["completion_mask"]).sum(1) for each in (before, inputs["sampled"]))
        inputs["advantages"] = inputs["advantages"] * mismatch_weights(of_update, of_sampler, cap)

    def _share_outside(self, log: Any, before: Any, counted: Any) -> float:
        """Return the share of ratios outside the clipping range. RLOO has one ratio for a whole reply."""
        return clip_share((log * counted).sum(1), (before * counted).sum(1), self._rlhf.clip)


class _GrpoSteps(_RewardSteps):
    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *more: Any, **named: Any) -> Any:
        return self._sampled(), None

    def _weigh(self, inputs: dict[str, Any], before: Any, cap: float) -> None:
        inputs["importance_sampling_ratio"] = mismatch_weights(before, inputs["sampled"], cap)

    def _compute_loss(self: Any, model: Any, inputs: Any) -> Any:
        # TRL applies importance weights only if replies come from vLLM.
        self.use_vllm = self.vllm_importance_sampling_correction = self._largest_weight is not None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.use_vllm = False


class _Iterations(TrainerCallback):  # type: ignore[misc]
    """A callback that finishes each iteration. The result of `iteration_ended` decides whether the training then saves
    a checkpoint or ends."""

    def __init__(self, trainer: Any, method: TrlRewardMethod, iterations: int) -> None:
        self._trainer, self._method, self._iterations = trainer, method, iterations

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        steps = self._iterations * self._trainer.steps_an_iteration
        if state.max_steps != steps:
            raise TrainingFailed(
                f"The recipe has {steps} steps, but transformers counts {state.max_steps}. The training would use "
                f"different prompts.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._trainer.step_ended()
        control.should_save = control.should_training_stop = False
        if state.global_step % self._trainer.steps_an_iteration == 0:
            control.should_save, control.should_training_stop = self._method.iteration_ended(self._trainer.numbers())


def reward_trainer(method: TrlRewardMethod, model: Any, tokenizer: Any) -> Any:
    """Build the trainer of a method. TRL adds the reference to the model. Raises the errors of `check_adapters`."""
    job = method.job
    assert job.reward is not None
    rlhf = job.reward.rlhf
    base, argument_class = _classes(rlhf.algorithm)
    steps = {"rloo": _RlooSteps, "grpo": _GrpoSteps}[rlhf.algorithm]
    trainer_class: Any = type(f"Guarded{base.__name__}", (steps, base), {})
    rows = rows_a_pass(job, [len(prompt.ids) for prompt in method.prompts])
    arguments = training_arguments(
        job,
        argument_class,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=rlhf.replies // rlhf.minibatches // rows,
        steps_per_generation=rlhf.replies // rows,
        num_generations=rlhf.group,
        num_iterations=rlhf.epochs,
        max_completion_length=rlhf.max_new_tokens,
        temperature=rlhf.temperature,
        top_k=0,
        top_p=1.0,
        min_p=None,
        repetition_penalty=1.0,
        beta=rlhf.kl.coefficient,
        epsilon=rlhf.clip,
        warmup_steps=0,
        lr_scheduler_type="linear",
        adam_epsilon=ADAM_EPSILON,
        max_grad_norm=LARGEST_GRADIENT,
        mask_truncated_completions=rlhf.cut_replies == "excluded",
        shuffle_dataset=False,
        disable_dropout=True,
        router_aux_loss_coef=0.0,
        log_completions=False,
        save_strategy="no",
        **SHAPING[rlhf.algorithm],
    )
    with padding_kept(model):
        trainer = trainer_class(
            method,
            rlhf,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": str(place)} for place in range(len(method.prompts))]),
            processing_class=tokenizer,
        )
    check_adapters(model, f"TRL's trainer for {rlhf.algorithm}", trainer.reference, has_reference=True)
    trainer.remove_callback(PrinterCallback)  # this callback writes to stdout, which is used for progress
    trainer.add_callback(_Iterations(trainer, method, rlhf.iterations))
    return trainer
