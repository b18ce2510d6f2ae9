"""What cannot fit is refused in one paragraph, and what that paragraph advises does fit."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training import preflight as memory
from sovereign_pipeline.training import trainer
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.preflight import (
    available_memory,
    check_host,
    host_memory,
    largest_pass,
    peak_bytes,
    preflight,
    rows_a_pass,
)
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline.training.sizing import Forward, estimate
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.tiny_reward import LEARNED, reward_job

GIB = 1 << 30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A config of some 350 million parameters, without weights."""
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000}
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def recipe(**values: Any) -> Sft:
    return Sft.model_validate({"precision": "float32", **values})


def refusal(model: Path, sft: Sft, available: int, **named: Any) -> str:
    with pytest.raises(TrainingFailed) as refused:
        preflight(model, sft, available_bytes=available, device="cpu", **named)
    return str(refused.value)


def test_what_fits_is_let_start_to_the_byte(model: Path) -> None:
    needed = estimate(read_shape(str(model)), recipe(), device="cpu").total
    preflight(model, recipe(), available_bytes=needed, device="cpu")
    assert "GiB are free" in refusal(model, recipe(), needed - 1)


def test_each_advice_fits_when_it_is_followed(model: Path) -> None:
    sft = recipe(batch_size=2, gradient_accumulation=2)
    available = 13 * GIB // 2
    said = refusal(model, sft, available)
    advised = re.findall(r"training\.sft\.(\w+): (\w+)", said)
    assert {name for name, _ in advised} == {"adapter", "batch_size", "gradient_checkpointing", "max_length"}
    for name, value in advised:
        changed = Sft.model_validate({**sft.model_dump(exclude_unset=True), name: yaml.safe_load(value)})
        preflight(model, changed, available_bytes=available, device="cpu")


def test_a_preference_stage_is_advised_on_its_own_section(model: Path) -> None:
    pairs = Preference.model_validate({"method": "kto", "max_length": 2048, "batch_size": 8})
    with pytest.raises(TrainingFailed, match=r"training\.preference\.batch_size: 2 .*gradient_accumulation"):
        preflight(model, recipe(), pairs, available_bytes=30 * GIB, device="cpu")


def limited(group: Path, names: tuple[str, str], limit: str, used: int, file: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / names[0]).write_text(f"{limit}\n")
    (group / names[1]).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {file}\n")


