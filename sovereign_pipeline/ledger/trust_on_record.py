"""Under which trust root officers asked and decided: each of these entries names it, and nothing goes back behind it.

What belongs here: naming it in an entry, and comparing. What does not: another root, which only whoever was given the
SHA-256 of the first one can tell from the right one.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.signing.trust import Trust

ACTS = ("gate waived", "recall opened", "recall waived", "known issue added", "adapter reviewed", "review closed early")
"""Actions of officers besides those that begin with `release `."""
TRUST_ROOT, ROOT, TARGETS = "trust_root", "trust_root_version", "trust_targets_version"
TRUST = frozenset({TRUST_ROOT, ROOT, TARGETS})
"""What an entry says of it, by name."""


def trust_named(trust: Trust) -> dict[str, str | int]:
    """What an entry says of it."""
    return {TRUST_ROOT: trust.root_sha256, ROOT: trust.root_version, TARGETS: trust.targets_version}


def assert_not_put_back(session: Session, trust: Trust) -> None:
    """Raise IntegrityError for a trust root that is older than one under which somebody decided already."""
    of_officers = AuditEntry.action.startswith("release ") | AuditEntry.action.in_(ACTS)
    under_it = AuditEntry.subjects[TRUST_ROOT].as_string() == trust.root_sha256
    query = select(AuditEntry).where(of_officers, under_it).order_by(AuditEntry.sequence.desc()).limit(1)
    last = session.scalars(query).one_or_none()
    if last is None:  # also for acts that were not signed, which name none
        return
    seen = (last.subjects[ROOT], last.subjects[TARGETS])
    if trust.root_version < seen[0] or trust.targets_version < seen[1]:
        raise IntegrityError(
            f"The trust root here, root {trust.root_version} and targets {trust.targets_version}, is older than root "
            f"{seen[0]} and targets {seen[1]}, under which entry {last.sequence} of the audit log was made.",
            "Somebody put an older trust root back: take the newest one again.",
        )
