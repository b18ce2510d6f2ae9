"""The notes of a suggested recipe: what a person must know before the line runs."""

import json
from pathlib import Path
from typing import Any

from sovereign_pipeline.corpus.inspection import inspect_file, link_columns, suggest
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline_tests.conftest import LADDER, letter

INSTITUTION = Institution(name="Lamps", classification=tuple(LADDER))


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_empty_cells_are_told_with_what_becomes_of_their_rows(tmp_path: Path) -> None:
    rows = [letter(number) for number in range(20)]
    for row in rows[:3]:
        row["author"] = ""
    rows[4]["department"] = None
    rows[5]["subject"] = " "
    path = written(tmp_path / "a.jsonl", rows)
    notes = suggest(inspect_file(path), path, "lamps", INSTITUTION, [], None).notes
    assert "author: 3 rows of 20 with nothing in 'author': read without it, or quarantine with `split.by_author`." in (
        notes
    )
    assert "department: 1 row of 20 with nothing in 'department': read without it." in notes
    assert "subject: 1 row of 20 with nothing in 'subject': quarantine." in notes
    assert not [note for note in notes if note.startswith(("request:", "date:", "case:"))]


def test_links_are_compared_with_ids_as_the_run_compares_them(tmp_path: Path) -> None:
    rows = [{**letter(number), "id": f"PRM–{number}", "linked": f"prm-{number ^ 1}"} for number in range(20)]
    (found,) = link_columns(inspect_file(written(tmp_path / "a.jsonl", rows)))
    assert (found.column, found.ids, found.matched) == ("linked", "id", 20)
