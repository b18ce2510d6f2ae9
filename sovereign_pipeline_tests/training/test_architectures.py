"""Every family of models trains through the same code, packed where it keeps rows apart, and its adapter loads back.

What transformers 5.24 and peft 0.21 lack, as seen here:
- Falcon-H1 (as every model with Mamba layers) does not keep packed rows apart: positions that start again do not reset
  its state. The guard refuses to pack it. PEFT refuses LoRA on its `out_proj`, which `all-linear` therefore leaves out.
- Experts are one tensor of three dimensions. PEFT 0.21 finds Mixtral's and Qwen's under `all-linear` by itself and not
  Gemma 4's; dropout and DoRA do not work on them; bitsandbytes does not hold them in NF4.
- Gemma 3 and 4 above the smallest come with a vision tower, which `all-linear` in PEFT means as well; ours does not.
- Gemma 2 has no scaled-dot-product attention there, so it does not load and is no family of this test.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.forward import packed, passes_in, reply_log_probabilities, row_lengths, use_row_by_row
from sovereign_pipeline.training.guards import check_rows_are_kept_apart
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline_tests.families import PACKED, configuration
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import JobMaker, letters, pairs
from sovereign_pipeline_tests.training.trainings import learn, load, logit_change, logits, losses, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Mapping[str, Path]:
    """Of each family a tiny random model with the tokenizer of the tiny Llama, as an ordinary directory."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    root = tmp_path_factory.mktemp("families")
    directories = {}
    for name in (*PACKED, "falcon_h1"):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(configuration(name)[0])
        model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=0, bos_token_id=1)
        directories[name] = root / name
        model.save_pretrained(directories[name])
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(tiny_model / file, directories[name] / file)
    return directories


FEW_STEPS = {"max_steps": 6, "epochs": 6, "max_length": 128}


@pytest.mark.parametrize("name", PACKED)
def test_lora_reaches_every_linear_layer_learns_and_loads_back(
    make_job: JobMaker, families: Mapping[str, Path], name: str
) -> None:
    from safetensors.torch import load_file

    job = make_job(name, letters(16), sft=FEW_STEPS, base_model=families[name])
    run(job)
    curve = losses(job)
    assert len(curve) == 6 and curve[-1] < 0.95 * curve[0]
    assert logit_change(families[name], job.output / "adapter") > 1e-2
    tensors = load_file(job.output / "adapter" / "adapter_model.safetensors")
    modules = {tensor.removesuffix(".lora_B.weight") for tensor in tensors if tensor.endswith(".lora_B.weight")}
    ends = configuration(name)[1]
    assert all(any(module.endswith(f".{end}") for end in ends) for module in modules), modules
    assert all(any(module.endswith(f".{end}") for module in modules) for end in ends), modules
    assert not any("vision" in module for module in modules)


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_have_the_log_probabilities_they_have_alone(families: Mapping[str, Path], name: str) -> None:
    """Alone means: one row, no positions given, all logits; so windows, caps and scales are the model's own."""
    import torch

    model = load(families[name])
    places = torch.Generator().manual_seed(3)
    rows = [
        Completion(*(torch.randint(3, 250, (length,), generator=places).tolist() for length in lengths))
        for lengths in ((20, 12), (15, 25), (9, 30))
    ]
    with torch.no_grad():
        together, tokens = reply_log_probabilities(model, packed(rows))
        alone = []
        for row in rows:
            ids = torch.tensor([row.ids])
            scores = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
            chosen = scores.gather(1, ids[0, 1:, None])[:, 0]
            alone.append(float(chosen[-len(row.reply_ids) :].sum()))
    assert tokens.tolist() == [12, 25, 30]
    assert together.tolist() == pytest.approx(alone, abs=2e-3)


