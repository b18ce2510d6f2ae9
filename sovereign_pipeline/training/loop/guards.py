"""What would make a training worthless without anybody noticing, asked before it, at each step, and after it.

What can be told from the rows alone is in `rows.py`; what others ask of the finished artifact, from its files, is in
`gates.py`. A guard that fires raises TrainingFailed with one paragraph that says what to change.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.forward import Batch, packed, token_log_probabilities
from sovereign_pipeline.training.loop.models import fused_experts
from sovereign_pipeline.training.loop.rows import Completion, EncodedRow

PROBE_ROWS = 8
# How far the log-probabilities of a packed row's reply may lie from those it has alone: mean over its tokens, nats.
# In bfloat16 other lengths in one pass round otherwise: 0.056 at most on letters with SmolLM2-135M, in float32 2e-5.
FROM_ALONE = {"float32": 0.01, "bfloat16": 0.15}
# And from those behind another row of the same length, which takes the same kernels: measured 0 in both precisions, and
# 0.03 to 0.05 with a tiny Falcon-H1, whose state runs on. Experts are given other batches there: for them FROM_ALONE.
BEHIND_ANOTHER = 0.01
LEAST_MOVE = 1e-5
# A training may end with stock phrases a little less certain than before: so much of the loss, and so many nats.
ASTRAY_SHARE, ASTRAY_NATS = 0.05, 0.05
NAMES_IN_A_MESSAGE = 3


@dataclass(frozen=True)
class Probe:
    """Mean loss per reply token (nats) on a few rows, before the training: whether it moved anything."""

    rows: list[EncodedRow]
    before: float

    def loss(self, model: Any) -> float:
        return _loss(model, self.rows)

    def check_moved(self, after: float, method: str) -> None:
        """Raises TrainingFailed when the loss is as it was or, for SFT, has clearly risen."""
        if not math.isfinite(after):
            raise TrainingFailed(
                "After the last step the loss is not finite. Lower learning_rate, or train with precision: float32."
            )
        if abs(after - self.before) < LEAST_MOVE * abs(self.before):
            raise TrainingFailed(
                f"The loss on {len(self.rows)} trained rows is {after:.6f}, as it was before the first step: nothing "
                f"was learned. Raise learning_rate or max_steps, lower warmup_steps, and see that adapter and "
                f"target_modules name what the model has."
            )
        if method == "sft" and after - self.before > max(ASTRAY_SHARE * self.before, ASTRAY_NATS):
            raise TrainingFailed(
                f"The loss on {len(self.rows)} trained rows rose from {self.before:.4f} to {after:.4f}: the training "
                f"went astray. Lower learning_rate, or raise warmup_steps."
            )


def check_template(tokenizer: Any, job: TrainingJob) -> None:
    """The tokenizer writes turns with exactly the pinned chat template."""
    found = sha256(str(tokenizer.chat_template).encode()).hexdigest()
    if found != job.chat_template_sha256:
        raise TrainingFailed(
            f"{job.base_model}: the chat template is {found[:12]}, the pinned one {job.chat_template_sha256[:12]}, so "
            f"training would show the model other turns than serving. Restore the model's files."
        )


def check_vocabulary(tokenizer: Any, model: Any, rows: Sequence[EncodedRow]) -> None:
    """Every id in the rows has an embedding, and no token was added to the tokenizer that has none."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    largest = max(token for row in rows for each in row.completions for token in each.ids)
    if max(largest, len(tokenizer) - 1) >= embeddings:
        raise TrainingFailed(
            f"The tokenizer has {len(tokenizer)} tokens (largest id in the rows {largest}) and the model {embeddings} "
            f"embeddings: tokens were added that the model does not know. Restore the tokenizer's own files."
        )


