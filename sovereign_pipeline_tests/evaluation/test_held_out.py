"""chrF and ROUGE-L against published examples and independent implementations, in both scripts."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.evaluation import held_out
from sovereign_pipeline.evaluation.arms.models import Models
from sovereign_pipeline.evaluation.held_out import (
    HeldOutSettings,
    chrf,
    rouge_l,
    score_held_out,
    write_replies,
)
from sovereign_pipeline.evaluation.records import as_json
from sovereign_pipeline.policy.evaluation import References
from sovereign_pipeline_tests.evaluation.conftest import INSTRUCTION, MAX_LENGTH
from sovereign_pipeline_tests.evaluation.documents import chat, document

TEXTS = st.text(alphabet="abc دار", max_size=40)


def test_rouge_l_has_the_values_of_its_paper() -> None:
    """Lin 2004, section 3.1: reference S1 and candidates S2 to S4, with beta 1."""
    replies = ("police kill the gunman", "the gunman kill police", "the gunman police killed")
    assert [rouge_l(reply, "police killed the gunman") for reply in replies] == [0.75, 0.5, 0.5]


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


SETTINGS = HeldOutSettings(instruction=INSTRUCTION, seed=7, max_rows=None, distractors=2)


def test_an_adapter_that_learned_the_voice_has_the_lower_loss(better: Models, letters: list[Document]) -> None:
    samples, scores = score_held_out(better, letters, SETTINGS)
    loss = scores.result.loss["base"]
    assert loss.high < 0
    assert loss.candidate < loss.reference
    assert (loss.rows, loss.clusters) == (16, 8)
    assert {sample.choices for sample in samples} == {3}
    assert scores.result.choice["base"].rows == 16
    assert {department: by["base"].rows for department, by in scores.result.by_department.items()} == {
        "boats": 8,
        "lamps": 8,
    }


def test_an_adapter_of_zeros_has_a_difference_of_exactly_zero(unchanged: Models, letters: list[Document]) -> None:
    _, scores = score_held_out(unchanged, letters, SETTINGS)
    loss = scores.result.loss["base"]
    assert (loss.difference, loss.low, loss.high) == (0.0, 0.0, 0.0)


def test_rows_are_chosen_by_seed_and_id_alone(unchanged: Models, letters: list[Document]) -> None:
    few = HeldOutSettings(INSTRUCTION, seed=7, max_rows=5, distractors=2)
    chosen = [sample.id for sample in score_held_out(unchanged, letters, few)[0]]
    assert len(chosen) == 5
    assert [sample.id for sample in score_held_out(unchanged, letters[::-1], few)[0]] == chosen
    other = HeldOutSettings(INSTRUCTION, seed=8, max_rows=5, distractors=2)
    assert [sample.id for sample in score_held_out(unchanged, letters, other)[0]] != chosen


def test_wrong_replies_are_of_the_same_language_and_another_case(unchanged: Models, letters: list[Document]) -> None:
    lonely = [document(number, language="ar", case="X") for number in (50, 51, 52)]
    samples, scores = score_held_out(unchanged, [*letters, *lonely], SETTINGS)
    by_id = {sample.id: sample for sample in samples}
    assert [by_id[row.id].choices for row in lonely] == [0, 0, 0]
    assert by_id[lonely[0].id].correct == {}
    assert scores.selection.choice_rows == len(letters)
    assert set(scores.result.by_language) == {"ar", "en"}


def test_choices_stop_at_the_token_budget(
    unchanged: Models, letters: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "CHOICE_TOKEN_BUDGET", 200)
    samples, scores = score_held_out(unchanged, letters, SETTINGS)
    assert 0 < scores.selection.choice_tokens <= 200
    assert 0 < scores.selection.choice_rows < len(samples) == 16


def test_preferences_and_letters_too_long_for_the_model_are_left_out(
    unchanged: Models, letters: list[Document]
) -> None:
    long, preference = document(70, request="broken " * 300), document(90, rejected="No.")
    samples, scores = score_held_out(unchanged, [*letters, long, preference], SETTINGS)
    assert scores.selection.too_long == (long.id,)
    assert {sample.id for sample in samples} == {letter.id for letter in letters}
    assert scores.selection.held_out == len(letters) + 1
    written = as_json(scores) + "".join(as_json(sample) for sample in samples)
    assert "mended" not in written and letters[0].id in written


def test_nothing_to_score_is_an_error(unchanged: Models) -> None:
    with pytest.raises(InputError, match=r"None of .* can be scored"):
        score_held_out(unchanged, [document(1, rejected="No.")], SETTINGS)


@pytest.mark.parametrize(
    ("settings", "turns"),
    [(SETTINGS, {"T-020": [1, 2], "T-021": [2]}), (replace(SETTINGS, supervise="last"), {"T-020": [2], "T-021": [2]})],
)
def test_a_conversation_has_a_loss_for_each_trained_turn(
    better: Models, letters: list[Document], settings: HeldOutSettings, turns: dict[str, list[int]]
) -> None:
    samples, scores = score_held_out(better, [*letters, chat(20), chat(21, weight=0)], settings)
    by_id = {sample.id: sample for sample in samples}
    assert {name: [turn.turn for turn in by_id[name].turns] for name in turns} == turns
    for name in turns:
        sample = by_id[name]
        assert sample.tokens == sum(turn.tokens for turn in sample.turns)
        for arm, loss in sample.losses.items():
            mean = sum(turn.losses[arm] * turn.tokens for turn in sample.turns) / sample.tokens
            assert loss == pytest.approx(mean, abs=1e-5)
        assert sample.choices == 3
    assert scores.selection.choice_rows == len(samples) == 18
    assert {turn: by["base"].rows for turn, by in scores.result.by_turn.items()} == dict(
        Counter(turn for numbers in turns.values() for turn in numbers)
    )


def asked(**changes: int | None) -> References:
    return References.model_validate({"max_new_tokens": 16, "max_rows": 4, **changes})


def test_what_was_trained_on_the_letters_writes_nearer_to_them(better: Models, letters: list[Document]) -> None:
    outcome = write_replies(better, letters, INSTRUCTION, asked(max_new_tokens=32), batch_size=2, seed=7)
    assert len(outcome.samples) == 4
    true = {letter.id: letter.response for letter in letters}
    for sample, reply in zip(outcome.samples, outcome.replies, strict=True):
        assert sample.id == reply.id
        for arm in better.arms:
            assert sample.chrf[arm] == chrf(reply.answers[arm], true[sample.id])
            assert sample.rouge_l[arm] == rouge_l(reply.answers[arm], true[sample.id])
            assert sample.stopped[arm] or sample.tokens[arm] == 32
    assert outcome.result.chrf["base"].low > 0
    assert outcome.result.chrf["base"].candidate > 2 * outcome.result.chrf["base"].reference


def test_a_reply_is_compared_with_the_last_turn_that_is_trained(better: Models) -> None:
    chats = {each.id: each for each in (chat(number, last=0) for number in range(20, 24))}
    outcome = write_replies(better, [*chats.values()], INSTRUCTION, asked(), batch_size=2, seed=7)
    assert len(outcome.samples) == 4
    for sample, reply in zip(outcome.samples, outcome.replies, strict=True):
        trained = chats[sample.id].messages[1].content
        assert sample.chrf == {arm: chrf(answer, trained) for arm, answer in reply.answers.items()}
        assert sample.rouge_l == {arm: rouge_l(answer, trained) for arm, answer in reply.answers.items()}


def test_letters_that_leave_no_room_for_a_reply_are_refused(unchanged: Models, letters: list[Document]) -> None:
    with pytest.raises(InputError, match=r"Lower evaluation\.references\.max_new_tokens"):
        write_replies(unchanged, letters, INSTRUCTION, asked(max_new_tokens=MAX_LENGTH), batch_size=2, seed=7)
