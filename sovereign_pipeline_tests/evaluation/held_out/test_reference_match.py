"""chrF and ROUGE-L against published examples and independent implementations, in both scripts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.evaluation.held_out.reference_match import chrf, rouge_l

TEXTS = st.text(alphabet="abc دار", max_size=40)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("police kill the gunman", 0.75),
        ("the gunman kill police", 0.5),
        ("the gunman police killed", 0.5),
    ],
)
def test_rouge_l_has_the_values_of_its_paper(reply: str, expected: float) -> None:
    """Lin 2004, section 3.1: reference S1 and candidates S2 to S4, with beta 1."""
    assert rouge_l(reply, "police killed the gunman") == expected


def test_rouge_l_sees_arabic_words() -> None:
    """rouge_score's own tokenizer has no Arabic word left and would give 0 for equal texts."""
    from rouge_score.rouge_scorer import RougeScorer

    text = "أُعيدت الرخصة إلى صاحبها في ١٢ مارس"
    assert RougeScorer(["rougeL"]).score(text, text)["rougeL"].fmeasure == 0
    assert rouge_l(text, text) == 1
    assert rouge_l("أعيدت الرخصـة إلى صاحبها في 12 مارس.", text) == 1
    assert rouge_l("الرخصة إلى صاحبها", text) == pytest.approx(2 * 3 / (3 + 7), abs=1e-6)
    assert rouge_l("رُفض الطلب", text) == 0


@given(TEXTS, TEXTS)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(reply: str, reference: str) -> None:
    said, right = reply.split(), reference.split()
    table = [[0] * (len(right) + 1) for _ in range(len(said) + 1)]
    for i, one in enumerate(said):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    expected = 2 * common / (len(said) + len(right)) if common else 0
    assert rouge_l(reply, reference) == pytest.approx(expected, abs=1e-6)


@given(TEXTS, TEXTS)
def test_chrf_is_the_f2_of_character_n_grams(reply: str, reference: str) -> None:
    """Popović 2015, equation 1: mean precision and recall over the orders 1 to 6 (here, as sacreBLEU does, over those
    of which both texts have an n-gram), recall weighing twice."""
    said, right = "".join(reply.split()), "".join(reference.split())
    precisions, recalls = [], []
    for order in range(1, 7):
        ours, theirs = n_grams(said, order), n_grams(right, order)
        if ours and theirs:
            matches = sum((ours & theirs).values())
            precisions.append(matches / sum(ours.values()))
            recalls.append(matches / sum(theirs.values()))
    precision, recall = (sum(each) / len(each) if each else 0 for each in (precisions, recalls))
    expected = 5 * precision * recall / (4 * precision + recall) if precision + recall else 0
    assert chrf(reply, reference) == pytest.approx(expected, abs=1e-6)


def n_grams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


@pytest.mark.parametrize("match", [chrf, rouge_l])
def test_equal_is_1_and_nothing_in_common_is_0(match: object) -> None:
    assert callable(match)
    assert match("The lamp is lit.", "The lamp is lit.") == 1
    assert match("xyz", "The lamp is lit") == 0
    assert match("", "The lamp is lit") == 0
