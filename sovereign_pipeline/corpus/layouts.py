"""Convert rows of ShareGPT, OpenAI, Alpaca, HH and ChatGPT exports to messages, and recognise these layouts.

Turns of different speakers are never joined. A row is rejected if one of its turns cannot be converted. Turns are
dropped only from a ChatGPT export: branches that are not current, hidden messages, and a last question without an
answer.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

from sovereign_pipeline.corpus.document import (
    PROPERTY_NAME,
    Message,
    Role,
    RowRejected,
    ToolCall,
    exchange,
    json_of,
    properties_in,
)

Layout = Literal["sharegpt", "alpaca", "hh", "chatgpt"]

LAYOUT_COLUMNS = (
    "conversations", "messages", "tools", "functions", "instruction", "input", "output", "history", "system", "prompt",
    "chosen", "rejected", "mapping", "current_node",
)  # fmt: skip
"""Columns that the layouts other than `columns` read."""

_ROLES: Mapping[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
}
_MAY_FOLLOW: Mapping[str, tuple[str | None, ...]] = {
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Maps the role of a message to the roles that the previous message may have. None means that the message may be the
first of the conversation."""
_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_OPEN_END = re.compile(r"\s*\n\nAssistant:\s*\Z")
_PAIR = ("chosen", "rejected")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""Pattern of a tool's name, as in OpenAI's API. Tool names are not scrubbed."""
_DEEPEST = 50
"""Maximum nesting depth of the JSON of arguments and tools."""
_WEIGHTS = ("weight", "loss_weight", "train")
_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Conversation:
    """The messages of a row. The last message is the reply."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    rejected: str | None = None


