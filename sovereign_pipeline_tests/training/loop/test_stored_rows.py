"""Rows in a mapped file are those that are encoded one by one, in order; they leave no file, and take little memory."""

import random
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.training import rows as stored_rows
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rows import Completion, EncodedRow, encode, exchanged, pack
from sovereign_pipeline_tests.training.conftest import labels, letters, pairs

JobMaker = Callable[..., TrainingJob]
MAKERS: dict[str, Callable[[int], list[dict[str, Any]]]] = {"sft": letters, "dpo": pairs, "kto": labels}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def job_of(make_job: JobMaker, method: str, count: int) -> TrainingJob:
    preference = {} if method == "sft" else {"preference": {"method": method}, "parent_adapter": Path("unused")}
    return make_job(method, MAKERS[method](count), **preference)


def stored(job: TrainingJob, tokenizer: Any, check_stop: Callable[[], None] = lambda: None) -> list[EncodedRow]:
    return stored_rows.stored_rows(job, job.dataset, tokenizer, lambda message: None, check_stop)


def one_by_one(job: TrainingJob, tokenizer: Any) -> list[EncodedRow]:
    return [encode(tokenizer, job.method, row, job.eos_ids) for row in read_jsonl(job.dataset)]


def content(rows: list[EncodedRow]) -> list[Any]:
    """All that a row is asked for."""
    return [
        (row.id, row.desirable, row.longest, row.tokens, row.supervised, [content_of(each) for each in row.completions])
        for row in rows
    ]


def content_of(completion: Completion) -> tuple[Any, ...]:
    parts = list(completion.prompt_ids), list(completion.reply_ids), completion.ids, completion.labels
    return *parts, completion.reply_ids[-1], len(completion), len(completion.prompt_ids), len(completion.reply_ids)


@pytest.mark.parametrize("method", MAKERS)
def test_they_are_the_encoded_rows_in_order(
    make_job: JobMaker, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(stored_rows, "ROWS_A_BATCH", 3)
    job = job_of(make_job, method, 10)
    before = sorted(job.output.parent.iterdir())
    rows, expected = stored(job, tokenizer), one_by_one(job, tokenizer)
    assert content(rows) == content(expected)
    assert [content_of(each) for each in exchanged(rows)] == [
        content_of(Completion(row.completions[0].prompt_ids, other.completions[0].reply_ids))
        for row, other in zip(expected, [expected[-1], *expected[:-1]], strict=True)
    ]
    assert sorted(job.output.parent.iterdir()) == before  # the file has no name any more


@pytest.mark.slow
def test_several_processes_encode_the_same_rows(
    make_job: JobMaker, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "ROWS_A_BATCH", 4)
    monkeypatch.setattr(stored_rows, "ROWS_WORTH_A_WORKER", 8)
    monkeypatch.setattr(stored_rows, "MOST_WORKERS", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    job = job_of(make_job, "sft", 30)
    assert content(stored(job, tokenizer)) == content(one_by_one(job, tokenizer))


def test_a_request_to_stop_ends_it_between_two_batches_and_leaves_no_file(
    make_job: JobMaker, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "ROWS_A_BATCH", 2)
    job = job_of(make_job, "sft", 10)
    before = sorted(job.output.parent.iterdir())
    checks: list[None] = []

    def check_stop() -> None:
        checks.append(None)
        if len(checks) == 2:
            raise TrainingFailed("stopped")

    with pytest.raises(TrainingFailed, match="stopped"):
        stored(job, tokenizer, check_stop)
    assert len(checks) == 2 and sorted(job.output.parent.iterdir()) == before


def test_a_full_disk_is_said_to_be_full(make_job: JobMaker, tokenizer: Any) -> None:
    job = job_of(make_job, "sft", 100)
    before = sorted(job.output.parent.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(TrainingFailed, match=r"rows were not written \(File too large; [\d,]+ MB free\)"):
            stored(job, tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(job.output.parent.iterdir()) == before


def test_tokens_are_not_kept_in_memory(make_job: JobMaker, tokenizer: Any) -> None:
    """Not even after all of them were read. A list of this length takes 9,600 bytes for its places alone."""
    long = [{**row, "output": "rope tide " * 600} for row in letters(150)]
    job = make_job("long", long)
    stored(job, tokenizer)  # what the libraries keep from their first use is none of the rows'
    tracemalloc.start()
    try:
        rows = stored(job, tokenizer)
        assert sum(len(each.ids) for row in rows for each in row.completions) > 150 * 1200
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(rows) < 2000
    assert str(rows[0]) == str(rows[5]).replace("R-5", "R-0").replace("place=5", "place=0")  # no tokens


def test_packs_are_those_of_the_plain_search() -> None:
    """First-fit decreasing as it is defined, which looks at every pack for every row."""

    def plain(rows: list[EncodedRow], max_length: int) -> list[list[EncodedRow]]:
        packs: list[list[EncodedRow]] = []
        for row in sorted(rows, key=lambda row: -row.tokens):
            fitting = (pack for pack in packs if sum(each.tokens for each in pack) + row.tokens <= max_length)
            found = next(fitting, None)
            if found is None:
                packs.append(found := [])
            found.append(row)
        return packs

    draw = random.Random(7)
    for count in (1, 2, 3, 64, 65, 200):
        rows = [EncodedRow(f"R-{n}", (Completion([1] * draw.randint(1, 60), [2] * 4),)) for n in range(count)]
        assert pack(rows, 64) == plain(rows, 64)
    assert pack([], 64) == []
