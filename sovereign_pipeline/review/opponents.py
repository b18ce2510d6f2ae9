"""Which adapter a candidate is compared with: by rule, or by name.

The rule: the line's newest other adapter that was reviewed itself and did not lose; where there is none, the base
model. An adapter that nobody reviewed could be a straw man, so it becomes the opponent by name alone, which the plan
and the result state. What belongs here: that choice. What does not: opening a review (`opening.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import adapters_on_record
from sovereign_pipeline.ledger.states import ENDED, states
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.review.closed_reviews import standings
from sovereign_pipeline.review.plan import OpponentChoice

BASE = "base"
"""Names the base model as the opponent; no adapter's id is without a version."""


@dataclass(frozen=True)
class Opponent:
    """What a candidate is compared with."""

    adapter: Adapter | None = field(compare=False)
    """None for the candidate's base model."""
    id: str
    """Of the adapter, or the name of the base model."""
    choice: OpponentChoice


def choose_opponent(
    registry: Registry, store: ArtifactStore, candidate: Adapter, named: str | None, actor: str
) -> Opponent:
    """Choose by rule, or take the named one.

    Args:
        named: id of an adapter of the line, or `base`; None for the rule.
        actor: who named it.

    Raises NotFoundError for an unknown adapter, InputError for one of another line or with the candidate's weights, and
    ConflictError for one that lost its review, and for a candidate that was reviewed already: naming opponents one
    after the other would let it pass against the weakest.
    """
    standing = standings(registry, store, candidate.line)
    others = _other_adapters(registry, candidate)
    by_rule = next((each for each in others if standing.get(each.adapter_sha256) is False), None)
    newer = others[: others.index(by_rule)] if by_rule is not None else others
    opponent = by_rule if named is None else _named(registry, candidate, named, standing)
    if _name(candidate, opponent) != _name(candidate, by_rule) and candidate.adapter_sha256 in standing:
        raise ConflictError(
            f"{candidate.id} was reviewed already. Another review of it is against what the rule gives: "
            f"{_name(candidate, by_rule)}.",
            "Name no opponent.",
        )
    return Opponent(
        opponent,
        _name(candidate, opponent),
        OpponentChoice(
            named_by=actor if named is not None else None,
            by_rule=_name(candidate, by_rule),
            is_reviewed=opponent.adapter_sha256 in standing if opponent is not None else None,
            never_reviewed=tuple(each.id for each in newer if each.adapter_sha256 not in standing),
        ),
    )


def _other_adapters(registry: Registry, candidate: Adapter) -> list[Adapter]:
    """The line's adapters with other weights than the candidate's that are still in use, the newest first."""
    with registry.reading() as session:
        adapters, state = adapters_on_record(session, candidate.line), states(session, candidate.line)
    others = [
        each for each in adapters if each.adapter_sha256 != candidate.adapter_sha256 and state[each.id] not in ENDED
    ]
    return sorted(others, key=lambda each: each.version_numbers, reverse=True)


def _named(registry: Registry, candidate: Adapter, named: str, standing: Mapping[str, bool]) -> Adapter | None:
    if named == BASE:
        return None
    opponent = find_adapter(registry, named)
    if opponent.line != candidate.line:
        raise InputError(
            f"{named} is an adapter of line {opponent.line}, not of {candidate.line}.", "Name another one."
        )
    if opponent.adapter_sha256 == candidate.adapter_sha256:
        raise InputError(f"{named} has the weights of the candidate {candidate.id}.", "Name another one.")
    if standing.get(opponent.adapter_sha256):
        raise ConflictError(f"{named} lost its blind review, so it is no opponent.", "Name another one.")
    return opponent


def _name(candidate: Adapter, opponent: Adapter | None) -> str:
    return opponent.id if opponent is not None else candidate.base_model
