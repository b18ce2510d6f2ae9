"""Turn conversations into token ids, and token ids into streamed text.

A caller cannot write the chat template's marks: a mark in a message is encoded as plain text. An ordinary conversation
gets exactly the ids with which training encodes it. If a template marks turns with ordinary text (`[INST]`), a caller
who writes that text cannot be detected.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sovereign_pipeline.base.errors import EngineRefused

Messages = Sequence[Mapping[str, str]]


def answer_limit(prompt: int, context: int, most: int) -> int:
    """Return the maximum answer length in tokens after `prompt` tokens. Raises EngineRefused if no room is left."""
    if prompt >= context:
        raise EngineRefused(
            f"The conversation has {prompt} tokens, and {context} are the most with the answer.", "Shorten it."
        )
    return min(context - prompt, most)


class Prompts:
    """The prompts of one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        template = str(tokenizer.chat_template)
        # Other added tokens, such as runs of spaces, are ordinary words to the model.
        marks = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and (token.special or token.content in template)
        }
        longest_first = sorted(marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._ids = {*marks.values()} - {tokenizer.unk_token_id}
        """Token ids of the template's marks. The id of unknown tokens is excluded, because all unknown characters share
        it."""

    def ids_of(self, messages: Messages) -> list[int]:
        """Return the token ids of a conversation, up to the beginning of the answer.

        Raises ValueError if a text cannot be separated from the template, and the template's own errors.
        """
        ids = self._encoded(self._shown(messages))
        apart, marks = self._apart(messages)
        has_mark = any(self._mark.search(each["content"]) for each in messages)
        # The marks can differ if a text forms one with its neighbouring text, or once it is normalized.
        return apart if has_mark or marks != self._marks_in(ids) else ids

    def render(self, messages: Messages) -> list[int]:
        """Render a conversation to token ids. Raises EngineRefused if the template rejects it."""
        try:
            return self.ids_of(messages)
        except Exception as error:  # a template is a program that anybody wrote
            raise EngineRefused(
                f"The base model's chat template does not take this conversation ({type(error).__name__}).",
                "Let user and assistant take turns, and leave out what is no text.",
            ) from None

    def _apart(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Encode each text separately from the template. Returns all ids, and the ids of the template's marks."""
        nonce = secrets.token_hex(8)  # nobody can write it
        begin, cut, end = (f"{nonce}{name}" for name in "bce")
        shown = self._shown([{**each, "content": self._fenced(each["content"], begin, cut, end)} for each in messages])
        ids: list[int] = []
        marks: list[int] = []
        is_text = False
        for piece in re.split(f"({begin}|{cut}|{end})", shown):
            if piece in (begin, cut, end):
                if is_text != (piece != begin):
                    raise ValueError("the template takes texts apart")
                is_text = piece != end
                continue
            encoded = self._encoded(piece)
            found = self._marks_in(encoded)
            if is_text and found:
                raise ValueError("a text is read as a mark of the template")
            ids += encoded
            marks += found
        if is_text:
            raise ValueError("the template takes texts apart")
        return ids, marks

    def _fenced(self, text: str, begin: str, cut: str, end: str) -> str:
        """Split each mark in the text in two. Outer white space stays outside, because templates strip it."""
        body = text.strip()
        if not body:
            return text
        before, _, after = text.partition(body)
        parted = self._mark.sub(lambda found: f"{found[0][0]}{cut}{found[0][1:]}", body)
        return f"{before}{begin}{parted}{end}{after}"

    def _shown(self, messages: Messages) -> str:
        turns = [dict(each) for each in messages]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _marks_in(self, ids: Sequence[int]) -> list[int]:
        return [each for each in ids if each in self._ids]


INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Replacement character that a decoder writes for an incomplete character."""


class TextPieces:
    """The text of one answer so far."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._given = 0
        self.is_stopped = False
        """True once a stop text is complete. Text after it is dropped."""

    def add(self, token: int) -> str:
        """Add a token and return the new text that is final."""
        self._ids.append(token)
        text = self._decode(self._ids).rstrip(INCOMPLETE)
        cut = self._first_stop(text)
        if cut is not None:
            self.is_stopped = True
            return self._give(text[:cut])
        return self._give(text[: len(text) - self._begun(text)])

    def rest(self) -> str:
        """Return the text left after the last token: an unfinished stop text or character."""
        return "" if self.is_stopped else self._give(self._decode(self._ids))

    def _give(self, text: str) -> str:
        new = text[self._given :]
        self._given += len(new)
        return new

    def _first_stop(self, text: str) -> int | None:
        """Return the start of the first complete stop text. It does not depend on tokenization."""
        found = [
            (place + len(stop), place) for stop in self._stops if (place := text.find(stop, max(0, self._given))) >= 0
        ]
        return min(found)[1] if found else None

    def _begun(self, text: str) -> int:
        """Return the number of trailing characters that may begin a stop text."""
        open_end = text[self._given :]
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(open_end)), 0, -1):
            if any(stop.startswith(open_end[-length:]) for stop in self._stops):
                return length
        return 0
