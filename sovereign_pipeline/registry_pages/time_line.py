"""What happened to an adapter, in order: registered, asked for, approved, waived, recalled, reviewed, purged.

Everything is read back through the functions that verify it: signatures at their places in the log, rows against their
entries. What belongs here: the order, and the words of each thing. What does not: what is true now (`adapter_view.py`).
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.record.catalog import WAIVED, Purge
from sovereign_pipeline.record.officers import actor_of, officer_shown
from sovereign_pipeline.record.tables import Adapter, AdapterReview, AuditEntry, KnownIssue, Recall, RecallWaiver
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.registry_pages.views import Happened, Waived
from sovereign_pipeline.release.standing import SUPERSEDE, Standing
from sovereign_pipeline.release.trial import ACCEPTED

_OFFICER = actor_of("")


@dataclass(frozen=True)
class OnRecord:
    """What is on record about an adapter, verified."""

    adapter: Adapter
    trust: Trust
    requests: Sequence[Standing]
    history: Sequence[Mapping[str, Any]]
    """Its transitions, as `release/standing.py` has them."""
    recalls: Sequence[Recall]
    recall_waivers: Sequence[RecallWaiver]
    issues: Sequence[KnownIssue]
    reviews: Sequence[AdapterReview]
    waived: Sequence[Waived]
    """Gates of what it was made of, and of its blind reviews."""
    holds_accepted: Sequence[AuditEntry]
    purge: Purge | None

    def person(self, officer: str) -> str:
        return person_of(self.trust, officer)


def person_of(trust: Trust, officer: str) -> str:
    """Who an officer is, by the id of the key, or as an entry names it."""
    return officer_shown(trust, officer.removeprefix(_OFFICER))


def waiver_entries(session: Session, line: str, evaluated: set[str]) -> list[AuditEntry]:
    """The entries of the waivers of a line's gates about artifacts, by their digests; the oldest first, unverified."""
    found = _entries(session, WAIVED, line)
    return [each for each in found if each.subjects["artifact"] in evaluated]


def accepted_holds(session: Session, adapter: Adapter) -> list[AuditEntry]:
    """The entries by which officers accepted an inconclusive hold of an adapter, the oldest first."""
    return [each for each in _entries(session, ACCEPTED, adapter.line) if each.subjects["adapter"] == adapter.id]


def _entries(session: Session, action: str, line: str) -> list[AuditEntry]:
    of_line = AuditEntry.subjects["line"].as_string() == line
    query = select(AuditEntry).where(AuditEntry.action == action, of_line)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def time_line(found: OnRecord) -> tuple[Happened, ...]:
    """Everything that happened, the oldest first. Of the same second: in the order of the life of an adapter."""
    return tuple(sorted(_happened(found), key=lambda each: each.at))


def _happened(found: OnRecord) -> Iterator[Happened]:
    for each in found.waived:
        yield Happened(each.at, "A gate was waived", each.what, each.person, words=each.reason, is_waiver=True)
    yield Happened(moment(found.adapter.registered_at), "It was registered", found.adapter.id)
    for request in found.requests:
        yield _asked(request)
    for entry in found.holds_accepted:
        yield Happened(
            moment(entry.at),
            "An inconclusive hold was accepted",
            by=found.person(entry.actor),
            words=entry.subjects.get("reason", ""),
            is_waiver=True,
        )
    for made in found.history:
        # The request that superseded it is about another adapter, which may be of a level above this one's.
        words = made["reason"] if made["transition"] != SUPERSEDE else ""
        yield Happened(
            made["at"][:19],
            "Its state changed",
            f"{made['from']} → {made['to']}",
            made["requested_by"],
            tuple(made["approved_by"]),
            words,
        )
    for recall in found.recalls:
        yield Happened(
            moment(recall.opened_at), "It was recalled", recall.id, found.person(recall.officer), words=recall.reason
        )
    for waiver in found.recall_waivers:
        yield Happened(
            moment(waiver.waived_at),
            "A recall was waived",
            waiver.recall_id,
            found.person(waiver.officer),
            words=waiver.reason,
            is_waiver=True,
        )
    for issue in found.issues:
        yield Happened(
            moment(issue.added_at),
            "A known issue was added",
            str(issue.number),
            found.person(issue.officer),
            words=issue.text,
        )
    for review in found.reviews:
        yield Happened(
            moment(review.reviewed_at), "It was reviewed, and stays", by=found.person(review.officer), words=review.text
        )
    if found.purge is not None:
        yield Happened(
            moment(found.purge.at), "Its weights were removed", by=found.purge.officer, words=found.purge.reason
        )


def _asked(standing: Standing) -> Happened:
    asked = standing.predicate
    about = f"{asked['transition']}: {asked['from']} → {asked['to']}"
    return Happened(
        moment(standing.request.entered_at),
        "A change was asked for"
        if standing.ended is None or standing.is_made
        else "A change was asked for, and not made",
        about,
        standing.requester.person,
        () if standing.is_made else tuple(each.person for each in standing.approvals),
        asked["reason"] if standing.ended is None or standing.is_made else f"{asked['reason']} ({standing.ended})",
    )


def moment(at: datetime.datetime) -> str:
    """UTC, to the second."""
    return at.isoformat(timespec="seconds")[:19]
