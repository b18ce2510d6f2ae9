"""Define responses and errors in OpenAI's format, and the body of a feedback request."""

import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sovereign_pipeline.serving.engines.engine import TokenLogprob
from sovereign_pipeline.serving.rollout.telemetry import Feedback, Reason, Severity, Thumb

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
"""Reason why an answer ended. `content_filter`: the answer was stopped because it contains personal data."""
Kind = Literal["chat", "text"]
DONE = b"data: [DONE]\n\n"


class ResponseModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorFacts(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseModel):
    """The body of every error response."""

    error: ErrorFacts


class Usage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Level(ResponseModel):
    """The classification level of the adapter and of its answers, and whether encrypted transcripts are kept."""

    classification: str
    transcript: Literal["kept"] | None = Field(default=None, exclude_if=lambda kept: kept is None)


class CalledFunction(ResponseModel):
    name: str
    arguments: str
    """Arguments of the call: a JSON object, written as text."""


class AnswerCall(ResponseModel):
    """A tool call that the answer asks the caller to make. The gateway makes no calls."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(ResponseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    """Text of the answer; null if the answer consists only of tool calls."""
    refusal: None = None
    tool_calls: list[AnswerCall] = Field(default=[], exclude_if=lambda calls: not calls)


class TopToken(ResponseModel):
    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8 bytes of the token; null if the token is only part of a character."""


class TokenFacts(TopToken):
    top_logprobs: list[TopToken]


class ChatLogprobs(ResponseModel):
    content: list[TokenFacts]
    refusal: None = None


