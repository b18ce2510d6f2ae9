"""Whatever fails while a batch is scrubbed, the message names the row and quotes nothing of it."""

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError, PrivacyError
from sovereign_pipeline.corpus.document import write_documents
from sovereign_pipeline.privacy import case_files, detection, json_texts, scrubbing
from sovereign_pipeline.privacy.case_files import add_further_mentions
from sovereign_pipeline.privacy.engines import start_scrubbing
from sovereign_pipeline_tests.privacy.conftest import document
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import job_for, scrub_in

FATAL = "LANTERN-FATAL"
"""Stands in the text of one row, at which what is planted raises."""


def failing(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises, with its arguments in the message, where the row at fault is among them."""

    def call(*arguments: Any, **named: Any) -> Any:
        if FATAL in repr((arguments, named)):
            raise RuntimeError(f"cannot read {arguments}")
        return real(*arguments, **named)

    return call


PLACES = {
    "normalising a text": (json_texts, "normalise"),
    "looking for placeholders": (scrubbing, "reject_placeholders"),
    "a detector": (detection, "structured_spans"),
    "further mentions": (case_files, "add_further_mentions"),
    "the second reading": (case_files, "reread"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_row_is_named_wherever_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    texts = {f"R-{n}": f"CR 1000000 {FATAL if n == 7 else n}" for n in range(12)}
    write_documents(tmp_path / "in.jsonl", (document(text, id=id, case=f"C-{id}") for id, text in texts.items()))
    module, name = PLACES[place]
    monkeypatch.setattr(module, name, failing(getattr(module, name)))
    with pytest.raises(PrivacyError, match=r"[Rr]ow R-7\b") as failed:
        scrub_in(tmp_path)
    assert FATAL not in str(failed.value) and "R-6" not in str(failed.value)


def test_rows_that_fail_together_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails may be what the texts of a case file are together."""
    write_documents(tmp_path / "in.jsonl", (document(FATAL, id=f"R-{n}", case=f"C-{n // 3}") for n in range(12)))

    def fails(texts: Any, *others: Any) -> Any:
        if [text.content for text in texts] == [FATAL] * 3:
            raise RuntimeError(FATAL)
        return real(texts, *others)

    real = add_further_mentions
    monkeypatch.setattr(case_files, "add_further_mentions", fails)
    with pytest.raises(PrivacyError, match="in rows of one case file: R-0, R-1, R-2") as failed:
        scrub_in(tmp_path)
    assert FATAL not in str(failed.value)


def test_a_row_that_is_no_document_is_named_by_its_line(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", (document("CR 1000000", id=f"R-{n}") for n in range(3)))
    first, second, third = (tmp_path / "in.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "in.jsonl").write_bytes(first + second + third.replace(b'"request"', b'"requested"'))
    with start_scrubbing(job_for(tmp_path)) as scrub, pytest.raises(IntegrityError, match="line 3: not a document"):
        scrub(array("Q", [len(first) + len(second)]))


def test_rows_in_a_language_without_a_detector_are_named(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", (document("x", id=f"R-{n}", language="en" if n else "it") for n in range(3)))
    with pytest.raises(PrivacyError, match=r"it \(1 row: R-0\)") as stopped:
        scrub_in(tmp_path)
    assert "exclude" in stopped.value.hint
