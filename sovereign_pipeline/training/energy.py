"""Measure the energy of a training with the energy counters of its devices. Without counters, estimate it as the power
stated in institution.yaml times the duration.

A GPU's counter is NVML's `nvmlDeviceGetTotalEnergyConsumption` (Volta or newer). It is read from the driver's own
library through ctypes, because only three functions are needed. The package `nvidia-ml-py` binds the whole library and
is released with each driver. Processors and memory have RAPL's counters in /sys/class/powercap. Only root can read
RAPL's counters (CVE-2020-8694), unless an administrator allows other users. Counters cover a whole device, including
other programs on it. Counters exclude fans, disks, losses of the power supply, and cooling.

Each process of a training writes a record of its energy beside the checkpoints, every `SECONDS`. A resumed training
adds up the records of all its processes, so a repeated step counts each time. If a process is killed, at most its last
`SECONDS` are missing.
"""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.training.job import TrainingJob, mark_of

SECONDS = 20.0
"""Seconds between two readings. RAPL's counters of a busy server wrap after some minutes at the earliest."""
POWERCAP = Path("/sys/class/powercap")
NVML_LIBRARY = "libnvidia-ml.so.1"
JOULES_A_KWH = 3.6e6
MOST_JOULES = 1e15
"""Maximum plausible energy of a record, in joules."""
DOMAINS = ("package", "dram")
"""Name prefixes of the RAPL domains that are added up. Other domains would count twice: cores belong to a package, and
`psys` is the whole platform."""


class Counter(Protocol):
    """A counter of the energy that a device uses."""

    name: str

    def joules(self) -> float:
        """Return the energy in joules since the previous call, or since the counter was created."""


class Rapl:
    """The energy counter of a RAPL domain. The counter wraps to zero at its maximum."""

    def __init__(self, domain: Path) -> None:
        self.name = f"RAPL {(domain / 'name').read_text().strip()}"
        self._file = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text()) + 1
        self._last = int(self._file.read_text())

    def joules(self) -> float:
        now, before = int(self._file.read_text()), self._last
        self._last = now
        return ((now - before) % self._range) / 1e6


class Nvml:
    """The energy counter of an NVIDIA GPU, read through NVML."""

    def __init__(self, library: Any, uuid: str) -> None:
        self.name = "NVML of the GPU"
        self._library, self._device = library, ctypes.c_void_p()
        _succeed("nvmlInit_v2", library.nvmlInit_v2())
        found = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._device))
        _succeed("nvmlDeviceGetHandleByUUID", found)
        self._last = self._millijoules()

    def _millijoules(self) -> int:
        total = ctypes.c_ulonglong()
        found = self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(total))
        _succeed("nvmlDeviceGetTotalEnergyConsumption", found)
        return total.value

    def joules(self) -> float:
        now, before = self._millijoules(), self._last
        self._last = now
        return (now - before) / 1e3


def _succeed(function: str, status: int) -> None:
    if status != 0:
        raise OSError(f"{function} returned {status}")


class Stated:
    """A counter that multiplies the power in `institution.yaml` by the elapsed time."""

    def __init__(self, watts: float, now: Callable[[], float] = time.monotonic) -> None:
        self.name = f"stated {watts:g} W a device"
        self._watts, self._now = watts, now
        self._last = now()

    def joules(self) -> float:
        now, before = self._now(), self._last
        self._last = now
        return (now - before) * self._watts


@dataclass(frozen=True)
class Counters:
    """The energy counters that one process of a training reads."""

    counters: Sequence[Counter]
    missing: str = ""
    """Reason why there are no counters."""

    @property
    def source(self) -> str:
        return ", ".join(each.name for each in self.counters)


def counters_of(gpu: str | None, watts: float | None, powercap: Path, is_first_here: bool = True) -> Counters:
    """Return the energy counters of the training's device. Without counters, return the stated power; without a stated
    power, return no counters and the reason.

    Args:
        gpu: UUID of this process's GPU; None if it trains on the processor.
        is_first_here: True for one process of each machine. Only that process counts the machine's processors.
    """
    of_machine, why = _rapl(powercap) if is_first_here else ([], "")
    if gpu is None and (of_machine or not is_first_here):
        return Counters(of_machine)
    if gpu is not None:
        try:
            return Counters([Nvml(ctypes.CDLL(NVML_LIBRARY), gpu), *of_machine])
        except (OSError, AttributeError) as error:  # no such library, function, or counter of this GPU
            why = f"the GPU has no counter that can be read ({type(error).__name__}: {error})"
    if watts is not None:
        return Counters([Stated(watts)])
    return Counters([], f"{why}, and institution.yaml states no device_watts")


