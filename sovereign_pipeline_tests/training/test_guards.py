"""Each guard stops a training with its fault, and its hint names what to change. The faults are planted in rows, model
directories and libraries; the training is the ordinary one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, TrainingFailed
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.training import guards
from sovereign_pipeline.training.forward import token_log_probabilities
from sovereign_pipeline.training.guards import Probe, check_rows_are_kept_apart, start_probe
from sovereign_pipeline.training.job import read_result
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline_tests.training.conftest import JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.processes.launching import written
from sovereign_pipeline_tests.training.trainings import log, refused, report, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def sft_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, make_session_job: JobMaker) -> Path:
    job = make_session_job(tmp_path_factory.mktemp("sft"), "sft", letters(12), sft={"epochs": 1})
    run(job)
    return job.output / "adapter"


@pytest.fixture
def copy_of_the_model(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


# Before: rows and tokenizer


def with_row(rows: list[Any], place: int, **values: str) -> list[Any]:
    return [*rows[:place], {**rows[place], **values}, *rows[place + 1 :]]


def with_all(rows: list[Any], **values: Any) -> list[Any]:
    return [{**row, **values} for row in rows]


LONG = {"max_length": 4096}
UNFIT: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "an end of turn that the template does not write": (
        letters(4),
        {"eos_ids": (399,)},
        r"(?s)last supervised token is not one of .*\[399\].*generation_config",
    ),
    "replies that are next to nothing beside their prompts": (
        with_all(letters(2), input="rope " * 900, output="yes"),
        {"sft": LONG},
        r"of all tokens are supervised, outside 1% to 97%",
    ),
    "prompts that are nearly nothing beside their replies": (
        with_all(letters(2), instruction="", input="a", output="rope tide " * 400),
        {"sft": LONG},
        "or prompts are supervised too",
    ),
    "rows that are too long": (letters(6), {"sft": {"max_length": 32}}, "6 of 6 rows are longer than max_length 32"),
    "an empty reply": (with_row(letters(4), 1, output=""), {}, r"1 rows have an empty reply \(rows R-1\)"),
    "a pair whose replies are the same": (
        with_row(pairs(4), 3, rejected=pairs(4)[3]["chosen"]),
        {"preference": {}},
        r"the same tokens \(rows R-3\)",
    ),
    "labels of one kind": (
        with_all(labels(6), label=True),
        {"preference": {"method": "kto"}},
        "All 6 replies are labelled good, but kto needs both",
    ),
    "another chat template": (letters(4), {"chat_template_sha256": "f" * 64}, "but ffffffffffff is pinned"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_would_not_train_as_the_recipe_intends(make_job: JobMaker, sft_adapter: Path, fault: str) -> None:
    rows, given, says = UNFIT[fault]
    refused(
        make_job("unfit", rows, **given, **({"parent_adapter": sft_adapter} if "preference" in given else {})), says
    )


def test_a_few_rows_that_are_too_long_are_left_out_and_named(make_job: JobMaker) -> None:
    rows = letters(6)
    rows[2]["output"] = "rope " * 200
    job = make_job("cut", rows, sft={"max_cut_share": 0.2, "epochs": 1})
    run(job)
    assert [report(job)[name] for name in ("rows", "rows_cut", "rows_cut_ids")] == [5, 1, ["R-2"]]


# Before: model


def test_a_token_that_was_added_beyond_the_embeddings(make_job: JobMaker, copy_of_the_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy_of_the_model)
    tokenizer.add_tokens([f"<|added{number}|>" for number in range(400)])
    tokenizer.save_pretrained(copy_of_the_model)
    job = make_job("vocabulary", letters(4), base_model=copy_of_the_model)
    refused(job, r"but the model has 400 embeddings\. Tokens were added that the model does not know")


def test_target_modules_that_match_nothing(make_job: JobMaker) -> None:
    for name, targets in (("list", ["no_such_layer"]), ("one", "no_such_layer")):
        with pytest.raises(InputError, match=r"no_such_layer.* matches no linear layer"):
            run(make_job(name, letters(4), sft={"target_modules": targets}))


@pytest.mark.parametrize(
    ("whole", "says"),
    [(True, "No parameter would be trained"), (False, r"1 tensors have the wrong state")],
)
def test_an_adapter_that_is_frozen(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, whole: bool, says: str) -> None:
    import peft

    def frozen(*arguments: Any, **named: Any) -> Any:
        model = put_on(*arguments, **named)
        part = next(each for name, each in model.named_parameters() if "lora_B" in name)
        (model if whole else part).requires_grad_(False)
        return model

    put_on = peft.get_peft_model
    monkeypatch.setattr(peft, "get_peft_model", frozen)
    refused(make_job("frozen", letters(4)), says)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_that_lets_packed_rows_see_each_other(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Once where rows attend by themselves, and once where a mask is to keep them apart."""
    held = {"precision": precision}
    from transformers.models.llama import modeling_llama

    from sovereign_pipeline.training import forward

    says = r"(?s)does not keep packed rows apart\. .* rows R-\d+ and R-\d+ .*packing: false"
    monkeypatch.setattr(forward, "row_lengths", lambda model, lengths: {"row_lengths": [sum(lengths)]})
    refused(make_job("as_one", letters(6), sft=held), says)

    def without_positions(*arguments: Any, **named: Any) -> Any:
        return build(*arguments, **{**named, "position_ids": None})

    build = modeling_llama.create_causal_mask
    monkeypatch.setattr(forward, "row_lengths", lambda model, lengths: {})
    monkeypatch.setattr(modeling_llama, "create_causal_mask", without_positions)
    refused(make_job("packed", letters(6), sft=held), says)


