"""Where officers' waivers of gates are on record: an entry of the ledger precedes each.

What belongs here: entering and looking up. What does not: whether a waiver counts (`artifacts/waiver.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.in_force import trust_named
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.ledger.trust_on_record import assert_in_force
from sovereign_pipeline.signing.officers import actor_of
from sovereign_pipeline.signing.trusted import Trust

WAIVED = "gate waived"


@dataclass(frozen=True)
class LedgerWaivers:
    """The waivers in the ledger. It is opened when it is first needed."""

    opened: Callable[[], Registry]

    def enter(self, keyid: str, trust: Trust, subjects: Mapping[str, Any]) -> None:
        """Put a waiver on record, before it is made."""
        registry = self.opened()
        with registry.writing() as session:
            assert_in_force(session, registry.settings, trust)
            append(session, actor_of(keyid), WAIVED, {**subjects, **trust_named(trust)})

    def index_of(self, statement: str) -> int | None:
        """The place in the log of the waiver whose signed statement has this SHA-256; None where it is in no entry."""
        query = select(AuditEntry.sequence).where(
            AuditEntry.action == WAIVED, AuditEntry.subjects["statement"].as_string() == statement
        )
        with self.opened().reading() as session:
            sequence = session.scalars(query.order_by(AuditEntry.sequence).limit(1)).one_or_none()
        return sequence - 1 if sequence is not None else None
