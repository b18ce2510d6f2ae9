"""Constrain answers to a JSON schema or to tool calls: write the grammar for an engine, and read calls in its text.

Grammars are in llguidance's variant of Lark. The local engine and vLLM both use llguidance.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base_models.tool_form import CALL_ID, ToolForm
from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.serving.engines.engine import CallForm
from sovereign_pipeline.serving.engines.text import StopTexts
from sovereign_pipeline.serving.gateway.messages import Refusal

_AS_TRAINED = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrtbf\\"',
}
"""Options of llguidance. JSON is written as in chat templates, without numeric escapes of letters, which a search could
not read. White space is fixed, because small models may generate free white space without end."""
_UNENFORCED = re.compile(r"Unimplemented keys: \[(.*?)\]")
_KEYWORD = re.compile(r'"([A-Za-z$]{1,40})"')
_ANYTHING = r"/(.|\n)*/"
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class AnswerForm:
    """The allowed form of an answer: text, JSON by a schema, or tool calls."""

    schema: Mapping[str, Any] | None = None
    """JSON schema of the text; None if any text is allowed."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the answer may call, in OpenAI's form."""
    must_call: bool = False
    """True if the answer must consist of tool calls."""
    most_calls: int | None = None
    """Maximum number of tool calls; None if there is no limit."""

    @property
    def is_free(self) -> bool:
        return self.schema is None and not self.tools

    def grammar(self, form: CallForm | None) -> str:
        """Return the grammar of the answer; "" if any text is allowed. form: must not be None if there are tools."""
        if self.is_free:
            return ""
        text = f"%json {_json(self.schema)}" if self.schema is not None else "TEXT"
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
"""Limits on the total size of all schemas of one request. A larger grammar would take too long to compute the first
token."""
_LONGEST_CHAIN = 1_000
"""Maximum nesting of a schema with its references followed. Near 1,600, llguidance crashes the process."""


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
    """Raise Refusal for a schema with a keyword that cannot be enforced, and for schemas that are too large. No value
    is quoted.

    This may take a second for a large schema.
    """
    schemas = {} if form.schema is None else {"response_format": form.schema}
    schemas |= {f"tools.{place}.function.parameters": _parameters(tool) for place, tool in enumerate(form.tools)}
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
            (_LONGEST_CHAIN, "levels, with references followed", chain),
        ):
            if amount > limit:
                message = f"The schemas up to '{param}' have more than {limit:,} {what}. Use simpler ones."
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

    problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: %json {_json(schema)}"))
    if problem:
        keys = [key for found in _UNENFORCED.findall(problem) for key in _KEYWORD.findall(found)]
        what = f"uses {', '.join(map(repr, keys))}," if keys else "is invalid, or has a form"
        message = f"The schema in '{param}' {what} which cannot be enforced on an answer. Change the schema."
        raise Refusal(400, message, "unsupported_parameter", param=param)


def _json(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _AS_TRAINED})


def _parameters(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments, which are always an object."""
    return {**(tool["function"].get("parameters") or NO_PARAMETERS), "type": "object"}


def _calls(form: CallForm, tools: Sequence[Mapping[str, Any]], most: int | None) -> Iterator[str]:
    """Yield the grammar rules for the calls. The rules begin after the head of the first call."""
    it = form.form
    yield "call: " + " | ".join(
        f"{_lark(tool['function']['name'] + it.middle, form)} %json {_json(_parameters(tool))}" for tool in tools
    )
    following = f"{_lark(it.tail + (it.separator or '') + it.head, form)} call"
    times = "*" if most is None else f"{{0,{most - 1}}}"
    several = f" ({following}){times}" if it.separator is not None and most != 1 else ""
    yield f"calls: call{several} {_lark(it.tail + it.end, form)}"


def _opening(form: CallForm) -> Iterator[str]:
    """Yield the grammar rules of the marks that open the first call, and of the text before them."""
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
        """Return the text that cannot be part of a call or of a call's marks."""
        self._text += text
        is_plain = not self._form.mark and re.match(r"\s*[^\s{]", self._text)  # as `TEXT` in the grammar
        return self._passed(text if is_plain else "" if self._is_begun else self._mark.feed(text))

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return the remaining text, and the calls. Drops a call that was cut, is nested too deep or is unreadable."""
        if not self._is_begun:
            return self._spaces + self._mark.end(), []
        calls = self._form.parse(self._text)[1]
        return "", [
            each for each in calls if nesting_of(each.arguments) <= MOST_NESTED and not is_unreadable(each.arguments)
        ]

    @property
    def _is_begun(self) -> bool:
        """Return True if a call has begun. A call without an opening mark can begin only at the answer's beginning."""
        return self._mark.is_found

    def _passed(self, text: str) -> str:
        """Return the text without its trailing white space. That white space is prepended to the next text, or dropped
        if a call follows."""
        text = self._spaces + text
        self._spaces = text[len(text.rstrip()) :]
        return text.rstrip()
