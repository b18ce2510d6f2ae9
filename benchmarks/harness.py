"""What the benchmarks share: processes with their usage, cells that are kept, rounds in alternation, ratios, machine
facts, results.

What belongs here: measuring and writing, for any benchmark. What does not: what is compared. Only the standard library
is imported at the top, since `benchmarks/gpu` runs where little else is installed.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sovereign_pipeline.base.settings import Settings

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def say(message: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def base_model(name: str) -> Path:
    """The directory of a fetched base model. Ends the program when it is not there."""
    from sovereign_pipeline.base.settings import Settings

    model = Settings.from_environment().models / name
    if not (model / "model.safetensors").is_file():
        sys.exit(f"{model}: the base model is not there. Run `sovereign models fetch {name}`.")
    return model.resolve()


def trust_demonstration(settings: "Settings") -> None:
    """Give a benchmark's home keys of its own: every artifact is signed."""
    from sovereign_pipeline.record.officers import TRUST
    from sovereign_pipeline.record.trust_changes import demonstration_trust

    demonstration_trust(settings.data / TRUST, settings.keys)


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run a Python script or module offline. Its output is dropped, unless it fails: then it ends the program.

    Returns whole_seconds, cpu_seconds, and peak_bytes: the highest resident memory of any one of its processes.
    """
    from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT

    variables = {**os.environ, **OFFLINE_ENVIRONMENT, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=variables
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-4000:])
            sys.exit(f"{command[0]} ended with status {process.returncode}.")
    return {
        "whole_seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }


class Cells:
    """Measurements that are kept one by one: a benchmark that was interrupted measures what is missing."""

    def __init__(self, directory: Path, scripts: Sequence[Path], libraries: Mapping[str, str]) -> None:
        """scripts: whose content decides a figure, beside the package. A cell of other ones is measured again."""
        from sovereign_pipeline.base.files import file_sha256
        from sovereign_pipeline.record.stage import source_digest

        self.directory = directory
        self.kept: list[str] = []
        """Cells of an earlier run that were taken."""
        machine = machine_facts()
        self._facts = {
            "package": source_digest(),
            "scripts": {script.name: file_sha256(script) for script in scripts},
            "libraries": dict(libraries),
            "machine": {name: machine[name] for name in ("processor", "cores", "python")},
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }

    def result(
        self, name: str, facts: Mapping[str, Any], measure: Callable[[Path], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The result of a cell: the kept one, if its facts are these, or what `measure` returns for an empty directory.

        The directory stays, so that later cells can use what lies in it.
        """
        place = self.directory / name
        file = place / "cell.json"
        known = json.loads(json.dumps({**self._facts, **facts}))
        if file.is_file():
            kept = json.loads(file.read_bytes())
            if kept["facts"] == known:
                found: dict[str, Any] = kept["result"]
                self.kept.append(name)
                say(f"{name}: kept from an earlier run")
                return found
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        say(name)
        result: dict[str, Any] = json.loads(json.dumps(measure(place)))
        aside = place / "cell.part"
        aside.write_text(json.dumps({"facts": known, "result": result}) + "\n", encoding="utf-8")
        aside.rename(file)
        return result


def alternating(rounds: int, arms: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The number of each round, from 0, and the arms in its order, which is reversed in every second round."""
    for number in range(rounds):
        yield number, arms if number % 2 == 0 else arms[::-1]


def ratios(
    rounds: Sequence[Mapping[str, Any]], numerator: str, denominator: str, fields: Sequence[str]
) -> dict[str, list[float]]:
    """Field -> one arm's figure over the other's, in each round."""
    return {field: [each[numerator][field] / each[denominator][field] for each in rounds] for field in fields}


def spread(values: Sequence[float]) -> str:
    """`median (lowest to highest)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine_facts() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def machine_line(result: Mapping[str, Any]) -> str:
    """The `machine` and the `libraries` of a result in one sentence; another one for cells of an earlier run."""
    machine, kept = result["machine"], result.get("kept_cells")
    versions = ", ".join(f"{name} {version}" for name, version in result["libraries"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores (load before the start {machine['load_before']:.1f}), "
        f"Python {machine['python']}; {versions}."
    ) + (f" Of an earlier run, whose load is not stated: {len(kept)} of the measurements." if kept else "")


def write_json(out: Path, name: str, result: Any) -> None:
    """`NAME.json`, in a directory that may not be there yet."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def write_result(out: Path, name: str, result: Mapping[str, Any], markdown: str) -> None:
    """`NAME.json` and `NAME.md`."""
    write_json(out, name, result)
    (out / f"{name}.md").write_text(markdown, encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
