"""The one table of allowed transitions, and what each needs.

What belongs here: arrows between states. What does not: how many officers approve one (`policy/release.py`), and making
a transition (`requests.py`, `decisions.py`).
"""

from dataclasses import dataclass

from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.ledger.states import State
from sovereign_pipeline.policy.recipe_model import nearest_known
from sovereign_pipeline.policy.release import TransitionName

UNDECIDED: frozenset[State] = frozenset({"registered", "in review"})
USABLE: frozenset[State] = frozenset({"approved", "staged", "production", "superseded"})


@dataclass(frozen=True)
class Arrow:
    """A change of state that there is."""

    name: TransitionName
    before: frozenset[State]
    after: State
    needs_evidence: bool = False
    """Every file behind the adapter is hashed again, and its blind review must have passed or been waived."""
    takes_production: bool = False
    """Whatever is in production for the line is superseded with it."""
    stops_at_recall: bool = True
    """An open recall forbids it."""


ARROWS: tuple[Arrow, ...] = (
    Arrow("approve", UNDECIDED, "approved", needs_evidence=True),
    Arrow("stage", frozenset({"approved", "superseded"}), "staged", needs_evidence=True),
    Arrow("unstage", frozenset({"staged"}), "approved", stops_at_recall=False),
    Arrow("promote", frozenset({"staged"}), "production", needs_evidence=True, takes_production=True),
    Arrow("roll_back", frozenset({"superseded"}), "production", takes_production=True),
    Arrow("reject", UNDECIDED, "rejected", stops_at_recall=False),
    Arrow("recall", UNDECIDED | USABLE, "recalled", stops_at_recall=False),
    Arrow("retire", UNDECIDED | USABLE | {"rejected", "recalled"}, "retired", stops_at_recall=False),
)

SUPERSEDE = "supersede"
"""The transition of the adapter that a promotion replaces. Nobody requests it by itself."""


def arrow(name: str, adapter: str, before: State) -> Arrow:
    """The arrow of a transition from a state.

    Raises InputError for an unknown name, and ConflictError for a state in which it does not begin.
    """
    names = [each.name for each in ARROWS]
    found = next((each for each in ARROWS if each.name == name), None)
    if found is None:
        raise InputError(f"There is no transition '{name}'.", f"{nearest_known(name, names)}")
    if before in found.before:
        return found
    allowed = [each.name for each in ARROWS if before in each.before]
    raise ConflictError(
        f"{adapter} is {before}, and '{name}' begins in {' or '.join(sorted(found.before))}.",
        f"From {before} there {'is' if len(allowed) == 1 else 'are'}: {', '.join(allowed)}."
        if allowed
        else f"Nothing follows {before}.",
    )
