"""A variant of a small file with its outcome, and the page `docs/reference/first-file.md` that lists all variants."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sovereign_pipeline_tests.corpus.dirty_files import Write

OUTCOMES = ("documents", "quarantined", "excluded", "not_selected")


@dataclass(frozen=True)
class Read:
    """The file is read: rows = documents + quarantined + excluded + not selected."""

    documents: int = 6
    quarantined: int = 0
    excluded: int = 0
    not_selected: int = 0
    reason: str = ""
    """Of every quarantined row."""
    links: int = 3
    """Of its documents, each naming a row."""

    @property
    def rows(self) -> int:
        return sum(getattr(self, name) for name in OUTCOMES)

    def __str__(self) -> str:
        parts = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in OUTCOMES if getattr(self, name)]
        return f"{self.rows} rows = {' + '.join(parts)}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Stop:
    """The line stops, and names the file."""

    says: str
    """Part of the message."""
    remedy: str
    """Part of the hint."""

    def __str__(self) -> str:
        return f"Stops: “{self.says}”. “{self.remedy}”."


ALL = Read()
NOT_SELECTED = {"where": {"open": False}}


def broken(reason: str, links: int = 3) -> Read:
    """One row of six in quarantine."""
    return Read(5, 1, reason=reason, links=links)


def stops_all(reason: str, remedy: str, row: int = 1) -> Stop:
    """Every row is broken. row: the first with the reason."""
    return Stop(f"are broken, 100.0%; the recipe allows 90.0%. {reason}: row {row}", remedy)


@dataclass(frozen=True)
class NotPassed:
    """The rows are read, and a gate does not pass."""

    gate: str
    says: str

    def __str__(self) -> str:
        return f"The gate `{self.gate}` does not pass: “{self.says}”."


@dataclass(frozen=True)
class Variant:
    """One file."""

    what: str
    name: str
    write: Write
    outcome: Read | Stop | NotPassed
    source: Mapping[str, Any] = field(default_factory=dict)
    """Keys of its source in the recipe."""


def first_file_markdown(variants: Mapping[str, Iterable[Variant]]) -> str:
    """The page. variants: heading -> the variants below it."""
    lines = [
        "# The first file",
        "",
        "What becomes of one file of six letters in the states in which exports arrive, with the recipe's keys in the",
        "second column. The parts of the message that name the cause and the remedy are in quotes. `make test` writes",
        "and reads every file (`corpus/test_first_file.py`); this page is made from the tests' table by `make docs`.",
        "More broken rows than `quarantine.max_share` stop the line; here it is 0.9. No message quotes a text.",
        "",
        "Not found: a file in one old encoding that is named as another of the same kind (cp1256 as cp1252). Its",
        "letters are wrong in every row. `sources look` proposes an encoding; a person reads whether they are right.",
        "Rows in one quoted cell, because its closing quote is missing and a later row has one too many in the same",
        "column, where the table has fewer than three columns, or no other one of ids, numbers, dates or a few values.",
    ]
    for heading, each in variants.items():
        lines += ["", f"## {heading}", "", "| the file | recipe | what happens |", "|---|---|---|"]
        lines += [f"| {variant.what} (`{variant.name}`) | {_keys(variant)} | {_cell(variant)} |" for variant in each]
    return "\n".join(lines) + "\n"


def _keys(variant: Variant) -> str:
    return _escaped(", ".join(f"`{key}: {value}`" for key, value in variant.source.items()))


def _cell(variant: Variant) -> str:
    return _escaped(str(variant.outcome))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
