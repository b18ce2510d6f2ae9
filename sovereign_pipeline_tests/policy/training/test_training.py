"""The training section: defaults by what is trained, and what cannot go together."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.training.training import Training


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


def trl(trainer: str = "orpo", **arguments: Any) -> dict[str, Any]:
    return {"preference": {"method": "trl", "trainer": trainer, "arguments": arguments}}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"preference": {"method": "trl"}}, "method trl needs a trainer: cpo, dpo, orpo"),
        (trl("orp"), "did you mean 'orpo'"),
        (trl("online_dpo"), "learns from replies that it generates"),
        (trl("async_grpo"), "needs a server"),
        (trl("gkd"), "the teacher, which a line does not have"),
        (trl("tpo"), "needs a third reply"),
        (trl("kto"), "method: kto is built in"),
        *(
            (trl(**{name: "x"}), f"no argument '{name}'")
            for name in ("output_dir", "report_to", "hub_token", "run_name")
        ),
        *(
            (trl("orpo", **{name: True}), f"no argument '{name}'")
            for name in ("push_to_hub", "trust_remote_code", "use_vllm")
        ),
        (trl(model_init_kwargs="{}"), "no argument 'model_init_kwargs'"),
        (trl(deepspeed="zero.json"), "no argument 'deepspeed'"),
        (trl(seed=3), "'seed' is decided by training.seed"),
        (trl(bf16=True), "decided by training.sft.precision"),
        (trl(learning_rate=1e-5), "decided by training.preference.learning_rate"),
        (trl(max_length=64), "decided by training.preference.max_length"),
        (trl(bata=0.1), "did you mean 'beta'"),
        (trl(loss_type="simpo"), "no argument 'loss_type'"),
        (trl("cpo", loss_type="simp"), "no loss_type of trainer cpo; did you mean 'simpo'"),
        (trl(beta="0.1"), "'beta' must be a number above 0"),
        (trl(beta=-0.1), "'beta' must be a number above 0"),
        (trl(beta=True), "'beta' must be a number above 0"),
        (trl(beta=[0.1]), "'beta' must be a number above 0"),
        (trl(weight_decay=float("nan")), "weight_decay"),
        (trl("dpo", use_weighting=1), "'use_weighting' must be true or false"),
        (trl("dpo", loss_weights=0.5), "'loss_weights' must be a list of numbers"),
        ({"preference": {"trainer": "orpo"}}, "trainer belongs to method trl"),
        ({"preference": {"method": "kto", "arguments": {"beta": 0.1}}}, "arguments belongs to method trl"),
        ({"preference": {"method": "trl", "trainer": "orpo", "beta": 0.3}}, "method trl has no beta"),
        ({"preference": {"method": "trl", "trainer": "orpo", "packing": False}}, "method trl has no packing"),
        ({"sft": {"adapter": "none"}, **trl("dpo")}, "would hold the whole model twice"),
        ({"sft": {"adapter": "qlora"}, **trl("dpo")}, "would train the adapter in bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trainer_of_trl_is_given_nothing_but_what_shapes_its_loss(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        training(**sections)


def test_a_trainer_of_trl_and_its_arguments_survive_being_written_and_read() -> None:
    line = training(**trl("dpo", loss_type=["sigmoid", "bco_pair"], loss_weights=[1, 0.5], beta=1, use_weighting=True))
    assert line.preference is not None and line.preference.name == "trl-dpo"
    read = Training.model_validate_json(line.model_dump_json())
    assert read == line and read.model_dump_json() == line.model_dump_json()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"reward_model": {"packing": False}}, "a reward model has no packing"),
        ({"reward_model": {}, "sft": {"adapter": "qlora"}}, "needs sft.adapter: lora"),
        ({"reward_model": {}, "sft": {"adapter": "none"}}, "needs sft.adapter: lora"),
        ({"reward_model": {"centring": -1}}, "centring"),
    ],
)
def test_a_reward_model_has_an_adapter(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        training(**sections)


def on_two(sharding: str = "fsdp2", **sections: Any) -> Training:
    return training(devices={"launcher": "accelerate", "count": 2, "sharding": sharding}, **sections)


@pytest.mark.parametrize("sections", [{"preference": {"method": "kto"}}, {"preference": {}, "reward_model": {}}])
def test_preferences_and_reward_models_take_several_devices_with_fsdp2(sections: dict[str, Any]) -> None:
    assert on_two(**sections).devices.count == 2
    with pytest.raises(ValidationError, match="zero3 is for lines with SFT alone"):
        on_two("zero3", **sections)
    with pytest.raises(ValidationError, match="method trl learns on one device"):
        on_two(**trl())


def test_a_reward_model_reads_the_preference_dataset() -> None:
    assert training(reward_model={}).reads_preferences and training(preference={}).reads_preferences
    assert not training().reads_preferences
