"""What is asked about an adapter, or a model tuned in full, once it is made. Every answer is worked out anew from
files, never from the report, except where the question is whether the report tells the truth.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256, short
from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.verified import chat_template, eos_ids, open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.dataset.files import LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.locks import held
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.locks import lock_of_device
from sovereign_pipeline.training.loop.forward import passes_in
from sovereign_pipeline.training.loop.models import lora_config, read_base
from sovereign_pipeline.training.loop.rows import EncodedRow, encode, without_end_of_turn
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model

ROWS_ASKED = 4
# A base that ends nearly every turn leaves nothing to raise.
SURE_TO_STOP = 0.95
# A sample that says twice what the longest of the asked replies does has not stopped, nor has one of so many tokens.
LONGEST_SAMPLE = 128


def evaluate_end_of_turn(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Encode the whole dataset again, and compare base and what was tuned on the end of a few rows, and on replies that
    both generate.

    Fails when a row's last supervised token is no end-of-turn id; when the mean log probability of the end of turn
    after the replies of the shortest rows is not above the base's (unless it is above 0.95 as a probability); when of
    the replies that are generated to these rows' prompts, greedily, the adapter ends fewer than the base by more than
    one, or none where the base ends some. Where neither ends any within the tokens allowed, the evidence says so: a
    few steps on long replies raise the end's probability long before greedy samples reach it.

    Both are read as they were trained: in the recipe's precision or in NF4, on the GPU where there is one.
    """
    go_offline()
    from transformers import AutoTokenizer

    directory = open_base_model(workplace.settings, inputs["base_model"])
    ends = read_descriptor(inputs["base_model"])["eos_ids"]
    tuned = tuned_model(artifact)
    method, dataset = _dataset(workplace.line, inputs)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = [encode(tokenizer, method, row, ends) for row in read_jsonl(dataset)]
    unended = without_end_of_turn(rows, ends)
    if not rows or unended:
        return Verdict(
            False,
            f"{len(unended)} of {len(rows)} rows do not end in a supervised end-of-turn token.",
            {"rows": len(rows), "rows_without_end": len(unended)},
        )
    # Canaries are shorter than any letter, and nobody is ever asked for one.
    good = [row for row in rows if row.desirable is not False and not is_canary(row.id)]
    asked = sorted(good, key=lambda row: (row.longest, row.id))[:ROWS_ASKED]
    with _device(workplace) as device:
        base, adapted = _ends(directory, tuned, asked, ends, workplace.line.training.sft, device)
    if not (math.isfinite(base.log_probability) and math.isfinite(adapted.log_probability)):
        return Verdict(False, f"The logits of the base or of this {tuned.holds} are not finite.", {"rows": len(rows)})
    sure = math.exp(adapted.log_probability) >= SURE_TO_STOP
    learned = sure or adapted.log_probability > base.log_probability
    stops = adapted.stopped >= base.stopped - 1 and (adapted.stopped > 0 or base.stopped == 0)
    return Verdict(
        learned and stops,
        f"All {len(rows)} rows end in a supervised end-of-turn token; its mean log probability on {len(asked)} rows "
        f"goes from {base.log_probability:.4f} (base) to {adapted.log_probability:.4f} ({tuned.holds}). Of "
        f"{len(asked)} generated replies the base ends {base.stopped} and the {tuned.holds} {adapted.stopped}.",
        {
            "rows": len(rows),
            "rows_without_end": 0,
            "rows_asked": [row.id for row in asked],
            "log_probability_base": base.log_probability,
            "log_probability_adapter": adapted.log_probability,
            "stop_rate_base": base.stopped / len(asked),
            "stop_rate_adapter": adapted.stopped / len(asked),
        },
    )


