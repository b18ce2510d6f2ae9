"""The trainer's report and its log keep the form in which earlier releases stored them, byte for byte."""

import json

import pytest
from pydantic import ValidationError

from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.corpus.document import jsonl_line
from sovereign_pipeline.training.report import LoggedStep, TrainingReport

STORED = (
    b'{"adapter":"lora","attention":"row_by_row","base_held_as":"float32","base_model":{"chat_template_sha256":"f91864",'
    b'"digest":"000000","name":"tiny"},"betas":[0.9,0.999],"data_order_sha256":"1fbb44","device":"cpu","devices":1,'
    b'"first_loss":0.5,"gradient_checkpointing":false,"last_loss":0.5,"learning_rate":0.005,"libraries":{"accelerate":'
    b'"1.15.0","bitsandbytes":"0.50.2","peft":"0.21.2","safetensors":"0.8.0","torch":"2.13.0+cpu","transformers":'
    b'"5.24.0","trl":"1.16.0"},"method":"kto","optimizer":"torch.optim.adamw.AdamW","optimizer_paged":false,'
    b'"packing":true,"precision":"float32","probe_loss_after":5.225040912628174,"probe_loss_before":4.770318984985352,'
    b'"rows":12,"rows_cut":1,"rows_cut_ids":["R-12"],"scheduler":"cosine","seed":7,"sharding":null,"steps":1,'
    b'"supervised_share":0.266968,"threads":1,"tokens":442,"tokens_trained":442,"trainable_parameters":8192,'
    b'"trained_in":"float32","units_left_out":0,"weight_decay":0.0}'
)
NOT_IN_THE_SUMMARY = {
    "betas",
    "gradient_checkpointing",
    "packing",
    "probe_loss_after",
    "probe_loss_before",
    "rows_cut_ids",
    "sharding",
    "tokens_trained",
    "weight_decay",
}


def test_a_stored_report_is_read_and_written_as_it_was() -> None:
    report = TrainingReport.model_validate_json(STORED)
    assert canonical_json(report.model_dump(mode="json")) == STORED
    stored = json.loads(STORED)
    assert report.summary == {name: stored[name] for name in stored if name not in NOT_IN_THE_SUMMARY}


@pytest.mark.parametrize(
    "line",
    [
        '{"step":1,"loss":2.5,"learning_rate":0.01,"grad_norm":0.7}\n',
        '{"step":1,"loss":0.7,"learning_rate":0.005,"grad_norm":2.5,"rewards/accuracies":0.0,"rewards/margins":0.0}\n',
        '{"step":1,"loss":0.5,"learning_rate":0.005,"grad_norm":0.7,"rewards/chosen":0.0,"rewards/rejected":0.0,'
        '"kl":0.0}\n',
    ],
)
def test_a_logged_step_is_written_under_the_names_of_transformers_and_trl(line: str) -> None:
    entry = {"epoch": 0.5, **json.loads(line), "total_flos": 1.0}
    assert jsonl_line(LoggedStep.from_history(entry).row) == line


def test_a_report_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        TrainingReport.model_validate({**json.loads(STORED), "surprise": 1})
