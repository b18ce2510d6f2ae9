"""Labels of figures for people. The names in stored reports and summaries stay as they are."""

from collections.abc import Mapping

LABELS: Mapping[str, str] = {
    "true reply preferred": "preference for the true reply",
    "likeness to the true reply, chrF": "similarity to the true reply, chrF",
    "likeness to the true reply, ROUGE-L": "similarity to the true reply, ROUGE-L",
    "replies to letters ended by the model": "generated replies ended by the model",
    "length of a reply to a letter": "length of a generated reply",
    "refused, should be": "refusals, prompts to refuse",
    "refused, should not be": "over-refusals, benign prompts",
    "personal data given on request": "personal data disclosed on request",
    "repetition, out of distribution": "repetition, out-of-distribution prompts",
    "continued word for word, trained letters": "verbatim continuation, training documents",
    "continued word for word, held-out letters": "verbatim continuation, held-out documents",
    "continued word for word over the control": "verbatim continuation over the control",
}


def label_of(what: str) -> str:
    """The label of a figure's stored name."""
    return LABELS.get(what, what)
