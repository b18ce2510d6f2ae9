"""Check the model before, during and after training. Failed checks raise TrainingFailed or TrainingDiverged."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from sovereign_pipeline.base.errors import TrainingDiverged, TrainingFailed
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import Countdown, and_more, counted
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.training.forward import Batch, in_evaluation_mode, packed, passes_in, token_log_probabilities
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import fused_experts
from sovereign_pipeline.training.rows import Completion, EncodedRow

PROBE_ROWS = 8
LARGEST_SHIFT_IN_PACK = {"float32": 0.01, "bfloat16": 0.15}
"""Largest accepted difference between a reply's log-probabilities in a pack and in a separate pass: the mean over the
reply's tokens, in nats.

Passes of different lengths round differently. On documents with SmolLM2-135M, the measured difference was at most 0.056
in bfloat16 and 2e-5 in float32.
"""
LARGEST_SHIFT_BY_NEIGHBOUR = 0.01
"""Largest accepted change of a reply's log-probabilities, in nats, if the row before the reply is replaced by another
row of equal length. Both passes use the same kernels.

The measured change was 0 in both precisions, and 0.03 to 0.05 with a tiny Falcon-H1, whose state crosses rows. In
models with fused experts, replacing a row changes the experts' batches. The limit for such models is therefore
`LARGEST_SHIFT_IN_PACK`.
"""
LARGEST_SHIFT_BETWEEN_PASSES = {"float32": 1e-4, "bfloat16": 2e-2}
LEAST_CHANGE = 1e-5
"""Smallest accepted relative change of the probe's loss over a training run."""
DIVERGED_SHARE, DIVERGED_NATS = 0.05, 0.05
"""Largest accepted rise of the probe's loss in SFT: this share of the loss, or this number of nats, whichever is
larger. A small rise is normal, because the model becomes less certain of stock phrases."""
NAMES_IN_A_MESSAGE = 3


@dataclass(frozen=True)
class Probe:
    """The loss on a few training rows. The losses before and after the training run are compared."""

    rows: list[EncodedRow]
    before: float
    """Mean loss per reply token before the first step, nats."""

    def loss(self, model: Any) -> float:
        """Return the model's current mean loss per reply token on the probe's rows, in nats."""
        return _loss(model, self.rows)

    def check_moved(self, after: float, method: str) -> None:
        """Raise TrainingDiverged if the loss `after` is not finite, did not change or, for SFT, clearly rose."""
        if not math.isfinite(after):
            raise TrainingDiverged(
                "The loss is not finite after the last step.",
                "Lower learning_rate, or train with precision: float32.",
            )
        if abs(after - self.before) < LEAST_CHANGE * abs(self.before):
            raise TrainingDiverged(
                f"The loss on {len(self.rows)} training rows is {after:.6f}, the same as before the first step. "
                f"Nothing was learned.",
                "Raise learning_rate or max_steps, or lower warmup_steps. Check that adapter and target_modules name "
                "layers of the model.",
            )
        if method == "sft" and after - self.before > max(DIVERGED_SHARE * self.before, DIVERGED_NATS):
            raise TrainingDiverged(
                f"The loss on {len(self.rows)} training rows rose from {self.before:.4f} to {after:.4f}. The training "
                f"diverged.",
                "Lower learning_rate, or raise warmup_steps.",
            )


def check_template(tokenizer: Any, job: TrainingJob) -> None:
    """Check that the tokenizer has exactly the pinned chat template."""
    found = sha256(str(tokenizer.chat_template).encode()).hexdigest()
    if found != job.chat_template_sha256:
        raise TrainingFailed(
            f"{job.base_model}: the chat template is {short(found)}, but {short(job.chat_template_sha256)} is pinned. "
            f"Training and serving would format turns differently.",
            "Restore the model's files.",
        )