class ChatChoice(ResponseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class _Answers(ResponseModel):
    id: str
    created: int
    model: str
    usage: Usage
    system_fingerprint: str
    metadata: Level


class ChatCompletion(_Answers):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class TextLogprobs(ResponseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(ResponseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class Completion(_Answers):
    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class ModelFacts(ResponseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["sovereign-pipeline"] = "sovereign-pipeline"
    metadata: Level


class ModelList(ResponseModel):
    object: Literal["list"] = "list"
    data: list[ModelFacts]


class FeedbackTaken(ResponseModel):
    """Confirmation that the feedback was counted."""

    id: str
    object: Literal["feedback"] = "feedback"


class Health(ResponseModel):
    status: Literal["ok", "degraded"] = "ok"
    detail: str | None = None
    """Describes the problem; null if the status is `ok`."""


def logprobs_of(
    kind: Kind, tokens: Sequence[TokenLogprob] | None, offset: int = 0
) -> ChatLogprobs | TextLogprobs | None:
    """Return log-probabilities in OpenAI's format. offset: number of characters before the first token."""
    if tokens is None:
        return None
    if kind == "chat":
        return ChatLogprobs(
            content=[
                TokenFacts(
                    **_token(each.text, each.logprob), top_logprobs=[TopToken(**_token(*top)) for top in each.likeliest]
                )
                for each in tokens
            ]
        )
    lengths = [len(each.text) for each in tokens]
    return TextLogprobs(
        tokens=[each.text for each in tokens],
        token_logprobs=[each.logprob for each in tokens],
        top_logprobs=[dict(each.likeliest) for each in tokens],
        text_offset=[offset + sum(lengths[:place]) for place in range(len(tokens))],
    )


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else [*text.encode()]}


class Chunks:
    """The events of one choice of a streamed answer."""

    def __init__(self, kind: Kind, facts: dict[str, Any], with_usage: bool, index: int = 0) -> None:
        self._kind, self._index = kind, index
        self._with_usage = with_usage
        self._facts = {**facts, "object": "chat.completion.chunk" if kind == "chat" else "text_completion"}
        self._length = 0
        mark = secrets.token_hex(16)
        before, _, after = self._event({"content": mark}, None).partition(b'"' + mark.encode() + b'"')
        self._before, self._after = before, after

    def first(self) -> bytes:
        """Return the first event, which has the role. A stream of `/v1/completions` has no such event."""
        return self._event({"role": "assistant", "content": ""}, None) if self._kind == "chat" else b""

    def text(self, text: str) -> bytes:
        """Return an event with text. Only the text differs between events, so the rest is rendered once."""
        return self._before + json.dumps(text).encode() + self._after

    def logprobs(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        """Return an event with text and the log-probabilities of its tokens."""
        facts = logprobs_of(self._kind, tokens, self._length)
        self._length += sum(len(each.text) for each in tokens)
        return self._event({"content": text}, None, facts.model_dump() if facts is not None else None)

    def calls(self, calls: Sequence[AnswerCall]) -> bytes:
        """Return two events for each call: one with the call's id and name, one with the call's arguments."""
        events = b""
        for index, call in enumerate(calls):
            begun = {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": ""}}
            rest = {"function": {"arguments": call.function.arguments}}
            events += b"".join(self._event({"tool_calls": [{"index": index, **each}]}, None) for each in (begun, rest))
        return events

    def last(self, finish: Finish) -> bytes:
        return self._event({}, finish)

    def end(self, used: Usage) -> bytes:
        """Return the usage event if the caller requested it, and then `[DONE]`."""
        spent = event({**self._facts, "choices": [], "usage": used.model_dump()}) if self._with_usage else b""
        return spent + DONE

    def _event(self, delta: dict[str, Any], finish: Finish | None, logprobs: dict[str, Any] | None = None) -> bytes:
        choice: dict[str, Any] = {"index": self._index, "logprobs": logprobs, "finish_reason": finish}
        choice |= {"delta": delta} if self._kind == "chat" else {"text": delta.get("content", "")}
        facts = {**self._facts, "choices": [choice]}
        return event(facts | {"usage": None} if self._with_usage else facts)


def event(content: dict[str, Any]) -> bytes:
    """Format one event in ASCII, because some clients treat characters such as U+2028 as the end of a line."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


class Refusal(Exception):
    """An error that is sent to the caller."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.is_counted = False
        """True if the metrics have already counted the request, because its answer had begun."""
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


REFUSALS: Mapping[str, tuple[int, str, dict[str, Any]]] = {
    # The same error for a model that does not exist and for a model above the caller's clearance.
    "model_not_found": (404, "This model does not exist, or you may not use it.", {"param": "model"}),
    "model_withdrawn": (404, "This model was withdrawn by an officer.", {"param": "model"}),
    "model_not_loaded": (503, "This model is being loaded. Send the request again later.", {"retry_after": 10}),
    # The same error for an answer that does not exist, belongs to another caller or is too old.
    "answer_not_found": (404, "You got no answer with this id, or the answer is too old.", {"param": "id"}),
    "not_found": (404, "This page does not exist.", {}),
    "invalid_api_key": (
        401,
        "No valid token was sent. Send your token as 'Authorization: Bearer TOKEN'.",
        {"headers": {"WWW-Authenticate": "Bearer"}},
    ),
    "feedback_not_noted": (503, "Feedback cannot be stored now. Send it again later.", {"retry_after": 60}),
    "engine_lost": (
        503,
        "The engine ended before the answer was complete. Send the request again.",
        {"retry_after": 5},
    ),
    "scanner_lost": (
        503,
        "The search for personal data does not work now, so no text is passed on. Try again later.",
        {"retry_after": 5},
    ),
    "journal_full": (
        503,
        "The journal of answers cannot be written now, so no request is answered. Tell the administrator.",
        {"retry_after": 60},
    ),
    "transcripts_full": (
        503,
        "Transcripts of this model cannot be written now, so it does not answer. Tell the administrator.",
        {"retry_after": 60},
    ),
    "gateway_stopping": (503, "The gateway is being stopped. Send the request again later.", {"retry_after": 10}),
    "answer_timeout": (504, "The answer took too long and was aborted.", {}),
    "internal_error": (500, "The gateway failed to answer. Tell the administrator.", {}),
}
"""Mapping of code to the status, message and options of a `Refusal`. The pages translate these messages
(`pages/arabic.json`)."""


def refused(code: str) -> Refusal:
    """Return the error that `REFUSALS` defines for this code."""
    status, message, options = REFUSALS[code]
    return Refusal(status, message, code, **options)


def personal_data_sent(kinds: Iterable[str]) -> Refusal:
    """Return an error that names the kinds of personal data that were found, but quotes no value."""
    return Refusal(
        400,
        f"The request contains personal data ({', '.join(sorted(kinds))}), which this model rejects. Leave it out.",
        "content_filter",
        param="messages",
    )


class FeedbackRequest(BaseModel):
    """Body of `POST /v1/feedback`: a caller's rating of an answer. There is no field for free text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(pattern=r"^(chatcmpl|cmpl)-[0-9a-f]{32}$")]
    """Id of the answer."""
    thumb: Thumb
    reason: Reason | None = None
    severity: Severity = 0
    """0: no harm; 1: the worst, must not happen again; 2: serious; 3: minor."""

    @model_validator(mode="after")
    def _what_is_good_does_no_harm(self) -> "FeedbackRequest":
        if self.thumb == "up" and (self.reason is not None or self.severity):
            raise ValueError("'reason' and 'severity' are allowed only with thumb: down")
        return self

    @property
    def answer(self) -> str:
        """Return the answer's id without its prefix."""
        return self.id.partition("-")[2]

    @property
    def feedback(self) -> Feedback:
        return Feedback(thumb=self.thumb, reason=self.reason, severity=self.severity)
