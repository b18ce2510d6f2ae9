"""What is asked about an adapter once it is made. Every answer is worked out anew from files, never from the report,
except where the question is whether the report tells the truth.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256, short
from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.base_models import chat_template, open_base_model, read_descriptor
from sovereign_pipeline.training.models import lora_config
from sovereign_pipeline.training.rows import EncodedRow, encode, without_end_of_turn

ROWS_ASKED = 4
# A base that ends nearly every turn leaves nothing to raise.
SURE_TO_STOP = 0.95
# A sample that says twice what the longest of the asked replies does has not stopped, nor has one of so many tokens.
LONGEST_SAMPLE = 256


def judge_end_of_turn(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Encode the whole dataset again, and compare base and adapter on the end of a few rows, and on generated samples.

    Fails when a row's last supervised token is no end-of-turn id; when the mean log probability of the end of turn
    after the replies of the shortest rows is not above the base's (unless it is above 0.95 as a probability); when of
    the replies that are generated to these rows' prompts, greedily, the adapter ends fewer than the base by more than
    one; or when it ends none and is not sure of the end after the rows' own replies either.
    """
    go_offline()
    from transformers import AutoTokenizer

    directory = open_base_model(workplace.settings, inputs["base_model"])
    eos_ids = read_descriptor(inputs["base_model"])["eos_ids"]
    method, dataset = _dataset(workplace.line, inputs)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = [encode(tokenizer, method, row, eos_ids) for row in read_jsonl(dataset)]
    unended = without_end_of_turn(rows, eos_ids)
    if not rows or unended:
        return Verdict(
            False,
            f"{len(unended)} of {len(rows)} rows do not end in a supervised end-of-turn token.",
            {"rows": len(rows), "rows_without_end": len(unended)},
        )
    asked = sorted(rows, key=lambda row: (row.longest, row.id))[:ROWS_ASKED]
    base, adapter = _ends(directory, _adapter_directory(artifact), asked, eos_ids)
    if not (math.isfinite(base.log_probability) and math.isfinite(adapter.log_probability)):
        return Verdict(
            False, "With this adapter or without it, the model's logits are not finite.", {"rows": len(rows)}
        )
    sure = math.exp(adapter.log_probability) >= SURE_TO_STOP
    learned = sure or adapter.log_probability > base.log_probability
    stops = adapter.stopped >= base.stopped - 1 and (sure or adapter.stopped > 0)
    return Verdict(
        learned and stops,
        f"All {len(rows)} rows end in a supervised end-of-turn token; its mean log probability on {len(asked)} rows "
        f"goes from {base.log_probability:.4f} (base) to {adapter.log_probability:.4f} (adapter). Of {len(asked)} "
        f"generated replies the base ends {base.stopped} and the adapter {adapter.stopped}.",
        {
            "rows": len(rows),
            "rows_without_end": 0,
            "rows_asked": [row.id for row in asked],
            "log_probability_base": base.log_probability,
            "log_probability_adapter": adapter.log_probability,
            "stop_rate_base": base.stopped / len(asked),
            "stop_rate_adapter": adapter.stopped / len(asked),
        },
    )


