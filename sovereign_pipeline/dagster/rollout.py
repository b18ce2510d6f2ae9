"""Define the assets `staged_adapter` and `production_adapter`, which write officers' decisions into the line's flag."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from sovereign_pipeline.base.errors import ConflictError, SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.assets import refusal
from sovereign_pipeline.dagster.jobs import ROLLOUT_JOB
from sovereign_pipeline.dagster.plots import hold_png
from sovereign_pipeline.dagster.resources import LINES
from sovereign_pipeline.record.catalog import line_of, states
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.workplace import open_workplace

if TYPE_CHECKING:
    from sovereign_pipeline.policy.institution import Institution
    from sovereign_pipeline.record.database import Registry
    from sovereign_pipeline.record.stage import Workplace
    from sovereign_pipeline.serving.rollout.flag import Flag
    from sovereign_pipeline.serving.rollout.hold import State

Role = Literal["staged", "production"]
ASKED = {"staged": "stage", "production": "promote"}
SEEN = "sovereign/"
"""Prefix of a run tag. The rest of the tag is a role. The tag's value is the adapter that had this role when the sensor
checked."""


def flag_asset(role: Role, after: str, holds: str, materializing: str) -> dg.AssetsDefinition:
    """Build the asset of one role (staged or production) in a line's flag, downstream of the asset `after`. The
    description consists of the texts `holds` (content) and `materializing` (effect)."""

    def materialize(
        context: dg.AssetExecutionContext, installation: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        try:
            workplace = open_workplace(installation, context.partition_key, context.log.info)
            registry, seen = open_registry(installation), context.run.tags.get(SEEN + role)
            if seen is not None and not _is_there(registry, workplace.line.line, role):
                context.log.info(f"Skipped: {seen} was {role} at the sensor's check, but no adapter has this role now.")
                return
            result = _materialization(role, workplace, registry)
        except SovereignError as error:
            raise refusal(error) from error
        yield result

    return dg.asset(
        name=f"{role}_adapter",
        deps=[after],
        partitions_def=LINES,
        group_name="release",
        owners=["team:model-office"],
        kinds={"flagd"},
        code_version="1",
        output_required=False,  # no output if the officers changed their decision before the sensor's run
        description=f"{holds}\n\n**Materializing it** {materializing}",
    )(materialize)


STAGED = flag_asset(
    "staged",
    "registered_adapter",
    "The adapter that officers staged. It answers the users whom `rollout` in `institution.yaml` selects.",
    "writes the adapter into the line's flag and takes seconds. It fails if no adapter of the line is staged, and "
    "reports the missing decision. Gateways follow the flag as soon as they have loaded the adapter.",
)
PRODUCTION = flag_asset(
    "production",
    "staged_adapter",
    "The adapter that answers all users who do not get the staged adapter.",
    "writes the adapter into the line's flag and takes seconds. It fails if no adapter of the line is in production, "
    "and reports the missing decision. The previous adapter stays loaded, so that an officer can roll back at once.",
)


@dg.sensor(
    job=ROLLOUT_JOB,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Materializes staged_adapter and production_adapter of a line after a decision of officers, a change "
    "of the flag, or a new result of the staged adapter's trial.",
)
def rollouts(
    context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    from sovereign_pipeline.policy.institution import load_institution
    from sovereign_pipeline.serving.rollout.flag import sequences

    institution = load_institution(installation.data)
    asked: dict[str, str] = json.loads(context.cursor or "{}")
    keys: dict[str, str] = {}
    known = context.instance.get_dynamic_partitions("line")
    for line, held in _held(open_registry(installation), known).items():
        there = sequences(installation, line)
        facts = [line, *(f"{role}={held[role]}" for role in sorted(held)), str(there[-1] if there else 0)]
        keys[line] = ":".join([*facts, _result_of(installation, line, institution)])
        if keys[line] == asked.get(line):
            continue  # for a run request, Dagster would search for a run with its key at every tick
        yield dg.RunRequest(
            keys[line],
            partition_key=line,
            asset_selection=[dg.AssetKey(f"{role}_adapter") for role in sorted(held)],
            tags={SEEN + role: adapter for role, adapter in held.items()},
        )
    context.update_cursor(json.dumps(keys, sort_keys=True))
    if keys.items() <= asked.items():
        yield dg.SkipReason("Nothing changed." if keys else "No adapter is staged or in production.")


def _held(registry: "Registry", known: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return, for each line in `known`, a mapping of role to adapter. A line without an adapter in any role is left
    out."""
    found = {line: dict[str, str]() for line in known}
    with registry.reading() as session:
        for adapter, state in states(session).items():
            if state in ASKED and (line := line_of(adapter)) in found:
                found[line][state] = adapter
    return {line: held for line, held in found.items() if held}


