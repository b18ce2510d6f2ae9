"""What officers let pass before: every acceptance and override behind the line's earlier adapters, for the report.

The registry comes after the evaluation in the order of the work, so it is imported inside the function that asks it.
"""

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.artifacts.stage import Outcome, Workplace
from sovereign_pipeline.artifacts.waiver import WaiverKind
from sovereign_pipeline.evaluation.records import Record
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER


class EarlierWaiver(Record):
    """adapter: its id in the registry. at: UTC, ISO 8601. digest: of the acceptance's artifact."""

    adapter: str
    gate: str
    outcome: Outcome
    kind: WaiverKind
    officer: str
    reason: str
    at: str
    digest: str


def earlier_waivers(workplace: Workplace) -> tuple[EarlierWaiver, ...]:
    """Of every registered adapter of the line but the present candidate, oldest first."""
    from sovereign_pipeline.ledger.catalog import waivers_of_line
    from sovereign_pipeline.ledger.database import open_registry

    line = workplace.line.line
    candidate = workplace.store.current(line, ALIGNED_ADAPTER.kind)
    besides = candidate.digest if candidate is not None else None
    rows = waivers_of_line(open_registry(workplace.settings), line, besides)
    return tuple(EarlierWaiver(**{name: row[name] for name in EarlierWaiver.model_fields}) for row in rows)


def waiver_digests(workplace: Workplace) -> dict[str, str]:
    """`acceptances` -> digest of what the report lists, as the stage's external input; empty where there are none."""
    earlier = earlier_waivers(workplace)
    return {"acceptances": digest_of([each.model_dump(mode="json") for each in earlier])} if earlier else {}