def _rapl(powercap: Path) -> tuple[list[Counter], str]:
    """Return RAPL's counters, and an empty reason; or no counters, and the reason."""
    domains = [each for each in sorted(powercap.glob("intel-rapl:*")) if (each / "energy_uj").exists()]
    try:
        named = [each for each in domains if (each / "name").read_text().startswith(DOMAINS)]
        found: list[Counter] = [Rapl(each) for each in named]
    except (OSError, ValueError) as error:  # PermissionError, unless this is root or an administrator allows access
        return [], f"the energy counters in {powercap} cannot be read ({type(error).__name__})"
    return found, "" if found else f"there are no energy counters in {powercap}"


@dataclass
class Piece:
    """The energy that one process of a training has used since its start."""

    source: str
    missing: str
    joules: float = 0.0
    ended: bool = False
    """False if the process was killed or still runs."""


@dataclass(frozen=True)
class Energy:
    """The energy of a whole training."""

    kilowatt_hours: float | None
    source: str
    """Source of the figure, or the reason why there is no figure."""

    @property
    def measured(self) -> dict[str, float]:
        return {} if self.kilowatt_hours is None else {"energy_kwh": self.kilowatt_hours}

    @property
    def recorded(self) -> dict[str, str]:
        return {"energy": self.source}


@dataclass
class Meter:
    """Counts the energy of this process, and writes a record of it into the directory of the checkpoints."""

    directory: Path
    counters: Counters
    identity: str
    piece: Piece = field(init=False)

    def __post_init__(self) -> None:
        self.piece = Piece(self.counters.source, self.counters.missing)
        self._name = f"energy-{time.time_ns():x}-{os.getpid()}.json"
        self._guard = threading.Lock()

    def read(self, ended: bool = False) -> None:
        """Add the energy since the last reading, and rewrite the record. If reading fails, the training continues
        without an energy figure."""
        with self._guard:
            self.piece.ended = ended
            try:
                self.piece.joules += sum(each.joules() for each in self.counters.counters)
                if self.counters.counters or self.counters.missing:
                    self._write()
            except (OSError, ValueError) as error:
                self.piece.missing = f"a counter or its record failed during the training ({type(error).__name__})"

    def _write(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        stated = vars(self.piece)
        path, aside = self.directory / self._name, self.directory / f"{self._name}.part"
        aside.write_bytes(canonical_json({**stated, "mark": self._mark(self._name, stated)}) + b"\n")
        aside.replace(path)

    def _mark(self, name: str, stated: dict[str, Any]) -> str:
        return mark_of("energy", [self.identity, name, stated])

    def total(self) -> Energy:
        """Read the counters for the last time, and return the energy of all processes of the training."""
        self.read(ended=True)
        others = sorted(path for path in self.directory.glob("energy-*.json") if path.name != self._name)
        own = [self.piece] if self.counters.counters or self.counters.missing else []
        pieces = [*map(self._piece, others), *own]
        whole = [each for each in pieces if each is not None]
        missing = [each.missing for each in whole if each.missing]
        if len(whole) < len(pieces):
            missing.append("a record of an earlier part is damaged, or was not written by this training")
        if missing or not whole:
            return Energy(None, f"not known: {missing[0] if missing else 'nothing was counted'}")
        source = "; ".join(dict.fromkeys(each.source for each in whole))
        killed = sum(not each.ended for each in whole)
        said = f"{source}; {len(whole)} processes or parts" if len(whole) > 1 else source
        lost = f", {killed} without a last reading, so that up to {killed * SECONDS:g} s are missing" if killed else ""
        return Energy(sum(each.joules for each in whole) / JOULES_A_KWH, said + lost)

    def _piece(self, path: Path) -> Piece | None:
        try:
            stated = json.loads(path.read_bytes())
            is_marked = stated.pop("mark") == self._mark(path.name, stated)
            piece = Piece(**stated)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return piece if is_marked and 0 <= piece.joules < MOST_JOULES else None


@contextmanager
def metered(job: TrainingJob) -> Iterator[Meter]:
    """Count the energy of this process until the end of the block, even if the block fails."""
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = f"GPU-{torch.cuda.get_device_properties(local).uuid}" if torch.cuda.is_available() else None
    counters = counters_of(gpu, job.device_watts, POWERCAP, is_first_here=local == 0)
    meter, ended = Meter(job.checkpoint_directory, counters, job.identity), threading.Event()

    def read_again() -> None:
        while not ended.wait(SECONDS):
            meter.read()

    reading = threading.Thread(target=read_again, daemon=True)
    meter.read()
    reading.start()
    try:
        yield meter
    finally:
        ended.set()
        reading.join()
        meter.read(ended=True)
