"""`sovereign-transcripts` decrypts transcripts on the machine with the private key. It writes prompts for a blind
review, and rated answers as training rows. `sovereign-vault keygen` generates the key pair.

Exit status: 0 success; 1 the transcripts could not be opened; 2 wrong input or usage.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import Frozen, append, write_new
from sovereign_pipeline.base.processes import account, keep_private, print_message, run_program
from sovereign_pipeline.corpus.document import jsonl_line
from sovereign_pipeline.serving.rated_answers import (
    JournalCopy,
    Opened,
    Role,
    open_transcripts,
    preferences_of,
    prompts_of,
    read_journal,
)

AUDIT_FILE = "audit.jsonl"

Directory = Annotated[Path, typer.Argument(help="Copy of the directory `transcripts` in SOVEREIGN_SERVING.")]
OfLine = Annotated[str, typer.Option("--line", help="Name of the line.")]
Key = Annotated[Path, typer.Option(help="The private key file.")]
Out = Annotated[Path, typer.Option(help="The file to write; it must not exist.")]
JournalDirectory = Annotated[
    Path,
    typer.Option("--journal", help="Copy of the directory `answers` in SOVEREIGN_SERVING. It lists genuine records."),
]
LedgerCopy = Annotated[
    Path, typer.Option(help="Copy of the ledger, from `sovereign audit export`. It confirms the journal's hours.")
]
LogKey = Annotated[str, typer.Option("--log", help="The log's public key, name+id+key, from an independent source.")]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def prompts(
    directory: Directory,
    line: OfLine,
    key: Key,
    out: Out,
    journal: JournalDirectory,
    ledger: LedgerCopy,
    log: LogKey,
) -> None:
    """Write the callers' prompts for `sovereign review open LINE --prompts FILE`. Each run is logged in audit.jsonl.

    Conversations of several turns are omitted. A repeated question is written once.
    """
    opened = _open(directory, line, key, read_journal(journal, line, ledger, log))
    rows = list(prompts_of(opened.transcripts))
    _write(directory, line, "prompts", out, rows)
    typer.echo(f"{len(rows)} prompts of {len(opened.transcripts)} transcripts: {out}")
    _tell(opened)


@app.command()
def preferences(
    directory: Directory,
    line: OfLine,
    key: Key,
    out: Out,
    role: Annotated[Role, typer.Option(help="Pairs of answers to one question, or single rated answers (KTO).")],
    journal: JournalDirectory,
    ledger: LedgerCopy,
    log: LogKey,
) -> None:
    """Write rated answers as rows for `sovereign sources take-rated`. Each run is logged in audit.jsonl."""
    opened = _open(directory, line, key, read_journal(journal, line, ledger, log))
    made = preferences_of(opened, role)
    _write(directory, line, role, out, made.rows)
    typer.echo(f"{len(made.rows)} rows of {len(opened.transcripts)} transcripts: {out}")
    for why, count in sorted(made.left_out.items()):
        typer.echo(f"left out, {why}: {count}")
    _tell(opened)


def main() -> None:
    keep_private()
    run_program(app, lambda error: print_message(error.message, {"Hint": error.hint} if error.hint else {}))


def _open(directory: Path, line: str, key: Path, journal: JournalCopy) -> Opened:
    if not key.is_file():
        raise InputError(f"{key}: there is no such key file.", "Pass the path of the private key with --key.")
    typer.echo(f"the ledger's copy ends with {journal.ends}", err=True)
    if journal.not_entered:
        typer.echo(f"left out, hours that are not in the ledger yet: {journal.not_entered}", err=True)
    return open_transcripts(directory, line, key.read_text(encoding="utf-8", errors="replace"), journal)


def _write(directory: Path, line: str, what: str, out: Path, rows: Sequence[Frozen]) -> None:
    """Write an entry without quoted text to the audit file, and then the rows to `out`. Raises InputError if there are
    no rows or `out` exists."""
    if not rows:
        raise InputError(
            f"{directory}: the transcripts of line {line} contain no {what} that can be written.",
            "Wait for more transcripts.",
        )
    if out.exists():
        raise InputError(f"{out}: this file already exists.", "Pass the path of a new file with --out.")
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "user": account(),
        "line": line,
        "made": what,
        "rows": len(rows),
    }
    append(directory / AUDIT_FILE, json.dumps(entry, ensure_ascii=False) + "\n")
    write_new(out, "".join(jsonl_line(each.model_dump(mode="json", exclude_none=True)) for each in rows))


def _tell(opened: Opened) -> None:
    counts = {
        "left out, not in the journal": opened.foreign,
        "duplicate records": opened.twice,
        "in the journal, but missing": opened.missing,
        "unreadable lines": opened.spoilt,
    }
    for what, count in counts.items():
        if count:
            typer.echo(f"{what}: {count}", err=True)


if __name__ == "__main__":
    main()
