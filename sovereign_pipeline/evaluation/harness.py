"""The project's own model and task classes for lm-eval.

The one module of the room that imports lm-eval and torch at its top: import it inside the functions that need it.
What an item asks and what is made of its scores does not belong here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task, TaskConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from sovereign_pipeline.errors import InputError

Encoded = tuple[list[int], list[int]]


class ChatScorer(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model, given a loaded model, for contexts that a chat template wrote.

    lm-eval moves white space at the end of a context into the continuation, cuts what is too long from the left, and
    may add a beginning-of-sequence token. Each would score other ids than training saw, so here the context ends where
    the template ends it, the ids are exactly the tokenizer's, and what does not fit is an error.

    lm-eval also computes the context again for every continuation of more than one token. Here its keys and values are
    computed once, so a choice among three replies costs about half; and as items are never padded to each other, an
    item's score does not depend on which others are asked.
    """

    def split(self, context: str, continuation: str) -> Encoded:
        """Token ids of both sides. Raises InputError when they do not meet at a token's border."""
        whole: list[int] = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        before: list[int] = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] != before or len(whole) == len(before):
            raise InputError(
                "The tokenizer joins the end of a prompt with the beginning of its answer, so the answer cannot be "
                "scored alone. Use a base model whose template ends the prompt at a token's border."
            )
        return before, whole[len(before) :]

    def encode(self, context: str, continuation: str) -> Encoded:
        """As `split`; raises InputError for more tokens than the model takes as well."""
        before, following = self.split(context, continuation)
        if len(before) + len(following) > self.max_length:
            raise InputError(
                f"An item has {len(before) + len(following)} tokens and the model takes {self.max_length}. Shorten "
                f"the item or leave it out."
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
        by_context: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, _) in enumerate(requests):
            by_context.setdefault(tuple(context), []).append(index)
        scores: dict[int, tuple[float, bool]] = {}
        for before, indices in by_context.items():
            for start in range(0, len(indices), int(self.batch_size)):
                batch = indices[start : start + int(self.batch_size)]
                scores.update(zip(batch, self._score(before, [requests[i][2] for i in batch]), strict=True))
        return [scores[index] for index in range(len(requests))]

    def _score(self, context: tuple[int, ...], continuations: list[list[int]]) -> list[tuple[float, bool]]:
        """Summed log-likelihood of each continuation, and whether it is what greedy decoding would say."""
        longest = max(len(ids) for ids in continuations)
        # The last token of the context stands in front of each continuation: it is what predicts the first of them.
        rows = [[context[-1], *ids[:-1], *[0] * (longest - len(ids))] for ids in continuations]
        with torch.inference_mode():
            if longest == 1:
                # Choices by letter: one pass says all of them, and no keys are needed again.
                next_token = self.model(torch.tensor([context], device=self.device), use_cache=False, logits_to_keep=1)
                return [self._total(next_token.logits[0], ids) for ids in continuations]
            cache = None
            if len(context) > 1:
                before = torch.tensor([context[:-1]], device=self.device)
                cache = self.model(before, use_cache=True, logits_to_keep=1).cache
                cache.batch_repeat_interleave(len(rows))
            logits = self.model(torch.tensor(rows, device=self.device), cache=cache, use_cache=True).logits
            return [self._total(logits[row, : len(ids)], ids) for row, ids in enumerate(continuations)]

    def _total(self, logits: torch.Tensor, ids: list[int]) -> tuple[float, bool]:
        """logits: [tokens, vocabulary], each row what stands before the token of the same place."""
        target = torch.tensor(ids, device=logits.device)
        total = torch.log_softmax(logits.float(), dim=-1).gather(1, target[:, None]).sum(dtype=torch.float64)
        return float(total), bool((logits.argmax(dim=-1) == target).all())


class ContinuationTask(Task):  # type: ignore[misc]
    """Log-likelihood of each continuation of each item; held in memory, so that lm-eval caches nothing on disk.

    docs: {"id", "context", "continuations"}. The metric reported to lm-eval is the first continuation's
    log-likelihood; callers read the samples.
    """

    VERSION = 1
    OUTPUT_TYPE = "loglikelihood"

    def __init__(self, name: str, docs: Sequence[dict[str, Any]]) -> None:
        self._docs = list(docs)
        super().__init__()
        self._config = TaskConfig(task=name, num_fewshot=0)

    def download(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to fetch: the documents were handed over."""

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


def log_likelihoods(scorer: ChatScorer, name: str, docs: Sequence[dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    """Run lm-eval over the documents. Id of the document -> summed log-likelihood (nats) of each continuation.

    `evaluate` and not `simple_evaluate`: the latter describes the machine for a second and more at each call (it runs
    pip and git), and seeds the process's generators, which scoring does not use.
    """
    results = evaluate(
        lm=scorer,
        task_dict=TaskManager(include_defaults=False).load([ContinuationTask(name, docs)]),
        log_samples=True,
        bootstrap_iters=0,
        cache_requests=False,
    )
    return {
        sample["doc"]["id"]: tuple(float(likelihood) for likelihood, _ in sample["filtered_resps"])
        for sample in results["samples"][name]
    }
