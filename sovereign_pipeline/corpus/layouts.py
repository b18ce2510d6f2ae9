"""Convert rows of ShareGPT, Alpaca, HH and ChatGPT exports to a request and replies, and recognise them.

The last turn of a conversation is the reply; everything before it is the request. A request with several human turns is
a transcript: each turn begins with `Human: ` or `Assistant: `, separated by empty lines, as in the HH data (Bai et al.
2022, "Training a Helpful and Harmless Assistant with RLHF", appendix). A system turn comes first, without a mark. No
turn is dropped.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from sovereign_pipeline.corpus.document import Role, RowRejected

Layout = Literal["sharegpt", "alpaca", "hh", "chatgpt"]
Speaker = Literal["system", "human", "assistant"]

LAYOUT_COLUMNS = (
    "conversations", "messages", "instruction", "input", "output", "history", "system", "prompt", "chosen",
    "rejected", "mapping", "current_node",
)  # fmt: skip
"""Columns that the layouts other than `columns` read."""

_SPEAKERS: Mapping[str, Speaker] = {
    "system": "system",
    "human": "human",
    "user": "human",
    "gpt": "assistant",
    "assistant": "assistant",
}
_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_OPEN_END = re.compile(r"\s*\n\nAssistant:\s*\Z")
_PAIR = ("chosen", "rejected")


@dataclass(frozen=True)
class Turn:
    speaker: Speaker
    text: str


def text_fields(layout: Layout, role: Role, row: Mapping[str, Any]) -> dict[str, str]:
    """Return `request` and `response` of a row, and `rejected` for the role preferences. Raises RowRejected for a row
    that is not in the layout."""
    conversation, replies = _READERS[layout](role, row)
    return {"request": _request(conversation), **dict(zip(("response", "rejected"), replies, strict=False))}


def layout_of(row: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a row, or None if it is in no layout but `columns`."""
    if isinstance(row.get("mapping"), dict):
        return "chatgpt"
    if any(_is_conversation(row.get(name)) for name in ("conversations", "messages")):
        return "sharegpt"
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        return "alpaca"
    pair = [row.get(name) for name in _PAIR]
    is_hh = all(_is_conversation(each) or (isinstance(each, str) and _is_transcript(each)) for each in pair)
    return "hh" if is_hh else None


def speakers_of(layout: Layout, role: Role, row: Mapping[str, Any]) -> list[Speaker]:
    """Return the speakers of the turns in the request of a row. Raises RowRejected as `text_fields` does."""
    conversation, _ = _READERS[layout](role, row)
    return [turn.speaker for turn in conversation]


def _is_conversation(value: Any) -> bool:
    pairs = (("from", "value"), ("role", "content"))
    return isinstance(value, list) and bool(value) and any(_has(value[0], pair) for pair in pairs)


def _chatgpt(role: Role, row: Mapping[str, Any]) -> tuple[Sequence[Turn], Sequence[str]]:
    """Return the turns from the root of a conversation's tree to its current end, as the export's owner sees them."""
    nodes = row.get("mapping")
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise RowRejected("no tree of messages under mapping")
    ends = [name for name, node in nodes.items() if not node.get("children")]
    name, path, seen = row.get("current_node") or (ends[-1] if ends else None), list[Turn](), set[str]()
    while _is_name(name) and name in nodes and name not in seen:
        seen.add(name)
        path += [turn] if (turn := _node(nodes[name].get("message"))) else []
        name = nodes[name].get("parent")
    turns = list[Turn]()
    for turn in reversed(path):
        if turns and turns[-1].speaker == turn.speaker:  # one answer in several messages
            turns[-1] = Turn(turn.speaker, f"{turns[-1].text}\n\n{turn.text}")
        else:
            turns.append(turn)
    if turns and turns[-1].speaker == "human":
        turns.pop()  # a question without an answer
    _check_order(turns, "assistant")
    return turns[:-1], [turns[-1].text]


