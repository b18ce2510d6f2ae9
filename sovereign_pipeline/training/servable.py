"""Which adapters an engine can serve, by their configuration alone.

What belongs here: what vLLM refuses, or would compute otherwise than PEFT. What does not: the local engine's own
limits, which follow from how it computes (`serving/engines/local_adapters.py`). Imports no model library.
"""

from collections.abc import Mapping
from typing import Any

DONE = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",  # a name that counts only with megatron_config
        "peft_type",
        "peft_version",
        "qalora_group_size",  # a size that counts only with use_qalora
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Keys of `adapter_config.json` with which vLLM computes as PEFT does, whatever they say."""
BEGUN = (True, False, None, "gaussian", "orthogonal")
"""Of `init_lora_weights`: those that leave the base model as it is."""
NAMES = {"use_dora": "DoRA", "modules_to_save": "modules that are saved whole"}


def refused_by_vllm(config: Mapping[str, Any], largest_rank: int) -> list[str]:
    """Why vLLM does not serve an adapter with this `adapter_config.json`, a reason each; none where it does.

    A key that is not known here counts as refused unless it says nothing: what is yet to be invented is not guessed at.
    """
    if config.get("peft_type") != "LORA":
        return [f"it serves LoRA alone, and this is {config.get('peft_type')}"]
    reasons = [
        f"it does not do {NAMES.get(key, key)}"
        for key, value in sorted(config.items())
        if key not in DONE | {"bias", "init_lora_weights"} and value not in (None, False, [], {})
    ]
    if config.get("bias", "none") != "none":
        reasons.append("it does not do bias")
    if config.get("init_lora_weights", True) not in BEGUN:
        reasons.append(f"init_lora_weights {config['init_lora_weights']} changed the base model")
    rank = max([int(config.get("r", 8)), *(int(each) for each in (config.get("rank_pattern") or {}).values())])
    if rank > largest_rank:
        reasons.append(f"its rank is {rank}, and serving.vllm.rank allows {largest_rank}")
    return reasons