@pytest.mark.parametrize("longest", [8, 30])
@pytest.mark.parametrize("name", PACKED)
def test_rows_that_attend_by_themselves_learn_what_they_learn_under_the_mask(
    families: Mapping[str, Path], name: str, longest: int
) -> None:
    """Rows of 8 fit the windows of these models and those of 30 do not, for which only the mask is right."""
    import torch

    model = load(families[name])
    places = torch.Generator().manual_seed(4)
    rows = [
        Completion(*(torch.randint(3, 250, (length,), generator=places).tolist() for length in lengths))
        for lengths in ((3, 2), (1, 1), (2, longest - 2))
    ]

    def losses_and_gradient() -> tuple[list[float], Any]:
        model.zero_grad()
        found, _ = reply_log_probabilities(model, packed(rows))
        found.sum().backward()
        return found.tolist(), model.get_input_embeddings().weight.grad.clone()

    under_the_mask = losses_and_gradient()
    use_row_by_row(model)
    given = row_lengths(model, [len(row) for row in rows])
    windowed = model.config.get_text_config().to_dict().get("sliding_window") is not None
    assert bool(given) == (name != "falcon" and not (windowed and longest > 8))
    by_themselves = losses_and_gradient()
    assert by_themselves[0] == pytest.approx(under_the_mask[0], abs=1e-3)
    assert torch.allclose(by_themselves[1], under_the_mask[1], atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_guard_reads_before_training_leaves_the_gradients_through_nf4_as_they_were(
    make_job: JobMaker, families: Mapping[str, Path], precision: str
) -> None:
    """On CPUs with bfloat16 units bitsandbytes would pack the weights there for an operation without a backward."""
    import torch

    model = load_trainable(
        make_job("llama", letters(4), sft={"adapter": "qlora", "precision": precision}, base_model=families["llama"]),
        lambda message: None,
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.01)

    def gradients() -> list[Any]:
        model.train().zero_grad()
        with passes_in(precision, "cpu"):
            logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
        logits.float().square().sum().backward()
        return [each.grad.clone() for _, each in model.named_parameters() if each.grad is not None]

    before = gradients()
    with torch.no_grad(), passes_in(precision, "cpu"):
        model.eval()(input_ids=torch.tensor([[5, 6, 7, 8]]))
    after = gradients()
    assert len(before) == len(after) > 10
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["gemma3", "gemma4_with_vision", "mixtral", "falcon", "falcon_h1"])
def test_the_head_that_is_used_on_gpus_gives_the_same(families: Mapping[str, Path], name: str) -> None:
    """Of TRL, in tiles; here its form for other devices. Caps and multipliers of the logits are worked out anew."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    model, ids = load(families[name]), torch.tensor([[5, 6, 7, 8]])
    expected = torch.log_softmax(logits(model), dim=-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    add_fused_lm_head(model)
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False, labels=ids, fused_lm_head=True).log_probs[0]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_the_cap_on_gemmas_logits_counts(families: Mapping[str, Path], name: str) -> None:
    """Without the cap of 2.0 the numbers of the test above would be others, so it would not be missed."""
    assert float(logits(load(families[name])).abs().max()) <= 2.0


@pytest.mark.parametrize("name", ["gemma3", "gemma4_moe", "qwen3", "mixtral", "falcon"])
def test_qlora_trains_on_the_base_in_nf4(make_job: JobMaker, families: Mapping[str, Path], name: str) -> None:
    job = make_job(name, letters(16), sft={**FEW_STEPS, "adapter": "qlora"}, base_model=families[name])
    told = learn(job)
    curve = losses(job)
    assert curve[-1] < 0.95 * curve[0]
    assert logit_change(families[name], job.output / "adapter") > 1e-2
    assert any("experts" in message for message in told) == (name in ("gemma4_moe", "mixtral"))


@pytest.mark.parametrize("name", ["gemma3", "gemma4_with_vision", "qwen3", "mixtral", "falcon"])
def test_full_tuning_writes_a_model_that_loads(make_job: JobMaker, families: Mapping[str, Path], name: str) -> None:
    full = {**FEW_STEPS, "adapter": "none", "learning_rate": 3e-3, "rank": 16, "alpha": 32}
    job = make_job(name, letters(16), sft=full, base_model=families[name])
    run(job)
    curve = losses(job)
    assert curve[-1] < 0.95 * curve[0]
    assert float((logits(load(job.output / "model")) - logits(load(families[name]))).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["gemma4", "gemma3_with_vision", "qwen3_moe", "mixtral", "falcon"])
def test_dpo_goes_on_from_the_adapter(make_job: JobMaker, families: Mapping[str, Path], name: str) -> None:
    first = make_job("sft", letters(16), sft={**FEW_STEPS, "max_steps": 2}, base_model=families[name])
    run(first)
    job = make_job(
        "dpo",
        pairs(8),
        preference={"learning_rate": 1e-2, "max_steps": 4, "epochs": 2, "gradient_accumulation": 2, "warmup_steps": 0},
        base_model=families[name],
        parent_adapter=first.output / "adapter",
    )
    run(job)
    curve = losses(job)
    assert curve[0] == pytest.approx(0.6931, abs=1e-3) and curve[-1] < 0.65
    assert logit_change(families[name], job.output / "adapter") > 1e-2


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_guard_on_packing_lets_every_family_pass_that_keeps_rows_apart(
    families: Mapping[str, Path], name: str, precision: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(families[name], dtype=precision, attn_implementation="sdpa")
    use_row_by_row(model)
    ids = torch.Generator().manual_seed(3)
    rows = [
        EncodedRow(
            f"R-{length}", (Completion(*(torch.randint(3, 250, (length,), generator=ids).tolist() for _ in "ab")),)
        )
        for length in (9, 20, 31, 45)
    ]
    with passes_in(precision, "cpu"):
        check_rows_are_kept_apart(model, rows, precision, 128)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_falcon_h1_is_refused_packed(make_job: JobMaker, families: Mapping[str, Path], precision: str) -> None:
    """In bfloat16 its state that runs on moves a reply by no more than rounding does: only the other row in front of
    it, with which rounding is the same, tells."""
    sft = {**FEW_STEPS, "precision": precision}
    with pytest.raises(TrainingFailed, match=r"(?s)does not keep packed rows apart.*Set packing: false"):
        run(make_job("packed", letters(16), sft=sft, base_model=families["falcon_h1"]))


def test_falcon_h1_trains_one_row_at_a_time(make_job: JobMaker, families: Mapping[str, Path]) -> None:
    base = families["falcon_h1"]
    job = make_job("alone", letters(16), sft={**FEW_STEPS, "packing": False, "batch_size": 4}, base_model=base)
    run(job)
    curve = losses(job)
    assert curve[-1] < 0.95 * curve[0]
    assert logit_change(base, job.output / "adapter") > 1e-2


def test_an_adapter_that_peft_cannot_put_on_is_refused_with_its_reason(
    make_job: JobMaker, families: Mapping[str, Path]
) -> None:
    with pytest.raises(TrainingFailed, match=r"(?s)MixtralForCausalLM: .*lora_dropout.*Change target_modules"):
        run(make_job("experts", letters(8), sft={"dropout": 0.1}, base_model=families["mixtral"]))
