"""The trainer's report and its log keep the form in which earlier releases stored them, byte for byte."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.training.report import TrainingReport

STORED = Path(__file__).with_name("report.json").read_bytes().rstrip(b"\n")
NOT_IN_THE_SUMMARY = {
    "betas",
    "gradient_checkpointing",
    "packing",
    "probe_loss_after",
    "probe_loss_before",
    "rows_cut_ids",
    "sharding",
    "weight_decay",
}


def test_a_stored_report_is_read_and_written_as_it_was() -> None:
    report = TrainingReport.model_validate_json(STORED)
    assert canonical_json(report.model_dump(mode="json")) == STORED
    stored = json.loads(STORED)
    assert report.summary == {name: stored[name] for name in stored if name not in NOT_IN_THE_SUMMARY}


def test_a_report_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        TrainingReport.model_validate({**json.loads(STORED), "surprise": 1})
