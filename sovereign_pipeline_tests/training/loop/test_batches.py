"""A batch on one of several devices: as many passes as on the others, and KTO's exchange over all of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.methods.preference import PreferenceBatches, key_of
from sovereign_pipeline.training.methods.sft import Batches
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import letters

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
TWO = {"launcher": "accelerate", "count": 2}


def a_reply(number: int) -> Completion:
    return Completion([10 + number] * 2, [10 + number, EOS_ID])


def test_each_place_without_a_unit_takes_a_pass(make_job: JobMaker) -> None:
    """Else an unpacked batch that is shorter than another device's would leave that one waiting in its last pass."""
    job = make_job("sft", letters(1), sft={"packing": False, "batch_size": 2, "epochs": 1}, devices=TWO)
    rows = [EncodedRow(str(number), (a_reply(number),)) for number in range(7)]
    batches = Batches(job, make_plan(job, rows))
    assert batches.places == list(range(8))
    sizes = [len(batches.collate(places)["lengths"]) for places in ([4, 5], [6, 7])]
    assert sizes == [2, 2]
    last = batches.collate([6, 7])
    assert int((last["labels"] >= 0).sum()) == 2  # the one reply's, and nothing of what stands in


def test_kto_exchanges_replies_among_all_devices(make_job: JobMaker, tiny_model: Path) -> None:
    section = {"method": "kto", "batch_size": 2, "epochs": 1, "gradient_accumulation": 1}
    job = make_job("kto", letters(1), preference=section, parent_adapter=tiny_model, devices=TWO)
    rows = [EncodedRow(str(number), (a_reply(number),), number % 2 == 0) for number in range(7)]
    batches = PreferenceBatches(job, make_plan(job, rows))
    order = [row.completions[0] for row in batches.plan.rows]
    mixed = [Completion(each.prompt_ids, other.reply_ids) for each in order for other in order]
    batches.references = {key_of(each): -1.0 for each in mixed}

    def exchanged(places: list[int]) -> list[int]:
        """The rows whose replies are there, by their place in the plan."""
        batch = batches.collate(places)["exchanged"]
        assert len(batch["lengths"]) == 2
        replies = batch["input_ids"][0][batch["labels"][0] >= 0].tolist()[0::2]
        return [[each.reply_ids[0] for each in order].index(reply) for reply in replies]

    assert [exchanged([0, 1]), exchanged([2, 3])] == [[3, 0], [1, 2]]
    assert [exchanged([4, 5]), exchanged([6, 7])] == [[6, 4], [5]]
