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


def test_kto_has_a_batch_to_compare_replies_in() -> None:
    kto = training(preference={"method": "kto"}).preference
    assert kto is not None and kto.batch_size == 4


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


PART = {"name": "opening", "tool": {"path": "rewards/permits.py"}}
LEARNED = {"name": "preferred", "reward_model": True}
GROUPS = {"reward": [PART], "algorithm": "rloo"}


def training_rlhf(**changes: Any) -> Training:
    content = {"base_model": "tiny", "instruction": "Reply.", "rlhf": {"reward": [PART]}}
    return Training.model_validate({**content, **changes})


def test_a_part_alone_is_a_section() -> None:
    rlhf = training_rlhf().rlhf
    assert rlhf is not None
    assert (rlhf.algorithm, rlhf.kl.target, rlhf.temperature) == ("ppo", 6.0, 0.7)
    assert rlhf.measured == rlhf.reward


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rlhf": {"reward": [PART], "algorithm": "reinforce"}}, "algorithm"),
        ({"rlhf": {**GROUPS, "group": 1}}, "group of two at least"),
        ({"rlhf": {**GROUPS, "trace": 0.9, "kl": {"target": 3.0}}}, r"algorithm rloo has no trace, kl\.target"),
        ({"rlhf": {**GROUPS, "prompts": 3, "minibatches": 5, "group": 4}}, "more minibatches than prompts"),
        (
            {"rlhf": {**GROUPS, "prompts": 7, "minibatches": 3}},
            "prompts × group, 28, must be a multiple of minibatches",
        ),
        ({"rlhf": {**GROUPS, "kl": {"coefficient": 0.0}}}, r"kl\.coefficient must be above 0 for rloo"),
        ({"rlhf": GROUPS, "sft": {"adapter": "qlora"}}, "in bfloat16 for rloo with qlora"),
        ({"rlhf": {"reward": []}}, "at least 1 item"),
        ({"rlhf": {"reward": [PART, PART]}}, "two parts share a name"),
        ({"rlhf": {"reward": [{"name": "opening"}]}}, "needs either a tool or reward_model"),
        ({"rlhf": {"reward": [{**PART, "reward_model": True}]}}, "needs either a tool or reward_model"),
        ({"rlhf": {"reward": [LEARNED, {**LEARNED, "name": "again"}]}}, "two parts name it"),
        ({"rlhf": {"reward": [LEARNED]}}, "training.reward_model is missing"),
        ({"rlhf": {"reward": [PART], "gold": [LEARNED]}}, "training.reward_model is missing"),
        ({"rlhf": {"reward": [{**PART, "model": "x"}]}}, "Extra inputs"),
        ({"rlhf": {"reward": [PART], "minibatches": 17}}, "more minibatches than prompts"),
        ({"rlhf": {"reward": [PART], "kl": {"target": 6.0, "budget": 5.0}}}, "kl.budget must be above kl.target"),
        ({"preference": {"method": "dpo"}}, "from preferences or from a reward"),
        ({"sft": {"adapter": "none"}}, "rlhf needs an adapter"),
        ({"devices": {"launcher": "accelerate", "count": 2}}, "rlhf needs an adapter"),
        ({"sft": {"max_length": 48}}, "no room for a prompt"),
        ({"rlhf": {"reward": [PART], "rollouts": {"url": "http://gpu1:8000", "copies": "/srv"}}}, "'url' must be"),
        ({"rlhf": {"reward": [PART], "rollouts": {"url": "unix:/run/api", "copies": "srv"}}}, "'copies' must begin"),
    ],
    ids=[
        "algorithm",
        "group_of_ppo",
        "key_of_ppo",
        "minibatches_of_groups",
        "rest",
        "reference",
        "qlora",
        "empty",
        "names",
        "no_tool",
        "both",
        "twice",
        "no_reward_model",
        "no_reward_model_as_gold",
        "model",
        "minibatches",
        "kl",
        "preference",
        "full",
        "devices",
        "room",
        "elsewhere",
        "relative",
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        training_rlhf(**changes)


def test_a_reward_model_judges_where_a_part_says_so() -> None:
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
    ids=["files", "command and file", "neither", "both", "empty", "function", "uses", "zero"],
)
def test_a_tool_is_a_function_or_a_command(tool: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rlhf.model_validate({"reward": [{"name": "part", "tool": tool}]})
