"""`sovereign init`, `backup`, `databases` and `bundle`: create, back up, move and transport an installation."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.cli.terminal import (
    Group,
    Home,
    KeyOptions,
    mark_demonstration,
    opened_key,
    out,
    print_done,
    print_note,
    tell_progress,
)
from sovereign_pipeline.ops.backup import take
from sovereign_pipeline.ops.backup_archive import recipient_in
from sovereign_pipeline.ops.bundle import create, installed, verified
from sovereign_pipeline.ops.bundle_tool import TOOL, told
from sovereign_pipeline.ops.restore import check, repair, restore
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.record.keys import read_private_file
from sovereign_pipeline.record.officers import TRUST

_INSTITUTION = """\
# yaml-language-server: $schema=schemas/institution.schema.json
name: {name}
# The classification levels, lowest first. Every document, suite, prompt file and base model has one of these levels.
classification: [PUBLIC, INTERNAL, CONFIDENTIAL, SECRET]
# Days after which a registered adapter must be reviewed.
review_every_days: 180
# Treatment of each kind of personal data: replace, keep, or stop the line at the row. A kind that is not listed
# here has its default: docs/reference/recipe.md.
sensitive: {{PLACE: keep, DATE: keep}}
"""

_LINES = """\
# Recipes: one file per line of adapters, `NAME.yaml`

    sovereign sources look FILE                    describes a file or folder, and prints the command for its recipe
    sovereign lines check NAME                     lists what is missing or still to be filled in
    sovereign run NAME --until training_dataset    builds the datasets, and trains nothing

Every key: docs/reference/recipe.md.
"""

_SOURCES = """\
# The institution's files: CSV, TSV, JSONL, JSON or Parquet, also gzipped

A recipe gives each file's path, either in the data directory (`sources/letters.csv`) or absolute. The pipeline never
copies or changes these files. Keep them out of version control, unless the repository may contain documents of their
classification level.
"""

_MODELS = """\
# Cards of base models: licence, classification level, and the digest of every file

`sovereign models fetch NAME` fetches and verifies the model of a card; `sovereign models --help` lists more commands.
"""

_COPIED = ("models", "suites", "red_team", "schemas")
"""Folders of the demonstration's data that `init` copies, because any institution can use them."""


def init(
    directory: Annotated[Path, typer.Argument(help="An empty or new directory.")],
    name: Annotated[str, typer.Option(help="Name of the institution.")] = f"{FILL_IN} the name of the institution",
) -> None:
    """Create a data directory with institution.yaml, a base model's card, suites and prompts. Prints the commands that
    create the first recipe in lines/."""
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty.", "Choose an empty or new directory.")
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is not a directory.", "Choose another path.")
    shipped = PROJECT_ROOT / "data"
    missing = [str(shipped / folder) for folder in _COPIED if not (shipped / folder).is_dir()]
    if missing:
        raise InputError(
            f"These folders cannot be copied, because they are missing: {', '.join(missing)}.",
            "Run `sovereign init` from a complete checkout of the project.",
        )
    try:
        _write(directory.absolute(), shipped, name)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror or error}.", "Choose another path.") from None
    load_institution(directory)
    _print_next(directory.absolute())


def _write(directory: Path, shipped: Path, name: str) -> None:
    for folder in _COPIED:
        shutil.copytree(shipped / folder, directory / folder, copy_function=shutil.copyfile)
    texts = {
        "institution.yaml": _INSTITUTION.format(name=json.dumps(name, ensure_ascii=False)),
        "lines/README.md": _LINES,
        "sources/README.md": _SOURCES,
        "models/README.md": _MODELS,
    }
    for path, text in texts.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


