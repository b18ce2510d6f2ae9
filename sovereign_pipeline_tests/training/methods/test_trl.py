"""TRL's trainers in this package's process: same start, same guards, same bytes after an interruption, and TRL's own
losses."""

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import OPTIMIZER_ARGUMENTS, TRAINERS
from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf import rewards
from sovereign_pipeline.training.rlhf import run as run_module
from sovereign_pipeline_tests.training.conftest import WORDS, JobMaker, pairs
from sovereign_pipeline_tests.training.methods.rewarded import job_by
from sovereign_pipeline_tests.training.tiny_reward import LIKE_THE_REPLY, reward
from sovereign_pipeline_tests.training.trainings import files, learn, losses, refused, report, run, stopped

pytestmark = pytest.mark.slow

STEPS = {"gradient_accumulation": 2, "batch_size": 2, "warmup_steps": 0, "max_steps": 3, "epochs": 2}
FORMULAS: dict[str, dict[str, Any]] = {
    "orpo": {"trainer": "orpo", "arguments": {"beta": 0.2}},
    "simpo": {"trainer": "cpo", "arguments": {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5}},
    "apo": {"trainer": "dpo", "arguments": {"loss_type": "apo_zero", "weight_decay": 0.01}},
}


@pytest.fixture
def start(trained: JobMaker) -> Path:
    """The SFT adapter that all of them start from."""
    return trained().output / "adapter"


def of(formula: str, **changes: Any) -> dict[str, Any]:
    return {"method": "trl", **STEPS, **FORMULAS[formula], **changes}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_trainer_starts_at_the_sft_adapter_and_its_report_says_whose_numerics_ran(
    make_job: JobMaker, start: Path, formula: str
) -> None:
    job = make_job(formula, pairs(12), preference=of(formula), parent_adapter=start)
    run(job)
    assert sorted(files(job.output)) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "report.json",
        "training_log.jsonl",
    ]
    assert (start / "adapter_config.json").read_bytes() == files(job.output)["adapter/adapter_config.json"]
    said = report(job)
    assert said["method"] == "trl" and not said["packing"] and said["attention"] == "sdpa"
    assert said["trl"]["trainer"].endswith({"orpo": "ORPOTrainer", "simpo": "CPOTrainer", "apo": "DPOTrainer"}[formula])
    assert said["trl"]["stability"] == ("stable" if formula == "apo" else "experimental")
    given = FORMULAS[formula]["arguments"]
    assert (
        given.items() <= {**said["trl"]["arguments"], **({"loss_type": "apo_zero"} if formula == "apo" else {})}.items()
    )
    assert losses(job)[0] == pytest.approx(_first_loss(job, start, formula), rel=1e-4)


def _first_loss(job: TrainingJob, start: Path, formula: str) -> float:
    """The formula of the paper, on the first step's four pairs, with the SFT adapter as policy and as reference."""
    if formula == "apo":
        return 1.0  # 1 - sigmoid(0) + sigmoid(0): policy and reference are the same
    from peft import PeftModel
    from torch.nn.functional import logsigmoid
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sovereign_pipeline.training.plan import make_plan
    from sovereign_pipeline.training.rows import encode

    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    rows = [json.loads(line) for line in job.dataset.read_text().splitlines()]
    order = make_plan(job, [encode(tokenizer, "trl", row, job.eos_ids) for row in rows]).rows[:4]
    base = AutoModelForCausalLM.from_pretrained(job.base_model, dtype="float32")
    model: Any = PeftModel.from_pretrained(base, start).eval()

    def tokens(ids: list[int], first: int) -> Any:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1]
        return -torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first:]), reduction="none")

    found = []
    for batch in (order[:2], order[2:]):  # each batch's mean, then the mean of both
        means = [[tokens(each.ids, len(each.prompt_ids)).mean() for each in row.completions] for row in batch]
        if formula == "simpo":
            found.append(torch.stack([-logsigmoid(2.0 * (good - bad) - 0.5) for good, bad in means]).mean())
            continue
        odds = [(good - bad) - (torch.log1p(-torch.exp(good)) - torch.log1p(-torch.exp(bad))) for good, bad in means]
        # TRL takes the likelihood over prompt and reply, all tokens of the batch together.
        likelihood = torch.cat([tokens(row.completions[0].ids, 1) for row in batch]).mean()
        found.append(-likelihood - 0.2 * torch.stack([logsigmoid(each) for each in odds]).mean())
    return float(sum(found) / 2)


def test_an_interrupted_training_resumes_to_the_same_bytes(make_job: JobMaker, start: Path) -> None:
    """With a reference, a second adapter in the checkpoint."""
    settings: dict[str, Any] = {"preference": of("apo"), "parent_adapter": start, "checkpoints": {"every_steps": 1}}
    whole, broken = (make_job(name, pairs(12), **settings) for name in ("whole", "broken"))
    run(whole)
    assert [each.step for each in run(stopped(broken, after=2))] == [3]
    assert files(broken.output) == files(whole.output)


