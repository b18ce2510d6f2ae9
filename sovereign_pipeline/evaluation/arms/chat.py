"""A prompt and a reply as text in the base model's chat template.

What belongs here: the template's own marks around a turn, so that the token ids scored are the ids trained. What does
not: the wording of the user turn (`dataset/formats.py`). Needs a tokenizer and loads no model.
"""

from typing import Any

from sovereign_pipeline.errors import InputError


def prompt_text(tokenizer: Any, user: str) -> str:
    """The conversation up to the beginning of the assistant's reply."""
    turns = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def reply_text(tokenizer: Any, user: str, reply: str, end_of_turn: frozenset[int]) -> str:
    """The assistant's turn after `prompt_text`: the reply and its end-of-turn token, nothing after it.

    `end_of_turn`: the token ids at which generation stops. Raises InputError when the template changes the prompt once
    a reply follows, or does not end the turn with such a token.
    """
    prompt = prompt_text(tokenizer, user)
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if not whole.startswith(prompt):
        raise InputError(
            "The base model's chat template changes the prompt once a reply follows. The reply cannot be scored as it "
            "was trained.",
            "Use a base model whose template keeps the prompt unchanged.",
        )
    rest = whole[len(prompt) :]
    ends = [
        rest.rindex(mark) + len(mark)
        for mark in (str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(end_of_turn))
        if mark in rest
    ]
    if not ends:
        raise InputError(
            "The base model's chat template does not end the assistant's turn with a token at which generation stops.",
            "Correct eos_token_id in the model's generation_config.json.",
        )
    return rest[: max(ends)]
