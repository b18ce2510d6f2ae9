"""A whole training by RLOO or GRPO on the tiny model: what it learns, records and refuses, and that a kill changes no
byte."""

import json
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.dagster.plots import reward_curves_png
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.rlhf import rewards, run
from sovereign_pipeline.training.rlhf import sampling as rollouts
from sovereign_pipeline_tests.training.conftest import WORDS
from sovereign_pipeline_tests.training.rlhf.tiny_reward import LIKE_THE_REPLY, learn, learn_until_killed, log, reward
from sovereign_pipeline_tests.training.rlhf.trl_runs import RATES, Whole, trl_job
from sovereign_pipeline_tests.training.trainings import files, report

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
ALGORITHMS = pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
ABSTAINS = LIKE_THE_REPLY.replace("def score", "def judged") + (
    "\ndef score(rows):\n"
    "    return [None if len(row['reply']) % 2 else each for row, each in zip(rows, judged(rows))]\n"
)
"""For about every second reply."""


@ALGORITHMS
def test_it_learns_and_records_what_it_learned_from(algorithm: str, request: pytest.FixtureRequest) -> None:
    job = request.getfixturevalue(algorithm).job
    rows, found, by_reward = log(job), report(job), json.loads((job.output / "rlhf.json").read_bytes())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["kl"] > 0.01
    assert {"reward/likeness", "gold/likeness", "entropy", "clip_share", "groups_without_spread"} <= rows[-1].keys()
    assert "value_loss" not in rows[-1] and {row["kl_coefficient"] for row in rows} == {0.05}
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [share * RATES[algorithm] for share in (1, 0.75, 0.5, 0.25)]
    )
    assert by_reward["gold_of_best"] > by_reward["gold_of_parent"] + 0.01
    assert (by_reward["algorithm"], by_reward["rollouts"]) == (algorithm, 64)
    assert found["method"] == algorithm and not found["packing"]
    assert found["trl"]["trainer"] == f"trl.{algorithm.upper()}Trainer" and found["trl"]["stability"] == "stable"
    sampling = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
    given = {**sampling, "beta": 0.05, "epsilon": 0.2, "num_generations": 4, "num_iterations": 2}
    assert given.items() <= found["trl"]["arguments"].items()


@ALGORITHMS
def test_its_result_is_in_the_form_of_ppo_s(algorithm: str, request: pytest.FixtureRequest, parent: Path) -> None:
    from safetensors.torch import load_file

    job = request.getfixturevalue(algorithm).job
    assert files(job.output).keys() == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "report.json",
        "rlhf.json",
        "samples.jsonl",
        "training_log.jsonl",
    }
    ours, before = (load_file(path / "adapter_model.safetensors") for path in (job.output / "adapter", parent))
    assert ours.keys() == before.keys()
    assert any(not bool((ours[name] == before[name]).all()) for name in ours)
    assert reward_curves_png(job.output / "training_log.jsonl").startswith(b"\x89PNG"), "without a panel for values"


@pytest.mark.parametrize(("algorithm", "place"), [("rloo", "update"), ("grpo", "scoring")])
def test_a_kill_changes_no_byte(
    make_job: JobMaker, parent: Path, algorithm: str, place: str, request: pytest.FixtureRequest
) -> None:
    """In the third iteration, of a child process that shares nothing with this one afterwards."""
    whole: Whole = request.getfixturevalue(algorithm)
    job = trl_job(make_job, "killed", parent, algorithm, checkpoints={"every_steps": 1, "keep": 1})
    checkpoint = learn_until_killed(job, lambda patch: _kill_in(patch, place))
    assert checkpoint == "step-00000008", "two iterations of two passes over two minibatches"
    assert f"resuming from {checkpoint}" in learn(job)
    assert files(job.output) == files(whole.job.output)


def _kill_in(patch: pytest.MonkeyPatch, place: str) -> None:
    """Have this process kill itself in the third iteration: behind its second step, or while its replies are judged."""
    from sovereign_pipeline.training.methods import trl as trl_steps

    steps: Any = trl_steps._RewardSteps
    name = {"update": "_compute_loss", "scoring": "reward"}[place]
    whole = getattr(steps, name)

    def deadly(self: Any, *given: Any, **named: Any) -> Any:
        if self.state.global_step >= 8 + 2 * (place == "update"):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *given, **named)

    patch.setattr(steps, name, deadly)


def test_a_request_to_stop_ends_behind_an_iteration_and_is_resumed(
    make_job: JobMaker, parent: Path, rloo: Whole
) -> None:
    job = trl_job(make_job, "stopped", parent, "rloo")
    done: list[int] = []
    hooks = TrainerHooks(lambda step: done.append(step.step), lambda message: None, should_stop=lambda: len(done) == 2)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 4"):
        train(job, hooks)
    learn(job)
    assert files(job.output) == files(rloo.job.output)


