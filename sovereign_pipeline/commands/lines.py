"""`sovereign lines`: the recipes, held to what they name before anything runs."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.commands.terminal import AsJson, RecipeFile, out, print_rows
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, line_names, load_line, read_line
from sovereign_pipeline.policy.training import warnings
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.workplace import open_workplace

lines = typer.Typer(no_args_is_help=True, help="Recipes of lines of adapters.")


@lines.command("list")
def lines_list(as_json: AsJson = False) -> None:
    """Every line that has a recipe."""
    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    recipes = [load_line(settings.data, name, institution) for name in line_names(settings.data)]
    rows = [
        {
            "line": recipe.line,
            "purpose": recipe.purpose,
            "owner": recipe.owner,
            "ceiling": recipe.ceiling,
            "base_model": recipe.training.base_model,
            "adapter": recipe.training.sft.adapter,
            "preference": recipe.training.preference.method if recipe.training.preference else None,
        }
        for recipe in recipes
    ]
    print_rows(rows, as_json, "Lines")


@lines.command("check")
def lines_check(
    file: RecipeFile,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Print a training row with what is supervised between ⟦ and ⟧.")
    ] = False,
    row: Annotated[str | None, typer.Option(help="With --show-mask: the id of the row; else the first.")] = None,
) -> None:
    """Validate a recipe file: keys, levels, whether what it names is there, every row of own suites and prompts. Says
    what is mostly a mistake."""
    if row is not None and not show_mask:
        raise InputError("--row names the row for --show-mask. Give both, or neither.")
    recipe = _checked(file)
    out.print(f"[green]✓[/] {recipe.line}: {len(recipe.sources)} sources, ceiling {recipe.ceiling}")
    for warning in warnings(recipe.training):
        out.print(f"[yellow]•[/] {escape(warning)}")
    if show_mask:
        from sovereign_pipeline.training.loop.mask import masked_row

        _print_mask(masked_row(open_workplace(Settings.from_environment(), recipe.line), row))


@lines.command("add")
def lines_add(file: RecipeFile) -> None:
    """Validate a recipe file and put it among the institution's lines."""
    recipe = _checked(file)
    settings = Settings.from_environment()
    target = settings.data / "lines" / f"{recipe.line}.yaml"
    if target.exists() and target.resolve() != file.resolve():
        raise InputError(f"{target} exists already. Edit that file, or give the new line another name.")
    if not target.exists():
        shutil.copyfile(file, target)
    out.print(f"[green]✓[/] {recipe.line}: now `sovereign run {recipe.line}`")


def _checked(file: Path) -> Line:
    from sovereign_pipeline.base_models.cards import load_card
    from sovereign_pipeline.evaluation.capability.checking import check_suite
    from sovereign_pipeline.evaluation.red_team.judges import read_labels
    from sovereign_pipeline.ledger.catalog import find_adapter
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.privacy.names.name_models import name_model_directory
    from sovereign_pipeline.suites.red_team_prompts import read_prompts
    from sovereign_pipeline.suites.suites import open_suite

    settings = Settings.from_environment()
    recipe = read_line(file, load_institution(settings.data))
    named = [source.path for source in recipe.sources]
    named += [suite.path for suite in recipe.evaluation.capability if suite.path is not None]
    named += [recipe.evaluation.red_team.prompts, recipe.evaluation.red_team.judge_labels]
    missing = [str(settings.data / path) for path in named if not (settings.data / path).is_file()]
    if missing:
        raise InputError(
            f"{file}: these files are not there: {', '.join(missing)}. Put them there or correct the paths."
        )
    load_card(settings, recipe.training.base_model)
    for suite in recipe.evaluation.capability:
        check_suite(settings, suite)
        if suite.path is not None:
            open_suite(settings, suite, recipe.evaluation.seed)
    read_prompts(settings.data / recipe.evaluation.red_team.prompts)
    read_labels(settings.data / recipe.evaluation.red_team.judge_labels)
    if recipe.training.start_from is not None:
        find_adapter(open_registry(settings), recipe.training.start_from)
    for model in recipe.privacy.name_models.values():
        name_model_directory(model)
    return recipe


def _print_mask(row: Any) -> None:
    """The only place that prints a row's text: to whoever asked to see it."""
    out.print(f"\nRow {escape(row.id)} · {escape(row.origin)}")
    for each in row.completions:
        ends = f"yes (id {each.end_id})" if each.end_id is not None else "no, so the trainer refuses it"
        out.print(
            f"[bold]{each.name}[/]: {each.prompt_tokens} prompt tokens, {each.supervised_tokens} supervised tokens; "
            f"ends in an end-of-turn id: {ends}"
        )
        if each.is_cut:
            out.print(f"[yellow]•[/] longer than max_length {each.max_length}, so the trainer leaves the row out")
        out.print(Text.assemble(each.prompt, "⟦", (each.supervised, "underline green"), "⟧"))
