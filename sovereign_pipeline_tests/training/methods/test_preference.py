"""The losses have the papers' values where those are plain. That they are TRL's: `test_trainer.py`."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training.forward import reply_log_probabilities
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.methods import preference as preference_module
from sovereign_pipeline.training.methods.preference import kto_loss, pair_loss
from sovereign_pipeline_tests.training.conftest import JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.trainings import log, refused, run


def preference(**values: Any) -> Preference:
    return Preference.model_validate(values)


def test_a_policy_that_is_the_reference_starts_at_the_papers_values() -> None:
    import torch

    zero, lengths = torch.zeros(4), torch.tensor([3, 4, 5, 6])
    assert pair_loss(preference(), zero, lengths).losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert pair_loss(preference(method="ipo", beta=0.1), zero, lengths).losses.tolist() == pytest.approx([25.0] * 2)
    desirable = torch.tensor([True, False, True, False])
    kto = kto_loss(preference(method="kto", undesirable_weight=2.0), zero, desirable, torch.zeros(()))
    assert kto.losses.tolist() == pytest.approx([0.5, 1.0, 0.5, 1.0])


def test_kto_gains_from_good_replies_and_loses_from_bad_ones() -> None:
    """By hand, from equation 7 with beta 1 and a divergence of 0.5."""
    import torch

    ratios, desirable = torch.tensor([1.5, 1.5]), torch.tensor([True, False])
    kto = kto_loss(preference(method="kto", beta=1.0), ratios, desirable, torch.tensor(0.5))
    one = 1 / (1 + math.exp(-1.0))
    assert kto.losses.tolist() == pytest.approx([1 - one, one])
    assert kto.rewards.tolist() == pytest.approx([1.5, 1.5])


PREFERENCE = {"max_steps": 1, "warmup_steps": 0, "epochs": 1, "gradient_accumulation": 2}


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> list[Path]:
    """Two SFT adapters of different seeds."""
    made = []
    for seed in (7, 8):
        job = make_session_job(tmp_path_factory.mktemp("sft"), "sft", letters(12), {"epochs": 1}, seed=seed)
        run(job)
        made.append(job.output / "adapter")
    return made


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass that works out references: how many replies were in it."""
    counted: list[int] = []

    def count(model: Any, batch: Any, together: bool) -> list[float]:
        counted.append(len(batch))
        return of_batch(model, batch, together)

    of_batch = preference_module._of_batch
    monkeypatch.setattr(preference_module, "_of_batch", count)
    return counted


def kept(job: TrainingJob) -> list[Path]:
    return sorted(job.references.iterdir())


@pytest.mark.slow
def test_they_are_worked_out_once(make_job: JobMaker, adapters: list[Path], passes: list[int]) -> None:
    first, second, other = (
        make_job(name, pairs(8), preference=PREFERENCE, parent_adapter=adapters[start])
        for name, start in (("first", 0), ("second", 0), ("other", 1))
    )
    run(first)
    assert sum(passes) == 4 and len(kept(first)) == 1  # two pairs are trained
    run(second)
    assert sum(passes) == 4 and len(kept(first)) == 1
    assert (first.output / "training_log.jsonl").read_bytes() == (second.output / "training_log.jsonl").read_bytes()
    run(other)
    assert sum(passes) == 8 and len(kept(first)) == 2


FULL = {"adapter": "none", "rank": 16, "alpha": 32, "learning_rate": 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sft", "precision"),
    [
        ("dpo", FULL, "bfloat16"),
        ("kto", {"adapter": "lora"}, "bfloat16"),
        ("dpo", {"adapter": "qlora"}, "bfloat16"),
        ("dpo", {"dropout": 0.3}, "bfloat16"),
        ("kto", {"dropout": 0.3}, "float32"),
    ],
)
def test_policy_and_reference_are_the_same_before_the_first_step(
    make_job: JobMaker, trained: JobMaker, method: str, sft: dict[str, Any], precision: str
) -> None:
    """In every digit: as large a difference as between two precisions would be a preference that nobody has."""
    first = trained({**sft, "precision": precision})
    full = sft is FULL
    job = make_job(
        "preferences",
        labels(12) if method == "kto" else pairs(12),
        sft=first.sft.model_dump(exclude_unset=True),
        preference={"method": method, "max_steps": 1, "batch_size": 4, "warmup_steps": 0},
        base_model=first.output / "model" if full else first.base_model,
        parent_adapter=None if full else first.output / "adapter",
    )
    run(job)
    (step,) = log(job)
    rewards = {name: value for name, value in step.items() if name.startswith("rewards/") or name == "kl"}
    assert len(rewards) == (3 if method == "kto" else 2) and not any(rewards.values()), rewards


@pytest.mark.slow
def test_a_dropout_that_a_module_holds_as_a_number_is_switched_off_and_one_held_elsewhere_refused(
    make_job: JobMaker, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As architectures do whose layers call torch's function."""
    from torch.nn.functional import dropout
    from transformers.models.llama.modeling_llama import LlamaMLP

    elsewhere: list[float] = []

    def dropped(self: Any, states: Any) -> Any:
        return dropout(forward(self, states), p=(elsewhere or [self.resid_pdrop])[0], training=self.training)

    def initialised(self: Any, *given: Any) -> None:
        initialise(self, *given)
        self.resid_pdrop = 0.5

    forward, initialise = LlamaMLP.forward, LlamaMLP.__init__
    monkeypatch.setattr(LlamaMLP, "__init__", initialised)
    monkeypatch.setattr(LlamaMLP, "forward", dropped)
    job = make_job("held", pairs(8), preference=PREFERENCE, parent_adapter=adapters[0])
    run(job)
    assert log(job)[0]["rewards/margins"] == 0
    elsewhere.append(0.1)
    refused(make_job("elsewhere", pairs(8), preference=PREFERENCE, parent_adapter=adapters[0]), "Two passes of one row")


@pytest.mark.slow
def test_a_changed_file_is_computed_again(make_job: JobMaker, adapters: list[Path]) -> None:
    first, second = (
        make_job(name, pairs(4), preference=PREFERENCE, parent_adapter=adapters[0]) for name in ("first", "second")
    )
    run(first)
    (file,) = kept(first)
    whole = file.read_bytes()
    content = json.loads(whole)
    content["values"][next(iter(content["values"]))] += 1e-3
    for changed in (json.dumps({**content, "sha256": digest_of(content["values"])}).encode(), whole[:50]):
        file.write_bytes(changed)
        run(second)
        assert file.read_bytes() == whole
        shutil.rmtree(second.output)


@pytest.mark.slow
def test_references_that_are_not_finite_stop_the_training(
    make_job: JobMaker, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        sums, tokens = log_probabilities(*arguments)
        return sums / 0, tokens

    log_probabilities = reply_log_probabilities
    monkeypatch.setattr(preference_module, "reply_log_probabilities", broken)
    job = make_job("broken", pairs(4), preference=PREFERENCE, parent_adapter=adapters[0])
    refused(job, "not finite before the first step")
    assert not list(job.references.glob("*.json"))
