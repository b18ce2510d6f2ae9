"""A tiny base model and small adapters of it, as training saves them: real PEFT directories with random weights."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.fingerprints import Fingerprint, Job, compute, conversations
from sovereign_pipeline_tests.tiny_model import TEMPLATE, save_tiny_model

WORDS = "harbour lamp mooring permit fee officer pier chain buoy net boat rope tide"
INSTRUCTION = "Answer this letter."


@dataclass(frozen=True)
class TinyAdapters:
    """A base model and what is made from it, in one directory."""

    root: Path
    heads: int = 4
    """Of the base model's attention; vLLM has none that are narrower than 32, half of this model."""
    context: int = 512
    """Of the base model, in tokens."""

    @cached_property
    def base(self) -> Path:
        return save_tiny_model(self.root / "base", [WORDS, WORDS.title()] * 3, self.context, self.heads)

    def directory(
        self, name: str, seed: int = 0, base: Path | None = None, spread: float | None = None, **config: Any
    ) -> Path:
        """A PEFT directory; `config`: other than the usual of LoraConfig. `spread`: of the weights that begin at zero;
        None leaves PEFT's, which are wide."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}
        loaded = AutoModelForCausalLM.from_pretrained(base or self.base)
        model = get_peft_model(loaded, LoraConfig(task_type="CAUSAL_LM", **{**usual, **config}))
        for parameter_name, parameter in model.named_parameters():
            if spread is not None and "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=spread)
        directory = self.root / name
        model.save_pretrained(directory, save_embedding_layers=False)
        return directory

    def adapter(self, name: str, seed: int = 0, **config: Any) -> Deployable:
        """An adapter without a fingerprint."""
        return self.deployable(name, self.directory(name, seed, **config))

    def deployable(self, name: str, directory: Path, template: str = TEMPLATE) -> Deployable:
        files = {file.name: file_sha256(file) for file in directory.iterdir()}
        return Deployable(
            adapter=name,
            line=name.rpartition("-")[0] or name,
            digest=digest_of([name, files]),
            directory=directory,
            classification="PUBLIC",
            template_sha256=sha256(template.encode()).hexdigest(),
            instruction=INSTRUCTION,
            files=files,
        )

    def fingerprint(self, adapter: Deployable, base: Path | None = None) -> Fingerprint:
        """As the training side computes it."""
        return compute(Job(base or self.base, adapter.digest, adapter.directory, conversations(INSTRUCTION)))

    def fingerprinted(self, name: str, seed: int = 0) -> Deployable:
        adapter = self.adapter(name, seed)
        return replace(adapter, fingerprint=self.fingerprint(adapter))


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_base(tiny: TinyAdapters, directory: Path) -> Path:
    """The tiny base with one layer changed a little; tokenizer and template are the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.base)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.05)
    model.save_pretrained(directory / "other")
    AutoTokenizer.from_pretrained(tiny.base).save_pretrained(directory / "other")
    return directory / "other"


def change_last_byte(path: Path) -> None:
    """As one bit of a disk that turned."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