def conversation_of(layout: Layout, role: Role, row: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a row. Raises RowRejected if the row cannot be converted from the layout, or if no
    turn of the assistant is to be trained on."""
    found = _READERS[layout](role, row)
    if not any(message.weight for message in found.messages if message.role == "assistant"):
        raise RowRejected("no turn of the assistant is trained")
    return replace(found, messages=_with_own_ids(found.messages))


def layout_of(row: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a row. Return None if the row fits only the layout `columns`."""
    if isinstance(row.get("mapping"), dict):
        return "chatgpt"
    if any(_is_conversation(row.get(name)) for name in ("conversations", "messages")):
        return "sharegpt"
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        return "alpaca"
    pair = [row.get(name) for name in _PAIR]
    is_hh = all(_is_conversation(each) or (isinstance(each, str) and _is_transcript(each)) for each in pair)
    return "hh" if is_hh else None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _speaker(value[0]) is not None


def _chatgpt(role: Role, row: Mapping[str, Any]) -> Conversation:
    """Return the turns from the root of a conversation's message tree to the current message, as the account's owner
    sees them. Successive messages of one role are joined, and a last question without an answer is dropped."""
    nodes = row.get("mapping")
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise RowRejected("no tree of messages under mapping")
    ends = [name for name, node in nodes.items() if not node.get("children")]
    name, path, seen = row.get("current_node") or (ends[-1] if ends else None), list[Message](), set[str]()
    while _is_name(name) and name in nodes and name not in seen:
        seen.add(name)
        path += [message] if (message := _node(nodes[name].get("message"))) else []
        name = nodes[name].get("parent")
    messages = list[Message]()
    for message in reversed(path):
        if messages and messages[-1].role == message.role:  # one answer in several messages
            message = Message(role=message.role, content=f"{messages.pop().content}\n\n{message.content}")
        messages.append(message)
    if messages and messages[-1].role == "user":
        messages.pop()  # a question without an answer
    _check_order(messages)
    return Conversation(tuple(messages))


def _is_name(name: Any) -> TypeGuard[str]:
    """Return True for the name of a message, and False for None, which is the parent of the root. Raises RowRejected
    for any other value."""
    if not isinstance(name, str | None):
        raise RowRejected("current_node, or the parent of a message, is not the name of a message")
    return name is not None


def _node(message: Any) -> Message | None:
    """Return a message of a ChatGPT export. Return None for a message that users do not see: a message from the system
    or a tool, to a tool, or without text."""
    content = message.get("content") if isinstance(message, dict) else None
    author = message.get("author") if isinstance(message, dict) else None
    role = author.get("role") if isinstance(author, dict) else None
    if not isinstance(content, dict) or role not in ("user", "assistant"):
        return None
    if message.get("recipient") not in (None, "all"):
        return None
    if content.get("content_type") not in (None, "text", "multimodal_text"):
        return None
    parts = content.get("parts")
    texts = [part for part in parts if isinstance(part, str) and part.strip()] if isinstance(parts, list) else []
    return Message(role=role, content="\n\n".join(texts).strip()) if texts else None


def _sharegpt(role: Role, row: Mapping[str, Any]) -> Conversation:
    turns = next((row[name] for name in ("conversations", "messages") if isinstance(row.get(name), list)), None)
    if turns is None:
        raise RowRejected("no list of turns under conversations or messages")
    messages, tools = [*_system(row), *_messages(turns)], _tools(row)
    if role == "preferences":
        _check_order(messages, ("user", "tool"))
        chosen, rejected = (_reply(row, name) for name in _PAIR)
        return Conversation((*messages, chosen), tools, _as_rejected(rejected))
    _check_order(messages)
    return Conversation(tuple(messages), tools)


def _alpaca(role: Role, row: Mapping[str, Any]) -> Conversation:
    parts = [_text(row, "instruction"), _text(row, "input", required=False)]
    request = Message(role="user", content="\n\n".join(part for part in parts if part))
    replies = [_text(row, name) for name in (_PAIR if role == "preferences" else ("output",))]
    messages = (*_system(row), *_history(row), request, Message(role="assistant", content=replies[0]))
    return Conversation(messages, _tools(row), replies[1] if role == "preferences" else None)


def _hh(role: Role, row: Mapping[str, Any]) -> Conversation:
    chosen, rejected = (_side(row, name) for name in _PAIR)
    if chosen[:-1] != rejected[:-1]:
        raise RowRejected("chosen and rejected differ before their last reply")
    _check_order(chosen)
    _check_order(rejected)
    return Conversation(tuple(chosen), _tools(row), _as_rejected(rejected[-1]))


def _side(row: Mapping[str, Any], name: str) -> list[Message]:
    """Return the conversation that ends in the reply in the column `name` (`chosen` or `rejected`). The column contains
    the whole conversation, or only the turns that follow the turns in `prompt`."""
    value = row.get(name)
    if isinstance(value, list):
        messages = _messages(value)
        is_whole = not messages or messages[0].role != "assistant"
    elif isinstance(value, str) and _is_transcript(value):
        messages, is_whole = _transcript(value), True
    else:
        messages, is_whole = [_reply(row, name)], False
    return messages if is_whole else [*_prompt(row), *messages]


def _prompt(row: Mapping[str, Any]) -> list[Message]:
    value = row.get("prompt")
    if isinstance(value, list):
        return _messages(value)
    text = _text(row, "prompt")
    return _transcript(_OPEN_END.sub("", text)) if _is_transcript(text) else [Message(role="user", content=text)]


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def _transcript(text: str) -> list[Message]:
    """Return the turns of a transcript of `Human: …` and `Assistant: …`, separated by empty lines, as in the HH data
    (Bai et al. 2022, "Training a Helpful and Harmless Assistant with RLHF", appendix). The text of a turn cannot
    contain `Human:` or `Assistant:` at the start of a paragraph."""
    _, *parts = _MARK.split(text.strip())
    marked = zip(parts[::2], parts[1::2], strict=True)
    roles: dict[str, Literal["user", "assistant"]] = {"Human": "user", "Assistant": "assistant"}
    messages = [Message(role=roles[speaker], content=text.strip()) for speaker, text in marked]
    for number, message in enumerate(messages, start=1):
        if not message.content:
            raise RowRejected(f"turn {number} is empty")
    return messages


def _speaker(turn: Any) -> Any:
    """Return the speaker of a turn `{from, value}` or `{role, content}`. Return None for any other value. A turn of the
    assistant may have calls instead of content."""
    if not isinstance(turn, dict):
        return None
    if "from" in turn and "value" in turn:
        return turn["from"]
    return turn.get("role") if {"content", "tool_calls", "function_call"} & turn.keys() else None


def _messages(turns: Sequence[Any]) -> list[Message]:
    """Convert turns to messages. Add the tool calls of a separate turn to the assistant's previous message."""
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        message = _message(turn, number)
        if messages and messages[-1].role == "assistant" and _speaker(turn) == "function_call":
            joined = (*messages[-1].tool_calls, *message.tool_calls)
            message = messages.pop().model_copy(update={"tool_calls": joined})
        messages.append(message)
    return messages


def _with_own_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with new ids in place of the file's ids of tool calls, because some chat templates require
    nine letters and digits. Raises RowRejected if two calls have one id, or if a tool's turn answers no call."""
    found, ids, count = list[Message](), dict[str, str](), 0
    for number, message in enumerate(messages, start=1):
        calls = []
        if message.tool_calls:
            ids = {}
        for call in message.tool_calls:
            count += 1
            if call.id in ids:
                raise RowRejected(f"turn {number} gives one id to two calls")
            if call.id is not None:
                ids[call.id] = f"call{count:05d}"
            calls.append(call.model_copy(update={"id": ids.get(call.id or "")}))
        answered = message.tool_call_id
        if answered is not None and answered not in ids:
            raise RowRejected(f"turn {number} answers no call")
        own = {"tool_calls": tuple(calls), "tool_call_id": None if answered is None else ids[answered]}
        found.append(message.model_copy(update=own))
    return tuple(found)


def _message(turn: Any, number: int) -> Message:
    speaker = _speaker(turn)
    if speaker is None:
        raise RowRejected(f"turn {number} must have the keys from and value, or role and content")
    speaker = speaker.lower() if isinstance(speaker, str) else ""
    if speaker not in _ROLES:
        raise RowRejected(f"turn {number} has an unknown speaker; known: {', '.join(_ROLES)}")
    role, content = _ROLES[speaker], turn["value"] if "from" in turn and "value" in turn else turn.get("content")
    if speaker == "function_call":
        return Message(role=role, tool_calls=_calls(content, number), weight=_weight(turn, number))
    text, reasoning, calls = _parts(content, role, number)
    reasoning += [turn[name] for name in _REASONING if turn.get(name)]
    given = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    calls += _calls(given, number)
    if role != "assistant" and (reasoning or calls):
        raise RowRejected(f"turn {number} has reasoning or calls, but is not the assistant's")
    if not all(isinstance(each, str) for each in reasoning):
        raise RowRejected(f"turn {number} has reasoning that is not text")
    if not (text.strip() or calls or role == "tool"):
        raise RowRejected(f"turn {number} is empty")
    thoughts = "\n".join(each.strip() for each in reasoning)
    of_tool = {name: turn[name] for name in ("tool_call_id", "name") if role == "tool" and turn.get(name) is not None}
    if not all(isinstance(each, str) for each in of_tool.values()) or not _NAME.fullmatch(of_tool.get("name", "_")):
        raise RowRejected(f"turn {number} has an invalid name of a tool, or an invalid tool_call_id")
    return Message(
        role=role,
        content=f"<think>\n{thoughts}\n</think>\n\n{text.strip()}" if thoughts else text.strip(),
        tool_calls=calls,
        weight=_weight(turn, number) if role == "assistant" else 1,
        **of_tool,
    )


def _parts(content: Any, role: str, number: int) -> tuple[str, list[Any], tuple[ToolCall, ...]]:
    """Return the text, the reasoning and the calls of a turn's content, which may be a list of typed parts."""
    if content is None:
        return "", [], ()
    if role == "tool" and isinstance(content, dict | list) and not _are_parts(content):
        return json.dumps(content, ensure_ascii=False), [], ()
    if not isinstance(content, str) and not _are_parts(content):
        raise RowRejected(f"turn {number} is not text")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    values = {name: [_value(part) for part in parts if part["type"] == name] for name in _PARTS}
    if sum(map(len, values.values())) < len(parts):
        raise RowRejected(f"turn {number} has a part that is not text, reasoning or a tool_call")
    if not all(isinstance(each, str) for each in values["text"]):
        raise RowRejected(f"turn {number} is not text")
    calls = tuple(call for value in values["tool_call"] for call in _calls(value, number))
    return "\n".join(values["text"]), values["reasoning"], calls


_PARTS = ("text", "reasoning", "tool_call")


def _are_parts(content: Any) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(each, dict) and "type" in each for each in content)
    )


