"""The operations in a report are those that PyTorch counts while the training runs, and those of a sum by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline_tests.training.conftest import JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.methods.rewarded import job_by
from sovereign_pipeline_tests.training.trainings import report, run

EXACT = 1e-12
FIRST_LAYER = 0.5 / 2 * 0.15
"""Keys and values of the first of two layers have no gradient if they have no adapter: half of its attention's backward
pass, which is a sixth of all here."""
STOPS_EARLY = 0.002
"""PyTorch computes a layer again only up to the last value that the backward pass needs."""
PADDED = 0.01
"""TRL decides which positions are predicted, and computes their logits in tiles."""
VALUES = 0.0002
"""The value head is not counted: one word where the other head has 400."""


@contextmanager
def counted_by_torch(*functions: tuple[Any, str]) -> Iterator[list[int]]:
    """Count the operations within these functions, by PyTorch's own counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    totals: list[int] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inner(*given: Any, **named: Any) -> Any:
            # Attention as plain products: the counter knows no fused kernel of CPUs.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                found = function(*given, **named)
            totals.append(counter.get_total_flops())
            return found

        return inner

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in functions:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield totals


ROWS: list[tuple[str, dict[str, Any], dict[str, Any] | None, float]] = [
    ("LoRA", {}, None, EXACT),
    ("LoRA on some layers", {"target_modules": ["q_proj", "down_proj"]}, None, FIRST_LAYER),
    ("without packing", {"packing": False, "batch_size": 4}, None, EXACT),
    ("checkpointing", {"gradient_checkpointing": True}, None, STOPS_EARLY),
    ("full tuning", {"adapter": "none", "learning_rate": 1e-3, "rank": 16, "alpha": 32}, None, EXACT),
    ("DPO", {}, {"method": "dpo", "warmup_steps": 0}, EXACT),
    ("KTO", {}, {"method": "kto", "warmup_steps": 0}, EXACT),
    ("ORPO", {}, {"method": "trl", "trainer": "orpo", "warmup_steps": 0}, PADDED),
    ("TRL's DPO", {}, {"method": "trl", "trainer": "dpo", "warmup_steps": 0}, PADDED),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sft", "preference", "tolerance"), ROWS, ids=[each[0] for each in ROWS])
def test_the_report_has_the_operations_that_torch_counts(
    make_job: JobMaker,
    parent: Path,
    name: str,
    sft: dict[str, Any],
    preference: dict[str, Any] | None,
    tolerance: float,
) -> None:
    from transformers import Trainer

    from sovereign_pipeline.training.methods.preference import PreferenceBatches

    rows = {"dpo": pairs, "kto": labels, "trl": pairs}.get((preference or {}).get("method", ""), letters)(12)
    more: dict[str, Any] = {} if preference is None else {"parent_adapter": parent}
    job = make_job("job", rows, sft={"epochs": 2, "warmup_steps": 0, **sft}, preference=preference, **more)
    with counted_by_torch((Trainer, "training_step"), (PreferenceBatches, "know_references")) as totals:
        run(job)
    assert len(totals) > 1
    found = report(job)["compute"]
    assert found["flops"] == sum(found["flops_by_part"].values()) == pytest.approx(sum(totals), rel=tolerance)


ONE_STEP = {"epochs": 1, "minibatches": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "steps", "tolerance"),
    [
        ("ppo", {}, VALUES),
        ("ppo", {"cut_replies": "bootstrap"}, VALUES),
        ("grpo", {}, PADDED),
        ("grpo", ONE_STEP, PADDED),
    ],
)
def test_a_training_by_reward_counts_its_sampling_too(
    make_job: JobMaker, parent: Path, algorithm: str, steps: dict[str, Any], tolerance: float
) -> None:
    from transformers import Trainer

    from sovereign_pipeline.training.methods.ppo import PpoMethod

    job = job_by(algorithm, make_job, "job", parent, {"iterations": 2, **steps})
    inside = (PpoMethod, "_iterate") if algorithm == "ppo" else (Trainer, "training_step")
    with counted_by_torch(inside) as totals:
        run(job)
    found = report(job)["compute"]
    assert found["flops"] == pytest.approx(sum(totals), rel=tolerance)
    assert steps.get("cut_replies") is None or report(job, "rlhf")["cut_share"] > 0


@pytest.mark.slow
def test_a_reward_model_computes_no_logits(reward_model: TrainingJob) -> None:
    found = report(reward_model)
    assert found["compute"]["flops_by_part"]["head"] == 0 < found["compute"]["flops"] and found["tokens_trained"] > 0
