"""Read requests in OpenAI's form, by one table of parameters from which the docs' table is made.

A parameter that changes nothing is ignored and reported to the caller. One that would change the answer is rejected
by name. Errors never quote a value of a request.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline.dataset.jsonl import user_message
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.engines.engine import Deployable, Sampling
from sovereign_pipeline.serving.gateway.messages import Kind, Refusal

LONGEST_NAME = 200
MOST_MESSAGES = 1_000
MOST_PARTS = 100
MOST_STOPS = 16
LARGEST_SEED = 2**63 - 1
A_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
"""Pattern of a parameter's name. Errors do not quote a name that does not match."""


class Values(NamedTuple):
    """A set of JSON values."""

    words: str
    """Description, for errors and the docs."""
    schema: Mapping[str, Any]
    """JSON schema for the OpenAPI document."""
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a request, and what the gateway does with it."""

    name: str
    values: Values
    """Accepted values. Null always means that the parameter was not sent."""
    why: str
    """Effect of a used parameter; reason why an ignored one changes nothing, or why other values are rejected."""
    is_used: bool = False
    kinds: tuple[Kind, ...] = ("chat", "text")


def _is_number(value: Any) -> bool:
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return is_finite and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    """Return whether a value is text. A lone surrogate, which JSON allows, cannot be encoded."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def one_of(*values: Any) -> Values:
    words = " or ".join(json.dumps(each) for each in values)
    return Values(words, {"enum": [*values]}, lambda value: any(_equal(value, each) for each in values))


def number(low: float, high: float, *, above: bool = False) -> Values:
    """Return the numbers of a range. above: without `low` itself."""
    words = f"a number above {low:g} up to {high:g}" if above else f"a number from {low:g} to {high:g}"
    schema = {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high}
    return Values(words, schema, lambda it: _is_number(it) and (low < it if above else low <= it) and it <= high)


def integer(low: int, high: int, words: str) -> Values:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Values(words, schema, lambda it: _is_number(it) and int(it) == it and low <= it <= high)


def text(longest: int) -> Values:
    schema = {"type": "string", "maxLength": longest}
    return Values(f"text of up to {longest} characters", schema, lambda it: _is_text(it) and len(it) <= longest)


def _are_stops(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return len(listed) <= MOST_STOPS and all(_is_text(each) and len(each) <= LONGEST_NAME for each in listed)


_A_STOP = {"type": "string", "maxLength": LONGEST_NAME}
ANY = Values("any value", {}, lambda value: True)
NONE = Values("no value", {"type": "null"}, lambda value: False)
FLAG = Values("true or false", {"type": "boolean"}, lambda value: isinstance(value, bool))
OBJECT = Values("an object", {"type": "object"}, lambda value: isinstance(value, dict))
STOPS = Values(
    f"text or a list of up to {MOST_STOPS} texts, each of up to {LONGEST_NAME} characters",
    {"anyOf": [_A_STOP, {"type": "array", "items": _A_STOP, "maxItems": MOST_STOPS}]},
    _are_stops,
)
TOKENS = integer(1, LARGEST_SEED, "a whole number from 1")
CONTENT = Values(
    "text or a list of text parts",
    {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": MOST_PARTS},
        ]
    },
    lambda value: _is_text(value) or (isinstance(value, list) and 0 < len(value) <= MOST_PARTS),
)
MESSAGES = Values(
    f"a list of 1 to {MOST_MESSAGES} messages",
    {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": MOST_MESSAGES},
    lambda value: isinstance(value, list) and 0 < len(value) <= MOST_MESSAGES,
)
PROMPT = Values(
    "text or a list of one text",
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}]},
    lambda value: _is_text(value) or (isinstance(value, list) and len(value) == 1 and _is_text(value[0])),
)
TOOLS = Values("a list: empty, or any with 'none' as the choice", {"type": "array"}, lambda it: isinstance(it, list))

