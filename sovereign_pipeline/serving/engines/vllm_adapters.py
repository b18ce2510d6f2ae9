"""Adapters as vLLM gets them: what fits the base model, and one that does nothing.

vLLM passes over tensors that have no place in the base model, and answers as the base model then. What belongs here:
reading and writing the files. What does not: asking the server (`vllm.py`). Imports no model library.
"""

import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refused_by_vllm

Shapes = Mapping[str, tuple[int, ...]]
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def base_shapes(base: Path) -> Shapes:
    """Module of the base model -> shape of its weight. Raises EngineRefused where there is no file with them."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(base.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = stream.read(int.from_bytes(stream.read(8), "little"))
        found |= _shapes(header)
    if not found:
        raise EngineRefused(f"{base} holds no *.safetensors.", "Restore or fetch it again.")
    return {name.removesuffix(".weight"): shape for name, shape in found.items()}


def assert_served(digest: str, content: Mapping[str, bytes], base: Shapes, largest_rank: int) -> None:
    """Raise EngineRefused for an adapter that vLLM would not compute as the training side does."""
    try:
        config = json.loads(content[ADAPTER_CONFIG])
        reasons = refused_by_vllm(config, largest_rank)
        weights = content[ADAPTER_WEIGHTS]
        tensors = _shapes(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EngineRefused(f"Adapter {digest[:12]}: the files are not those of an adapter.", "Train again.") from None
    if reasons:
        raise EngineRefused(
            f"vLLM does not serve adapter {digest[:12]}: {'; '.join(reasons)}.",
            "Train it without, or serve the line with the local engine.",
        )
    wrong = _without_place(tensors, base, config)
    if wrong or not tensors:
        example = f", such as {wrong[0]}" if wrong else ""
        raise EngineRefused(
            f"Adapter {digest[:12]} does not fit this base model: {len(wrong)} of {len(tensors)} tensors match no "
            f"module of it{example}.",
            "It belongs to another base model, or was changed after its training.",
        )


def name_of(digest: str, content: Mapping[str, bytes]) -> str:
    """The name of these bytes under this digest, and of no others: what vLLM keeps of prompts goes by the name."""
    over = sha256(content[ADAPTER_CONFIG] + b"\0" + content[ADAPTER_WEIGHTS]).hexdigest()
    return f"{digest}-{over[:16]}"


def write_adapter(directory: Path, content: Mapping[str, bytes], for_the_group: bool = False) -> None:
    """for_the_group: whether the group of `serving.vllm.copies` may read it: the account that runs vLLM."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (directory / name).write_bytes(data)
    if not for_the_group:
        return
    group = directory.parent.parent.stat().st_gid
    for path, mode in ((directory.parent, 0o750), (directory, 0o750), *((directory / name, 0o640) for name in content)):
        os.chown(path, -1, group)
        path.chmod(mode)


def without_effect(content: Mapping[str, bytes]) -> dict[str, bytes]:
    """An adapter for the same base model that adds nothing: one pair of this one's tensors, all zeros."""
    import numpy
    from safetensors.numpy import save

    weights = content[ADAPTER_WEIGHTS]
    tensors = _shapes(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    down = min(name for name in tensors if name.endswith(".lora_A.weight"))
    pair = (down, down.replace(".lora_A.", ".lora_B."))
    zeros = {name: numpy.zeros(tensors[name], dtype="float32") for name in pair}
    return {ADAPTER_CONFIG: content[ADAPTER_CONFIG], ADAPTER_WEIGHTS: save(zeros)}


def _without_place(tensors: Shapes, base: Shapes, config: Mapping[str, object]) -> list[str]:
    """The tensors that belong to no module, or to one that the configuration does not name, or that have no pair."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    wrong = []
    for name, shape in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match["module"] not in base or not _is_target(match["module"], config["target_modules"]):
            wrong.append(name)
        else:
            pairs.setdefault(match["module"], {})[match["side"]] = shape
    patterned = bool(config.get("rank_pattern"))
    for module, pair in pairs.items():
        rank = pair["A"][0] if "A" in pair and patterned else config["r"]
        out_in = base[module]
        if len(out_in) != 2 or pair != {"A": (rank, out_in[1]), "B": (out_in[0], rank)}:
            wrong.append(module)
    return sorted(wrong)


def _is_target(module: str, targets: object) -> bool:
    """As PEFT reads `target_modules`."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return isinstance(targets, list) and any(module == each or module.endswith(f".{each}") for each in targets)


def _shapes(header: bytes) -> dict[str, tuple[int, ...]]:
    tensors = json.loads(header)
    return {name: tuple(each["shape"]) for name, each in tensors.items() if name != "__metadata__"}
