"""How `adapters verify` and `datasets verify` verify and print. What is verified: `registry/verification.py`."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.commands.terminal import mark_demonstration, out, print_json, tell_progress
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS

StrictSources = Annotated[
    bool, typer.Option("--strict-sources", help="End 1 when a source file is gone or has changed since it was read.")
]

TrustRoot = Annotated[
    str | None,
    typer.Option(
        "--trust-root", help="SHA-256 of the first root, from paper: verify everything from it, reading alone."
    ),
]


def verify(verify: Callable[..., Any], subject: str, as_json: bool, strict_sources: bool) -> None:
    """Verify an adapter by its id, or a dataset by its digest, and print what was read.

    Args:
        verify: `verify_adapter` or `verify_dataset`.
        strict_sources: end with 1 when a source file is gone or has changed.
    """
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store

    settings = Settings.from_environment()
    report = verify(
        open_registry(settings),
        open_store(settings, settings.corpus),
        settings,
        subject,
        tell_progress,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        mark_demonstration(trust_root(settings))
        _print(report)
    if strict_sources and report.changed_sources:
        raise typer.Exit(1)


def verify_from_trust_root(adapter_id: str, root_sha256: str, as_json: bool, strict_sources: bool) -> None:
    """Verify an adapter from the SHA-256 of the first root on, reading alone."""
    from sovereign_pipeline.record.database import registry_read_only
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline.release.auditing import audit_adapter

    settings = Settings.from_environment()
    with registry_read_only(settings) as registry:
        store = open_store(settings, settings.corpus, registry)
        report = audit_adapter(registry, store, settings, adapter_id, root_sha256, tell_progress)
    if as_json:
        print_json(report.to_dict())
    else:
        trust, witnessed = report.trust, report.witnessed
        by = f"; these are {DEMONSTRATION_KEYS}" if trust.is_demonstration else ""
        out.print(
            f"[green]✓[/] trust root {trust.root_sha256}: root {trust.root_version}, targets "
            f"{trust.targets_version}{by}"
        )
        out.print(
            f"[green]✓[/] ledger: {report.entries} entries, every row of the registry among them, signed by the "
            "log's key"
        )
        if witnessed is None:
            out.print("  the trust root names no witness: whoever owns the registry and its key can rewrite it unseen")
        else:
            out.print(f"[green]✓[/] {witnessed.entries} entries witnessed by {escape(', '.join(sorted(witnessed.at)))}")
        out.print(
            f"[green]✓[/] {counted(report.requests, 'request')} and "
            f"{counted(report.transitions, 'transition')}, every signature"
        )
        _print(report.lineage)
    if strict_sources and report.lineage.changed_sources:
        raise typer.Exit(1)


def _print(report: Any) -> None:
    for each in report.checked:
        facts = f"{each.what:<24} {each.files:>4} files {each.bytes:>14,} bytes  {escape(each.digest)}"
        out.print(f"[green]✓[/] {facts}")
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
