"""How `adapters verify` and `datasets verify` verify and print. What is verified: `registry/verification.py`."""

from collections.abc import Callable
from typing import Any

from rich.markup import escape

from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.commands.terminal import out, print_json, tell_progress
from sovereign_pipeline.settings import Settings


def verify(verify: Callable[..., Any], subject: str, as_json: bool) -> None:
    """Verify an adapter by its id, or a dataset by its digest, and print what was read.

    Args:
        verify: `verify_adapter` or `verify_dataset`.
    """
    from sovereign_pipeline.ledger.database import open_registry

    settings = Settings.from_environment()
    report = verify(
        open_registry(settings),
        ArtifactStore(settings.artifacts),
        settings,
        subject,
        tell_progress,
    )
    if as_json:
        print_json(report.to_dict())
        return
    for each in report.checked:
        out.print(f"[green]✓[/] {each.what:<24} {each.files:>4} files {each.bytes:>14,} bytes  {escape(each.digest)}")
    for note in report.notes:
        out.print(f"[yellow]•[/] {escape(note)}")
    out.print(f"[green]✓[/] {report.subject} matches the registry")
