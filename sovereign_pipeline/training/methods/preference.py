"""Train with the preference methods DPO, IPO and KTO: losses, reference log-probabilities, and the trainer on packed
rows.

TRL has the same losses, but TRL's trainers cannot compute them on packed rows. A test compares both implementations.
This module imports torch and transformers at its top, so import it inside functions.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.record.stage import library_versions
from sovereign_pipeline.training.compute import Passed, added
from sovereign_pipeline.training.devices import all_processes, give_back_shards, in_shares, is_first
from sovereign_pipeline.training.forward import (
    Batch,
    in_evaluation_mode,
    packed,
    passes_in,
    reply_log_probabilities,
)
from sovereign_pipeline.training.job import TrainingJob, mark_of, stopped_before_first_step
from sovereign_pipeline.training.methods.sft import Batches, PackedTrainer
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.rows import Completion, EncodedRow, exchanged, pack
from sovereign_pipeline.training.trainer import RowsMethod


class PreferenceMethod(RowsMethod):
    """DPO, IPO or KTO. These methods compare the policy with a reference: the model before the first step."""

    def build_trainer(self) -> Any:
        return PreferenceTrainer(self.job, self.model, PreferenceBatches(self.job, self.plan), self.hooks)

    def passed(self) -> tuple[Passed, Passed]:
        """Return the token counts: first of the forward passes that a backward pass follows, then of all others. The
        reference model reads each reply once. For kto, policy and reference also read the mismatched replies of
        `rows.exchanged`, which have as many tokens in total as the rows."""
        learned, _ = super().passed()
        different = {(row.id, row.turn): row for row in self.plan.rows}.values()
        references = added(Passed.of_pass([*map(len, row.completions)], row.supervised, True) for row in different)
        return learned, references + learned * (2 if self.job.method == "kto" else 0)


class PreferenceBatches(Batches):
    """Batches with the reference log-probability of each reply and, for KTO, with mismatched replies."""

    def __init__(self, job: TrainingJob, plan: Plan) -> None:
        super().__init__(job, plan)
        self.replies_of_a_row = 1 if job.method == "kto" else 2
        self.references: dict[str, float] = {}
        """Mapping of `key_of(completion)` to the reference log-probability; filled by `know_references`."""

    def know_references(self, model: Any, progress: Callable[[str], None], check_stop: Callable[[], None]) -> None:
        """Compute or read the reference log-probabilities; see `reference_log_probabilities`."""
        completions = [each for row in self.plan.rows for each in row.completions]
        if self.job.method == "kto":
            for first in range(0, len(self.plan.units), self.plan.units_a_pass):
                completions += self._exchanged(range(first, first + self.plan.units_a_pass))
        self.references = reference_log_probabilities(self.job, model, completions, progress, check_stop)

    def collate(self, places: Sequence[int]) -> Batch:
        batch, rows = super().collate(places), self.rows_at(places)
        batch["references"] = self._references_of([each for row in rows for each in row.completions])
        if self.job.method == "kto":
            batch["desirable"] = torch.tensor([row.desirable for row in rows], dtype=torch.bool)
            others = self._exchanged(places)
            batch["exchanged"] = {
                **packed([*others, *self.fillers(places)]),
                "references": self._references_of(others),
            }
        return batch

    def _exchanged(self, places: Sequence[int]) -> list[Completion]:
        """Return the mismatched completions of the units at these places in the plan; see `rows.exchanged`. Replies are
        exchanged only within a pass over all devices."""
        first = places[0] - places[0] % self.plan.units_a_pass
        together = [row for unit in self.plan.units[first : first + self.plan.units_a_pass] for row in unit]
        return exchanged(together)[places[0] - first : places[-1] - first + 1]

    def _references_of(self, completions: Sequence[Completion]) -> Any:
        return torch.tensor([self.references[key_of(each)] for each in completions], dtype=torch.float32)


class PreferenceTrainer(PackedTrainer):
    """A Trainer with the losses of DPO, IPO and KTO."""

    batches: PreferenceBatches

    def losses(self, model: Any, inputs: Batch) -> Any:
        """Return one loss for each pair (DPO, IPO) or reply (KTO), [n]. `Batches.fillers` have no loss."""
        together, preference = self.job.tuning.packing, self.job.preference
        assert preference is not None
        log_ratios, tokens = _log_ratios(model, inputs, together)
        if self.job.method != "kto":
            pair = pair_loss(preference, log_ratios, tokens)
            self.note("rewards/margins", pair.margins)
            self.note("rewards/accuracies", (pair.rewards[0::2] > pair.rewards[1::2]).float())
            return pair.losses
        with torch.no_grad():
            mismatched, _ = _log_ratios(model, inputs["exchanged"], together)
            own = torch.stack([mismatched.sum(), mismatched.new_tensor(len(mismatched))])
            total, count = self.accelerator.reduce(own, "sum")
            divergence = (total / count).clamp(min=0)
        loss = kto_loss(preference, log_ratios, inputs["desirable"], divergence)
        self.note("kl", divergence[None])
        self.note("rewards/chosen", loss.rewards[inputs["desirable"]])
        self.note("rewards/rejected", loss.rewards[~inputs["desirable"]])
        return loss.losses

    def items_of(self, batch: Batch) -> int:
        """Return the number of pairs (DPO, IPO) or replies (KTO) in the batch."""
        return len(batch["references"]) // self.batches.replies_of_a_row

    def _prepare_for_training(self, *arguments: Any, **named: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments, **named)
        self._know_references()
        return prepared

    def _load_from_checkpoint(self, *arguments: Any, **named: Any) -> None:
        self._know_references()  # before the checkpoint is loaded, because the checkpoint's model is already trained
        super()._load_from_checkpoint(*arguments, **named)

    def _know_references(self) -> None:
        """Compute the reference log-probabilities, unless this was already done. Call this method after the model is
        sharded, and before the first step or the loading of a checkpoint."""
        if self.batches.references:
            return
        started = time.monotonic()
        sharded = self.job.devices.count > 1
        # A sharded model sets its own precision. For any other model, `passes_in` sets it.
        with nullcontext() if sharded else passes_in(self.job.sft.precision, self.model.device.type):
            self.batches.know_references(self.model, self.hooks.progress, self._stop_before_first_step)
        if sharded:
            give_back_shards(self.model)
        self.reference_seconds = time.monotonic() - started

    def _stop_before_first_step(self) -> None:
        if self.any_process(self.hooks.should_stop()):
            raise stopped_before_first_step()


def _log_ratios(model: Any, inputs: Batch, together: bool) -> tuple[Any, Any]:
    """Return the log ratio and the number of tokens of each reply that has a reference log-probability. Only fillers
    (`Batches.fillers`) have none, and they come last in a batch."""
    sums, tokens = reply_log_probabilities(model, inputs, together)
    references = inputs["references"]
    return sums[: len(references)] - references, tokens[: len(references)]


@dataclass(frozen=True)
class PreferenceLoss:
    """The losses of a batch, and the values to log."""

    losses: Any
    """Losses: one for each pair (dpo, ipo) or each reply (kto)."""
    rewards: Any
    """Rewards: β · log ratio of each reply, without gradient."""
    margins: Any | None
    """For each pair, the chosen reply's reward minus the rejected reply's; None for kto."""


def pair_loss(preference: Preference, log_ratios: Any, lengths: Any) -> PreferenceLoss:
    """Compute the loss of DPO (Rafailov et al. 2023, equation 7) or IPO (Azar et al. 2023, equation 17). log_ratios:
    [2n], chosen and rejected alternating. lengths: number of tokens of each reply, [2n]. For IPO, each log
    ratio is divided by the reply's number of tokens, so that the target 1/(2τ) is the same for short and long replies.
    IPO's authors do the same, in TRL and in their own experiments."""
    from torch.nn.functional import logsigmoid

    beta = preference.beta
    rewards = beta * log_ratios.detach()
    if preference.method == "ipo":
        means = log_ratios / lengths
        losses = (means[0::2] - means[1::2] - 1 / (2 * beta)) ** 2
    else:
        losses = -logsigmoid(beta * (log_ratios[0::2] - log_ratios[1::2]))
    return PreferenceLoss(losses, rewards, rewards[0::2] - rewards[1::2])


