"""`sovereign adapters rollback`, and what a decision of officers does to the flag of its line.

What belongs here: options and printing. What does not: what any of it does (`serving/rollout/`). The domain is imported
inside functions: it loads the whole chain.
"""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import (
    AdapterId,
    AsJson,
    KeyOptions,
    LineName,
    Reason,
    err,
    officers_signer,
    out,
    print_facts,
    tell_progress,
    with_key_options,
)

if TYPE_CHECKING:
    from sovereign_pipeline.record.database import Registry
    from sovereign_pipeline.record.stage import Workplace
    from sovereign_pipeline.serving.rollout.flag import Flag


@with_key_options
def adapters_rollback(
    line: LineName,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(help="The adapter that is to answer; else the one before, or the one beside a staged one."),
    ] = None,
    *,
    key: KeyOptions,
) -> None:
    """Go back at once, also while the registry is down: the ledger follows once it is reached.

    Without --to, a staged adapter that answers users is taken back first; else the adapter that was in production
    before is again.
    """
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.serving.rollout.rollback import current_flag, rollback, way_back

    settings = Settings.from_environment()
    flag = current_flag(settings, line, trust_root(settings))
    asked = way_back(flag, to).request
    question = {name: asked[name] for name in ("adapter", "transition", "from", "to")} | {"reason": reason}
    signer = officers_signer(settings, key, question)
    _print_flag(rollback(settings, line, to, signer, reason))
    _let_ledger_follow(settings, line)


def adapters_hold(line: LineName, as_json: AsJson = False) -> None:
    """Show how a line's staged adapter does against the one in production, from what the gateways here counted.

    Ends 1 when it is worse than its margins.
    """
    from sovereign_pipeline.policy.institution import load_institution
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.serving.rollout.hold import state_of
    from sovereign_pipeline.serving.rollout.rollback import current_flag
    from sovereign_pipeline.serving.rollout.telemetry import counts_directory

    settings = Settings.from_environment()
    flag = current_flag(settings, line, trust_root(settings))
    state = state_of(settings, counts_directory(settings), flag, load_institution(settings.data))
    if state is None:
        facts = {"line": line, "outcome": "none", "because": flag.in_words()}
    else:
        facts = {
            "line": line,
            "staged": state.staged,
            "outcome": state.outcome,
            "because": state.because,
            "expected": state.expected,
            "days": f"{state.days:.1f}",
            "users": f"{state.users[0]} staged, {state.users[1]} production",
            "answers": f"{state.answers[0]} staged, {state.answers[1]} production",
            "feedback": f"of {state.rated[0]} answers staged, {state.rated[1]} production",
            "severity 1": str(state.severe),
            **{each.measure.name: each.in_words().partition(": ")[2] for each in state.compared},
        }
    print_facts(facts, as_json)
    raise typer.Exit(1 if state is not None and state.outcome == "abort" else 0)


@with_key_options
def adapters_accept_hold(adapter_id: AdapterId, reason: Reason, key: KeyOptions) -> None:
    """Accept that the hold of a staged adapter was inconclusive, so that it may be promoted. Nobody is asked again.

    What is accepted is printed before your key signs it.
    """
    from sovereign_pipeline.record.catalog import find_adapter, in_production
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.release.trial import accept_hold, hold_to_accept
    from sovereign_pipeline.workplace import open_workplace

    settings = Settings.from_environment()
    registry = open_registry(settings)
    adapter = find_adapter(registry, adapter_id)
    workplace = open_workplace(settings, adapter.line, tell_progress)
    let_ledger_catch_up(registry, workplace)
    with registry.reading() as session:
        incumbent = in_production(session, adapter.line)
        shown = hold_to_accept(session, settings, trust_root(settings), adapter, incumbent).signed
    judged = shown.judgement
    question = {
        "adapter": adapter_id,
        "classification": adapter.classification,
        "compared with": incumbent,
        "hold": f"{judged.outcome}: {judged.because}",
        "answers": f"{judged.answers[0]} staged, {judged.answers[1]} production",
        "severity 1": judged.severe,
        "accept because": reason,
    }
    signer = officers_signer(settings, key, question)
    accept_hold(registry, workplace, signer, adapter_id, reason, shown.sha256)
    out.print(f"[green]✓[/] {escape(adapter_id)}: the inconclusive hold is accepted")


def let_flag_follow(registry: "Registry", workplace: "Workplace") -> None:
    """After a transition: the flag of its line says what the ledger says. A line that serves nothing has none."""
    from sovereign_pipeline.record.catalog import states
    from sovereign_pipeline.serving.rollout.flag import sequences
    from sovereign_pipeline.serving.rollout.publishing import follow

    line = workplace.line.line
    with registry.reading() as session:
        is_used = bool({"staged", "production"} & {*states(session, line).values()})
    if is_used or sequences(workplace.settings, line):
        flag, is_new = follow(registry, workplace)
        if is_new:
            _print_flag(flag)


def let_ledger_catch_up(registry: "Registry", workplace: "Workplace") -> None:
    """Before officers decide: the ledger has every change of the line's flag, also those made without it."""
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.serving.rollout.flag import changing, sequences
    from sovereign_pipeline.serving.rollout.publishing import catch_up

    settings, line = workplace.settings, workplace.line.line
    if sequences(settings, line):
        with changing(settings, line):
            catch_up(registry, workplace, trust_root(settings))


def _let_ledger_follow(settings: Settings, line: str) -> None:
    """Make the transition now where the registry is reached. Whatever is in the way, users have the adapter already."""
    from sqlalchemy.exc import SQLAlchemyError

    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.serving.rollout.publishing import follow
    from sovereign_pipeline.workplace import open_workplace

    try:
        follow(open_registry(settings), open_workplace(settings, line, tell_progress))
    except (SovereignError, SQLAlchemyError, OSError) as error:
        why = error.message if isinstance(error, SovereignError) else type(error).__name__
        err.print(f"[yellow]The ledger does not say so yet[/]: {escape(why)}")
        err.print(f"It follows with the next decision about {escape(line)}, or its next `production_adapter`.")
    else:
        out.print("[green]✓[/] the ledger says so too")


def _print_flag(flag: "Flag") -> None:
    out.print(f"[green]✓[/] flag of {escape(flag.line)}, change {flag.sequence}: {escape(flag.in_words())}")
