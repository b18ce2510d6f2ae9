"""The kinds of statements that are signed, each by the URI of its predicate and with the fields that it must have.

`docs/statements.md` says what each field holds. A predicate that changes its meaning gets another version in its URI;
one that only gains a field keeps it. What belongs here: the names, and the form of others' predicates. What does not:
the making of any statement.
"""

from collections.abc import Mapping
from typing import Any

PREDICATES = "https://sovereign-pipeline.example/"
"""The prefix of our own. It names, and is never fetched: `.example` belongs to nobody (RFC 2606)."""

GATE = f"{PREDICATES}gate/v1"
EVALUATION = f"{PREDICATES}evaluation/v1"
RECORD = f"{PREDICATES}record/v1"
WAIVER = f"{PREDICATES}waiver/v1"
REQUEST = f"{PREDICATES}request/v1"
APPROVAL = f"{PREDICATES}approval/v1"
TRANSITION = f"{PREDICATES}transition/v1"
RECALL = f"{PREDICATES}recall/v1"
RECALL_WAIVER = f"{PREDICATES}recall-waiver/v1"
KNOWN_ISSUE = f"{PREDICATES}known-issue/v1"
EARLY_CLOSING = f"{PREDICATES}early-closing/v1"
REVIEW = f"{PREDICATES}review/v1"
FLAG = f"{PREDICATES}flag/v1"
HOLD = f"{PREDICATES}hold/v1"
HOLD_ACCEPTANCE = f"{PREDICATES}hold-acceptance/v1"
PURGE = f"{PREDICATES}purge/v1"
TECHNICAL_FILE = f"{PREDICATES}technical-file/v1"
BUNDLE = f"{PREDICATES}bundle/v1"
EVIDENCE = f"{PREDICATES}evidence/v1"
BACKUP = f"{PREDICATES}backup/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
"""SLSA's: how an artifact was made. Its `buildType` is `BUILD_TYPE`."""
BILL_OF_MATERIALS = "https://cyclonedx.org/bom"
BUILD_TYPE = f"{PREDICATES}stage/v1"

FIELDS: Mapping[str, frozenset[str]] = {
    GATE: frozenset({"gate", "artifact", "outcome"}),
    EVALUATION: frozenset({"line", "artifact", "outcome"}),
    RECORD: frozenset({"line", "adapter"}),
    WAIVER: frozenset({"line", "gate", "artifact", "record", "kind", "reason"}),
    REQUEST: frozenset({"line", "adapter", "from", "to", "incumbent", "evidence", "policy", "reason", "expires"}),
    APPROVAL: frozenset({"decision"}),
    TRANSITION: frozenset({"line", "adapter", "from", "to", "sequence"}),
    RECALL: frozenset({"recall", "reason", "adapters", "at"}),
    RECALL_WAIVER: frozenset({"recall", "adapter", "reason", "at"}),
    KNOWN_ISSUE: frozenset({"adapter", "number", "text", "at"}),
    EARLY_CLOSING: frozenset({"line", "review", "ballots", "ballots_sha256", "reason"}),
    REVIEW: frozenset({"adapter", "number", "text", "at"}),
    FLAG: frozenset({"line", "sequence", "production", "staged", "cause", "reason"}),
    HOLD: frozenset({"line", "adapter", "incumbent", "outcome", "because", "bounds", "observations"}),
    HOLD_ACCEPTANCE: frozenset({"adapter", "judgement", "outcome", "reason", "at"}),
    PURGE: frozenset({"line", "adapter", "files", "reason"}),
    TECHNICAL_FILE: frozenset({"adapter", "record"}),
    BUNDLE: frozenset({"files"}),
    EVIDENCE: frozenset({"adapters", "classification", "entries", "made_at"}),
    BACKUP: frozenset({"archive", "checkpoint"}),
    PROVENANCE: frozenset({"buildDefinition", "runDetails"}),
    BILL_OF_MATERIALS: frozenset({"bomFormat", "specVersion"}),
}
"""Predicate -> the fields without which it says nothing. Others may stand beside them."""


def provenance(
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    builder: str,
    libraries: Mapping[str, str],
    finished_on: str | None = None,
) -> dict[str, Any]:
    """SLSA provenance of an artifact, for a statement about its manifest.

    Args:
        parameters: what of the recipe and the institution's policy the stage reads.
        inputs: what it was made from -> SHA-256.
        builder: the digest of the code that ran. libraries: distribution -> version.
        finished_on: UTC, RFC 3339.
    """
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"stage": stage, "config": dict(parameters)},
        "internalParameters": {"libraries": dict(libraries)},
        "resolvedDependencies": [{"name": name, "digest": {"sha256": inputs[name]}} for name in sorted(inputs)],
    }
    run: dict[str, Any] = {"builder": {"id": f"{PREDICATES}builder", "version": {"source": builder}}}
    if finished_on is not None:
        run["metadata"] = {"finishedOn": finished_on}
    return {"buildDefinition": definition, "runDetails": run}
