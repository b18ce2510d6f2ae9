"""Turn conversations into token ids, and token ids into streamed text.

A caller cannot inject the chat template's special tokens: if a message contains one, it is encoded as plain text. An
ordinary conversation gets the same ids as in training. If a template delimits turns with ordinary text (`[INST]`), a
caller can inject that text undetected.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from sovereign_pipeline.base.errors import EngineRefused, PromptTooLong
from sovereign_pipeline.base_models.chat_text import Marks, chat_text, encode_text
from sovereign_pipeline.base_models.tool_form import for_template, tool_form_of
from sovereign_pipeline.serving.engines.engine import CallForm

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
_WORD = re.compile(r"[\w.$-]+")


def answer_limit(prompt: int, context: int, most: int) -> int:
    """Return the maximum length in tokens of the answer to a prompt of `prompt` tokens. Raises PromptTooLong if the
    prompt fills the context."""
    if prompt >= context:
        raise PromptTooLong(
            f"This model's maximum context length is {context} tokens, including the answer. The conversation has "
            f"{prompt} tokens."
        )
    return min(context - prompt, most)


@contextmanager
def reading_base_model(base: Path) -> Iterator[None]:
    """Raise EngineRefused if the code within the `with` block cannot read a base model from `base`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EngineRefused(
            f"{base} cannot be loaded as a base model ({type(error).__name__}).",
            "Restore the base model's files, or fetch them again.",
        ) from error


