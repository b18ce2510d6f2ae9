"""The marks by which a chat template tells one turn from the next, and messages that hold one.

A tokenizer reads a mark in a message as it reads the template's own: whoever may write a user's message would end that
turn and write one of the system. The marks have no other spelling, so such a message is refused, not rewritten.

What belongs here: finding marks. What does not: rendering (`local_child.py`).
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

_TURNS = tuple({"role": role, "content": "x"} for role in ("user", "assistant", "user"))


class Marks:
    """The marks of one tokenizer."""

    def __init__(self, tokenizer: Any, end_of_turn: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = (token for token, each in added.items() if each.special)
        self._ids = {*special, *tokenizer.all_special_ids, *end_of_turn, *(self._of_template() & set(added))}

    def are_in(self, text: str) -> bool:
        return not self._ids.isdisjoint(self._read(text))

    def _of_template(self) -> set[int]:
        """What the template writes itself: not every model calls its marks special."""
        for turns in (_TURNS, _TURNS[:1]):
            with suppress(Exception):  # a template is a program that anybody wrote
                text = self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
                return {*self._read(str(text))}
        return set()

    def _read(self, text: str) -> Collection[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
