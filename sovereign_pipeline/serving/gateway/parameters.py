"""Read requests in OpenAI's format, according to the tables in `parameters.yaml`. The page in the docs is generated
from that file.

A parameter that cannot change the answer is ignored, and a response header names it. An unsupported parameter that
would change the answer is rejected with an error that names it. Errors never quote a value of a request.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from sovereign_pipeline.base_models.tool_form import CALL_ID, ToolForm, finite
from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.engines.engine import CallForm, Sampling
from sovereign_pipeline.serving.engines.text import StopTexts
from sovereign_pipeline.serving.gateway.messages import Kind, Refusal

_AS_TRAINED = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrtbf\\"',
}
"""Options of llguidance. They make the model write JSON as chat templates do. Numeric escapes of letters are forbidden,
because the search for personal data cannot read them. White space is fixed, because a small model may otherwise
generate endless white space."""
_UNENFORCED = re.compile(r"Unimplemented keys: \[(.*?)\]")
_KEYWORD = re.compile(r'"([A-Za-z$]{1,40})"')
_ANYTHING = r"/(.|\n)*/"
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class AnswerForm:
    """The allowed form of an answer: text, JSON that matches a schema, or tool calls."""

    schema: Mapping[str, Any] | None = None
    """JSON schema of the text; None if any text is allowed."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the model may call, in OpenAI's format."""
    must_call: bool = False
    """True if the answer must consist of tool calls."""
    most_calls: int | None = None
    """Maximum number of tool calls; None if there is no limit."""

    @property
    def is_free(self) -> bool:
        return self.schema is None and not self.tools

    def grammar(self, form: CallForm | None) -> str:
        """Return the grammar of the answer; "" if any text is allowed. form: the chat template's tool-call syntax. It
        must not be None if there are tools."""
        if self.is_free:
            return ""
        text = f"%json {_as_json(self.schema)}" if self.schema is not None else "TEXT"
        if not self.tools:
            return f"start: {text}"
        assert form is not None
        rules = [f"TEXT: {_ANYTHING}"] if form.form.mark else [r"TEXT: /\s*([^{\s](.|\n)*)?/"]
        rules += _calls(form, self.tools, self.most_calls)
        if self.must_call:
            start = f"{_lark(form.form.begin + form.form.head, form)} calls"
        else:
            start = f"{text} | opening calls"
            rules += [*_opening(form)]
        return "\n".join(["%llguidance {}", f"start: {start}", *rules])


ANY_TEXT = AnswerForm()


MOST_NESTED = 50
"""Maximum nesting of objects and lists in a parameter, and in the arguments of a call."""
_MOST_CHARACTERS, _MOST_PROPERTIES, _MOST_REFERENCES = 65_536, 500, 200
"""Limits on the total size of all schemas of one request. With a larger grammar, the first token would take too
long."""
_LONGEST_CHAIN = 1_000
"""Maximum nesting depth of a schema after its references are followed. At a depth of about 1,600, llguidance crashes
the process."""


def nesting_of(value: Any) -> int:
    """Return how deep objects and lists are nested in a JSON value."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list | tuple)]:
        depth += 1
        level = [each for of in level for each in (of.values() if isinstance(of, dict) else of)]
    return depth


def is_unreadable(value: Any) -> bool:
    """Return whether a value contains a lone surrogate, which JSON allows but UTF-8 cannot encode."""
    return re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)) is not None


class FormCheck:
    """Checks the form of a request's answers. The check runs once, even if the request has several answers."""

    def __init__(self) -> None:
        self._task: asyncio.Future[None] | None = None

    async def of(self, form: AnswerForm) -> None:
        if not form.is_free:
            self._task = self._task or asyncio.ensure_future(asyncio.to_thread(assert_enforceable, form))
            await asyncio.shield(self._task)


def assert_enforceable(form: AnswerForm) -> None:
    """Raise Refusal for a schema with a keyword that cannot be enforced, and for schemas that are too large. The error
    quotes no value.

    This may take a second for a large schema.
    """
    schemas = {} if form.schema is None else {"response_format": form.schema}
    schemas |= {
        f"tools.{place}.function.parameters": _schema_of_arguments(tool) for place, tool in enumerate(form.tools)
    }
    characters = properties = references = 0
    for param, schema in schemas.items():
        characters += len(json.dumps(schema))
        named = [*_keywords(schema)]
        refers = [str(value) for key, value in named if key in _REFERENCES]
        properties += sum(len(value) for key, value in named if key in _OF_NAMES and isinstance(value, Mapping))
        references += len(refers)
        chain = nesting_of(schema) * (1 + len({*refers}))
        for limit, what, amount in (
            (_MOST_CHARACTERS, "characters", characters),
            (_MOST_PROPERTIES, "properties and definitions", properties),
            (_MOST_REFERENCES, "references", references),
            (_LONGEST_CHAIN, "levels of nesting, with references followed", chain),
        ):
            if amount > limit:
                message = f"The schemas up to and including '{param}' have more than {limit:,} {what}. Simplify them."
                raise Refusal(400, message, "invalid_parameter", param=param)
    for param, schema in schemas.items():
        _assert_enforceable(schema, param)


_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _keywords(value: Any) -> Iterator[tuple[str, Any]]:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, Mapping):
            yield from each.items()
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each


