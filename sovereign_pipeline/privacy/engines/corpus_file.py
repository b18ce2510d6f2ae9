"""Scrubbing a file of documents into another, in the same order, with the originals in the vault.

What belongs here: what is written and when, and the policy that stops before anything is. What does not: who works
(`engine.py`), how the file is cut (`planning.py`), scrubbing itself (`privacy/scrubbing.py`).
"""

import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.text import Countdown, and_more, counted
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.engines.batches import ScrubbedBatch, ScrubJob
from sovereign_pipeline.privacy.engines.engine import Engine, choose_engine
from sovereign_pipeline.privacy.engines.planning import Plan, plan_for
from sovereign_pipeline.privacy.findings import Findings
from sovereign_pipeline.privacy.vault.mapping import MappingDigest
from sovereign_pipeline.privacy.vault.vault import Vault


def scrub_file(job: ScrubJob, target: Path, vault: Vault, corpus: Corpus, progress: Progress) -> Findings:
    """Scrub a file of documents case by case and write the same documents in the same order.

    Memory holds a few batches of case files and a few integers for each row. Raises PrivacyError; when the policy
    stops, nothing was written at all.
    """
    plan = plan_for(job, progress)
    progress(f"privacy: {counted(plan.documents, 'document')} in {counted(len(plan.index.cases), 'case file')}")
    with (
        choose_engine(job, corpus, plan.useful_workers, progress) as engine,
        tempfile.TemporaryFile(dir=target.parent) as aside,
    ):
        if "stop" in job.treatments.values():
            _refuse_stopped_rows(
                job.line, _scrubbed(plan, engine, progress, "privacy, looking for what stops the line")
            )
        findings, digest = Findings(), MappingDigest()
        places = array("Q", bytes(8 * plan.documents))
        for number, batch in _scrubbed(plan, engine, progress, "privacy, scrubbing"):
            # Originals are in the vault before their text is written.
            vault.add(job.line, batch.mapping)
            digest.add(batch.mapping)
            rows = (row for case in plan.rows_of_batches[number] for row in case)
            for row, line in zip(rows, batch.lines, strict=True):
                places[row] = aside.tell()
                aside.write(line)
            findings.add(batch.findings)
        _write_in_order(aside, places, target, progress)
    return replace(findings, mapping_sha256=digest.value)


def _scrubbed(plan: Plan, engine: Engine, progress: Progress, work: str) -> Iterator[tuple[int, ScrubbedBatch]]:
    countdown = Countdown(progress, work, plan.documents, "document")
    done = 0
    for number, batch in engine.scrub(plan.batches()):
        yield number, batch
        done += batch.findings.documents
        countdown.reached(done)


def _refuse_stopped_rows(line: str, scrubbed: Iterator[tuple[int, ScrubbedBatch]]) -> None:
    rows: dict[Kind, set[str]] = {}
    for _, batch in scrubbed:
        for kind, row in batch.stopped:
            rows.setdefault(kind, set()).add(row)
    if not rows:
        return
    held = "; ".join(
        f"{kind} in {counted(len(ids), 'row')}: {and_more(sorted(ids))}" for kind, ids in sorted(rows.items())
    )
    raise PrivacyError(
        f"Line {line}: the institution's policy stops at {held}. Nothing was written.",
        "Leave these rows out of the source with `exclude`, or change `sensitive` in institution.yaml.",
    )


def _write_in_order(aside: IO[bytes], places: "array[int]", target: Path, progress: Progress) -> None:
    """Copy the lines of a file to another in the order of their rows.

    Args:
        places: byte offset of each row's line.
    """
    countdown = Countdown(progress, "privacy, writing the corpus", len(places), "document")
    with target.open("wb") as stream:
        for row, place in enumerate(places):
            aside.seek(place)
            stream.write(aside.readline())
            countdown.reached(row)