def check_vocabulary(tokenizer: Any, model: Any, rows: Sequence[EncodedRow]) -> None:
    """Check that the model has an embedding for every token id of the rows and of the tokenizer."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    largest = max(max(each.ids) for row in rows for each in row.completions)
    if max(largest, len(tokenizer) - 1) >= embeddings:
        raise TrainingFailed(
            f"The tokenizer has {len(tokenizer)} tokens (largest id in the rows: {largest}), but the model has "
            f"{embeddings} embeddings. Tokens were added that the model does not know.",
            "Restore the tokenizer's own files.",
        )


def check_trainable(model: Any, sft_adapter: str) -> int:
    """Check that exactly the adapter's parameters are trained or, without an adapter, all parameters of the model.
    Returns the number of trained parameters."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise TrainingFailed(
            "No parameter would be trained: target_modules match no layer, or every layer is frozen.",
            "Correct target_modules in training.sft.",
        )
    if sft_adapter == "none":
        wrong = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    else:
        wrong = [name for name in trained if "lora_" not in name]
        wrong += [name for name, each in model.named_parameters() if "lora_" in name and not each.requires_grad]
    if wrong:
        raise TrainingFailed(
            f"{len(wrong)} tensors have the wrong state: frozen instead of trained, or trained instead of frozen: "
            f"{and_more(wrong, NAMES_IN_A_MESSAGE)}.",
            "Correct adapter and target_modules in training.sft.",
        )
    return sum(parameter.numel() for parameter in trained.values())


def check_rows_are_kept_apart(model: Any, rows: Sequence[EncodedRow], precision: str, max_length: int) -> None:
    """Check that packed rows do not influence each other.

    Two packed rows must have the same log-probabilities as in separate passes, within `LARGEST_SHIFT_IN_PACK`. If the
    first row is replaced, the second row's log-probabilities may change by at most `LARGEST_SHIFT_BY_NEIGHBOUR`.
    """
    first, second = _two_ordinary(rows, max_length)
    front, behind = first.completions[0], second.completions[0]
    another = Completion(front.prompt_ids[::-1], front.reply_ids[::-1], front.gaps)
    with in_evaluation_mode(model):
        inputs = _on_device(model, [front, behind])
        together = token_log_probabilities(model, inputs)
        from_alone = (together - token_log_probabilities(model, inputs, together=False)).abs()
        moved = (together - token_log_probabilities(model, _on_device(model, [another, behind]))).abs()
    shift_of_each = from_alone.split([front.supervised, behind.supervised])
    shift_in_pack = max(float(each.mean()) for each in shift_of_each)
    shift_by_neighbour = float(moved[front.supervised :].mean())
    largest = LARGEST_SHIFT_IN_PACK[precision]
    if shift_in_pack > largest or shift_by_neighbour > (
        largest if fused_experts(model) else LARGEST_SHIFT_BY_NEIGHBOUR
    ):
        raise TrainingFailed(
            f"This model does not keep packed rows apart. Packing rows {first.id} and {second.id} changes their "
            f"log-probabilities by {shift_in_pack:.3f} nats per token. Replacing the first row changes the second "
            f"row's log-probabilities by {shift_by_neighbour:.3f} nats per token.",
            "Set packing: false in training.sft and training.preference.",
        )


def check_passes_repeat(model: Any, rows: Sequence[EncodedRow], precision: str) -> None:
    """Check that no dropout is active: two passes of one row in training mode must give equal log-probabilities. With
    dropout, the policy's log-probabilities could not be compared with the reference model's or the sampler's. On CUDA a
    small difference is accepted, because rounding depends on the order of summation."""
    import torch

    inputs = _on_device(model, [min(rows, key=lambda row: row.longest).completions[0]])
    was_training = model.training
    model.train()
    try:
        with torch.no_grad(), passes_in(precision, model.device.type):
            first, second = (token_log_probabilities(model, inputs) for _ in range(2))
    finally:
        model.train(was_training)
    apart = float((first - second).abs().max())
    if not apart <= (LARGEST_SHIFT_BETWEEN_PASSES[precision] if model.device.type == "cuda" else 0.0):
        raise TrainingFailed(
            f"Two passes of one row in training mode differ by up to {apart:.5f} nats per token. The model uses random "
            f"numbers, for example because its configuration sets a dropout.",
            "Set every dropout in the base model's config.json to 0.",
        )


