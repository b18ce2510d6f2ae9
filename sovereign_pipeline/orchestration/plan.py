"""Which assets of a line would change if they were materialized now. Decides from digests alone; runs nothing."""

from sovereign_pipeline.artifacts.gates import assert_usable
from sovereign_pipeline.artifacts.making import fingerprint
from sovereign_pipeline.artifacts.stage import Stage, Workplace
from sovereign_pipeline.errors import GateRefused, StaleInput
from sovereign_pipeline.orchestration.chain import CHAIN
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER


def stale_kinds(workplace: Workplace) -> list[str]:
    """Kinds, in the order of the chain, whose current artifact is not what the recipe and sources would give now.

    Everything below a stale asset counts as stale; when it runs, it finds its old artifact if its inputs turn out the
    same. A record that the registry does not hold (any more) is stale too. Raises RecipeError, SourceError or
    IntegrityError where that cannot be told.
    """
    stale: set[str] = set()
    for stage in CHAIN:
        if any(upstream.kind in stale for upstream in stage.inputs) or not _is_current(stage, workplace):
            stale.add(stage.kind)
    return [stage.kind for stage in CHAIN if stage.kind in stale]


def _is_current(stage: Stage, workplace: Workplace) -> bool:
    from sovereign_pipeline.ledger.catalog import is_registered
    from sovereign_pipeline.ledger.database import open_registry

    store, line = workplace.store, workplace.line.line
    current = store.current(line, stage.kind)
    inputs = {upstream.kind: store.current(line, upstream.kind) for upstream in stage.inputs}
    known = {kind: ref for kind, ref in inputs.items() if ref is not None}
    if current is None or len(known) < len(inputs):
        return False
    try:
        assert_usable(stage, workplace, current)
    except (GateRefused, StaleInput):
        return False  # materializing it again is what puts this right, or says why it cannot
    passthrough = stage.passthrough_of(workplace.line)
    if passthrough is not None:
        return True
    found = store.find(fingerprint(stage, workplace, known))
    if found is None or found.digest != current.digest:
        return False
    return stage is not REGISTERED_ADAPTER or is_registered(open_registry(workplace.settings), current.digest)
