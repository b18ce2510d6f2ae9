"""Who looked at what: one line for a look."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.dagster.auditor import SECONDS_OF_A_LOOK, AccessLog, Look

LOOK = Look("query", "AssetQuery", ("assetOrError",), assets=("raw_corpus",))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_look_is_one_line_in_ten_minutes(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "logs" / "access.jsonl"
    log = AccessLog(path, lambda: now[0])
    for person in ("layla", "layla", "omar"):
        log.write(person, LOOK)
    assert [each["who"] for each in lines(path)] == ["layla", "omar"]
    assert lines(path)[0] | {"at": ""} == {
        "at": "",
        "who": "layla",
        "kind": "query",
        "name": "AssetQuery",
        "fields": ["assetOrError"],
        "assets": ["raw_corpus"],
    }
    now[0] = SECONDS_OF_A_LOOK
    path.rename(path.with_suffix(".old"))  # as logrotate does
    log.write("layla", LOOK)
    assert [each["who"] for each in lines(path)] == ["layla"]


def test_a_name_with_a_line_break_stays_on_its_line(tmp_path: Path) -> None:
    AccessLog(tmp_path / "access.jsonl").write('layla\n{"who": "omar"}', LOOK)
    assert len(lines(tmp_path / "access.jsonl")) == 1


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "access.jsonl").mkdir()
    log = AccessLog(tmp_path / "access.jsonl")
    for _ in range(2):
        with pytest.raises(OSError):
            log.write("layla", LOOK)
