"""Token sequences as trees: what several have in common at their beginning stands once, and is computed once.

The questions of a suite begin with the same words, the choices of a question behind the same words. A model sees a
whole tree in one pass when each token attends to its ancestors alone and has its depth as its position; its result is
that of the sequences one by one, but for the last digits.

What belongs here: growing trees, and what a model is told about one. What is asked does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Tokens of a tree beside what the next sequence shares with it: many questions stand behind examples that are longer
# than they are. On two cores 512 were the fastest, and 256 to 2,048 within a third.
MOST_TOKENS = 512

# Nats by which a token in a branch may differ from the same token alone before a model counts as mixing branches. Of
# float32 and bfloat16: rounding gives far less, another branch's tokens give more (training's guard has the same).
MOST_APART = {"float32": 0.01, "bfloat16": 0.5}


@dataclass
class Tree:
    """tokens, parents, depths: of each node, a parent before its children; -1 is the parent of a root. paths: the
    nodes of each sequence that was added, in its order."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def is_chain(self) -> bool:
        return self.depths == list(range(len(self.tokens)))

    def shared(self, sequence: Sequence[int]) -> int:
        """How many tokens at the sequence's beginning the tree has already."""
        node = -1
        for count, token in enumerate(sequence):
            if (node, token) not in self._children:
                return count
            node = self._children[node, token]
        return len(sequence)

    def add(self, sequence: Sequence[int]) -> None:
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
        """What the model's forward is given. input_ids, position_ids: [1, nodes]; attention_mask: [1, 1, nodes, nodes],
        what is added to the scores of attention. A chain needs no mask, and a model then does as it always does."""
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
    """Trees that hold the sequences in their order, none larger than MOST_TOKENS and what is shared, or one sequence.

    longest_branch: a longer sequence shares a tree only with what lies on its own way (see `longest_branch`).
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
    stays_as_it_is = not added or (tree.is_chain and shared == len(tree.tokens))
    return stays_as_it_is or max(len(sequence), max(tree.depths) + 1) <= longest_branch


def longest_branch(model: Any, example: Sequence[int]) -> int:
    """Tokens that a sequence may have to stand in a tree beside others; 0 for a model that cannot keep them apart.

    A layer with a window sees as far as it is told here only while the whole sequence fits the window. Whether a model
    keeps branches apart at all (recurrent layers do not, and some bring their own mask) is tried on `example`, some
    tokens of its vocabulary.
    """
    import torch

    half = len(example) // 2
    branches = [[*example], [*example[:half], *example[:half]]]
    (tree,) = plant(branches, len(example))
    with torch.inference_mode():
        together = model(**tree.inputs(model.device, model.dtype), use_cache=False).logits[0]
        for branch, path in zip(branches, tree.paths, strict=True):
            alone = model(input_ids=torch.tensor([branch], device=model.device), use_cache=False).logits[0]
            apart = (together[path].float().log_softmax(-1) - alone.float().log_softmax(-1)).abs().max()
            if not apart <= MOST_APART[str(model.dtype).removeprefix("torch.")]:
                return 0
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([int(config.max_position_embeddings), *(int(window) for window in windows if window)])
