"""Every family of models trains through the same code, packed where it keeps rows apart, and its adapter loads back.

What transformers 5.24 and peft 0.21 lack, as seen here:
- Falcon-H1 (as every model with Mamba layers) does not keep packed rows apart: positions that start again do not reset
  its state. The guard refuses to pack it. PEFT refuses LoRA on its `out_proj`, which `all-linear` therefore leaves out.
- Experts are one tensor of three dimensions. PEFT 0.21 finds Mixtral's and Qwen's under `all-linear` by itself and not
  Gemma 4's; dropout and DoRA do not work on them; bitsandbytes does not hold them in NF4.
- Gemma 3 and 4 above the smallest come with a vision tower, which `all-linear` in PEFT means as well; ours does not.
- Gemma 2 has no scaled-dot-product attention there, so it does not load and is no family of this test.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base_models.shapes import read_shape, returns_output_layer
from sovereign_pipeline.training.forward import (
    packed,
    passes_in,
    reply_log_probabilities,
    row_lengths,
    score_tokens,
    use_row_by_row,
    use_token_scores,
)
from sovereign_pipeline.training.guards import check_rows_are_kept_apart
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline_tests.families import PACKED, configuration
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import JobMaker, letters, pairs
from sovereign_pipeline_tests.training.trainings import learn, load, logit_change, logits, losses, run

pytestmark = pytest.mark.slow
CHANGES_LOGITS = ("gemma3", "gemma4", "gemma4_moe", "gemma4_with_vision")
"""Families whose models cap their logits."""


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
def test_packed_rows_have_the_log_probabilities_and_gradients_they_have_alone(
    families: Mapping[str, Path], name: str
) -> None:
    """Alone means: one row, no positions given, all logits; so windows, caps and scales are the model's own. First
    under a mask, then as rows that attend by themselves: rows of 8 fit the windows of these models, and the long ones
    do not, for which only the mask is right. The guard lets all of them pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = load(families[name])
    places = torch.Generator().manual_seed(3)

    def rows_of(*lengths: tuple[int, int]) -> list[Completion]:
        drawn = [[torch.randint(3, 250, (each,), generator=places).tolist() for each in pair] for pair in lengths]
        return [Completion(prompt, reply) for prompt, reply in drawn]

    def losses_and_gradient(rows: list[Completion]) -> tuple[list[float], Any]:
        model.zero_grad()
        found, _ = reply_log_probabilities(model, packed(rows))
        found.sum().backward()
        return found.tolist(), model.get_input_embeddings().weight.grad.clone()

    short, long = rows_of((3, 2), (1, 1), (2, 6)), rows_of((20, 12), (15, 25), (9, 30))
    under_the_mask = [losses_and_gradient(rows) for rows in (short, long)]
    alone = []
    for row in long:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            scores = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
        alone.append(float(scores.gather(1, ids[0, 1:, None])[-len(row.reply_ids) :].sum()))
    assert under_the_mask[1][0] == pytest.approx(alone, abs=2e-3)

    use_row_by_row(model)
    windowed = model.config.get_text_config().to_dict().get("sliding_window") is not None
    for rows, (log_probabilities, gradient) in zip((short, long), under_the_mask, strict=True):
        given = row_lengths(model, [len(row) for row in rows])
        assert bool(given) == (name != "falcon" and not (windowed and rows is long))
        by_themselves = losses_and_gradient(rows)
        assert by_themselves[0] == pytest.approx(log_probabilities, abs=1e-3)
        assert torch.allclose(by_themselves[1], gradient, atol=1e-3)

    narrow = AutoModelForCausalLM.from_pretrained(families[name], dtype="bfloat16", attn_implementation="sdpa")
    use_row_by_row(narrow)
    encoded = [
        EncodedRow(f"R-{place}", (row,)) for place, row in enumerate(rows_of((9, 9), (20, 20), (31, 31), (45, 45)))
    ]
    with passes_in("bfloat16", "cpu"):
        check_rows_are_kept_apart(narrow, encoded, "bfloat16", 128)


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


