"""The private slice: which rows, which wrong replies, and what better and worse adapters look like in it."""

import pytest

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.models import Models
from sovereign_pipeline.evaluation.files import as_json
from sovereign_pipeline.evaluation.held_out import private
from sovereign_pipeline.evaluation.held_out.private import HeldOutSettings, score_held_out
from sovereign_pipeline_tests.evaluation.conftest import INSTRUCTION
from sovereign_pipeline_tests.evaluation.documents import document

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


def test_an_adapter_that_unlearned_it_has_the_higher_loss(worse: Models, letters: list[Document]) -> None:
    assert score_held_out(worse, letters, SETTINGS)[1].result.loss["base"].low > 0


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


def test_preferences_are_not_scored(unchanged: Models, letters: list[Document]) -> None:
    preference = document(90, rejected="No.")
    samples, scores = score_held_out(unchanged, [*letters, preference], SETTINGS)
    assert preference.id not in {sample.id for sample in samples}
    assert scores.selection.held_out == len(letters)


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
    monkeypatch.setattr(private, "CHOICE_TOKEN_BUDGET", 200)
    samples, scores = score_held_out(unchanged, letters, SETTINGS)
    assert 0 < scores.selection.choice_tokens <= 200
    assert 0 < scores.selection.choice_rows < len(samples) == 16


def test_a_letter_too_long_for_the_model_is_named_and_left_out(unchanged: Models, letters: list[Document]) -> None:
    long = document(70, request="broken " * 300)
    samples, scores = score_held_out(unchanged, [*letters, long], SETTINGS)
    assert scores.selection.too_long == (long.id,)
    assert len(samples) == 16


def test_nothing_to_score_is_an_error(unchanged: Models) -> None:
    with pytest.raises(InputError, match=r"None of .* can be scored"):
        score_held_out(unchanged, [document(1, rejected="No.")], SETTINGS)


def test_no_text_is_written_down(unchanged: Models, letters: list[Document]) -> None:
    samples, scores = score_held_out(unchanged, letters, SETTINGS)
    written = as_json(scores) + "".join(as_json(sample) for sample in samples)
    assert "mended" not in written
    assert letters[0].id in written
