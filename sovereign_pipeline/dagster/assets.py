"""Wrap each stage as a Dagster asset and its gates as asset checks: produce, evaluate, publish and display."""

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import dagster as dg

from sovereign_pipeline.base.errors import SovereignError, place_of
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.processes import die_with_parent
from sovereign_pipeline.base.settings import Settings, corpus_withheld, go_offline
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.dagster.asset_details import is_number, schema_of
from sovereign_pipeline.dagster.asset_page import nothing_to_do, page_of
from sovereign_pipeline.dagster.chain import PRESENTATION
from sovereign_pipeline.dagster.jobs import MLFLOW_CHECK
from sovereign_pipeline.dagster.resources import LINES, launch_with_pipes, materialized
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.gates import evaluate_gates, may_be_waived, recorded_verdict, waiver_in
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import officer_shown, trust_root_if_any
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Gate, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.mlflow_mirror import (
    differences,
    follow_after_act,
    mirror_adapter,
    mirror_evaluation,
    mirror_training,
)
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.release.acts import issues_by_adapter
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.workplace import open_workplace

NOT_REPEATED = "not repeated"
"""Metadata key of a check result that only refers to another asset's result. The command line does not print such a
result."""

WAIVED_BY = "waived by"


def check_specs(stage: Stage) -> list[dg.AssetCheckSpec]:
    """Return one check specification for each gate, partitioned by line."""
    return [
        dg.AssetCheckSpec(
            name=gate.name, asset=stage.kind, description=gate.question, blocking=True, partitions_def=LINES
        )
        for gate in stage.gates
    ]


def check_result(
    gate: Gate, workplace: Workplace, ref: ArtifactRef, verdict: Verdict, not_repeated: str | None = None
) -> dg.AssetCheckResult:
    """Convert a verdict to a check result. A waived gate becomes a warning: the run continues, and the page shows that
    the gate did not pass.

    Args:
        not_repeated: sentence to show instead of the verdict's message, if the verdict is about another asset.
    """
    description, severity = not_repeated or verdict.message, dg.AssetCheckSeverity.ERROR
    metadata: dict[str, Any] = {"outcome": verdict.outcome, "message": description}
    record = recorded_verdict(gate, workplace, ref)
    if record is not None and record.waiver is not None:
        waiver = waiver_in(workplace, record.waiver)
        officer = officer_shown(trust_root_if_any(workplace.settings), waiver.officer)
        metadata |= {WAIVED_BY: officer, "reason": waiver.reason, "waiver": waiver.kind}
        description, severity = f"{description} Waived by {officer}: {waiver.reason}", dg.AssetCheckSeverity.WARN
    elif not verdict.passed:
        line = workplace.line
        metadata["officer may"] = gate.permission(workplace, ref).replace("_", " ")
        if may_be_waived(gate, workplace, ref, verdict):
            description += " An officer may waive this gate."
            metadata["command"] = f"sovereign gates waive {line.line} {gate.name} --reason TEXT --key FILE"
    if not_repeated is None:
        numbers = {name: value for name, value in verdict.evidence.items() if is_number(value)}
        metadata |= {name.replace("_", " "): value for name, value in numbers.items()}
        metadata["evidence"] = dg.MetadataValue.json(verdict.evidence)
    elif verdict.passed:
        metadata[NOT_REPEATED] = True
    return dg.AssetCheckResult(
        check_name=gate.name, passed=verdict.passed, severity=severity, description=description, metadata=metadata
    )


def under_own_names(
    stage: Stage, found: Sequence[dg.AssetCheckResult], nothing_to_do: str | None
) -> list[dg.AssetCheckResult]:
    """Return one result for each gate of the stage. A gate without a result in `found` had nothing to evaluate: it gets
    a passed result with the text `nothing_to_do`."""
    results = {check.check_name: check for check in found}
    return [
        results.get(gate.name)
        or dg.AssetCheckResult(
            check_name=gate.name, passed=True, description=nothing_to_do, metadata={NOT_REPEATED: True}
        )
        for gate in stage.gates
    ]


def lets_through(check: dg.AssetCheckResult) -> bool:
    return check.passed or check.severity == dg.AssetCheckSeverity.WARN


