"""A trainer of TRL in this package's process: its loss and its forward pass on our rows, plan, checkpoints and guards.

Rows are encoded as for every other method, so that the supervised part ends with the end of turn; TRL's own encoding
would go on behind it, and would keep the tokens in a cache on disk. It imports torch, datasets and TRL at its top:
import it inside the functions that need it. What does not belong here: which trainers and arguments a recipe may name
(`policy/training/trl_trainers.py`).
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.training.training import Preference
from sovereign_pipeline.policy.training.trl_trainers import OPTIMIZER_ARGUMENTS, TRAINERS
from sovereign_pipeline.training.devices import add_up
from sovereign_pipeline.training.guarded_trainer import GuardedTrainer, training_arguments
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.report import TrlNumerics
from sovereign_pipeline.training.rows import EncodedRow, in_tables, mapped

_CLASSES = {
    "cpo": ("trl.experimental.cpo", "CPOTrainer", "CPOConfig"),
    "dpo": ("trl", "DPOTrainer", "DPOConfig"),
    "orpo": ("trl.experimental.orpo", "ORPOTrainer", "ORPOConfig"),
}
"""Module, trainer and argument class."""


class EncodedPairs(Dataset):  # type: ignore[misc]
    """Rows that TRL must take as they are."""

    def map(self, *arguments: Any, **named: Any) -> "EncodedPairs":
        return self

    def filter(self, *arguments: Any, **named: Any) -> "EncodedPairs":
        return self


class TrlTrainer(GuardedTrainer):
    """What every trainer of TRL is watched for: a reference that stays, and no word to TRL's hub."""

    reference: dict[str, Any]
    """The frozen copy's tensors at the beginning; empty without one."""

    def remember_reference(self: Any) -> None:
        """Call it behind TRL's own `__init__`, which makes the copy."""
        tensors = self.model.named_parameters()
        self.reference = {name: each.detach().cpu().clone() for name, each in tensors if ".ref." in name}

    def check_reference_kept(self: Any) -> None:
        """Raise TrainingFailed when the frozen copy is no longer what the training started from."""
        now = dict(self.model.named_parameters())
        moved = [name for name, before in self.reference.items() if not torch.equal(now[name].detach().cpu(), before)]
        if moved:
            raise TrainingFailed(
                f"{len(moved)} tensors of the reference changed in the training. It learned against a moving target.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def _send_telemetry(self) -> None:
        """TRL reports each trainer that is made to its hub."""


class TrlSteps(TrlTrainer):
    """Stands before a trainer of TRL that learns from rows among the bases of a class."""

    _step_losses: list[float]
    """Of the step's batches so far."""

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

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # Of batches that are equal on all devices; see `plan.py`.
            (total,) = add_up(self.job, [sum(self._step_losses)])
            expected = total / (len(self._step_losses) * self.job.devices.count)
            check_step(self.state.global_step, self.plan.steps, logs, expected)
            self._step_losses = []
        super().log(logs, start_time)  # type: ignore[misc]


@dataclass(frozen=True)
class _Made:
    """A trainer's classes, from the installed TRL."""

    trainer: Any
    arguments: Any


def trl_trainer(job: TrainingJob, model: Any, plan: Plan, tokenizer: Any, hooks: TrainerHooks) -> Any:
    """The trainer of a job, ready to train. Raises TrainingFailed for arguments that TRL refuses."""
    preference = job.preference
    assert preference is not None and preference.trainer is not None
    made = _classes(preference.trainer)
    trainer_class: Any = type(f"Guarded{made.trainer.__name__}", (TrlSteps, made.trainer), {})
    try:
        with padding_kept(model):
            trainer = trainer_class(
                job,
                plan,
                model=model,
                args=training_arguments(job, made.arguments, max_length=job.tuning.max_length, **_given(preference)),
                train_dataset=_dataset(job, plan.rows),
                processing_class=tokenizer,
            )
    except (ValueError, TypeError, NotImplementedError) as error:
        # The rows hold token ids only, so a message is about arguments.
        raise TrainingFailed(
            f"TRL's trainer {preference.trainer} refuses these arguments: {' '.join(str(error).split())}",
            "Correct training.preference.arguments.",
        ) from error
    name, has_reference = f"TRL's trainer {preference.trainer}", preference.has_copied_reference
    check_adapters(trainer.model, name, trainer.reference, has_reference)
    trainer.add_hooks(hooks)
    return trainer


@contextmanager
def padding_kept(model: Any) -> Iterator[None]:
    """While a trainer is made: TRL writes a padding token of its own into the model, which may be saved."""
    padding = model.config.get_text_config(), model.generation_config
    before = [each.pad_token_id for each in padding]
    yield
    for each, value in zip(padding, before, strict=True):
        each.pad_token_id = value


def trl_numerics(preference: Preference, arguments: Any) -> TrlNumerics:
    """For the report: which trainer ran, and its arguments as they were in effect."""
    assert preference.trainer is not None
    module, name, _ = _CLASSES[preference.trainer]
    listed = TRAINERS[preference.trainer]
    shown = {each: getattr(arguments, each) for each in sorted((*listed.arguments, *OPTIMIZER_ARGUMENTS))}
    return TrlNumerics(trainer=f"{module}.{name}", stability=listed.stability, arguments=shown)


def _classes(name: str) -> _Made:
    module_name, trainer, arguments = _CLASSES[name]
    module = importlib.import_module(module_name)
    return _Made(getattr(module, trainer), getattr(module, arguments))


def _given(preference: Preference) -> dict[str, Any]:
    """The recipe's arguments as TRL's classes have them: lists, and DPO's losses always in one."""
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in preference.arguments.items()
    }
    if preference.trainer == "dpo" and isinstance(given.get("loss_type"), str):
        given["loss_type"] = [given["loss_type"]]
    return given


def _dataset(job: TrainingJob, rows: Sequence[EncodedRow]) -> EncodedPairs:
    """The rows in the order of the plan, in the columns that the trainer's collator reads."""
    assert job.preference is not None
    apart = job.preference.trainer == "dpo"
    found: EncodedPairs = mapped(job, in_tables(_row(row, apart) for row in rows), EncodedPairs)
    return found


def _row(row: EncodedRow, apart: bool) -> dict[str, list[int]]:
    """apart: with prompt and replies apart; else each reply behind its prompt."""
    chosen, rejected = row.completions
    if apart:
        return {
            "prompt_ids": list(chosen.prompt_ids),
            "chosen_ids": list(chosen.reply_ids),
            "rejected_ids": list(rejected.reply_ids),
        }
    return {
        f"{name}_{key}": value
        for name, each in (("chosen", chosen), ("rejected", rejected))
        for key, value in {
            "input_ids": each.ids,
            "attention_mask": [1] * len(each),
            "labels": each.labels,
        }.items()
    }


def check_adapters(model: Any, trainer: str, reference: Mapping[str, Any], has_reference: bool) -> None:
    """Check that TRL holds what is trained in float32, and a frozen reference if there is to be one."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    narrow = [name for name, each in trained.items() if each.dtype != torch.float32]
    if narrow or reference.keys() & trained.keys() or bool(reference) != has_reference:
        raise TrainingFailed(
            f"{trainer} trains {len(trained)} tensors, {len(narrow)} of them not in float32, and has {len(reference)} "
            f"tensors of a reference. The recipe's training has others.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )
