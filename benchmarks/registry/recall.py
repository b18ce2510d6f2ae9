"""How long a question of a recall takes on a large registry: 10,000 adapters, 2,000 datasets, 10 million references.

    python -m benchmarks.registry.recall [--rows 5000] [--postgresql URL]

The registry is made by the program in a temporary directory, filled with invented rows, and asked through the
functions that `sovereign recall` calls. PostgreSQL is measured where the URL of an empty database is given.
"""

import argparse
import datetime
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine_facts, say
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import contents_of, enter_adapter
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.keys import read_key
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.tables import (
    Adapter,
    BaseModelRow,
    Dataset,
)
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline.release.recall import Question, ask, open_recall, open_recalls, recalls_in_force

ADAPTERS, DATASETS, DOCUMENTS, BASE_MODELS, SOURCES = 10_000, 2_000, 1_000_000, 5, 40
IN_ALL = 1
"""The document of which every dataset has a row."""
IN_FEW = 500_000
"""A document of which at least every 200th dataset has one."""
_TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
JSON_OF_A_ROW = {"gate": "x" * 90, "digest": "y" * 64}
"""Thirty of these an adapter, as the gates' records of a real one."""


def digest(kind: str, number: int) -> str:
    return f"{kind}{number:010d}".encode().hex().ljust(64, "0")[:64]


def fill(registry: Registry, rows: int) -> None:
    """Enter invented adapters, each with two datasets of so many rows."""
    started = time.monotonic()
    digests = [""] * DATASETS
    with registry.writing() as session:
        session.add_all(BaseModelRow(**_base_model(number)) for number in range(BASE_MODELS))
        session.add_all(Dataset(**_dataset(number)) for number in range(DATASETS))
        session.flush()
        drawn = np.random.default_rng(7)
        for number in range(ADAPTERS):
            adapter = Adapter(**_adapter(number))
            session.add(adapter)
            new = []
            if number < DATASETS:
                documents = {*map(int, drawn.choice(DOCUMENTS - 1, rows - 2, replace=False) + 2), IN_ALL}
                documents |= {IN_FEW} if number % 200 == 0 else set()
                new = [contents_of([f"R-{each:07d}" for each in documents], [f"source-{number % SOURCES}"])]
                digests[number] = hashlib.sha256(new[0]).hexdigest()
            own, parent = number % DATASETS, max(number % DATASETS - 1, 0)
            on = {digest("d", each): {"directly": each == own, "contents": digests[each]} for each in (own, parent)}
            stated = {"datasets": on, "base_models": {digest("b", number % BASE_MODELS): True}}
            enter_adapter(session, adapter, "pipeline", stated, new)
    say(f"{ADAPTERS:,} adapters in {time.monotonic() - started:.0f} s")


def questions(registry: Registry) -> dict[str, Callable[[], int]]:
    """What is asked -> a function that asks it and returns how many adapters the answer names."""

    def asked(**given: str) -> Callable[[], int]:
        return lambda: len(ask(registry, Question(**given)).holders)

    def of_one_adapter() -> int:
        with registry.reading() as session:
            return len(open_recalls(session, registry.settings, _id(0)))

    def of_all() -> int:
        with registry.reading() as session:
            return len(recalls_in_force(session, registry.settings))

    return {
        "a document": asked(document=f"R-{IN_FEW:07d}"),
        "a document of a source": asked(document=f"R-{IN_FEW:07d}", source="source-0"),
        "a document that is nowhere": asked(document="R-none"),
        "a document of every dataset": asked(document=f"R-{IN_ALL:07d}"),
        "a source": asked(source="source-7"),
        "a dataset": asked(dataset=digest("d", 700)),
        "a base model": asked(base_model=digest("b", 3)),
        "the recalls of one adapter": of_one_adapter,
        "every recall in force": of_all,
    }


