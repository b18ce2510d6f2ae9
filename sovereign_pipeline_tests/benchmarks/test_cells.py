"""A benchmark that was interrupted measures what is missing, and takes no figure of other code or facts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Cells


@pytest.fixture
def script(tmp_path: Path) -> Path:
    script = tmp_path / "arm.py"
    script.write_text("measure()\n")
    return script


@pytest.fixture
def open_cells(tmp_path: Path, script: Path) -> Callable[..., Cells]:
    def open_(libraries: Mapping[str, str] = {"torch": "1"}) -> Cells:
        return Cells(tmp_path / "cells", [script], libraries)

    return open_


def counted(places: list[Path]) -> Callable[[Path], dict[str, Any]]:
    def measure(place: Path) -> dict[str, Any]:
        assert [*place.iterdir()] == []
        (place / "adapter").touch()
        places.append(place)
        return {"seconds": len(places), "steps": (1, 2)}

    return measure


def test_a_finished_cell_is_kept(open_cells: Callable[..., Cells]) -> None:
    places: list[Path] = []
    first = open_cells().result("ppo-1", {"seed": 1}, counted(places))
    assert first == {"seconds": 1, "steps": [1, 2]}
    assert open_cells().result("ppo-1", {"seed": 1}, counted(places)) == first
    assert len(places) == 1 and (places[0] / "adapter").is_file()


def test_other_facts_code_or_libraries_are_measured_again(open_cells: Callable[..., Cells], script: Path) -> None:
    places: list[Path] = []
    open_cells().result("ppo-1", {"seed": 1}, counted(places))
    assert open_cells().result("ppo-1", {"seed": 2}, counted(places))["seconds"] == 2
    assert open_cells({"torch": "2"}).result("ppo-1", {"seed": 2}, counted(places))["seconds"] == 3
    script.write_text("measure(twice)\n")
    assert open_cells({"torch": "2"}).result("ppo-1", {"seed": 2}, counted(places))["seconds"] == 4


def test_an_interrupted_cell_is_measured_again(open_cells: Callable[..., Cells]) -> None:
    def interrupted(place: Path) -> dict[str, Any]:
        (place / "adapter").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cells().result("ppo-1", {}, interrupted)
    assert open_cells().result("ppo-1", {}, counted([]))["seconds"] == 1