CHAT: tuple[Kind, ...] = ("chat",)
TEXT: tuple[Kind, ...] = ("text",)
NO_REASONING = "The models do not reason before they answer."
NO_TOOLS = "Tools are not called here."
NO_PENALTY = "Tokens are drawn without penalties."
NO_FORMAT = "Answers are not forced into a format."
NOT_STORED = "It is not stored."
NO_CACHE = "The caller does not control caching."
NO_FILTER = "Tokens are drawn by temperature and top_p only."
AS_IN_TRAINING = "The template is rendered as in training."


def _rows(values: Values, why: str, names: str, kinds: tuple[Kind, ...] = ("chat", "text")) -> list[Parameter]:
    return [Parameter(name, values, why, kinds=kinds) for name in names.split()]


TABLE: tuple[Parameter, ...] = (
    Parameter("model", text(LONGEST_NAME), "The line, or a version for callers who may name one.", True),
    Parameter("messages", MESSAGES, "The conversation.", True, CHAT),
    Parameter("prompt", PROMPT, "The one message of a conversation.", True, TEXT),
    Parameter("stream", FLAG, "Whether the answer is streamed.", True),
    Parameter("stream_options", OBJECT, "Only with `stream: true`; see below.", True),
    Parameter("max_tokens", TOKENS, "Longest answer. More than `limits.tokens` is capped and reported.", True),
    Parameter("max_completion_tokens", TOKENS, "The newer name of max_tokens. The smaller one holds.", True),
    Parameter("temperature", number(0, 2), "0 is the default: as the adapter was evaluated and reviewed.", True),
    Parameter("top_p", number(0, 1, above=True), "Share of the likeliest tokens that are drawn from.", True),
    Parameter("seed", integer(-LARGEST_SEED - 1, LARGEST_SEED, "a whole number of 64 bits"), "Repeats a draw.", True),
    Parameter("stop", STOPS, "The answer ends before one of these. Empty texts are ignored.", True),
    Parameter("user", ANY, "Names the person, for a token with `--users`. It is hashed. Otherwise ignored.", True),
    # Ignored, whatever the value.
    Parameter("metadata", ANY, f"{NOT_STORED} With `task`, the answer does not count in a trial."),
    *_rows(ANY, NOT_STORED, "safety_identifier chat_id session_id message_id conversation_id request_id"),
    *_rows(ANY, NO_CACHE, "prompt_cache_key prompt_cache_retention cache_control cache_prompt cache_salt"),
    *_rows(ANY, "A model runs in one place only.", "service_tier provider priority keep_alive"),
    *_rows(ANY, NO_REASONING, "reasoning_effort reasoning include_reasoning reasoning_format thinking"),
    *_rows(ANY, NO_REASONING, "thinking_budget enable_thinking verbosity"),
    *_rows(ANY, AS_IN_TRAINING, "chat_template_kwargs"),
    *_rows(ANY, "The context length is the base model's.", "num_ctx"),
    *_rows(ANY, "Usage is counted anyway.", "usage"),
    *_rows(ANY, "It changes the speed only.", "prediction", CHAT),
    *_rows(ANY, NO_TOOLS, "parallel_tool_calls tool_choice function_call", CHAT),
    *_rows(TOOLS, f"{NO_TOOLS} They pass with `tool_choice: none`.", "tools", CHAT),
    *_rows(TOOLS, f"{NO_TOOLS} They pass with `function_call: none`.", "functions", CHAT),
    # Ignored at the value that changes nothing.
    *_rows(one_of(1), "A request gets one answer.", "n best_of"),
    *_rows(one_of(False), "A request gets one answer.", "use_beam_search"),
    *_rows(one_of(0), NO_PENALTY, "presence_penalty frequency_penalty"),
    *_rows(one_of(1), NO_PENALTY, "repetition_penalty repeat_penalty length_penalty"),
    *_rows(one_of({}), NO_PENALTY, "logit_bias"),
    *_rows(one_of(0), NO_FILTER, "min_p top_a mirostat"),
    *_rows(one_of(0, -1), NO_FILTER, "top_k"),
    *_rows(one_of(1), NO_FILTER, "typical_p"),
    *_rows(one_of(0), "An answer ends where the model ends it.", "min_tokens"),
    *_rows(one_of(False), "An answer ends where the model ends it.", "ignore_eos"),
    *_rows(one_of([]), "Send `stop`.", "stop_token_ids"),
    *_rows(one_of(False, 0), "Log-probabilities are not returned.", "logprobs"),
    *_rows(one_of(0), "Log-probabilities are not returned.", "top_logprobs", CHAT),
    *_rows(one_of({"type": "text"}), NO_FORMAT, "response_format"),
    *_rows(one_of(["text"]), "Answers are text.", "modalities", CHAT),
    *_rows(one_of(False), "A request cannot ask that its answer is stored.", "store", CHAT),
    *_rows(one_of(True), AS_IN_TRAINING, "skip_special_tokens add_generation_prompt"),
    *_rows(one_of(False), AS_IN_TRAINING, "continue_final_message"),
    *_rows(one_of(False), "The prompt is not repeated.", "echo", TEXT),
    *_rows(one_of(""), "Text is not inserted.", "suffix", TEXT),
    # Rejected, whatever the value.
    *_rows(NONE, "Answers are text.", "audio", CHAT),
    *_rows(NONE, "Nothing is searched.", "web_search_options", CHAT),
    *_rows(NONE, NO_FORMAT, "structured_outputs guided_json guided_regex guided_choice guided_grammar grammar"),
)

