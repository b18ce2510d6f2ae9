"""Score continuations of chat-template contexts with lm-eval. Import this module inside functions: it loads torch."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base_models.chat_text import encode_text
from sovereign_pipeline.evaluation.arms.token_tree import Tree, longest_branch, plant

Encoded = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""
Reached = Callable[[int], None]
"""Function that receives the number of continuations scored so far."""


class ChatScorer(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model around a loaded model, for contexts in a chat template.

    lm-eval moves white space at the end of a context into the continuation, truncates long items from the left, and may
    add a beginning-of-sequence token. With any of these, lm-eval would score other token ids than training used. In
    this class the context ends where the chat template ends it, the ids are exactly the tokenizer's, and an item that
    is too long is an error.

    lm-eval also recomputes the context for every continuation of more than one token, and pads items to equal length.
    This class computes shared prefixes once, and several items in one forward pass (`token_tree.py`).
    """

    reached: Reached | None = None
    """Called after each forward pass with the number of continuations scored."""

    def split(self, context: str, continuation: str) -> Encoded:
        """Return the token ids of context and continuation. Raises InputError if a token spans the end of the
        context."""
        whole = encode_text(self.tokenizer, context + continuation)
        before = encode_text(self.tokenizer, context)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise InputError(
                "The tokenizer joins the end of a prompt and the beginning of its answer in one token, so the answer "
                "cannot be scored alone.",
                "Use a base model whose template ends the prompt at a token boundary.",
            )
        return before, whole[len(before) :]

    def encode(self, context: str, continuation: str) -> Encoded:
        """Return the token ids as `split` does. Also raises InputError if there are more tokens than the model
        takes."""
        before, following = self.split(context, continuation)
        if len(before) + len(following) > self.max_length:
            raise InputError(
                f"An item has {len(before) + len(following)} tokens; the model takes {self.max_length}.",
                "Shorten the item or remove it.",
            )
        return before, following

    def _encode_pair(self, context: str, continuation: str) -> Encoded:
        return self.encode(context, continuation)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        encoded = [(context, following) for _, context, following in requests]
        if not encoded:
            return []
        # Sorting puts shared prefixes next to each other. The last token is predicted but is no input, so the choices
        # of a question scored by letter are one sequence.
        order = sorted(range(len(encoded)), key=lambda index: encoded[index])
        sequences = [[*context, *following[:-1]] for context, following in (encoded[index] for index in order)]
        left, scores = iter(order), dict[int, tuple[float, bool]]()
        for tree in plant(sequences, self._longest_branch(encoded)):
            planted = list(islice(left, len(tree.paths)))
            scores.update(zip(planted, self._score(tree, [encoded[index] for index in planted]), strict=True))
            if self.reached is not None:
                self.reached(len(scores))
        return [scores[index] for index in range(len(encoded))]

    def _longest_branch(self, encoded: list[Encoded]) -> int:
        context, following = encoded[0]
        return longest_branch(self.model, [*context, *following])

    def _score(self, tree: Tree, encoded: list[Encoded]) -> list[tuple[float, bool]]:
        """Return for each continuation the summed log-likelihood, and True if greedy decoding would generate the
        continuation."""
        predicting = [path[len(context) - 1 :] for path, (context, _) in zip(tree.paths, encoded, strict=True)]
        predicting_nodes = sorted({node for nodes in predicting for node in nodes})
        row = {node: index for index, node in enumerate(predicting_nodes)}
        with torch.inference_mode():
            inputs = tree.inputs(self.device, self.model.dtype)
            logits = self.model(
                **inputs, use_cache=False, logits_to_keep=torch.tensor(predicting_nodes, device=self.device)
            ).logits[0]
            # Computed once for each node, because continuations with a common beginning share most nodes.
            likeliest, logs = logits.argmax(dim=-1), torch.log_softmax(logits.float(), dim=-1)
            scores = []
            for nodes, (_, following) in zip(predicting, encoded, strict=True):
                rows, ids = (torch.tensor(each, device=logits.device) for each in ([row[n] for n in nodes], following))
                total = logs[rows, ids].sum(dtype=torch.float64)
                scores.append((float(total), bool((likeliest[rows] == ids).all())))
            return scores


def log_likelihoods(
    scorer: ChatScorer, items: Sequence[tuple[str, Sequence[str]]], reached: Reached
) -> list[tuple[float, ...]]:
    """Return the summed log-likelihood (nats) of each continuation, for each pair of a context and its
    continuations."""
    requests = [
        Instance("loglikelihood", {}, (context, continuation), index)
        for context, continuations in items
        for index, continuation in enumerate(continuations)
    ]
    scorer.reached = reached
    try:
        scores = iter(scorer.loglikelihood(requests, disable_tqdm=True))
    finally:
        scorer.reached = None
    return [tuple(next(scores)[0] for _ in continuations) for _, continuations in items]
