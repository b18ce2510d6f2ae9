"""The ledger with many entries: appended in bulk, appended one by one, and verified, with time and peak memory.

    python -m benchmarks.registry.ledger --entries 1000000 [--url postgresql://…]

The entries are invented, of the size of a review's acts. Verifying is `sovereign audit verify` in a process of its own.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import run, say
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.audit_log import LAST, SEALED, append
from sovereign_pipeline.record.database import Registry, open_registry

ONE_BY_ONE = 200
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SOVEREIGN = ("-c", "from sovereign_pipeline.cli.main import main; main()")


def append_in_bulk(registry: Registry, count: int) -> None:
    """Append a hash chain in one act: nine of ten entries are about sealed artifacts, as in a registry that trains."""
    with registry.writing() as session:
        last = session.info[LAST]
        for number in range(tree.size_of(session) + 1, count + 1):
            about = {"lamp": f"lamps-{number % 1000}", "pair": number, "digest": digest_of(number)}
            content: dict[str, Any] = {
                "sequence": number,
                "at": (START + datetime.timedelta(seconds=number)).isoformat(timespec="microseconds"),
                "actor": f"operator-{number % 40}",
                "action": "answer drawn" if number % 10 == 0 else SEALED,
                "subjects": about,
                "previous": last,
            }
            last = digest_of(content)
            tree.append(session, canonical_json({**content, "hash": last}))


def one_by_one(registry: Registry) -> float:
    """Milliseconds of the processor an act."""
    started = time.process_time()
    for number in range(ONE_BY_ONE):
        with registry.writing() as session:
            append(session, "officer", "lamp lit", {"lamp": number, "digest": "d" * 64})
    return (time.process_time() - started) / ONE_BY_ONE * 1000


def filled(settings: Settings, entries: int) -> tuple[float, float]:
    """Fill a registry. Returns seconds of the bulk, and milliseconds of the processor that one act takes."""
    registry, started = open_registry(settings), time.monotonic()
    append_in_bulk(registry, entries)
    bulk = time.monotonic() - started
    milliseconds = one_by_one(registry)
    registry.engine.dispose()
    return bulk, milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a large ledger.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--url", help="An empty database; else SQLite in a temporary directory.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = {"registry_url": given.url} if given.url else {}
        settings = Settings(home=Path(directory) / "home", data=Path(directory) / "data", **url)
        say(f"appending {given.entries:,} entries in bulk")
        # In a process of its own: a child's peak memory begins with that of the process that starts it.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            bulk, milliseconds = pool.submit(filled, settings, given.entries).result()
        say("verifying")
        environment = {VARIABLES[field]: settings.to_environment()[VARIABLES[field]] for field in VARIABLES}
        used = run([*SOVEREIGN, "audit", "verify"], environment)
        size = sum(file.stat().st_size for file in settings.home.glob("registry.db*"))
    result = {
        "entries": given.entries + ONE_BY_ONE,
        "database": "PostgreSQL" if given.url else "SQLite",
        "database_mib": round(size / (1 << 20)) or None,
        "bulk_seconds": round(bulk, 1),
        "act_cpu_milliseconds": round(milliseconds, 1),
        "verify_seconds": round(used["whole_seconds"], 1),
        "verify_cpu_seconds": round(used["cpu_seconds"], 1),
        "verify_peak_mib": round(used["peak_bytes"] / (1 << 20)),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