ROLES = one_of("system", "developer", "user", "assistant")
NO_PLACE = "The prompt has no place for it."
OF_MESSAGE: tuple[Parameter, ...] = (
    Parameter("role", ROLES, f"The speaker. {NO_TOOLS}", True),
    Parameter("content", CONTENT, "The text. Images, audio and files are not read.", True),
    *_rows(ANY, NO_PLACE, "name id"),
    *_rows(ANY, NO_CACHE, "cache_control"),
    *_rows(ANY, NO_REASONING, "reasoning reasoning_content"),
    *_rows(one_of([]), NO_TOOLS, "tool_calls"),
    *_rows(NONE, NO_TOOLS, "function_call tool_call_id"),
    *_rows(one_of([]), NO_PLACE, "annotations images"),
    *_rows(one_of(""), NO_PLACE, "refusal"),
    *_rows(NONE, "Audio is not read.", "audio"),
)
OF_PART: tuple[Parameter, ...] = (
    Parameter("type", one_of("text"), "Images, audio and files are not read.", True),
    Parameter("text", text(1 << 30), "The text.", True),
    *_rows(ANY, NO_CACHE, "cache_control"),
    *_rows(one_of([]), NO_PLACE, "annotations"),
)
OF_STREAM: tuple[Parameter, ...] = (
    Parameter("include_usage", FLAG, "The last event of the stream has the usage.", True),
    *_rows(ANY, "Nothing is padded.", "include_obfuscation"),
    *_rows(ANY, "The last event has the usage.", "continuous_usage_stats"),
)
_BY_NAME = {kind: {each.name: each for each in TABLE if kind in each.kinds} for kind in ("chat", "text")}
_MESSAGE, _PART, _STREAM = ({each.name: each for each in table} for table in (OF_MESSAGE, OF_PART, OF_STREAM))
_REQUIRED = {"chat": ("model", "messages"), "text": ("model", "prompt")}


@dataclass(frozen=True)
class CompletionRequest:
    """A request that was read."""

    kind: Kind
    sent: Mapping[str, Any]
    """Parameters that have an effect, as the caller sent them."""
    conversation: list[dict[str, str]]
    """The messages by role and content."""
    ignored: list[str] = field(default_factory=list)
    """Parameters without effect, for the response header."""
    wants_usage: bool = False
    is_task: bool = False
    """True if a front end asks for itself, such as for a chat's title."""

    @property
    def model(self) -> str:
        return str(self.sent["model"])

    @property
    def stream(self) -> bool:
        return bool(self.sent.get("stream"))

    def sampling(self, limits: Limits) -> Sampling:
        """Convert to an engine's sampling. More tokens than one answer may have are capped, and then reported."""
        limit = min((int(self.sent[name]) for name in _LENGTHS if name in self.sent), default=None)
        if limit is not None and limit > limits.tokens:
            capped = [name for name in _LENGTHS if name in self.sent and self.sent[name] > limits.tokens]
            self.ignored.extend(f"{name};capped={limits.tokens}" for name in capped)
        stops = self.sent.get("stop", [])
        return Sampling(
            max_tokens=min(limit or limits.tokens_by_default, limits.tokens),
            temperature=float(self.sent.get("temperature", 0)),
            top_p=float(self.sent.get("top_p", 1)),
            seed=int(self.sent["seed"]) if "seed" in self.sent else None,
            stop=tuple(dict.fromkeys(each for each in ([stops] if isinstance(stops, str) else stops) if each)),
        )


