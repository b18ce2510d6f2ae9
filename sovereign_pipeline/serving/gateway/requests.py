"""What callers send, in OpenAI's form: fields, ranges, and nothing else.

A field that real front ends send, and that changes nothing here at the value they send, is taken at that value alone:
so no caller believes that a penalty or a tool was applied. What belongs here: these models, and what an engine is asked
for them. What does not: which adapter answers (`catalog.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sovereign_pipeline.dataset.jsonl import user_message
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.engines.engine import Deployable, Sampling
from sovereign_pipeline.serving.gateway.refusal import Refusal
from sovereign_pipeline.serving.rollout.feedback import Feedback, Reason, Severity, Thumb

LONGEST_NAME = 200
MOST_MESSAGES = 1_000
MOST_STOPS = 4
LARGEST_SEED = 2**63 - 1


def _is_text(text: str) -> str:
    """JSON can hold half of a character, which can be neither rendered nor hashed."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a character (a lone surrogate) is no text") from None
    return text


Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Text = Annotated[str, AfterValidator(_is_text)]
Stop = Annotated[Text, Field(min_length=1, max_length=200)]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[int, Field(ge=1, le=1)]
Empty = Annotated[list[Any], Field(max_length=0)]


class Given(BaseModel):
    """A value that a caller sends: no unknown field, no number in quotes, none that is infinite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class TextPart(Given):
    """A part of a message that is text: there is no other kind here."""

    type: Literal["text"]
    text: Text


class Message(Given):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: Name | None = None
    """Accepted; the prompt has no place for it."""
    refusal: None = None
    tool_calls: Empty | None = None
    function_call: None = None
    audio: None = None
    annotations: Empty | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(Given):
    include_usage: bool | None = None
    """Whether a last chunk says how many tokens prompt and answer had."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded."""


class JsonText(Given):
    type: Literal["text"]


class Request(Given):
    """What both kinds of request have."""

    model: Name
    """A line's name, or a version's id where the caller may name one."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0, the default here, takes the likeliest token: as the adapter was evaluated and reviewed."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST_SEED - 1, le=LARGEST_SEED)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    user: Name | None = None
    """For whom a caller asks that speaks for several people; of everybody else it is not looked at. Not kept."""
    n: One | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _options_of_a_stream_alone(self) -> "Request":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true")
        return self

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def asked_tokens(self) -> int | None:
        return self.max_tokens

    def sampling(self, limits: Limits) -> Sampling:
        """Raises Refusal where more tokens are asked for than one request may have."""
        tokens = self.asked_tokens
        if tokens is not None and tokens > limits.tokens:
            raise Refusal(400, f"One answer has {limits.tokens} tokens at most.", "too_many_tokens", param="max_tokens")
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=tokens or min(limits.tokens_by_default, limits.tokens),
            temperature=self.temperature or 0.0,
            top_p=self.top_p if self.top_p is not None else 1.0,
            seed=self.seed,
            stop=stops,
        )


class ChatRequest(Request):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of max_tokens."""
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    tools: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: JsonText | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    metadata: Annotated[dict[Name, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    """Accepted, and not kept."""
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ: send one")
        return self

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages by role and content."""
        roles = {"developer": "system"}
        return [{"role": roles.get(each.role, each.role), "content": each.text} for each in self.messages]


class CompletionRequest(Request):
    """`POST /v1/completions`: the prompt is the one message of a conversation."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    suffix: None = None
    echo: Literal[False] | None = None
    best_of: One | None = None
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None

    @property
    def conversation(self) -> list[dict[str, str]]:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return [{"role": "user", "content": text}]


class FeedbackRequest(Given):
    """`POST /v1/feedback`: what a caller says of an answer that it got. There is no field for text."""

    id: Annotated[str, Field(pattern=r"^(chatcmpl|cmpl)-[0-9a-f]{32}$")]
    """Of the answer."""
    thumb: Thumb
    reason: Reason | None = None
    severity: Severity = 0
    """0: no harm. 1: the worst, it must not happen again; 2: serious; 3: minor."""

    @model_validator(mode="after")
    def _what_is_good_does_no_harm(self) -> "FeedbackRequest":
        if self.thumb == "up" and (self.reason is not None or self.severity):
            raise ValueError("reason and severity go with thumb: down")
        return self

    @property
    def answer(self) -> str:
        """The answer's id, without what says its kind."""
        return self.id.partition("-")[2]

    @property
    def feedback(self) -> Feedback:
        return Feedback(thumb=self.thumb, reason=self.reason, severity=self.severity)


def with_instruction(messages: Sequence[Mapping[str, str]], adapter: Deployable) -> list[Mapping[str, str]]:
    """The line's instruction stands before the first user's turn, as in training, where no message is a system's."""
    if adapter.instruction is None or any(each["role"] == "system" for each in messages):
        return [*messages]
    first = next((number for number, each in enumerate(messages) if each["role"] == "user"), None)
    if first is None:
        return [*messages]
    turn = {"role": "user", "content": user_message(adapter.instruction, messages[first]["content"])}
    return [*messages[:first], turn, *messages[first + 1 :]]
