"""`sovereign audit`: verifying the audit log, and exporting it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.commands.terminal import AsJson, out, print_json
from sovereign_pipeline.settings import Settings

audit = typer.Typer(no_args_is_help=True, help="Verify and export the audit log.")


@audit.command("verify")
def audit_verify(
    kept: Annotated[
        Path | None, typer.Option("--export", help="An earlier export that the log must still hold.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the hash chain of the audit log, and every review against its signed acts.

    Ends 1, naming the entry, when one is missing, changed or out of order, and naming what was added to a review,
    changed in it or removed from it.
    """
    from sovereign_pipeline.ledger.audit_log import checkpoint_of, entries, verify
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.review.reconciling import examine_all

    settings = Settings.from_environment()
    registry = open_registry(settings)
    last = verify(entries(registry), checkpoint_of(kept) if kept is not None else None)
    found = examine_all(registry, ArtifactStore(settings.artifacts), settings)
    if as_json:
        print_json({"entries": last.sequence, "hash": last.hash, "reviews": found})
        raise typer.Exit(1 if found else 0)
    out.print(f"[green]✓[/] {last.sequence} entries, each bound to the one before; newest {last.hash}")
    for review, findings in found.items():
        for each in findings:
            out.print(f"[red]✗[/] review {escape(review)}: {escape(each)}")
    raise typer.Exit(1 if found else 0)


@audit.command("export")
def audit_export(file: Annotated[Path, typer.Argument(help="Where the export goes; a new file.")]) -> None:
    """Verify the audit log and write it to a file, one line of JSON an entry.

    Keep the file elsewhere: compared with it, a log that was cut short is found.
    """
    from sovereign_pipeline.ledger.audit_log import export
    from sovereign_pipeline.ledger.database import open_registry

    last = export(open_registry(Settings.from_environment()), file)
    out.print(f"[green]✓[/] {file}: {last.sequence} entries; newest {last.hash}")