def judge_adapter_non_zero(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Compare the adapter's tensors with the ones that the recipe's LoRA has on this base, made without weights."""
    go_offline()
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = open_base_model(workplace.settings, inputs["base_model"])
    sft = workplace.line.training.sft
    config = json.loads((_adapter_directory(artifact) / "adapter_config.json").read_bytes())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
        shaped = get_peft_model(model, lora_config(sft, model))
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in get_peft_model_state_dict(shaped, save_embedding_layers=False).items()
    }
    tensors = load_file(_adapter_directory(artifact) / "adapter_model.safetensors")
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    norms = {name: float(tensor.float().norm()) for name, tensor in tensors.items() if ".lora_B." in name}
    dead = sorted(name for name, norm in norms.items() if norm == 0)
    not_finite = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    same_shape = (config["r"], config["lora_alpha"]) == (sft.rank, sft.alpha)
    passed = bool(norms) and same_shape and not (wrong or dead or not_finite)
    return Verdict(
        passed,
        f"{len(found)} of {len(expected)} tensors, {len(wrong)} missing, extra or of another shape, {len(dead)} LoRA-B "
        f"of zeros, {len(not_finite)} not finite; rank {config['r']} (recipe {sft.rank}), alpha "
        f"{config['lora_alpha']} (recipe {sft.alpha}).",
        {
            "tensors": len(found),
            "expected_tensors": len(expected),
            "wrong": wrong[:ROWS_ASKED],
            "zero_lora_b": dead[:ROWS_ASKED],
            "not_finite": not_finite[:ROWS_ASKED],
            "smallest_lora_b_norm": min(norms.values()) if norms and not not_finite else 0.0,
        },
    )


def judge_base_digest(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Hash the base model's files again and compare with the base_model artifact and with what the trainer recorded."""
    directory = open_base_model(workplace.settings, inputs["base_model"])
    descriptor = read_descriptor(inputs["base_model"])
    report = json.loads(artifact.file("report.json").read_bytes())
    now = digest_of({name: file_sha256(directory / name) for name in descriptor["files"]})
    template = sha256(chat_template(directory).encode()).hexdigest()
    trained_on = report["base_model"]
    passed = (
        now == descriptor["digest"] == trained_on["digest"]
        and template == descriptor["chat_template_sha256"] == trained_on["chat_template_sha256"]
    )
    return Verdict(
        passed,
        f"The base model on disk is {short(now)}, the pinned one {short(descriptor['digest'])}, the one that was "
        f"trained on {short(trained_on['digest'])}; chat template {short(template)}.",
        {"on_disk": now, "pinned": descriptor["digest"], "trained_on": trained_on["digest"]},
    )


def _dataset(line: Line, inputs: Inputs) -> tuple[str, Path]:
    if "preference_dataset" in inputs and line.training.preference is not None:
        method = line.training.preference.method
        return method, inputs["preference_dataset"].file("labels.jsonl" if method == "kto" else "preferences.jsonl")
    return "sft", inputs["training_dataset"].file("train.jsonl")


def _adapter_directory(artifact: Artifact) -> Path:
    return artifact.file("adapter/adapter_config.json").parent


@dataclass(frozen=True)
class _End:
    """log_probability: mean (nats), of the end of turn after the (chosen) replies. stopped: generated replies that end
    their turn within `LONGEST_SAMPLE` tokens."""

    log_probability: float
    stopped: int


def _ends(base: Path, adapter: Path, rows: list[EncodedRow], eos_ids: Sequence[int]) -> tuple[_End, _End]:
    """Of the base, and with the adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(loaded, adapter).eval()

    def end() -> _End:
        value = _log_probability_of_end(model, rows)
        return _End(value, _stopped(model, rows, eos_ids) if math.isfinite(value) else 0)

    with torch.no_grad():
        adapted = end()
        with model.disable_adapter():
            return end(), adapted


def _log_probability_of_end(model: Any, rows: list[EncodedRow]) -> float:
    import torch

    total = 0.0
    for row in rows:
        ids = torch.tensor([row.completions[0].ids])
        logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=1).logits[0, -1]
        total += float(torch.log_softmax(logits.float(), dim=-1)[ids[0, -1]])
    return total / len(rows)


def _stopped(model: Any, rows: list[EncodedRow], eos_ids: Sequence[int]) -> int:
    import torch
    from transformers import GenerationConfig

    replies = [row.completions[0].reply_ids for row in rows]
    greedy = GenerationConfig(
        max_new_tokens=min(LONGEST_SAMPLE, 2 * max(len(reply) for reply in replies)),
        do_sample=False,
        eos_token_id=list(eos_ids),
        pad_token_id=eos_ids[0],
    )
    count = 0
    for row in rows:
        prompt = torch.tensor([row.completions[0].prompt_ids])
        ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=greedy)
        count += int(ids[0, -1]) in eos_ids
    return count
