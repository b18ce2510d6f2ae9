"""Read requests in OpenAI's form, by the table `parameters.yaml`, from which the docs' table is made.

A parameter that cannot change the answer is ignored, and the response names it. An unsupported parameter that would
change the answer is rejected with an error that names it. Errors never quote a value of a request.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from sovereign_pipeline.base_models.tool_form import finite
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.engines.engine import Sampling
from sovereign_pipeline.serving.gateway.grammars import ANY_TEXT, MOST_NESTED, AnswerForm, is_unreadable, nesting_of
from sovereign_pipeline.serving.gateway.messages import Kind, Refusal

A_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
"""Pattern of a parameter's name. Errors do not quote a name that does not match this pattern."""
KINDS: tuple[Kind, ...] = ("chat", "text")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a request, and what the gateway does with it."""

    name: str
    schema: Mapping[str, Any]
    """JSON schema of the accepted values. Null always means that the parameter was not sent."""
    words: str
    """Description of the accepted values, for errors and the docs; "" if no value is accepted."""
    why: str
    """For a used parameter, its effect. For an ignored parameter, the reason why it changes nothing. For a rejected
    parameter or value, the reason for the rejection."""
    is_used: bool
    kinds: tuple[Kind, ...]
    validator: Any

    def accepts(self, value: Any) -> bool:
        if not self.schema:
            return True
        is_searched = self.is_used and self.name != "messages"  # each message is checked later
        return bool(self.validator.is_valid(value)) and not (is_searched and is_unreadable(value))


def _parameters(rows: Iterable[dict[str, Any]]) -> tuple[Parameter, ...]:
    found = []
    for row in rows:
        schema = row.get("accepts", {}) if row.get("accepts", {}) is not None else {"type": "null"}
        words = " or ".join(map(json.dumps, schema.get("enum", ()))) or row.get("words", "" if schema else "any value")
        kinds = (row["kind"],) if "kind" in row else KINDS
        validator = Draft202012Validator(schema)
        found += [
            Parameter(name, schema, words, row["why"], row.get("used", False), kinds, validator)
            for name in row["names"]
        ]
    return tuple(found)


TABLES: dict[str, tuple[Parameter, ...]] = {
    name: _parameters(rows)
    for name, rows in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}
"""The tables of parameters: for a request, a message, a part of a message, and `stream_options`."""
_BY_NAME = {kind: {each.name: each for each in TABLES["request"] if kind in each.kinds} for kind in KINDS}
_MESSAGE, _PART, _STREAM = (
    {each.name: each for each in TABLES[name]} for name in ("message", "part", "stream_options")
)
_REQUIRED = {"chat": ("model", "messages"), "text": ("model", "prompt")}


@dataclass(frozen=True)
class CompletionRequest:
    kind: Kind
    sent: Mapping[str, Any]
    """Parameters that have an effect, as the caller sent them."""
    conversation: list[dict[str, Any]]
    """The messages in OpenAI's form, with two differences: each content is one text, and arguments of tool calls are
    objects."""
    ignored: list[str] = field(default_factory=list)
    """Parameters without effect, for the response header."""
    wants_usage: bool = False
    is_task: bool = False
    """True if a front end sent the request for its own use, such as for a chat's title."""
    form: AnswerForm = ANY_TEXT
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the model sees. `form` has the tools that it may call."""

    @property
    def model(self) -> str:
        return str(self.sent["model"])

    @property
    def stream(self) -> bool:
        return bool(self.sent.get("stream"))

    def choices(self, limits: Limits) -> int:
        choices = int(self.sent.get("n", 1))
        if choices > limits.choices:
            raise Refusal(400, f"The parameter 'n' must be at most {limits.choices}.", "invalid_parameter", param="n")
        return choices

    @property
    def logprobs(self) -> int | None:
        """Return the number of likeliest tokens to report at each position; None for no log-probabilities."""
        asked = self.sent.get("logprobs", False)
        if asked is False:
            return None
        return int(self.sent.get("top_logprobs", 0)) if asked is True else int(asked)

    def sampling(self, limits: Limits) -> Sampling:
        """Convert the parameters to an engine's sampling settings. If the token limit is too high, reduce it and report
        this in `ignored`."""
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
            logprobs=self.logprobs,
        )


_LENGTHS = ("max_tokens", "max_completion_tokens")


def read_request(kind: Kind, content_type: str, body: bytes) -> CompletionRequest:
    """Read the body of a request. Raises Refusal, which names the parameter and quotes no value."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise Refusal(400, "The request is not JSON. Send Content-Type: application/json.", "invalid_json")
    given = _json(body)
    sent, ignored = _read(given, _BY_NAME[kind], "", _REQUIRED[kind])
    if given.get("functions") and given.get("function_call") != "none":
        raise _unsupported(_BY_NAME[kind]["functions"], "functions")
    tools = sent.get("tools", ()) if sent.get("tool_choice") != "none" else ()
    ignored += [] if tools else [name for name in ("tools", "tool_choice", "parallel_tool_calls") if name in sent]
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
    form, ignored = _form(sent, tools), [*dict.fromkeys(ignored)]
    request = CompletionRequest(kind, sent, conversation, ignored, wants_usage, is_task, form, tools)
    for name, other, is_wrong in (
        ("top_logprobs", "logprobs: true", request.logprobs is None and bool(sent.get("top_logprobs"))),
        (
            "stop",
            "response_format: text, because it would cut JSON",
            form.schema is not None and bool(sent.get("stop")),
        ),
    ):
        if is_wrong:
            message = f"The parameter '{name}' is supported only with {other}."
            raise Refusal(400, message, "unsupported_parameter", param=name)
    return request


