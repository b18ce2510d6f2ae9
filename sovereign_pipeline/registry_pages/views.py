"""What a page about an adapter shows, as plain values: the page of `sovereign up` and a file show the same.

What belongs here: the values. What does not: reading them (`adapter_view.py`, `time_line.py`, `next_step.py`), and how
they look (`templates/`, `lineage_drawing.py`).
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sovereign_pipeline.record.catalog import State

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Node:
    """An artifact of the chain from an answer to documents, or a file of the institution at its end."""

    id: str
    """Digest of the artifact; of a file its name and SHA-256."""
    name: str
    """Kind of the artifact, or name of the file."""
    sha256: str
    level: str | None
    """None for a file: its level is that of its rows."""
    made_of: tuple[str, ...]
    """Ids of the nodes that it was made of, without those that another one of these was made of."""
    files: tuple[str, ...] = ()
    """Of the artifact, by its manifest: some of them are served as reports."""


@dataclass(frozen=True)
class Digest:
    """Something that a reader can hash, with the command, and what the command prints."""

    what: str
    sha256: str
    """By which it is known: of an artifact its digest."""
    command: str
    prints: str


@dataclass(frozen=True)
class Waived:
    """What an officer waived."""

    what: str
    outcome: str
    """Of the gate; empty where something else than a gate was waived."""
    person: str
    at: str
    reason: str
    holds_for: str
    """What it is bound to. No waiver has an end of its own."""


@dataclass(frozen=True)
class GateView:
    """What a gate said of one artifact."""

    stage: str
    gate: str
    outcome: Outcome
    message: str
    waived: Waived | None
    """As an officer signed it."""
    record: str
    """Digest of the gate's record."""


@dataclass(frozen=True)
class Happened:
    """One thing on the time line."""

    at: str
    """UTC, ISO 8601, to the second."""
    what: str
    """A sentence that the pages translate."""
    about: str = ""
    """Which one, such as `registered → approved` or `recall-1`."""
    by: str = ""
    approved_by: tuple[str, ...] = ()
    words: str = ""
    """An officer's own."""
    is_waiver: bool = False


@dataclass(frozen=True)
class ReviewView:
    """The result of a blind review, as its signed artifact has it."""

    digest: str
    ballots: int
    operators: int
    net: float
    """Net preference for the adapter: (wins - losses) / pairs."""
    low: float | None
    """Of its 95 % interval; None, as `high`, where one operator alone rated."""
    high: float | None
    closed_early: bool


@dataclass(frozen=True)
class IssueView:
    number: int
    text: str
    person: str
    at: str


@dataclass(frozen=True)
class RecallView:
    """A recall that holds for the adapter."""

    id: str
    recalled: str
    reason: str
    person: str
    at: str


@dataclass(frozen=True)
class Missing:
    """What stands between an adapter and its next state."""

    what: str
    hint: str = ""


@dataclass(frozen=True)
class NextStep:
    """The transition that would take the adapter further. With nothing missing, the next approval makes it."""

    transition: str
    after: State
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class DueView:
    """When the adapter is due for a review."""

    on: datetime.date
    state: Literal["not due", "due", "overdue"]
    why: tuple[str, ...]


@dataclass(frozen=True)
class AdapterView:
    """All that a reader is shown of one registered adapter."""

    id: str
    line: str
    version: str
    state: State
    classification: str
    institution: str
    is_demonstration: bool
    """Whether what is shown rests on keys that prove nothing."""
    purpose: str
    owner: str
    method: str
    base_model: str
    licence: str
    parent_adapter: str | None
    registered_at: str
    weights_purged: str | None
    """Day, ISO 8601."""
    nodes: tuple[Node, ...]
    """The record first, files last."""
    files_not_drawn: int
    digests: tuple[Digest, ...]
    gates: tuple[GateView, ...]
    waived: tuple[Waived, ...]
    time_line: tuple[Happened, ...]
    """The oldest first."""
    reviews: tuple[ReviewView, ...]
    is_under_review: bool
    issues: tuple[IssueView, ...]
    recalls: tuple[RecallView, ...]
    due: DueView | None
    """None for one that a newer adapter of its line has overtaken, or that is at its end."""
    next_step: NextStep | None
    """None for one that goes no further."""
    entries: int
    """Of the ledger when it was read."""
    read_at: str

    @property
    def not_passed(self) -> Sequence[GateView]:
        return [each for each in self.gates if each.outcome != "pass"]
