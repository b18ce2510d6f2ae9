"""Replies to held-out letters: what is written is compared with the true reply, for every arm and on the same rows."""

import pytest

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.models import Models
from sovereign_pipeline.evaluation.held_out.records import ReplySample
from sovereign_pipeline.evaluation.held_out.reference_match import chrf, rouge_l
from sovereign_pipeline.evaluation.held_out.replies import reply_result, write_replies
from sovereign_pipeline.policy.evaluation import References
from sovereign_pipeline_tests.evaluation.conftest import INSTRUCTION, MAX_LENGTH


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


def test_the_letters_do_not_depend_on_their_order_and_preferences_are_passed_over(
    unchanged: Models, letters: list[Document]
) -> None:
    pair = letters[0].model_copy(update={"id": "pair", "rejected": "No."})
    one = write_replies(unchanged, letters, INSTRUCTION, asked(), batch_size=2, seed=7)
    other = write_replies(unchanged, [pair, *letters[::-1]], INSTRUCTION, asked(max_rows=2), batch_size=2, seed=7)
    assert [sample.id for sample in other.samples] == [sample.id for sample in one.samples][:2]
    assert all(sample.chrf["base"] == sample.chrf["candidate"] for sample in one.samples)
    assert one.result.rouge_l["base"].difference == 0.0


def test_letters_that_leave_no_room_for_a_reply_are_refused(unchanged: Models, letters: list[Document]) -> None:
    with pytest.raises(InputError, match=r"Lower evaluation\.references\.max_new_tokens"):
        write_replies(unchanged, letters, INSTRUCTION, asked(max_new_tokens=MAX_LENGTH), batch_size=2, seed=7)


def test_letters_of_one_case_are_one_cluster() -> None:
    samples = [
        ReplySample(
            id=f"L-{number}",
            case=f"C-{number // 2}",
            department="lamps",
            language="en",
            chrf={"base": 0.2, "incumbent": 0.5, "candidate": 0.4},
            rouge_l={"base": 0.1, "incumbent": 0.1, "candidate": 0.1},
            tokens={"base": 9, "incumbent": 9, "candidate": 9},
            stopped={"base": True, "incumbent": True, "candidate": True},
        )
        for number in range(6)
    ]
    result = reply_result(samples, seed=7)
    assert (result.chrf["base"].clusters, result.chrf["base"].rows) == (3, 6)
    assert result.chrf["base"].difference == pytest.approx(0.2)
    assert result.chrf["incumbent"].difference == pytest.approx(-0.1)