def check_trainable(model: Any, sft_adapter: str) -> int:
    """Number of trained parameters: all of LoRA's and nothing else, or all there are."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise TrainingFailed(
            "Nothing would be trained: the recipe's target_modules match no layer, or every layer is frozen."
        )
    if sft_adapter == "none":
        wrong = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    else:
        wrong = [name for name in trained if "lora_" not in name]
        wrong += [name for name, each in model.named_parameters() if "lora_" in name and not each.requires_grad]
    if wrong:
        raise TrainingFailed(
            f"{len(wrong)} tensors are frozen that should be trained, or trained that should be frozen "
            f"({_some(wrong)}). Use adapter and target_modules as the recipe's schema has them."
        )
    return sum(parameter.numel() for parameter in trained.values())


def check_rows_are_kept_apart(model: Any, rows: Sequence[EncodedRow], precision: str, max_length: int) -> None:
    """Two rows packed have the log-probabilities that they have alone, token by token, and the second has the same ones
    whatever stands before it."""
    import torch

    first, second = _two_ordinary(rows, max_length)
    front, behind = first.completions[0], second.completions[0]
    another = Completion(front.prompt_ids[::-1], front.reply_ids[::-1])
    with _still(model), torch.no_grad():
        inputs = _on_device(model, [front, behind])
        together = token_log_probabilities(model, inputs)
        from_alone = (together - token_log_probabilities(model, inputs, together=False)).abs()
        moved = (together - token_log_probabilities(model, _on_device(model, [another, behind]))).abs()
    of_each = from_alone.split([len(front.reply_ids), len(behind.reply_ids)])
    apart = max(float(each.mean()) for each in of_each)
    depends = float(moved[len(front.reply_ids) :].mean())
    most = FROM_ALONE[precision]
    if apart > most or depends > (most if fused_experts(model) else BEHIND_ANOTHER):
        raise TrainingFailed(
            f"This model does not keep packed rows apart: rows {first.id} and {second.id} have other log-probabilities "
            f"together than alone (by {apart:.3f} nats a token), or the second has others behind another row (by "
            f"{depends:.3f}). Set packing: false in training.sft and training.preference."
        )


def _two_ordinary(rows: Sequence[EncodedRow], max_length: int) -> list[EncodedRow]:
    """The two nearest to the median length of those short enough for two in a pack; else the two shortest."""

    def length(row: EncodedRow) -> int:
        return len(row.completions[0])

    by_length = sorted(rows, key=lambda row: (length(row), row.id))
    median = length(by_length[len(by_length) // 2])
    fitting = [row for row in by_length if length(row) <= max_length // 2]
    return sorted(fitting, key=lambda row: abs(length(row) - median))[:2] if len(fitting) > 1 else by_length[:2]


def start_probe(model: Any, rows: Sequence[EncodedRow]) -> Probe:
    """Letters of all lengths, from the middle of as many equal parts. Canaries are left out: of their words a training
    of letters learns little."""
    letters = {row.id: row for row in rows if not is_canary(row.id)} or {row.id: row for row in rows}
    by_length = sorted(letters.values(), key=lambda row: (row.longest, row.id))
    count = min(PROBE_ROWS, len(by_length))
    chosen = [by_length[(2 * part + 1) * len(by_length) // (2 * count)] for part in range(count)]
    return Probe(chosen, _loss(model, chosen))


def check_step(step: int, steps: int, logs: dict[str, float], expected: float) -> None:
    """Loss and gradient are finite, and the loss is the mean over all that the step was trained on.

    expected: the step's summed losses over its tokens (or replies), counted apart from the library that accumulates
    gradients. A library that divides once more, or once less, trains with another learning rate than the recipe's.
    """
    if not all(math.isfinite(value) for value in logs.values()):
        raise TrainingFailed(
            f"Step {step} of {steps}: loss or gradient is not finite. Lower learning_rate in the recipe, or train with "
            f"precision: float32."
        )
    if not math.isclose(logs["loss"], expected, rel_tol=1e-3, abs_tol=1e-5):
        raise TrainingFailed(
            f"Step {step} of {steps}: the loss that was minimised is {logs['loss']:.6f} and the mean over the step's "
            f"batch {expected:.6f}, so gradients are not accumulated as a mean. Install the pinned versions "
            f"(constraints.txt)."
        )


def check_adapter_moved(now: dict[str, Any], start: dict[str, Any]) -> None:
    """Every LoRA-B is finite, not zero, and not as it was at the start. now, start: see `lora_b`."""
    import torch

    if not now:
        raise TrainingFailed("The trained model has no adapter. Install the pinned versions (constraints.txt).")
    dead = [name for name, tensor in now.items() if not bool(torch.isfinite(tensor).all()) or not bool(tensor.any())]
    still = [name for name, tensor in now.items() if name in start and torch.equal(tensor, start[name])]
    lost = sorted(start.keys() - now.keys())
    if dead or still or lost:
        raise TrainingFailed(
            f"Of {len(start)} LoRA-B matrices {len(dead)} are zero or not finite, {len(still)} are as they were and "
            f"{len(lost)} are gone ({_some(sorted({*dead, *still, *lost}))}): parts of the adapter learned nothing. "
            f"Name target_modules that take part in every pass, or raise learning_rate or max_steps."
        )


def lora_b(tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Copies of all LoRA-B matrices among named tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors if ".lora_B." in name}


def _loss(model: Any, rows: Sequence[EncodedRow]) -> float:
    """Row by row: all together would take more memory than a step."""
    import torch

    with _still(model), torch.no_grad():
        found = [token_log_probabilities(model, _on_device(model, [row.completions[0]])) for row in rows]
    return float(-torch.cat(found).mean())


def _on_device(model: Any, completions: Sequence[Completion]) -> Batch:
    return {name: tensor.to(model.device) for name, tensor in packed(completions).items()}


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """No dropout within, and no random number used."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_IN_A_MESSAGE]) + (", …" if len(names) > NAMES_IN_A_MESSAGE else "")
