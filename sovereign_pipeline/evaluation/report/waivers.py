"""Earlier waivers: what officers waived for the line's earlier adapters, for the report."""

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.artifacts.stage import Outcome, Workplace
from sovereign_pipeline.artifacts.waiver import WaiverKind
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.ledger.catalog import waivers_of_line
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER


class EarlierWaiver(Frozen):
    """One waiver behind a registered adapter."""

    adapter: str
    """Its id in the registry."""
    gate: str
    outcome: Outcome
    kind: WaiverKind
    officer: str
    reason: str
    at: str
    """UTC, ISO 8601."""
    digest: str
    """Of the waiver's artifact."""


def earlier_waivers(workplace: Workplace) -> tuple[EarlierWaiver, ...]:
    """The waivers of every registered adapter of the line except the present candidate, oldest first."""
    line = workplace.line.line
    candidate = workplace.store.current(line, ALIGNED_ADAPTER.kind)
    besides = candidate.digest if candidate is not None else None
    rows = waivers_of_line(open_registry(workplace.settings), line, besides)
    return tuple(EarlierWaiver(**{name: row[name] for name in EarlierWaiver.model_fields}) for row in rows)


def waiver_digests(workplace: Workplace) -> dict[str, str]:
    """`acceptances` -> digest of the listed waivers, as the stage's external input; empty where there are none."""
    earlier = earlier_waivers(workplace)
    return {"acceptances": digest_of([each.model_dump(mode="json") for each in earlier])} if earlier else {}
