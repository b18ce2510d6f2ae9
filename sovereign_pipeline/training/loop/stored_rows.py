"""The rows of a training as token ids in an Arrow file that is mapped into memory.

A row in memory is its id and its lengths; its token ids are read from the file when they are asked for
(docs/benchmarks/training.md has figures). The file holds document text as tokens: it lies in the job's scratch
directory, and has no name there any more once it is mapped. Nothing of it outlives the process.

What belongs here: writing such a file, in several processes where that pays, and reading from it. What does not: how
one row is encoded (`rows.py`).
"""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, overload

from sovereign_pipeline.base.errors import TrainingFailed, WorkerKilled
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.processes import silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base.workers import WorkerPool
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.rows import Completion, EncodedRow, encode

ROWS_A_BATCH = 256
"""Rows that are encoded and written together."""
ROWS_WORTH_A_WORKER = 10_000
"""A worker takes four seconds of a core to start, and encodes some 500 rows of 600 tokens in one."""
MOST_WORKERS = 8
"""One process writes what the others encode, and each holds its own tokenizer."""
REPLIES = ("reply_ids", "rejected_ids")
"""Columns of a row's replies; the second for pairs alone."""
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, eq=False)
class StoredIds(Sequence[int]):
    """Token ids of one prompt or reply: their number is known, and they are read each time that they are asked for."""

    column: Any = field(repr=False)
    """Of the file. Shown it would be the document's text."""
    place: int
    """Of the row in it."""
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        return self._read()[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _read(self) -> list[int]:
        ids: list[int] = self.column[self.place].values.to_numpy().tolist()
        return ids


def stored_rows(
    job: TrainingJob,
    dataset: Path,
    tokenizer: Any,
    progress: Callable[[str], None],
    check_stop: Callable[[], None],
) -> list[EncodedRow]:
    """Encode a dataset of the job; the rows in the order of its file.

    check_stop: raises, between two batches, after a request to stop.
    Raises TrainingFailed for a row that the chat template formats in two ways, and as `mapped`; WorkerKilled.
    """
    with dataset.open("rb") as lines:
        count = sum(1 for _ in lines)
    if count == 0:
        return []
    countdown = Countdown(progress, "encoding the dataset", count, "row")

    def encoded() -> Iterator[Any]:
        done = 0
        try:
            for batch in _encoded_batches(job, dataset, tokenizer, count):
                yield batch
                done += batch.num_rows
                countdown.reached(done)
                check_stop()
        except WorkerKilled:
            check_stop()  # the same signal may have ended a worker that had just been started
            raise

    stored = mapped(job, encoded())
    return list(_rows(stored.data))


def mapped(job: TrainingJob, batches: Iterable[Any], dataset_class: Any = None) -> Any:
    """A `datasets.Dataset` of Arrow tables, at least one, in a file of the job that has no name any more.

    dataset_class: another class, derived from that one.
    Raises TrainingFailed when the disk is full.
    """
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    directory = job.output.parent
    try:
        with NamedTemporaryFile(dir=directory, suffix=".arrow") as file:
            # Its own fingerprint would be a hash of what is in memory. Nothing is cached under this one either.
            with ArrowWriter(path=file.name, fingerprint=digest_of([job.identity, job.dataset.name])) as writer:
                for batch in batches:
                    writer.write_table(batch)
                writer.finalize()
            return (dataset_class or Dataset).from_file(file.name)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        raise TrainingFailed(
            f"{directory}: the encoded rows were not written ({error.strerror}; "
            f"{shutil.disk_usage(directory).free / 1e6:,.0f} MB free). They take 4 bytes a token while the trainer "
            f"runs; a trainer of TRL takes them a second time.",
            "Free disk space, and run again.",
        ) from error


def in_tables(rows: Iterable[dict[str, list[int]]]) -> Iterator[Any]:
    """Arrow tables of rows that have the same columns, for `mapped`."""
    import pyarrow

    left = iter(rows)
    while batch := list(islice(left, ROWS_A_BATCH)):
        token_ids = pyarrow.list_(pyarrow.int32())
        yield pyarrow.Table.from_pylist(batch, pyarrow.schema([(name, token_ids) for name in batch[0]]))


def _rows(table: Any) -> Iterator[EncodedRow]:
    """table: the columns of the file, as datasets has them."""
    from pyarrow import compute

    replies = [name for name in REPLIES if name in table.column_names]
    columns = {name: table.column(name) for name in ("prompt_ids", *replies)}
    lengths = {name: compute.list_value_length(column).to_pylist() for name, column in columns.items()}
    facts = zip(table.column("id").to_pylist(), table.column("desirable").to_pylist(), strict=True)
    for place, (row_id, desirable) in enumerate(facts):
        ids = {name: StoredIds(column, place, lengths[name][place]) for name, column in columns.items()}
        yield EncodedRow(row_id, tuple(Completion(ids["prompt_ids"], ids[name]) for name in replies), desirable)


def _encoded_batches(job: TrainingJob, dataset: Path, tokenizer: Any, count: int) -> Iterator[Any]:
    """Arrow tables of the rows. Several processes encode a large dataset, and this one writes what they send."""
    cores = len(os.sched_getaffinity(0)) // job.devices.count
    workers = min(cores, count // ROWS_WORTH_A_WORKER, MOST_WORKERS)
    with dataset.open(encoding="utf-8", newline="\n") as lines:
        batches = iter(lambda: list(islice(lines, ROWS_A_BATCH)), [])
        if workers < 2:
            yield from map(_Encoder(tokenizer, job.method, job.eos_ids).table, batches)
            return
        # Spawned, not forked as datasets would: a forked one would hold the locks of this process after its end.
        with WorkerPool(workers, _begin_worker, job.base_model, job.method, job.eos_ids) as pool:
            yield from pool.over(batches, _encode_in_worker)


@dataclass(frozen=True)
class _Encoder:
    """Encodes lines of a dataset."""

    tokenizer: Any
    method: str
    eos_ids: tuple[int, ...]

    def table(self, lines: list[str]) -> Any:
        """An Arrow table of the rows, at least one."""
        import pyarrow

        rows = [encode(self.tokenizer, self.method, json.loads(line), self.eos_ids) for line in lines]
        token_ids = pyarrow.list_(pyarrow.int32())
        columns = {
            "id": pyarrow.array([row.id for row in rows], pyarrow.string()),
            "desirable": pyarrow.array([row.desirable for row in rows], pyarrow.bool_()),
            "prompt_ids": pyarrow.array([row.completions[0].prompt_ids for row in rows], token_ids),
        }
        for place, name in enumerate(REPLIES[: len(rows[0].completions)]):
            columns[name] = pyarrow.array([row.completions[place].reply_ids for row in rows], token_ids)
        return pyarrow.table(columns)


# --- in a worker process ---------------------------------------------------------------------------------------------

_encoder: _Encoder  # set by `_begin_worker`, once in each process


def _begin_worker(base_model: Path, method: str, eos_ids: tuple[int, ...]) -> None:
    global _encoder
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the trainer ends it, after a request to stop too
    go_offline()
    silence()
    from transformers import AutoTokenizer

    _encoder = _Encoder(AutoTokenizer.from_pretrained(base_model), method, eos_ids)


def _encode_in_worker(lines: list[str]) -> Any:
    return _encoder.table(lines)
