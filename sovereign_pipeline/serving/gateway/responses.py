"""What callers get, in OpenAI's form.

What belongs here: the form of answers and of a stream's events. What does not: computing them (`answering.py`).
"""

import json
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_serializer

from sovereign_pipeline.serving.engines.engine import Deployable

Finish = Literal["stop", "length", "content_filter"]
"""The last: it was stopped, for personal data that was found in it."""
Kind = Literal["chat", "text"]
DONE = b"data: [DONE]\n\n"


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorFacts(Sent):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Sent):
    """Every response that is no success."""

    error: ErrorFacts


class Usage(Sent):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Level(Sent):
    """The answer's classification level: that of the adapter. And whether an encrypted transcript is kept."""

    classification: str
    transcript: Literal["kept"] | None = None

    @model_serializer
    def _what_there_is(self) -> dict[str, str]:
        """All values are texts, as clients have it."""
        kept = {} if self.transcript is None else {"transcript": self.transcript}
        return {"classification": self.classification, **kept}


def level_of(adapter: Deployable, is_kept: bool) -> Level:
    """What is stated of an adapter's answers. is_kept: as encrypted transcripts."""
    return Level(classification=adapter.classification, transcript="kept" if is_kept else None)


class AnswerMessage(Sent):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Sent):
    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Finish


class ChatCompletion(Sent):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    metadata: Level


class TextChoice(Sent):
    index: Literal[0] = 0
    text: str
    logprobs: None = None
    finish_reason: Finish


class Completion(Sent):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str
    metadata: Level


class ModelFacts(Sent):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["sovereign-pipeline"] = "sovereign-pipeline"
    metadata: Level


class ModelList(Sent):
    object: Literal["list"] = "list"
    data: list[ModelFacts]


class FeedbackTaken(Sent):
    """What was said of an answer is counted."""

    id: str
    object: Literal["feedback"] = "feedback"


class Health(Sent):
    status: Literal["ok", "degraded"] = "ok"
    detail: str | None = None
    """What is degraded."""


def usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def whole(
    kind: Kind, id: str, model: str, adapter: Deployable, level: Level, text: str, finish: Finish, used: Usage
) -> ChatCompletion | Completion:
    """An answer that is sent at once."""
    facts: dict[str, Any] = {
        "id": id,
        "created": int(time.time()),
        "model": model,
        "usage": used,
        "system_fingerprint": adapter.adapter,
        "metadata": level,
    }
    if kind == "chat":
        choice = ChatChoice(message=AnswerMessage(content=text), finish_reason=finish)
        return ChatCompletion(choices=[choice], **facts)
    return Completion(choices=[TextChoice(text=text, finish_reason=finish)], **facts)


class Chunks:
    """The events of one streamed answer."""

    def __init__(self, kind: Kind, id: str, model: str, adapter: Deployable, level: Level, with_usage: bool) -> None:
        self._kind = kind
        self._with_usage = with_usage
        self._facts = {
            "id": id,
            "object": "chat.completion.chunk" if kind == "chat" else "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": adapter.adapter,
            "metadata": level.model_dump(),
        }
        mark = secrets.token_hex(16)
        before, _, after = self._event({"content": mark}, None).partition(b'"' + mark.encode() + b'"')
        self._before, self._after = before, after

    def first(self) -> bytes:
        """Says who answers; a stream of `/v1/completions` has no such event."""
        return self._event({"role": "assistant", "content": ""}, None) if self._kind == "chat" else b""

    def text(self, text: str) -> bytes:
        """One of very many: only the text is written anew."""
        return self._before + json.dumps(text).encode() + self._after

    def last(self, finish: Finish, used: Usage) -> bytes:
        """The reason why it ends, the usage where it was asked for, and the end."""
        events = self._event({}, finish)
        if self._with_usage:
            events += event({**self._facts, "choices": [], "usage": used.model_dump()})
        return events + DONE

    def _event(self, delta: dict[str, str], finish: Finish | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice |= {"delta": delta} if self._kind == "chat" else {"text": delta.get("content", "")}
        facts = {**self._facts, "choices": [choice]}
        return event(facts | {"usage": None} if self._with_usage else facts)


def event(content: dict[str, Any]) -> bytes:
    """One event, in ASCII: some clients take characters such as U+2028 for the end of a line."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
