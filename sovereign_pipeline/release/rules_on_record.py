"""The institution's rules for releases as they were in force by record, whatever a request or `institution.yaml` says.

What belongs here: reading them from the copies that the ledger's entries name. What does not: putting them on record
(`ledger/in_force.py`), and counting approvals (`standing.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.in_force import INSTITUTION, POLICY_CHANGED, kept_rule
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.policy.release import Release, is_transition, release_in


@dataclass(frozen=True)
class RulesOnRecord:
    """Which rules were in force at each place in the log."""

    settings: Settings
    since: Sequence[tuple[int, str | None]]
    """Number of each entry about `institution.yaml`, and the SHA-256 of the file from there on; the oldest first."""

    def approvals_for(self, at_index: int | None, transition: str, levels: Iterable[str]) -> int:
        """How many officers besides the requester a transition needed at a place in the log, or needs now (None), at
        the level that needs most.

        Before the first entry about the rules: as many as by default. Raises IntegrityError for a copy that is missing
        or was changed, and for a transition that there is not.
        """
        if not is_transition(transition):
            raise IntegrityError(
                f"The registry: there is no transition '{transition[:40]}'.", "Find out who signed it."
            )
        rules = self._rules(at_index)
        return max(rules.approvals_for(transition, level) for level in levels)

    def _rules(self, at_index: int | None) -> Release:
        before = [each for each in self.since if at_index is None or each[0] <= at_index]
        sequence, sha256 = before[-1] if before else (0, None)
        if sha256 is None:
            return Release()
        try:
            return release_in(kept_rule(self.settings, INSTITUTION, sha256, sequence))
        except ValueError:
            raise IntegrityError(
                f"The rules of entry {sequence} of the audit log say nothing of releases that this program reads.",
                "Nobody can have asked for a release under them: find out who entered them.",
            ) from None


def rules_on_record(session: Session, settings: Settings) -> RulesOnRecord:
    """The institution's rules from their first entry on."""
    query = (
        select(AuditEntry.sequence, AuditEntry.subjects["now"].as_string())
        .where(AuditEntry.action == POLICY_CHANGED, AuditEntry.subjects["file"].as_string() == INSTITUTION)
        .order_by(AuditEntry.sequence)
    )
    return RulesOnRecord(settings, [(sequence, sha256) for sequence, sha256 in session.execute(query)])