_LENGTHS = ("max_tokens", "max_completion_tokens")


def read_request(kind: Kind, content_type: str, body: bytes) -> CompletionRequest:
    """Read the body of a request. Raises Refusal, which names the parameter and quotes no value."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise Refusal(400, "The request is not JSON. Send Content-Type: application/json.", "invalid_json")
    given = _json(body)
    sent, ignored = _read(given, _BY_NAME[kind], "", _REQUIRED[kind])
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        if given.get(name) and given.get(choice) != "none":
            raise _unsupported(_BY_NAME[kind][name], name)
    if kind == "text":
        prompt = sent["prompt"]
        conversation = [{"role": "user", "content": prompt if isinstance(prompt, str) else prompt[0]}]
    else:
        conversation = [_message(each, f"messages.{place}", ignored) for place, each in enumerate(sent["messages"])]
    options, others = _read(sent.pop("stream_options", {}), _STREAM, "stream_options.", ())
    ignored += others if sent.get("stream") else [f"stream_options.{each}" for each in options] + others
    task = given.get("metadata")
    is_task = bool(isinstance(task, dict) and task.get("task")) or _is_task(conversation)
    wants_usage = bool(sent.get("stream") and options.get("include_usage"))
    return CompletionRequest(kind, sent, conversation, [*dict.fromkeys(ignored)], wants_usage, is_task)


def _json(body: bytes) -> dict[str, Any]:
    def no_number(name: str) -> None:
        raise ValueError(name)

    try:
        given = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(given, dict):
        raise Refusal(400, "The body is not a JSON object.", "invalid_json")
    return given


def _read(
    given: Mapping[str, Any], table: Mapping[str, Parameter], path: str, required: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Check an object by its table. Returns the used parameters, and the paths of the ignored ones."""
    used: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        known = table.get(name)
        param = f"{path}{name}" if A_FIELD.fullmatch(name) else f"{path}…"
        if known is None:
            message = f"The parameter '{param}' is not known here and might change the answer. Leave it out."
            raise Refusal(400, message, "unknown_parameter", param=param)
        if not known.values.holds(value):
            if known.is_used:
                why = f" {known.why}" if path.startswith("messages.") else ""
                message = f"The parameter '{param}' must be {known.values.words}.{why}"
                raise Refusal(400, message, "invalid_parameter", param=param)
            raise _unsupported(known, param)
        if known.is_used:
            used[name] = value
        else:
            ignored.append(re.sub(r"\.\d+", "", param))
    for name in required:
        if name not in used:
            raise Refusal(400, f"The parameter '{path}{name}' is missing.", "missing_parameter", param=f"{path}{name}")
    return used, ignored


def _unsupported(known: Parameter, param: str) -> Refusal:
    accepted = "" if known.values is NONE else f" Leave it out, or send {known.values.words}."
    message = f"The parameter '{param}' is not supported. {known.why}{accepted}"
    return Refusal(400, message, "unsupported_parameter", param=param)


def _message(given: Any, path: str, ignored: list[str]) -> dict[str, str]:
    message, others = _read(_object(given, path), _MESSAGE, f"{path}.", ("role", "content"))
    ignored += others
    role, content = message["role"], message["content"]
    if isinstance(content, list):
        texts = []
        for place, each in enumerate(content):
            at = f"{path}.content.{place}"
            part, others = _read(_object(each, at), _PART, f"{at}.", ("type", "text"))
            ignored += others
            texts.append(part["text"])
        content = "".join(texts)
    return {"role": "system" if role == "developer" else role, "content": content}


