"""Questions with one answer: who let an adapter into production and on what evidence, what changed.

What belongs here: answers from what is on record. What does not: printing them (`commands/`).
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Transition, row_as_dict
from sovereign_pipeline.release.standing import Standing, signed_transitions
from sovereign_pipeline.signing.trust import Trust

COMPARED = (
    "method",
    "base_model",
    "base_model_digest",
    "dataset_digest",
    "preference_dataset_digest",
    "adapter_sha256",
    "classification",
    "evaluation_report_digest",
    "framework_versions",
    "code_version",
    "review_date",
    "evaluation",
)
"""Columns in which two versions are compared."""


def history_of(
    session: Session, settings: Settings, trust: Trust, line: str, adapter_id: str | None = None
) -> list[dict[str, Any]]:
    """Each transition of a line, or of one of its adapters: when, by whose request, with whose approval, on what.

    Raises IntegrityError naming a transition that was not signed, asked for and approved as it says.
    """
    rows = signed_transitions(session, settings, trust, line)
    return [_as_dict(row, standing) for row, standing in rows if adapter_id in (None, row.adapter_id)]


def differences(registry: Registry, one: str, other: str) -> dict[str, tuple[Any, Any]]:
    """What differs between two registered adapters: name of a fact -> what each has."""
    first, second = (row_as_dict(find_adapter(registry, each)) for each in (one, other))
    found: dict[str, tuple[Any, Any]] = {}
    for name in COMPARED:
        found |= _differing(name, first[name], second[name])
    return found


def _differing(name: str, one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return {
            key: value
            for each in keys
            for key, value in _differing(f"{name}.{each}", one.get(each), other.get(each)).items()
        }
    return {} if one == other else {name: (one, other)}


def _as_dict(row: Transition, standing: Standing) -> dict[str, Any]:
    predicate = standing.predicate
    return {
        "sequence": row.sequence,
        "at": row.made_at.isoformat(timespec="seconds"),
        "adapter": row.adapter_id,
        "transition": row.transition,
        "from": row.before,
        "to": row.after,
        "requested_by": standing.requester.person,
        "approved_by": [each.person for each in standing.approvals],
        "reason": predicate["reason"],
        "evidence": predicate["evidence"],
        "request": row.request_id,
    }