def kto_loss(preference: Preference, log_ratios: Any, desirable: Any, divergence: Any) -> PreferenceLoss:
    """Compute the loss of KTO (Ethayarajh et al. 2024, equation 7). log_ratios, desirable (bool): [n]. divergence:
    estimate of KL(policy, reference), at least 0 and without gradient. The estimate is the mean log ratio of mismatched
    replies (`rows.exchanged`)."""
    beta = preference.beta
    desirable_value = torch.sigmoid(beta * (log_ratios - divergence))
    undesirable_value = torch.sigmoid(beta * (divergence - log_ratios))
    losses = torch.where(
        desirable,
        preference.desirable_weight * (1 - desirable_value),
        preference.undesirable_weight * (1 - undesirable_value),
    )
    return PreferenceLoss(losses, beta * log_ratios.detach(), None)


REFERENCES_VERSION = "3"
"""Version of the computation of reference log-probabilities. Increase it if a code change gives different values for
the same model and rows. Caches of earlier versions are then ignored."""
REFERENCE_LIBRARIES = ("bitsandbytes", "peft", "torch", "transformers")


def key_of(completion: Completion) -> str:
    """Return the SHA-256 of the completion's token ids, as the key of its reference log-probability."""
    return sha256(json.dumps([list(completion.prompt_ids), list(completion.reply_ids)]).encode()).hexdigest()


