"""Compute token sequences as prefix trees, so that a shared prefix is computed once.

Each token attends only to its ancestors and has its depth as position. So one forward pass over a tree gives the result
of its sequences one by one, up to rounding. `generate` begins with the keys and values of a tree's nodes.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from sovereign_pipeline.base.errors import InputError

MOST_TOKENS_HELD = 65_536
"""Tokens of prompts and answers, padding included, whose keys and values are held at once, unless one prompt has more.
They take 8 GiB of a model of 8 billion parameters in bfloat16 (128 KiB a token in Llama 3.1). Batches of many short
prompts stay whole; long documents are continued fewer at once."""

MOST_TOKENS = 512
"""Tokens of a tree besides the prefix shared with the next sequence: few-shot examples are longer than the questions
after them. On two cores 512 was the fastest; 256 to 2,048 were within a third of it."""
TRIED_TOKENS = 16
"""Tokens with which a model is tested for keeping the branches of a tree apart."""
MOST_BY_NEIGHBOUR = 1e-3
"""Nats by which a log-probability behind a branch may move when another branch has other tokens, before a model counts
as mixing branches.

Both trees have one shape, so rounding is the same. Measured: 0 in float32 and bfloat16; 0.003 and more with a tiny
Falcon-H1, whose state crosses branches; 0.5 and more where the mask leaks in a single layer of SmolLM2-135M.
"""
MOST_APART = {"float32": 1e-5, "bfloat16": 0.2}
"""Nats of Kullback-Leibler divergence by which what a token of a branch predicts may differ from what the same token
alone predicts, before a model counts as computing a tree otherwise.

In SmolLM2-135M rounding gives up to 3e-7 and 0.04, a tree without its mask 1.3 and more. The largest difference of a
log-probability tells them apart less well: bfloat16 rounds one of 49,152 by 0.9, one of those that matter by 0.6.
"""


@dataclass
class Tree:
    """Several token sequences; nodes are numbered, each parent before its children."""

    tokens: list[int] = field(default_factory=list)
    """The token id of each node."""
    parents: list[int] = field(default_factory=list)
    """The parent of each node; -1 for a root."""
    depths: list[int] = field(default_factory=list)
    """The position of each node's token in its sequence."""
    paths: list[list[int]] = field(default_factory=list)
    """The nodes of each added sequence, in the order of its tokens."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children."""
        return self.depths == list(range(len(self.tokens)))

    def shared(self, sequence: Sequence[int]) -> int:
        """Length of the longest prefix of the sequence that the tree already has."""
        node = -1
        for count, token in enumerate(sequence):
            if (node, token) not in self._children:
                return count
            node = self._children[node, token]
        return len(sequence)

    def add(self, sequence: Sequence[int]) -> None:
        """Add a sequence behind the longest prefix that is there."""
        path: list[int] = []
        for depth, token in enumerate(sequence):
            parent = path[-1] if path else -1
            node = self._children.setdefault((parent, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            path.append(node)
        self.paths.append(path)

    def inputs(self, device: Any, dtype: Any) -> dict[str, Any]:
        """Arguments of the model's forward pass.

        input_ids, position_ids: [1, nodes]. attention_mask: [1, 1, nodes, nodes], added to the attention scores; absent
        for a chain, for which the model's own causal mask is right.
        """
        import torch

        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([self.tokens], device=device),
            "position_ids": torch.tensor([self.depths], device=device),
        }
        if self.is_chain:
            return inputs
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        return {**inputs, "attention_mask": mask[None, None].to(device)}


def plant(sequences: Sequence[Sequence[int]], longest_branch: int) -> list[Tree]:
    """Trees that hold the sequences in order, none larger than MOST_TOKENS plus the shared prefix, or one sequence.

    `longest_branch`: a longer sequence shares a tree only with its own prefixes (see the function of that name).
    """
    trees: list[Tree] = []
    for sequence in sequences:
        if not trees or not _has_room(trees[-1], sequence, longest_branch):
            trees.append(Tree())
        trees[-1].add(sequence)
    return trees


def _has_room(tree: Tree, sequence: Sequence[int], longest_branch: int) -> bool:
    shared = tree.shared(sequence)
    added = len(sequence) - shared
    if added and len(tree.tokens) + added > MOST_TOKENS + shared:
        return False
    stays_a_chain = not added or (tree.is_chain and shared == len(tree.tokens))
    return stays_a_chain or max(len(sequence), max(tree.depths) + 1) <= longest_branch


def longest_branch(model: Any, example: Sequence[int]) -> int:
    """Most tokens of a sequence that may share a tree with others; 0 for a model that mixes branches.

    A layer with sliding-window attention honours the mask only while the whole sequence fits its window. Whether a
    model keeps branches apart at all (recurrent layers do not, and some models build their own mask) is tested on
    the last tokens of `example`, which are ids of its vocabulary.
    """
    import torch

    example = example[-TRIED_TOKENS:]
    half = len(example) // 2
    unlike = int(example[half] == 0)  # whatever the example repeats, the branches part: a chain would test nothing
    branches = [[*example], [*example[:half], unlike, *example[: half - 1]]]
    (tree,) = plant(branches, len(example))
    first_alone = {*tree.paths[0]} - {*tree.paths[1]}
    others = [int(token == 0) if node in first_alone else token for node, token in enumerate(tree.tokens)]
    with torch.inference_mode():
        together = model(**tree.inputs(model.device, model.dtype), use_cache=False).logits[0]
        beside = model(**replace(tree, tokens=others).inputs(model.device, model.dtype), use_cache=False).logits[0]
        second, second_beside = (each[tree.paths[1]].float().log_softmax(-1) for each in (together, beside))
        if not (second - second_beside).abs().max() <= MOST_BY_NEIGHBOUR:
            return 0
        for branch, path in zip(branches, tree.paths, strict=True):
            alone = model(input_ids=torch.tensor([branch], device=model.device), use_cache=False).logits[0]
            logs, logs_alone = together[path].float().log_softmax(-1), alone.float().log_softmax(-1)
            apart = (logs_alone.exp() * (logs_alone - logs)).sum(-1).max()
            if not apart <= MOST_APART[str(model.dtype).removeprefix("torch.")]:
                return 0
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([int(config.max_position_embeddings), *(int(window) for window in windows if window)])


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    end_of_turn: Collection[int],
    longest_branch: int,
    at_once: int,
    reached: Callable[[int], None] = lambda answers: None,
) -> list[list[int]]:
    """Return the most likely new tokens of each prompt, up to its end of turn.

    Raises InputError for logits that are not finite.

    Args:
        longest_branch: maximum number of tokens of prompt and answer with which prompts share a tree (see
            `longest_branch`).
        at_once: maximum number of prompts answered at once.
        reached: receives the number of complete answers.
    """
    from sovereign_pipeline.base_models.batch import Batch, unsupported_layers

    rows = [_Greedy(prompt, max_new_tokens, frozenset(end_of_turn)) for prompt in prompts]
    # By tokens: a text of one length has four times as many of them in one language as in another.
    waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
    if unsupported_layers(model):
        while waiting:
            group = [waiting.popleft() for _ in range(min(at_once, len(waiting)))]
            _generate_by_transformers(model, group)
            reached(len(rows) - len(waiting))
        return [row.tokens for row in rows]
    batch = Batch(
        lambda adapters, **inputs: model(**inputs), at_once, MOST_TOKENS_HELD, MOST_TOKENS_HELD, device=model.device
    )
    while waiting or batch.is_busy:
        room = batch.room(len(waiting[0].prompt) + max_new_tokens) if waiting else 0
        if room and (2 * room >= at_once or room >= len(waiting) or not batch.is_busy):
            group = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            cache = _read_prompts(model, [row.prompt for row in group], longest_branch - max_new_tokens)
            if cache is not None:
                batch.join(group, cache)
            else:
                for row in group:
                    batch.submit(row)
        batch.step()
        reached(sum(row.is_complete for row in rows))
    return [row.tokens for row in rows]


