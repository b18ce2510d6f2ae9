"""`sovereign review`: opening a blind review, its links, its page, how far it is, and closing it."""

import getpass
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.commands.terminal import AsJson, LineName, err, out, print_json, print_rows
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.workplace import open_workplace

REVIEW_PORT = 8600

review = typer.Typer(no_args_is_help=True, help="Blind reviews: people compare a candidate with what it would replace.")


@review.command("open")
def review_open(
    line: LineName,
    operators: Annotated[str, typer.Option(help="Their names, with commas between; else the recipe's.")] = "",
    prompts: Annotated[Path | None, typer.Option(help="A prompt file, in place of the held-out letters.")] = None,
    adapter: Annotated[str | None, typer.Option(help="The candidate; else the line's current registered one.")] = None,
    url: Annotated[str, typer.Option(help="Where operators reach the page, for the links.")] = "",
    as_json: AsJson = False,
) -> None:
    """Answer the prompts with both sides, seal the plan, and print each operator's one-time link."""
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.opening import open_review

    workplace = _workplace(line, lambda text: err.print(escape(f"  {text}")))
    names = [name.strip() for name in operators.split(",") if name.strip()]
    opened = open_review(
        open_registry(Settings.from_environment()), workplace, getpass.getuser(), names, prompts, adapter
    )
    links = {name: _link(url, token) for name, token in opened.links.items()}
    plan = opened.plan
    if as_json:
        print_json({"review": opened.review, "ballots": plan.ballots, "seed_sha256": plan.seed_sha256, "links": links})
        return
    out.print(
        f"[green]✓[/] {plan.line}: {plan.adapter} against {plan.opponent or plan.base_model}, {plan.pairs} pairs for "
        f"{len(plan.operators)} operators; it may be closed at {plan.ballots} ballots"
    )
    out.print(f"  sealed seed, SHA-256 {plan.seed_sha256}")
    out.print("  One-time links, shown once; only their hashes are stored:")
    for name, link in links.items():
        out.print(f"  {escape(name):<16} {escape(link)}")


@review.command("link")
def review_link(
    line: LineName,
    operator: Annotated[str, typer.Argument(help="Name of the operator, as the recipe has it.")],
    url: Annotated[str, typer.Option(help="Where operators reach the page.")] = "",
) -> None:
    """One more one-time link for an operator of the open review, such as for another device."""
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.opening import renew_link

    registry = open_registry(Settings.from_environment())
    token = renew_link(registry, _workplace(line), operator, getpass.getuser())
    out.print(escape(_link(url, token)))


@review.command("serve")
def review_serve(port: Annotated[int, typer.Option(help="Port of the page.")] = REVIEW_PORT) -> None:
    """The review page on loopback, until Ctrl-C."""
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.page import serve

    serve(Settings.from_environment(), open_registry(Settings.from_environment()), port, out.print)


@review.command("status")
def review_status(line: LineName, as_json: AsJson = False) -> None:
    """How many ballots each operator has given. What they said is not shown before the review is closed."""
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.ballots import find_last, progress
    from sovereign_pipeline.review.sealed import plan_of

    workplace = _workplace(line)
    found, closing = find_last(open_registry(Settings.from_environment()), line)
    contents = plan_of(workplace.store, found)
    plan, pairs = contents.plan, {name: len(contents.asked(name)) for name in contents.plan.operators}
    rows = progress(open_registry(Settings.from_environment()), found, pairs)
    facts = {
        "review": found.id,
        "line": line,
        "adapter": found.adapter_id,
        "opponent": found.opponent_id or plan.base_model,
        "state": "open" if closing is None else "closed",
        "ballots": sum(row.ballots for row in rows),
        "ballots_to_close": found.ballots,
        "opened_at": found.opened_at.isoformat(timespec="seconds"),
        "closed_at": closing.closed_at.isoformat(timespec="seconds") if closing is not None else None,
        "operators": [asdict(row) for row in rows],
    }
    if as_json:
        print_json(facts)
        return
    out.print(
        f"{line}: {facts['adapter']} against {facts['opponent']}, {facts['state']}, {facts['ballots']} of "
        f"{facts['ballots_to_close']} ballots"
    )
    print_rows([asdict(row) for row in rows], False, "Operators")


@review.command("close")
def review_close(
    line: LineName,
    officer: Annotated[str | None, typer.Option(help="Who closes before the pre-registered number is reached.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why. It is recorded and shown.")] = None,
) -> None:
    """End the open review and reveal its seed. Ends 1 when ballots are missing and no officer closes early."""
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.ballots import close, find_last
    from sovereign_pipeline.review.sealed import plan_of, sealed_seed

    workplace, registry = _workplace(line), open_registry(Settings.from_environment())
    found, _ = find_last(registry, line)
    seed = sealed_seed(workplace.settings, found)
    plan = plan_of(workplace.store, found).plan
    closing = close(registry, found, seed, plan, getpass.getuser(), officer, reason)
    out.print(f"[green]✓[/] {line}: closed with {closing.ballots} of {found.ballots} ballots; seed {closing.seed}")
    out.print("  A sensor materializes blind_review (`make up`); or choose it in the Dagster UI.")


def _workplace(line: str, progress: Callable[[str], None] = lambda text: None) -> Workplace:
    settings = Settings.from_environment()
    recipe = load_line(settings.data, line, load_institution(settings.data))
    return open_workplace(settings, recipe.line, progress)


def _link(url: str, token: str) -> str:
    """The token behind `#`: browsers send that part to no server, so no proxy's log holds it."""
    return f"{url.rstrip('/') or f'http://127.0.0.1:{REVIEW_PORT}'}/sign-in#{token}"