def _assert_enforceable(schema: Mapping[str, Any], param: str) -> None:
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: %json {_as_json(schema)}"))
    if problem:
        keys = [key for found in _UNENFORCED.findall(problem) for key in _KEYWORD.findall(found)]
        what = f"uses {', '.join(map(repr, keys))}," if keys else "is invalid, or has a form"
        message = f"The schema in '{param}' {what} which cannot be enforced on an answer. Change the schema."
        raise Refusal(400, message, "unsupported_parameter", param=param)


def _as_json(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _AS_TRAINED})


def _schema_of_arguments(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments, which are always an object."""
    return {**(tool["function"].get("parameters") or NO_PARAMETERS), "type": "object"}


def _calls(form: CallForm, tools: Sequence[Mapping[str, Any]], most: int | None) -> Iterator[str]:
    """Yield the grammar rules for the calls. The rules begin after the `head` of the first call."""
    it = form.form
    yield "call: " + " | ".join(
        f"{_lark(tool['function']['name'] + it.middle, form)} %json {_as_json(_schema_of_arguments(tool))}"
        for tool in tools
    )
    following = f"{_lark(it.tail + (it.separator or '') + it.head, form)} call"
    times = "*" if most is None else f"{{0,{most - 1}}}"
    several = f" ({following}){times}" if it.separator is not None and most != 1 else ""
    yield f"calls: call{several} {_lark(it.tail + it.end, form)}"


def _opening(form: CallForm) -> Iterator[str]:
    """Yield the grammar rules for the text before the first call, and for the delimiters that open this call."""
    opening, mark = form.form.begin + form.form.head, form.form.mark
    head = opening.partition(mark)[2] if mark else opening
    if not mark:
        yield f"opening: {_lark(head, form)}"
    elif any(mark.startswith(special) for special in form.special):
        yield f"opening: TEXT {_lark(mark + head, form)}"
    else:
        yield f"OPENED: {_ANYTHING} {json.dumps(mark, ensure_ascii=False)}"
        yield f"opening: opened {_lark(head, form)}"
        yield "opened[lazy]: OPENED"


def _lark(literal: str, form: CallForm) -> str:
    """Convert a literal to Lark: text in quotation marks, special tokens by id, and a pattern for a call's id."""
    parts = [*map(re.escape, sorted(form.special, key=len, reverse=True)), re.escape(CALL_ID)]
    found = []
    for piece in re.split(f"({'|'.join(parts)})", literal):
        if piece in form.special:
            found.append(f"<[{form.special[piece]}]>")
        elif piece == CALL_ID:
            found.append("/[a-zA-Z0-9]{9}/")
        elif piece:
            found.append(json.dumps(piece, ensure_ascii=False))
    return " ".join(found)


class CallReader:
    """A filter that separates tool calls from the text of a streamed answer."""

    def __init__(self, form: ToolForm) -> None:
        self._form = form
        self._mark = StopTexts([form.mark or "{"])
        self._text = self._spaces = ""

    def feed(self, text: str) -> str:
        """Add text, and return all text that cannot be part of a call or of a call's delimiters."""
        self._text += text
        is_plain = not self._form.mark and re.match(r"\s*[^\s{]", self._text)  # as `TEXT` in the grammar
        return self._passed(text if is_plain else "" if self._is_begun else self._mark.feed(text))

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return the remaining text, and the calls. Drops a call that is incomplete, nested too deeply or
        unreadable."""
        if not self._is_begun:
            return self._spaces + self._mark.end(), []
        calls = self._form.parse(self._text)[1]
        return "", [
            each for each in calls if nesting_of(each.arguments) <= MOST_NESTED and not is_unreadable(each.arguments)
        ]

    @property
    def _is_begun(self) -> bool:
        """Return True if a call has begun. A call without an opening delimiter can begin only at the answer's
        beginning."""
        return self._mark.is_found

    def _passed(self, text: str) -> str:
        """Return the text without its trailing white space. That white space is prepended to the next text, or dropped
        if a call follows."""
        text = self._spaces + text
        self._spaces = text[len(text.rstrip()) :]
        return text.rstrip()


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
    """The messages in OpenAI's format, with two differences: each content is one text, and arguments of tool calls are
    objects."""
    ignored: list[str] = field(default_factory=list)
    """Names of parameters that had no effect. A response header lists them."""
    wants_usage: bool = False
    is_task: bool = False
    """True if a front end sent the request for its own use, for example to get a title for a chat."""
    form: AnswerForm = ANY_TEXT
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the model sees. `form.tools` contains those that the model may call."""

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
        """Return the number of most likely tokens to report at each position; None for no log-probabilities."""
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
    """Read the body of a request. Raises Refusal if the body is not JSON, or if a parameter is invalid or unsupported.
    The error names the parameter and quotes no value."""
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
            "response_format: text, because a stop text would cut JSON",
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
    ones. Raises Refusal if a parameter is unknown, invalid, unsupported or missing."""
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
"""Number of characters at the beginning of a message that are searched for a front end's task."""


def _is_task(conversation: Sequence[Mapping[str, str]]) -> bool:
    """Return True if a front end sent the messages for its own use, for example to get a title or tags for a chat."""
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
