"""What a caller gets instead of an answer, in OpenAI's form.

What belongs here: the form of an error, and those that several modules raise. What does not: when one is raised. A
message never quotes what was sent.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any


class Refusal(Exception):
    """An error that the caller is told."""

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
        """Whether the metrics have it already: as an answer that was begun."""
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code},
        }


def no_such_model() -> Refusal:
    """The same for what does not exist, what is above the caller's clearance, and what is not a name at all."""
    return Refusal(404, "This model does not exist, or you may not use it.", "model_not_found", param="model")


def no_such_answer() -> Refusal:
    """The same for one that was never given, that another caller got, and that is too old."""
    return Refusal(404, "You were given no such answer, or it is too old.", "answer_not_found", param="id")


def feedback_lost() -> Refusal:
    return Refusal(503, "Feedback cannot be noted now. Send it again later.", "feedback_not_noted", retry_after=60)


def no_such_page() -> Refusal:
    return Refusal(404, "There is no such page here.", "not_found")


def not_admitted() -> Refusal:
    return Refusal(
        401,
        "No valid token was sent. Send one that was made for you, as 'Authorization: Bearer TOKEN'.",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def engine_lost() -> Refusal:
    return Refusal(
        503, "The engine was lost before the answer was complete. Send it again.", "engine_lost", retry_after=5
    )


def scanner_lost() -> Refusal:
    return Refusal(
        503, "What passes cannot be searched for personal data now, so it does not pass.", "scanner_lost", retry_after=5
    )


def too_long_to_search() -> Refusal:
    return Refusal(400, "The request is too long to be searched for personal data.", "too_long", param="messages")


def personal_data_sent(kinds: Iterable[str]) -> Refusal:
    """The kinds are told, and no value."""
    return Refusal(
        400,
        f"The request holds personal data ({', '.join(sorted(kinds))}), which this model does not take. Leave it out.",
        "content_filter",
        param="messages",
    )


def transcripts_lost() -> Refusal:
    return Refusal(
        503,
        "Transcripts of this model cannot be kept now, so it does not answer. Tell the administrator.",
        "transcripts_full",
        retry_after=60,
    )


def too_slow() -> Refusal:
    return Refusal(504, "The answer took too long and was given up.", "answer_timeout")


def ending() -> Refusal:
    return Refusal(503, "The gateway is being stopped. Send it again later.", "gateway_stopping", retry_after=10)


def fault() -> Refusal:
    return Refusal(500, "The gateway failed to answer. Tell the administrator.", "internal_error")


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status >= 500:
        return "server_error"
    return "invalid_request_error"
