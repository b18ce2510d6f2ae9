"""`sovereign-vault`: the program for the offline machine. It makes the key pair and opens the vault, and nothing else.

What belongs here: commands, their output, the audit line of each opening. What does not: what the vault holds or how
it is sealed (`vault.py`).
"""

import datetime
import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sovereign_pipeline.errors import InputError, NotFoundError, SovereignError
from sovereign_pipeline.privacy.vault.vault import MappingRow, read_vault

AUDIT_FILE = "audit.jsonl"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def keygen(
    private: Annotated[Path, typer.Option(help="Where the private key goes. It never leaves this machine.")],
    public: Annotated[Path | None, typer.Option(help="Where the public key goes; printed when left out.")] = None,
) -> None:
    """Make a key pair. The public key goes to the training machine as $SOVEREIGN_HOME/vault.pub."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    for path in (private, public):
        if path is not None and path.exists():
            raise InputError(f"{path}: the file exists already and keys are never overwritten. Name another file.")
    _write_new(private, f"{identity}\n", mode=0o600)
    if public is None:
        typer.echo(recipient)
        return
    _write_new(public, f"{recipient}\n", mode=0o644)
    typer.echo(f"Private key: {private} (keep it on this machine). Public key: {public}.")


@app.command()
def reveal(
    case: Annotated[str, typer.Argument(help="The case file, such as PRM/2024/017.")],
    key: Annotated[Path, typer.Option(help="The private key file.")],
    vault: Annotated[Path, typer.Option(help="The vault directory.")],
    line: Annotated[str | None, typer.Option(help="Only this line; all of them when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Print what the placeholders of one case stood for, after writing to the audit file who asked."""
    private_key = _read_key(key)
    if not vault.is_dir():
        raise NotFoundError(f"{vault}: there is no such directory. Name the vault that was copied to this machine.")
    rows = list(dict.fromkeys(row for row in read_vault(vault, private_key, line) if row.case == case))
    _write_audit_line(vault, case, line, len(rows))
    if not rows:
        where = f"line {line} of {vault}" if line else str(vault)
        raise NotFoundError(f"{where} holds nothing for case {case}. Check how the case is written.")
    if as_json:
        typer.echo(json.dumps([_shown(row) for row in rows], ensure_ascii=False, indent=1))
        return
    _print_table(rows)


def main() -> None:
    """Entry point. A mistake of the user ends in one paragraph on standard error and the error's exit status."""
    try:
        app()
    except SovereignError as error:
        typer.echo(f"sovereign-vault: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        typer.echo(
            f"sovereign-vault: {error.filename}: {error.strerror}. Check the path and its permissions.", err=True
        )
        sys.exit(2)


def _read_key(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: there is no such key file. Name the private key made by `sovereign-vault keygen`.")
    return path.read_text(encoding="utf-8", errors="replace")


def _write_new(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(content)


def _write_audit_line(vault: Path, case: str, line: str | None, count: int) -> None:
    """Appended and on the disk before anything is shown. Holds no originals."""
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "user": getpass.getuser(),
        "case": case,
        "line": line,
        "rows": count,
    }
    descriptor = os.open(vault / AUDIT_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _shown(row: MappingRow) -> dict[str, Any]:
    return {
        "line": row.line,
        "run": row.run,
        "case": row.case,
        "row": row.row,
        "field": row.field,
        "placeholder": row.placeholder,
        "original": row.original,
    }


def _print_table(rows: list[MappingRow]) -> None:
    """Each placeholder with each way it was written, and the documents where that stood."""
    from rich.console import Console
    from rich.table import Table

    where: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        where.setdefault((row.line, row.run, row.placeholder, row.original), []).append(row.row)
    table = Table("line", "run", "placeholder", "original", "rows", title=f"Case {rows[0].case}")
    for (line, run, placeholder, original), ids in where.items():
        table.add_row(line, run[:12], placeholder, original, ", ".join(dict.fromkeys(ids)))
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()
