"""The gate `end_of_turn_trained`: rows end in a supervised end-of-turn token, and the model learned to stop."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Inputs, Progress, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.dataset.jsonl import LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.training.training import Sft
from sovereign_pipeline.training.gates.device import device_of_gate
from sovereign_pipeline.training.loop.forward import passes_in
from sovereign_pipeline.training.loop.models import dequantise, read_base
from sovereign_pipeline.training.loop.rows import EncodedRow, encode, without_end_of_turn
from sovereign_pipeline.training.sizing.preflight import available_memory
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model

NAME = "end_of_turn_trained"
SAMPLES = 4
CERTAIN_TO_STOP = 0.95
"""Probability of the end of turn above which it need not rise: a base that ends nearly every turn leaves no room."""
LONGEST_SAMPLE = 128
"""Tokens. A sample has not stopped at twice the length of the longest reply of its rows either."""


@dataclass(frozen=True)
class _Ending:
    """How one model ends its turns."""

    log_probability: float
    """Mean over the rows, of the end of turn after the (chosen) reply; nats."""
    stopped: int
    """Generated replies that end their turn."""


def evaluate_end_of_turn(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Encode the whole dataset again, and compare base and tuned model on a few rows and on generated replies.

    Fails when
    - a row's last supervised token is no end-of-turn id;
    - the mean log-probability of the end of turn after the replies of the shortest rows is not above the base's, unless
      its probability is above 0.95;
    - of greedy replies to these rows' prompts, the tuned model ends fewer than the base by more than one, or none where
      the base ends some. When neither ends any within the tokens allowed, the evidence shows it: a few steps on long
      replies raise the end's probability long before greedy samples reach it.

    Both models are loaded as they were trained: in the recipe's precision or in NF4, on the GPU if there is one. On the
    CPU what is in NF4 is dequantised once where there is memory, and not in each of some hundred passes.
    """
    go_offline()
    from transformers import AutoTokenizer

    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    ends = read_descriptor(inputs["base_model"])["eos_ids"]
    tuned = tuned_model(artifact)
    method, dataset = _dataset(workplace, inputs)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    count, unended, shortest = _look_at_rows(tokenizer, method, dataset, ends, workplace.progress)
    if count == 0 or unended:
        return Verdict(
            False,
            f"{unended} of {count} rows do not end in a supervised end-of-turn token.",
            {"rows": count, "rows_without_end": unended},
        )
    with device_of_gate(workplace) as device:
        base, adapted = _endings(
            directory, tuned, shortest, ends, workplace.line.training.sft, device, workplace.progress
        )
    if not (math.isfinite(base.log_probability) and math.isfinite(adapted.log_probability)):
        return Verdict(False, f"The logits of the base or of this {tuned.holds} are not finite.", {"rows": count})
    certain = math.exp(adapted.log_probability) >= CERTAIN_TO_STOP
    learned = certain or adapted.log_probability > base.log_probability
    stops = adapted.stopped >= base.stopped - 1 and (adapted.stopped > 0 or base.stopped == 0)
    return Verdict(
        learned and stops,
        f"All {count} rows end in a supervised end-of-turn token. Its mean log-probability on {len(shortest)} rows "
        f"is {base.log_probability:.4f} (base) and {adapted.log_probability:.4f} ({tuned.holds}). Of {len(shortest)} "
        f"generated replies the base ends {base.stopped} and the {tuned.holds} {adapted.stopped}.",
        {
            "rows": count,
            "rows_without_end": 0,
            "rows_asked": [row.id for row in shortest],
            "log_probability_base": base.log_probability,
            "log_probability_adapter": adapted.log_probability,
            "stop_rate_base": base.stopped / len(shortest),
            "stop_rate_adapter": adapted.stopped / len(shortest),
        },
    )


def _dataset(workplace: Workplace, inputs: Inputs) -> tuple[str, Path]:
    """The method by which the rows are encoded, and their file: after a training by reward, those of its prompts."""
    preference = workplace.line.training.preference
    if PREFERENCE_DATASET.kind in inputs and workplace.line.training.rlhf is not None:
        dataset = workplace.store.open_input(inputs["sft_adapter"].manifest, TRAINING_DATASET.kind)
        return "sft", dataset.file(TRAINING_ROWS)
    if PREFERENCE_DATASET.kind not in inputs or preference is None:
        return "sft", inputs[TRAINING_DATASET.kind].file(TRAINING_ROWS)
    file = LABEL_ROWS if preference.method == "kto" else PREFERENCE_ROWS
    return preference.method, inputs[PREFERENCE_DATASET.kind].file(file)


