"""The bench's chain for a line whose adapter is rewarded by a reward model: pairs that it alone was trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline_tests.registry.bench import (
    ALIGNED_ADAPTER,
    BASE_MODEL,
    NOT_EMPTY,
    PREFERENCE_DATASET,
    SPLIT,
    Bench,
    chain_with,
    trained_at_length,
)

TRAINING: dict[str, Any] = {"reward_model": {}, "rlhf": {"reward": [{"name": "preferred", "reward_model": True}]}}


def _reward_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "reward").mkdir()
    (workspace / "reward" / "adapter_model.safetensors").write_text(inputs["preference_dataset"].ref.digest * 20)
    (workspace / "reward" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return trained_at_length({"rows": 1})


def _rewarded(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    if workplace.line.training.rlhf is None:
        return ALIGNED_ADAPTER.build(workplace, inputs, workspace)
    built = ALIGNED_ADAPTER.build(workplace, inputs, workspace)
    part = {"weight": 1.0, "identity": inputs["reward_model"].ref.digest}
    return replace(built, summary={**built.summary, "rlhf": {"algorithm": "ppo", "reward": {"preferred": part}}})


REWARD_MODEL = Stage(
    "reward_model",
    "1",
    _reward_model,
    (BASE_MODEL, SPLIT, PREFERENCE_DATASET),
    gates=(NOT_EMPTY,),
    passthrough_of=lambda line: None if line.training.reward_model else "preference_dataset",
)
ALIGNED = replace(
    ALIGNED_ADAPTER,
    build=_rewarded,
    optional_inputs=(REWARD_MODEL,),
    reads_optional=lambda line: ("reward_model",) if line.training.rewards_by_model else (),
    passthrough_of=lambda line: None if line.training.preference or line.training.rlhf else "sft_adapter",
)


def with_reward_model(bench: Bench) -> None:
    """Let the line have a reward model, by which its adapter is rewarded."""
    chain = chain_with(ALIGNED)
    place = [each.kind for each in chain].index("aligned_adapter")
    bench.chain = (*chain[:place], REWARD_MODEL, *chain[place:])
    bench.with_preferences()
    bench.recipe["training"].pop("preference")
    bench.recipe["training"].update(TRAINING)
