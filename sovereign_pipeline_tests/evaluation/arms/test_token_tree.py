"""A tree holds each beginning once, and every family of models gives in it what it gives to a sequence alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base_models.batch import generate
from sovereign_pipeline.evaluation.arms import token_tree
from sovereign_pipeline.evaluation.arms.token_tree import Tree, longest_branch, plant, read_prompts
from sovereign_pipeline_tests.families import PACKED, configuration
from sovereign_pipeline_tests.packaged_base import packaged_base

WINDOW = 8

sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=12)


def grown(asked: list[list[int]]) -> Tree:
    tree = Tree()
    for sequence in asked:
        tree.add(sequence)
    return tree


@given(sequences)
def test_a_tree_holds_each_beginning_once_and_every_sequence(asked: list[list[int]]) -> None:
    tree = grown(asked)
    beginnings = {tuple(sequence[: place + 1]) for sequence in asked for place in range(len(sequence))}
    assert len(tree.tokens) == len(beginnings)
    for sequence, path in zip(asked, tree.paths, strict=True):
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(sequence)))
        assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
        assert tree.shared([*sequence, 9]) == len(sequence)


@settings(deadline=None)
@given(sequences)
def test_a_token_sees_its_ancestors_and_itself_alone(asked: list[list[int]]) -> None:
    import torch

    tree = grown(asked)
    inputs = tree.inputs("cpu", torch.float32)
    if tree.is_chain:
        assert "attention_mask" not in inputs
        return
    ways: list[set[int]] = []
    for node, parent in enumerate(tree.parents):
        ways.append({node} | (ways[parent] if parent >= 0 else set()))
    seen = [set(row.nonzero()[:, 0].tolist()) for row in inputs["attention_mask"][0, 0] == 0]
    assert seen == ways


@given(sequences, st.integers(0, 10))
def test_planting_keeps_the_order_and_lets_no_longer_sequence_branch(asked: list[list[int]], longest: int) -> None:
    trees = plant(asked, longest)
    planted = [[tree.tokens[node] for node in path] for tree in trees for path in tree.paths]
    assert planted == asked
    for tree in trees:
        assert tree.is_chain or max(tree.depths) < longest


def test_a_tree_is_full_at_its_most_tokens_beside_what_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short questions behind long examples stand in one tree; one long sequence may have more than the most."""
    monkeypatch.setattr(token_tree, "MOST_TOKENS", 5)
    examples, others = list(range(10, 30)), list(range(40, 48))
    questions = [[*examples, word] for word in range(6)]
    trees = plant([*questions, others, others[:3], [1], [2]], longest_branch=100)
    assert [len(tree.tokens) for tree in trees] == [25, 21, 8, 2]
    assert [len(tree.paths) for tree in trees] == [5, 1, 2, 2]


def model_of(family: str, **changed: float) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    config = configuration(family)[0]
    config.update(changed)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def random_ids(count: int, seed: int) -> list[int]:
    import torch

    return list(torch.randint(3, 250, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.mark.parametrize("family", [*PACKED, "falcon_h1"])
def test_every_family_gives_in_a_tree_what_it_gives_to_a_sequence_alone(family: str) -> None:
    """Sequences of 6 fit the windows of these models; those of 26 do not, and stand in trees of their own there."""
    import torch

    model = model_of(family)
    longest = longest_branch(model, random_ids(8, 3))
    windowed = bool(model.config.get_text_config().to_dict().get("sliding_window"))
    assert longest == (0 if family == "falcon_h1" else WINDOW if windowed else 512)
    short, long = random_ids(4, 4), random_ids(20, 5)
    asked = [[*short, 7, 8], [*short, 9], [*short, 7, 5], [*long, *random_ids(6, 6)], [*long, *random_ids(6, 7)]]
    trees = plant(asked, longest)
    assert len(trees) == {0: 5, WINDOW: 3, 512: 1}[longest]
    found = []
    with torch.inference_mode():
        for tree in trees:
            logits = model(**tree.inputs("cpu", torch.float32), use_cache=False).logits[0]
            found += [logits[path] for path in tree.paths]
        for sequence, logits in zip(asked, found, strict=True):
            alone = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
            assert torch.allclose(logits, alone, atol=1e-3), (logits - alone).abs().max()


@pytest.mark.parametrize(("precision", "layer"), [("float32", 0), ("bfloat16", 1)])
def test_a_single_layer_that_mixes_branches_is_found_out(precision: str, layer: int) -> None:
    """Planted: one layer without the tree's mask. Its model is hardly sure of anything, so little moves."""
    import torch

    model = model_of("llama", initializer_range=0.05).to(getattr(torch, precision))
    assert longest_branch(model, random_ids(8, 3)) == 512
    attention = model.model.layers[layer].self_attn
    attention.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "attention_mask": None}), with_kwargs=True
    )
    assert longest_branch(model, random_ids(8, 3)) == 0


