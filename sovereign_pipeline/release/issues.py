"""Known issues: what people found wrong with a registered adapter, shown wherever it is.

What belongs here: adding and reading them. What does not: what they forbid; nothing. An issue is written by people and
quotes no document.
"""

import datetime
from collections import defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.lifecycle_tables import KnownIssue
from sovereign_pipeline.release.acts import Act, Acted, assert_acts_on_record, enter_act
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers_words import officers_words
from sovereign_pipeline.signing.predicates import KNOWN_ISSUE

ADDED = "known issue added"
ADDING = Act(
    ADDED, "issue", KNOWN_ISSUE, "known_issue", lambda said: f"known issue {said['number']} of {said['adapter']}"
)
LONGEST = 500
"""Characters: enough for what is wrong, and too few for a document."""


def add_issue(registry: Registry, adapter_id: str, text: str, signer: Signer) -> KnownIssue:
    """Record a known issue of an adapter, signed by an officer, with its entry in the ledger.

    Raises as `words_of_issue`, NotFoundError for an unknown adapter, and SignInError where the trust root does not let
    the officer add one at the adapter's level.
    """
    text = words_of_issue(text)
    find_adapter(registry, adapter_id)
    with registry.writing() as session:
        of_adapter = select(func.count()).select_from(KnownIssue).where(KnownIssue.adapter_id == adapter_id)
        issue = KnownIssue(
            adapter_id=adapter_id,
            number=1 + (session.scalar(of_adapter) or 0),
            text=text,
            officer=signer.keyid,
            added_at=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        )
        enter_act(session, registry.settings, signer, ADDING, issue, issue.added_at, _said(issue), [adapter_id])
    return issue


def words_of_issue(text: str) -> str:
    """The text on one line. Raises InputError where it is empty or too long."""
    text = officers_words(text, "A known issue")
    if len(text) > LONGEST:
        raise InputError(f"The text has {len(text):,} characters; at most {LONGEST} are kept.", "Say what is wrong.")
    return text


def issues_by_adapter(
    session: Session, settings: Settings, adapter_id: str | None = None
) -> dict[str, list[KnownIssue]]:
    """Adapter -> its known issues, the oldest first; the others have none. `adapter_id`: of this one alone.

    Raises IntegrityError for one that no officer signed, or whose row is not that of its entry.
    """
    query = select(KnownIssue).order_by(KnownIssue.adapter_id, KnownIssue.number)
    issues = list(session.scalars(query if adapter_id is None else query.where(KnownIssue.adapter_id == adapter_id)))
    rows = (
        Acted(
            (each.adapter_id, each.number), each.officer, each.statement, each.added_at, _said(each), [each.adapter_id]
        )
        for each in issues
    )
    assert_acts_on_record(session, settings, ADDING, rows, adapter_id)
    found = defaultdict[str, list[KnownIssue]](list)
    for issue in issues:
        found[issue.adapter_id].append(issue)
    return dict(found)


def _said(issue: KnownIssue) -> dict[str, Any]:
    return {"adapter": issue.adapter_id, "number": issue.number, "text": issue.text}