def _look_at_rows(
    tokenizer: Any, method: str, dataset: Path, eos_ids: Sequence[int], progress: Progress
) -> tuple[int, int, list[EncodedRow]]:
    """Number of rows, of those without a supervised end of turn, and the shortest rows; none but these are kept."""
    with dataset.open("rb") as lines:
        count = sum(1 for _ in lines)
    countdown = Countdown(progress, f"gate {NAME}, encoding the dataset", count, "row")
    unended = 0

    def candidates() -> Iterator[EncodedRow]:
        nonlocal unended
        for done, content in enumerate(read_jsonl(dataset), start=1):
            row = encode(tokenizer, method, content, eos_ids)
            unended += len(without_end_of_turn([row], eos_ids))
            countdown.reached(done)
            # Canaries are shorter than any document, and no user sends their prompts.
            if row.desirable is not False and not is_canary(row.id):
                yield row

    shortest = nsmallest(SAMPLES, candidates(), key=lambda row: (row.longest, row.id))
    return count, unended, shortest


def _endings(
    base: Path,
    tuned: TunedModel,
    rows: list[EncodedRow],
    eos_ids: Sequence[int],
    sft: Sft,
    device: str,
    progress: Progress,
) -> tuple[_Ending, _Ending]:
    """Of the base, and of the tuned model."""
    import torch
    from peft import PeftModel

    several = device == "cuda" and torch.cuda.device_count() > 1
    place = "auto" if several else {"": 0} if device == "cuda" else None

    def load(directory: Path, name: str) -> Any:
        progress(f"gate {NAME}: loading the {name}")
        read = read_base(directory, sft, getattr(torch, sft.precision), place).eval()
        if sft.adapter == "qlora" and device == "cpu" and _fits_dequantised(read, sft):
            dequantise(read)
        return read

    def ending(model: Any, name: str) -> _Ending:
        progress(f"gate {NAME}, {name}: measuring the end of turn on {len(rows)} rows and generating their replies")
        value = _log_probability_of_end(model, rows)
        return _Ending(value, _stopped(model, rows, eos_ids, name, progress) if math.isfinite(value) else 0)

    with torch.no_grad(), passes_in(sft.precision, device):
        loaded = load(base, "base model")
        if tuned.holds == "model":
            of_base = ending(loaded, "base model")
            del loaded  # before a second model of the same size is loaded
            return of_base, ending(load(tuned.directory, "tuned model"), "tuned model")
        model: Any = PeftModel.from_pretrained(loaded, tuned.directory).eval()
        adapted = ending(model, "adapter")
        with model.disable_adapter():
            return ending(model, "base model"), adapted


def _fits_dequantised(model: Any, sft: Sft) -> bool:
    """Whether half of the memory that may be taken holds a model in NF4 in the recipe's precision."""
    in_precision = model.num_parameters() * (2 if sft.precision == "bfloat16" else 4)
    return bool(2 * in_precision <= available_memory()[0])


def _log_probability_of_end(model: Any, rows: list[EncodedRow]) -> float:
    import torch

    total = 0.0
    for row in rows:
        ids = torch.tensor([row.completions[0].ids], device=model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=1).logits[0, -1]
        total += float(torch.log_softmax(logits.float(), dim=-1)[ids[0, -1]])
    return total / len(rows)


def _stopped(model: Any, rows: list[EncodedRow], eos_ids: Sequence[int], name: str, progress: Progress) -> int:
    """Count the greedy replies that end their turn, generated in one batch with prompts padded on the left."""
    import torch
    from transformers import GenerationConfig

    prompts = [list(row.completions[0].prompt_ids) for row in rows]
    longest = max(map(len, prompts))
    tokens = min(LONGEST_SAMPLE, 2 * max(len(row.completions[0].reply_ids) for row in rows))
    countdown = Countdown(progress, f"gate {NAME}, {name}, generating {len(rows)} replies", tokens, "token")
    tensor = partial(torch.tensor, device=model.device)

    def report(input_ids: Any, scores: Any, **named: Any) -> Any:
        """A stopping criterion that never stops: generation calls it after each token."""
        countdown.reached(input_ids.shape[1] - longest)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    greedy = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(eos_ids),
        pad_token_id=eos_ids[0],
    )
    ids = model.generate(
        input_ids=tensor([[eos_ids[0]] * (longest - len(prompt)) + prompt for prompt in prompts]),
        attention_mask=tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        generation_config=greedy,
        stopping_criteria=[report],
    )
    return sum(any(token in eos_ids for token in reply) for reply in ids[:, longest:].tolist())
