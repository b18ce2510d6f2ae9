"""Shapes compared with models that are really built: parameters, adapters by PEFT, experts."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline_tests.base_models.built_models import FAMILIES, adapted, build, preset, recipe, write_config


def test_presets_have_the_published_number_of_parameters() -> None:
    published = {"7B": 6_738_415_616, "13B": 13_015_864_320, "70B": 70_553_706_496}
    assert {name: preset(name).parameters for name in published} == published
    gemma = preset("27B")
    assert gemma.parameters == pytest.approx(27.0e9, rel=0.001)
    assert gemma.parameters - gemma.quantised == pytest.approx(262_208 * 5376, rel=0.001)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_model_and_of_the_adapter_that_peft_makes(tmp_path: Path, family: str) -> None:
    directory = write_config(tmp_path / "model", family)
    shape = read_shape(str(directory))
    assert shape.parameters == sum(each.numel() for each in build(directory).parameters())
    assert shape.trainable(recipe(adapter="none")) == shape.parameters
    adapters = [recipe(rank=8), recipe(rank=8, target_modules=(shape.linears[-1].name.rsplit(".", 1)[1],))]
    if family == "llama":
        adapters += [recipe(target_modules=r".*layers\.1\..*_proj"), recipe(dora=True)]
    for sft in adapters:
        trainable = sum(each.numel() for each in adapted(build(directory), sft).parameters() if each.requires_grad)
        assert shape.trainable(sft) == trainable


def test_a_token_takes_two_of_four_experts_and_nf4_leaves_the_experts_alone(tmp_path: Path) -> None:
    shape = read_shape(str(write_config(tmp_path / "model", "mixtral")))
    expert = 3 * 64 * 96
    assert shape.parameters - shape.active == 2 * 2 * expert
    assert shape.intermediate == 2 * 96
    assert all(".experts" not in linear.name for linear in shape.linears)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_reading_a_shape_draws_no_random_numbers(tmp_path: Path, family: str) -> None:
    """A preflight must not change what a seed gives."""
    import torch

    directory = write_config(tmp_path / "model", family)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    read_shape(str(directory))
    assert torch.equal(torch.rand(4), expected)


def test_what_is_no_model_directory_or_no_layer_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="7B, 13B, 27B, 70B"):
        read_shape(str(tmp_path))
    with pytest.raises(InputError, match="matches no linear layer"):
        read_shape(str(write_config(tmp_path / "model", "llama"))).trainable(recipe(target_modules=("nothing",)))
