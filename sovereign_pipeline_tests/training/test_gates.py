"""The gate `end_of_turn_trained` on adapters that learned to stop, and on some that did not."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.training import gates
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.tiny_model import EOS_ID, write_card
from sovereign_pipeline_tests.training.chain import Chain, Tamper
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.trainings import run

pytestmark = pytest.mark.slow


def pushed_away(base: Path) -> Tamper:
    """Trains the finished adapter on, away from the end of turn wherever it stands."""

    def tamper(output: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        model: Any = PeftModel.from_pretrained(loaded, output / "adapter", is_trainable=True)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-2)
        ids = torch.randint(3, 400, (8, 40), generator=torch.Generator().manual_seed(1))
        for _ in range(30):
            torch.log_softmax(model(input_ids=ids).logits, dim=-1)[..., EOS_ID].mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(output / "adapter")
        (output / "adapter" / "README.md").unlink(missing_ok=True)

    return tamper


@pytest.fixture
def base_that_stops(directory: Path, make_job: JobMaker) -> Path:
    """The base model with an adapter merged in, so that it ends its turns by itself; its card names the new files."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = make_job("learns to stop", letters(16), sft={"epochs": 12})
    run(job)
    base = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    merged: Any = PeftModel.from_pretrained(base, str(job.output / "adapter"))
    merged.merge_and_unload().save_pretrained(directory)
    return directory


def test_an_adapter_that_was_pushed_away_from_the_end_of_turn_is_refused(
    institution: DemoInstitution, base_that_stops: Path
) -> None:
    write_card(institution.settings.data, "tiny", base_that_stops)
    institution.recipe["training"]["sft"]["epochs"] = 3
    chain = Chain(institution.workplace())
    evidence = chain.make(chain.sft)["end_of_turn_trained"].evidence
    assert evidence["stop_rate_base"] == evidence["stop_rate_adapter"] == 1.0
    institution.recipe["training"]["seed"] = 8
    chain = Chain(institution.workplace(), pushed_away(base_that_stops))
    away = chain.make(chain.sft)["end_of_turn_trained"]
    assert not away.passed, away
    assert away.evidence["stop_rate_base"] == 1.0 and away.evidence["stop_rate_adapter"] == 0.0
    assert "the base ends 4 and the adapter 0" in away.message


@pytest.mark.parametrize("adapter", ["lora", "qlora", "none"])
def test_the_end_of_turn_is_asked_of_models_read_as_they_were_trained(
    institution: DemoInstitution, directory: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    """A base of 70 billion parameters that was trained in NF4 would not fit into any host in float32.

    Where there is memory for it, it is dequantised, which decides nothing.
    """
    from transformers import LlamaForCausalLM

    sft = institution.recipe["training"]["sft"]
    sft |= {"adapter": adapter, "precision": "bfloat16", "learning_rate": 2e-3, "epochs": 4}
    if adapter == "none":
        del sft["rank"], sft["alpha"]
    chain = Chain(institution.workplace())
    chain.make(chain.sft)
    asked = set()

    def forward(model: Any, *arguments: Any, **named: Any) -> Any:
        weight = model.model.layers[0].mlp.up_proj.weight
        asked.add("nf4" if weight.dtype.itemsize == 1 else str(weight.dtype).removeprefix("torch."))
        return of_llama(model, *arguments, **named)

    of_llama = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    verdict = chain.gate("end_of_turn_trained", chain.refs["sft_adapter"])
    assert verdict.passed and asked == {"bfloat16"}
    if adapter == "qlora":
        asked.clear()
        monkeypatch.setattr(gates, "available_memory", lambda: (1_000, "cpu"))
        assert chain.gate("end_of_turn_trained", chain.refs["sft_adapter"]) == verdict
        assert asked == {"nf4"}


def test_where_neither_ends_a_reply_the_evidence_says_so(institution: DemoInstitution, directory: Path) -> None:
    institution.recipe["training"]["sft"] |= {"max_steps": 3, "epochs": 3, "learning_rate": 1e-3}
    chain = Chain(institution.workplace())
    verdict = chain.make(chain.sft)["end_of_turn_trained"]
    assert verdict.evidence["log_probability_adapter"] > verdict.evidence["log_probability_base"]
    assert verdict.evidence["stop_rate_base"] == verdict.evidence["stop_rate_adapter"] == 0.0 and verdict.passed
    assert "the base ends 0 and the adapter 0" in verdict.message