def in_one_line(checks: Sequence[dg.AssetCheckResult]) -> str:
    """Summarise the checks in one line: the number of passed gates, and each gate that did not pass."""
    if not checks:
        return "no gates of its own"
    parts = [f"{sum(check.passed for check in checks)} of {len(checks)} gates passed"]
    for check in checks:
        if not check.passed:
            waived = check.metadata.get(WAIVED_BY)
            what = f"waived by {waived.value}" if waived is not None else str(check.metadata["outcome"].value).upper()
            parts.append(f"{check.check_name}: {what}")
    return "; ".join(parts)


Publication = Callable[[Workplace, ArtifactRef], dict[str, Any]]


def publish(stage: Stage, workplace: Workplace, ref: ArtifactRef, *, passed: bool) -> dict[str, Any]:
    """Publish an artifact and return the facts for the asset's page. `passed`: whether every gate passed or was
    waived."""
    published: dict[str, Any] = {}
    if stage.kind in WHATEVER_THE_VERDICT:
        published |= WHATEVER_THE_VERDICT[stage.kind](workplace, ref)
    if passed and stage.kind in ONCE_PASSED:
        published |= ONCE_PASSED[stage.kind](workplace, ref)
    return published


def _mirror_training(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    return {"mlflow run": mirrored_run(workplace, ref, mirror_training)}


def _mirror_evaluation(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    return {"mlflow run": mirrored_run(workplace, ref, mirror_evaluation)}


def mirrored_run(workplace: Workplace, ref: ArtifactRef, mirror: Callable[[Settings, Artifact], str]) -> str:
    """Mirror an artifact as a run in MLflow. Return the run's id or an error message."""
    artifact, what = workplace.store.open(ref), f"{ref.kind} {short(ref.digest)} is stored"
    return _mirrored(lambda: mirror(workplace.settings, artifact), workplace, what, "the next run writes it again")


def _mirrored(mirror: Callable[[], str], workplace: Workplace, what: str, remedy: str) -> str:
    """Return the result of `mirror`. If it fails, report the error and return an error message. The run continues,
    because no decision depends on MLflow."""
    try:
        return mirror()
    except Exception as error:  # any error of MLflow, its database or its disk
        workplace.progress(f"{what}, but MLflow does not show it yet ({type(error).__name__})")
        return f"none: {type(error).__name__}; {remedy}"


def _register(workplace: Workplace, ref: ArtifactRef) -> dict[str, Any]:
    registry = open_registry(workplace.settings)
    adapter = register(registry, workplace, ref)
    version = _mirror_adapter(workplace, registry, adapter)
    with registry.reading() as session:
        issues = [issue.text for issue in issues_by_adapter(session, registry.settings, adapter.id).get(adapter.id, ())]
        recalls = [recall.id for recall in open_recalls(session, registry.settings, adapter.id)]
    return {
        "adapter": adapter.id,
        "version": adapter.version,
        "review by": adapter.review_date.isoformat(),
        **({"known issues": "; ".join(issues)} if issues else {}),
        **({"recalled by": ", ".join(recalls)} if recalls else {}),
        "mlflow version": version,
    }


def _mirror_adapter(workplace: Workplace, registry: Registry, adapter: Adapter) -> str:
    """Mirror the adapter to MLflow. Return the version in MLflow or an error message. If mirroring fails, the adapter
    is still registered."""

    def mirror() -> str:
        version = mirror_adapter(workplace.settings, workplace.store, adapter)
        return follow_after_act(registry, workplace.settings, adapter.line, workplace.progress) or version

    remedy = "`sovereign adapters mlflow --repair` writes it again"
    return _mirrored(mirror, workplace, f"{adapter.id} is registered", remedy)


WHATEVER_THE_VERDICT: Mapping[str, Publication] = {"evaluation_report": _mirror_evaluation}
"""Maps a stage to the function that publishes its artifact. The function is called whatever the verdicts are, because a
report whose gates did not pass needs the most attention."""

ONCE_PASSED: Mapping[str, Publication] = {
    "sft_adapter": _mirror_training,
    "aligned_adapter": _mirror_training,
    "registered_adapter": _register,
}
"""Maps a stage to the function that publishes its artifact. The function is called only if each gate passed or was
waived."""


def stage_asset(stage: Stage) -> dg.AssetsDefinition:
    """Build the asset of one stage. A gate that does not pass is recorded, and stops the downstream assets."""
    shown = PRESENTATION[stage.kind]

    def materialize(
        context: dg.AssetExecutionContext, installation: dg.ResourceParam[Settings], **inputs: ArtifactRef
    ) -> Iterator[Any]:
        go_offline()
        if multiprocessing.parent_process() is not None:
            die_with_parent()  # otherwise a step would continue, on the device, after its run was killed
        with as_failures(stage.kind):
            launch = launch_with_pipes(context, installation)
            workplace = open_workplace(
                installation, context.partition_key, context.log.info, launch, with_corpus=stage.reads_corpus
            )
            with corpus_withheld() if workplace.store.corpus is None else nullcontext():
                optional = {
                    each.kind: materialized(workplace.store, context.instance, each.kind, workplace.line.line)
                    for each in stage.inputs_of(workplace.line)
                    if each.kind not in inputs
                }
                result, checks = _materialization(stage, workplace, {**inputs, **optional})
        yield result
        yield from checks  # evaluated after the result, so that a check is not dated before its asset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # preview feature: Dagster is pinned, and a test covers it
        return dg.asset(
            name=stage.kind,
            ins={upstream.kind: dg.AssetIn() for upstream in stage.inputs},
            # Dagster's graph is the same for all lines: an optional input is always upstream, and read only by lines
            # that use it.
            deps=[upstream.kind for upstream in stage.optional_inputs],
            partitions_def=LINES,
            group_name=shown.group,
            owners=[shown.owner],
            kinds=set(shown.kinds),
            description=shown.description,
            code_version=stage.code_version,
            metadata=schema_of(stage.kind),
            io_manager_key="references",
            pool=shown.pool,
            check_specs=check_specs(stage),
        )(materialize)


def _materialization(
    stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]
) -> tuple[dg.MaterializeResult[ArtifactRef], list[dg.AssetCheckResult]]:
    before = workplace.store.current(workplace.line.line, stage.kind)
    production = produce(stage, workplace, inputs)
    evaluated = stage.passthrough_input(workplace.line) or stage
    idle = nothing_to_do(stage, workplace, production.ref)
    if idle is not None:
        workplace.progress(idle)
    verdicts = evaluate_gates(evaluated, workplace, production.ref)
    found = [check_result(gate, workplace, production.ref, verdicts[gate.name], idle) for gate in evaluated.gates]
    published = publish(stage, workplace, production.ref, passed=all(lets_through(check) for check in found))
    checks = under_own_names(stage, found, idle)
    result = dg.MaterializeResult(
        value=production.ref,
        data_version=dg.DataVersion(production.ref.digest),
        metadata=page_of(workplace, production, verdicts, in_one_line(checks), published, idle, before),
    )
    return result, checks


@contextmanager
def as_failures(kind: str) -> Iterator[None]:
    """Convert every error that is raised in the block to a Dagster failure."""
    try:
        yield
    except SovereignError as error:
        raise refusal(error) from error
    except Exception as error:
        # A bug. Its own message and traceback may quote a document, and Dagster stores both.
        raise dg.Failure(
            f"{kind} failed with {place_of(error)}. This is a bug. Please report it.", allow_retries=False
        ) from None


def refusal(error: SovereignError) -> dg.Failure:
    """Convert an error to a Dagster failure. The command line (`runner.py`) reads message, hint and remedy from this
    failure."""
    metadata: dict[str, Any] = {
        "error": type(error).__name__,
        "exit_status": error.exit_status,
        "message": error.message,
        "hint": error.hint,
    }
    if error.remedy is not None:
        metadata |= {"act": error.remedy.act, "about": dict(error.remedy.about)}
    return dg.Failure(str(error), metadata=metadata, allow_retries=False)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.PreviewWarning)  # preview feature: Dagster is pinned, and a test covers it

    @dg.asset_check(
        asset=MLFLOW_CHECK.asset_key,
        name=MLFLOW_CHECK.name,
        blocking=False,
        partitions_def=LINES,
        description="Does MLflow match the registry? A failure is only a warning, because the registry decides.",
    )
    def mlflow_follows(
        context: dg.AssetCheckExecutionContext, installation: dg.ResourceParam[Settings]
    ) -> dg.AssetCheckResult:
        line = context.partition_key
        try:
            found = [str(each) for each in differences(open_registry(installation), installation, line)]
        except SovereignError as error:
            found = [error.message]
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description=and_more(found, separator="; ") or f"{line}: MLflow matches the registry",
            metadata={"differences": len(found)},
        )
