"""`sovereign evidence`: a package about an adapter, or about what answered on a day, with a verifier of its own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.commands.terminal import AsJson, mark_demonstration, moment, out, print_json, tell_progress


def evidence(
    folder: Annotated[Path, typer.Option("--out", help="The package: a new folder.")],
    adapter_id: Annotated[str | None, typer.Argument(help="Id of a registered adapter.")] = None,
    line: Annotated[str | None, typer.Option("--line", help="Instead of an adapter: a line, with --on.")] = None,
    on: Annotated[str | None, typer.Option("--on", help="A day or moment in UTC: what answered the line then.")] = None,
    zipped: Annotated[bool, typer.Option("--zip", help="Write it as one file as well, beside the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an evidence package: all that is on record about an adapter, down to its source files, and a verifier.

    Its verifier needs the SHA-256 of the first trust root, Python and `cryptography`, and nothing of this program. No
    text of a document is in it. That it was given is an entry of the ledger. Where the trust root names witnesses, they
    must have seen every entry that it needs.
    """
    from sovereign_pipeline.audit.evidence import A_DAY, answered, write_package
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.record.sealing import open_store

    if (adapter_id is None) == (line is None) or (line is None) != (on is None):
        raise InputError("Evidence is about an adapter, or about a line on a day.", "Give an id, or --line and --on.")
    settings = Settings.from_environment()
    registry = open_registry(settings)
    adapters = [adapter_id] if adapter_id is not None else []
    if line is not None and on is not None:
        until = moment(on)
        since = until.replace(hour=0, minute=0, second=0, microsecond=0) if len(on) == A_DAY else until
        with registry.reading() as session:
            adapters = answered(session, line, on, since, until)
    written = write_package(
        registry,
        open_store(settings, registry=registry),
        settings,
        adapters,
        folder,
        tell_progress,
        on=on,
        zipped=zipped,
    )
    if as_json:
        print_json(vars(written))
        return
    mark_demonstration(trust_root(settings))
    names = escape(", ".join(written.adapters))
    out.print(f"[green]✓[/] {escape(str(folder))}: {names}, {escape(written.classification)}")
    out.print(
        f"[green]✓[/] {counted(written.files, 'file')}, {written.bytes:,} bytes, with "
        f"{counted(written.entries, 'entry', 'entries')} of the log; its own verifier passed it"
    )
    if written.archive is not None:
        out.print(f"[green]✓[/] {escape(str(written.archive))}: {written.archive.stat().st_size:,} bytes")
    out.print("For its readers, on paper and not beside the package:")
    out.print(f"  SHA-256 of the first root: {written.root_sha256}")
    out.print(f"  SHA-256 of verify.py:      {written.verifier_sha256}")
    out.print(f"Next, wherever it is read: python {escape(str(folder))}/verify.py SHA256-OF-THE-FIRST-ROOT")
