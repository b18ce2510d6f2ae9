"""Run a model on token sequences arranged as prefix trees, so that a shared prefix is computed once.

Each token attends only to its ancestors and has its depth as position. One forward pass over a tree therefore gives the
same results as one pass for each sequence, up to rounding. Answers are generated from the keys and values of a tree's
nodes (`read_prompts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

MOST_TOKENS = 512
"""Maximum number of tokens in a tree. A prefix that is shared with the next sequence does not count, because few-shot
examples are longer than the questions after them. On two cores 512 tokens were fastest; 256 to 2,048 tokens took at
most a third longer."""
TRIED_TOKENS = 16
"""Number of tokens with which `longest_branch` tests whether a model keeps the branches of a tree apart."""
MOST_BY_NEIGHBOUR = 1e-3
"""Maximum change of a log-probability (nats) in one branch when the tokens of another branch change. With a larger
change, the model counts as mixing branches. The trees before and after the change have the same shape, so rounding is
the same. Measured: 0 in float32 and bfloat16; 0.003 and more with a tiny Falcon-H1, whose state crosses branches; 0.5
and more where the mask leaks in a single layer of SmolLM2-135M.
"""
MOST_APART = {"float32": 1e-5, "bfloat16": 0.2}
"""Maximum Kullback-Leibler divergence (nats) between a token's prediction in a tree and in its sequence alone. With a
larger divergence, the model counts as computing trees wrongly.

In SmolLM2-135M, rounding gives up to 3e-7 (float32) and 0.04 (bfloat16), and a tree without its mask 1.3 and more. The
largest difference of a single log-probability separates these cases less well: bfloat16 rounding changes one of the
49,152 log-probabilities by 0.9, and one of a likely token by 0.6.
"""


@dataclass
class Tree:
    """A prefix tree of token sequences. Nodes are numbered, each parent before its children."""

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
        """Return True if no node has two children."""
        return self.depths == list(range(len(self.tokens)))

    def shared(self, sequence: Sequence[int]) -> int:
        """Return the length of the longest prefix of this sequence that is already in the tree."""
        node = -1
        for count, token in enumerate(sequence):
            if (node, token) not in self._children:
                return count
            node = self._children[node, token]
        return len(sequence)

    def add(self, sequence: Sequence[int]) -> None:
        """Add a sequence. Its longest prefix that is already in the tree is shared."""
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
        """Return the arguments of the model's forward pass: input_ids and position_ids [1, nodes], and attention_mask
        [1, 1, nodes, nodes], which is added to the attention scores. A chain needs no mask besides the model's own
        causal mask.
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
    """Return trees that contain the sequences in order. Each tree has at most MOST_TOKENS tokens plus the shared
    prefix, or contains a single longer sequence. `longest_branch`: a sequence with more tokens shares a tree only with
    its own prefixes.
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
    """Return the length in tokens up to which a sequence may share a tree; 0 for a model that mixes branches.

    A layer with sliding-window attention applies the mask only if the whole sequence fits its window. Recurrent layers
    do not keep branches apart, and some models build their own mask. The model is therefore tested on the last tokens
    of `example`, a list of token ids of the model's vocabulary.
    """
    import torch

    example = example[-TRIED_TOKENS:]
    half = len(example) // 2
    unlike = int(example[half] == 0)  # makes two branches even if the example repeats a token
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


def read_prompts(model: Any, prompts: Sequence[list[int]], longest_branch: int) -> Any:
    """Return a cache with the keys and values of each prompt except of its last token, padded on the left. Return None
    if a prompt is longer than `longest_branch`, or if no prompt has at least two tokens.
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
                if not nodes.is_initialized:  # this layer reads the keys of another layer
                    continue
                if number >= len(cache.layers):
                    cache.update(*(_zeros(each, len(prompts), width) for each in (nodes.keys, nodes.values)), number)
                for row, path in zip(rows, paths, strict=True):
                    cache.layers[number].keys[row, :, width - len(path) :] = nodes.keys[0][:, path]
                    cache.layers[number].values[row, :, width - len(path) :] = nodes.values[0][:, path]
    return cache


def _zeros(states: Any, rows: int, width: int) -> Any:
    """Return zeros for the keys or values of a batch: [rows, heads, width, features]."""
    return states.new_zeros(rows, states.shape[1], width, states.shape[3])