@pytest.mark.parametrize(("precision", "initializer_range"), [("float32", 0.02), ("bfloat16", 0.02), ("bfloat16", 0.1)])
def test_a_state_that_crosses_branches_is_found_out_however_little_it_moves(
    precision: str, initializer_range: float
) -> None:
    import torch

    model = model_of("falcon_h1", initializer_range=initializer_range).to(getattr(torch, precision))
    assert longest_branch(model, random_ids(8, 3)) == 0


@pytest.mark.slow
def test_the_packaged_model_keeps_branches_apart_whatever_is_rounded() -> None:
    """In bfloat16 one of its 49,152 log-probabilities is rounded by 0.5 nats and more behind such texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = packaged_base()
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True).eval()
    for text in (
        "How many days has the Ministry to answer a letter about a jetty?",
        "كم يوماً لدى الوزارة للرد على الرسالة؟",
    ):
        assert longest_branch(model, tokenizer(text)["input_ids"]) == 8192


@pytest.mark.parametrize("ids", [[5] * 8, [*range(3, 11), *range(3, 11)], [5, 5]])
def test_a_model_that_mixes_branches_is_found_out_by_tokens_that_repeat(ids: list[int]) -> None:
    """Of such ids both branches were one sequence, which a model with a state gives as it gives it alone."""
    assert longest_branch(model_of("falcon_h1"), ids) == 0


@pytest.mark.parametrize("ids", [[5], [5, 5], [5, 6, 5]])
def test_an_item_of_few_tokens_is_enough_to_try_a_model_with(ids: list[int]) -> None:
    assert longest_branch(model_of("llama"), ids) == 512


END, NEW = 2, 6
SHARED = random_ids(20, 1)
PROMPTS = [
    [*SHARED, *random_ids(9, 2)],
    SHARED,
    [*SHARED, *random_ids(4, 3)],
    random_ids(13, 4),
    [*SHARED, *random_ids(4, 3)],
    [7],
]


def generated(model: Any, prompts: list[list[int]], end: int, branch: int, at_once: int) -> list[list[int]]:
    def read(group: Sequence[list[int]]) -> Any:
        return read_prompts(model, group, branch - NEW)

    return generate(model, prompts, NEW, [end], at_once, read_prompts=read)


def answers(model: Any, prompts: list[list[int]], branch: int) -> list[list[int]]:
    return generated(model, prompts, END, branch, len(prompts))


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
    assert answers(model, PROMPTS, branch) == alone


def test_what_prompts_share_is_computed_once_and_no_padding() -> None:
    model = model_of("llama")
    decoding = len(PROMPTS) * NEW  # the last token of each prompt, and all new ones but the last
    assert computed(model, PROMPTS, 512) == decoding + len(SHARED) + 8 + 4 - 1 + 12
    longest = max(map(len, PROMPTS))
    assert computed(model, PROMPTS, 0) == decoding + len(PROMPTS) * (longest - 1)
    assert computed(model, PROMPTS, longest + NEW) < computed(model, PROMPTS, longest + NEW - 1)


def test_a_row_that_ends_makes_room_for_the_next() -> None:
    """With an end of turn that stands in some prompts, and that some answers reach sooner than others."""
    model = model_of("llama")
    unended = answers(model, PROMPTS, 0)
    end = unended[0][1]
    prompts = [[end, *prompt, end, *prompt[-1:]] for prompt in PROMPTS] + PROMPTS
    alone = [generated(model, [prompt], end, 0, 1)[0] for prompt in prompts]
    assert len({len(alone_ids) for alone_ids in alone}) > 1
    assert all(end not in alone_ids[:-1] for alone_ids in alone)
    for at_once in (4, 12):
        assert generated(model, prompts, end, 512, at_once) == alone
