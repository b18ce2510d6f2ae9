"""The section `training.rlhf`: what it refuses, and what it leaves to the defaults."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.training.rlhf import Rlhf
from sovereign_pipeline.policy.training.training import Training

PART = {"name": "opening", "tool": {"path": "rewards/permits.py"}}
LEARNED = {"name": "preferred", "reward_model": True}
GROUPS = {"reward": [PART], "algorithm": "rloo"}


def training(**changes: Any) -> Training:
    content = {"base_model": "tiny", "instruction": "Reply.", "rlhf": {"reward": [PART]}}
    return Training.model_validate({**content, **changes})


def test_a_part_alone_is_a_section() -> None:
    rlhf = training().rlhf
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
        training(**changes)


def test_a_reward_model_judges_where_a_part_says_so() -> None:
    with_model = training(rlhf={"reward": [LEARNED], "gold": [PART]}, reward_model={})
    assert with_model.rewards_by_model and with_model.learns_from_preferences
    assert with_model.rlhf is not None and len(with_model.rlhf.tools) == 1
    unused = training(reward_model={})
    assert unused.reads_preferences and not unused.rewards_by_model and not unused.learns_from_preferences


def test_a_part_with_a_tool_is_identified_as_before_there_were_reward_models() -> None:
    rlhf = training().rlhf
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
    [
        ({"path": "score.py", "files": ["a/laws.json", "b/laws.json"]}, "share a name"),
        ({"command": ["a/check"], "files": ["b/check"]}, "share a name"),
        ({}, "either a function .* or a 'command'"),
        ({"path": "score.py", "command": ["check"]}, "either a function .* or a 'command'"),
        ({"command": []}, "at least 1 item"),
        ({"command": ["check"], "function": "score"}, "'function' belongs to a program at 'path'"),
        ({"path": "score.py", "uses": ["/usr/bin/grep"]}, "'uses' belongs to a command"),
        ({"command": ["check", "a\0b"]}, "zero character"),
    ],
    ids=["files", "command and file", "neither", "both", "empty", "function", "uses", "zero"],
)
def test_a_tool_is_a_function_or_a_command(tool: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rlhf.model_validate({"reward": [{"name": "part", "tool": tool}]})
