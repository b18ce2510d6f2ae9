"""`sovereign suites`: published evaluation suites, and which of them the local mirror holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import AsJson, only, out, print_error, print_json, print_rows
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_lines

suites = typer.Typer(no_args_is_help=True, help="List published evaluation suites, and check their files.")


@suites.command("list")
def suites_list(as_json: AsJson = False) -> None:
    """List every published suite that has a card, whether its files are in the mirror or not."""
    from sovereign_pipeline.suites.cards import load_suite_card, suite_names

    settings = Settings.from_environment()
    cards = [load_suite_card(settings, name) for name in suite_names(settings)]
    rows = [
        {
            **only(card.model_dump(), "suite", "title", "language", "sector", "version", "licence"),
            "kind": card.task.kind,
            "source": card.source,
        }
        for card in cards
    ]
    print_rows(rows, as_json, "Published suites")


@suites.command("check")
def suites_check(as_json: AsJson = False) -> None:
    """Read every published suite of the mirror and list what is missing.

    Ends 1 when a suite that a line names is missing, or a recipe is broken.
    """
    from sovereign_pipeline.suites.suites import examine_suites

    settings = Settings.from_environment()
    recipes = load_lines(settings.data, load_institution(settings.data))
    used_by: dict[str, list[str]] = {}
    for recipe in recipes.valid:
        for entry in recipe.evaluation.capability if recipe.evaluation is not None else ():
            if entry.suite is not None:
                used_by.setdefault(entry.suite, []).append(recipe.line)
    states = examine_suites(settings, used_by)
    if as_json:
        print_json([state.to_dict() for state in states])
    else:
        _print_suites(states, settings.suites)
    for error in recipes.broken.values():
        print_error(error)
    raise typer.Exit(1 if recipes.broken or any(state.problem and state.lines for state in states) else 0)


def _print_suites(states: Iterable[Any], mirror: Path) -> None:
    rows = [
        {
            "suite": state.card.suite,
            "here": "no" if state.problem else "yes",
            "rows": state.rows,
            "examples": state.examples,
            "language": state.card.language,
            "sector": state.card.sector,
            "kind": state.card.task.kind,
            "digest": short(state.digest) + (" (pinned)" if state.card.sha256 else "") if state.digest else None,
            "lines": ", ".join(state.lines),
        }
        for state in states
    ]
    print_rows(rows, False, f"Published suites in {mirror}")
    for state in states:
        if state.problem:
            out.print(f"{'[red]✗[/]' if state.lines else '[yellow]•[/]'} {escape(state.problem)}")
