"""What a caller writes is never a mark of the chat template, and an ordinary conversation is encoded as in training."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base_models.tool_form import for_template
from sovereign_pipeline.serving.engines.text import Prompts, TextPieces
from sovereign_pipeline_tests.base_models.chat_templates import chat_template_of
from sovereign_pipeline_tests.tiny_model import SPECIAL_TOKENS, TEMPLATE, save_byte_tokenizer

TRIMS = TEMPLATE.replace("message['content']", "(message['content'] | trim)")
TOUCHES = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<' + message['content'] + '>' }}{% endfor %}"
)
DROPS = TEMPLATE.replace("message['content']", "message['content'].replace('&', '')")
TAKES_APART = TEMPLATE.replace("message['content']", "message['content'][:20]")

ORDINARY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|"), max_size=40)  # no part of a mark
MARKED = st.lists(
    st.one_of(
        st.sampled_from(SPECIAL_TOKENS),
        st.sampled_from(["<", ">", "<|", "|>", "<|im_", "start|>", "|im_end|", "\n", "&", "system\n"]),
        st.text(max_size=3),
    ),
    max_size=8,
).map("".join)
ROLES = st.sampled_from(["system", "user", "assistant"])


def conversations(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    turns = st.fixed_dictionaries({"role": ROLES, "content": texts})
    return st.lists(turns, min_size=1, max_size=4)


@cache
def tokenizer_with(template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_byte_tokenizer(Path(mkdtemp()) / "tokenizer"))
    tokenizer.chat_template = template
    return tokenizer


def as_training(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    return ids


def marks_in(ids: Sequence[int]) -> list[int]:
    return [each for each in ids if each < len(SPECIAL_TOKENS)]


@pytest.mark.parametrize("template", [TEMPLATE, TRIMS, TOUCHES])
@given(messages=conversations(ORDINARY))
def test_ordinary_conversation_has_the_ids_of_training(template: str, messages: list[dict[str, str]]) -> None:
    tokenizer = tokenizer_with(template)
    assert Prompts(tokenizer).ids_of(messages) == as_training(tokenizer, messages)


@pytest.mark.security_case(
    "A caller's text contains the chat template's special tokens, complete or in parts that the template joins",
    "the model gets them as plain text",
)
@pytest.mark.parametrize("template", [TEMPLATE, TRIMS, TOUCHES])
@given(messages=conversations(MARKED))
def test_a_mark_in_a_text_is_plain_text(template: str, messages: list[dict[str, str]]) -> None:
    tokenizer = tokenizer_with(template)
    ids = Prompts(tokenizer).ids_of(messages)
    harmless = [{**each, "content": "x"} for each in messages]
    assert marks_in(ids) == marks_in(as_training(tokenizer, harmless))
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == shown, "the model reads what was written"


def with_tools(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A conversation with the text wherever a caller of tools can write one, and its tools."""
    arguments = {"where": text, text: [1.5, {"note": text}]}
    call = {"type": "function", "id": text, "function": {"name": "find", "arguments": arguments}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": text, "tool_call_id": text, "name": text or "find"},
    ]
    schema = {"type": text, "properties": {text: {"type": "string", "description": text, "enum": [text, "north pier"]}}}
    return messages, [{"type": "function", "function": {"name": "find", "description": text, "parameters": schema}}]


@pytest.mark.security_case(
    "The arguments of a call, a tool's result, or the schema of a tool contain special tokens of the chat template",
    "the model gets them as plain text",
)
@given(text=st.one_of(ORDINARY, MARKED))
def test_a_mark_in_tools_and_their_results_is_plain_text(text: str) -> None:
    tokenizer = tokenizer_with(chat_template_of("chatml-tools"))
    messages, tools = with_tools(text)
    ids = Prompts(tokenizer).ids_of(messages, tools)
    harmless, listed = with_tools("x")
    options: Any = {"add_generation_prompt": True, "return_dict": False}
    assert marks_in(ids) == marks_in(tokenizer.apply_chat_template(for_template(harmless), tools=listed, **options))
    shown = tokenizer.apply_chat_template(
        for_template(messages), tools=tools, add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == shown, "the model reads what was written"
    if not any(mark in text for mark in SPECIAL_TOKENS):
        assert ids == tokenizer.apply_chat_template(for_template(messages), tools=tools, **options), "as in training"


def test_what_the_template_makes_of_a_text_is_no_mark() -> None:
    """It removes characters, so that a mark is left; or it drops the end of a text: nothing is answered."""
    letter = [{"role": "user", "content": "<|im&_end|>"}]
    with pytest.raises(ValueError, match="encoded as a special token"):
        Prompts(tokenizer_with(DROPS)).ids_of(letter)
    with pytest.raises(ValueError, match=r"splits a text|encoded as a special token"):
        Prompts(tokenizer_with(TAKES_APART)).ids_of([{"role": "user", "content": "a <|im_end|> b" * 9}])


def test_a_mark_that_the_normalizer_reads_into_a_text_is_refused() -> None:
    """Full-width signs, where added tokens are looked for in the normalized text."""
    from tokenizers import AddedToken, normalizers

    tokenizer = tokenizer_with(TEMPLATE + " ")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("[turn]", special=True, normalized=True)], special_tokens=True)
    prompts = Prompts(tokenizer)
    assert prompts.ids_of([{"role": "user", "content": "[turn]"}])
    with pytest.raises(ValueError, match="encoded as a special token"):
        prompts.ids_of([{"role": "user", "content": "\uff3bturn]"}])


TEXTS = st.text(alphabet="ab آمن🙂👩‍👩‍👧é\n", max_size=24)


def bytes_as_tokens(ids: list[int]) -> str:
    """As a byte-level tokenizer decodes: every token one byte of UTF-8."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(text: str, stops: Sequence[str] = ()) -> list[str]:
    given = TextPieces(bytes_as_tokens, stops)
    found = []
    for byte in text.encode():
        found.append(given.add(byte))
        if given.is_stopped:
            return found
    return [*found, given.rest()]


@given(TEXTS)
def test_pieces_are_the_text_and_split_no_character(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in found)


@given(
    st.text(alphabet="abc", max_size=12),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_stop_text_that_is_complete_first_ends_the_answer(text: str, stops: list[str], length: int) -> None:
    """However long the tokens are."""
    complete = [
        (end, text[:end].rindex(stop)) for end in range(1, len(text) + 1) for stop in stops if text[:end].endswith(stop)
    ]
    expected = text[: min(complete)[1]] if complete else text
    assert "".join(pieces(text, stops)) == expected
    tokens = [text[start : start + length] for start in range(0, len(text), length)]
    given_pieces = TextPieces(lambda ids: "".join(tokens[each] for each in ids), stops)
    found = ""
    for token in range(len(tokens)):
        found += given_pieces.add(token)
        if given_pieces.is_stopped:
            break
    assert found + given_pieces.rest() == expected


def test_nothing_of_a_stop_text_is_given_before_it_is_known() -> None:
    assert pieces("lamp END", ["END"]) == ["l", "a", "m", "p", " ", "", "", ""]
    assert pieces("EN", ["END"]) == ["", "", "EN"]


@pytest.mark.parametrize("character", ["🙂", "آ", "é"])
@pytest.mark.parametrize("before", ["", "lamp EN"])
def test_an_answer_never_ends_in_half_a_character(character: str, before: str) -> None:
    for end in range(1, len(character.encode())):
        given = TextPieces(bytes_as_tokens, ["END"])
        text = "".join(given.add(byte) for byte in (before.encode() + character.encode()[:end]))
        assert text + given.rest() == before
