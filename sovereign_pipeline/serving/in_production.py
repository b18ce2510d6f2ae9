"""Whether there is anything to serve, as a glance at the registry has it.

What belongs here: that glance. What does not: what may be served, which `deployable.py` verifies.
"""

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import is_there, open_registry
from sovereign_pipeline.ledger.states import lines_in


def lines_in_production(settings: Settings) -> list[str]:
    """Lines with an adapter in production, as the registry has it; nothing is verified. Raises as opening it does."""
    if not is_there(settings):
        return []
    with open_registry(settings).reading() as session:
        return lines_in(session, {"production"})
