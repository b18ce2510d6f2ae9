"""Similarity of a generated reply to the reply that a person wrote: chrF and ROUGE-L, for any script.

Pure functions of two texts. They measure wording, not correctness: they are reported beside the loss, which is the
gate. Which replies are generated is in `replies.py`.
"""

from functools import cache
from typing import Any

from sovereign_pipeline.split.similarity import normal_text

SCORE_DIGITS = 6


def chrf(reply: str, reference: str) -> float:
    """chrF2 of one reply, 0 to 1: the F-score, recall counted twice, of character n-grams up to 6 without spaces.

    Popović 2015 ("chrF: character n-gram F-score for automatic MT evaluation"), as sacreBLEU computes it for a
    sentence (its default: beta 2, no word n-grams, no smoothing). Character n-grams need no tokenizer, which suits
    Arabic, where a clitic changes the word.
    """
    score = _chrf().sentence_score(reply, [reference]).score
    return round(float(score) / 100, SCORE_DIGITS)


def rouge_l(reply: str, reference: str) -> float:
    """ROUGE-L F1 of one reply, 0 to 1: precision and recall of the longest common subsequence of words.

    Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"), section 3.1, with beta 1 as `rouge_score` has
    it. Its own tokenizer deletes every letter but a-z and so all Arabic; here words are those of
    `normal_text` (lower case, no punctuation, Arabic without vowel signs and tatweel, digits as 0-9). Without stemming.
    """
    score = _rouge().score(reference, reply)["rougeL"].fmeasure
    return round(float(score), SCORE_DIGITS)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return normal_text(text).split()

    return RougeScorer(["rougeL"], tokenizer=Words())
