"""The training section: defaults by what is trained, and what cannot go together."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.training import Training


def training(**sections: Any) -> Training:
    return Training.model_validate({"base_model": "tiny", "instruction": "Answer.", **sections})


def test_an_adapter_learns_ten_times_as_fast_as_the_whole_model() -> None:
    assert training().sft.learning_rate == training(sft={"adapter": "qlora"}).sft.learning_rate == 2e-4
    assert training(sft={"adapter": "none"}).sft.learning_rate == 2e-5
    assert training(preference={}).preference_learning_rate == 2e-5
    assert training(sft={"adapter": "none"}, preference={}).preference_learning_rate == 1e-6
    assert training(preference={"learning_rate": 1e-3}).preference_learning_rate == 1e-3


def test_kto_has_a_batch_to_compare_replies_in() -> None:
    kto = training(preference={"method": "kto"}).preference
    assert kto is not None and kto.batch_size == 4


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_section_survives_being_written_and_read(adapter: str) -> None:
    line = training(sft={"adapter": adapter}, preference={})
    assert Training.model_validate_json(line.model_dump_json()) == line


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"sft": {"adapter": "none", "rank": 8}}, "adapter: none has no rank"),
        ({"sft": {"adapter": "none", "dora": True}}, "has no dora"),
        ({"sft": {"batch_size": 8, "gradient_accumulation": 16}}, "128, more than 64"),
        ({"preference": {"method": "kto", "batch_size": 1}}, "must be at least 2"),
        ({"preference": {"method": "dpo", "desirable_weight": 2}}, "belongs to method kto"),
        ({"devices": {"count": 2}}, "several devices need launcher: accelerate"),
        ({"start_from": "lamps-1.0.0", "sft": {"adapter": "none"}}, "start_from continues to train an adapter"),
        ({"start_from": "../lamps"}, "start_from"),
        ({"devices": {"launcher": "accelerate", "count": 2}, "sft": {"adapter": "qlora"}}, "not sharded by fsdp2"),
        ({"sft": {"method": "dpo"}}, "method"),
        ({"sft": {"learning_rate": 0}}, "learning_rate"),
    ],
)
def test_what_cannot_go_together_is_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        training(**sections)
