"""Scrub a file of documents in this process, in a process pool, or with Ray. Every engine writes the same bytes.

Originals are written to the vault before any scrubbed text is written. A batch is a list of byte offsets of whole case
files. A worker reads the documents, scrubs them together with the canaries and returns the finished JSON lines.
"""

import gc
import importlib.util
import json
import logging
import os
import pickle
import secrets
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, TypeAlias

from sovereign_pipeline.base.errors import PrivacyError, SovereignError, WorkerKilled
from sovereign_pipeline.base.processes import keep_private, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import IDS_IN_A_MESSAGE, Countdown, and_more, counted
from sovereign_pipeline.base.workers import WorkerPool
from sovereign_pipeline.corpus.document import Document, jsonl_line, not_a_document
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.corpus import Corpus, Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import FindingsCache
from sovereign_pipeline.privacy.scrubbing import Findings, Scrubber
from sovereign_pipeline.privacy.vault import MappingDigest, MappingRow, Vault
from sovereign_pipeline.record.stage import Progress

# --- batches ----------------------------------------------------------------------------------------------------------

Batch: TypeAlias = "array[int]"
"""Byte offsets of the rows of whole case files, case by case, in the file of documents."""


@dataclass(frozen=True)
class ScrubJob:
    """The input of a worker."""

    source: Path
    """The file of documents."""
    line: str
    run: str
    """Fingerprint under which originals go to the vault."""
    privacy: Privacy
    treatments: Treatments
    detector: str
    """Digest of the detectors (`detection.detector_digest`)."""
    cache: Path | None
    """Directory of cached findings; None disables the cache."""
    secret: bytes = field(repr=False)
    """Secret under which cached findings are marked."""
    words: WordLists = NO_WORDS
    """Corrections of the findings, from the word lists of the line of adapters."""


@dataclass(frozen=True)
class ScrubbedBatch:
    """The result of scrubbing a batch."""

    lines: list[bytes]
    """Scrubbed documents as JSON lines, in the order of the batch."""
    mapping: list[MappingRow]
    findings: Findings
    stopped: list[tuple[Kind, str]]
    """Kinds that the policy treats with "stop", each with the id of a row that contains the kind."""


class BatchScrubber:
    """A worker's open file, cache and detectors."""

    def __init__(self, job: ScrubJob) -> None:
        self._source = job.source
        self._stream = job.source.open("rb")
        self._cache = FindingsCache(job.cache, job.detector, job.secret) if job.cache is not None else None
        self._scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, self._cache, job.words)

    def close(self) -> None:
        self._stream.close()
        if self._cache is not None:
            self._cache.close()

    def scrub(self, batch: Batch) -> ScrubbedBatch:
        """Scrub a batch. Raises PrivacyError or IntegrityError."""
        cases: dict[str, list[Document]] = {}
        for offset in batch:
            document = self._document_at(offset)
            cases.setdefault(folded(document.case), []).append(document)
        searched_before = self._scrubber.texts_searched
        scrubbed = self._scrubber.scrub(list(cases.values()))
        findings = Findings(searched=self._scrubber.texts_searched - searched_before)
        for before, case in zip(cases.values(), scrubbed, strict=True):
            findings.add(before, case)
        return ScrubbedBatch(
            lines=[jsonl_line(document.model_dump()).encode() for case in scrubbed for document in case.documents],
            mapping=[row for case in scrubbed for row in case.mapping],
            findings=findings,
            stopped=[each for case in scrubbed for each in case.stopped],
        )

    def _document_at(self, offset: int) -> Document:
        self._stream.seek(offset)
        try:
            return Document.model_validate_json(self._stream.readline())
        except ValueError:
            self._stream.seek(0)
            line = self._stream.read(offset).count(b"\n") + 1
            raise not_a_document(self._source, line) from None


# Every batch searches the canaries again, so a batch is large enough to be worth that and small enough for progress.
DOCUMENTS_PER_BATCH = 512
BYTES_WORTH_A_WORKER = 500_000
"""Size of texts that take as long to search as a worker takes to start."""


