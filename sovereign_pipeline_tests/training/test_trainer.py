"""Each method learns, continues from what it is given, and makes the same bytes twice."""

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline_tests.tiny_model import TEMPLATE
from sovereign_pipeline_tests.training.conftest import JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.trainings import files, logit_change, losses, refused, report, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("adapter", "precision", "base_held_as"),
    [
        ("lora", "float32", "float32"),
        ("lora", "bfloat16", "bfloat16"),
        ("qlora", "bfloat16", "nf4, double quantisation"),
    ],
)
def test_sft_learns_and_its_adapter_loads(
    make_job: JobMaker, tiny_model: Path, adapter: str, precision: str, base_held_as: str
) -> None:
    job = make_job("sft", letters(24), sft={"adapter": adapter, "precision": precision})
    steps = run(job)
    curve = losses(job)
    assert steps[-1].step == steps[-1].steps == len(curve)
    assert curve[-1] < 0.8 * curve[0]
    assert sorted(files(job.output / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert logit_change(tiny_model, job.output / "adapter") > 0.1
    assert report(job)["optimizer"] == "torch.optim.adamw.AdamW"
    assert report(job)["base_held_as"] == base_held_as
    assert report(job)["precision"] == precision
    assert report(job)["trainable_parameters"] == 2 * 4 * (6 * 64 + 2 * (64 + 32) - 2 * 64 + 3 * (64 + 128))


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_steps_are_those_of_trl_on_padded_batches(
    make_job: JobMaker, trained: JobMaker, tiny_model: Path, method: str
) -> None:
    """The same rows in the same order: the loss of each of three steps equals TRL's, so the gradients do too."""
    first = trained()
    rows: list[dict[str, Any]] = [*labels(12)] if method == "kto" else [*pairs(12)]
    preference = {"method": method, "batch_size": 4, "gradient_accumulation": 1, "warmup_steps": 0, "max_steps": 3}
    job = make_job("ours", rows, preference=preference, parent_adapter=first.output / "adapter")
    run(job)
    assert files(first.output)["adapter/adapter_config.json"] == files(job.output)["adapter/adapter_config.json"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    order = [row.id for row in make_plan(job, [encode(tokenizer, method, row, job.eos_ids) for row in rows]).rows]
    by_id = {row["id"]: row for row in rows}
    assert losses(job) == pytest.approx(_losses_of_trl(job, [by_id[each] for each in order], first.output), rel=2e-4)


def _losses_of_trl(job: TrainingJob, rows: list[dict[str, Any]], start: Path) -> list[float]:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    assert job.preference is not None
    base = AutoModelForCausalLM.from_pretrained(job.base_model, dtype="float32")
    model: Any = PeftModel.from_pretrained(base, start / "adapter", is_trainable=True)
    arguments: dict[str, Any] = {
        "output_dir": str(job.output.with_name("trl")),
        "per_device_train_batch_size": 4,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 1,
        "beta": job.preference.beta,
        "train_sampling_strategy": "sequential",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }

    def turn(role: str, content: object) -> list[dict[str, object]]:
        return [{"role": role, "content": content}]

    def conversation(row: dict[str, Any]) -> dict[str, Any]:
        replies: dict[str, Any] = {
            name: turn("assistant", row[name]) for name in ("chosen", "rejected", "completion") if name in row
        }
        return {"prompt": turn("user", row["prompt"]), **replies, **({"label": row["label"]} if "label" in row else {})}

    dataset = Dataset.from_list([conversation(row) for row in rows])
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    # TRL also trains what a template puts behind the end of the turn; ours does not, so here there is nothing behind.
    behind = "('' if message['role'] == 'assistant' else '\n')"
    tokenizer.chat_template = TEMPLATE.replace("'<|im_end|>' + '\n'", f"'<|im_end|>' + {behind}")
    assert tokenizer.chat_template != TEMPLATE
    make: Any = KTOTrainer
    config: Any = KTOConfig(**arguments)
    if job.method != "kto":
        make, config = DPOTrainer, DPOConfig(**arguments, loss_type=["sigmoid" if job.method == "dpo" else "ipo"])
    trainer = make(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("method", "start"), [("dpo", 0.6931), ("kto", 0.5)])
def test_full_tuning_makes_a_whole_model_and_preferences_go_on_from_it(
    make_job: JobMaker, trained: JobMaker, tiny_model: Path, method: str, start: float
) -> None:
    full = {"adapter": "none", "rank": 16, "alpha": 32, "learning_rate": 2e-3}
    first = trained(full)
    assert losses(first)[-1] < 0.8 * losses(first)[0]
    tuned = first.output / "model"
    base_files = {file.name for file in tiny_model.iterdir()}
    assert {file.name for file in tuned.iterdir()} == base_files
    assert (tuned / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    tensors = load_file(tuned / "model.safetensors")
    assert report(first)["trainable_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    rows = labels(12) if method == "kto" else pairs(12)
    preference = {"method": method, "batch_size": 4, "gradient_accumulation": 1, "warmup_steps": 0}
    job = make_job("aligned", rows, sft=full, preference=preference, base_model=tuned)
    run(job)
    assert losses(job)[0] == pytest.approx(start, rel=1e-3) and losses(job)[-1] < start
    assert not (job.output / "adapter").exists()


@pytest.mark.parametrize("shape", [{"rslora": True}, {"dora": True}, {"target_modules": ["q_proj", "v_proj"]}])
def test_other_shapes_of_an_adapter_learn_too(make_job: JobMaker, tiny_model: Path, shape: dict[str, Any]) -> None:
    job = make_job("shaped", letters(16), sft=shape)
    run(job)
    assert losses(job)[-1] < 0.9 * losses(job)[0]
    assert logit_change(tiny_model, job.output / "adapter") > 0.1
    config = json.loads((job.output / "adapter" / "adapter_config.json").read_bytes())
    assert (config["use_rslora"], config["use_dora"]) == (shape.get("rslora", False), shape.get("dora", False))


def test_sft_goes_on_from_an_earlier_adapter_with_its_own_dropout(
    make_job: JobMaker, trained: JobMaker, tmp_path: Path
) -> None:
    """All start from the same tensors, so only dropout can make the first loss another."""
    first = trained()
    begin = []
    for earlier, now in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
        start = Path(shutil.copytree(first.output / "adapter", tmp_path / f"start-{earlier}-{now}"))
        config = start / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_bytes()), "lora_dropout": earlier}))
        job = make_job(f"from-{earlier}-to-{now}", letters(16), sft={"dropout": now, "epochs": 1}, parent_adapter=start)
        run(job)
        made = json.loads((job.output / "adapter" / "adapter_config.json").read_bytes())
        assert made["lora_dropout"] == now
        begin.append(losses(job)[0])
    assert begin[0] < 0.8 * losses(first)[0]
    assert begin[0] == begin[1] != begin[2]


@pytest.mark.parametrize("adapter", ["qlora", "none"])
def test_the_same_job_makes_the_same_bytes(make_job: JobMaker, adapter: str) -> None:
    shape = {"rank": 16, "alpha": 32} if adapter == "none" else {"dropout": 0.1}
    sft = {"adapter": adapter, "epochs": 2, **shape}
    one, two = (make_job(name, letters(12), sft) for name in ("a", "b"))
    for job in (one, two):
        run(job)
    assert files(one.output) == files(two.output)
    assert not any(str(one.base_model).encode() in content for content in files(one.output).values())


def test_one_device_is_one_where_a_host_shows_two(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would take both GPUs of a host into one process; here its own count is raised to two."""
    from transformers import TrainingArguments

    alone, beside = (make_job(name, letters(12), sft={"epochs": 4, "packing": False}) for name in ("alone", "beside"))
    run(alone)
    found = TrainingArguments._setup_devices.func

    def with_two(self: Any) -> Any:
        device = found(self)
        self._n_gpu = 2
        return device

    counted = cached_property(with_two)
    counted.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", counted)
    run(beside)
    assert losses(beside) == losses(alone) and files(beside.output) == files(alone.output)


def test_other_batches_than_planned_are_not_trained(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "train_batch_size", property(lambda self: 2))
    job = make_job("other", letters(12), sft={"epochs": 1, "packing": False})
    refused(job, "plan has 12 steps of 1 rows or packs each, but transformers counts 6")


def test_an_end_that_nobody_asked_for_is_not_called_one(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers ends by itself when its data run out before their time."""
    from transformers import DefaultFlowCallback

    def ends(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
        control.should_training_stop = state.global_step == 2

    monkeypatch.setattr(DefaultFlowCallback, "on_step_end", ends)
    job = make_job("short", letters(12), sft={"epochs": 1, "packing": False})
    refused(job, "ended after step 2 of 12 without a request to stop")