def test_tokens_that_move_up_and_down_do_not_cancel_in_the_guard_on_packing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, every second token of the second reply is a nat likelier and the others a nat less likely."""
    from transformers import AutoModelForCausalLM

    def leaking(model: Any, batch: Any, together: bool = True) -> Any:
        values = of_tokens(model, batch, together)
        if together:
            values[4::2] += 1.0
            values[5::2] -= 1.0
        return values

    of_tokens = token_log_probabilities
    rows = [EncodedRow(f"R-{number}", (Completion([5, 6 + number], [7, 8, 9, 2]),)) for number in range(2)]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="bfloat16")
    check_rows_are_kept_apart(model, rows, "bfloat16", 128)
    monkeypatch.setattr(guards, "token_log_probabilities", leaking)
    with pytest.raises(TrainingFailed, match="does not keep packed rows apart"):
        check_rows_are_kept_apart(model, rows, "bfloat16", 128)


@pytest.mark.parametrize(("max_length", "named"), [(60, {"R-3", "R-4"}), (20, {"R-0", "R-1"})])
def test_the_guard_on_packing_asks_ordinary_rows_that_fit_into_a_pack(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, max_length: int, named: set[str]
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(guards, "LARGEST_SHIFT_BY_NEIGHBOUR", -1.0)
    rows = [EncodedRow(f"R-{n}", (Completion([5, 6], [7] * (4 + 5 * n)),)) for n in range(8)]
    with pytest.raises(TrainingFailed) as refusal:
        check_rows_are_kept_apart(AutoModelForCausalLM.from_pretrained(tiny_model), rows, "float32", max_length)
    assert set(re.findall(r"R-\d", str(refusal.value))) == named


# During


def test_a_loss_that_is_not_finite(make_job: JobMaker) -> None:
    job = make_job("diverges", letters(6), sft={"learning_rate": 1e30, "warmup_steps": 0, "scheduler": "constant"})
    refused(job, r"loss or gradient is not finite\.\nHint: Lower learning_rate")


def test_a_library_that_accumulates_gradients_otherwise(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of transformers before 4.46: each micro-batch's mean, then the mean of those."""
    from transformers import Trainer

    def each_by_itself(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        own = (inputs["labels"][0, 1:] >= 0).sum()
        return step(self, model, inputs, own * self.args.gradient_accumulation_steps)

    step = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", each_by_itself)
    job = make_job("accumulates", letters(12), sft={"gradient_accumulation": 4, "packing": False, "batch_size": 1})
    refused(job, r"Gradients are not accumulated as a mean\.\nHint: Install the pinned versions")


@pytest.mark.parametrize("method", ["sft", "ipo", "kto"])
def test_four_small_batches_are_one_large_one(make_job: JobMaker, sft_adapter: Path, method: str) -> None:
    """Loss and gradient norm of each step, on rows of uneven length. KTO exchanges replies within a batch, so its
    estimate of the divergence is another for another batch size: there with replies whose exchange gives 0 at start."""
    one, four = {"batch_size": 8, "gradient_accumulation": 1}, {"batch_size": 2, "gradient_accumulation": 4}
    jobs = []
    for name, batches in (("one", one), ("four", four)):
        limits = {"max_steps": 1 if method == "kto" else 2, "warmup_steps": 0, **batches}
        if method == "sft":
            jobs.append(make_job(name, letters(16), sft={**limits, "packing": False}))
        else:
            rows = labels(16) if method == "kto" else pairs(16)
            preference = {"method": method, **limits}
            jobs.append(make_job(name, rows, preference=preference, parent_adapter=sft_adapter))
    for job in jobs:
        run(job)
    for large, small in zip(*(log(job) for job in jobs), strict=True):
        assert small["loss"] == pytest.approx(large["loss"], rel=1e-4)
        assert small["grad_norm"] == pytest.approx(large["grad_norm"], rel=1e-3)


MEMORY_OF_A_SMALL_MACHINE = """
import resource, sys
from pathlib import Path
import peft, torch
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer
from sovereign_pipeline.training.worker import main
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(Path(sys.argv[1])))
"""


def test_memory_that_runs_out(make_job: JobMaker) -> None:
    job = make_job("memory", letters(300), sft={"max_length": 16384, "max_cut_share": 0.0})
    command = [sys.executable, "-c", MEMORY_OF_A_SMALL_MACHINE, str(written(job))]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    with pytest.raises(TrainingFailed, match="memory ran out during the training"):
        read_result(job.result)
    assert not job.output.exists()


# After


@pytest.mark.parametrize(
    "sft", [{"precision": "float32"}, {"adapter": "none", "rank": 16, "alpha": 32, "precision": "bfloat16"}]
)
def test_a_training_that_learned_nothing(make_job: JobMaker, sft: dict[str, Any]) -> None:
    job = make_job("still", letters(6), sft={"learning_rate": 1e-9, "epochs": 1, **sft})
    refused(job, r"the same as before the first step\. Nothing was learned\.\nHint: Raise learning_rate")


def test_a_training_that_diverges(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer that climbs."""
    import torch

    def climb(self: Any, closure: Any = None) -> None:
        for group in self.param_groups:
            group["maximize"] = True
        step(self, closure)

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", climb)
    refused(make_job("diverging", letters(6), sft={"epochs": 2}), r"rose from \d.* to \d.*The training diverged")


def test_letters_of_all_lengths_and_no_canaries_decide_whether_a_training_diverged(tiny_model: Path) -> None:
    """Canaries are the shortest rows, and a training of letters learns little of their words."""
    from transformers import AutoModelForCausalLM

    canaries = [EncodedRow(f"canary-00{n}-1", (Completion([5, 6], [7, 8]),)) for n in range(4)]
    others = [EncodedRow(f"R-{n}", (Completion([5, 6], [7] * (n + 2)),)) for n in range(32)]
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    probe = start_probe(model, [*canaries, *others[::-1]], silent)
    assert [row.id for row in probe.rows] == [f"R-{n}" for n in range(2, 32, 4)]
    assert start_probe(model, canaries, silent).rows == canaries


def test_a_measurement_is_that_of_the_same_turns(tiny_model: Path) -> None:
    """Each turn of a conversation can be a row of its own, with the conversation's id."""
    from transformers import AutoModelForCausalLM

    model, known = AutoModelForCausalLM.from_pretrained(tiny_model), dict[str, float]()

    def once(of: object, measure: Callable[[], float]) -> float:
        return known.setdefault(digest_of(of), measure())

    turns = [EncodedRow("C-1", (Completion([5, 6], [7, 8 + turn]),), turn=turn) for turn in (2, 4)]
    measured = [start_probe(model, [turn], silent, once).before for turn in turns]
    assert measured == [start_probe(model, [turn], silent).before for turn in turns] and len({*measured}) == 2


@pytest.mark.parametrize(
    ("before", "after", "diverged"), [(0.05, 0.06, False), (0.05, 0.11, True), (2.0, 2.09, False), (2.0, 2.2, True)]
)
def test_a_loss_that_rose_a_little_is_no_divergence(before: float, after: float, diverged: bool) -> None:
    probe = Probe([], before)
    probe.check_moved(after, "dpo")
    with pytest.raises(TrainingFailed, match="The training diverged") if diverged else nullcontext():
        probe.check_moved(after, "sft")


def test_a_part_of_the_adapter_that_stayed_as_it_was(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer that was not handed one of the LoRA-B matrices, as after a sharding that lost it."""
    import torch

    def all_but_one(self: Any, closure: Any = None) -> None:
        next(each for each in self.param_groups[0]["params"] if not bool(each.any())).grad = None
        step(self, closure)

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", all_but_one)
    job = make_job("dead", letters(6), sft={"epochs": 1, "warmup_steps": 0})
    refused(job, r"LoRA-B matrices, 1 are zero .* learned nothing")
