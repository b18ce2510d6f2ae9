"""What a vLLM server computes where the training side computed a fingerprint.

Log-probabilities are those of new tokens alone: asked for those of a prompt, vLLM's processor build dies when another
adapter shares the step. So an answer is followed along the expected tokens, and begun anew where it leaves them.

What belongs here: asking for it. What does not: what counts as reproduced (`fingerprints.py`).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.serving.engines.vllm_server import COMPLETIONS, VllmServer
from sovereign_pipeline.serving.fingerprints import LogProbabilities, Mark

PREFIX = "token_id:"


async def measure(
    server: VllmServer, name: str, base: str, prompts: Sequence[Sequence[int]], expected: Sequence[Mark]
) -> list[Mark]:
    """The marks of an adapter.

    base: the name of the adapter that does nothing. prompts: the conversations as this engine renders them.
    """
    rendered = [
        mark.model_copy(update={"prompt": tuple(prompt)}) for prompt, mark in zip(prompts, expected, strict=True)
    ]
    if rendered != list(expected):
        return rendered
    return list(await asyncio.gather(*(_mark(server, name, base, mark) for mark in expected)))


async def _mark(server: VllmServer, name: str, base: str, mark: Mark) -> Mark:
    (tokens, of_adapter), (_, of_base) = await asyncio.gather(_follow(server, name, mark), _follow(server, base, mark))
    return mark.model_copy(update={"tokens": tokens, "adapter": of_adapter, "base": of_base})


async def _follow(server: VllmServer, name: str, mark: Mark) -> tuple[tuple[int, ...], LogProbabilities]:
    """The likeliest token at each position of `tokens`, each after the expected ones; and the log-probabilities of the
    ids of `top` there and at the position after them."""
    likeliest: list[int] = []
    values: list[tuple[float, ...]] = []
    while len(values) < len(mark.top):
        begin = len(values)
        found, places = await _begin(server, name, mark, begin)
        for token, place in zip(found, places, strict=True):
            values.append(tuple(place[id] for id in mark.top[len(values)]))
            likeliest.append(token)
            if token != (*mark.tokens, token)[len(values) - 1]:
                break
    return tuple(likeliest[: len(mark.tokens)]), tuple(values)


async def _begin(server: VllmServer, name: str, mark: Mark, begin: int) -> tuple[list[int], list[dict[int, float]]]:
    """The likeliest tokens after so many expected ones, and log-probabilities at each of them."""
    body = {
        "model": name,
        "prompt": [*mark.prompt, *mark.tokens[:begin]],
        "max_tokens": len(mark.top) - begin,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 1,
        "logprob_token_ids": sorted({id for ids in mark.top[begin:] for id in ids}),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
        "cache_salt": server.salt("fingerprints"),
    }
    answer: Any = await server.post(COMPLETIONS, body)
    try:
        choice = answer["choices"][0]
        places = [
            {int(id.removeprefix(PREFIX)): float(value) for id, value in place.items()}
            for place in choice["logprobs"]["top_logprobs"]
        ]
        return [int(token) for token in choice["token_ids"]], places
    except (KeyError, TypeError, IndexError, ValueError):
        raise EngineRefused("vLLM answers in another form than the one that is known here.", "") from None