def reference_log_probabilities(
    job: TrainingJob,
    model: Any,
    completions: Sequence[Completion],
    progress: Callable[[str], None],
    check_stop: Callable[[], None],
) -> dict[str, float]:
    """Return a mapping of `key_of(completion)` to the log-probability of its reply (nats) under `model`, without
    dropout. If every process can read the cache file and verify its MAC, the cached values are returned.
    Otherwise the values are computed, and the file is replaced.

    Call this function in the same context as the training's passes, so that the values equal the policy's own before
    the first step. If there are several processes, all must call it, and each gets all values. check_stop: function
    that is called before each batch, and raises after a stop request. Raises TrainingFailed if a value is not finite.
    """
    wanted = {key_of(each): each for each in completions}
    path = job.references / f"{_identity(job, wanted)}.json"
    cached = _read(path, wanted)
    if all_processes(job, bool(cached)):
        progress(f"reference log-probabilities of {len(wanted)} replies: cached")
        return cached
    progress(f"computing reference log-probabilities of {len(wanted)} replies")
    countdown = Countdown(progress, "reference log-probabilities", len(wanted), "reply")
    rows = [EncodedRow(key, (each,)) for key, each in wanted.items()]
    # Unpacked, every reply takes its own pass.
    batches = pack(rows, job.tuning.max_length) if job.tuning.packing else [[row] for row in rows]
    done = 0

    def values_of(batch: list[EncodedRow]) -> list[float]:
        nonlocal done
        check_stop()
        values = _of_batch(model, batch, job.tuning.packing)
        done = min(done + len(batch) * job.devices.count, len(wanted))
        countdown.reached(done)
        return values

    values = in_shares(job, batches, len, values_of)
    found = {row.id: value for row, value in zip((row for batch in batches for row in batch), values, strict=True)}
    if is_first(job):
        _write(path, found)
    return found


def _of_batch(model: Any, batch: Sequence[EncodedRow], together: bool) -> list[float]:
    inputs = {name: tensor.to(model.device) for name, tensor in packed([row.completions[0] for row in batch]).items()}
    with in_evaluation_mode(model):
        values, _ = reply_log_probabilities(model, inputs, together)
    if not bool(torch.isfinite(values).all()):
        raise TrainingFailed(
            "The model's log-probabilities are not finite before the first step.",
            "Train with precision: float32, or check the base model.",
        )
    found: list[float] = values.tolist()
    return found


def _identity(job: TrainingJob, wanted: dict[str, Completion]) -> str:
    # The base model is identified by its digest, and the parent (an adapter or a tuned model) by its weight files.
    directory = job.base_model if job.parent_adapter is None else job.parent_adapter
    parent = [file_sha256(file) for file in sorted(directory.glob("*.safetensors"))]
    held = job.sft.model_dump(mode="json", include={"adapter", "precision"})
    together = [job.tuning.packing, job.tuning.max_length]
    libraries = library_versions(REFERENCE_LIBRARIES)
    # The passes of a sharded model round differently, for references and policy alike.
    rounding = [job.devices.sharding] if job.devices.count > 1 else []
    return digest_of(
        [REFERENCES_VERSION, job.base_model_digest, parent, held, together, libraries, list(wanted), *rounding]
    )


def _write(path: Path, found: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(canonical_json({"values": found, "mark": mark_of("references", [path.stem, found])}) + b"\n")
    aside.replace(path)


def _read(path: Path, wanted: dict[str, Completion]) -> dict[str, float]:
    """Return the cached values; empty if the file is missing or damaged, or if this process cannot verify its MAC."""
    try:
        cached = json.loads(path.read_bytes())
        values: dict[str, float] = cached["values"]
        is_marked = cached["mark"] == mark_of("references", [path.stem, values])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return values if is_marked and values.keys() == wanted.keys() else {}
