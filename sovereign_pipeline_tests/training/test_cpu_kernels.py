"""Operations for CPUs: their results and gradients are those of PyTorch and PEFT."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.training import cpu_kernels
from sovereign_pipeline.training.cpu_kernels import causal_attention, token_scores, use_lora_product
from sovereign_pipeline_tests.training.trainings import load


def apart(found: Any, expected: Any) -> float:
    """Mean difference, as a share of the mean magnitude (of 0.5, if that is larger)."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().mean() / expected.abs().mean().clamp(min=0.5))


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([1, 2, 63, 64, 65, 130]),
    before=st.sampled_from([0, 1, 70]),
    groups=st.integers(1, 3),
    heads=st.integers(1, 3),
    sizes=st.sampled_from([(16, 16), (16, 8)]),
)
def test_attention_is_that_of_pytorch_in_float64(
    tokens: int, before: int, groups: int, heads: int, sizes: tuple[int, int]
) -> None:
    """before: tokens of a row that this row continues."""
    draw = torch.Generator().manual_seed(tokens + before)

    def drawn(*shape: int) -> Any:
        return torch.randn(1, *shape, generator=draw).mul(2).bfloat16().requires_grad_()

    query = drawn(groups * heads, tokens, sizes[0])
    key, value = (drawn(groups, before + tokens, size) for size in sizes)
    found = causal_attention(query, key, value, 0.3)
    exact = [each.detach().double().requires_grad_() for each in (query, key, value)]
    seen = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=seen, scale=0.3, enable_gqa=True)
    assert apart(found, expected) < 0.01
    weights = torch.randn(found.shape, generator=draw)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for own, reference in zip((query, key, value), exact, strict=True):
        assert apart(own.grad, reference.grad) < 0.02