@dataclass(frozen=True)
class Plan:
    """The batches of a file of documents and the number of workers to start."""

    offsets: "array[int]"
    """Byte offset of every row."""
    cases: int
    """Number of case files."""
    rows_of_batches: list["array[int]"]
    """Row numbers of each batch, case by case."""
    useful_workers: int
    """Number of workers that save more time than their start costs."""

    def batches(self) -> Iterator[Batch]:
        return (array("Q", (self.offsets[row] for row in rows)) for rows in self.rows_of_batches)


def plan_for(job: ScrubJob, progress: Progress) -> Plan:
    """Read the file once and plan its batches.

    Raises PrivacyError for a language without a name detector, and IntegrityError for a row that is not a document.
    """
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    languages: Counter[str] = Counter()
    first_ids: dict[str, list[str]] = {}
    position = 0
    countdown = Countdown(progress, "privacy, reading the corpus", job.source.stat().st_size, "byte")
    with job.source.open("rb") as stream:
        for number, line in enumerate(stream):
            try:
                row = json.loads(line)
                id, case, language = row["id"], row["case"], row["language"]
            except (ValueError, KeyError, TypeError):
                raise not_a_document(job.source, number + 1) from None
            offsets.append(position)
            cases.setdefault(folded(case), array("Q")).append(number)
            languages[language] += 1
            if languages[language] <= IDS_IN_A_MESSAGE:
                first_ids.setdefault(language, []).append(id)
            position += len(line)
            countdown.reached(position)
    _reject_unknown_languages(job, languages, first_ids)
    batches = list(_cut(cases.values()))
    useful = max(1, min(position // BYTES_WORTH_A_WORKER, len(batches)))
    return Plan(offsets, len(cases), batches, useful)


def _reject_unknown_languages(job: ScrubJob, languages: Counter[str], first_ids: Mapping[str, list[str]]) -> None:
    unknown = [
        f"{name} ({counted(rows, 'row')}: {', '.join(first_ids[name])}{', …' if rows > IDS_IN_A_MESSAGE else ''})"
        for name, rows in sorted(languages.items())
        if name not in job.privacy.detected
    ]
    if unknown:
        raise PrivacyError(
            f"Line {job.line}: no name detector for language {', '.join(unknown)}.",
            "Name a model under privacy.name_models, accept patterns alone under privacy.patterns_only, or leave these "
            "rows out with `exclude`.",
        )


def _cut(cases: Iterable["array[int]"]) -> Iterator["array[int]"]:
    """Yield the rows of whole case files in batches."""
    batch = array("Q")
    for rows in cases:
        batch += rows
        if len(batch) >= DOCUMENTS_PER_BATCH:
            yield batch
            batch = array("Q")
    if batch:
        yield batch


# --- a whole file -----------------------------------------------------------------------------------------------------


def scrub_file(job: ScrubJob, target: Path, vault: Vault, corpus: Corpus, progress: Progress) -> Findings:
    """Scrub a file of documents case by case, and write the documents in their original order.

    Memory use is a few batches and a few integers per row. Raises PrivacyError. If the policy stops at a kind, nothing
    is written.
    """
    plan = plan_for(job, progress)
    progress(f"privacy: {counted(len(plan.offsets), 'document')} in {counted(plan.cases, 'case file')}")
    with (
        choose_engine(job, corpus, plan.useful_workers, progress) as engine,
        tempfile.TemporaryFile(dir=target.parent) as aside,
    ):
        if "stop" in job.treatments.values():
            _reject_stopped_rows(job.line, _scrubbed(job, plan, engine, progress, "looking for what stops the line"))
        findings, digest = Findings(), MappingDigest()
        places = array("Q", bytes(8 * len(plan.offsets)))
        batches = _scrubbed(job, plan, engine, progress, "scrubbing")
        for rows, batch in zip(plan.rows_of_batches, batches, strict=True):
            # Write originals to the vault before the scrubbed text.
            vault.add(job.line, batch.mapping)
            digest.add(batch.mapping)
            for row, line in zip(rows, batch.lines, strict=True):
                places[row] = aside.tell()
                aside.write(line)
            findings.merge(batch.findings)
        _write_in_order(aside, places, target, progress)
    return replace(findings, mapping_sha256=digest.value)


Engine = Callable[[Iterator[Batch]], Iterator[ScrubbedBatch]]
"""Function that scrubs batches and yields the results in order. It can be called several times. Raises PrivacyError,
and WorkerKilled."""


def choose_engine(
    job: ScrubJob, corpus: Corpus, useful_workers: int, progress: Progress
) -> AbstractContextManager[Engine]:
    """Return the engine: Ray if `corpus.engine` says so, otherwise a process pool, or this process if one worker is
    enough.

    Args:
        useful_workers: number of workers that save more time than their start costs.
    """
    workers = corpus.workers or len(os.sched_getaffinity(0))
    if corpus.engine == "ray":
        return ray_actors(job, workers, progress)
    workers = min(workers, useful_workers)
    return process_pool(job, workers) if workers > 1 else this_process(job)


def _scrubbed(job: ScrubJob, plan: Plan, engine: Engine, progress: Progress, work: str) -> Iterator[ScrubbedBatch]:
    countdown = Countdown(progress, f"privacy, {work}", len(plan.offsets), "document")
    done = 0
    try:
        for batch in engine(plan.batches()):
            yield batch
            done += batch.findings.documents
            countdown.reached(done)
    except WorkerKilled as killed:
        raise PrivacyError(
            killed.message,
            "Lower corpus.workers in the recipe, and run the line again.",
            act="run_line",
            line=job.line,
        ) from None


def _reject_stopped_rows(line: str, scrubbed: Iterator[ScrubbedBatch]) -> None:
    rows: dict[Kind, set[str]] = {}
    for batch in scrubbed:
        for kind, row in batch.stopped:
            rows.setdefault(kind, set()).add(row)
    if not rows:
        return
    held = "; ".join(
        f"{kind} in {counted(len(ids), 'row')}: {and_more(sorted(ids))}" for kind, ids in sorted(rows.items())
    )
    raise PrivacyError(
        f"Line {line}: the institution's policy stops the line at {held}. Nothing was written.",
        "Leave these rows out of the source with `exclude`, or change `sensitive` in institution.yaml.",
    )


def _write_in_order(aside: IO[bytes], places: "array[int]", target: Path, progress: Progress) -> None:
    """Copy the lines of one file to another, in the order of their rows.

    Args:
        places: byte offset of each row's line.
    """
    countdown = Countdown(progress, "privacy, writing the corpus", len(places), "document")
    with target.open("wb") as stream:
        for row, place in enumerate(places):
            aside.seek(place)
            stream.write(aside.readline())
            countdown.reached(row)


# --- processes of this machine ----------------------------------------------------------------------------------------


@contextmanager
def this_process(job: ScrubJob) -> Iterator[Engine]:
    """Scrub batches one after the other in the calling process."""
    with closing(BatchScrubber(job)) as scrubber:
        yield partial(map, scrubber.scrub)


@contextmanager
def process_pool(job: ScrubJob, workers: int) -> Iterator[Engine]:
    """Run worker processes, which end with this process."""
    with WorkerPool(workers, _begin_worker, job) as pool:
        yield partial(pool.over, work=_scrub_in_worker)


_job: ScrubJob  # set by `_begin_worker`, once in each process


def _begin_worker(job: ScrubJob) -> None:
    global _job
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a worker already
    silence()
    _job = job


@cache
def _worker() -> BatchScrubber:
    """Create the worker's scrubber with the first batch. An error at the start of the process would only break the
    pool."""
    scrubber = BatchScrubber(_job)
    gc.freeze()  # the loaded models stay; collecting them again and again costs a sixth of the time
    return scrubber


def _scrub_in_worker(batch: Batch) -> ScrubbedBatch:
    return _worker().scrub(batch)


# --- Ray --------------------------------------------------------------------------------------------------------------

OBJECT_STORE_BYTES = 256 * 1024 * 1024
SECONDS_TO_START = 600
"""Timeout for the start of Ray's processes, which is slow on a busy machine. Ray's default is 30 s, without a
setting."""
SECONDS_BETWEEN_MESSAGES = 15
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def ray_actors(job: ScrubJob, workers: int, progress: Progress) -> Iterator[Engine]:
    """Run Ray actors, on the cluster at RAY_ADDRESS or on a local Ray that only this process can use and that stops
    with it.

    Raises PrivacyError if Ray is not installed, was imported before it could be restricted to this process, or does not
    start.
    """
    if importlib.util.find_spec("ray") is None:
        raise PrivacyError(
            "corpus.engine is 'ray', but Ray is not installed.",
            "Run `pip install 'sovereign-pipeline[ray]'` from the institution's own package mirror, or set "
            "corpus.engine to 'processes'.",
        )
    # Ray reads these while it is imported, and so do the processes it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("RAY_worker_register_timeout_seconds", str(SECONDS_TO_START))
    os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", str(SECONDS_TO_START))
    if not os.environ.get("RAY_ADDRESS"):
        _close_to_others()
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:  # short, for its sockets
        try:
            _start(ray, workers, scratch, progress)
            yield partial(_scrub_by_ray, ray, job, workers)
        finally:
            ray.shutdown()


def _scrub_by_ray(ray: Any, job: ScrubJob, workers: int, batches: Iterator[Batch]) -> Iterator[ScrubbedBatch]:
    rows = [{"batch": pickle.dumps(batch)} for batch in batches]
    scrubbed = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
        _Actor, fn_constructor_args=(job,), compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1
    )
    try:
        for row in scrubbed.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, SovereignError):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        raise WorkerKilled(
            f"Ray ended the scrubbing with {type(error).__name__}, most often because an actor was killed when memory "
            f"ran out. No result was stored."
        ) from None


