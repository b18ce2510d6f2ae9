"""`sovereign gates`: the verdict of each gate on a line's current artifacts, and an officer's waiver of one."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import (
    AsJson,
    KeyOptions,
    LineName,
    officers_signer,
    out,
    print_json,
    print_rows,
    with_key_options,
)
from sovereign_pipeline.record.gates import GateStatus, find_gate, gate_statuses, propose_waiver, waive, waiver_in
from sovereign_pipeline.record.officers import officer_shown, trust_root_if_any
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.workplace import open_workplace

NOT_EVALUATED = "not asked"
"""The outcome that `--json` states for a gate without a record; the word is kept for programs that read it."""

SHOWN = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive", NOT_EVALUATED: "· not evaluated"}
"""Outcome -> what the table shows."""

gates = typer.Typer(no_args_is_help=True, help="Show the gates of a line, and waive one as an officer.")


@gates.command("list")
def gates_list(line: LineName, as_json: AsJson = False) -> None:
    """List every gate of the line's current artifacts with its outcome, its message and its waiver."""
    from sovereign_pipeline.orchestration.chain import AFTER_PEOPLE, CHAIN

    workplace = open_workplace(Settings.from_environment(), line)
    rows = [_facts(workplace, each) for each in gate_statuses((*CHAIN, *AFTER_PEOPLE), workplace)]
    if as_json:
        print_json(rows)
    elif rows:
        print_rows([_row(each) for each in rows], False, f"Gates of {line}")
    else:
        out.print(f"Line {line}: nothing was materialized yet, so no gate was evaluated.")


@gates.command("waive")
@with_key_options
def gates_waive(
    line: LineName,
    gate: Annotated[str, typer.Argument(help="The gate, as `sovereign gates list` names it.")],
    reason: Annotated[str, typer.Option(help="Why; shown wherever the adapter is.")],
    key: KeyOptions,
) -> None:
    """Waive a gate that the line's current artifact did not pass. What you waive is printed before your key signs it.

    The waiver holds for exactly this verdict: another candidate, suite, incumbent or recipe needs a new one. Ends 1
    where the recipe does not allow it.
    """
    from sovereign_pipeline.orchestration.chain import AFTER_PEOPLE, CHAIN

    settings = Settings.from_environment()
    workplace = open_workplace(settings, line)
    found = find_gate((*CHAIN, *AFTER_PEOPLE), workplace, gate)
    proposal = propose_waiver(found.stage, found.gate, workplace, found.ref, reason)
    signer = officers_signer(settings, key, proposal.question())
    ref, waiver = waive(proposal, signer)
    officer = officer_shown(trust_root_if_any(settings), waiver.officer)
    out.print(f"[green]✓[/] {gate}: waived by {escape(officer)} ({waiver.kind}); on record as {short(ref.digest)}")
    out.print(f"Next: [bold]sovereign run {line}[/]")


def _facts(workplace: Workplace, status: GateStatus) -> dict[str, Any]:
    recorded = status.recorded
    return {
        "stage": status.stage.kind,
        "gate": status.gate.name,
        "question": status.gate.question,
        "judged": status.ref.digest,
        "outcome": recorded.verdict.outcome if recorded else NOT_EVALUATED,
        "message": recorded.verdict.message if recorded else None,
        "record": recorded.record.digest if recorded else None,
        "officer_may": status.gate.permission(workplace, status.ref),
        "acceptance": _waiver(workplace, status),
    }


def _waiver(workplace: Workplace, status: GateStatus) -> dict[str, Any] | None:
    if status.recorded is None or status.recorded.waiver is None:
        return None
    ref = status.recorded.waiver
    waiver = waiver_in(workplace, ref)
    return {
        "digest": ref.digest,
        **waiver.model_dump(mode="json", exclude={"gate"}),
        "person": officer_shown(trust_root_if_any(workplace.settings), waiver.officer),
        "at": workplace.store.read_manifest(ref).circumstances.created_at,
    }


def _row(facts: dict[str, Any]) -> dict[str, Any]:
    waiver = facts["acceptance"]
    if waiver:
        waived = f"waived by {waiver['person']} ({waiver['kind']}, {waiver['at'][:10]}): {waiver['reason']}"
    elif facts["officer_may"] != "nothing" and facts["outcome"] not in ("pass", NOT_EVALUATED):
        waived = f"an officer may: {facts['officer_may'].replace('_', ' ')}"
    else:
        waived = None
    return {
        "stage": facts["stage"],
        "gate": facts["gate"],
        "outcome": SHOWN[facts["outcome"]],
        "message": facts["message"],
        "waiver": waived,
    }
