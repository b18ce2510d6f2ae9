"""A stage as a Dagster asset: produce the artifact, evaluate its gates, publish it, show it.

What belongs here: that order, and how a refusal ends a step. What does not: what a stage does (its room), how its asset
is described (`chain.py`), and what its page shows (`pages/`, `checks.py`).
"""

import multiprocessing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import dagster as dg

from sovereign_pipeline.base.errors import SovereignError, place_of
from sovereign_pipeline.base.processes import die_with_parent
from sovereign_pipeline.base.settings import Settings, corpus_withheld, go_offline
from sovereign_pipeline.orchestration.chain import PRESENTATION
from sovereign_pipeline.orchestration.checks import (
    check_result,
    check_specs,
    in_one_line,
    lets_through,
    under_own_names,
)
from sovereign_pipeline.orchestration.launching.pipes import launch_with_pipes
from sovereign_pipeline.orchestration.pages.corpus import schema_of
from sovereign_pipeline.orchestration.pages.page import nothing_to_do, page_of
from sovereign_pipeline.orchestration.partitions import LINES
from sovereign_pipeline.orchestration.publishing import publish
from sovereign_pipeline.orchestration.resources import materialized
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.workplace import open_workplace


def stage_asset(stage: Stage) -> dg.AssetsDefinition:
    """The asset of one stage. A gate that does not pass is recorded, and stops what depends on the asset."""
    shown = PRESENTATION[stage.kind]

    def materialize(
        context: dg.AssetExecutionContext, installation: dg.ResourceParam[Settings], **inputs: ArtifactRef
    ) -> Iterator[dg.MaterializeResult[ArtifactRef]]:
        go_offline()
        if multiprocessing.parent_process() is not None:
            die_with_parent()  # else a step would continue, on the device, after its run was killed
        try:
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
                result = _materialization(stage, workplace, {**inputs, **optional})
        except SovereignError as error:
            raise refusal(error) from error
        except Exception as error:
            # A bug. Its own message and traceback may quote a document, and Dagster keeps both.
            raise dg.Failure(
                f"{stage.kind} failed with {place_of(error)}. This is a fault of the program: report it.",
                allow_retries=False,
            ) from None
        yield result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # partitions of checks: pinned, and held by a test
        return dg.asset(
            name=stage.kind,
            ins={upstream.kind: dg.AssetIn() for upstream in stage.inputs},
            # Dagster's graph is one for all lines: an optional input comes first, and is read where the line reads it.
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
) -> dg.MaterializeResult[ArtifactRef]:
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
    return dg.MaterializeResult(
        value=production.ref,
        data_version=dg.DataVersion(production.ref.digest),
        metadata=page_of(workplace, production, verdicts, in_one_line(checks), published, idle, before),
        check_results=checks,
    )


def refusal(error: SovereignError) -> dg.Failure:
    """An error as Dagster keeps it; the command line reads the message, the hint and the act again (`runner.py`)."""
    metadata: dict[str, Any] = {
        "error": type(error).__name__,
        "exit_status": error.exit_status,
        "message": error.message,
        "hint": error.hint,
    }
    if error.remedy is not None:
        metadata |= {"act": error.remedy.act, "about": dict(error.remedy.about)}
    return dg.Failure(str(error), metadata=metadata, allow_retries=False)