def _print_next(directory: Path) -> None:
    settings = Settings.from_environment({"SOVEREIGN_DATA": str(directory)})
    steps = [
        (
            f"export SOVEREIGN_DATA={directory} SOVEREIGN_HOME={settings.home}",
            "variables of every command and service; add them to your shell's profile",
        ),
        ("sovereign models fetch smollm2-135m-instruct", "fetches the base model, once per machine"),
        (
            f"sovereign-vault keygen --private {settings.home}-offline/vault.key --public {settings.vault_public_key}",
            "creates the vault's keys, once; in production on an offline machine",
        ),
        (
            f"sovereign-trust demonstration {directory / TRUST} {settings.keys}",
            "creates demonstration signing keys; in production use sovereign-trust init, offline",
        ),
        ("sovereign doctor", "lists what is still missing"),
        ("sovereign sources look FILE", "describes a file or folder, and prints the next command"),
    ]
    print_done(f"{directory}: institution.yaml, models/, suites/, red_team/, lines/, sources/")
    out.print("Next:")
    for command, what in steps:
        out.print(f"  [bold]{escape(command)}[/]   # {what}")


backup = Group(no_args_is_help=True, help="Back up this installation, restore it, and repair artifacts from a backup.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup.")]
PrivateKey = Annotated[Path, typer.Option("--key", help="File with the age private key that decrypts the backup.")]


@backup.command("create")
def backup_create(
    home: Home,
    folder: Annotated[Path, typer.Option("--out", help="New folder.")],
    recipient: Annotated[Path, typer.Option(help="File with the age public key for encryption.")],
) -> None:
    """Back up SOVEREIGN_HOME, corpus, vault, keys, review secrets and the gateway's directory. Runs may continue during
    the backup.

    If the registry or MLflow uses a PostgreSQL server, its database is included. The backup is logged in the ledger.
    """
    taken = take(home.settings, folder, recipient_in(recipient), tell_progress)
    for link in taken.links:
        print_note(f"not copied, because it is a symbolic link: {link}")
    print_done(f"{taken.description.files} files, {taken.size / 1e6:.1f} MB: {folder}")


@backup.command("verify")
def backup_verify(home: Home, folder: Folder, key: PrivateKey) -> None:
    """Verify a complete backup (signature, every byte, ledger, every artifact) without restoring it.

    If the registry is from a PostgreSQL server, set SOVEREIGN_REGISTRY_URL to the URL of an empty database. The check
    loads the registry into this database.
    """
    checked = check(home.settings, folder, _private_key(key), tell_progress)
    print_done(f"taken {checked.description.created}: {checked.description.files} files")
    print_done(f"{checked.entries} entries of the ledger, {checked.artifacts} artifacts")


@backup.command("restore")
def backup_restore(
    home: Home,
    folder: Folder,
    key: PrivateKey,
    reason: Annotated[str, typer.Option(help="Reason for the restore. It is logged in the ledger.")],
    known: Annotated[
        list[Path] | None,
        typer.Option(
            "--known",
            help="File with a later checkpoint of the ledger, for example from the old SOVEREIGN_HOME; repeatable.",
        ),
    ] = None,
    loses: Annotated[int, typer.Option(min=0, help="Number of ledger entries that the backup lacks.")] = 0,
) -> None:
    """Restore a backup. The directories and databases that SOVEREIGN_HOME and the other variables name must be empty.
    The restore is logged.

    Later checkpoints on this machine show which ledger entries the backup lacks. If the number of these entries differs
    from --loses, exits with status 1 and names the entries.
    """
    done = restore(home.settings, folder, _private_key(key), reason, tell_progress, known=known or [], loses=loses)
    print_done(f"restored the backup of {done.description.created}: {done.artifacts} artifacts verified")
    print_done(f"{done.entries} entries of the ledger; the last one records this restore")
    if not done.was_compared:
        print_note("no checkpoint or second copy of the ledger was found here, so it is unknown whether")
        out.print("  the backup lacks entries: compare the ledger with the checkpoints of witnesses and auditors")
    if done.lost:
        print_note(f"{done.lost} entries are lost, as stated with --loses; inform the witnesses that cosigned them")
    if done.kept_aside is not None:
        print_note(f"the second copy contains the lost entries; it was moved to {done.kept_aside}")


@backup.command("repair")
def backup_repair(
    home: Home,
    folder: Folder,
    artifact: Annotated[str, typer.Argument(help="Digest of the artifact, all 64 digits.")],
    key: PrivateKey,
) -> None:
    """Restore an artifact's missing and changed files. The repair is logged. Purged weights are not restored."""
    names = repair(home.settings, folder, artifact, _private_key(key), tell_progress)
    for name in names:
        print_done(f"restored: {name}")
    if not names:
        out.print("nothing to repair: every file is intact")