@pytest.mark.parametrize(
    ("listing", "folder", "names"),
    [
        ("0::/jobs/train\n", "sys/fs/cgroup", ("memory.max", "memory.current")),
        ("3:memory:/jobs/train\n0::/\n", "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_the_tightest_limit_above_this_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, folder: str, names: tuple[str, str]
) -> None:
    """Without a limit it is what the kernel calls available, and what this process holds besides mapped files."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    root = tmp_path
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemFree: 10 kB\nMemAvailable: 4000000 kB\n")
    (root / "proc/self/status").write_text("Name: python\nVmRSS: 1000 kB\nRssFile: 400 kB\n")
    (root / "proc/self/cgroup").write_text(listing)
    assert available_memory(root) == (4_000_600 << 10, "cpu")
    limited(root / folder / "jobs", names, str(2 * GIB), used=GIB, file=GIB // 4)
    limited(root / folder / "jobs/train", names, str(3 * GIB), used=GIB, file=0)
    assert available_memory(root) == (GIB + GIB // 4 + (1000 << 10), "cpu")
    assert host_memory(root) == 2 * GIB
    unlimited = "max" if "memory.max" in names else str(2**60)
    limited(root / folder / "jobs", names, unlimited, used=GIB, file=0)
    limited(root / folder / "jobs/train", names, unlimited, used=GIB, file=0)
    assert available_memory(root)[0] == 4_000_600 << 10
    assert host_memory(root) == 8_000_000 << 10


def test_of_several_cards_each_process_is_asked_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no card here, so torch's answers are given by hand: the first has 1 GiB free and the second 2 GiB."""
    import torch

    chosen = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: ((1 + chosen[-1]) * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    assert available_memory() == (GIB, "cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert available_memory() == (2 * GIB, "cuda")


@pytest.mark.parametrize(("adapter", "enough", "too_few"), [("none", 4, 3.96), ("lora", 2, 1.98), ("qlora", 1, 0.59)])
def test_a_host_that_cannot_hold_the_base_once_for_each_process_is_refused(
    model: Path, adapter: str, enough: float, too_few: float
) -> None:
    """enough, too_few: bytes of a parameter."""
    all_parameters = 8 * read_shape(str(model)).parameters
    sft = Sft.model_validate({"adapter": adapter, "precision": "bfloat16"})
    check_host(model, sft, 8, round(all_parameters * enough))
    check_host(model, sft, 1, 0)
    with pytest.raises(TrainingFailed, match="8 processes each load the whole base model"):
        check_host(model, sft, 8, round(all_parameters * too_few))


def test_several_trainers_ask_for_the_host_s_memory_before_they_load(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {"launcher": "accelerate", "count": 4}
    job = make_job("host", letters(6), devices=devices)
    parameters = read_shape(str(job.base_model)).parameters
    monkeypatch.setattr(trainer, "host_memory", lambda: 4 * 4 * parameters - 1)
    with pytest.raises(TrainingFailed, match="this host has"):
        train(job, TrainerHooks(on_step=lambda step: None, progress=lambda message: None))


def advised(job: TrainingJob, available: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the trainer says with so many bytes free: each value of the recipe that would fit, by its name."""
    monkeypatch.setattr(trainer, "available_memory", lambda: (available, "cpu"))
    with pytest.raises(TrainingFailed, match="are free") as refused:
        train(job, TrainerHooks(on_step=lambda step: None, progress=lambda message: None))
    return dict(re.findall(r"training\.\w+\.(\w+): (\w+)", str(refused.value)))


def needed(job: TrainingJob, rows: list[dict[str, str]], **values: int) -> int:
    from transformers import AutoTokenizer

    job = job.model_copy(update={"sft": job.sft.model_copy(update=values)})
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    plan = make_plan(job, [encode(tokenizer, "sft", row, job.eos_ids) for row in rows])
    return estimate(read_shape(str(job.base_model)), job.sft, device="cpu", forward=plan.largest_forward).total


def test_the_advice_is_worked_out_from_the_rows(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long row among short ones is as long in a batch of its own."""
    rows = letters(12)
    rows[5] = {**rows[5], "output": "rope tide " * 60}
    job = make_job("batches", rows, sft={"packing": False, "batch_size": 4, "max_length": 256, "epochs": 1})
    alone = needed(job, rows, batch_size=1)
    assert alone < needed(job, rows) < 1.9 * alone
    assert advised(job, alone, monkeypatch)["batch_size"] == "1"
    assert "batch_size" not in advised(job, alone - 1, monkeypatch)


SHORT_AND_ONE_LONG = [10] * 15 + [100]


def job_of(make_job: JobMaker, tmp_path: Path, **rlhf: Any) -> TrainingJob:
    """One reply to a prompt. Its packs have 128 tokens at most, its replies 16, and a minibatch 8 of these."""
    return reward_job(make_job, f"memory {len(rlhf)}", tmp_path, rlhf)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rlhf", "prompts", "largest"),
    [
        ({}, SHORT_AND_ONE_LONG, (128, 78)),  # four replies fit with their prompts, and of five, 128 − 5 · 10 tokens
        ({"group": 4}, SHORT_AND_ONE_LONG, (128, 108)),  # eight replies behind two prompts: 128 − 2 · 10
        ({"minibatches": 8}, SHORT_AND_ONE_LONG, (128, 32)),
        ({"minibatches": 8}, [10] * 16, (52, 32)),
        ({"algorithm": "rloo", "group": 4}, [10, 48], (128, 128)),  # TRL pads to the longest
        ({"algorithm": "rloo", "prompts": 2, "group": 3}, [10], (78, 78)),
    ],
)
def test_the_largest_pass_of_a_training_by_reward(
    make_job: JobMaker, tmp_path: Path, rlhf: dict[str, Any], prompts: list[int], largest: tuple[int, int]
) -> None:
    assert largest_pass(job_of(make_job, tmp_path, **rlhf), prompts) == Forward(*largest)


@pytest.mark.slow
def test_a_reward_model_is_a_third_adapter(make_job: JobMaker, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path)
    judged = reward_job(make_job, "judged", tmp_path, {"group": 1, "reward": [LEARNED]}, reward_model=tmp_path)
    adapter = estimate(read_shape(str(job.base_model)), job.sft, device="cpu").adapter
    assert peak_bytes(judged, [40], "cpu") - peak_bytes(job, [40], "cpu") == adapter > 0


@pytest.mark.slow
def test_trl_stores_the_logits_of_all_tokens_and_ours_stores_none_on_a_cpu(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, trls = job_of(make_job, tmp_path), job_of(make_job, tmp_path, algorithm="rloo", group=4)
    vocabulary = read_shape(str(ours.base_model)).vocabulary
    needed = {}
    for name, job in {"ours": ours, "trls": trls}.items():
        monkeypatch.undo()
        narrow, tokens = peak_bytes(job, [10, 48], "cpu"), largest_pass(job, [10, 48]).tokens
        monkeypatch.setattr(memory, "read_shape", lambda model: replace(read_shape(model), vocabulary=1 << 17))
        needed[name] = (peak_bytes(job, [10, 48], "cpu") - narrow) / ((1 << 17) - vocabulary) / tokens / 4
    assert 3.5 < needed["trls"] <= 3 + memory.FURTHER_LOGITS
    assert needed["ours"] < 2


@pytest.mark.slow
def test_trl_takes_as_many_replies_as_fit_and_divide_a_step(make_job: JobMaker, tmp_path: Path) -> None:
    """Of 32 replies a step, with prompts of at most 48 tokens, two of 64 tokens fit into 128."""
    job = job_of(make_job, tmp_path, algorithm="rloo", group=4)
    assert [rows_a_pass(job, prompts) for prompts in ([10, 48], [10], [112])] == [2, 4, 1]
    assert rows_a_pass(job_of(make_job, tmp_path, algorithm="rloo", prompts=2, group=3), [10]) == 3
