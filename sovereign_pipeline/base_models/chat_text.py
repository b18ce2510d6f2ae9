"""Render conversations with a chat template and encode them, alike for training, evaluation and serving.

If a message contains one of the template's special tokens, that token is encoded as plain text. `chat_text` inserts
`CUT` into the token, and `encode_text` encodes the two parts separately. A text without special tokens is encoded as
the tokenizer encodes it.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sovereign_pipeline.base_models.tool_form import for_template

CUT = "6f1de5c4b0a2497ebd830c7f92a51e3d"
"""Text that `chat_text` inserts into each special token. `encode_text` removes it."""
_REASONING = ("<think>", "</think>")
"""Special tokens that a reply may contain, because the assistant's reasoning precedes the reply (`Message.content`)."""


class Marks:
    """The special tokens of a chat template: the tokenizer's special tokens, and the added tokens that the template
    writes."""

    def __init__(self, tokenizer: Any) -> None:
        template = str(tokenizer.chat_template)
        # Other added tokens, such as runs of spaces, are ordinary text to the model.
        marks = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and (token.special or token.content in template)
        }
        self.ids = {*marks.values()} - {tokenizer.unk_token_id}
        """Token ids of the special tokens. The id of unknown tokens is excluded, because all unknown characters share
        it."""
        self._any = _pattern([*marks])
        self._of_others = _pattern([mark for mark in marks if mark not in _REASONING])
        self._starts = re.compile(f"(?={self._any.pattern}).", re.DOTALL)
        self._starts_of_others = re.compile(f"(?={self._of_others.pattern}).", re.DOTALL)

    def are_in(self, text: str) -> bool:
        return bool(self._any.search(text))

    def split(self, text: str, cut: str = CUT, in_reply: bool = False) -> str:
        """Insert `cut` into each special token in a text. in_reply: leave the special tokens of reasoning whole."""
        found, starts = (self._of_others, self._starts_of_others) if in_reply else (self._any, self._starts)
        return starts.sub(lambda first: first[0] + cut, text) if found.search(text) else text

    def split_all(self, value: Any, in_reply: bool = False) -> Any:
        """Split the special tokens in every text within a JSON value."""
        if isinstance(value, str):
            return self.split(value, in_reply=in_reply)
        if isinstance(value, Mapping):
            return {self.split(key, in_reply=in_reply): self.split_all(each, in_reply) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.split_all(each, in_reply) for each in value]
        return value


def marks_of(tokenizer: Any) -> Marks:
    """Return the special tokens of a tokenizer's chat template."""
    return _marks_of(tokenizer, str(tokenizer.chat_template), len(tokenizer))


def chat_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = False,
) -> str:
    """Render a conversation, for `encode_text`. Raises the template's own errors."""
    marks = marks_of(tokenizer)
    turns = [
        {
            name: each if name == "role" else marks.split_all(each, turn["role"] == "assistant")
            for name, each in turn.items()
        }
        for turn in for_template(messages)
    ]
    listed = marks.split_all(list(tools)) or None
    return str(
        tokenizer.apply_chat_template(turns, tools=listed, tokenize=False, add_generation_prompt=add_generation_prompt)
    )


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Encode a rendered text, or a part of one. Each side of a `CUT` is encoded separately."""
    ids: list[int] = []
    for part in text.split(CUT):
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def _pattern(marks: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")


@lru_cache(maxsize=4)
def _marks_of(tokenizer: Any, template: str, tokens: int) -> Marks:
    return Marks(tokenizer)
