"""The model that is trained: loading it, putting an adapter on, and writing what came out. What is trained with it, and
how, is `trainer.py`; which models there are, and whether their files are the pinned ones, is `base_models.py`.
"""

import json
import shutil
from typing import Any

from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingJob

ADAPTER = "adapter"
MODEL = "model"
# Beside the weights, what makes a directory a model that people can load and talk to.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def load_trainable(job: TrainingJob) -> Any:
    """The model with what the recipe trains marked as such: a new adapter, the start adapter, or everything.

    Frozen weights are held in the recipe's precision, or in NF4 with double quantisation (QLoRA, Dettmers et al. 2023,
    section 3), which is dequantised into that precision in every pass. What is trained is held in float32 always: steps
    of 2e-4 are lost in bfloat16's eight bits. With bfloat16 the passes themselves run in it, under autocast.
    """
    base = _load_base(job)
    if job.sft.adapter == "none":
        return base
    from peft import PeftModel, get_peft_model

    if job.start_adapter is not None:
        return PeftModel.from_pretrained(base, job.start_adapter, is_trainable=True)
    return get_peft_model(base, lora_config(job.sft))


def lora_config(sft: Sft) -> Any:
    """The recipe's adapter as PEFT has it."""
    from peft import LoraConfig

    return LoraConfig(
        r=sft.rank,
        lora_alpha=sft.alpha,
        lora_dropout=sft.dropout,
        target_modules=sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules),
        use_rslora=sft.rslora,
        use_dora=sft.dora,
        task_type="CAUSAL_LM",
    )


def save_adapter(model: Any, state: dict[str, Any], job: TrainingJob) -> None:
    """`adapter/`: an ordinary PEFT directory, the same bytes each time: no paths, no model card, sets in order.

    state: the whole model's tensors or at least the adapter's, by name."""
    directory = job.output / ADAPTER
    model.peft_config["default"].base_model_name_or_path = job.base_model_name
    model.save_pretrained(str(directory), save_embedding_layers=False, state_dict=state)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_bytes())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_model(model: Any, state: dict[str, Any], job: TrainingJob) -> None:
    """`model/`: an ordinary transformers directory in the recipe's precision, with the base's own tokenizer files."""
    import torch

    directory = job.output / MODEL
    dtype = getattr(torch, job.sft.precision)
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for target, source in model.all_tied_weights_keys.items():
        tensors[target] = tensors[source]  # one tensor under two names, which is then written once
    model.config.dtype = dtype
    model.save_pretrained(str(directory), state_dict=tensors)
    for name in TOKENIZER_FILES:
        if (job.base_model / name).is_file():
            shutil.copyfile(job.base_model / name, directory / name)


def _load_base(job: TrainingJob) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    full = job.sft.adapter == "none"
    dtype = torch.float32 if full else getattr(torch, job.sft.precision)
    quantisation = None
    if job.sft.adapter == "qlora":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    # Several processes load to the CPU and are given their shards later.
    alone_on_cuda = torch.cuda.is_available() and job.devices.count == 1
    model = AutoModelForCausalLM.from_pretrained(
        job.base_model,
        dtype=dtype,
        attn_implementation="sdpa",
        quantization_config=quantisation,
        device_map={"": 0} if alone_on_cuda else None,
    )
    if torch.cuda.is_available():
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
    return model
