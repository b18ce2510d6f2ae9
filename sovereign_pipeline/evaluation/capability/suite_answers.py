"""Which reply counts as right, by the kind of the suite.

What belongs here: pure functions of a reply and its row, and the program that a reply to HumanEval becomes. Numbers and
matches are as in lm-eval where it defines them; spans are compared in the normal form that this project uses for Arabic
(`split/similarity.py`).
"""

import re
from collections import Counter
from collections.abc import Sequence

from sovereign_pipeline.sandbox.sandbox import Ending, run_program
from sovereign_pipeline.split.similarity import normal_text
from sovereign_pipeline.suites.rows import Function, Passage, Problem

# lm-eval 0.4.13, tasks/gsm8k/gsm8k.yaml: filters "strict-match" and "flexible-extract", and what exact_match ignores.
STRICT_NUMBER = {"regex_pattern": r"#### (\-?[0-9\.\,]+)"}
FLEXIBLE_NUMBER = {"regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1}
IGNORED_IN_NUMBERS = (",", r"\$", r"(?s).*#### ", r"\.$")

_FENCE = "```"
_ARABIC_ARTICLE = re.compile(r"^ال(?=\w{2})")


def chosen(log_likelihoods: Sequence[float], choices: Sequence[str], metric: str) -> int:
    """Index of the model's choice: the most likely (`acc`), or the most likely per character of its text (`acc_norm`).

    As in lm-eval; of equals, the first.
    """
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    values = [total / length for total, length in zip(log_likelihoods, lengths, strict=True)]
    return values.index(max(values))


def until(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop words, as lm-eval truncates generated text."""
    for word in stop:
        text = text.split(word)[0]
    return text


def is_right_number(reply: str, problem: Problem, strict: bool = False) -> bool:
    """GSM8K's exact match: of the last number in the reply (`flexible-extract`), or, strict, of the one after `####`.

    A chat model writes no `####` unless examples show it, so the flexible one counts here.
    """
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    ((number,),) = RegexFilter(**(STRICT_NUMBER if strict else FLEXIBLE_NUMBER)).apply([[reply]], [{}])
    matched = exact_match_hf_evaluate(
        predictions=[number], references=[problem.solution], regexes_to_ignore=IGNORED_IN_NUMBERS, ignore_case=True
    )
    return bool(matched["exact_match"] == 1)


def holds_an_answer(reply: str, passage: Passage) -> bool:
    """Whether the reply contains one of the right answers as a sequence of words.

    Containment as in lm-eval's `squad_completion` (Arora et al. 2024, "Just read twice", section 4), because a chat
    model answers in a sentence. Words are compared without punctuation, vowel signs, tatweel and article, digits as
    0-9. A reply is short (`max_new_tokens`), so it cannot contain the answer by repeating the passage.
    """
    words = f" {' '.join(_words(reply))} "
    return any(f" {' '.join(_words(answer))} " in words for answer in passage.answers if _words(answer))


def span_f1(reply: str, passage: Passage) -> float:
    """SQuAD's F1 over words (Rajpurkar et al. 2016, section 6.1), the best over the right answers; 0 to 1."""
    return max(_f1(_words(reply), _words(answer)) for answer in passage.answers)


def _f1(reply: Sequence[str], right: Sequence[str]) -> float:
    shared = sum((Counter(reply) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(reply), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    """Words without articles, as in SQuAD's own script; the Arabic article is a prefix of its word."""
    words = normal_text(text).split()
    return [_ARABIC_ARTICLE.sub("", word) for word in words if word not in ("a", "an", "the")]


def program_of(reply: str, function: Function) -> str:
    """The function completed by the reply, its test, and the call of the test. A reply may close a code block."""
    body = reply.split(_FENCE)[0]
    return f"{function.prompt}{body}\n{function.test}\ncheck({function.entry_point})\n"


def run_reply(reply: str, function: Function) -> Ending:
    """Whether the completed function passes its test, in the sandbox. Raises SandboxUnavailable."""
    return run_program(program_of(reply, function))
