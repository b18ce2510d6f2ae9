"""`sovereign-vault`: generates the key pair and opens the vault, on the offline machine.

Exit status: 0 success; 1 the vault could not be opened; 2 wrong input or usage.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.files import append, write_new
from sovereign_pipeline.base.processes import account, keep_private, print_message, run_program
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.privacy.vault import MappingRow, StatedMapping, fingerprint_of, public_key_of, read_vault

AUDIT_FILE = "audit.jsonl"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def keygen(
    private: Annotated[Path, typer.Option(help="File for the private key, which never leaves this machine.")],
    public: Annotated[Path | None, typer.Option(help="File for the public key. Default: print the key.")] = None,
) -> None:
    """Generate a key pair. Copy the public key to the training machine as $SOVEREIGN_HOME/vault.pub."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    for path in (private, public):
        if path is not None and path.exists():
            raise InputError(f"{path}: the file exists already. Keys are never overwritten.", "Choose another file.")
    private.parent.mkdir(parents=True, exist_ok=True)
    write_new(private, f"{identity}\n")
    if public is None:
        typer.echo(recipient)
        return
    public.parent.mkdir(parents=True, exist_ok=True)
    write_new(public, f"{recipient}\n", 0o644)
    typer.echo(f"Private key: {private} (keep it on this machine). Public key: {public}.")
    typer.echo(f"vault_key in institution.yaml: {fingerprint_of(recipient)}")


@app.command()
def reveal(
    case: Annotated[str, typer.Argument(help="The case file, such as PRM/2024/017.")],
    key: Annotated[Path, typer.Option(help="The private key file.")],
    vault: Annotated[Path, typer.Option(help="The vault directory.")],
    artifact: Annotated[
        list[Path] | None,
        typer.Option(help="Directory of the scrubbed corpus (its manifest and findings.json); may be repeated."),
    ] = None,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Show rows without a check. Anyone with the public key may have written these rows."
        ),
    ] = False,
    line: Annotated[str | None, typer.Option(help="Only rows of this line. Default: all lines.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """Print the originals behind the placeholders of one case, after writing an audit line with the user's name.

    Only rows of the artifacts in --artifact are printed. The whole mapping of each artifact must match the digest that
    the artifact states.
    """
    if bool(artifact) == unchecked:
        raise InputError(
            "Give either --artifact, with the directory of the scrubbed corpus, or --unchecked.",
            "Anyone with the public key can add rows. The artifact shows which rows are genuine.",
        )
    private_key = _read_key(key)
    if not vault.is_dir():
        raise NotFoundError(
            f"{vault}: there is no such directory.", "Use --vault with the directory that was copied to this machine."
        )
    stated = [StatedMapping.of(directory) for directory in artifact or ()]
    for each in stated:
        each.check_key(fingerprint_of(public_key_of(private_key)))
    unopened: list[Path] = []
    by_file = dict(read_vault(vault, private_key, line, None if unchecked else unopened))
    for each in stated:
        each.check_rows(by_file, unopened)
    runs = {each.run for each in stated}
    of_case = dict.fromkeys(row for rows in by_file.values() for row in rows if folded(row.case) == folded(case))
    rows = [row for row in of_case if unchecked or row.run in runs]
    _write_audit_line(vault, case, line, len(rows), [each.artifact for each in stated])
    if not rows:
        where = f"line {line} of {vault}" if line else str(vault)
        others = f" It has {len(of_case)} rows of the case from other artifacts." if of_case else ""
        raise NotFoundError(f"{where} has no rows for case {case}.{others}", "Check the spelling of the case.")
    if unchecked:
        typer.echo("Not checked: anyone with the public key may have written these rows.", err=True)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1))
        return
    _print_table(rows)


def main() -> None:
    """Entry point."""
    keep_private()
    run_program(app, lambda error: print_message(error.message, {"Hint": error.hint} if error.hint else {}))


def _read_key(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such key file.", "Use --key with the private key that `sovereign-vault keygen` wrote."
        )
    return path.read_text(encoding="utf-8", errors="replace")


def _write_audit_line(vault: Path, case: str, line: str | None, count: int, artifacts: Sequence[str]) -> None:
    """Append an entry (time, user, case, line, number of rows, artifacts) to the audit log and flush it to disk."""
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "user": account(),
        "case": case,
        "line": line,
        "rows": count,
        "artifacts": list(artifacts),
    }
    append(vault / AUDIT_FILE, json.dumps(entry, ensure_ascii=False) + "\n")


def _print_table(rows: list[MappingRow]) -> None:
    """Print a table with one row for each placeholder and each spelling of its original. The row lists the ids of the
    documents that contain this spelling."""
    from rich.console import Console
    from rich.table import Table

    where: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        where.setdefault((row.line, row.run, row.placeholder, row.original), []).append(row.row)
    table = Table("line", "run", "placeholder", "original", "rows", title=f"Case {rows[0].case}")
    for (line, run, placeholder, original), ids in where.items():
        table.add_row(line, run[:12], placeholder, _printable(original), ", ".join(dict.fromkeys(ids)))
    Console(markup=False, highlight=False).print(table)


def _printable(original: str) -> str:
    """Replace control characters, because they could manipulate the terminal. With `--json`, they are not replaced."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in original)


if __name__ == "__main__":
    main()
