"""`sovereign bundle`: packing what crosses the air gap, verifying it inside, and installing from it."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.commands.terminal import (
    KeyOptions,
    mark_demonstration,
    opened_key,
    out,
    tell_progress,
    with_key_options,
)

bundle = typer.Typer(no_args_is_help=True, help="Pack what crosses the air gap, verify it inside, install from it.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")]
Base = Annotated[
    list[Path], typer.Option("--base", help="Of a delta: the bundle that it adds to, then the one below that.")
]
TrustRoot = Annotated[
    str | None, typer.Option("--trust-root", metavar="SHA256", help="Of the first root; else that of data/trust.")
]
NewerThan = Annotated[
    Path | None, typer.Option("--newer-than", metavar="INDEX", help="Refuse a bundle no later than this index.")
]
NO_BASES: list[Path] = []


@bundle.command("create")
@with_key_options
def bundle_create(
    folder: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
    key: KeyOptions,
    torch: Annotated[Literal["cpu", "cuda"], typer.Option(help="Which build of torch is carried.")] = "cuda",
    since: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="The index.json of an earlier bundle: pack what it lacks.")
    ] = None,
    signatures: Annotated[
        Path | None,
        typer.Option(help="Folder of publishers' signatures (sigstore, OpenSSF), laid out as the bundle is."),
    ] = None,
) -> None:
    """Pack wheels, base models, suites, trust root, configuration and this release, and sign the index.

    On the connected side, from a checkout. The key has the role `bundle`.
    """
    from sovereign_pipeline.base.files import file_sha256
    from sovereign_pipeline.bundle.bundling import create
    from sovereign_pipeline.bundle.carried.telling import told
    from sovereign_pipeline.bundle.carried.verifying import TOOL
    from sovereign_pipeline.record.officers import trust_root

    settings = Settings.from_environment()
    trust = trust_root(settings)
    mark_demonstration(trust)
    signer = opened_key(key)
    made = create(
        settings, PROJECT_ROOT, folder, signer, tell_progress, torch=torch, since=since, signatures=signatures
    )
    out.print("\n".join(escape(line) for line in told(made)))
    out.print("On paper, for a machine that has Python alone:")
    out.print(f"  SHA-256 of the first root: {trust.root_sha256}")
    out.print(f"  SHA-256 of {TOOL}: {file_sha256(folder / TOOL)}")


@bundle.command("verify")
def bundle_verify(
    folder: Folder, trust_root: TrustRoot = None, base: Base = NO_BASES, newer_than: NewerThan = None
) -> None:
    """Compare a bundle with what was signed, and say who signed what.

    Ends 1, naming the file, for anything that is changed, missing or extra.
    """
    from sovereign_pipeline.bundle.bundling import verified
    from sovereign_pipeline.bundle.carried.telling import told

    found = verified(Settings.from_environment(), folder, trust_root, base, newer_than)
    out.print("\n".join(escape(line) for line in told(found)))


@bundle.command("install")
def bundle_install(
    folder: Folder,
    target: Annotated[Path, typer.Argument(help="A folder that is not there yet; it cannot be moved later.")],
    trust_root: TrustRoot = None,
    base: Base = NO_BASES,
    newer_than: NewerThan = None,
) -> None:
    """Verify a bundle, and install from it alone into a fresh environment."""
    from sovereign_pipeline.bundle.bundling import installed, verified
    from sovereign_pipeline.bundle.carried.telling import told

    found = verified(Settings.from_environment(), folder, trust_root, base, newer_than)
    out.print("\n".join(escape(line) for line in told(found)))
    environment = installed(found, target, tell_progress)
    out.print(f"[green]✓[/] installed: {escape(str(environment))}")
