"""Run the local engine's child process: receive requests as JSON lines and compute them.

The process has no key, inherits only the variables in `INHERITED_VARIABLES`, prints nothing, and ends with its parent.
"""

import json
import os
import queue
import random
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.base.processes import die_with_parent, keep_private, silence
from sovereign_pipeline.serving.engines.engine import TokenLogprob
from sovereign_pipeline.serving.engines.text import TextPieces, answer_limit

if TYPE_CHECKING:
    from sovereign_pipeline.serving.engines.local_model import Matcher, Model

Message = dict[str, Any]
LEAST_LOGPROB = -9999.0
RENDERED_AT_ONCE = 4_000
"""Requests with at most this many characters of messages, tools and grammar are encoded in the main thread, between two
steps of the model. Longer ones are encoded in a second thread."""


def main() -> None:
    """Run the child. Arguments: the socket's number, the parent's process id, and the settings as JSON."""
    keep_private()
    number, parent, settings = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    die_with_parent(parent)
    silence()
    link = Link(socket.socket(fileno=number))
    try:
        worker = Worker(link, settings)
    except EngineRefused as error:
        link.send({"op": "failed", "message": error.message, "hint": error.hint})
        return
    worker.run()


class Link:
    """A socket to the parent process. When the parent closes it, the reading thread ends this process."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Message) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def refuse(self, number: int, error: EngineRefused) -> None:
        kind = type(error).__name__
        self.send({"op": "refused", "id": number, "kind": kind, "message": error.message, "hint": error.hint})

    def receive(self, seconds: float | None) -> Message | None:
        """Return the next message, or None after `seconds`. If `seconds` is None, wait without limit."""
        try:
            return self._messages.get(timeout=seconds) if seconds != 0 else self._messages.get_nowait()
        except queue.Empty:
            return None

    def put(self, message: Message) -> None:
        """Queue a message from this process itself. `receive` returns it like a message from the parent."""
        self._messages.put(message)

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                self._messages.put(json.loads(line))
        os._exit(0)  # the parent closed the socket, or has ended


@dataclass(frozen=True)
class Rendered:
    prompt: list[int]
    limit: int
    shared: int
    """Number of leading tokens that other conversations share."""
    matcher: "Matcher | None"
    """State of the answer in its grammar; None if any text is allowed."""


class AnswerRow:
    def __init__(self, link: Link, message: Message, rendered: "Rendered", model: "Model") -> None:
        sampling = message["sampling"]
        self.number, self.adapter, self.group = message["id"], message["digest"], message["cache_group"]
        self.prompt, self.limit, self.shared = rendered.prompt, rendered.limit, rendered.shared
        self._link, self._end = link, model.end_of_turn
        decode = partial(model.prompts.decode, with_marks=bool(message["tools"]))
        self._text = TextPieces(decode, sampling["stop"])
        self._temperature, self._top_p = float(sampling["temperature"]), float(sampling["top_p"])
        self._random = random.Random(sampling["seed"]) if sampling["seed"] is not None else random.SystemRandom()
        self._matcher, self._most_likely = rendered.matcher, sampling["logprobs"]
        self._decode = decode
        self._count = self._unsent = 0
        self._logprobs: list[TokenLogprob] = []

    def choose(self, logits: Any) -> int:
        if self._matcher is not None:
            logits = self._matcher.masked(logits)
        token = self._drawn(logits)
        if self._most_likely is not None and token not in self._end:
            self._note(token, logits)
        return token

    def _note(self, token: int, logits: Any) -> None:
        """Store the log-probabilities at a token's position, computed before temperature is applied. Tokens that the
        grammar forbids get `LEAST_LOGPROB`, as in vLLM."""
        import torch

        scores = torch.log_softmax(logits, dim=-1).clamp(min=LEAST_LOGPROB)
        values, ids = scores.topk(self._most_likely or 0)
        likeliest = [(self._decode([id]), value) for id, value in zip(ids.tolist(), values.tolist(), strict=True)]
        self._logprobs.append(TokenLogprob(self._decode([token]), float(scores[token]), likeliest))

    def _drawn(self, logits: Any) -> int:
        import torch

        if self._temperature == 0:
            return int(logits.argmax())
        below = logits.double() - logits.max()  # subtracted so that the largest value is finite at any temperature
        chances = torch.softmax(below / self._temperature, dim=-1)
        if self._top_p < 1:
            ordered, ids = chances.sort(descending=True, stable=True)
            within = ordered.cumsum(-1) - ordered < self._top_p
            within[0] = True
            chances = torch.zeros_like(chances).scatter(0, ids[within], ordered[within])
        reached = chances.cumsum(-1)
        drawn = self._random.random() * float(reached[-1])
        return min(int(torch.searchsorted(reached, drawn, right=True)), int(chances.nonzero()[-1]))

    def take(self, token: int) -> bool:
        self._count += 1
        self._unsent += 1
        try:
            if self._matcher is not None:
                self._matcher.assert_whole()
            is_over = token in self._end or (self._matcher is not None and self._matcher.is_over_after(token))
        except EngineRefused as error:
            self._link.refuse(self.number, error)
            return False
        text = "" if token in self._end else self._text.add(token)
        finish = "stop" if is_over or self._text.is_stopped else "length" if self._count >= self.limit else None
        return self._send(text + self._text.rest() if finish is not None else text, finish)

    def fail(self, reason: str) -> None:
        self._link.send({"op": "lost", "id": self.number, "message": reason})

    def _send(self, text: str, finish: str | None) -> bool:
        """Send text and finish reason to the parent, if there is either. Returns True unless the answer is finished."""
        if text or finish is not None:
            piece = {"text": text, "tokens": self._unsent, "finish": finish, "logprobs": self._logprobs}
            self._link.send({"op": "piece", "id": self.number, **piece})
            self._unsent, self._logprobs = 0, []
        return finish is None


class Worker:
    """A loop that runs the model and schedules the running requests."""

    def __init__(self, link: Link, settings: Message) -> None:
        import torch

        torch.set_num_threads(settings["threads"])
        from sovereign_pipeline.base_models.batch import Batch
        from sovereign_pipeline.serving.engines.local_model import Model

        self._link, self._gather_seconds = link, settings["gather_seconds"]
        self.model = Model(Path(settings["base"]))
        self._prompts = self.model.prompts
        self._context = min(self.model.context, settings["context"] or self.model.context)
        self._batch = Batch(self.model.compute, settings["rows"], settings["cache_tokens"], settings["chunk_tokens"])
        self._answers: dict[int, AnswerRow] = {}
        self._renderer = ThreadPoolExecutor(1)
        self._waiting: dict[int, tuple[Message, Future[Rendered]]] = {}
        form = asdict(self._prompts.call_form) if self._prompts.call_form is not None else None
        link.send({"op": "ready", "template_sha256": self._prompts.template_sha256, "call_form": form})

    def run(self) -> None:
        """Compute until the parent closes the socket."""
        while True:
            if not self._batch.is_busy:
                self._do(self._link.receive(None))
                self._gather()
            while (message := self._link.receive(0)) is not None:
                self._do(message)
            if self._batch.is_busy:
                self._batch.step()
                self._answers = {number: row for number, row in self._answers.items() if self._batch.holds(row)}
            self.model.remove_left(self._needed)

    def _gather(self) -> None:
        """Wait briefly for more requests, so that they start as one batch with the first request."""
        until = time.monotonic() + self._gather_seconds
        while self._answers and (left := until - time.monotonic()) > 0:
            self._do(self._link.receive(left))

    def _do(self, message: Message | None) -> None:
        if message is None:
            return
        try:
            getattr(self, f"_{message['op']}")(message)
        except EngineRefused as error:
            self._link.refuse(message["id"], error)

    def _ping(self, message: Message) -> None:
        self._link.send({"op": "pong"})

    def _ask(self, message: Message) -> None:
        digest = message["digest"]
        if not self.model.knows(digest):
            raise EngineRefused(f"Adapter {digest[:12]} is not loaded.", "Load the adapter first.")
        if (
            len(json.dumps([message["messages"], message["tools"], message["grammar"]], ensure_ascii=False))
            <= RENDERED_AT_ONCE
        ):
            self._begin(message, self._rendered(message))
            return
        # Encoding a long text takes seconds. Running answers continue in the meantime.
        rendered = self._renderer.submit(self._rendered, message)
        self._waiting[message["id"]] = message, rendered
        rendered.add_done_callback(lambda _: self._link.put({"op": "begin_waiting", "id": message["id"]}))

    def _begin_waiting(self, message: Message) -> None:
        if (found := self._waiting.pop(message["id"], None)) is not None:
            self._begin(found[0], found[1].result())

    def _rendered(self, message: Message) -> Rendered:
        """Render a conversation. Raises EngineRefused if the template rejects it, the prompt is too long or the grammar
        cannot be used."""
        prompt = self._prompts.render(message["messages"], message["tools"])
        limit = answer_limit(len(prompt), self._context, message["sampling"]["max_tokens"])
        shared = self._prompts.shared_tokens(message["messages"], message["shared"], prompt, message["tools"])
        return Rendered(prompt, limit, shared, self.model.matcher(message["grammar"]) if message["grammar"] else None)

    def _begin(self, message: Message, rendered: Rendered) -> None:
        row = AnswerRow(self._link, message, rendered, self.model)
        self._link.send({"op": "begun", "id": message["id"], "prompt_tokens": len(row.prompt)})
        self._answers[row.number] = row
        self._batch.submit(row)

    def _cancel(self, message: Message) -> None:
        if (waiting := self._waiting.pop(message["id"], None)) is not None:
            waiting[1].cancel()
        row = self._answers.pop(message["id"], None)
        if row is not None:
            self._batch.drop(row)

    def _load(self, message: Message) -> None:
        """Load an adapter, and send this engine's values for the adapter's fingerprint."""
        digest = message["digest"]
        self._batch.prefixes.forget(digest)
        self.model.load(digest, Path(message["directory"]), message["files"])
        expected = zip(message["conversations"], message["marks"], strict=True)
        marks = [self._mark(digest, conversation, mark) for conversation, mark in expected]
        self._link.send({"op": "loaded", "id": message["id"], "marks": marks})

    def _mark(self, digest: str, conversation: Message, expected: Message) -> Message:
        """Return this engine's values for `expected`, one `Mark` of the fingerprint. At each position, the expected
        tokens precede. If this engine encodes the prompt differently, return `expected` with this engine's prompt."""
        from sovereign_pipeline.serving.engines.local_model import log_probabilities

        prompt = self._prompts.render(conversation["messages"], conversation["tools"])
        found: Message = {**expected, "prompt": prompt}
        if prompt != expected["prompt"]:
            return found
        of_adapter, of_base = log_probabilities(self.model.compute, digest, prompt, expected["tokens"])
        found["tokens"] = of_adapter[:-1].argmax(-1).tolist()
        for name, of_one in (("adapter", of_adapter), ("base", of_base)):
            found[name] = [
                [float(at_place[each]) for each in ids] for at_place, ids in zip(of_one, expected["top"], strict=True)
            ]
        return found

    def _unload(self, message: Message) -> None:
        self._batch.prefixes.forget(message["digest"])
        self.model.forget(message["digest"])

    def _needed(self) -> set[str]:
        """Return the digests of the adapters that running and waiting requests need."""
        return self._batch.needed | {message["digest"] for message, _ in self._waiting.values()}


if __name__ == "__main__":
    main()