def _object(given: Any, path: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refusal(400, f"The parameter '{path}' must be an object.", "invalid_parameter", param=path)
    return given


_TASKS = re.compile(
    "|".join(
        f"(?:{line})"
        for line in Path(__file__).with_name("front_end_tasks.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ),
    re.IGNORECASE,
)
BEGINNING = 600
"""Number of characters at the start of a message in which a front end says what it wants."""


def _is_task(conversation: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a front end asks for itself: a chat's title, tags, follow-up questions or search queries."""
    newest = next((each["content"] for each in reversed(conversation) if each["role"] == "user"), "")
    first = [each["content"] for each in conversation[:1] if each["role"] == "system"]
    return any(_TASKS.search(each.lstrip()[:BEGINNING]) for each in (newest, *first))


class Prompt(NamedTuple):
    """The messages for the engine."""

    messages: list[Mapping[str, str]]
    shared: int = 0
    """Number of leading characters of the first user turn that other requests share: the instruction, and the caller's
    system message behind it."""


def prompt_of(messages: Sequence[Mapping[str, str]], adapter: Deployable, replaces: bool = False) -> Prompt:
    """Prepend the line's instruction to the first user turn, as in training.

    The caller's system messages at the beginning follow the instruction in that turn. replaces: with such a message,
    the line's instruction is left out, and the messages are unchanged.
    """
    begin = next((place for place, each in enumerate(messages) if each["role"] != "system"), len(messages))
    system = "\n\n".join(each["content"] for each in messages[:begin])
    if adapter.instruction is None or (begin and replaces):
        return Prompt([*messages])
    before = "\n\n".join([adapter.instruction, system] if begin else [adapter.instruction])
    rest = messages[begin:]
    first = next((place for place, each in enumerate(rest) if each["role"] == "user"), None)
    if first is None:
        return Prompt([{"role": "user", "content": before}, *rest] if begin else [*messages])
    content = user_message(before, rest[first]["content"])
    shared = len(before) if content.startswith(before) else 0
    return Prompt([*rest[:first], {"role": "user", "content": content}, *rest[first + 1 :]], shared)


def request_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of a request's body, for the OpenAPI document."""
    properties = {}
    for each in _BY_NAME[kind].values():
        is_nullable = bool(each.values.schema) and each.name not in _REQUIRED[kind] and each.values is not NONE
        schema = {"anyOf": [each.values.schema, {"type": "null"}]} if is_nullable else dict(each.values.schema)
        properties[each.name] = {**schema, "description": each.why}
    return {
        "type": "object",
        "properties": properties,
        "required": [*_REQUIRED[kind]],
        "additionalProperties": {"type": "null"},
    }


def parameters_markdown() -> str:
    """Return the docs' page of all parameters."""
    lines = [
        "# Parameters of requests",
        "",
        "Every parameter that the gateway knows, by what it does with it. Any other one is rejected. `null` is the",
        "same as leaving a parameter out. The response header `X-Sovereign-Ignored` lists the parameters of a request",
        "that had no effect.",
    ]
    for title, table in (
        ("`/v1/chat/completions` and `/v1/completions`", TABLE),
        ("A message", OF_MESSAGE),
        ("A part of a message", OF_PART),
        ("`stream_options`", OF_STREAM),
    ):
        lines += ["", f"## {title}", "", "| parameter | accepted | otherwise | why |", "|---|---|---|---|"]
        for each in table:
            only = "" if len(each.kinds) == 2 else " (chat)" if each.kinds == CHAT else " (text)"
            outcome = "used" if each.is_used else "rejected" if each.values is NONE else "ignored"
            accepted = "–" if each.values is NONE else f"{each.values.words}: {outcome}"
            otherwise = "–" if each.values is ANY else "rejected"
            lines.append(f"| `{each.name}`{only} | {accepted} | {otherwise} | {each.why} |")
    return "\n".join(lines) + "\n"
