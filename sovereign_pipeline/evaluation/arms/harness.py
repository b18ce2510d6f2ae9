"""The project's own model and task classes for lm-eval.

The one module of this package that imports lm-eval and torch at its top: import it inside the functions that need it.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task, TaskConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.evaluation.arms.token_tree import Tree, longest_branch, plant

Encoded = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""

Reached = Callable[[int], None]
"""Receives the number of continuations scored so far."""


class ChatScorer(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model around a loaded model, for contexts in a chat template.

    lm-eval moves white space at the end of a context into the continuation, truncates long items from the left, and may
    add a beginning-of-sequence token. Each would score other token ids than training used. Here the context ends where
    the template ends it, the ids are exactly the tokenizer's, and an item that is too long is an error.

    lm-eval also recomputes the context for every continuation of more than one token, and pads items to equal length.
    Here shared prefixes are computed once, and several items share one forward pass (`token_tree.py`).
    """

    reached: Reached | None = None
    """Told after each forward pass how many continuations are scored."""

    def split(self, context: str, continuation: str) -> Encoded:
        """Token ids of context and continuation. Raises InputError when they do not meet at a token boundary."""
        whole: list[int] = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        before: list[int] = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] != before or len(whole) == len(before):
            raise InputError(
                "The tokenizer joins the end of a prompt and the beginning of its answer in one token. The answer "
                "cannot be scored alone.",
                "Use a base model whose template ends the prompt at a token boundary.",
            )
        return before, whole[len(before) :]

    def encode(self, context: str, continuation: str) -> Encoded:
        """As `split`; also raises InputError for more tokens than the model takes."""
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
        # Sorting brings shared prefixes together. The last token is only predicted, never read, so choices by letter
        # are one and the same sequence.
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
        """Summed log-likelihood of each continuation, and whether greedy decoding would generate it."""
        predicting = [path[len(context) - 1 :] for path, (context, _) in zip(tree.paths, encoded, strict=True)]
        predicting_nodes = sorted({node for nodes in predicting for node in nodes})
        row = {node: index for index, node in enumerate(predicting_nodes)}
        with torch.inference_mode():
            inputs = tree.inputs(self.device, self.model.dtype)
            logits = self.model(
                **inputs, use_cache=False, logits_to_keep=torch.tensor(predicting_nodes, device=self.device)
            ).logits[0]
            # Once for each node: continuations with a common beginning share most of them.
            likeliest, logs = logits.argmax(dim=-1), torch.log_softmax(logits.float(), dim=-1)
            scores = []
            for nodes, (_, following) in zip(predicting, encoded, strict=True):
                rows, ids = (torch.tensor(each, device=logits.device) for each in ([row[n] for n in nodes], following))
                total = logs[rows, ids].sum(dtype=torch.float64)
                scores.append((float(total), bool((likeliest[rows] == ids).all())))
            return scores


class ContinuationTask(Task):  # type: ignore[misc]
    """Log-likelihood of each continuation of each item, held in memory so that lm-eval caches nothing on disk.

    Each of `docs` has "id", "context" and "continuations". The metric reported to lm-eval is the first continuation's
    log-likelihood; callers read the samples.
    """

    VERSION = 1
    OUTPUT_TYPE = "loglikelihood"

    def __init__(self, name: str, docs: Sequence[dict[str, Any]]) -> None:
        self._docs = list(docs)
        super().__init__()
        self._config = TaskConfig(task=name, num_fewshot=0)

    def download(self, *args: Any, **kwargs: Any) -> None:
        """Fetch nothing: the items are in memory."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self._docs

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return str(doc["context"])

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return str(doc["continuations"][0])

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        return self.doc_to_text(doc)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        return [
            Instance("loglikelihood", doc, (ctx, continuation), index, metadata=kwargs["metadata"])
            for index, continuation in enumerate(doc["continuations"])
        ]

    def process_results(self, doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
        return {"log_likelihood": results[0][0]}

    def aggregation(self) -> dict[str, Any]:
        return {"log_likelihood": lambda values: sum(values) / len(values)}

    def higher_is_better(self) -> dict[str, bool]:
        return {"log_likelihood": True}


def log_likelihoods(
    scorer: ChatScorer, name: str, docs: Sequence[dict[str, Any]], reached: Reached
) -> dict[str, tuple[float, ...]]:
    """Run lm-eval over the items. Id of the item -> summed log-likelihood (nats) of each continuation.

    Calls `evaluate` and not `simple_evaluate`, which describes the machine for a second or more at each call (it runs
    pip and git) and seeds the process's random generators, which scoring does not use.
    """
    scorer.reached = reached
    try:
        results = evaluate(
            lm=scorer,
            task_dict=TaskManager(include_defaults=False).load([ContinuationTask(name, docs)]),
            log_samples=True,
            bootstrap_iters=0,
            cache_requests=False,
        )
    finally:
        scorer.reached = None
    return {
        sample["doc"]["id"]: tuple(float(likelihood) for likelihood, _ in sample["filtered_resps"])
        for sample in results["samples"][name]
    }
