"""The energy of a training: counters of a made tree and a made library, stated power, and the sum over its parts."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.training import compute
from sovereign_pipeline.training.compute import Counters, Meter, Nvml, Rapl, Stated, counters_of
from sovereign_pipeline.training.worker import run_job
from sovereign_pipeline_tests.training.conftest import JobMaker, letters

RANGE = 262_143_328_850
"""Maximum of a real package's counter, in microjoules."""


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, of which one has memory; a core within a package, and a counter of the whole platform."""
    for domain, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }.items():
        directory = tmp_path / "powercap" / domain
        directory.mkdir(parents=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (directory / "energy_uj").write_text("1000000\n")
    return tmp_path / "powercap"


def use(powercap: Path, joules: dict[str, float]) -> None:
    for domain, used in joules.items():
        file = powercap / domain / "energy_uj"
        file.write_text(f"{(int(file.read_text()) + round(used * 1e6)) % (RANGE + 1)}\n")


def test_packages_and_memory_are_added_up_and_wrap_around(powercap: Path, tmp_path: Path) -> None:
    counters = counters_of(None, None, powercap)
    meter = Meter(tmp_path / "pieces", counters, "1" * 64)
    for _ in range(3):  # each package wraps once
        use(powercap, dict.fromkeys(("intel-rapl:0", "intel-rapl:1"), 100_000.0) | {"intel-rapl:0:1": 20_000.0})
        use(powercap, {"intel-rapl:0:0": 90_000.0, "intel-rapl:2": 240_000.0})
        meter.read()
    total = meter.total()
    assert total.kilowatt_hours == pytest.approx(660_000 / 3.6e6)
    assert total.source == "RAPL package-0, RAPL dram, RAPL package-1"
    (powercap / "intel-rapl:0" / "energy_uj").write_text("")  # as root reads everything
    assert "cannot be read (ValueError)" in counters_of(None, None, powercap).missing


class Driver:
    """The three functions of NVIDIA's library."""

    def __init__(self, *millijoules: int, status: int = 0) -> None:
        self.millijoules, self.status, self.asked = list(millijoules), status, b""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: Any) -> int:
        self.asked = uuid
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, total: Any) -> int:
        if self.status == 0:
            ctypes.cast(total, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules.pop(0)
        return self.status


def test_a_gpus_counter_is_in_millijoules_since_the_driver_was_loaded(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(5_000_000_000, 5_000_250_000, 5_000_251_000)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    gpu, *others = counters_of("GPU-1", 700.0, powercap).counters
    assert isinstance(gpu, Nvml) and driver.asked == b"GPU-1" and len(others) == 3
    assert [gpu.joules(), gpu.joules()] == [250.0, 1.0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(1))
    assert counters_of("GPU-2", None, powercap, is_first_here=False).source == "NVML of the GPU"


@pytest.mark.parametrize(("watts", "source"), [(350.0, "stated 350 W a device"), (None, "")])
def test_a_gpu_without_a_counter_is_not_taken_for_its_processor(
    powercap: Path, monkeypatch: pytest.MonkeyPatch, watts: float | None, source: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(status=3))
    found = counters_of("GPU-1", watts, powercap)
    assert found.source == source
    assert source or "nvmlDeviceGetTotalEnergyConsumption returned 3" in found.missing


def test_without_counters_it_is_the_stated_power_times_the_time(tmp_path: Path) -> None:
    clock = iter([0.0, 10.0, 3600.0])
    stated = Stated(350.0, lambda: next(clock))
    assert [stated.joules(), stated.joules()] == [3500.0, 350.0 * 3590]
    found = counters_of(None, 350.0, tmp_path)
    assert found.source == "stated 350 W a device"
    assert not counters_of(None, 350.0, tmp_path, is_first_here=False).counters, "the machine would count twice"
    unknown = Meter(tmp_path / "pieces", counters_of(None, None, tmp_path), "1" * 64).total()
    assert unknown.kilowatt_hours is None and "not known" in unknown.source


class Fixed:
    def __init__(self, *joules: float) -> None:
        self.name, self._joules = "fixed", list(joules)

    def joules(self) -> float:
        if not self._joules:
            raise OSError
        return self._joules.pop(0)


def test_a_resumed_training_adds_its_parts_up_and_says_what_a_kill_lost(tmp_path: Path) -> None:
    ended, killed, last = (Meter(tmp_path, Counters([Fixed(3.6e6, 0.0)]), "1" * 64) for _ in range(3))
    ended.read(ended=True)
    killed.read()
    total = last.total()
    assert total.kilowatt_hours == pytest.approx(3.0)
    assert total.source == "fixed; 3 processes or parts, 1 without a last reading, so that up to 20 s are missing"


@pytest.mark.parametrize("fault", ["changed", "of another training", "empty"])
def test_a_part_that_this_training_did_not_write_leaves_no_figure(tmp_path: Path, fault: str) -> None:
    first = Meter(tmp_path, Counters([Fixed(3.6e6)]), "2" * 64 if fault == "of another training" else "1" * 64)
    first.read(ended=True)
    (path,) = tmp_path.glob("energy-*.json")
    if fault == "changed":
        path.write_text(json.dumps({**json.loads(path.read_text()), "joules": 1.0}))
    elif fault == "empty":
        path.write_text("")
    total = Meter(tmp_path, Counters([Fixed(1.0)]), "1" * 64).total()
    assert total.kilowatt_hours is None and "damaged" in total.source


def test_a_counter_that_fails_leaves_no_figure(tmp_path: Path) -> None:
    assert Meter(tmp_path, Counters([Fixed()]), "1" * 64).total().kilowatt_hours is None


@pytest.mark.slow
def test_a_training_and_its_resumption_state_their_energy(
    make_job: JobMaker, powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "POWERCAP", powercap)

    monkeypatch.setattr(Rapl, "joules", lambda counter: 36.0)
    job = make_job("job", letters(16), checkpoints={"every_steps": 1})
    to_stop: list[int] = []

    def stop_behind_second(message: str, values: dict[str, object]) -> None:
        if message.startswith("step 1/"):
            to_stop.append(15)

    first = run_job(job, stop_behind_second, to_stop)
    assert first.failure is not None and "stopped, as requested, at step 2" in first.failure.message
    result = run_job(job, lambda message, values: None, [])
    assert result.failure is None and result.measured["resumed_at_step"] == 2
    pieces = [json.loads(path.read_text()) for path in job.checkpoint_directory.glob("energy-*.json")]
    assert len(pieces) == 2 and all(piece["ended"] for piece in pieces)
    since_the_sum = 3 * 36.0  # the three counters are read once more at the end
    joules = sum(piece["joules"] for piece in pieces) - since_the_sum
    assert result.measured["energy_kwh"] == pytest.approx(joules / 3.6e6)
    assert result.recorded["energy"] == "RAPL package-0, RAPL dram, RAPL package-1; 2 processes or parts"
