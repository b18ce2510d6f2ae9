"""`sovereign-trust`: create and change a trust root, on the offline machine with the root keys."""

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.processes import keep_private, print_message, run_program
from sovereign_pipeline.record import trust_changes
from sovereign_pipeline.record.keys import (
    KeySource,
    Signer,
    asked_passphrase,
    generate,
    key_source,
    new_passphrase,
    open_signer,
    read_public_file,
    write_key,
)
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS, Trust, load_trust, refuse_expired

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Directory = Annotated[Path, typer.Argument(help="The trust root's directory, such as data/trust.")]
Public = Annotated[Path, typer.Argument(help="Public key file: PEM, or the C2SP key line of a log or witness.")]
RootKeys = Annotated[list[Path] | None, typer.Option("--key", help="A root key for signing; repeatable.")]
RootTokens = Annotated[
    list[str] | None,
    typer.Option("--token", help="A token (LABEL or LABEL/NAME) with a root key for signing; repeatable."),
]
Module = Annotated[Path | None, typer.Option("--pkcs11-module", help="The vendor's PKCS#11 library, for --token.")]
NewRoots = Annotated[
    list[Path] | None,
    typer.Option("--root", help="Directory for a new root key, each on a separate medium; repeatable."),
]
NewRootTokens = Annotated[
    list[str] | None, typer.Option("--root-token", help="A token (LABEL or LABEL/NAME) whose key becomes a root key.")
]
PassphraseFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--passphrase-file",
        help="File (mode 0600) with the passphrase or PIN: one for all keys, or one for each key in order.",
    ),
]
FromIndex = Annotated[
    int, typer.Option("--from-index", min=0, help="Ledger index (from 0) of the first entry that is no longer valid.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(help="File for the private key. The public key is written to KEY.pub.")],
    kind: Annotated[
        Literal["p256", "ed25519"], typer.Option(help="p256 to sign statements and the root; ed25519 to sign the log.")
    ] = "p256",
    service: Annotated[
        bool,
        typer.Option("--service", help="Key without a passphrase, for a service. Its directory must have mode 0700."),
    ] = False,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Create a key pair. The holder keeps the private key, and gives the .pub file to the holders of the root keys."""
    if service and passphrase_file:
        raise InputError("A service's key has no passphrase.", "Use either --service or --passphrase-file.")
    file = _file_for(passphrase_file, 0, 1)
    signer = generate(kind)
    write_key(key, signer, None if service else new_passphrase(f"New passphrase for {key}", file))
    typer.echo(f"Private key: {key}. Public key: {key}.pub.\nKey id: {signer.keyid}")


@app.command()
def init(
    directory: Directory,
    root: NewRoots = None,
    root_token: NewRootTokens = None,
    threshold: Annotated[int, typer.Option(min=1, help="Number of root keys that must sign a change.")] = 2,
    pipeline: Annotated[
        list[Path] | None, typer.Option(help="Public key of the role pipeline; may be repeated.")
    ] = None,
    log: Annotated[list[Path] | None, typer.Option(help="Public key of the role log; may be repeated.")] = None,
    witness: Annotated[list[Path] | None, typer.Option(help="Public key of the role witness; may be repeated.")] = None,
    bundle: Annotated[list[Path] | None, typer.Option(help="Public key of the role bundle; may be repeated.")] = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Create the root keys and the trust root. Give the SHA-256 of its first root to auditors on paper."""
    named = {"pipeline": pipeline, "log": log, "witness": witness, "bundle": bundle}
    keys = {role: [read_public_file(file) for file in files or ()] for role, files in named.items()}
    trust_changes.refuse_full(directory)

    def create(where: Path, roots: Sequence[Signer]) -> Trust:
        return trust_changes.create_trust(where, roots, keys, threshold=threshold)

    with TemporaryDirectory() as rehearsal:
        trial = Path(rehearsal) / directory.name
        roots = _new_roots(root or (), root_token or (), pkcs11_module, passphrase_file, lambda new: create(trial, new))
    _say(create(directory, roots), directory)


@app.command("add-officer")
def add_officer(
    directory: Directory,
    public: Public,
    person: Annotated[str, typer.Option(help="The officer's name.")],
    may: Annotated[
        list[str],
        typer.Option(help="Act to allow: a transition, waive, recall, issue, review, close, or * for all; repeatable."),
    ],
    level: Annotated[
        list[str], typer.Option(help="Classification level at which the officer may decide, or * for all; repeatable.")
    ],
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Give a person's key the right to approve. First compare the key id with the one that the person reads out."""
    pem = read_public_file(public)
    signers = _signers(key, token, pkcs11_module, passphrase_file)
    _say(trust_changes.add_officer(directory, pem, person, may, level, signers), directory)


@app.command("add-key")
def add_key(
    directory: Directory,
    role: Annotated[str, typer.Argument(help="pipeline, log, witness or bundle.")],
    public: Public,
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Add a key to a role."""
    pem = read_public_file(public)
    signers = _signers(key, token, pkcs11_module, passphrase_file)
    _say(trust_changes.add_key(directory, role, pem, signers), directory)


@app.command()
def rotate(
    directory: Directory,
    role: Annotated[str, typer.Argument(help="pipeline, log, witness or bundle.")],
    public: Public,
    from_index: FromIndex,
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Replace a role's keys by a new one. Signatures by the old keys stay valid for entries before --from-index."""
    pem = read_public_file(public)
    signers = _signers(key, token, pkcs11_module, passphrase_file)
    _say(trust_changes.rotate_key(directory, role, pem, from_index, signers), directory)


@app.command("rotate-root")
def rotate_root(
    directory: Directory,
    root: NewRoots = None,
    root_token: NewRootTokens = None,
    threshold: Annotated[int, typer.Option(min=1, help="New number of root keys that must sign a change.")] = 2,
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
    new_passphrase_file: Annotated[
        list[Path] | None, typer.Option(help="Like --passphrase-file, for the new root keys.")
    ] = None,
) -> None:
    """Replace the root keys. Old (--key) and new keys sign the change; auditors can still start from the first root."""
    old = _signers(key, token, pkcs11_module, passphrase_file)
    trust_changes.read_trust(directory)

    def change(where: Path, new: Sequence[Signer]) -> Trust:
        return trust_changes.rotate_root(where, new, old, threshold=threshold)

    with TemporaryDirectory() as rehearsal:
        copy = shutil.copytree(directory, Path(rehearsal) / directory.name)
        new = _new_roots(
            root or (), root_token or (), pkcs11_module, new_passphrase_file, lambda new: change(copy, new)
        )
    _say(change(directory, new), directory)


@app.command()
def renew(
    directory: Directory,
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Extend the validity of a trust root, before or after it expired."""
    _say(trust_changes.renew(directory, _signers(key, token, pkcs11_module, passphrase_file)), directory)


@app.command()
def revoke(
    directory: Directory,
    keyid: Annotated[str, typer.Argument(help="The complete key id, as `show` prints it.")],
    from_index: FromIndex,
    key: RootKeys = None,
    token: RootTokens = None,
    pkcs11_module: Module = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Revoke a key, starting at a given ledger entry. The entry decides, not a date, because a thief can sign with any
    date."""
    signers = _signers(key, token, pkcs11_module, passphrase_file)
    _say(trust_changes.revoke(directory, keyid, from_index, signers), directory)


@app.command()
def install(
    source: Annotated[Path, typer.Argument(help="The trust root, as copied from the offline machine.")],
    directory: Directory,
) -> None:
    """Install a newer trust root. Older, unrelated and forked trust roots are rejected."""
    _say(trust_changes.install(source, directory), directory)


@app.command()
def show(
    directory: Directory,
    root_sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the first root.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a trust root, and print its keys and their rights. Exits with status 1 if it is invalid or expired."""
    if root_sha256 is not None:
        load_trust(directory, root_sha256, now=datetime.min.replace(tzinfo=UTC))
    trust = trust_changes.read_trust(directory)
    if as_json:
        typer.echo(json.dumps(as_dict(trust), ensure_ascii=False, indent=1))
    else:
        _print(trust)
    refuse_expired(trust, datetime.now(UTC), str(directory))


@app.command("demonstration")
def make_demonstration(
    directory: Directory,
    keys: Annotated[Path, typer.Argument(help="Directory for all private keys, unencrypted.")],
    log: Annotated[Path | None, typer.Option(help="The log's public key, as `sovereign audit key` prints it.")] = None,
) -> None:
    """Create a trust root for demonstrations on one machine: keys of three root holders, three officers, the pipeline
    and bundles.

    Does not replace existing files. Everything that depends on such a trust root is marked as a demonstration.
    """
    from sovereign_pipeline.record.trust_changes import demonstration_trust

    others = {"log": [read_public_file(log)]} if log is not None else {}
    _say(demonstration_trust(directory, keys, others), directory)


def main() -> None:
    keep_private()
    run_program(app, lambda error: print_message(error.message, {"Hint": error.hint} if error.hint else {}))


def as_dict(trust: Trust) -> dict[str, Any]:
    return {
        "root_sha256": trust.root_sha256,
        "root_version": trust.root_version,
        "targets_version": trust.targets_version,
        "expires": trust.expires.isoformat(),
        "note": DEMONSTRATION_KEYS if trust.is_demonstration else None,
        "roles": {
            role.name: {
                "threshold": role.threshold,
                "version": role.version,
                "expires": role.expires.isoformat(),
                "keys": [
                    {
                        "keyid": key.keyid,
                        "person": key.person or None,
                        "may": list(key.may),
                        "levels": list(key.levels),
                        "revoked_from": key.revoked_from,
                    }
                    for key in role.keys
                ],
            }
            for role in trust.roles.values()
        },
    }


def _new_roots(
    directories: Sequence[Path],
    tokens: Sequence[str],
    module: Path | None,
    files: list[Path] | None,
    rehearse: Callable[[Sequence[Signer]], object],
) -> list[Signer]:
    """Create a root key in each directory, open the tokens' keys, and return all keys. Calls `rehearse` with all keys
    before writing a key. If `rehearse` raises an error, no key is written."""
    paths = [directory / "root.key" for directory in directories]
    if len(set(paths)) != len(paths):
        raise InputError("Two root keys would be in one directory.", "Give each key a directory on its own medium.")
    for path in paths:
        if path.exists():
            raise InputError(
                f"{path}: the file exists already, and keys are never overwritten.", "Choose another file."
            )
    count = len(paths) + len(tokens)
    words = [
        new_passphrase(f"New passphrase for {path}", _file_for(files, number, count))
        for number, path in enumerate(paths)
    ]
    made = [generate() for _ in paths]
    there = _opened([key_source(None, each, module) for each in tokens], files, len(paths), count)
    rehearse([*made, *there])
    for path, signer, passphrase in zip(paths, made, words, strict=True):
        write_key(path, signer, passphrase)
    return [*made, *there]


def _signers(
    keys: list[Path] | None, tokens: list[str] | None, module: Path | None, files: list[Path] | None
) -> list[Signer]:
    sources: list[KeySource] = [key_source(path, None) for path in keys or ()]
    sources += [key_source(None, label, module) for label in tokens or ()]
    if not sources:
        raise InputError("Root keys must sign a change of the trust root.", "Give --key or --token for each root key.")
    return _opened(sources, files, 0, len(sources))


def _opened(sources: Sequence[KeySource], files: list[Path] | None, first: int, count: int) -> list[Signer]:
    """Open keys. `files` are passphrase files: one for all keys, or one for each of `count` keys. `first` is the
    position of the first source among the `count` keys, from 0."""
    return [
        open_signer(source, asked_passphrase(f"Passphrase of {source}", _file_for(files, number, count)))
        for number, source in enumerate(sources, start=first)
    ]


def _file_for(files: list[Path] | None, number: int, count: int) -> Path | None:
    if not files:
        return None
    if len(files) not in (1, count):
        raise InputError(
            f"{len(files)} passphrase files were given for {count} keys.", "Give one file, or one file for each key."
        )
    return files[0] if len(files) == 1 else files[number]


def _say(trust: Trust, directory: Path) -> None:
    if trust.is_demonstration:
        typer.echo(f"These are {DEMONSTRATION_KEYS}: anyone with access to this machine can sign as anybody.", err=True)
    typer.echo(
        f"{directory}: root {trust.root_version}, targets {trust.targets_version}, accepted until "
        f"{trust.expires:%Y-%m-%d}.\nSHA-256 of the first root: {trust.root_sha256}"
    )


def _print(trust: Trust) -> None:
    """Print one line for each key, with the full id for copying."""
    typer.echo(f"SHA-256 of the first root: {trust.root_sha256}")
    typer.echo(f"Root {trust.root_version}, targets {trust.targets_version}, accepted until {trust.expires:%Y-%m-%d}.")
    if trust.is_demonstration:
        typer.echo(f"These are {DEMONSTRATION_KEYS}: anyone with access to this machine can sign as anybody.")
    for role in trust.roles.values():
        typer.echo(f"\n{role.name}, version {role.version}" + ("" if role.keys else ": no key"))
        for key in role.keys:
            who = f"  {key.person}" if key.person else ""
            scope = f": may approve {', '.join(key.may)} at {', '.join(key.levels)}" if key.may else ""
            revoked = "" if key.revoked_from is None else f"  (revoked from index {key.revoked_from} on)"
            typer.echo(f"  {key.keyid}{who}{scope}{revoked}")


if __name__ == "__main__":
    main()
