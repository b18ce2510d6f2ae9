"""A gate as a Dagster check, and its verdict as the check's result.

A check shows an operator what a gate found, line by line. It does not protect: whoever depends on an artifact evaluates
its gates again (`record/gates.py`).
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from sovereign_pipeline.orchestration.pages.cells import is_number
from sovereign_pipeline.orchestration.partitions import LINES
from sovereign_pipeline.record.gates import may_be_waived, recorded_verdict, waiver_in
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import officer_shown, trust_root_if_any
from sovereign_pipeline.record.stage import Gate, Stage, Verdict, Workplace

NOT_REPEATED = "not repeated"
"""Metadata of a check whose result says nothing new; the terminal leaves it out."""

WAIVED_BY = "waived by"


def check_specs(stage: Stage) -> list[dg.AssetCheckSpec]:
    """One check for each gate. Each line has results of its own."""
    return [
        dg.AssetCheckSpec(
            name=gate.name, asset=stage.kind, description=gate.question, blocking=True, partitions_def=LINES
        )
        for gate in stage.gates
    ]


def check_result(
    gate: Gate, workplace: Workplace, ref: ArtifactRef, verdict: Verdict, not_repeated: str | None = None
) -> dg.AssetCheckResult:
    """The verdict as a check's result. A waived gate gives a warning: the run continues, and the page shows that the
    gate did not pass.

    not_repeated: one sentence to show in place of the message, where the verdict says nothing of this asset.
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
            description += " An officer may waive it."
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
    """One result for each check of the asset. What is passed through may have other gates than the asset has: they are
    shown where it was made, and the asset's own had nothing to evaluate."""
    results = {check.check_name: check for check in found}
    return [
        results.get(gate.name)
        or dg.AssetCheckResult(
            check_name=gate.name, passed=True, description=nothing_to_do, metadata={NOT_REPEATED: True}
        )
        for gate in stage.gates
    ]


def lets_through(check: dg.AssetCheckResult) -> bool:
    """Whether the gate passed or was waived."""
    return check.passed or check.severity == dg.AssetCheckSeverity.WARN


def in_one_line(checks: Sequence[dg.AssetCheckResult]) -> str:
    """How many gates passed, and each that did not."""
    if not checks:
        return "no gates of its own"
    parts = [f"{sum(check.passed for check in checks)} of {len(checks)} gates passed"]
    for check in checks:
        if not check.passed:
            waived = check.metadata.get(WAIVED_BY)
            what = f"waived by {waived.value}" if waived is not None else str(check.metadata["outcome"].value).upper()
            parts.append(f"{check.check_name}: {what}")
    return "; ".join(parts)
