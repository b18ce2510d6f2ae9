"""Determine from a chat template how a model writes tool calls, and parse the calls in the model's output."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

from sovereign_pipeline.corpus.document import ToolCall

CALL_ID = "callid000"
"""Placeholder for a call id in the literal texts of a `ToolForm`, if the chat template writes ids."""


class _Object(NamedTuple):
    """The form of one call: a JSON object between the texts `opening` and `closing`. If `name` is None, the function's
    name, `ToolForm.middle` and the arguments take the place of the JSON object."""

    opening: str
    closing: str
    name: str | None = None
    """JSON key of the function's name. `arguments` is the JSON key of the arguments."""
    arguments: str = ""


@dataclass(frozen=True)
class ToolForm:
    """The literal text around tool calls: `begin`, then `head NAME middle ARGUMENTS tail` for each call, with
    `separator` between two calls, then `end`. ARGUMENTS is a JSON object.

    Example: in the Hermes form, `<tool_call>\\n{"name": "` is the head, `", "arguments": ` the middle and
    `}\\n</tool_call>` the tail. The begin and the end of this form are empty.
    """

    begin: str
    head: str
    middle: str
    tail: str
    separator: str | None
    """Text between two calls; None if a message may contain only one call."""
    end: str

    @property
    def mark(self) -> str:
        """Text that opens the first call, without surrounding white space. Empty if a call is a bare JSON object."""
        return (self.begin + self._object.opening).strip()

    def parse(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the content and the calls of a message. If a call is malformed, the whole text is the content. White
        space, the order of JSON keys, and additional JSON keys may differ from the template.

        Args:
            text: the model's output before the end-of-turn token, including special tokens. In some models, delimiters
                such as `[TOOL_CALLS]` are special tokens.
        """
        reasoning = re.match(r".*</think>", text, re.DOTALL)
        place = reasoning.end() if reasoning else 0
        found = re.compile(_loosely(self.mark)).search(text, place) if self.mark else None
        if self.mark and found is None:
            return text, []
        before, place = (text[: found.start()], found.end()) if found else (text[:place], place)
        closing = f"(?:{_loosely(self._object.closing)})?"
        following = re.compile(closing + _loosely((self.separator or "") + self._object.opening) + r"(?=\S)")
        calls: list[ToolCall] = []
        try:
            while not calls or (self.separator is not None and (found := following.match(text, place))):
                call, place = self._read(text, found.end() if found else place)
                calls.append(call)
        except (KeyError, RecursionError, TypeError, ValueError):
            return text, []
        after = re.sub(rf"^{closing}(?:{_loosely(self.end)})?", "", text[place:]).strip()
        if after and not self.mark:
            return text, []
        return "\n".join(part for part in (before.rstrip(), after) if part), calls

    def _read(self, text: str, place: int) -> tuple[ToolCall, int]:
        """Return the call at a position in the text, and the position after the call's arguments or JSON object."""
        decoder = json.JSONDecoder(strict=False, parse_constant=finite, parse_float=finite)
        if self._object.name is None:
            named = re.compile(rf"\s*([\w.-]+){_loosely(self.middle)}").match(text, place)
            if named is None:
                raise ValueError("the call has no function name")
            name, (arguments, place) = named[1], decoder.raw_decode(text, named.end())
        else:
            value, place = decoder.raw_decode(text, place + len(text[place:]) - len(text[place:].lstrip()))
            name, arguments = value[self._object.name], value[self._object.arguments]
        if isinstance(arguments, str):
            arguments = decoder.decode(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise TypeError("the call's name must be a string, and its arguments a JSON object")
        return ToolCall(name=name, arguments=arguments), place

    @cached_property
    def _object(self) -> _Object:
        for brace in reversed([found.start() for found in re.finditer("{", self.head)]):
            text = f"{self.head[brace:]}{_NAME}{self.middle}{{}}{self.tail}"
            try:
                value, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                continue
            keys = {json.dumps(each): key for key, each in value.items()}
            if {json.dumps(_NAME), "{}"} <= keys.keys():
                return _Object(self.head[:brace], text[end:], keys[json.dumps(_NAME)], keys["{}"])
        return _Object(self.head, self.tail)


def tool_form_of(tokenizer: Any) -> ToolForm | None:
    """Return the form in which the tokenizer's chat template writes tool calls. The form is learned from rendered
    examples. Return None if the template does not support tools."""
    from jinja2 import TemplateError

    def rendered(*messages: Mapping[str, Any]) -> str:
        conversation = for_template([{"role": "user", "content": "?"}, *messages])
        return str(tokenizer.apply_chat_template(conversation, tools=[_TOOL], tokenize=False))

    def calling(*names: str) -> dict[str, Any]:
        calls = [{"function": {"name": name, "arguments": {_KEY: _VALUE}}} for name in names]
        return {"role": "assistant", "tool_calls": calls}

    try:
        answered = rendered({"role": "assistant", "content": _ANSWER})
        called = re.sub(_NUMBERED, CALL_ID, rendered(calling(_NAME)))
        whole = rendered(calling(_NAME), {"role": "tool", "name": _NAME, "content": _RESULT})
        try:
            twice = re.sub(_NUMBERED, CALL_ID, rendered(calling(_NAME, _NAME)))
        except TemplateError:
            twice = None
    except (TemplateError, TypeError, ValueError):
        return None
    before, _, end_of_turn = answered.partition(_ANSWER)
    header = _common_start(before, called)
    call = rf"{_NAME}(.*?)\{{\s*\"{_KEY}\":\s*\"{_VALUE}\"\s*\}}"
    once = re.search(call, called[len(header) :], re.DOTALL)
    shown = _TOOL["function"]["description"] in before and _RESULT in whole
    if once is None or not shown or header.rstrip() != before.rstrip() or not called.endswith(end_of_turn):
        return None
    head, middle = called[len(header) :][: once.start()], once[1]
    behind = called[len(header) + once.end() :].removesuffix(end_of_turn)
    between = re.search(rf"{call}(.*?){call}", twice[len(header) :], re.DOTALL) if twice else None
    if between is None:
        return ToolForm("", head, middle, behind, None, "")
    opening = _common_start(head[::-1], between[2][::-1])[::-1]
    tail = _common_start(behind, between[2].removesuffix(opening))
    return ToolForm(
        begin=head.removesuffix(opening),
        head=opening,
        middle=middle,
        tail=tail,
        separator=between[2].removesuffix(opening).removeprefix(tail),
        end=behind.removeprefix(tail),
    )


def for_template(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert messages to the form that chat templates read in training and serving. Arguments of calls become objects.

    Each call gets the id `call` and a number with five digits, because Mistral's templates accept only ids of nine
    characters. Each tool result gets the id of its call.
    """
    ready: list[dict[str, Any]] = []
    waiting: list[tuple[object, str]] = []
    count = 0
    for message in messages:
        turn = {"role": message["role"], "content": message.get("content") or ""}
        calls = []
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            count += 1
            waiting.append((call.get("id"), f"call{count:05d}"))
            function = {"name": call["function"]["name"], "arguments": arguments}
            calls.append({"type": "function", "id": waiting[-1][1], "function": function})
        if calls:
            turn["tool_calls"] = calls
        if message["role"] == "tool":
            ids = [given for given, _ in waiting]
            asked = message.get("tool_call_id")
            place = ids.index(asked) if asked in ids else 0
            turn["tool_call_id"] = waiting.pop(place)[1] if waiting else f"call{0:05d}"
        if message.get("name"):
            turn["name"] = message["name"]
        ready.append(turn)
    return ready


def finite(number: str) -> float:
    """Parse a JSON number. Raises ValueError for NaN and for a number that is too large, such as 1e999."""
    if not math.isfinite(value := float(number)):
        raise ValueError("the number is NaN, infinite or too large")
    return value


_NAME, _KEY, _VALUE, _ANSWER, _RESULT = "probe_function", "probe_key", "probe_value", "Probe answer", "Probe result"
_NUMBERED = r"\bcall\d{5}\b"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Probe description",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "Probe value"}},
            "required": [_KEY],
        },
    },
}


def _common_start(one: str, other: str) -> str:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in alike)


def _loosely(literal: str) -> str:
    """Return a pattern that matches a literal text. The matched text may have any white space around and between the
    literal's words and punctuation, and any id of a call instead of `CALL_ID`."""
    words = (r"\w+" if word == CALL_ID else re.escape(word) for word in re.findall(r"\w+|[^\w\s]", literal))
    return r"\s*".join(["", *words, ""]) or r"\s*"
