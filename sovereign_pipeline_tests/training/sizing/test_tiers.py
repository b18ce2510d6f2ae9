"""The rule of the recommendation, on sizes that are known: what fits, what is in time, and one tier more."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sovereign_pipeline.base_models.shapes import Shape, read_shape
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training import machine
from sovereign_pipeline.training.sizing import Tier, Work, flops_a_token, recommend, tiers

QLORA = {"adapter": "qlora", "gradient_checkpointing": True}


@pytest.fixture(scope="module")
def seventy() -> Shape:
    return read_shape("70B")


@cache
def seven() -> Shape:
    return read_shape("7B")


def found_for(shape: Shape, rows: int, **values: Any) -> list[Tier]:
    sft = Sft.model_validate({"precision": "bfloat16", **values})
    return tiers(shape, sft, None, Work(rows, 500.0, 1.0))


def test_the_smallest_that_fits_and_ends_in_a_day_and_one_more(seventy: Shape) -> None:
    found = found_for(seventy, 20_000, **QLORA)
    advice = recommend(found)
    assert advice.smallest is not None
    assert advice.recommended is not None
    assert (advice.smallest.name, advice.recommended.name) == ("1 × RTX 6000 Ada 48 GB", "1 × RTX PRO 6000 96 GB")
    slower = recommend(found_for(seventy, 40_000, **QLORA))
    assert slower.smallest is not None
    assert slower.smallest.name == "1 × RTX PRO 6000 96 GB"


def test_a_fast_tier_without_the_memory_is_never_recommended(seventy: Shape) -> None:
    found = found_for(seventy, 1_000, adapter="lora", gradient_checkpointing=True)
    assert not any(tier.fits for tier in found if tier.count == 1)
    advice = recommend(found)
    assert advice.smallest is not None
    assert advice.smallest.fits
    assert advice.smallest.memory.total <= advice.smallest.usable
    assert recommend(found_for(seventy, 10_000_000, **QLORA)).smallest is None


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 3_000_000))
def test_whatever_the_rows_the_rule_holds(rows: int) -> None:
    found = found_for(seven(), rows)
    advice = recommend(found)
    in_time = [tier for tier in found if tier.fits and tier.hours < 24]
    if not in_time:
        assert advice.smallest is None
        return
    assert advice.smallest == in_time[0]
    assert advice.recommended is not None
    assert advice.recommended.fits
    assert advice.recommended.hours <= in_time[0].hours
    if advice.recommended is in_time[0]:
        assert all(tier.hours > in_time[0].hours for tier in in_time[1:])


def test_time_goes_with_the_tokens_and_with_the_utilisation() -> None:
    sft = Sft.model_validate({"precision": "bfloat16"})
    once, twice = (tiers(seven(), sft, None, Work(1000, 500.0, epochs)) for epochs in (1.0, 2.0))
    assert [tier.hours for tier in twice] == pytest.approx([2 * tier.hours for tier in once])
    measured = tiers(seven(), sft, None, Work(1000, 500.0, 1.0), utilisation=0.6)
    single = [(slow.hours, fast.hours) for slow, fast in zip(once, measured, strict=True) if slow.count == 1]
    assert all(slow == pytest.approx(2 * fast) for slow, fast in single)


def test_sharded_weights_wait_for_the_link_and_whole_ones_do_not(seventy: Shape) -> None:
    sharded = {tier.name: tier for tier in found_for(seventy, 1_000, gradient_checkpointing=True)}
    assert sharded["8 × RTX 6000 Ada 48 GB"].bound_by == "the link between the cards"
    assert sharded["8 × H100 80 GB"].bound_by == "computing"
    whole = {tier.name: tier for tier in found_for(seventy, 1_000, **QLORA)}
    eight, one = (whole[f"{count} × RTX 6000 Ada 48 GB"].tokens_per_second for count in (8, 1))
    assert eight == pytest.approx(8 * one)


def test_operations_of_full_tuning_are_six_a_parameter_and_of_an_adapter_four() -> None:
    """Kaplan et al. 2020, section 2.1; attention aside, which at one token a pack is next to nothing."""
    full = flops_a_token(seven(), Sft.model_validate({"adapter": "none"}), None, 1)
    lora = flops_a_token(seven(), Sft.model_validate({"rank": 1}), None, 1)
    again = flops_a_token(seven(), Sft.model_validate({"rank": 1, "gradient_checkpointing": True}), None, 1)
    assert full / seven().parameters == pytest.approx(6, rel=0.01)
    assert lora / seven().parameters == pytest.approx(4, rel=0.01)
    assert again / seven().parameters == pytest.approx(6, rel=0.01)
    methods = [
        flops_a_token(seven(), Sft.model_validate({}), Preference.model_validate({"method": method}), 1)
        for method in ("dpo", "kto")
    ]
    assert lora < methods[0] < methods[1]


def test_size_prints_tables_or_json_and_ends_one_when_no_tier_will_do() -> None:
    asked = ["size", "--model", "7B", "--rows", "1000", "--tokens", "400", "--adapter", "qlora"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    for word in ("weights", "framework", "8 × H200 141 GB", "stated, not measured", "1 × RTX 6000 Ada 48 GB"):
        assert word in shown.output
    facts = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert facts["tokens"] == 400_000
    assert facts["parameters"] == 6_738_415_616
    parts = facts["memory_bytes"]["cuda"]
    assert parts["together"] == sum(size for part, size in parts.items() if part != "together")
    assert len(facts["tiers"]) == 16
    hosts = {tier["tier"]: tier["host_bytes"] for tier in facts["tiers"]}
    assert hosts["1 × H100 80 GB"] == 0 and hosts["8 × H100 80 GB"] == 4 * hosts["2 × H100 80 GB"] > 8 * 3e9
    too_much = [*asked, "--epochs", "100000"]
    assert CliRunner().invoke(app, too_much).exit_code == 1


def test_the_cpu_holds_weights_in_what_this_machine_computes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a recipe without a precision is trained here; so what a refused training proposes has the figures of it."""
    (tmp_path / "cpuinfo").write_text("flags : avx2\n")
    monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
    asked = ["size", "--model", "7B", "--rows", "10", "--tokens", "10", "--json"]
    facts = json.loads(CliRunner().invoke(app, asked).stdout)
    assert facts["precision"] == {"cuda": "bfloat16", "cpu": "float32"}
    assert facts["memory_bytes"]["cpu"]["weights"] == 2 * facts["memory_bytes"]["cuda"]["weights"]
    named = json.loads(CliRunner().invoke(app, [*asked, "--precision", "bfloat16"]).stdout)
    assert named["memory_bytes"]["cpu"]["weights"] == named["memory_bytes"]["cuda"]["weights"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "kto", "--batch-size", "1"], "batch_size must be at least 2"),
        (["--batch-size", "65"], "gradient_accumulation"),
        (["--model", "/no/such/model"], "neither one of 7B"),
    ],
)
def test_options_that_no_recipe_takes_are_refused_with_the_recipe_s_words(options: list[str], said: str) -> None:
    asked = ["size", "--model", "7B", "--rows", "10", "--tokens", "10", *options]
    answer = CliRunner().invoke(app, asked)
    assert said in str(answer.exception)
    assert getattr(answer.exception, "exit_status", None) == 2
