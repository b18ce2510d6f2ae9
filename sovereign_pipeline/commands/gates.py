"""`sovereign gates`: what each gate says of a line's current artifacts, and an officer's acceptance of one answer."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.artifacts.gate_status import GateStatus, find_gate, gate_statuses
from sovereign_pipeline.artifacts.gates import waive
from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.waiver import read_waiver
from sovereign_pipeline.commands.terminal import AsJson, LineName, out, print_json
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.workplace import open_workplace

NOT_ASKED = "not asked"
MARKS = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "inconclusive": "[yellow]?[/]", NOT_ASKED: "·"}

gates = typer.Typer(no_args_is_help=True, help="What the gates of a line say, and an officer's acceptance.")


@gates.command("list")
def gates_list(line: LineName, as_json: AsJson = False) -> None:
    """Every gate of the line's current artifacts: outcome, message, record, and who accepted what."""
    from sovereign_pipeline.orchestration.chain import AFTER_PEOPLE, CHAIN

    workplace = open_workplace(Settings.from_environment(), line)
    rows = [_facts(workplace, each) for each in gate_statuses((*CHAIN, *AFTER_PEOPLE), workplace)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print(f"Line {line}: nothing was materialized yet, so no gate was asked.")
    for row in rows:
        out.print(f"{MARKS[row['outcome']]} {row['stage']}  [bold]{row['gate']}[/]  {escape(row['message'] or '')}")
        if row["acceptance"]:
            said = row["acceptance"]
            out.print(
                f"    let pass by {escape(said['officer'])} ({said['kind']}, {said['at']}): {escape(said['reason'])}"
            )
        elif row["officer_may"] != "nothing" and row["outcome"] not in ("pass", NOT_ASKED):
            out.print(f"    an officer may: {row['officer_may'].replace('_', ' ')}")


@gates.command("waive")
def gates_waive(
    line: LineName,
    gate: Annotated[str, typer.Argument(help="As `sovereign gates list` names it.")],
    officer: Annotated[str, typer.Option(help="Name of the officer who takes it on.")],
    reason: Annotated[str, typer.Option(help="Why; shown wherever the adapter is.")],
) -> None:
    """Let the line's current artifact pass a gate that did not. Ends 1 where the line's recipe does not allow it.

    It counts for exactly this answer: another candidate, suite, incumbent or recipe has to be accepted anew.
    """
    from sovereign_pipeline.orchestration.chain import AFTER_PEOPLE, CHAIN

    workplace = open_workplace(Settings.from_environment(), line)
    found = find_gate((*CHAIN, *AFTER_PEOPLE), workplace, gate)
    ref, acceptance = waive(found.stage, found.gate, workplace, found.ref, officer, reason)
    done = "accepted" if acceptance.kind == "accept" else "overridden"
    out.print(f"[green]✓[/] {gate}: {done} by {escape(acceptance.officer)} ({short(ref.digest)}); it stays on record")
    out.print(f"Next: [bold]sovereign run {line}[/]")


def _facts(workplace: Workplace, standing: GateStatus) -> dict[str, Any]:
    answer = standing.recorded
    return {
        "stage": standing.stage.kind,
        "gate": standing.gate.name,
        "question": standing.gate.question,
        "judged": standing.ref.digest,
        "outcome": answer.verdict.outcome if answer else NOT_ASKED,
        "message": answer.verdict.message if answer else None,
        "record": answer.record.digest if answer else None,
        "officer_may": standing.gate.officer_may(workplace.line),
        "acceptance": _acceptance(workplace, standing),
    }


def _acceptance(workplace: Workplace, standing: GateStatus) -> dict[str, Any] | None:
    if standing.recorded is None or standing.recorded.waiver is None:
        return None
    artifact = workplace.store.open(standing.recorded.waiver)
    said = read_waiver(artifact).model_dump(mode="json", exclude={"gate"})
    return {"digest": artifact.ref.digest, **said, "at": artifact.manifest.circumstances.created_at}
