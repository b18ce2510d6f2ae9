"""TRL's RLOOTrainer and GRPOTrainer on this package's prompts, sampler and reward.

TRL has advantages, losses, passes and the steps of the optimizer. What is put in their place, and why: replies come
from this package's sampler, whose draws have seeds of their own, so that a resumed training samples what an unbroken
one would, and whose log-probabilities the passes are compared with; prompts are token ids already; and TRL is handed no
text, since it prints a prompt and its reply where a reward abstains. It imports torch and TRL at its top: import it
inside the functions that need it. What does not belong here: what follows from an iteration's numbers (`trl_run.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.training.trl_trainers import OPTIMIZER_ARGUMENTS
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.guarded_trainer import training_arguments
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.preflight import rows_a_pass
from sovereign_pipeline.training.report import TrlNumerics
from sovereign_pipeline.training.rlhf.guards import check_first_ratio, check_sampler
from sovereign_pipeline.training.rlhf.policy import POLICY
from sovereign_pipeline.training.rlhf.ppo import clip_share
from sovereign_pipeline.training.rlhf.ppo_run import ADAM_EPSILON, LARGEST_GRADIENT
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.trl_trainer import TrlTrainer, check_adapters, padding_kept

REFERENCE = "ref"
"""TRL's name for its frozen copy of the adapter."""
SHAPING: dict[str, dict[str, Any]] = {
    "rloo": {"normalize_advantages": False},
    "grpo": {"importance_sampling_level": "token", "loss_type": "dapo", "scale_rewards": "group"},
}
"""Arguments that shape the loss of one trainer: TRL's defaults, stated, so that a later TRL changes nothing unseen."""
OF_BOTH = (
    *("beta", "epsilon", "gradient_accumulation_steps", "mask_truncated_completions", "max_completion_length", "min_p"),
    *("num_generations", "num_iterations", "per_device_train_batch_size", "repetition_penalty", "steps_per_generation"),
    *("temperature", "top_k", "top_p"),
)


@dataclass(frozen=True)
class Rounds:
    """What a trainer of TRL is given by the training that it belongs to."""

    prompts: Sequence[Prompt]
    """In the order of the training, each once for its group."""
    sample: Callable[[Sequence[Prompt], int], list[Rollout]]
    """Replies of an iteration, counted from 0, one to each prompt that is given."""
    reward: Callable[[Sequence[Prompt], Sequence[Rollout]], list[float | None]]
    """What is learned from; None: this reply is not. What it raises ends the training."""
    ended: Callable[[dict[str, float]], tuple[bool, bool]]
    """Called behind an iteration with its numbers: whether to save a checkpoint, and whether to end."""
    save: Callable[[Any], None]
    """Write the training's own state into a checkpoint."""


@dataclass
class _Iteration:
    """What was seen in the passes of one iteration; sums, so that means are over all tokens."""

    divergence: float
    """KL(policy, reference) of a whole reply, mean of the batch, nats."""
    losses: list[float] = field(default_factory=list)
    """Of its steps."""
    outside: list[float] = field(default_factory=list)
    """Of its passes, the share of ratios outside the clip."""
    tokens: float = 0.0
    """Of the first step's passes; so are the next three."""
    gap: float = 0.0
    entropy: float = 0.0
    ratio_off: float = 0.0


