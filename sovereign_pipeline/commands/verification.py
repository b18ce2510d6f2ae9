"""How `adapters verify` and `datasets verify` verify and print. What is verified: `registry/verification.py`."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.commands.terminal import out, print_json, tell_progress
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.wording import counted

StrictSources = Annotated[
    bool, typer.Option("--strict-sources", help="End 1 when a source file is gone or has changed since it was read.")
]


def verify(verify: Callable[..., Any], subject: str, as_json: bool, strict_sources: bool) -> None:
    """Verify an adapter by its id, or a dataset by its digest, and print what was read.

    Args:
        verify: `verify_adapter` or `verify_dataset`.
        strict_sources: end with 1 when a source file is gone or has changed.
    """
    from sovereign_pipeline.artifacts.store import ArtifactStore
    from sovereign_pipeline.ledger.database import open_registry

    settings = Settings.from_environment()
    report = verify(
        open_registry(settings),
        ArtifactStore(settings.artifacts, settings.corpus),
        settings,
        subject,
        tell_progress,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if strict_sources and report.changed_sources:
        raise typer.Exit(1)


def _print(report: Any) -> None:
    for each in report.checked:
        out.print(f"[green]✓[/] {each.what:<24} {each.files:>4} files {each.bytes:>14,} bytes  {escape(each.digest)}")
    for changed in report.changed_sources:
        out.print(f"[yellow]![/] {escape(str(changed))}")
    for withheld in report.withheld:
        out.print(f"[yellow]![/] {escape(str(withheld))}")
    for purged in report.purged:
        out.print(f"[yellow]![/] {escape(str(purged))}")
    for note in report.notes:
        out.print(f"[yellow]•[/] {escape(note)}")
    out.print(f"[green]✓[/] {report.subject} matches the registry")
    if report.changed_sources:
        files = counted(len(report.changed_sources), "source file is", "source files are")
        out.print(f"[yellow]![/] {files} no longer as read; what was made of it is verified")
    if report.withheld:
        out.print("[yellow]![/] unscrubbed text was not verified; do so where SOVEREIGN_CORPUS is readable")