def measure(registry: Registry, repeats: int) -> list[tuple[str, int, float, float, float]]:
    """What was asked, adapters named, and milliseconds: median, slowest, of the processor."""
    settings = registry.settings
    demonstration_trust(settings.data / TRUST, settings.keys)
    officer = read_key(settings.keys / "officer-1.key", lambda: "")
    open_recall(registry, ask(registry, Question(document=f"R-{IN_FEW:07d}")), officer, "Benchmark.")
    measured = []
    for what, question in questions(registry).items():
        question()
        wall, used = [], []
        for _ in range(repeats):
            started, cpu = time.perf_counter(), time.process_time()
            named = question()
            wall.append((time.perf_counter() - started) * 1000)
            used.append((time.process_time() - cpu) * 1000)
        measured.append((what, named, statistics.median(wall), max(wall), statistics.median(used)))
    return measured


def _base_model(number: int) -> dict[str, Any]:
    return {"digest": digest("b", number), "name": f"base-{number}", "licence": "none", "files": []}


def _dataset(number: int) -> dict[str, Any]:
    return {
        "digest": digest("d", number),
        "manifest_sha256": digest("m", number),
        "kind": "training_dataset",
        "line": f"line-{number % 100}",
        "rows": 5_000,
        "file_sha256": digest("f", number),
        "classification": "INTERNAL",
        "sources": [],
        "created_at": _TIME,
        "rows_held_out": 500,
        "by_classification": {"INTERNAL": 5_000},
        "tokens": {},
        "findings": {},
        "card_sha256": digest("c", number),
    }


def _adapter(number: int) -> dict[str, Any]:
    line, version = f"line-{number % 100}", f"1.{number // 100}.0"
    return {
        "id": _id(number),
        "line": line,
        "version": version,
        **{name: digest(name[:1], number) for name in _DIGESTS},
        "dataset_digest": digest("d", number % DATASETS),
        "base_model": f"base-{number % BASE_MODELS}",
        "base_model_digest": digest("b", number % BASE_MODELS),
        "framework_versions": {"torch": "2.13.0"},
        "classification": "INTERNAL",
        "evaluation": {"held": JSON_OF_A_ROW},
        "method": "sft-lora",
        "review_date": _TIME.date(),
        "registered_at": _TIME,
        "code_version": "1",
        "gate_records": [JSON_OF_A_ROW] * 30,
    }


_DIGESTS = (
    *("adapter_digest", "adapter_sha256", "manifest_sha256", "record_digest", "record_manifest_sha256"),
    *("evaluation_report_digest", "source_sha256"),
)


def _id(number: int) -> str:
    return f"line-{number % 100}-1.{number // 100}.0"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=5_000, help="rows of each of the 2,000 datasets")
    arguments.add_argument("--repeats", type=int, default=11)
    arguments.add_argument("--postgresql", help="URL of an empty database")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as root:
        urls = {"SQLite": f"sqlite:///{Path(root) / 'registry.db'}"}
        if given.postgresql:
            urls["PostgreSQL"] = given.postgresql
        machine = machine_facts()
        for name, url in urls.items():
            settings = Settings(home=Path(root), data=Path(root), registry_url=url)
            registry = open_registry(settings)
            fill(registry, given.rows)
            size = "" if name != "SQLite" else f", {(Path(root) / 'registry.db').stat().st_size / 1e6:,.0f} MB"
            out = [
                f"{name}: {ADAPTERS:,} adapters, {DATASETS * given.rows:,} references{size}; "
                f"load {os.getloadavg()[0]:.1f}",
                "",
                "| question | adapters | median ms | slowest ms | CPU ms |",
                "|---|---|---|---|---|",
            ]
            for what, named, median, slowest, used in measure(registry, given.repeats):
                out.append(f"| {what} | {named:,} | {median:.1f} | {slowest:.1f} | {used:.1f} |")
            sys.stdout.write("\n".join([*out, "", f"{machine['processor']}, {machine['cores']} cores", ""]) + "\n")


if __name__ == "__main__":
    main()