class _RewardSteps(TrlTrainer):
    """Stands before RLOOTrainer or GRPOTrainer among the bases of a class."""

    def __init__(self: Any, job: TrainingJob, rounds: Rounds, **named: Any) -> None:
        assert job.reward is not None
        self.checkpoint_directory = CheckpointDirectory(job.checkpoint_directory, job.identity, job.checkpoints.keep)
        self.job, self._rlhf, self._rounds = job, job.reward.rlhf, rounds
        self.steps_an_iteration = self._rlhf.epochs * self._rlhf.minibatches
        self._asked: list[Prompt] = []
        self._rollouts: list[Rollout] = []
        self._seen: _Iteration | None = None
        self._before: dict[str, Any] = {}
        """By adapter, the log-probabilities of an iteration's replies before anything is learned from them."""
        self._pass: tuple[Any, Any] = (None, None)
        """Log-probabilities and entropies of the pass that is learned from."""
        self._step_losses: list[float] = []
        super().__init__(reward_funcs=[self.reward], **named)  # type: ignore[call-arg]
        self.remember_reference()

    @property
    def iteration(self: Any) -> int:
        """From 0."""
        return int(self.state.global_step // self.steps_an_iteration)

    def _tokenize_prompts(self: Any, prompts: list[str]) -> Any:
        self._asked = [self._rounds.prompts[int(place)] for place in prompts]
        return [prompt.ids for prompt in self._asked], None, {}

    def _sampled(self: Any) -> list[list[int]]:
        self._rollouts = self._rounds.sample(self._asked, self.iteration)
        return [each.completion.reply_ids for each in self._rollouts]

    def _calculate_rewards(self: Any, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        unsaid = [""] * len(completions)
        return super()._calculate_rewards(inputs, prompts, unsaid, completion_ids)  # type: ignore[misc]

    def reward(self: Any, **_: Any) -> list[float | None]:
        """TRL's reward function."""
        found: list[float | None] = self._rounds.reward(self._asked, self._rollouts)
        return found

    def _get_per_token_logps_and_entropies(self: Any, *given: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*given, **named)  # type: ignore[misc]
        if torch.is_grad_enabled():
            self._pass = found[0].detach(), found[1].detach()
        else:
            self._before[self.model.active_adapter] = found[0]
        return found

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        self._before = {}
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        mask = output["completion_mask"]
        # In the batch, so that they are put into TRL's order of the replies and divided with it.
        output["sampled"] = sampled = _padded([each.log_probabilities for each in self._rollouts], mask)
        if POLICY in self._before:  # TRL makes no such pass where the policy cannot have moved
            output["before"] = self._before[POLICY]
        gaps = (self._before.get(POLICY, sampled) - self._before[REFERENCE]) * mask
        self._seen = _Iteration(divergence=float(gaps.sum()) / len(mask))
        torch.manual_seed(self.job.seed + self.iteration)  # TRL puts the replies into a random order
        return output

    def _compute_loss(self: Any, model: Any, inputs: Any) -> Any:
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        log, entropy = self._pass
        counted = inputs["completion_mask"].bool()
        self._step_losses.append(float(loss.detach()))
        before = inputs.get("before", log)
        self._seen.outside.append(self._share_outside(log, before, counted))
        if self.state.global_step % self.steps_an_iteration == 0:
            self._see_first_step(log[counted], before[counted], inputs["sampled"][counted], entropy[counted])
        return loss

    def _share_outside(self: Any, log: Any, before: Any, counted: Any) -> float:
        return clip_share(log[counted], before[counted], self._rlhf.clip)

    def _see_first_step(self: Any, log: Any, before: Any, sampled: Any, entropy: Any) -> None:
        """Its passes are of the policy that sampled. Raises TrainingFailed where they are not."""
        seen, precision = self._seen, self.job.sft.precision
        seen.tokens += len(log)
        seen.gap += float((log - sampled).abs().sum())
        seen.entropy += float(entropy.sum())
        seen.ratio_off = max(seen.ratio_off, float(((log - before).exp() - 1).abs().max()))
        check_sampler(float((log - sampled).abs().mean()), precision)
        check_first_ratio(seen.ratio_off, precision)

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            whole = sum(self._step_losses)
            expected = whole if self.loss_is_scaled_for_ga else whole / len(self._step_losses)
            check_step(self.state.global_step, self.state.max_steps, logs, expected)
            self._step_losses = []
        super().log(logs, start_time)  # type: ignore[misc]

    def numbers(self: Any) -> dict[str, float]:
        """Of the iteration that ended, for the training log."""
        seen = self._seen
        return {
            "loss": fmean(seen.losses),
            "clip_share": fmean(seen.outside),
            "first_ratio_off": seen.ratio_off,
            "kl": seen.divergence,
            "entropy": seen.entropy / seen.tokens,
            "sampler_gap": seen.gap / seen.tokens,
        }

    def step_ended(self: Any) -> None:
        """Before the step's losses are forgotten."""
        whole = sum(self._step_losses)
        self._seen.losses.append(whole if self.loss_is_scaled_for_ga else whole / len(self._step_losses))

    def save_beside(self: Any, directory: Any) -> None:
        self._rounds.save(directory)


class _Rloo(_RewardSteps, RLOOTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any) -> Any:
        return self._sampled()

    def _share_outside(self, log: Any, before: Any, counted: Any) -> float:
        """Of replies: RLOO's ratio is of a whole one."""
        return clip_share((log * counted).sum(1), (before * counted).sum(1), self._rlhf.clip)


class _Grpo(_RewardSteps, GRPOTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *more: Any, **named: Any) -> Any:
        return self._sampled(), None


class _Iterations(TrainerCallback):  # type: ignore[misc]
    """Tells the training of each iteration's end, and does what it answers."""

    def __init__(self, trainer: Any, rounds: Rounds, iterations: int) -> None:
        self._trainer, self._rounds, self._iterations = trainer, rounds, iterations

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        steps = self._iterations * self._trainer.steps_an_iteration
        if state.max_steps != steps:
            raise TrainingFailed(
                f"The recipe has {steps} steps, and transformers counts {state.max_steps}. It would learn from other "
                f"prompts.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._trainer.step_ended()
        control.should_save = control.should_training_stop = False
        if state.global_step % self._trainer.steps_an_iteration == 0:
            control.should_save, control.should_training_stop = self._rounds.ended(self._trainer.numbers())


def reward_trainer(job: TrainingJob, model: Any, tokenizer: Any, rounds: Rounds) -> Any:
    """The trainer of a job, ready to train, with its reference on the model."""
    assert job.reward is not None
    rlhf = job.reward.rlhf
    classes: dict[str, tuple[Any, Any]] = {"rloo": (_Rloo, RLOOConfig), "grpo": (_Grpo, GRPOConfig)}
    trainer_class, argument_class = classes[rlhf.algorithm]
    rows = rows_a_pass(job, [len(prompt.ids) for prompt in rounds.prompts])
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
        shuffle_dataset=False,
        disable_dropout=True,
        router_aux_loss_coef=0.0,
        log_completions=False,
        save_strategy="no",
        **SHAPING[rlhf.algorithm],
    )
    with padding_kept(model):
        trainer = trainer_class(
            job,
            rounds,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": str(place)} for place in range(len(rounds.prompts))]),
            processing_class=tokenizer,
        )
    check_adapters(model, f"TRL's trainer for {rlhf.algorithm}", trainer.reference, has_reference=True)
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where progress goes
    trainer.add_callback(_Iterations(trainer, rounds, rlhf.iterations))
    return trainer


def numerics(algorithm: str, arguments: Any) -> TrlNumerics:
    """For the report: which trainer ran, and its arguments as they were in effect."""
    names = (*OF_BOTH, *SHAPING[algorithm], *OPTIMIZER_ARGUMENTS)
    shown = {name: getattr(arguments, name) for name in sorted(names)}
    return TrlNumerics(trainer=f"trl.{algorithm.upper()}Trainer", stability="stable", arguments=shown)


def _padded(logs: Sequence[Sequence[float]], mask: Any) -> Any:
    found = torch.zeros(mask.shape, device=mask.device)
    for row, log in enumerate(logs):
        found[row, : len(log)] = torch.tensor(log)
    return found
