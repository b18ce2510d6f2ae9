"""The training section: defaults by what is trained, and what cannot go together."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.policy.training import Training
from sovereign_pipeline_tests.examples import examples


def training(**sections: Any) -> Training:
    return Training.model_validate({"base_model": "tiny", "instruction": "Answer.", **sections})


def test_an_adapter_learns_ten_times_as_fast_as_the_whole_model() -> None:
    assert training().sft.learning_rate == training(sft={"adapter": "qlora"}).sft.learning_rate == 2e-4
    assert training(sft={"adapter": "none"}).sft.learning_rate == 2e-5
    assert training(preference={}).preference_learning_rate == 2e-5
    assert training(sft={"adapter": "none"}, preference={}).preference_learning_rate == 1e-6
    assert training(preference={"learning_rate": 1e-3}).preference_learning_rate == 1e-3


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_section_survives_being_written_and_read(adapter: str) -> None:
    line = training(sft={"adapter": adapter}, preference={})
    assert Training.model_validate_json(line.model_dump_json()) == line


@pytest.mark.parametrize(("sections", "says"), examples(__file__, "what_cannot_go_together_is_refused"))
def test_what_cannot_go_together_is_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        training(**sections)


def trl(trainer: str = "orpo", **arguments: Any) -> dict[str, Any]:
    return {"preference": {"method": "trl", "trainer": trainer, "arguments": arguments}}


def test_a_trainer_of_trl_and_its_arguments_survive_being_written_and_read() -> None:
    line = training(**trl("dpo", loss_type=["sigmoid", "bco_pair"], loss_weights=[1, 0.5], beta=1, use_weighting=True))
    assert line.preference is not None and line.preference.name == "trl-dpo"
    read = Training.model_validate_json(line.model_dump_json())
    assert read == line and read.model_dump_json() == line.model_dump_json()


def on_two(sharding: str = "fsdp2", **sections: Any) -> Training:
    return training(devices={"launcher": "accelerate", "count": 2, "sharding": sharding}, **sections)


@pytest.mark.parametrize("sections", [{"preference": {"method": "kto"}}, {"preference": {}, "reward_model": {}}])
def test_preferences_and_reward_models_take_several_devices_with_fsdp2(sections: dict[str, Any]) -> None:
    assert on_two(**sections).devices.count == 2
    with pytest.raises(ValidationError, match="zero3 supports only SFT"):
        on_two("zero3", **sections)
    with pytest.raises(ValidationError, match=r"method trl needs devices\.count: 1"):
        on_two(**trl())


PART = {"name": "opening", "tool": {"path": "rewards/permits.py"}}
LEARNED = {"name": "preferred", "reward_model": True}
GROUPS = {"reward": [PART], "algorithm": "rloo"}


def training_rlhf(**changes: Any) -> Training:
    content = {"base_model": "tiny", "instruction": "Reply.", "rlhf": {"reward": [PART]}}
    return Training.model_validate({**content, **changes})


def test_a_reward_model_judges_where_a_part_says_so() -> None:
    assert training(preference={}).reads_preferences and not training().reads_preferences
    with_model = training_rlhf(rlhf={"reward": [LEARNED], "gold": [PART]}, reward_model={})
    assert with_model.rewards_by_model and with_model.learns_from_preferences
    assert with_model.rlhf is not None and len(with_model.rlhf.tools) == 1
    unused = training_rlhf(reward_model={})
    assert unused.reads_preferences and not unused.rewards_by_model and not unused.learns_from_preferences


def test_a_part_with_a_tool_is_identified_as_before_there_were_reward_models() -> None:
    rlhf = training_rlhf().rlhf
    assert rlhf is not None
    (part,) = rlhf.model_dump(mode="json")["reward"]
    assert part.keys() == {"name", "tool", "weight"}
    assert Rlhf.model_validate(rlhf.model_dump(mode="json")) == rlhf
    learned = Rlhf.model_validate({"reward": [LEARNED]})
    assert learned.model_dump(mode="json")["reward"] == [{"name": "preferred", "reward_model": True, "weight": 1.0}]


def test_an_identity_has_no_key_of_another_algorithm() -> None:
    ppo, rloo = (Rlhf.model_validate({**GROUPS, "algorithm": name}) for name in ("ppo", "rloo"))
    assert ppo.identity() == ppo.model_dump(mode="json")
    assert rloo.identity().keys() & {"group", "value_learning_rate", "trace", "discount"} == {"group"}
    assert rloo.identity()["kl"].keys() == {"coefficient", "budget"}
    assert Rlhf.model_validate_json(rloo.model_dump_json()) == rloo
    assert (ppo.replies, rloo.replies, rloo.kl_target) == (32, 32, None)


@pytest.mark.parametrize(
    ("tool", "said"),
    examples(__file__, "a_tool_is_a_function_or_a_command"),
    ids=["files", "command and file", "no level", "neither", "both", "empty", "function", "uses", "zero"],
)
def test_a_tool_is_a_function_or_a_command(tool: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rlhf.model_validate({"reward": [{"name": "part", "tool": tool}]})
