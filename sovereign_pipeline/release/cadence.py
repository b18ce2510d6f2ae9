"""When the newest adapter of each line is due for a review: by the calendar, or by an event that its recipe names.

The calendar counts from the registration or from the last review. A recipe whose cadence became shorter makes a review
due earlier than the date in the record; one whose cadence became longer does not put that date off. A line whose recipe
is gone keeps the date of its newest adapter.

What belongs here: the dates, and recording that an adapter was reviewed. What does not: what starts a run
(`orchestration/`), and the blind review of a candidate (`review/`).
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session, load_only

from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.lifecycle_tables import AdapterReview
from sovereign_pipeline.ledger.states import ENDED, states
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.policy.cadence import Cadence
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.policy.line import Line, load_lines
from sovereign_pipeline.release.causes import Cause, Registered, causes
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.officers_words import officers_words

REVIEWED = "adapter reviewed"
OVERDUE_AFTER = datetime.timedelta(days=30)
"""So long after its day a review that is due is overdue."""

State = Literal["not due", "due", "overdue"]


@dataclass(frozen=True)
class Due:
    """The review of a line's newest adapter."""

    line: str
    adapter: str
    on: datetime.date
    """By the calendar."""
    state: State
    causes: tuple[Cause, ...]
    """Events that make it due, whatever the day."""
    retrain: bool
    """Whether the recipe lets the chain be run again."""
    has_recipe: bool
    """False for a line that was removed, or whose recipe is not valid."""
    key: str | None
    """Of the run of the chain that this review asks for, such as `permits-desk:2027-H1`; None while nothing is due."""


def due_reviews(registry: Registry, settings: Settings, today: datetime.date) -> list[Due]:
    """The review of the newest adapter of every line that has one, by line. Raises RecipeError for the institution's
    file; the invalid recipe of one line hides no other."""
    institution = load_institution(settings.data)
    recipes = {recipe.line: recipe for recipe in load_lines(settings.data, institution).valid}
    with registry.reading() as session:
        reviewed = _last_reviews(session)
        return [
            _due(session, each, recipes.get(each.line), institution, settings, reviewed.get(each.id), today)
            for each in _newest_adapters(session)
        ]


def record_review(registry: Registry, adapter_id: str, text: str, officer: str, now: datetime.datetime) -> None:
    """Record that an officer reviewed an adapter and keeps it, with its entry in the ledger.

    Raises NotFoundError for an unknown adapter, and InputError where name or text is empty.
    """
    officer, text = officers_words(officer, "The name"), officers_words(text, "A review")
    find_adapter(registry, adapter_id)
    with registry.writing() as session:
        of_adapter = select(func.count()).select_from(AdapterReview).where(AdapterReview.adapter_id == adapter_id)
        number = 1 + (session.scalar(of_adapter) or 0)
        session.add(AdapterReview(adapter_id=adapter_id, number=number, text=text, officer=officer, reviewed_at=now))
        session.flush()
        audit_log.append(session, officer, REVIEWED, {"adapter": adapter_id, "number": number, "text": text})


def _due(
    session: Session,
    adapter: Adapter,
    recipe: Line | None,
    institution: Institution,
    settings: Settings,
    reviewed_at: datetime.datetime | None,
    today: datetime.date,
) -> Due:
    cadence = recipe.review if recipe is not None else Cadence()
    on = cadence.next_day((reviewed_at or adapter.registered_at).date(), institution.review_every_days)
    if reviewed_at is None:
        on = min(on, adapter.review_date) if recipe is not None else adapter.review_date
    happened = causes(session, Registered(adapter, recipe, institution, settings)) if recipe is not None else []
    state: State = "overdue" if today > on + OVERDUE_AFTER else "due" if today >= on or happened else "not due"
    name = cadence.period(on) if today >= on else f"{happened[0].event}:{adapter.id}" if happened else None
    return Due(
        line=adapter.line,
        adapter=adapter.id,
        on=on,
        state=state,
        causes=tuple(happened),
        retrain=cadence.retrain,
        has_recipe=recipe is not None,
        key=f"{adapter.line}:{name}" if name is not None else None,
    )


def _newest_adapters(session: Session) -> list[Adapter]:
    """Of each line the adapter with the highest version that was not rejected, recalled or retired."""
    query = select(Adapter).options(load_only(*_COLUMNS))
    adapters = list(session.scalars(query))
    state = states(session)
    newest: dict[str, Adapter] = {}
    for adapter in adapters:
        known = newest.get(adapter.line)
        if state[adapter.id] not in ENDED and (known is None or adapter.version_numbers > known.version_numbers):
            newest[adapter.line] = adapter
    return [newest[line] for line in sorted(newest)]


_COLUMNS = (
    *(Adapter.line, Adapter.version, Adapter.registered_at, Adapter.review_date),
    *(Adapter.dataset_digest, Adapter.preference_dataset_digest, Adapter.base_model, Adapter.base_model_digest),
)


def _last_reviews(session: Session) -> Mapping[str, datetime.datetime]:
    query = select(AdapterReview.adapter_id, func.max(AdapterReview.reviewed_at)).group_by(AdapterReview.adapter_id)
    return {adapter: at for adapter, at in session.execute(query)}