@pytest.mark.parametrize("trainer", ["DPOTrainer", "GRPOTrainer"])
def test_the_reference_must_not_move(
    make_job: JobMaker, start: Path, parent: Path, monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
    """As if TRL trained its copy too."""
    import trl

    step = getattr(trl, trainer).training_step

    def moves(self: Any, *arguments: Any, **named: Any) -> Any:
        for name, each in self.model.named_parameters():
            if ".ref." in name:
                each.data.mul_(1.01)
        return step(self, *arguments, **named)

    monkeypatch.setattr(getattr(trl, trainer), "training_step", moves)
    if trainer == "DPOTrainer":
        job = make_job("moves", pairs(12), preference=of("apo"), parent_adapter=start)
    else:
        job = job_by("grpo", make_job, "moves", parent, {"iterations": 1})
    refused(job, "tensors of the reference changed")


def test_the_bare_base_is_no_reference(make_job: JobMaker, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As peers have it, which switch the adapter off; here TRL's copy is kept from being made."""
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "add_adapter", lambda self, name, config: None)
    monkeypatch.setattr(
        PeftModel,
        "get_parameter",
        lambda self, name: self.get_submodule("").state_dict()[name.replace(".ref.", ".default.")],
    )
    job = make_job("bare", pairs(12), preference=of("apo"), parent_adapter=start)
    refused(job, "its reference has 0 tensors")


def test_a_loss_that_is_accumulated_wrongly_is_found(
    make_job: JobMaker, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.experimental.orpo import ORPOTrainer

    monkeypatch.setattr(ORPOTrainer, "loss_is_scaled_for_ga", True)
    job = make_job("summed", pairs(12), preference=of("orpo"), parent_adapter=start)
    refused(job, "not accumulated as a mean")


def test_what_trl_itself_refuses_is_told_to_the_recipe_s_author(make_job: JobMaker, start: Path) -> None:
    wrong = {"trainer": "dpo", "arguments": {"loss_type": "exo_pair"}}
    job = make_job("wrong", pairs(12), preference={**of("apo"), **wrong}, parent_adapter=start)
    refused(job, "rejects these arguments: Label smoothing must be greater than 0")


def test_every_listed_argument_is_one_of_the_installed_trl_and_described() -> None:
    from sovereign_pipeline.training.methods.trl import _classes

    described = " ".join(str(Preference.model_fields["arguments"].description).split())
    for name, listed in TRAINERS.items():
        taken = {field.name for field in dataclasses.fields(_classes(name)[1])}
        assert {*listed.arguments, *OPTIMIZER_ARGUMENTS} <= taken, name
        assert f"`{name}`: {', '.join(f'`{each}`' for each in listed.arguments)}" in described


ABSTAINS = LIKE_THE_REPLY.replace("def score", "def judged") + (
    "\ndef score(rows):\n"
    "    return [None if len(row['reply']) % 2 else each for row, each in zip(rows, judged(rows))]\n"
)
"""For about every second reply."""


@pytest.mark.security_case("A reward's tool fails during a training by TRL", "the training stops; no score is invented")
def test_a_tool_that_raises_stops_the_training(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second iteration on the sandbox runs a program that raises."""
    score, ended = rewards.ToolRunner.scores, run_module.RewardedMethod._ended
    iterations: list[int] = []

    def broken(self: Any, replies: Any) -> Any:
        if iterations:
            self._program = "def score(rows):\n    raise ValueError(rows[0]['reply'])\n"
        return score(self, replies)

    def counted(self: Any, *given: Any) -> None:
        ended(self, *given)
        iterations.append(1)

    monkeypatch.setattr(rewards.ToolRunner, "scores", broken)
    monkeypatch.setattr(run_module.RewardedMethod, "_ended", counted)
    job = job_by("rloo", make_job, "broken", parent)
    with pytest.raises(TrainingFailed, match=r"the tool failed with ValueError") as caught:
        learn(job)
    assert len(iterations) == 1 and "officer" not in str(caught.value)
    assert not job.output.exists()


@pytest.mark.security_case(
    "A reward's tool abstains during a training by TRL", "no log contains the prompt or the reply"
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
        outputs.append((generate(self, inputs), self._method.rewarded(self._asked, self._rollouts)))
        return outputs[-1][0]

    monkeypatch.setattr(steps, "_generate_and_score_completions", kept)
    monkeypatch.setattr(logging.getLogger("trl"), "propagate", True)
    job = job_by(
        "grpo",
        make_job,
        "abstains",
        parent,
        {"reward": [reward(program="abstains.py")], "gold": [reward()], "iterations": 1},
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
    with pytest.raises(TrainingFailed, match="tensors of TRL's reference differ from the parent adapter's"):
        learn(job_by("rloo", make_job, "other", parent))
