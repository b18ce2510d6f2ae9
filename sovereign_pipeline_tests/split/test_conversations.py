"""Conversations: what one message holds of another is found, and what every conversation shares ties nothing."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split.shingles import key_of
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.split.chain import assigned

Turn = dict[str, Any]
SYSTEM = "You answer for the lamp office. " + " ".join(f"rule{number} holds" for number in range(60))
RESULT = '{"opening hours": "' + " ".join(f"hour{number}" for number in range(40)) + '"}'
TOOLS = [{"type": "function", "function": {"name": "hours", "description": SYSTEM, "parameters": {}}}]


def words(of: object, count: int) -> str:
    return " ".join(f"w{key_of(f'{of} {place}')}" for place in range(count))


def conversation(number: int, *turns: Turn) -> Turn:
    """A row with turns of its own behind a system message, a call and a result that all of them share."""
    row = letter(number)
    own = [
        {"role": "user", "content": words(f"question {number}", 30)},
        {"role": "assistant", "tool_calls": [{"name": "hours", "arguments": {"of": "the lamp office at the quay"}}]},
        {"role": "tool", "content": RESULT},
        {"role": "assistant", "content": words(f"answer {number}", 30)},
    ]
    messages = [{"role": "system", "content": SYSTEM}, *(turns or own)]
    del row["request"], row["response"]
    return {**row, "messages": messages, "tools": TOOLS}


def groups(directory: Path, rows: list[Turn]) -> list[int]:
    return list(assigned(directory, rows, Split()).component_of)


@pytest.mark.parametrize("count", [10, 60])
def test_a_shared_system_message_tools_and_results_tie_nothing(tmp_path: Path, count: int) -> None:
    assert len(set(groups(tmp_path, [conversation(number) for number in range(count)]))) == count


USER, REPLY = {"role": "user", "content": words("u", 30)}, {"role": "assistant", "content": words("a", 30)}
LONG = f'{{"hours": "{words("r", 30)}"}}'
SHORT = [{"role": "user", "content": "What does a dhow pay?"}, {"role": "assistant", "content": "Ten rials a year."}]


def quoting(role: str, text: str) -> list[Turn]:
    quoted = {"role": role, "content": f"As was said: {text} That was all."}
    return [{"role": "user", "content": words("v", 12)}, quoted, {"role": "assistant", "content": words("b", 12)}]


def sending(key: str, body: str) -> list[Turn]:
    call = {"name": "send", "arguments": {"letters": [{"to": key, "body": body}]}}
    return [{"role": "user", "content": words(key, 30)}, {"role": "assistant", "tool_calls": [call]}]


PAIRS = {
    "a letter that both send by a call": (sending("k", REPLY["content"]), sending("l", REPLY["content"])),
    "a reply in a call": ([USER, REPLY], sending("k", f"As was said: {REPLY['content']}")),
    "a user's message in a call": ([USER, REPLY], sending("k", USER["content"])),
    "a user's message in a user's": ([USER, REPLY], quoting("user", USER["content"])),
    "a user's message in a reply": ([USER, REPLY], quoting("assistant", USER["content"])),
    "a reply in a result": ([USER, REPLY], quoting("tool", REPLY["content"])),
    "a reply in an instruction": ([USER, REPLY], quoting("system", REPLY["content"])),
    "a result in a reply": ([USER, {"role": "tool", "content": LONG}, REPLY], quoting("assistant", LONG)),
    "the beginning of a longer one": ([USER, REPLY], [USER, REPLY, *SHORT]),
    "the beginning of a longer one, in few words": (SHORT, [*SHORT, USER, REPLY]),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_conversations_that_share_a_message_are_tied(tmp_path: Path, pair: str) -> None:
    others = [conversation(number) for number in range(2, 30)]
    one, other = (conversation(number, *turns) for number, turns in enumerate(PAIRS[pair]))
    found = groups(tmp_path, [one, other, *others])
    assert found[0] == found[1] and len(set(found)) == 29


def test_a_letter_is_tied_to_the_conversation_that_quotes_it(tmp_path: Path) -> None:
    rows = [letter(0), conversation(1, *quoting("tool", letter(0)["request"])), *map(conversation, range(2, 30))]
    found = groups(tmp_path, rows)
    assert found[0] == found[1] and len(set(found)) == 29
