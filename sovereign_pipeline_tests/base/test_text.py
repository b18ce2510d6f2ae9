"""Messages about long work: now and then, with what is left."""

import pytest

from sovereign_pipeline.base.text import Countdown


def test_progress_is_reported_now_and_then_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    told: list[str] = []
    work = Countdown(told.append, "encoding", 40, "row")
    for done in (1, 4, 5, 20):
        work.reached(done)
    assert told == ["encoding: row 4 of 40, 54 s left", "encoding: row 20 of 40, 12 s left"]