def _form(sent: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> AnswerForm:
    wanted = sent.get("response_format", {"type": "text"})
    schema = None if wanted["type"] == "text" else wanted.get("json_schema", {"schema": {"type": "object"}})["schema"]
    if not tools:
        return AnswerForm(schema)
    choice, most = sent.get("tool_choice", "auto"), None if sent.get("parallel_tool_calls", True) else 1
    if isinstance(choice, str):
        return AnswerForm(schema, tools, choice == "required", most)
    named = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    if not named:
        message = "The parameter 'tool_choice' must name one of 'tools'."
        raise Refusal(400, message, "invalid_parameter", param="tool_choice")
    return AnswerForm(None, named, True, 1)


def _json(body: bytes | str) -> dict[str, Any]:
    try:
        given = json.loads(body, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(given, dict):
        raise Refusal(400, "The body is not a JSON object.", "invalid_json")
    return given


def _read(
    given: Mapping[str, Any], table: Mapping[str, Parameter], path: str, required: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Check a JSON object against its table of parameters. Returns the used parameters, and the paths of the ignored
    parameters."""
    used: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        known = table.get(name)
        param = f"{path}{name}" if A_FIELD.fullmatch(name) else f"{path}…"
        if known is None:
            message = f"The parameter '{param}' is unknown, and might change the answer. Leave it out."
            raise Refusal(400, message, "unknown_parameter", param=param)
        if known.is_used and nesting_of(value) > MOST_NESTED:
            raise _too_deep(param)
        if not known.accepts(value):
            if known.is_used:
                why = f" {known.why}" if path.startswith("messages.") else ""
                message = f"The parameter '{param}' must be {known.words}.{why}"
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


def _too_deep(param: str) -> Refusal:
    message = f"The parameter '{param}' must be nested at most {MOST_NESTED} levels deep."
    return Refusal(400, message, "invalid_parameter", param=param)


def _unsupported(known: Parameter, param: str) -> Refusal:
    accepted = f" Leave it out, or send {known.words}." if known.words else ""
    message = f"The parameter '{param}' is not supported. {known.why}{accepted}"
    return Refusal(400, message, "unsupported_parameter", param=param)


_NAME = re.compile("[A-Za-z0-9_-]{0,64}")
_OWN: dict[str, tuple[str, ...]] = {"tool": ("tool_call_id", "name"), "assistant": ("tool_calls",)}
"""Mapping of role to the parameters that only messages of this role use."""


def _message(given: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    own = _OWN.get(str(_object(given, path).get("role")), ())
    content_or_calls = [] if given.get("tool_calls") and "tool_calls" in own else ["content"]
    needed = ["role", *content_or_calls, *({"tool_call_id"} & {*own})]
    message, others = _read(given, _MESSAGE, f"{path}.", needed)
    role, content = message["role"], message.get("content", "")
    if message.get("tool_calls") and "tool_calls" not in own:
        raise _unsupported(_MESSAGE["tool_calls"], f"{path}.tool_calls")
    unused = [name for name in ("tool_calls", "tool_call_id", "name") if name in message and name not in own]
    ignored += [*others, *(f"messages.{name}" for name in unused)]
    if isinstance(content, list):
        texts = []
        for place, each in enumerate(content):
            at = f"{path}.content.{place}"
            part, others = _read(_object(each, at), _PART, f"{at}.", ("type", "text"))
            ignored += others
            texts.append(part["text"])
        content = "".join(texts)
    called = [_call(each, f"{path}.tool_calls.{place}") for place, each in enumerate(message.get("tool_calls", ()))]
    if not _NAME.fullmatch(message.get("name", "")) and "name" in own:
        message_of_error = f"The parameter '{path}.name' must be the name of a function: {_NAME.pattern}."
        raise Refusal(400, message_of_error, "invalid_parameter", param=f"{path}.name")
    read = {"role": "system" if role == "developer" else role, "content": content}
    read |= {name: message[name] for name in own if name in message}
    return {**read, "tool_calls": called} if called else read


def _call(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    function, param = given["function"], f"{path}.function.arguments"
    no_object = Refusal(400, f"The parameter '{param}' must be a JSON object.", "invalid_parameter", param=param)
    try:
        arguments = _json(function["arguments"]) if isinstance(function["arguments"], str) else function["arguments"]
    except Refusal:
        raise no_object from None
    if nesting_of(arguments) > MOST_NESTED:
        raise _too_deep(param)
    if is_unreadable(arguments):
        raise no_object
    named = {"id": given["id"]} if "id" in given else {}
    return {"type": "function", **named, "function": {"name": function["name"], "arguments": arguments}}


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
"""Number of characters at the start of a message in which a front end states its task."""


def _is_task(conversation: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a front end sent the message for its own use, such as for a chat's title or tags."""
    newest = next((each["content"] for each in reversed(conversation) if each["role"] == "user"), "")
    first = [each["content"] for each in conversation[:1] if each["role"] == "system"]
    return any(_TASKS.search(each.lstrip()[:BEGINNING]) for each in (newest, *first))


def request_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of a request's body, for the OpenAPI document."""
    properties = {}
    for each in _BY_NAME[kind].values():
        is_nullable = bool(each.schema and each.words) and each.name not in _REQUIRED[kind]
        schema = {"anyOf": [each.schema, {"type": "null"}]} if is_nullable else dict(each.schema)
        properties[each.name] = {**schema, "description": each.why}
    return {
        "type": "object",
        "properties": properties,
        "required": [*_REQUIRED[kind]],
        "additionalProperties": {"type": "null"},
    }