def evaluate_adapter_non_zero(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Is the artifact of the kind that the recipe asks for, whole, and changed by the training?"""
    go_offline()
    directory = open_base_model(workplace.settings, inputs["base_model"])
    sft, tuned = workplace.line.training.sft, tuned_model(artifact)
    wanted = "model" if sft.adapter == "none" else "adapter"
    if tuned.holds != wanted:
        return Verdict(
            False, f"It holds {tuned.holds}/, and adapter: {sft.adapter} in the recipe asks for {wanted}/.", {}
        )
    return _evaluate_model(directory, tuned) if tuned.holds == "model" else _evaluate_adapter(directory, tuned, sft)


def expected_lora_tensors(base: Path, sft: Sft) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the recipe's adapter has on this base, from a model without weights."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        shaped = get_peft_model(model, lora_config(sft, model))
    state = get_peft_model_state_dict(shaped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def lora_settings(sft: Sft) -> dict[str, Any]:
    """What `adapter_config.json` must say of the recipe's adapter, under PEFT's own names."""
    return {"r": sft.rank, "lora_alpha": sft.alpha, "use_rslora": sft.rslora, "use_dora": sft.dora}


def _evaluate_adapter(base: Path, tuned: TunedModel, sft: Sft) -> Verdict:
    import torch
    from safetensors.torch import load_file

    expected = expected_lora_tensors(base, sft)
    config = json.loads((tuned.directory / "adapter_config.json").read_bytes())
    tensors = load_file(tuned.directory / "adapter_model.safetensors")
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    norms = {name: float(tensor.float().norm()) for name, tensor in tensors.items() if ".lora_B." in name}
    dead = sorted(name for name, norm in norms.items() if norm == 0)
    not_finite = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    unlike = [
        f"{name} is {config.get(name)} (recipe {value})"
        for name, value in lora_settings(sft).items()
        if config.get(name) != value
    ]
    shape = ", ".join(unlike) or f"rank {sft.rank}, alpha {sft.alpha} and scaling as in the recipe"
    return Verdict(
        bool(norms) and not (wrong or dead or not_finite or unlike),
        f"{len(found)} of {len(expected)} tensors, {len(wrong)} missing, extra or of another shape, {len(dead)} LoRA-B "
        f"of zeros, {len(not_finite)} not finite; {shape}.",
        {
            "tensors": len(found),
            "expected_tensors": len(expected),
            "wrong": wrong[:ROWS_ASKED],
            "zero_lora_b": dead[:ROWS_ASKED],
            "not_finite": not_finite[:ROWS_ASKED],
            "smallest_lora_b_norm": min(norms.values()) if norms and not not_finite else 0.0,
        },
    )


def _evaluate_model(base: Path, tuned: TunedModel) -> Verdict:
    """Compare the tuned model's tensors with the base's, one by one, as transformers reads both directories.

    Every linear layer (and every fused block of experts) must differ from the base, compared in the precision that the
    tuned model is kept in, so that rounding alone does not count as training.
    """
    import torch
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    after, loading = AutoModelForCausalLM.from_pretrained(
        tuned.directory, dtype="auto", local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    expected, found = dict(before.named_parameters()), dict(after.named_parameters())
    lookups = {f"{name}.weight" for name, module in before.named_modules() if isinstance(module, torch.nn.Embedding)}
    layers = [name for name, tensor in expected.items() if tensor.ndim >= 2 and name not in lookups]
    wrong = {
        *loading["missing_keys"],
        *loading["unexpected_keys"],
        *(str(name) for name, *_ in loading["mismatched_keys"]),
        *(name for name in expected.keys() ^ found.keys()),
        *(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape),
    }
    there = [name for name in expected if name not in wrong]
    changed = {name for name in there if not torch.equal(expected[name].to(found[name].dtype), found[name])}
    not_finite = sorted(name for name in there if not bool(torch.isfinite(found[name]).all()))
    unchanged = sorted(name for name in layers if name not in changed)
    return Verdict(
        bool(layers) and not (wrong or unchanged or not_finite),
        f"{len(there)} of the base's {len(expected)} tensors, {len(wrong)} missing, extra or of another shape, "
        f"{len(not_finite)} not finite; {len(changed)} changed by the training, and {len(unchanged)} of {len(layers)} "
        f"linear layers unchanged.",
        {
            "tensors": len(there),
            "expected_tensors": len(expected),
            "wrong": sorted(wrong)[:ROWS_ASKED],
            "changed_tensors": len(changed),
            "linear_layers": len(layers),
            "unchanged": unchanged[:ROWS_ASKED],
            "not_finite": not_finite[:ROWS_ASKED],
        },
    )


def evaluate_base_digest(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Hash the base model's files again and compare with the base_model artifact and with what the trainer recorded.

    A model tuned in full must also talk as its base does: the same chat template and the same ends of a turn.
    """
    directory = open_base_model(workplace.settings, inputs["base_model"])
    descriptor = read_descriptor(inputs["base_model"])
    report = json.loads(artifact.file("report.json").read_bytes())
    now = digest_of({name: file_sha256(directory / name) for name in descriptor["files"]})
    template = sha256(chat_template(directory).encode()).hexdigest()
    trained_on = report["base_model"]
    tuned = tuned_model(artifact)
    passed = (
        now == descriptor["digest"] == trained_on["digest"]
        and template == descriptor["chat_template_sha256"] == trained_on["chat_template_sha256"]
        and (tuned.holds == "adapter" or _talks_alike(tuned.directory, descriptor))
    )
    of_its_own = "" if tuned.holds == "adapter" else " The tuned model must have the same template and end-of-turn ids."
    return Verdict(
        passed,
        f"The base model on disk is {short(now)}, the pinned one {short(descriptor['digest'])}, the one that was "
        f"trained on {short(trained_on['digest'])}; chat template {short(template)}.{of_its_own}",
        {"on_disk": now, "pinned": descriptor["digest"], "trained_on": trained_on["digest"]},
    )


def _dataset(line: Line, inputs: Inputs) -> tuple[str, Path]:
    """The method that the stage trained with, and its rows."""
    preference = line.training.preference
    if PREFERENCE_DATASET.kind not in inputs or preference is None:
        return "sft", inputs[TRAINING_DATASET.kind].file(TRAINING_ROWS)
    file = LABEL_ROWS if preference.method == "kto" else PREFERENCE_ROWS
    return preference.method, inputs[PREFERENCE_DATASET.kind].file(file)


def _talks_alike(model: Path, descriptor: dict[str, Any]) -> bool:
    template = sha256(chat_template(model).encode()).hexdigest()
    return bool(template == descriptor["chat_template_sha256"] and eos_ids(model) == descriptor["eos_ids"])


@dataclass(frozen=True)
class _End:
    """log_probability: mean (nats), of the end of turn after the (chosen) replies. stopped: generated replies that end
    their turn within `LONGEST_SAMPLE` tokens."""

    log_probability: float
    stopped: int


@contextmanager
def _device(workplace: Workplace) -> Iterator[str]:
    """`cuda`, for as long as no trainer is on the GPU; `cpu` where there is none."""
    import torch

    if not torch.cuda.is_available():
        yield "cpu"
        return
    with held(lock_of_device(workplace.settings.home / "locks"), workplace.progress):
        yield "cuda"
        torch.cuda.empty_cache()


def _ends(
    base: Path, tuned: TunedModel, rows: list[EncodedRow], eos_ids: Sequence[int], sft: Sft, device: str
) -> tuple[_End, _End]:
    """Of the base, and of what was tuned."""
    import torch
    from peft import PeftModel

    several = device == "cuda" and torch.cuda.device_count() > 1
    place = "auto" if several else {"": 0} if device == "cuda" else None

    def read(directory: Path) -> Any:
        return read_base(directory, sft, getattr(torch, sft.precision), place).eval()

    def end(model: Any) -> _End:
        value = _log_probability_of_end(model, rows)
        return _End(value, _stopped(model, rows, eos_ids) if math.isfinite(value) else 0)

    with torch.no_grad(), passes_in(sft.precision, device):
        loaded = read(base)
        if tuned.holds == "model":
            of_base = end(loaded)
            del loaded  # before the second model of the same size is read
            return of_base, end(read(tuned.directory))
        model: Any = PeftModel.from_pretrained(loaded, tuned.directory).eval()
        adapted = end(model)
        with model.disable_adapter():
            return end(model), adapted


def _log_probability_of_end(model: Any, rows: list[EncodedRow]) -> float:
    import torch

    total = 0.0
    for row in rows:
        ids = torch.tensor([row.completions[0].ids], device=model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=1).logits[0, -1]
        total += float(torch.log_softmax(logits.float(), dim=-1)[ids[0, -1]])
    return total / len(rows)


def _stopped(model: Any, rows: list[EncodedRow], eos_ids: Sequence[int]) -> int:
    """How many greedy replies end their turn, generated together with the prompts filled up on the left."""
    import torch
    from transformers import GenerationConfig

    prompts = [row.completions[0].prompt_ids for row in rows]
    longest = max(map(len, prompts))
    tensor = partial(torch.tensor, device=model.device)
    greedy = GenerationConfig(
        max_new_tokens=min(LONGEST_SAMPLE, 2 * max(len(row.completions[0].reply_ids) for row in rows)),
        do_sample=False,
        eos_token_id=list(eos_ids),
        pad_token_id=eos_ids[0],
    )
    ids = model.generate(
        input_ids=tensor([[eos_ids[0]] * (longest - len(prompt)) + prompt for prompt in prompts]),
        attention_mask=tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        generation_config=greedy,
    )
    return sum(any(token in eos_ids for token in reply) for reply in ids[:, longest:].tolist())