@dataclass(eq=False)
class _Greedy:
    """An answer of the most likely tokens."""

    prompt: list[int]
    limit: int
    end_of_turn: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    adapter: str = ""
    group: str = ""
    shared: int = 0

    @property
    def is_complete(self) -> bool:
        return len(self.tokens) == self.limit or not self.end_of_turn.isdisjoint(self.tokens[-1:])

    def choose(self, logits: Any) -> int:
        return int(logits.argmax())

    def take(self, token: int) -> bool:
        self.tokens.append(token)
        return not self.is_complete

    def fail(self, reason: str) -> None:
        raise InputError(f"An answer cannot be generated: {reason}.", "Train again, or check the base model.")


def _generate_by_transformers(model: Any, rows: Sequence[_Greedy]) -> None:
    """Generate answers of a model whose rows cannot join and leave a batch."""
    import torch
    from transformers import GenerationConfig

    longest, end = max(len(row.prompt) for row in rows), sorted(rows[0].end_of_turn)
    missing = [longest - len(row.prompt) for row in rows]
    tensor = partial(torch.tensor, device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=tensor([[end[0]] * pad + row.prompt for pad, row in zip(missing, rows, strict=True)]),
            attention_mask=tensor([[0] * pad + [1] * (longest - pad) for pad in missing]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=rows[0].limit, eos_token_id=end, pad_token_id=end[0]
            ),
        )
    for row, new in zip(rows, output[:, longest:].tolist(), strict=True):
        any(not row.take(token) for token in new)


def _read_prompts(model: Any, prompts: Sequence[list[int]], longest_branch: int) -> Any:
    """Return a cache with the keys and values of each prompt except its last token, padded on the left.

    None if a prompt is longer than `longest_branch`, or none has two tokens.
    """
    import torch

    from sovereign_pipeline.base_models.batch import empty_cache

    width = max(map(len, prompts)) - 1
    if not 0 < width < longest_branch:
        return None
    cache, order = empty_cache(), sorted(range(len(prompts)), key=lambda index: prompts[index])
    left = iter(order)
    with torch.inference_mode():
        for tree in plant([prompts[index][:-1] for index in order], longest_branch):
            of_tree = empty_cache()
            model(**tree.inputs(model.device, model.dtype), cache=of_tree, use_cache=True, logits_to_keep=1)
            rows = list(islice(left, len(tree.paths)))
            paths = [torch.tensor(path, dtype=torch.long, device=model.device) for path in tree.paths]
            for number, nodes in enumerate(of_tree.layers):
                if not nodes.is_initialized:  # it reads the keys of another layer
                    continue
                if number >= len(cache.layers):
                    cache.update(*(_zeros(each, len(prompts), width) for each in (nodes.keys, nodes.values)), number)
                for row, path in zip(rows, paths, strict=True):
                    cache.layers[number].keys[row, :, width - len(path) :] = nodes.keys[0][:, path]
                    cache.layers[number].values[row, :, width - len(path) :] = nodes.values[0][:, path]
    return cache


def _zeros(states: Any, rows: int, width: int) -> Any:
    """For keys or values of so many rows: [rows, heads, width, features]."""
    return states.new_zeros(rows, states.shape[1], width, states.shape[3])
