"""What is missing before an adapter reaches its next state, by the same assertions that the transition makes.

What belongs here: which transition comes next, and asking what refuses it. What does not: what refuses it
(`release/`).
"""

import datetime
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SovereignError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.record.catalog import State, transitions_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry_pages.views import Missing, NextStep
from sovereign_pipeline.release.requests import (
    assert_not_recalled,
    assert_staged_long_enough,
    assert_still_so,
    evidence_of,
)
from sovereign_pipeline.release.standing import Arrow, Standing, arrow
from sovereign_pipeline.workplace import open_workplace

FURTHER: Mapping[State, str] = {
    "registered": "approve",
    "in review": "approve",
    "approved": "stage",
    "staged": "promote",
    "superseded": "roll_back",
}
"""State -> the transition that takes an adapter on; from the others nothing does."""


def next_step(registry: Registry, adapter: Adapter, state: State, asked: Sequence[Standing]) -> NextStep | None:
    """The next transition of an adapter with everything that is missing for it; None where nothing follows.

    asked: every request about the adapter. Raises IntegrityError naming what was changed.
    """
    if state not in FURTHER:
        return None
    step = arrow(FURTHER[state], adapter.id, state)
    missing = (*_refusals(registry, adapter, step), *_approvals(registry, adapter, step, asked))
    return NextStep(step.name, step.after, missing)


def _refusals(registry: Registry, adapter: Adapter, step: Arrow) -> list[Missing]:
    """What the transition would be refused for now, each asserted by itself so that one hides no other."""
    try:
        workplace = open_workplace(registry.settings, adapter.line)
    except IntegrityError:
        raise
    except SovereignError as error:  # a line that was removed, or whose recipe is not valid
        return [_missing(error)]
    with registry.reading() as session:
        return [
            refused
            for refused in (
                _refused(lambda: assert_not_recalled(session, registry.settings, adapter, step)),
                _refused(lambda: evidence_of(workplace, registry, adapter, step)),
                _refused(lambda: _assert_staged_long_enough(session, workplace, adapter, step)),
            )
            if refused is not None
        ]


def _assert_staged_long_enough(session: Session, workplace: Workplace, adapter: Adapter, step: Arrow) -> None:
    assert_staged_long_enough(workplace, step, transitions_of(session, adapter.line), adapter)


def _refused(asserted: Callable[[], object]) -> Missing | None:
    """Raises IntegrityError: of what was changed nothing is shown, and its name is for the log."""
    try:
        asserted()
    except IntegrityError:
        raise
    except SovereignError as error:
        return _missing(error)
    return None


def _missing(error: SovereignError) -> Missing:
    return Missing(error.message, error.hint)


def _approvals(registry: Registry, adapter: Adapter, step: Arrow, asked: Sequence[Standing]) -> list[Missing]:
    found, counting = list[Missing](), list[Standing]()
    for each in asked:
        if each.ended is not None or each.request.transition != step.name or each.is_made:
            continue
        if (why := _overtaken(registry, adapter, step, each)) is None:
            counting.append(each)
        else:
            named = f"Request {each.request.id[:12]} by {each.requester.person}"
            found.append(Missing(f"{named} {why}, so no approval makes it.", "Request anew."))
    if not counting:
        needed = _needed(registry, adapter, step)
        more = f" and {counted(needed, 'approval')} by others" if needed else ""
        return [*found, Missing(f"A request by an officer{more}.")]
    for each in counting:
        lacking = each.needed - len(each.approvals)
        if lacking <= 0:
            continue
        given = f", after {and_more(officer.person for officer in each.approvals)}" if each.approvals else ""
        expires = datetime.datetime.fromisoformat(each.predicate["expires"])
        found.append(
            Missing(
                f"{counted(lacking, 'more approval')} of request {each.request.id[:12]} by {each.requester.person}"
                f"{given}; it expires on {expires:%Y-%m-%d}."
            )
        )
    return found


def _overtaken(registry: Registry, adapter: Adapter, step: Arrow, asked: Standing) -> str | None:
    """Why a request would be refused with approvals enough. No other adapter is named: a reader may not see it."""
    with registry.reading() as session:
        try:
            assert_still_so(session, asked.request, asked.predicate, adapter)
        except ConflictError:
            return "was made when the adapter was in another state or another one was in production"
    try:
        evidence = evidence_of(open_workplace(registry.settings, adapter.line), registry, adapter, step)
    except IntegrityError:
        raise
    except SovereignError:  # which is among what is missing
        return None
    return None if evidence == asked.predicate["evidence"] else "rests on other evidence than there is now"


def _needed(registry: Registry, adapter: Adapter, step: Arrow) -> int:
    return load_institution(registry.settings.data).release.approvals_for(step.name, adapter.classification)