def _value(part: Mapping[str, Any]) -> Any:
    return next((part[name] for name in ("value", "text", part["type"]) if name in part), None)


def _calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    """Return the tool calls in a value. The value is one call, a list of calls, or the JSON text of these. Each call is
    `{name, arguments}` or `{id, type, function: {name, arguments}}`."""
    found = _decoded(value)
    calls = []
    for each in found if isinstance(found, list) else [found]:
        function = each.get("function", each) if isinstance(each, dict) else None
        if not isinstance(function, dict) or each.get("type") not in (None, "function"):
            raise RowRejected(f"turn {number} has a tool call that is not a function call, or is not JSON")
        name, arguments, id = function.get("name"), function.get("arguments"), each.get("id")
        arguments = {} if arguments is None or arguments == "" else _decoded(arguments)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(id, str | None):
            raise RowRejected(f"turn {number} has a tool call with an invalid function name or an invalid id")
        if not isinstance(arguments, dict):
            raise RowRejected(f"turn {number} has a tool call with arguments that are not a JSON object")
        calls.append(ToolCall(name=name, arguments=_plain(arguments), id=id))
    return tuple(calls)


def _decoded(value: Any) -> Any:
    """Parse a JSON text, which some files encode twice. Return None for invalid JSON. Other types stay unchanged."""
    try:
        for _ in range(3):
            value = json_of(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    return value


def _tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the tools of a row in OpenAI's form. The row contains a list of functions, a list of objects with the key
    `function`, or the JSON text of such a list."""
    given = row.get("tools") or row.get("functions") or []
    tools = []
    for each in found if isinstance(found := _decoded(given), list) else [found]:
        function = each.get("function", each) if isinstance(each, dict) else {}
        if not isinstance(function, dict) or not _NAME.fullmatch(str(function.get("name", ""))):
            raise RowRejected("tools is not a list of functions with valid names")
        tools.append({"type": "function", "function": _plain(function)})
    if not all(map(PROPERTY_NAME.fullmatch, properties_in(tools))):
        raise RowRejected("a parameter's name in tools must have at most 64 characters: letters, digits, _, - and .")
    return tuple(tools)


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value in NFC. Raises RowRejected for a value that JSON lacks, or that is nested too deep."""
    if depth > _DEEPEST:
        raise RowRejected("arguments or tools are nested too deep")
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise RowRejected("arguments or tools contain a value that JSON does not have")


def _weight(turn: Mapping[str, Any], number: int) -> Literal[0, 1]:
    """Return 0 if an assistant's turn must not be trained on, otherwise 1."""
    weights = [turn[name] for name in _WEIGHTS if turn.get(name) is not None]
    if any(isinstance(each, str) or each not in (0, 1) for each in weights):
        raise RowRejected(f"turn {number} has a weight that is neither 0 nor 1")
    return 1 if all(weights) else 0


def _reply(row: Mapping[str, Any], name: str) -> Message:
    """Return the reply in the column `name`: a text, a turn of the assistant, or a list of one such turn."""
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return Message(role="assistant", content=_text(row, name))
    (message,) = _messages([value])
    if message.role != "assistant":
        raise RowRejected(f"{name} is not a turn of the assistant")
    return message


def _as_rejected(message: Message) -> str:
    if message.tool_calls:
        raise RowRejected("the reply in rejected calls a tool, but must be only text")
    return message.content


def _system(row: Mapping[str, Any]) -> list[Message]:
    text = _text(row, "system", required=False)
    return [Message(role="system", content=text)] if text else []


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Return the turns in the column `history`, a list of [request, reply] pairs that some Alpaca files have."""
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowRejected("history is not a list")
    messages: list[Message] = []
    for number, pair in enumerate(history, start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise RowRejected(f"history {number} is not a request and a reply")
        if not all(each.strip() for each in pair):
            raise RowRejected(f"history {number} has an empty turn")
        messages += exchange(pair[0].strip(), pair[1].strip())
    return messages


def _text(row: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    value = row.get(name)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise RowRejected(f"{name} is not text")
    if required and not value.strip():
        raise RowRejected(f"missing field: {name}")
    return value.strip()


def _check_order(messages: Sequence[Message], last: tuple[str, ...] = ("assistant",)) -> None:
    """Raise RowRejected unless user and assistant alternate after at most one system message, each tool result follows
    the call that it answers, and the role of the last message is in `last`."""
    before, unanswered = None, 0
    for number, message in enumerate(messages, start=1):
        if before not in _MAY_FOLLOW[message.role]:
            raise RowRejected(f"turn {number} is out of order: user and assistant must alternate")
        unanswered = unanswered - 1 if message.role == "tool" else len(message.tool_calls)
        if unanswered < 0:
            raise RowRejected(f"turn {number} answers no call")
        before = message.role
    if before not in last:
        raise RowRejected(f"the last turn is not the {last[0]}'s")


_READERS: Mapping[Layout, Callable[[Role, Mapping[str, Any]], Conversation]] = {
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "hh": _hh,
    "chatgpt": _chatgpt,
}
