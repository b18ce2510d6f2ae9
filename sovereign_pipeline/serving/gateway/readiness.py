"""How it stands with the lines of a gateway, as anybody may know it: none is named.

What belongs here: that condition. What does not: engine and journal (`answering.py`), and telling it (`routes.py`).
"""

from collections.abc import Collection
from dataclasses import dataclass

from sovereign_pipeline.serving.deployment import Deployed
from sovereign_pipeline.serving.flags.in_force import Flags


@dataclass(frozen=True)
class Condition:
    """Whether lines answer, and by their newest flags."""

    answers: bool = True
    """False: an adapter is in production, and none of those that are answers."""
    is_behind: bool = False
    """A newer flag of a line is not in force here."""


def condition_of(deployed: Deployed, loaded: Collection[str], flags: Flags) -> Condition:
    """loaded: digests of what is verified and in the engine."""
    given = [flag.adapters[flag.production].digest for flag in flags.flags().values() if flag.production is not None]
    in_production = any(each.is_in_production for each in deployed.served)
    is_asked_of = bool(given or in_production or deployed.refused)
    return Condition(not is_asked_of or any(each in loaded for each in given), bool(flags.problems()))