def test_the_settings_of_matrix_products_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []
    product = torch.bmm

    def precision() -> str:
        return str(torch.backends.mkldnn.matmul.fp32_precision)

    def noted(*given: Any) -> Any:
        inside.append(precision())
        return product(*given)

    monkeypatch.setattr(torch, "bmm", noted)

    before = precision()
    row = torch.ones(1, 1, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    found = causal_attention(row, row, row, 1.0)
    assert precision() == before
    found.sum().backward()
    assert precision() == before and {*inside} == {"bf16"} and len(inside) == 5
    with pytest.raises(RuntimeError):
        causal_attention(row, row[..., :2], row, 1.0)
    assert precision() == before


@pytest.mark.parametrize("at_once", [1, 3 * 500, 1 << 23])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_scores_are_those_of_stored_logits(
    at_once: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "LOGITS_AT_ONCE", at_once)
    torch.manual_seed(2)
    weight, targets = torch.randn(500, 24), torch.randint(0, 500, (7,))
    states = torch.randn(1, 7, 24, requires_grad=True)
    same = states.detach().clone().requires_grad_()
    found = token_scores(states, weight, targets, temperature, True)[0]
    logs = torch.log_softmax(same[0] @ weight.T / temperature, dim=-1)
    expected = logs.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(found[:, 0], expected, atol=1e-4)
    assert torch.allclose(found[:, 1], -(logs.exp() * logs).sum(-1), atol=1e-4)
    grades = torch.arange(7.0) - 2
    (found[:, 0] * grades).sum().backward()
    (expected * grades).sum().backward()
    assert torch.allclose(states.grad, same.grad, atol=1e-4)


def test_no_targets_have_no_scores() -> None:
    states = torch.zeros(1, 0, 24, requires_grad=True)
    found = token_scores(states, torch.randn(500, 24), torch.zeros(0, dtype=torch.long), 1.0, True)
    assert found.shape == (1, 0, 2)
    found.sum().backward()
    assert states.grad.shape == states.shape


@pytest.fixture
def adapted(tiny_model: Path) -> Any:
    """A LoRA whose B is not zero, on the tiny model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(4)
    model = get_peft_model(load(tiny_model), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model


def results_and_gradients(model: Any) -> list[Any]:
    model.zero_grad()
    found = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    found.square().mean().backward()
    return [found, *(each.grad for each in model.parameters() if each.requires_grad)]


def products(model: Any) -> list[bool]:
    """Whether the LoRA layers of a model compute with one operation, for each distinct answer."""
    from peft.tuners.lora import Linear

    seen = set()
    hooks = [
        each.register_forward_hook(lambda _, given, found: seen.add("_LoraProduct" in found.grad_fn.name()))
        for each in model.modules()
        if isinstance(each, Linear)
    ]
    model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    for hook in hooks:
        hook.remove()
    return sorted(seen)


def test_lora_layers_have_the_results_and_gradients_of_peft(adapted: Any) -> None:
    expected = results_and_gradients(adapted)
    assert products(adapted) == [False]
    use_lora_product(adapted)
    assert products(adapted) == [True]
    found = results_and_gradients(adapted)
    assert len(found) == len(expected) > 3
    for own, reference in zip(found, expected, strict=True):
        assert torch.allclose(own, reference, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_lora_layer_in_bfloat16_is_as_near_to_float64_as_pefts(bias: bool) -> None:
    """Its input in float32, as after a normalisation under autocast. Its result can be changed in place."""
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    torch.manual_seed(5)
    base = torch.nn.Linear(48, 40, bias=bias).bfloat16().requires_grad_(False)
    layer = Linear(base, "default", config=LoraConfig(), r=4, lora_alpha=8)
    for each in (layer.lora_A, layer.lora_B):
        torch.nn.init.normal_(each["default"].weight.data)
    exact = copy.deepcopy(layer).double()
    inputs = torch.randn(1, 9, 48)

    def outcome(layer: Any, inputs: Any) -> list[Any]:
        inputs = inputs.detach().clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=inputs.dtype != torch.float64):
            found = layer(inputs)
        found.clamp_(-50, 50)
        found.double().square().sum().backward()
        grads = [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad, inputs.grad]
        return [found, *(each.clone() for each in grads)]

    reference, of_peft = outcome(exact, inputs.double()), outcome(layer, inputs)
    use_lora_product(layer)
    found = outcome(layer, inputs)
    for own, other, expected in zip(found, of_peft, reference, strict=True):
        assert own.dtype == other.dtype
        assert apart(own, expected) < max(1.2 * apart(other, expected), 0.005)


def test_dropout_and_trained_weights_stay_with_peft(adapted: Any) -> None:
    use_lora_product(adapted)
    layers = [each for each in adapted.modules() if hasattr(each, "lora_dropout")]
    for layer in layers:
        layer.lora_dropout["default"] = torch.nn.Dropout(0.5)
    assert products(adapted.train()) == [False]
    assert products(adapted.eval()) == [True]
    for layer in layers:
        layer.lora_dropout["default"].p = 0.0
    assert products(adapted.train()) == [True]
    layers[0].base_layer.weight.requires_grad_()
    assert products(adapted) == [False, True]


def test_a_lora_that_is_switched_off_joined_or_not_plain_stays_with_peft(adapted: Any) -> None:
    from peft import LoraConfig

    ids = torch.tensor([[5, 6, 7, 8]])

    def outcomes() -> list[Any]:
        adapted.set_adapter("default")
        with adapted.disable_adapter():
            found = [adapted(input_ids=ids).logits]
        for names in (["other"], ["default", "other"], ["dora"]):
            adapted.base_model.set_adapter(names)
            found.append(adapted(input_ids=ids).logits)
        adapted.set_adapter("default")
        adapted.merge_adapter()
        found.append(adapted(input_ids=ids).logits)
        adapted.unmerge_adapter()
        return found

    for name, more in {"other": {"lora_bias": True}, "dora": {"use_dora": True}}.items():
        adapted.add_adapter(name, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **more))
    expected = outcomes()
    use_lora_product(adapted)
    for own, reference in zip(outcomes(), expected, strict=True):
        assert torch.allclose(own, reference, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
