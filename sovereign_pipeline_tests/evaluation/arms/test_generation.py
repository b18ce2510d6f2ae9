"""Prompts that are read as trees get the tokens that each gets alone, and what they share is computed once."""

from typing import Any

import pytest

from sovereign_pipeline.evaluation.arms.generation import generate
from sovereign_pipeline.evaluation.arms.token_tree import Tree, longest_branch
from sovereign_pipeline_tests.evaluation.arms.test_token_tree import model_of, random_ids
from sovereign_pipeline_tests.families import PACKED, configuration

END, PADDING, NEW = 2, 0, 6
SHARED = random_ids(20, 1)
PROMPTS = [
    [*SHARED, *random_ids(9, 2)],
    SHARED,
    [*SHARED, *random_ids(4, 3)],
    random_ids(13, 4),
    [*SHARED, *random_ids(4, 3)],
    [7],
]


def answers(model: Any, prompts: list[list[int]], branch: int) -> list[list[int]]:
    return generate(model, prompts, NEW, [END], PADDING, branch)


def computed(model: Any, prompts: list[list[int]], branch: int) -> int:
    """How many tokens the model reads, padding included."""
    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0].numel()))
    answers(model, prompts, branch)
    hook.remove()
    return sum(read)


@pytest.mark.parametrize("family", [*PACKED, "falcon_h1"])
def test_every_family_answers_as_to_each_prompt_alone(family: str) -> None:
    model = model_of(family)
    branch = longest_branch(model, SHARED)
    alone = [answers(model, [prompt], 0)[0] for prompt in PROMPTS]
    for given, together in zip(alone, answers(model, PROMPTS, branch), strict=True):
        assert together[: len(given)] == given


def test_what_prompts_share_is_computed_once_and_no_padding() -> None:
    model = model_of("llama")
    decoding = len(PROMPTS) * NEW  # the last token of each prompt, and all new ones but the last
    assert computed(model, PROMPTS, 512) == decoding + len(SHARED) + 8 + 4 - 1 + 12
    assert computed(model, PROMPTS, 0) == decoding + len(PROMPTS) * (max(map(len, PROMPTS)) - 1)


def test_prompts_that_with_their_answers_do_not_fit_are_padded() -> None:
    model = model_of("llama")
    longest = max(map(len, PROMPTS))
    assert computed(model, PROMPTS, longest + NEW) < computed(model, PROMPTS, longest + NEW - 1)


def test_rows_that_end_early_are_filled_up_while_others_go_on() -> None:
    """With an end of turn that stands in some prompts, and that some answers reach sooner than others."""
    model = model_of("llama")
    unended = answers(model, PROMPTS, 0)
    end = unended[0][1]
    prompts = [[end, *prompt, end, *prompt[-1:]] for prompt in PROMPTS] + PROMPTS
    alone = [generate(model, [prompt], NEW, [end], PADDING, 0)[0] for prompt in prompts]
    assert len({len(given) for given in alone}) > 1
    for given, together in zip(alone, generate(model, prompts, NEW, [end], PADDING, 512), strict=True):
        assert together == [*given, *[PADDING] * (len(together) - len(given))]


def test_prompts_of_a_model_that_keeps_a_window_are_padded() -> None:
    """Its trees are right as long as they fit the window; its cache is no plain one."""
    from transformers import AutoModelForCausalLM

    config = configuration("mistral")[0]
    config.sliding_window = 100
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    branch = longest_branch(model, SHARED)
    assert branch == 100
    assert computed(model, PROMPTS, branch) == computed(model, PROMPTS, 0)
    assert answers(model, PROMPTS, branch) == answers(model, PROMPTS, 0)


def test_a_single_token_is_a_prompt() -> None:
    model = model_of("llama")
    assert answers(model, [[7]], 512) == answers(model, [[7]], 0)


def test_the_cache_is_that_of_each_prompts_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every token sees all that lies before it in the tree, so answers are no longer those given alone."""
    model = model_of("llama")
    inputs = Tree.inputs

    def all_before(tree: Tree, device: Any, dtype: Any) -> dict[str, Any]:
        return {name: each for name, each in inputs(tree, device, dtype).items() if name != "attention_mask"}

    alone = answers(model, PROMPTS, 0)
    assert answers(model, PROMPTS, 512) == alone
    monkeypatch.setattr(Tree, "inputs", all_before)
    assert answers(model, PROMPTS, 512) != alone
