"""`sovereign backup`: copying this installation, verifying a copy, restoring it, and repairing artifacts from it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import out, tell_progress

backup = typer.Typer(
    no_args_is_help=True, help="Copy this installation, restore a copy, and repair artifacts from one."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The backup's folder.")]
PrivateKey = Annotated[Path, typer.Option("--key", help="File with the age private key that opens the backup.")]


@backup.command("create")
def backup_create(
    folder: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
    recipient: Annotated[Path, typer.Option(help="File with the age public key that it is encrypted to.")],
) -> None:
    """Copy home, corpus, vault, keys, the reviews' secrets and the gateway's directory, while runs go on.

    Databases of registry and MLflow on a PostgreSQL server are copied too. It is an entry of the ledger.
    """
    from sovereign_pipeline.backup.archive import recipient_in
    from sovereign_pipeline.backup.taking import take

    taken = take(Settings.from_environment(), folder, recipient_in(recipient), tell_progress)
    for link in taken.links:
        out.print(f"[yellow]•[/] not copied, a link: {escape(str(link))}")
    out.print(f"[green]✓[/] {taken.description.files} files, {taken.size / 1e6:.1f} MB: {escape(str(folder))}")


@backup.command("verify")
def backup_verify(folder: Folder, key: PrivateKey) -> None:
    """Verify a backup whole: its signature, every byte, the ledger and every artifact. Nothing is restored.

    A registry of a PostgreSQL server is verified in an empty database that SOVEREIGN_REGISTRY_URL names meanwhile.
    """
    from sovereign_pipeline.backup.taking import check

    checked = check(Settings.from_environment(), folder, _private_key(key), tell_progress)
    out.print(f"[green]✓[/] taken {checked.description.created}: {checked.description.files} files")
    out.print(f"[green]✓[/] {checked.entries} entries of the ledger, {checked.artifacts} artifacts")


@backup.command("restore")
def backup_restore(
    folder: Folder,
    key: PrivateKey,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    known: Annotated[
        list[Path] | None,
        typer.Option("--known", help="A later checkpoint of the ledger, such as the old home's; repeatable."),
    ] = None,
    loses: Annotated[int, typer.Option(min=0, help="How many entries you know that the backup lacks.")] = 0,
) -> None:
    """Restore into the directories and databases of SOVEREIGN_HOME and so on, all empty. It is an entry of the ledger.

    Ends 1, naming the entries, where later ones are known here and their number was not stated.
    """
    from sovereign_pipeline.backup.restoring import restore

    done = restore(
        Settings.from_environment(), folder, _private_key(key), reason, tell_progress, known=known or [], loses=loses
    )
    out.print(f"[green]✓[/] restored what was taken {done.description.created}: {done.artifacts} artifacts verified")
    out.print(f"[green]✓[/] {done.entries} entries of the ledger; the last one is this restore")
    if not done.was_compared:
        out.print("[yellow]•[/] no checkpoint or second copy of the ledger was known here: entries that came after the")
        out.print("  backup are lost without a trace, so compare with what witnesses and auditors have seen")
    if done.lost:
        out.print(f"[yellow]•[/] {done.lost} entries are lost, as stated; witnesses that saw them must be told")
    if done.kept_aside is not None:
        out.print(f"[yellow]•[/] the second copy, which has them, is kept: {escape(str(done.kept_aside))}")


@backup.command("repair")
def backup_repair(
    folder: Folder,
    artifact: Annotated[str, typer.Argument(help="Digest of the artifact, all 64 digits.")],
    key: PrivateKey,
) -> None:
    """Put back the missing and changed files of an artifact. It is an entry of the ledger; purged weights stay gone."""
    from sovereign_pipeline.backup.repairing import repair

    names = repair(Settings.from_environment(), folder, artifact, _private_key(key), tell_progress)
    for name in names:
        out.print(f"[green]✓[/] put back: {escape(name)}")
    if not names:
        out.print("nothing to repair: every file is as it was stored")


def _private_key(path: Path) -> str:
    from sovereign_pipeline.record.keys import read_private_file

    try:
        return read_private_file(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: this is no age private key.", "Give the file that was made with the key.") from None
