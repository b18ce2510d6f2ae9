"""How a letter and a reply become one conversation for the base model's chat template, as text.

The words of the user turn come from `dataset/formats.py`; only the template's own marks are put around them here, so
that the ids scored are the ids trained. Needs a tokenizer, loads no model.
"""

from typing import Any

from sovereign_pipeline.errors import InputError


def prompt_text(tokenizer: Any, user: str) -> str:
    """The conversation up to where the assistant's reply begins."""
    turns = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def reply_text(tokenizer: Any, user: str, reply: str, end_of_turn: frozenset[int]) -> str:
    """What the assistant's turn adds to `prompt_text`: the reply and its end-of-turn token, nothing after it.

    end_of_turn: the ids at which generation stops. Raises InputError when the template does not lead from the prompt
    to the reply, or does not end the turn with such a token.
    """
    prompt = prompt_text(tokenizer, user)
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if not whole.startswith(prompt):
        raise InputError(
            "The base model's chat template writes another prompt before a reply than it does when it asks for one, so "
            "the reply cannot be scored as it was trained. Use a base model whose template keeps the prompt as it is."
        )
    rest = whole[len(prompt) :]
    ends = [
        rest.rindex(mark) + len(mark)
        for mark in (str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(end_of_turn))
        if mark in rest
    ]
    if not ends:
        raise InputError(
            "The base model's chat template does not end the assistant's turn with a token at which generation stops. "
            "Correct eos_token_id in the model's generation_config.json."
        )
    return rest[: max(ends)]
