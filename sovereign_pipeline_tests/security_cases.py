"""The attacks that the tests plant, as a page: `docs/reference/security-cases.md`.

A test that plants one is marked with `security_case(attack, outcome)`. What belongs here: reading these marks, which
are literal text, from the tests' source. What does not: the attacks.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline_tests.privacy.spellings import spelling_rows

TESTS = Path(__file__).resolve().parent
MARKER = "security_case"
ROOMS = {
    "corpus": "Sources and classification",
    "privacy": "Personal data",
    "split": "Held-out data: the split",
    "dataset": "Held-out data: the datasets",
    "record": "Keys, trust root, artifacts, gates and the ledger",
    "base_models": "Base models",
    "policy": "Recipes",
    "suites": "Suites",
    "training": "Training",
    "evaluation": "Evaluation",
    "registry": "Registration",
    "review": "Blind review",
    "dagster": "Dagster",
    "cli": "Command line",
    "release": "Release and recall",
    "serving": "Serving",
    "evidence": "Evidence packages",
    "web": "Pages of the registry",
    "ops": "Bundles for the air gap, and backups",
    "end_to_end": "The whole chain",
    "base": "Processes, files, hosts and proxies",
    "": "Every program",
}
"""Folder of the tests -> heading, in the page's order. The empty one: tests that belong to no room."""


@dataclass(frozen=True)
class SecurityCase:
    """One attack, and the test that plants it."""

    room: str
    """A key of ROOMS."""
    attack: str
    outcome: str
    test: str
    """Node id below the tests' folder, such as `split/test_gate.py::test_x`."""


def security_cases() -> list[SecurityCase]:
    """Every mark of the tests, in the page's order. Raises ValueError for one that is not two literal texts."""
    files = sorted(TESTS.rglob("test_*.py"))
    cases = [case for file in files for case in _cases_of(file)]
    order = list(ROOMS)
    return sorted(cases, key=lambda case: order.index(case.room))


def security_cases_markdown() -> str:
    """The page."""
    cases = security_cases()
    lines = [
        "# Security cases",
        "",
        "Attacks that the tests plant, and what happens. `make test` runs them all; this page is made from the tests'",
        "marks by `make docs`.",
    ]
    for room, heading in ROOMS.items():
        rows = [case for case in cases if case.room == room]
        if rows:
            lines += ["", f"## {heading}", "", "| attack | what happens | test |", "|---|---|---|"]
            lines += [f"| {_cell(row.attack)} | {_cell(row.outcome)} | `{row.test}` |" for row in rows]
    lines += ["", *_spellings()]
    return "\n".join(lines) + "\n"


def _cases_of(file: Path) -> Iterator[SecurityCase]:
    relative = file.relative_to(TESTS)
    room = relative.parts[0] if len(relative.parts) > 1 else ""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == MARKER):
                continue
            texts = [ast.literal_eval(argument) for argument in mark.args]
            if len(texts) != 2 or not all(isinstance(text, str) and text for text in texts):
                raise ValueError(f"{relative}, {node.name}: {MARKER} takes the attack and what happens, as texts")
            yield SecurityCase(room, texts[0], texts[1], f"{relative.as_posix()}::{node.name}")


def _spellings() -> list[str]:
    """The table of spellings, and how many of them pass."""
    rows = spelling_rows()
    passing = sum(outcome == "passes" for *_, outcome in rows)
    return [
        "## Spellings of personal data",
        "",
        f"{len(rows) - passing} of {len(rows)} are replaced or refused; the others pass, as stated. The texts are in",
        "`privacy/spellings.py`, and `privacy/test_spellings.py` runs them.",
        "",
        "| spelling | language | kind | outcome |",
        "|---|---|---|---|",
        *(f"| {_cell(how)} | {language} | {kind} | {outcome} |" for how, language, kind, outcome in rows),
    ]


def _cell(text: str) -> str:
    """As a sentence without its full stop."""
    return f"{text[0].upper()}{text[1:].removesuffix('.')}".replace("|", "\\|")