def _is_name(name: Any) -> TypeGuard[str]:
    """Return whether a node of the tree has a parent's name; False at the root. Raises RowRejected for another
    value."""
    if not isinstance(name, str | None):
        raise RowRejected("current_node or parent of a message is no name of a message")
    return name is not None


def _node(message: Any) -> Turn | None:
    """Return a message of a ChatGPT export as a turn; None for invisible messages (of tools, to tools, or empty)."""
    content = message.get("content") if isinstance(message, dict) else None
    author = message.get("author") if isinstance(message, dict) else None
    speaker = _SPEAKERS.get(str(author.get("role"))) if isinstance(author, dict) else None
    if not isinstance(content, dict) or speaker is None or message.get("recipient") not in (None, "all"):
        return None
    if content.get("content_type") not in (None, "text", "multimodal_text") or speaker == "system":
        return None
    parts = content.get("parts")
    texts = [part for part in parts if isinstance(part, str) and part.strip()] if isinstance(parts, list) else []
    return Turn(speaker, "\n\n".join(texts).strip()) if texts else None


def _sharegpt(role: Role, row: Mapping[str, Any]) -> tuple[Sequence[Turn], Sequence[str]]:
    conversation = next((row[name] for name in ("conversations", "messages") if isinstance(row.get(name), list)), None)
    if conversation is None:
        raise RowRejected("no list of turns under conversations or messages")
    turns = [*_system(row), *_turns(conversation)]
    if role == "preferences":
        _check_order(turns, "human")
        return turns, [_reply(row, name) for name in _PAIR]
    _check_order(turns, "assistant")
    return turns[:-1], [turns[-1].text]


def _alpaca(role: Role, row: Mapping[str, Any]) -> tuple[Sequence[Turn], Sequence[str]]:
    parts = [_text(row, "instruction"), _text(row, "input", required=False)]
    turns = [*_system(row), *_history(row), Turn("human", "\n\n".join(part for part in parts if part))]
    replies = _PAIR if role == "preferences" else ("output",)
    return turns, [_text(row, name) for name in replies]


def _hh(role: Role, row: Mapping[str, Any]) -> tuple[Sequence[Turn], Sequence[str]]:
    chosen, rejected = (_conversation(row, name) for name in _PAIR)
    if chosen[:-1] != rejected[:-1]:
        raise RowRejected("chosen and rejected differ before their last reply")
    _check_order(chosen, "assistant")
    _check_order(rejected, "assistant")
    return chosen[:-1], [chosen[-1].text, rejected[-1].text]


def _conversation(row: Mapping[str, Any], name: str) -> list[Turn]:
    """Return the conversation that ends in the chosen or rejected reply. The column contains all of it, or only the
    turns after `prompt`."""
    value = row.get(name)
    if isinstance(value, list):
        turns = _turns(value)
        is_whole = not turns or turns[0].speaker != "assistant"
    elif isinstance(value, str) and _is_transcript(value):
        turns, is_whole = _transcript(value), True
    else:
        turns, is_whole = [Turn("assistant", _reply(row, name))], False
    return turns if is_whole else [*_prompt(row), *turns]


def _prompt(row: Mapping[str, Any]) -> list[Turn]:
    value = row.get("prompt")
    if isinstance(value, list):
        return _turns(value)
    text = _text(row, "prompt")
    return _transcript(_OPEN_END.sub("", text)) if _is_transcript(text) else [Turn("human", text)]


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def _transcript(text: str) -> list[Turn]:
    """Return the turns of a transcript of `Human: …` and `Assistant: …`, separated by empty lines. A turn cannot
    contain such a mark."""
    _, *parts = _MARK.split(text.strip())
    marked = zip(parts[::2], parts[1::2], strict=True)
    turns = [Turn("human" if speaker == "Human" else "assistant", text.strip()) for speaker, text in marked]
    for number, turn in enumerate(turns, start=1):
        if not turn.text:
            raise RowRejected(f"turn {number} is empty")
    return turns


