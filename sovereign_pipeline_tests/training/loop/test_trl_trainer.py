"""TRL's trainers in this package's process: same start, same guards, same bytes after an interruption, and TRL's own
losses."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import OPTIMIZER_ARGUMENTS, REFUSED_TRAINERS, TRAINERS
from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.conftest import letters, pairs
from sovereign_pipeline_tests.training.trainings import files, losses, report, run

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
STEPS = {"gradient_accumulation": 2, "batch_size": 2, "warmup_steps": 0, "max_steps": 3, "epochs": 2}
FORMULAS: dict[str, dict[str, Any]] = {
    "orpo": {"trainer": "orpo", "arguments": {"beta": 0.2}},
    "simpo": {"trainer": "cpo", "arguments": {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5}},
    "apo": {"trainer": "dpo", "arguments": {"loss_type": "apo_zero", "weight_decay": 0.01}},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Path:
    """The SFT adapter that all of them start from."""
    job = make_session_job(tmp_path_factory.mktemp("start"), "sft", letters(16))
    run(job)
    return job.output / "adapter"


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
    import torch
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


@pytest.mark.parametrize("formula", ["orpo", "apo"])
def test_an_interrupted_training_resumes_to_the_same_bytes(make_job: JobMaker, start: Path, formula: str) -> None:
    """`apo` has a reference, a second adapter in the checkpoint."""
    settings: dict[str, Any] = {"preference": of(formula), "parent_adapter": start, "checkpoints": {"every_steps": 1}}
    whole, broken = (make_job(name, pairs(12), **settings) for name in ("whole", "broken"))
    run(whole)
    steps: list[Step] = []
    hooks = TrainerHooks(steps.append, lambda message: None, should_stop=lambda: len(steps) + 1 == 2)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 3"):
        train(broken, hooks)
    resumed = run(broken)
    assert [each.step for each in resumed] == [3]
    assert files(broken.output) == files(whole.output)


def test_the_reference_must_not_move(make_job: JobMaker, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if TRL trained its copy too."""
    from trl import DPOTrainer

    step = DPOTrainer.training_step

    def moves(self: Any, *arguments: Any, **named: Any) -> Any:
        for name, each in self.model.named_parameters():
            if ".ref." in name:
                each.data.mul_(1.01)
        return step(self, *arguments, **named)

    monkeypatch.setattr(DPOTrainer, "training_step", moves)
    job = make_job("moves", pairs(12), preference=of("apo"), parent_adapter=start)
    with pytest.raises(TrainingFailed, match="tensors of the reference changed"):
        run(job)
    assert not job.output.exists()


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
    with pytest.raises(TrainingFailed, match="has 0 tensors of a reference"):
        run(job)


def test_a_loss_that_is_accumulated_wrongly_is_found(
    make_job: JobMaker, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.experimental.orpo import ORPOTrainer

    monkeypatch.setattr(ORPOTrainer, "loss_is_scaled_for_ga", True)
    job = make_job("summed", pairs(12), preference=of("orpo"), parent_adapter=start)
    with pytest.raises(TrainingFailed, match="not accumulated as a mean"):
        run(job)


def test_what_trl_itself_refuses_is_told_to_the_recipe_s_author(make_job: JobMaker, start: Path) -> None:
    wrong = {"trainer": "dpo", "arguments": {"loss_type": "exo_pair"}}
    job = make_job("wrong", pairs(12), preference={**of("apo"), **wrong}, parent_adapter=start)
    with pytest.raises(TrainingFailed, match="refuses these arguments: Label smoothing must be greater than 0"):
        run(job)


def test_the_list_is_that_of_the_installed_trl() -> None:
    """Every argument is one of TRL's; every argument of TRL's is listed, or known to be refused."""
    from transformers import TrainingArguments

    from sovereign_pipeline.training.methods.trl import _classes

    common = {field.name for field in dataclasses.fields(TrainingArguments)}
    refused = {
        *("activation_offloading", "dataset_num_proc", "disable_dropout", "generate_during_eval", "is_encoder_decoder"),
        *("max_completion_length", "max_length", "model_init_kwargs", "pad_to_multiple_of", "pad_token"),
        *("padding_free", "padding_value", "precompute_ref_batch_size", "precompute_ref_log_probs"),
        *("ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef", "sync_ref_model"),
        *("truncation_mode", "trust_remote_code"),
    }
    for name, listed in TRAINERS.items():
        taken = {field.name for field in dataclasses.fields(_classes(name)[1])}
        assert set(listed.arguments) <= taken - common - refused, name
        assert set(OPTIMIZER_ARGUMENTS) <= taken
        assert taken - common <= refused | set(listed.arguments), name
        described = str(Preference.model_fields["arguments"].description)
        assert f"`{name}`: {', '.join(f'`{each}`' for each in listed.arguments)}" in " ".join(described.split())
    import trl
    import trl.experimental

    rooms = {
        path.name
        for path in Path(trl.experimental.__path__[0]).iterdir()
        if path.is_dir() and not path.name.startswith("_")
    }
    stable = {name.removesuffix("Trainer").lower() for name in trl.__all__ if name.endswith("Trainer")}
    assert rooms - {"bema_for_ref_model"} | stable == TRAINERS.keys() | REFUSED_TRAINERS.keys()
