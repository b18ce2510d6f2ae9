"""Files of documents scrubbed in a directory of a test, by this process or by a program that imports this module."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Corpus, Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.privacy import engines
from sovereign_pipeline.privacy.case_files import Findings
from sovereign_pipeline.privacy.engines import ScrubJob, scrub_file
from sovereign_pipeline.privacy.vault import MappingRow, Vault, read_vault
from sovereign_pipeline_tests.privacy.conftest import document

PATTERNS = Privacy(name_models={}, patterns_only=("en", "ar"))
IDENTITY = pyrage.x25519.Identity.generate()


def job_for(directory: Path, treatments: Treatments | None = None, cache: str | None = "cache") -> ScrubJob:
    return ScrubJob(
        source=directory / "in.jsonl",
        line="lamps",
        run="run",
        privacy=PATTERNS,
        treatments=treatments or {},
        detector="d" * 64,
        cache=directory / cache if cache is not None else None,
        secret=bytes(32),
    )


def vault_in(directory: Path) -> Vault:
    return Vault(directory / "vault", str(IDENTITY.to_public()))


def mapping(directory: Path) -> list[MappingRow]:
    return [row for _, rows in read_vault(directory / "vault", str(IDENTITY)) for row in rows]


def scrub_in(directory: Path, corpus: Corpus | None = None, **changes: Any) -> Findings:
    job = job_for(directory, **changes)
    return scrub_file(job, directory / "out.jsonl", vault_in(directory), corpus or Corpus(), lambda message: None)


def demonstration() -> Iterator[Document]:
    """The letters of the demonstration institution, in both scripts, as far as they are whole."""
    for file in sorted((PROJECT_ROOT / "data" / "sources").glob("*/*.jsonl")):
        for number, line in enumerate(file.read_bytes().splitlines()):
            try:
                row = json.loads(line)
                yield document(
                    row["letter"],
                    id=f"{file.parent.name}-{number}",
                    case=row["case"],
                    author=row["author"],
                    date=row["date"],
                    language=row["language"],
                    response=row.get("reply") or row["chosen"],
                    rejected=row.get("rejected"),
                )
            except (ValueError, KeyError):
                continue


Result = tuple[bytes, dict[str, Any], list[MappingRow]]


def result_of(directory: Path, corpus_file: Path, corpus: Corpus, **changes: Any) -> Result:
    """All that a scrubbing leaves: its text, its findings, and the rows of the vault."""
    directory.mkdir(exist_ok=True)
    (directory / "in.jsonl").write_bytes(corpus_file.read_bytes())
    findings = scrub_in(directory, corpus, **changes)
    rows = sorted(mapping(directory), key=lambda row: (row.case, row.row, row.field))
    return (directory / "out.jsonl").read_bytes(), findings.to_json("run"), rows


def write_result(directory: Path, corpus_file: Path, corpus: Corpus) -> None:
    """What a process of its own does with the file; its parent reads `result`."""
    engines.BYTES_WORTH_A_WORKER, engines.DOCUMENTS_PER_BATCH = 1, 64
    text, findings, rows = result_of(directory, corpus_file, corpus)
    (directory / "result").write_bytes(pickle.dumps((text, findings, rows)))


def of_no_cluster() -> dict[str, str]:
    """The environment of a process that was told nothing of a Ray."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH_"))}
    return {**others, "PYTHONPATH": str(PROJECT_ROOT)}


def scrub_without_identity(directory: Path, public_key: str) -> None:
    scrub_file(
        job_for(directory),
        directory / "out.jsonl",
        Vault(directory / "vault", public_key),
        Corpus(),
        lambda message: None,
    )