databases = Group(help="Move the databases of registry, MLflow and Dagster.")


@databases.callback()
def _databases() -> None:
    """Make `databases` a group. Without a callback, Typer omits the name of a group's only command."""


@databases.command("move")
def databases_move(home: Home) -> None:
    """Move registry, MLflow and Dagster from files in SOVEREIGN_HOME to empty PostgreSQL databases.

    Moves each database whose URL is set: SOVEREIGN_REGISTRY_URL, SOVEREIGN_MLFLOW_URL, SOVEREIGN_DAGSTER_URL. Verifies
    the registry in its new database. The old files are renamed to end in `.moved`.
    """
    from sovereign_pipeline.dagster.moving import move

    for moved in move(home.settings, tell_progress):
        print_done(f"{moved.variable}: {counted(moved.rows, 'row')}; the old files:")
        for path in moved.files:
            out.print(f"  {escape(str(path))}")


def _private_key(path: Path) -> str:

    try:
        return read_private_file(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: this is not an age private key.", "Choose the file that age-keygen wrote.") from None


bundle = Group(no_args_is_help=True, help="Pack, verify and install bundles that cross the air gap.")

Folder_bundle = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")]
Base = Annotated[
    list[Path],
    typer.Option(
        "--base", help="For a bundle created with --since: folder of the earlier bundle; repeat for that bundle's base."
    ),
]
TrustRoot = Annotated[
    str | None,
    typer.Option(
        "--trust-root", metavar="SHA256", help="SHA-256 of the first root; default: of the first root in data/trust."
    ),
]
NewerThan = Annotated[
    Path | None,
    typer.Option("--newer-than", metavar="INDEX", help="Reject a bundle that is not newer than this index.json."),
]
NO_BASES: list[Path] = []


@bundle.command("create")
def bundle_create(
    home: Home,
    folder: Annotated[Path, typer.Option("--out", help="New folder.")],
    key: KeyOptions,
    torch: Annotated[Literal["cpu", "cuda"], typer.Option(help="Build of torch to pack.")] = "cuda",
    since: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", help="index.json of an earlier bundle: pack only files that this bundle lacks."),
    ] = None,
    signatures: Annotated[
        Path | None,
        typer.Option(help="Folder of publishers' signatures (sigstore, OpenSSF), with the same paths as the bundle."),
    ] = None,
) -> None:
    """Pack wheels, base models, suites, trust root, configuration and this release, and sign the index.

    Run it on a connected machine, in a checkout. The key needs the role `bundle`.
    """
    mark_demonstration(home.trust)
    signer = opened_key(key)
    made = create(
        home.settings, PROJECT_ROOT, folder, signer, tell_progress, torch=torch, since=since, signatures=signatures
    )
    out.print("\n".join(escape(line) for line in told(made)))
    out.print("To verify on a machine with only Python, take these digests on paper:")
    out.print(f"  SHA-256 of the first root: {home.trust.root_sha256}")
    out.print(f"  SHA-256 of {TOOL}: {file_sha256(folder / TOOL)}")


@bundle.command("verify")
def bundle_verify(
    home: Home, folder: Folder_bundle, trust_root: TrustRoot = None, base: Base = NO_BASES, newer_than: NewerThan = None
) -> None:
    """Compare a bundle with its signed digests, and print who signed which files.

    Exits with status 1 if a file is changed, missing or extra, and names the file.
    """
    found = verified(home.settings, folder, trust_root, base, newer_than)
    out.print("\n".join(escape(line) for line in told(found)))


@bundle.command("install")
def bundle_install(
    home: Home,
    folder: Folder_bundle,
    target: Annotated[Path, typer.Argument(help="New folder. It cannot be moved later.")],
    trust_root: TrustRoot = None,
    base: Base = NO_BASES,
    newer_than: NewerThan = None,
) -> None:
    """Verify a bundle, and install it into a new environment without a network."""
    found = verified(home.settings, folder, trust_root, base, newer_than)
    out.print("\n".join(escape(line) for line in told(found)))
    environment = installed(found, target, tell_progress)
    print_done(f"installed: {environment}")