def _materialization(role: Role, workplace: "Workplace", registry: "Registry") -> dg.MaterializeResult[Any]:
    from sovereign_pipeline.serving.rollout.publishing import follow

    line = workplace.line.line
    if not _is_there(registry, line, role):
        raise ConflictError(f"Line {line} has no adapter in the state '{role}'.", _missing(role, workplace, registry))
    flag, _ = follow(registry, workplace)
    adapter = flag.staged if role == "staged" else flag.production
    assert adapter is not None  # the ledger has an adapter in this role
    metadata: dict[str, Any] = {
        "adapter": adapter,
        "who gets what": flag.in_words(),
        "change": flag.sequence,
        "why": f"{flag.cause}: {flag.reason}",
        "assigned by": flag.evaluator,
    }
    state = _hold(workplace.settings, flag, workplace.institution) if role == "staged" else None
    if state is not None:
        told = f"{state.outcome}: {state.because}"
        metadata |= {
            "hold": f"{told}. {state.expected}" if state.expected else told,
            "compared": dg.MetadataValue.md(_table(state)),
        }
        if drawn := bounds_of(state):
            picture = base64.b64encode(hold_png(drawn)).decode()
            metadata["hold, drawn"] = dg.MetadataValue.md(f"![hold](data:image/png;base64,{picture})")
    return dg.MaterializeResult(data_version=dg.DataVersion(flag.adapters[adapter].digest), metadata=metadata)


def _is_there(registry: "Registry", line: str, role: Role) -> bool:
    with registry.reading() as session:
        return role in states(session, line).values()


def _missing(role: Role, workplace: "Workplace", registry: "Registry") -> str:
    """Describe the decisions of officers that are still missing."""
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.release.standing import standings

    trust = trust_root(workplace.settings)
    with registry.reading() as session:
        open_requests = [
            f"Request {each.request.id[:12]} for {each.request.adapter_id} has {len(each.approvals)} of "
            f"{each.predicate['approvals']} approvals."
            for each in standings(session, workplace.settings, trust, workplace.line.line)
            if each.ended is None and each.request.transition == ASKED[role]
        ]
    return (
        " ".join(open_requests)
        or f"No request '{ASKED[role]}' is open. An officer must open a request, and other officers must approve it."
    )


def _hold(settings: Settings, flag: "Flag", institution: "Institution") -> "State | None":
    from sovereign_pipeline.serving.rollout.hold import state_of
    from sovereign_pipeline.serving.rollout.telemetry import counts_directory

    return state_of(settings, counts_directory(settings), flag, institution)


def _result_of(settings: Settings, line: str, institution: "Institution") -> str:
    """Return the outcome of the staged adapter's trial, or "none" if there is no trial. If the trial cannot be read,
    return "unknown". The run that the sensor then starts reports the reason."""
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.serving.rollout.flag import current_flag

    try:
        flag = current_flag(settings, line, trust_root(settings))
        state = _hold(settings, flag, institution)
    except SovereignError:
        return "unknown"
    return state.outcome if state is not None else "none"


def bounds_of(state: "State") -> list[tuple[str, float, float]]:
    """Return a tuple (metric, difference, upper limit of the difference) for each metric with enough users. Both
    numbers are in units of the margin."""
    from sovereign_pipeline.serving.rollout.hold import ALPHA, upper_limit

    return [
        (each.measure.in_words, each.found.estimate / each.margin, upper_limit(each.found, ALPHA) / each.margin)
        for each in state.compared
        if each.found is not None
    ]


def _table(state: "State") -> str:
    rows = [f"| {name} | {what} |" for name, _, what in (each.in_words().partition(": ") for each in state.compared)]
    numbers = [
        f"| days | {state.days:.1f} |",
        f"| users | {state.users[0]} staged, {state.users[1]} production |",
        f"| answers | {state.answers[0]} staged, {state.answers[1]} production |",
        f"| feedback | of {state.rated[0]} answers staged, {state.rated[1]} production |",
        f"| reports of severity 1 | {state.severe} |",
    ]
    return "\n".join(["| | staged against production |", "|---|---|", *numbers, *rows])
