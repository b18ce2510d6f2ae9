"""What vLLM refuses, by an adapter's configuration: as PEFT writes it, and with what is not known here."""

from typing import Any

import pytest

from sovereign_pipeline.training.tuned_model import refused_by_vllm
from sovereign_pipeline_tests.examples import examples


def written_by_peft(**changes: Any) -> dict[str, Any]:
    from peft import LoraConfig

    written: dict[str, Any] = LoraConfig(
        **{"r": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **changes}
    ).to_dict()
    return written


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "reasons"), examples(__file__, "refused_for"), ids=str)
def test_each_thing_that_is_refused_has_its_reason(changes: dict[str, Any], reasons: list[str]) -> None:
    assert refused_by_vllm(written_by_peft(**changes), 16) == reasons


def test_what_is_not_known_is_refused_unless_it_says_nothing() -> None:
    config = {"peft_type": "LORA", "r": 8, "yet_to_be_invented": True, "another": None}
    assert refused_by_vllm(config, 16) == ["the engine does not support yet_to_be_invented"]
    assert refused_by_vllm({"peft_type": "IA3"}, 16) == ["the engine serves only LoRA adapters, and this is IA3"]