@pytest.mark.parametrize("name", PACKED)
def test_scores_from_the_output_layer_are_those_of_its_logits(families: Mapping[str, Path], name: str) -> None:
    """Models that cap or multiply their logits do not compute scores in the layer."""
    import torch

    model = load(families[name])
    ids, targets = torch.tensor([[5, 6, 7, 8]]), torch.tensor([9, 10])
    inputs = {"input_ids": ids, "logits_to_keep": torch.tensor([1, 3])}
    expected = score_tokens(model, inputs, targets, temperature=0.7, entropies=True)
    head = model.get_output_embeddings()
    computes: list[bool] = []
    head.register_forward_hook(lambda module, given, found: computes.append(found.shape[-1] == len(module.weight)))
    use_token_scores(model)
    computes.clear()
    for weight_is_trained in (True, False):
        head.weight.requires_grad_(weight_is_trained)
        found = score_tokens(model, inputs, targets, temperature=0.7, entropies=True)
        for own, reference in zip(vars(found).values(), vars(expected).values(), strict=True):
            assert own.tolist() == [pytest.approx(each, abs=1e-4) for each in reference.tolist()]
    assert computes == [True, name in CHANGES_LOGITS]
    assert read_shape(str(families[name])).returns_output_layer == (name not in CHANGES_LOGITS)


@pytest.mark.parametrize(
    ("name", "changes", "returns"),
    [
        ("falcon_h1", {}, True),
        ("falcon", {"alibi": True}, False),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}, False),
    ],
)
def test_the_shape_of_a_model_that_reads_values_has_stored_logits(
    families: Mapping[str, Path], tmp_path: Path, name: str, changes: dict[str, Any], returns: bool
) -> None:
    """A shape is read on the meta device, whose tensors have no values."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((families[name] / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(str(tmp_path)).returns_output_layer is returns
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert returns_output_layer(model)


@pytest.mark.parametrize("name", ["gemma4_moe", "mixtral", "falcon"])
def test_qlora_trains_on_the_base_in_nf4(make_job: JobMaker, families: Mapping[str, Path], name: str) -> None:
    job = make_job(name, letters(16), sft={**FEW_STEPS, "adapter": "qlora"}, base_model=families[name])
    told = learn(job)
    curve = losses(job)
    assert curve[-1] < 0.95 * curve[0]
    assert logit_change(families[name], job.output / "adapter") > 1e-2
    assert any("experts" in message for message in told) == (name in ("gemma4_moe", "mixtral"))


@pytest.mark.parametrize("name", ["gemma4_with_vision", "mixtral", "falcon"])
def test_full_tuning_writes_a_model_that_loads(make_job: JobMaker, families: Mapping[str, Path], name: str) -> None:
    full = {**FEW_STEPS, "adapter": "none", "learning_rate": 3e-3, "rank": 16, "alpha": 32}
    job = make_job(name, letters(16), sft=full, base_model=families[name])
    run(job)
    curve = losses(job)
    assert curve[-1] < 0.95 * curve[0]
    assert float((logits(load(job.output / "model")) - logits(load(families[name]))).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["gemma3_with_vision", "qwen3_moe", "falcon"])
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


def test_falcon_h1_is_refused_packed_and_trains_one_row_at_a_time(
    make_job: JobMaker, families: Mapping[str, Path]
) -> None:
    """In bfloat16 its state that runs on moves a reply by no more than rounding does: only the other row in front of
    it, with which rounding is the same, tells."""
    base = families["falcon_h1"]
    with pytest.raises(TrainingFailed, match=r"(?s)does not keep packed rows apart.*Set packing: false"):
        run(make_job("packed", letters(16), sft={**FEW_STEPS, "precision": "bfloat16"}, base_model=base))
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
