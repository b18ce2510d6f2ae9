"""The gate `adapter_non_zero`: the artifact is of the recipe's kind, complete, finite, and changed by the training."""

import json
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Inputs, Progress, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base_models.verified import open_base_model
from sovereign_pipeline.policy.training.training import Sft
from sovereign_pipeline.training.loop.lora import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TunedModel, tuned_model

NAME = "adapter_non_zero"
NAMES_IN_EVIDENCE = 4


def evaluate_adapter_non_zero(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Check the tensors of the adapter, or of the model after full tuning. See the two functions below."""
    go_offline()
    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    sft, tuned = workplace.line.training.sft, tuned_model(artifact)
    wanted = "model" if sft.adapter == "none" else "adapter"
    if tuned.holds != wanted:
        return Verdict(
            False, f"It holds {tuned.holds}/, and adapter: {sft.adapter} in the recipe asks for {wanted}/.", {}
        )
    if tuned.holds == "model":
        return _evaluate_model(directory, tuned, workplace.progress)
    return _evaluate_adapter(directory, tuned, sft)


def _evaluate_adapter(base: Path, tuned: TunedModel, sft: Sft) -> Verdict:
    """Compare names, shapes and settings with the recipe's adapter; no LoRA-B may be zero, no value infinite."""
    import torch
    from safetensors.torch import load_file

    expected = expected_lora_tensors(base, sft)
    config = json.loads((tuned.directory / ADAPTER_CONFIG).read_bytes())
    tensors = load_file(tuned.directory / ADAPTER_WEIGHTS)
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
    settings = ", ".join(unlike) or f"rank {sft.rank}, alpha {sft.alpha} and scaling as in the recipe"
    return Verdict(
        bool(norms) and not (wrong or dead or not_finite or unlike),
        f"{len(found)} of {len(expected)} tensors; {len(wrong)} missing, extra or of another shape; {len(dead)} LoRA-B "
        f"of zeros; {len(not_finite)} not finite; {settings}.",
        {
            "tensors": len(found),
            "expected_tensors": len(expected),
            "wrong": wrong[:NAMES_IN_EVIDENCE],
            "zero_lora_b": dead[:NAMES_IN_EVIDENCE],
            "not_finite": not_finite[:NAMES_IN_EVIDENCE],
            "smallest_lora_b_norm": min(norms.values()) if norms and not not_finite else 0.0,
        },
    )


def _evaluate_model(base: Path, tuned: TunedModel, progress: Progress) -> Verdict:
    """Compare the tuned model's tensors with the base's, as transformers loads both directories.

    Every linear layer, and every fused block of experts, must differ from the base in the precision that the tuned
    model is saved in, so that rounding alone does not count as training.
    """
    import torch
    from transformers import AutoModelForCausalLM

    progress(f"gate {NAME}: loading the base model and the tuned model")
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
    present = [name for name in expected if name not in wrong]
    changed: set[str] = set()
    not_finite: list[str] = []
    countdown = Countdown(progress, f"gate {NAME}, comparing with the base model", len(present), "tensor")
    for done, name in enumerate(present, start=1):
        if not torch.equal(expected[name].to(found[name].dtype), found[name]):
            changed.add(name)
        if not bool(torch.isfinite(found[name]).all()):
            not_finite.append(name)
        countdown.reached(done)
    not_finite.sort()
    unchanged = sorted(name for name in layers if name not in changed)
    return Verdict(
        bool(layers) and not (wrong or unchanged or not_finite),
        f"{len(present)} of the base's {len(expected)} tensors; {len(wrong)} missing, extra or of another shape; "
        f"{len(not_finite)} not finite; {len(changed)} changed by the training; {len(unchanged)} of {len(layers)} "
        f"linear layers unchanged.",
        {
            "tensors": len(present),
            "expected_tensors": len(expected),
            "wrong": sorted(wrong)[:NAMES_IN_EVIDENCE],
            "changed_tensors": len(changed),
            "linear_layers": len(layers),
            "unchanged": unchanged[:NAMES_IN_EVIDENCE],
            "not_finite": not_finite[:NAMES_IN_EVIDENCE],
        },
    )