def _turns(conversation: Sequence[Any]) -> list[Turn]:
    return [_turn(value, number) for number, value in enumerate(conversation, start=1)]


def _turn(value: Any, number: int) -> Turn:
    """Return the turn in an object `{from, value}` or `{role, content}`."""
    names = next((pair for pair in (("from", "value"), ("role", "content")) if _has(value, pair)), None)
    if names is None:
        raise RowRejected(f"turn {number} has neither from and value nor role and content")
    speaker, text = (value[name] for name in names)
    if isinstance(text, list) and text and all(isinstance(part, dict) and part.get("type") == "text" for part in text):
        text = "\n".join(str(part.get("text", part.get("value", ""))) for part in text)
    if not isinstance(speaker, str) or speaker.lower() not in _SPEAKERS:
        raise RowRejected(f"turn {number} is of an unknown speaker; known: {', '.join(_SPEAKERS)}")
    if not isinstance(text, str):
        raise RowRejected(f"turn {number} is not text")
    if not text.strip():
        raise RowRejected(f"turn {number} is empty")
    return Turn(_SPEAKERS[speaker.lower()], text.strip())


def _has(value: Any, names: tuple[str, str]) -> bool:
    return isinstance(value, dict) and all(name in value for name in names)


def _reply(row: Mapping[str, Any], name: str) -> str:
    """Return a reply, given as text, as a turn of the assistant, or as a list of one such turn."""
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return _text(row, name)
    turn = _turn(value, 1)
    if turn.speaker != "assistant":
        raise RowRejected(f"{name} is not a turn of the assistant")
    return turn.text


def _system(row: Mapping[str, Any]) -> list[Turn]:
    text = _text(row, "system", required=False)
    return [Turn("system", text)] if text else []


def _history(row: Mapping[str, Any]) -> list[Turn]:
    """Return the turns in `history`, a list of [request, reply], as in some Alpaca files."""
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowRejected("history is not a list")
    turns = []
    for number, exchange in enumerate(history, start=1):
        if not isinstance(exchange, list) or len(exchange) != 2 or not all(isinstance(each, str) for each in exchange):
            raise RowRejected(f"history {number} is not a request and a reply")
        if not all(each.strip() for each in exchange):
            raise RowRejected(f"history {number} has an empty turn")
        turns += [Turn("human", exchange[0].strip()), Turn("assistant", exchange[1].strip())]
    return turns


def _text(row: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    value = row.get(name)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise RowRejected(f"{name} is not text")
    if required and not value.strip():
        raise RowRejected(f"missing field: {name}")
    return value.strip()


def _check_order(turns: Sequence[Turn], last: Speaker) -> None:
    """Raise RowRejected unless human and assistant alternate after at most one system turn, the human first and `last`
    last."""
    offset = 1 if turns and turns[0].speaker == "system" else 0
    for place, turn in enumerate(turns[offset:]):
        if turn.speaker != ("assistant" if place % 2 else "human"):
            raise RowRejected(f"turn {place + offset + 1} is out of order: human and assistant must alternate")
    if len(turns) == offset or turns[-1].speaker != last:
        raise RowRejected(f"the last turn is not the {last}'s")


def _request(turns: Sequence[Turn]) -> str:
    """Return the request as text: a transcript if it has more than one human turn."""
    is_single = sum(turn.speaker == "human" for turn in turns) == 1
    marks: dict[Speaker, str] = {"system": "", "human": "" if is_single else "Human: ", "assistant": "Assistant: "}
    return "\n\n".join(f"{marks[turn.speaker]}{turn.text}" for turn in turns)


_READERS: Mapping[Layout, Callable[[Role, Mapping[str, Any]], tuple[Sequence[Turn], Sequence[str]]]] = {
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "hh": _hh,
    "chatgpt": _chatgpt,
}
