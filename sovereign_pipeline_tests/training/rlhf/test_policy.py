"""Two adapters on one base: which numbers are whose, and which parameters are learned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf.policy import REFERENCE, Policy
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.training.tiny_reward import reward_job

pytestmark = pytest.mark.slow

REPLIES = [Completion([5, 9, 40], [7, 8, 2]), Completion([300, 20, 11, 12], [13]), Completion([4], [90, 91, 92, 93, 2])]


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory, make_session_job: Callable[..., TrainingJob], parent: Path
) -> TrainingJob:
    directory = tmp_path_factory.mktemp("policy")
    return reward_job(lambda *given: make_session_job(directory, *given), "policy", parent)


@pytest.fixture
def policy(job: TrainingJob) -> Policy:
    return Policy(load_trainable(job, lambda message: None), job, temperature=0.7)


def test_the_reference_has_no_dropout_though_its_training_had(job: TrainingJob, parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "lora_dropout": 0.5}))
    with_dropout = job.model_copy(update={"parent_adapter": tmp_path / "adapter"})
    policy = Policy(load_trainable(with_dropout, lambda message: None), with_dropout, temperature=0.7)
    ours = policy.numbers_without_gradient(REPLIES).log_probabilities
    assert torch.equal(ours, policy.numbers_without_gradient(REPLIES, REFERENCE).log_probabilities)


def test_the_values_send_no_gradient_into_the_policy(policy: Policy) -> None:
    torch.nn.init.ones_(policy.value_head.weight)
    policy.numbers(REPLIES).values.sum().backward()
    assert policy.value_head.weight.grad is not None
    assert all(each.grad is None for each in policy.adapter.values())


def test_values_are_in_float32_where_the_passes_are_not(job: TrainingJob) -> None:
    narrow = job.model_copy(update={"sft": job.sft.model_copy(update={"precision": "bfloat16"})})
    policy = Policy(load_trainable(narrow, lambda message: None), narrow, temperature=0.7)
    torch.nn.init.constant_(policy.value_head.bias, 1.003)
    assert float(policy.numbers_without_gradient(REPLIES).values[0]) == pytest.approx(1.003, abs=1e-6)


def test_the_values_are_of_the_state_before_each_token(policy: Policy) -> None:
    """So the first is of the prompt alone, whatever the reply."""
    torch.nn.init.ones_(policy.value_head.weight)
    first = policy.numbers_without_gradient([Completion([5, 9, 40], [7, 8])]).values
    other = policy.numbers_without_gradient([Completion([5, 9, 40], [30, 31])]).values
    assert float(first[0]) == pytest.approx(float(other[0]), abs=1e-5)
    assert float(first[1]) != pytest.approx(float(other[1]), abs=1e-3)


def test_the_entropy_is_that_of_the_distribution_at_the_temperature(policy: Policy) -> None:
    (completion,) = REPLIES[:1]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([completion.ids]), use_cache=False).logits[0].float() / 0.7
    wanted = torch.distributions.Categorical(logits=logits[2:5]).entropy()
    assert torch.allclose(policy.numbers_without_gradient([completion]).entropies, wanted, atol=1e-4)


OF_TWO_PROMPTS = [
    Completion([5, 9, 40], [7, 8, 2]),
    Completion([5, 9, 40], [13]),
    Completion([5, 9, 40], [61, 62, 63, 64, 2]),
    Completion([300, 20, 11, 12], [90, 91]),
    Completion([300, 20, 11, 12], [17, 18, 2]),
]


def test_replies_that_share_a_prompt_have_the_numbers_and_gradients_of_each_alone(job: TrainingJob) -> None:
    assert job.reward is not None
    in_groups = job.reward.model_copy(update={"rlhf": job.reward.rlhf.model_copy(update={"group": 3})})
    sharing = Policy(
        load_trainable(job, lambda message: None), job.model_copy(update={"reward": in_groups}), temperature=0.7
    )
    assert [len(each) for each in sharing.passes(OF_TWO_PROMPTS)] == [5]
    alone = Policy(load_trainable(job, lambda message: None), job, temperature=0.7)
    for policy in (sharing, alone):
        torch.nn.init.ones_(policy.value_head.weight)

    together = sharing.numbers(OF_TWO_PROMPTS)
    one_by_one = [alone.numbers([each]) for each in OF_TWO_PROMPTS]
    weights = torch.arange(1.0, 1 + sum(len(each.reply_ids) for each in OF_TWO_PROMPTS))
    (together.log_probabilities * weights).sum().backward()
    (torch.cat([each.log_probabilities for each in one_by_one]) * weights).sum().backward()

    for name in ("log_probabilities", "entropies", "values"):
        expected = torch.cat([getattr(each, name) for each in one_by_one])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-4, atol=1e-5)
    for name, parameter in alone.adapter.items():
        torch.testing.assert_close(sharing.adapter[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)