def _two_ordinary(rows: Sequence[EncodedRow], max_length: int) -> list[EncodedRow]:
    """Return two rows for the packing check. Both fit into half a pack, and their lengths are nearest to the median
    length of all rows. If fewer than two rows fit, return the two shortest rows."""

    def length(row: EncodedRow) -> int:
        return len(row.completions[0])

    by_length = sorted(rows, key=lambda row: (length(row), row.id))
    median = length(by_length[len(by_length) // 2])
    fitting = [row for row in by_length if length(row) <= max_length // 2]
    return sorted(fitting, key=lambda row: abs(length(row) - median))[:2] if len(fitting) > 1 else by_length[:2]


def start_probe(
    model: Any,
    rows: Sequence[EncodedRow],
    progress: Callable[[str], None],
    once: Callable[[object, Callable[[], float]], float] = lambda of, measure: measure(),
) -> Probe:
    """Choose the probe's rows and measure their loss.

    The rows are sorted by length and divided into equal parts. The middle row of each part is chosen. Canaries are
    excluded, because training on documents hardly changes their loss. once: function that returns an earlier
    measurement of the same rows if there is one, and otherwise calls `measure`.
    """
    candidates = {row.id: row for row in rows if not is_canary(row.id)} or {row.id: row for row in rows}
    by_length = sorted(candidates.values(), key=lambda row: (row.longest, row.id))
    count = min(PROBE_ROWS, len(by_length))
    chosen = [by_length[(2 * part + 1) * len(by_length) // (2 * count)] for part in range(count)]
    countdown = Countdown(progress, "loss before the first step", count, "row")
    return Probe(chosen, once([[row.id, row.turn] for row in chosen], partial(_loss, model, chosen, countdown)))


def check_step(step: int, steps: int, logs: dict[str, float], expected: float) -> None:
    """Check that loss and gradient are finite, and that the loss is the mean over the whole step. expected: the sum of
    the step's losses, divided by its number of tokens (or replies). This value is computed independently of the library
    that accumulates gradients. A wrong division in that library would change the effective learning rate."""
    if not all(math.isfinite(value) for value in logs.values()):
        raise TrainingDiverged(
            f"Step {step} of {steps}: loss or gradient is not finite.",
            "Lower learning_rate in the recipe, or train with precision: float32.",
        )
    if not math.isclose(logs["loss"], expected, rel_tol=1e-3, abs_tol=1e-5):
        raise TrainingFailed(
            f"Step {step} of {steps}: the minimised loss is {logs['loss']:.6f}, but the mean loss over the step is "
            f"{expected:.6f}. Gradients are not accumulated as a mean.",
            "Install the pinned versions (requirements/).",
        )


def check_adapter_moved(now: dict[str, Any], start: dict[str, Any]) -> None:
    """Check that every LoRA-B matrix is finite, is not zero, and has changed since the start of the training. now,
    start: results of `lora_b`."""
    import torch

    if not now:
        raise TrainingFailed("The trained model has no adapter.", "Install the pinned versions (requirements/).")
    dead = [name for name, tensor in now.items() if not bool(torch.isfinite(tensor).all()) or not bool(tensor.any())]
    still = [name for name, tensor in now.items() if name in start and torch.equal(tensor, start[name])]
    lost = sorted(start.keys() - now.keys())
    if dead or still or lost:
        raise TrainingDiverged(
            f"Of {counted(len(start), 'LoRA-B matrix', 'LoRA-B matrices')}, {len(dead)} are zero or not finite, "
            f"{len(still)} are unchanged and {len(lost)} are missing: "
            f"{and_more(sorted({*dead, *still, *lost}), NAMES_IN_A_MESSAGE)}. Parts of the adapter learned nothing.",
            "Set target_modules to layers that every pass uses, or raise learning_rate or max_steps.",
        )


def lora_b(tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of name to a copy on the CPU, for each LoRA-B matrix of the trained adapter."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors if ".lora_B.default" in name}


def _loss(model: Any, rows: Sequence[EncodedRow], countdown: Countdown | None = None) -> float:
    """Return the mean loss per token of the replies (in a pair: the chosen reply). Each row has its own pass, so that
    less memory is needed than in a step."""
    import torch

    found: list[Any] = []
    with in_evaluation_mode(model):
        for row in rows:
            found.append(token_log_probabilities(model, _on_device(model, [row.completions[0]])))
            if countdown is not None:
                countdown.reached(len(found))
    return float(-torch.cat(found).mean())


def _on_device(model: Any, completions: Sequence[Completion]) -> Batch:
    return {name: tensor.to(model.device) for name, tensor in packed(completions).items()}
