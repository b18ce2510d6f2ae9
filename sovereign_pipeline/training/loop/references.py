"""Log-probabilities of replies under the model as it is before preferences are learned, worked out once and kept.

They are asked of the very model that is about to be trained, before its first step, so no second copy of it is ever in
memory. What was worked out is kept by the digest of all that decides it; the next training on the same model and rows
reads it back, and a training that was interrupted goes on with the same numbers.
"""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of, file_sha256
from sovereign_pipeline.artifacts.making import library_versions
from sovereign_pipeline.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.forward import packed, reply_log_probabilities
from sovereign_pipeline.training.loop.rows import Completion, EncodedRow, pack

# Raise it when the same model and rows give other numbers; what was kept before is then worked out again.
NUMBERS = "2"
LIBRARIES = ("bitsandbytes", "peft", "torch", "transformers")
COMPLETIONS_BETWEEN_MESSAGES = 50


def key_of(completion: Completion) -> str:
    return sha256(json.dumps([completion.prompt_ids, completion.reply_ids]).encode()).hexdigest()


def reference_log_probabilities(
    job: TrainingJob,
    model: Any,
    completions: Sequence[Completion],
    tell: Callable[[str], None],
    go_on: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`key_of` each completion -> log-probability of its reply (nats) under `model` as it is now, without dropout.

    Asked within `passes_in`, as the policy's are in the training, they are the policy's own before its first step.
    go_on: raises, between two batches, when somebody asked for an end.
    Raises TrainingFailed for one that is not finite, IntegrityError for a kept file that was changed.
    """
    wanted = {key_of(each): each for each in completions}
    path = job.references / f"{_identity(job, wanted)}.json"
    if path.is_file():
        tell(f"reference log-probabilities of {len(wanted)} replies: kept from before")
        return _read(path, wanted)
    found: dict[str, float] = {}
    for batch in pack([EncodedRow(key, (each,)) for key, each in wanted.items()], job.tuning.max_length):
        go_on()
        found.update(_of_batch(model, batch, job.tuning.packing))
        if len(found) // COMPLETIONS_BETWEEN_MESSAGES > (len(found) - len(batch)) // COMPLETIONS_BETWEEN_MESSAGES:
            tell(f"reference log-probabilities: {len(found)} of {len(wanted)} replies")
    _keep(path, found)
    return found


def _of_batch(model: Any, batch: Sequence[EncodedRow], together: bool) -> dict[str, float]:
    import torch

    inputs = {name: tensor.to(model.device) for name, tensor in packed([row.completions[0] for row in batch]).items()}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        values, _ = reply_log_probabilities(model, inputs, together)
    model.train(was_training)
    if not bool(torch.isfinite(values).all()):
        raise TrainingFailed(
            "The model gives log-probabilities that are not finite before anything is trained. Train with precision: "
            "float32, or check the base model."
        )
    return {row.id: value for row, value in zip(batch, values.tolist(), strict=True)}


def _identity(job: TrainingJob, wanted: dict[str, Completion]) -> str:
    # The base is known by its digest; what training goes on from, an adapter or a whole tuned model, by its files.
    directory = job.base_model if job.start_adapter is None else job.start_adapter
    start = [file_sha256(file) for file in sorted(directory.glob("*.safetensors"))]
    held = job.sft.model_dump(mode="json", include={"adapter", "precision"})
    together = [job.tuning.packing, job.tuning.max_length]
    return digest_of([NUMBERS, job.base_model_digest, start, held, together, library_versions(LIBRARIES), list(wanted)])


def _keep(path: Path, found: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(canonical_json({"values": found, "sha256": digest_of(found)}) + b"\n")
    aside.replace(path)


def _read(path: Path, wanted: dict[str, Completion]) -> dict[str, float]:
    try:
        kept = json.loads(path.read_bytes())
        values: dict[str, float] = kept["values"]
        whole = kept["sha256"] == digest_of(values) and values.keys() == wanted.keys()
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise IntegrityError(f"{path}: not what the trainer wrote. Delete the file; it will be worked out again.")
    return values
