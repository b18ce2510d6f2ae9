"""Sizes compared with what PyTorch keeps and what NF4 takes for models that are really built."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base_models.shapes import PRESETS, Shape, read_shape
from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training import sizing
from sovereign_pipeline.training.forward import row_lengths, use_row_by_row
from sovereign_pipeline.training.sizing import NF4_BYTES, Forward, Memory, estimate, optimizer_in_effect
from sovereign_pipeline_tests.base_models.built_models import (
    adapted,
    build,
    preset,
    recipe,
    write_config,
)


def saved_bytes(model: Any, tokens: int, bfloat16: bool, **named: Any) -> int:
    """What the forward keeps for the backward pass, parameters and buffers aside, each storage once."""
    import torch

    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(tokens).remainder(300)[None]
    positions = torch.arange(tokens).remainder(tokens // 4)[None]
    cast = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), cast:
        held = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1, **named)
    assert held.logits.shape[1] == 1
    return sum(each.untyped_storage().nbytes() for each in kept.values())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_activations_of_a_layer_are_what_pytorch_keeps(
    tmp_path: Path, family: str, adapter: str, precision: str, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a mask, as on CUDA, and row by row, as on CPUs, where 5 % less is kept in bfloat16 than is said. The heap's
    gaps are no tensors."""
    monkeypatch.setattr(sizing, "CPU_HEAP_GAPS", 0.0)
    tokens = 128
    sft = recipe(adapter=adapter, precision=precision, **({} if adapter == "none" else {"rank": 4}))
    kept, predicted = {}, {}
    for layers in (2, 4):
        directory = write_config(tmp_path / str(layers), family, layers)
        model = build(directory, precision)
        model = model if adapter == "none" else adapted(model, sft)
        rows = {}
        if device == "cpu":
            use_row_by_row(model)
            rows = row_lengths(model, [tokens // 4] * 4)
            assert rows
        kept[layers] = saved_bytes(model, tokens, bfloat16=precision == "bfloat16", **rows)
        needed = estimate(read_shape(str(directory)), sft, device=device, forward=Forward(tokens, 1))
        predicted[layers] = needed.activations
    tolerance = 0.1 if family == "mixtral" else 0.055 if device == "cpu" else 0.02
    assert predicted[4] - predicted[2] == pytest.approx(kept[4] - kept[2], rel=tolerance)


def test_nf4_takes_what_bitsandbytes_takes() -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(1024, 1024)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    constants = state.absmax.nbytes + state.state2.absmax.nbytes
    assert (packed.nbytes + constants) / weight.numel() == pytest.approx(NF4_BYTES, rel=0.001)


@pytest.fixture
def seventy() -> Shape:
    return preset("70B")


def needs(shape: Shape, devices: int = 1, **values: Any) -> Memory:
    return estimate(shape, recipe(**values), device="cuda", devices=devices)


def test_a_70b_in_nf4_is_tuned_on_one_card_of_48_gb_and_not_otherwise(seventy: Shape) -> None:
    """Dettmers et al. 2023, abstract: 65B on a single GPU of 48 GB."""
    assert needs(seventy, adapter="qlora", gradient_checkpointing=True, max_length=512).total < 48e9
    assert needs(seventy, adapter="lora", gradient_checkpointing=True).total > 141e9
    # Held in float32 with a bfloat16 copy for the passes; AdamW's two states in float32.
    assert needs(seventy, adapter="none", gradient_checkpointing=True, optimizer="adamw").weights == 6 * 70_553_706_496
    assert needs(seventy, adapter="none", optimizer="adamw").optimizer == 8 * 70_553_706_496


def test_devices_share_what_is_in_full_precision_and_not_what_is_in_nf4(seventy: Shape) -> None:
    one, eight = (needs(seventy, devices, adapter="none", optimizer="adamw") for devices in (1, 8))
    assert eight.optimizer == one.optimizer / 8
    assert one.weights / 8 < eight.weights < one.weights / 5
    assert one.gradients / 8 < eight.gradients < one.gradients / 6
    quantised = [needs(seventy, devices, adapter="qlora") for devices in (1, 8)]
    assert quantised[0].weights == quantised[1].weights


def test_eight_bit_states_where_the_recipe_leaves_it_to_the_device() -> None:
    assert optimizer_in_effect(recipe(adapter="qlora"), "cuda") == "paged_adamw_8bit"
    assert optimizer_in_effect(recipe(adapter="none"), "cuda") == "paged_adamw_8bit"
    assert optimizer_in_effect(recipe(adapter="lora"), "cuda") == "adamw"
    assert optimizer_in_effect(recipe(adapter="qlora"), "cpu") == "adamw"


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(PRESETS)),
    adapter=st.sampled_from(["lora", "qlora", "none"]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    device=st.sampled_from(["cpu", "cuda"]),
    length=st.integers(32, 8192),
    batch=st.integers(1, 8),
)
def test_less_asked_never_needs_more(
    name: str, adapter: str, precision: str, device: Any, length: int, batch: int
) -> None:
    shape = preset(name)

    def total(**changes: Any) -> int:
        values = {"adapter": adapter, "precision": precision, "max_length": length, "batch_size": batch, **changes}
        return estimate(shape, recipe(gradient_accumulation=1, **values), device=device).total

    assert total(gradient_checkpointing=True) <= total()
    assert total() <= total(max_length=length + 64)
    assert total() <= total(batch_size=batch + 1)
    assert total(adapter="qlora") < total(adapter="lora") < total(adapter="none", optimizer="adamw")
    if adapter != "none":
        assert total(rank=8) < total(rank=16)


def test_a_forward_is_full_packs_and_of_pairs_both_replies() -> None:
    assert Forward.largest(recipe(), None) == Forward(1024, 512)
    for method, tokens in (("dpo", 4096), ("ipo", 4096), ("kto", 2048)):
        preference = Preference.model_validate({"method": method, "max_length": 512, "batch_size": 4})
        assert Forward.largest(recipe(), preference) == Forward(tokens, tokens // 2)


def test_logits_are_of_supervised_positions() -> None:
    sft = recipe()
    shape = preset("7B")
    few, many = (estimate(shape, sft, device="cpu", forward=Forward(1024, count)) for count in (10, 100))
    assert (many.logits, few.logits) == (100 * 32_000 * 4 * 3, 10 * 32_000 * 4 * 3)