def test_a_reward_that_is_constant_in_each_group_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It differs from prompt to prompt, so that the batch as a whole has spread."""

    def by_prompt(self: Any, replies: Any) -> Any:
        return [rewards.Score(len(each.prompt) % 7 / 7, {"likeness": 0.5}) for each in replies]

    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    monkeypatch.setattr(rewards.Rewards, "judge", by_prompt)
    with pytest.raises(TrainingFailed, match="have the reward of the others of their prompt"):
        learn(trl_job(make_job, "before", parent, "grpo"))
    monkeypatch.setattr(run, "check_spread_of_samples", lambda *given: None)
    with pytest.raises(TrainingFailed, match=r"ended early: the replies of each prompt of iteration 1 have the same"):
        learn(trl_job(make_job, "during", parent, "grpo"))


@pytest.mark.security_case(
    "a reward's tool fails while TRL's trainer learns", "the training stops; no score is made up"
)
def test_a_tool_that_raises_stops_the_training(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second iteration on the sandbox runs a program that raises."""
    score, ended = rewards.ToolRunner.scores, run.RewardedMethod._ended
    iterations: list[int] = []

    def broken(self: Any, replies: Any) -> Any:
        if iterations:
            self._program = "def score(rows):\n    raise ValueError(rows[0]['reply'])\n"
        return score(self, replies)

    def counted(self: Any, *given: Any) -> None:
        ended(self, *given)
        iterations.append(1)

    monkeypatch.setattr(rewards.ToolRunner, "scores", broken)
    monkeypatch.setattr(run.RewardedMethod, "_ended", counted)
    job = trl_job(make_job, "broken", parent, "rloo")
    with pytest.raises(TrainingFailed, match=r"it failed with ValueError") as caught:
        learn(job)
    assert len(iterations) == 1 and "officer" not in str(caught.value)
    assert not job.output.exists()


@pytest.mark.security_case(
    "a reward's tool abstains while TRL's trainer learns", "no log shows the prompt or the reply"
)
def test_a_reply_that_the_tools_abstain_for_is_not_learned_from_and_not_shown(
    make_job: JobMaker, parent: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL warns where all of its reward functions abstain, with all that it was given."""
    from sovereign_pipeline.training.methods import trl as trl_steps

    steps: Any = trl_steps._RewardSteps
    outputs: list[tuple[Any, Any]] = []
    generate = steps._generate_and_score_completions

    def kept(self: Any, inputs: Any) -> Any:
        outputs.append((generate(self, inputs), self._rounds.reward(self._asked, self._rollouts)))
        return outputs[-1][0]

    monkeypatch.setattr(steps, "_generate_and_score_completions", kept)
    monkeypatch.setattr(logging.getLogger("trl"), "propagate", True)
    job = trl_job(
        make_job,
        "abstains",
        parent,
        "grpo",
        rlhf={"reward": [reward(program="abstains.py")], "gold": [reward()], "iterations": 1},
        programs={"abstains.py": ABSTAINS},
    )
    try:
        learn(job)
    except TrainingFailed as failed:  # one iteration may not be enough to be better
        assert "no adapter had a higher" in str(failed)
    (output, learned), *_ = outputs
    silent = [place for place, each in enumerate(learned) if each is None]
    assert 0 < len(silent) < len(learned)
    assert not output["advantages"][silent].any() and bool(output["advantages"].any())
    warned = [record.getMessage() for record in caplog.records if "All reward functions returned None" in record.msg]
    assert warned and all(re.search(r"'prompt': '\d+', 'completion': ''", each) for each in warned), "places alone"
    assert not any(word in each for each in warned for word in WORDS)


def test_the_reference_must_not_move(make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if TRL trained its copy too."""
    from trl import GRPOTrainer

    step = GRPOTrainer.training_step

    def moves(self: Any, *given: Any, **named: Any) -> Any:
        for name, each in self.model.named_parameters():
            if ".ref." in name:
                each.data.mul_(1.01)
        return step(self, *given, **named)

    monkeypatch.setattr(GRPOTrainer, "training_step", moves)
    with pytest.raises(TrainingFailed, match="tensors of the reference changed"):
        learn(trl_job(make_job, "moves", parent, "grpo", rlhf={"iterations": 1}))


def test_the_reference_must_be_the_parent_adapter(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if TRL put a new adapter beside the policy, which is the bare base."""
    from sovereign_pipeline.training.methods import trl as trl_steps

    def emptied(model: Any, *given: Any, **named: Any) -> None:
        for name, each in model.named_parameters():
            if ".ref." in name:
                each.data.zero_()

    monkeypatch.setattr(trl_steps, "check_adapters", emptied)
    with pytest.raises(TrainingFailed, match="tensors of TRL's reference are not those of the parent adapter"):
        learn(trl_job(make_job, "other", parent, "rloo"))


def test_a_sampler_of_another_distribution_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if generation had filled in a temperature of its own."""
    sample = rollouts.sample

    def hotter(*given: Any, **named: Any) -> Any:
        return sample(*given, **{**named, "temperature": 1.5 * named["temperature"]})

    monkeypatch.setattr(run, "sample", hotter)
    with pytest.raises(TrainingFailed, match="between the sampler and the update"):
        learn(trl_job(make_job, "hotter", parent, "rloo"))


@ALGORITHMS
def test_the_shaping_arguments_are_trl_s_defaults(algorithm: str) -> None:
    """Where a later TRL has others, somebody decides, and nothing changes unseen."""
    import trl

    from sovereign_pipeline.training.methods.trl import SHAPING

    defaults = getattr(trl, f"{algorithm.upper()}Config")
    fields = {name: field.default for name, field in defaults.__dataclass_fields__.items()}
    assert SHAPING[algorithm].items() <= fields.items()
