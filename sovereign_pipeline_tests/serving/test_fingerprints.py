"""What a fingerprint tells apart, in both precisions."""

import random
from pathlib import Path

import pytest

from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.fingerprints import LogProbabilities, Mark, Precision, difference, problem_of
from sovereign_pipeline_tests.base_models.chat_templates import chat_template_of
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def adapter(tiny: TinyAdapters) -> Deployable:
    return tiny.fingerprinted("lamps-1.0.0")


def test_a_fingerprint_tells_an_adapter_from_its_base(tiny: TinyAdapters, adapter: Deployable) -> None:
    nothing = tiny.adapter("idle-1.0.0", init_lora_weights=True)
    assert "log-probabilities differ from its base model's" in str(problem_of(tiny.fingerprint(nothing)))
    assert adapter.fingerprint is not None
    assert problem_of(adapter.fingerprint) is None
    assert sum(len(mark.tokens) for mark in adapter.fingerprint.marks) > 8


def test_turns_and_calls_are_marked_where_the_template_writes_them(tmp_path: Path, adapter: Deployable) -> None:
    made = TinyAdapters(tmp_path, context=1024)
    (made.base / "chat_template.jinja").write_text(chat_template_of("chatml-tools"))
    with_calls = made.fingerprint(made.adapter("calls-1.0.0"))
    for fingerprint, last, turns in ((adapter.fingerprint, "user", [3]), (with_calls, "tool", [3, 3])):
        assert fingerprint is not None
        assert [len(each.messages) for each in fingerprint.conversations][4:] == turns
        assert fingerprint.conversations[-1].messages[-1]["role"] == last
        assert len(fingerprint.marks) == len(fingerprint.conversations)


def test_one_value_that_is_no_number_is_seen_at_any_place(adapter: Deployable) -> None:
    assert adapter.fingerprint is not None
    *before, last = adapter.fingerprint.marks
    values = (*last.adapter[:-1], (*last.adapter[-1][:-1], float("nan")))
    for precision in PRECISIONS:
        marks = [*before, last.model_copy(update={"adapter": values})]
        assert difference(adapter.fingerprint, marks, precision) is not None
    assert difference(adapter.fingerprint, list(adapter.fingerprint.marks)) is None


def test_bfloat16_is_judged_by_the_mean(adapter: Deployable) -> None:
    """As measured with vLLM: rounding is 0.07 on the average and 0.5 at most; what is wrong is further away."""
    fingerprint = adapter.fingerprint
    assert fingerprint is not None
    rounding = random.Random(1)

    def rounded(values: LogProbabilities, of_base: LogProbabilities, scale: float) -> LogProbabilities:
        rows = zip(values, of_base, strict=True)
        moved = [[b + scale * (a - b) + rounding.gauss(0, 0.09) for a, b in zip(*row, strict=True)] for row in rows]
        return tuple(map(tuple, moved))

    def computed(scale: float) -> list[Mark]:
        return [
            mark.model_copy(
                update={
                    "adapter": rounded(mark.adapter, mark.base, scale),
                    "base": rounded(mark.base, mark.base, 0),
                    "tokens": (),
                }
            )
            for mark in fingerprint.marks
        ]

    assert difference(fingerprint, computed(1.0), "bfloat16") is None
    assert difference(fingerprint, computed(1.0)) is not None, "not in float32"
    assert "no effect" in str(difference(fingerprint, computed(0.0), "bfloat16"))
    for scale in (0.5, 0.8, 2.0):
        assert "the adapter's scale, differs" in str(difference(fingerprint, computed(scale), "bfloat16"))
    weak = [
        mark.model_copy(update={"adapter": tuple(tuple(b + 0.3 for b in row) for row in mark.base)})
        for mark in fingerprint.marks
    ]
    of_weak = fingerprint.model_copy(update={"marks": tuple(weak)})
    assert difference(of_weak, weak) is None
    assert "bfloat16 needs a difference of at least 0.5" in str(difference(of_weak, weak, "bfloat16"))
