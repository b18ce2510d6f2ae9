"""Known issues: what people found wrong with a registered adapter, shown wherever it is.

What belongs here: adding and reading them. What does not: what they forbid; nothing. An issue is written by people and
quotes no document.
"""

import datetime
from collections import defaultdict

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.lifecycle_tables import KnownIssue
from sovereign_pipeline.signing.officers_words import officers_words

ADDED = "known issue added"
LONGEST = 500
"""Characters: enough for what is wrong, and too few for a document."""


def add_issue(registry: Registry, adapter_id: str, text: str, officer: str) -> KnownIssue:
    """Record a known issue of an adapter, with its entry in the ledger.

    Raises NotFoundError for an unknown adapter, and InputError where name or text is empty, or the text too long.
    """
    officer, text = officers_words(officer, "The name"), officers_words(text, "A known issue")
    if len(text) > LONGEST:
        raise InputError(f"The text has {len(text):,} characters; at most {LONGEST} are kept.", "Say what is wrong.")
    find_adapter(registry, adapter_id)
    with registry.writing() as session:
        of_adapter = select(func.count()).select_from(KnownIssue).where(KnownIssue.adapter_id == adapter_id)
        issue = KnownIssue(
            adapter_id=adapter_id,
            number=1 + (session.scalar(of_adapter) or 0),
            text=text,
            officer=officer,
            added_at=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        )
        session.add(issue)
        session.flush()
        audit_log.append(session, officer, ADDED, {"adapter": adapter_id, "number": issue.number, "text": text})
    return issue


def issues_by_adapter(session: Session) -> dict[str, list[KnownIssue]]:
    """Adapter -> its known issues, the oldest first; the others have none."""
    found = defaultdict[str, list[KnownIssue]](list)
    for issue in session.scalars(select(KnownIssue).order_by(KnownIssue.adapter_id, KnownIssue.number)):
        found[issue.adapter_id].append(issue)
    return dict(found)