class Prompts:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._marks = Marks(tokenizer)
        self.template_sha256 = sha256(str(tokenizer.chat_template).encode()).hexdigest()

    @cached_property
    def call_form(self) -> CallForm | None:
        """Return the template's tool-call syntax. Returns None if the template does not support tool calls."""
        form = tool_form_of(self.tokenizer)
        if form is None:
            return None
        literals = "\0".join(filter(None, astuple(form)))
        special = [each for each in self.tokenizer.all_special_tokens if each in literals]
        return CallForm(form, {each: self.tokenizer.convert_tokens_to_ids(each) for each in special})

    @classmethod
    def read(cls, base: Path) -> Self:
        """Load a base model's tokenizer. Raises EngineRefused if it is unreadable or has no chat template."""
        from transformers import AutoTokenizer

        with reading_base_model(base):
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        if tokenizer.chat_template is None:
            raise EngineRefused(f"{base}: the tokenizer has no chat template.", "Use an instruction-tuned base model.")
        return cls(tokenizer)

    def decode(self, ids: list[int], with_marks: bool = False) -> str:
        """Return the text of tokens. with_marks: True to keep special tokens, with which tool calls may begin."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=not with_marks, clean_up_tokenization_spaces=False))

    def end_of_turn(self, configured: int | list[int] | None) -> frozenset[int]:
        """Return the token ids that end generation: the `configured` ids, and the end of sequence."""
        listed = configured if isinstance(configured, list) else [configured]
        return frozenset(token for token in [*listed, self.tokenizer.eos_token_id] if token is not None)

    def ids_of(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Return the token ids of a conversation, up to the beginning of the answer. Raises ValueError if the text of a
        message cannot be separated from the template, and the errors of the template itself."""
        ids = encode_text(self.tokenizer, chat_text(self.tokenizer, messages, tools, add_generation_prompt=True))
        apart, marks = self._apart(messages, tools)
        # The special tokens differ if a text forms one together with neighbouring text, or after normalization.
        return ids if marks == self._marks_in(ids) else apart

    def render(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Render a conversation to token ids. Raises EngineRefused instead of any error of `ids_of`."""
        try:
            return self.ids_of(messages, tools)
        except Exception as error:  # a template is a program by an unknown author
            raise EngineRefused(
                f"The base model's chat template rejects this conversation ({type(error).__name__}).",
                "Alternate turns of user and assistant, and send only text.",
            ) from None

    def shared_tokens(self, messages: Messages, characters: int, ids: Sequence[int], tools: Tools = ()) -> int:
        """Return the number of leading tokens of a prompt that other requests share. These tokens come from the
        template, the tools, the system messages, and the beginning of the first user turn.

        Args:
            characters: number of leading characters of the first user turn that other requests share.
            ids: token ids of the rendered conversation.
        """
        place = next((place for place, each in enumerate(messages) if each["role"] != "system"), len(messages))
        if place == len(messages) or messages[place]["role"] != "user" or not (place or characters):
            return 0
        beginning = {**messages[place], "content": messages[place]["content"][:characters]}
        pairs = zip(self.render([*messages[:place], beginning], tools), ids[:-1], strict=False)
        return next((number for number, (one, other) in enumerate(pairs) if one != other), 0)

    def _apart(self, messages: Messages, tools: Tools) -> tuple[list[int], list[int]]:
        """Encode each text separately from the template. Return all ids, and those of the template's special tokens."""
        nonce = secrets.token_hex(8)  # callers cannot guess this text
        begin, cut, end = (f"{nonce}{name}" for name in "bce")

        def fenced(text: str) -> str:
            return self._fenced(text, begin, cut, end)

        def fenced_json(value: Any) -> Any:
            """Fence the texts in JSON. Single words, such as the types in a schema, are not fenced, because templates
            may interpret them."""
            if isinstance(value, Mapping):
                return {fenced_json(key): fenced_json(each) for key, each in value.items()}
            if isinstance(value, list | tuple):
                return [*map(fenced_json, value)]
            is_word = not isinstance(value, str) or (_WORD.fullmatch(value) and not self._marks.are_in(value))
            return value if is_word else fenced(value)

        turns = []
        for each in for_template(messages):
            calls = {"tool_calls": fenced_json(each["tool_calls"])} if each.get("tool_calls") else {}
            named = {"name": fenced_json(each["name"])} if each.get("name") else {}
            turns.append({**each, "content": fenced(each["content"]), **calls, **named})
        shown = self._shown(turns, fenced_json(list(tools)))
        ids: list[int] = []
        marks: list[int] = []
        is_text = False
        for piece in re.split(f"({begin}|{cut}|{end})", shown):
            if piece in (begin, cut, end):
                if is_text != (piece != begin):
                    raise ValueError("the template splits a text")
                is_text = piece != end
                continue
            encoded = self._encoded(piece)
            found = self._marks_in(encoded)
            if is_text and found:
                raise ValueError("a message text was encoded as a special token of the chat template")
            ids += encoded
            marks += found
        if is_text:
            raise ValueError("the template splits a text")
        return ids, marks

    def _fenced(self, text: str, begin: str, cut: str, end: str) -> str:
        """Put a text between the fences `begin` and `end`. Within the text, split each of the template's special tokens
        with `cut`. White space around the text stays outside the fences, because templates strip it."""
        body = text.strip()
        if not body:
            return text
        before, _, after = text.partition(body)
        return f"{before}{begin}{self._marks.split(body, cut)}{end}{after}"

    def _shown(self, messages: Messages, tools: Tools) -> str:
        turns, listed = for_template(messages), [dict(each) for each in tools] or None
        rendered = self.tokenizer.apply_chat_template(turns, tools=listed, tokenize=False, add_generation_prompt=True)
        return str(rendered)

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _marks_in(self, ids: Sequence[int]) -> list[int]:
        return [each for each in ids if each in self._marks.ids]


INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""A decoder writes this character for an incomplete UTF-8 sequence."""


class StopTexts:
    """A filter that finds stop texts in streamed text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_found = False
        """True once a stop text is complete. Text after it is dropped."""

    def feed(self, text: str) -> str:
        """Add text, and return all text that is final. A tail that may be the start of a stop text is held back. How
        the text was split into pieces does not change the total output."""
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        self.is_found = bool(found)
        end = min(found)[1] if found else len(text) - self._begun(text)
        self._held = "" if found else text[end:]
        return text[:end]

    def end(self) -> str:
        rest, self._held = self._held, ""
        return rest

    def _begun(self, text: str) -> int:
        """Return the length of the text's tail that may be the beginning of a stop text."""
        lengths = (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
        return max(lengths, default=0)


class TextPieces:
    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = StopTexts(stops)
        self._ids: list[int] = []
        self._decoded = 0
        """Number of characters that were passed to the filter of stop texts."""

    @property
    def is_stopped(self) -> bool:
        """True once a stop text is complete."""
        return self._stops.is_found

    def add(self, token: int) -> str:
        """Add a token and return the new text that is final."""
        self._ids.append(token)
        return self._stops.feed(self._new(self._decode(self._ids).rstrip(INCOMPLETE)))

    def rest(self) -> str:
        """Return the text held back as a possible start of a stop text. Drops an incomplete character."""
        return "" if self.is_stopped else self._stops.end()

    def _new(self, text: str) -> str:
        new = text[self._decoded :]
        self._decoded += len(new)
        return new
