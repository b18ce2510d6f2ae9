"""Opening a review: who is shown what, what is refused, and what is pre-registered."""

import pytest

from sovereign_pipeline_tests.review.conftest import ReviewBench


def test_open_and_close(room: ReviewBench) -> None:
    opened = room.open()
    assert len(opened.links) == 5
    room.vote_all(1)
    room.close()
    artifact, verdicts = room.materialize()
    print(artifact.file("review.md").read_text())
    print(verdicts)
    assert 0