class _Actor:
    """A Ray worker. It returns errors as values, because Ray would report them with a traceback that may quote a
    text."""

    def __init__(self, job: ScrubJob) -> None:
        keep_private()
        go_offline()
        os.environ["OMP_NUM_THREADS"] = "1"
        self._scrubber = BatchScrubber(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: ScrubbedBatch | SovereignError = self._scrubber.scrub(pickle.loads(row["batch"]))
        except SovereignError as error:
            result = error
        return {"result": pickle.dumps(result)}


def _close_to_others() -> None:
    """Set the variables that Ray reads at import, so that a local Ray listens on loopback only and requires a token.

    Ray executes any code that it receives, and listens on every interface. It replaces the address 127.0.0.1 by the
    machine's own address, unless `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` is "0". Other accounts of the machine can still
    connect to loopback, hence the token.
    """
    closed = os.environ.get(NO_CLUSTER) == "0" and os.environ.get("RAY_AUTH_MODE") == "token"
    if "ray" in sys.modules and not closed:
        raise PrivacyError(
            "corpus.engine is 'ray', and Ray was imported in this process before it could be closed to others.",
            "Run the step in a process of its own, as the Dagster UI does.",
        )
    os.environ[NO_CLUSTER] = "0"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@contextmanager
def patience(ray: Any, progress: Progress) -> Iterator[None]:
    """Make Ray wait up to `SECONDS_TO_START` for the node that it starts, and report progress.

    Ray 2.60 calls `ray._private.services.get_node`, which raises RuntimeError until the node exists, and gives up after
    30 s (`Node.__init__` in `ray/_private/node.py`).
    """
    services = ray._private.services
    look = services.get_node
    begun = told = time.monotonic()

    def get_node(*of: Any, **named: Any) -> Any:
        nonlocal told
        while True:
            try:
                return look(*of, **named)
            except RuntimeError:
                now = time.monotonic()
                if now - begun > SECONDS_TO_START:
                    raise
                if now - told > SECONDS_BETWEEN_MESSAGES:
                    told = now
                    progress(f"privacy: Ray is starting, {now - begun:.0f} s of {SECONDS_TO_START} s at most")
                time.sleep(0.5)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = look


def _start(ray: Any, workers: int, scratch: str, progress: Progress) -> None:
    local = {
        "address": "local",
        "num_cpus": workers,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "logging_level": "ERROR",
        "_temp_dir": scratch,
    }
    address = os.environ.get("RAY_ADDRESS")
    try:
        with patience(ray, progress):
            ray.init(log_to_driver=False, **({} if address else local))
    except Exception as error:  # Ray raises a bare Exception if its processes start slowly; no text is loaded yet
        failed = f"Ray at {address} could not be reached" if address else "A local Ray did not start"
        raise PrivacyError(
            f"{failed} ({str(error).splitlines()[0]}).",
            "Run again when the machine is less busy, or set corpus.engine to 'processes', which gives the same bytes.",
        ) from error
