"""`sovereign audit` and `sovereign evidence`: verify, prove and export the ledger; write evidence packages."""

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.cli.terminal import (
    Group,
    Home,
    Result,
    mark_demonstration,
    moment,
    out,
    print_done,
    print_wrong,
    tell_progress,
    write_new_file,
)
from sovereign_pipeline.record import notes, witnesses
from sovereign_pipeline.record.audit_log import CHECKPOINT, append, assert_contains, checkpoint_of, export
from sovereign_pipeline.record.checkpoints import is_stated, read_key, verifier, write_key
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.in_force import acts_of_revoked_keys, replace_trust, rule_file, rules, trust_on_record
from sovereign_pipeline.record.notes import COSIGNS, new_signer, parse_verifier
from sovereign_pipeline.record.officers import TRUST, People
from sovereign_pipeline.record.tree import check, prove, size_of
from sovereign_pipeline.record.verifying import rows_beside, verify_registry
from sovereign_pipeline.record.witnesses import read_policy

if TYPE_CHECKING:
    from sovereign_pipeline.record.witnesses import Policy

people = Group(no_args_is_help=True, help="List the persons in the ledger, and erase a person's name.")


@people.command("list")
def people_list(home: Home) -> Result:
    """List the persons known to this installation, with the commitments that replace their names in the ledger, the
    registry and reviews."""
    listed = People(home.settings).listed()
    return Result([{"name": name, "stands for them": person} for name, person in listed.items()], "Persons")


@people.command("forget")
def people_forget(home: Home, name: Annotated[str, typer.Argument(help="The name, as listed.")]) -> None:
    """Erase a person's name and salt. The ledger stays valid, but nobody can link its entries to the person any more.

    Exits with status 1 if the person takes part in an open review. Copies of the names file on other machines are not
    erased.
    """
    from sovereign_pipeline.review.ballots import assert_in_no_open_review

    person = People(home.settings).forget(name, lambda each: assert_in_no_open_review(home.registry, home.store, each))
    print_done(f"erased; {person} can no longer be linked to a name")


audit = Group(
    no_args_is_help=True, help="Verify and export the ledger, have it cosigned by witnesses, and prove its entries."
)
audit.add_typer(people, name="people")

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="Witness policy (c2sp.org/tlog-policy); default: data/trust/witnesses.policy."),
]
LogKey = Annotated[str, typer.Option("--log", help="The log's public key (name+id+key), from an independent source.")]

EXPORTED = "log exported"
"""Action of the ledger entry about an export."""


@audit.command("verify")
def audit_verify(
    home: Home,
    kept: Annotated[
        Path | None, typer.Option("--export", help="An earlier export, whose entries the ledger must still contain.")
    ] = None,
    policy: PolicyFile = None,
) -> Result:
    """Recompute the ledger's hash chain and Merkle tree, and compare them with checkpoints, second copy and witnesses.

    Also compares every review with its signed acts, and the local trust root with the logged trust root. Lists
    officers' acts that do not count, because the officer's key was already revoked when the act was logged. Exits with
    status 1 and names each difference in these cases: an entry is missing, changed or out of order; a review's rows
    differ from its acts; the trust root is older, unrelated or not logged; the database has rows without an entry.
    """
    from sovereign_pipeline.review.closing import examine_all

    registry = open_registry(home.settings, from_first_entry=True)
    report = verify_registry(registry, _policy(home.settings, policy))
    if kept is not None:
        with registry.reading() as session:
            assert_contains(session, checkpoint_of(kept))
    registry.keep_anew()
    found = examine_all(registry, home.store, home.settings)
    ledger = report.ledger
    with registry.reading() as session:
        beside = rows_beside(session)
        trust = trust_on_record(session)
        void = [] if trust is None else acts_of_revoked_keys(session, home.trust)
    not_compared = trust is None and ledger.newest.sequence > 0 and (home.settings.data / TRUST).is_dir()
    facts = {
        "entries": ledger.newest.sequence,
        "hash": ledger.newest.hash,
        "root": ledger.root.hex(),
        "checkpoint": report.checkpoint,
        "second_copy": ledger.in_copy,
        "witnessed": report.witnessed,
        "witnesses": {name: _time(at) for name, at in report.cosigned.items()},
        "trust_root": trust.root_sha256 if trust is not None else None,
        "rows_without_an_entry": beside,
        "acts_of_revoked_keys": [entry.sequence for entry in void],
        "reviews": found,
    }

    def show() -> None:
        print_done(f"{facts['entries']} entries, linked by their hashes; newest hash {facts['hash']}")
        print_done(f"Merkle tree; root {facts['root']}")
        if report.checkpoint is None:
            out.print("  no checkpoint yet; the next act signs the first checkpoint")
        else:
            print_done(f"signed checkpoint of {report.checkpoint} entries")
        if ledger.in_copy is not None:
            undone = f"; {ledger.not_committed} more from uncommitted acts" if ledger.not_committed else ""
            print_done(f"second copy: {ledger.in_copy} entries{undone}")
        if report.witnessed is None:
            out.print("  no witness policy: anyone with the registry and its key can rewrite the ledger undetected")
        else:
            names = ", ".join(f"{escape(name)} {_time(at)}" for name, at in sorted(report.cosigned.items()))
            print_done(f"{report.witnessed} entries witnessed: {names or 'the policy requires no witness'}")
        if trust is not None:
            print_done(
                f"trust root {trust.root_sha256}: root {trust.root_version}, targets "
                f"{trust.targets_version}, logged in entry {trust.sequence}"
            )
        if not_compared:
            print_wrong("trust root: not compared, because no ledger entry contains it; the next act logs it")
        for entry in void:
            out.print(
                f"[yellow]![/] entry {entry.sequence}, {entry.action}: does not count, because its key is revoked"
            )
        for table, count in beside.items():
            print_wrong(f"table {table}: {count} rows without an entry, written by another program")
        for review, findings in found.items():
            for each in findings:
                print_wrong(f"review {review}: {each}")

    return Result(facts, show, passed=not found and not beside and not not_compared)


@audit.command("checkpoint")
def audit_checkpoint(
    home: Home,
    request: Annotated[
        Path | None, typer.Option("--request", help="Write a request for witnesses to this new file.")
    ] = None,
    old: Annotated[
        int | None,
        typer.Option(
            "--old", min=0, help="Number of entries in the checkpoint that the witness cosigned last; 0 if none."
        ),
    ] = None,
    answer: Annotated[
        Path | None, typer.Option("--answer", help="File with a witness's cosignatures to import.")
    ] = None,
    policy: PolicyFile = None,
) -> Result:
    """Print the ledger's signed checkpoint and public key, request cosignatures, or add a witness's cosignatures.

    Send auditors and witnesses the public key and the checkpoint through separate channels.
    """
    if answer is not None:
        by = _needed_policy(home.settings, policy)
        note, cosigned = witnesses.add_cosignatures(home.settings, by, _text(answer))
    else:
        note, cosigned = home.registry.checkpoint(), []
    if request is not None:
        start = old if old is not None else witnesses.newest_cosigned_size(home.settings)
        with home.registry.reading() as session:
            write_new_file(request, witnesses.request(session, note, start))
        witnesses.note_asked(home.settings, note)
    with home.registry.reading() as session:
        log = verifier(session, home.settings)
    head = notes.parse_tree_head(note.text)
    facts = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "log": str(log)}

    def show() -> None:
        print_plain(f"{note}\nPublic key of the log: {log}\n")
        if cosigned:
            print_plain(f"Cosigned by: {', '.join(cosigned)}\n")

    return Result({**facts, "note": str(note), "witnesses": cosigned}, show)


@audit.command("key")
def audit_key(
    home: Home,
    file: Annotated[
        Path | None, typer.Option("--file", help="Write to this new file instead of standard output.")
    ] = None,
) -> None:
    """Print the log's public key, for the trust root's role `log`. Creates the key if the ledger has no key yet.

    Take the public key to the offline machine, where the holders of the root keys add it to the role.
    """
    with home.registry.reading() as session:
        is_new = not is_stated(session)
    if is_new:
        with home.registry.writing():
            pass  # the first transaction creates and logs the key
    with home.registry.reading() as session:
        log = verifier(session, home.settings)
    _print_or_write(f"{log}\n", file, "the log's public key")


@audit.command("prove")
def audit_prove(
    home: Home,
    entry: Annotated[int, typer.Argument(help="Number of the entry.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Write to this new file instead of standard output.")
    ] = None,
    policy: PolicyFile = None,
) -> None:
    """Write a proof that an entry is in the ledger, in the format c2sp.org/tlog-proof. The proof can be verified
    without the ledger.

    With a witness policy, the proof uses the newest checkpoint that covers the entry and that enough witnesses
    cosigned, if there is one.
    """
    found = _policy(home.settings, policy)
    note = witnesses.newest_witnessed(home.settings, found, covering=entry) if found is not None else None
    note = note or home.registry.checkpoint()
    with home.registry.reading() as session:
        text = prove(session, entry, note)
    _print_or_write(text, file, f"entry {entry}")


@audit.command("check-proof")
def audit_check_proof(
    file: Annotated[Path, typer.Argument(help="A file that `audit prove` wrote.")],
    log: LogKey,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Witness policy for the checkpoint (c2sp.org/tlog-policy).")
    ] = None,
) -> Result:
    """Verify a proof that `audit prove` wrote, and print its entry. Needs the log's public key, but no registry."""
    proven = check(_text(file), parse_verifier(log))
    cosigned: dict[str, int] = {}
    if policy is not None:
        found = read_policy(policy)
        cosigned = found.cosigned(proven.note)
        if not found.is_met(cosigned):
            raise IntegrityError(
                f"{file}: too few witnesses of the policy cosigned the checkpoint.",
                "Get a proof for a checkpoint with enough cosignatures.",
            )
    entry, head = proven.entry, proven.head
    witnessed = {name: _time(at) for name, at in cosigned.items()}

    def show() -> None:
        print_done(f"entry {entry['sequence']} of {head.origin}: {entry['at']}, {entry['actor']}, {entry['action']}")
        for name, at in witnessed.items():
            print_done(f"witnessed by {name}, {at}")

    return Result({"entry": entry, "size": head.size, "origin": head.origin, "witnesses": witnessed}, show)


@audit.command("witness-key")
def audit_witness_key(
    name: Annotated[str, typer.Argument(help="The witness's name, such as ministry.example/audit-office.")],
    file: Annotated[Path, typer.Argument(help="New file for the private key, in a separate directory.")],
) -> None:
    """Create a witness's private key, and print the public key for the policy. Run this on a machine other than the
    ledger's."""
    signer = new_signer(name, COSIGNS)
    write_key(file, signer)
    print_plain(f"{signer.verifier}\n")


@audit.command("witness")
def audit_witness(
    request: Annotated[Path, typer.Argument(help="The request file that `audit checkpoint --request` wrote.")],
    key: Annotated[Path, typer.Option("--key", help="This witness's private key.")],
    logs: Annotated[list[str], typer.Option("--log", help="Public key of a log to witness; repeatable.")],
    state: Annotated[
        Path | None, typer.Option("--state", help="Directory for the last cosigned checkpoint; default: the key's.")
    ] = None,
    answer: Annotated[
        Path | None, typer.Option("--answer", help="Write to this new file instead of standard output.")
    ] = None,
) -> None:
    """Cosign a log's checkpoint, as a witness on another machine. Needs no registry.

    Rejects a forked log, and a request that does not begin at the log size that this witness cosigned last. Do not lose
    the directory of --state: without the last cosigned size, a fork cannot be detected.
    """
    signer = read_key(key)
    if signer.kind != COSIGNS:
        raise InputError(f"{key}: this is a log's key instead of a witness's key.", "Use the witness's own key.")
    watched = [parse_verifier(each) for each in logs]
    line = witnesses.answer(_text(request), signer, watched, state or key.absolute().parent, int(time.time()))
    _print_or_write(line, answer, "take this file back to the log's machine")


@audit.command("export")
def audit_export(home: Home, file: Annotated[Path, typer.Argument(help="New file for the export.")]) -> None:
    """Verify the ledger and write it to a JSONL file, and its signed checkpoint to a file in the same directory. The
    export is logged.

    Store both files elsewhere: `audit verify --export` then detects a truncated ledger. The machine that decrypts
    transcripts also needs both files, to verify the transcripts.
    """
    if file.exists():
        raise InputError(f"{file}: the file exists already.", "Choose a new file.")
    with home.registry.writing() as session:
        append(session, home.actor, EXPORTED, {"entries": size_of(session)})
    write_new_file(file.with_name(file.name + CHECKPOINT), str(home.registry.checkpoint()))
    last = export(home.registry, file)
    print_done(f"{file}: {last.sequence} entries; newest {last.hash}")


@audit.command("trust-root")
def audit_trust_root(
    home: Home, sha256: Annotated[str, typer.Argument(help="Full SHA-256 of the new first root.")]
) -> None:
    """Accept the trust root in data/trust in place of the logged trust root. The act is logged.

    Until you run this command, every other command rejects a trust root whose first root differs from the logged first
    root. Signatures that officers made under the old trust root are invalid under the new one.
    """
    with open_registry(home.settings, under_any_trust=True).writing() as session:
        replace_trust(session, home.settings, sha256.lower())
    print_done(f"the trust root {sha256.lower()} is now the accepted one")


@audit.command("policy")
def audit_policy(
    home: Home, at: Annotated[str | None, typer.Option(help="UTC date or time; default: now.")] = None
) -> Result:
    """List the files of the institution's rules that applied at a given time. For each file, show the time since which
    it applies, and the path of its stored copy."""
    with home.registry.reading() as session:
        found = rules(session, moment(at) if at is not None else None)
    rows = [
        {
            "file": each.file,
            "since": each.since.isoformat(timespec="seconds"),
            "entry": each.sequence,
            "sha256": each.sha256 or "removed",
            "copy": str(rule_file(home.settings, each.sha256)) if each.sha256 is not None else None,
        }
        for each in found
    ]
    return Result(rows, "Rules in force")


def _print_or_write(text: str, file: Path | None, what: str) -> None:
    if file is None:
        print_plain(text)
        return
    write_new_file(file, text)
    print_done(f"{file}: {what}")


def print_plain(text: str) -> None:
    out.print(text, end="", highlight=False, markup=False, soft_wrap=True)


def _policy(settings: Settings, given: Path | None) -> "Policy | None":

    default = settings.data / "trust" / "witnesses.policy"
    if given is not None:
        return read_policy(given)
    return read_policy(default) if default.exists() else None


def _needed_policy(settings: Settings, given: Path | None) -> "Policy":
    policy = _policy(settings, given)
    if policy is None:
        raise InputError("There is no witness policy.", "Use --policy FILE, or create data/trust/witnesses.policy.")
    return policy


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise InputError(f"{file}: the file is not readable as text.", "Correct the path of the file.") from None


def _time(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")


def evidence(
    home: Home,
    folder: Annotated[Path, typer.Option("--out", help="New folder for the package.")],
    adapter_id: Annotated[str | None, typer.Argument(help="Id of a registered adapter.")] = None,
    line: Annotated[str | None, typer.Option("--line", help="With --on: a line, instead of an adapter's id.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="UTC date or time: include the adapters that answered at this time.")
    ] = None,
    zipped: Annotated[bool, typer.Option("--zip", help="Also write a .zip beside the folder.")] = False,
) -> Result:
    """Write an evidence package: all records about an adapter, down to its source files, and a verifier.

    The verifier needs only Python, `cryptography` and the SHA-256 of the first trust root. The package contains no
    document text. The command is logged. If the trust root lists witnesses, enough of these witnesses must have
    cosigned every entry in the package.
    """
    from sovereign_pipeline.evidence.package import A_DAY, answered, write_package

    if (adapter_id is None) == (line is None) or (line is None) != (on is None):
        raise InputError(
            "An evidence package needs either an adapter, or a line and a date.", "Give an id, or --line and --on."
        )
    adapters = [adapter_id] if adapter_id is not None else []
    if line is not None and on is not None:
        until = moment(on)
        since = until.replace(hour=0, minute=0, second=0, microsecond=0) if len(on) == A_DAY else until
        with home.registry.reading() as session:
            adapters = answered(session, home.settings, line, on, since, until)
    written = write_package(
        home.registry, home.store, home.settings, adapters, folder, tell_progress, on=on, zipped=zipped
    )

    def show() -> None:
        mark_demonstration(home.trust)
        names = escape(", ".join(written.adapters))
        print_done(f"{folder}: {names}, {written.classification}")
        print_done(
            f"{counted(written.files, 'file')}, {written.bytes:,} bytes, with "
            f"{counted(written.entries, 'entry', 'entries')} of the log; the package's verifier accepts it"
        )
        if written.archive is not None:
            print_done(f"{written.archive}: {written.archive.stat().st_size:,} bytes")
        out.print("Give these digests to readers on paper, separately from the package:")
        out.print(f"  SHA-256 of the first root: {written.root_sha256}")
        out.print(f"  SHA-256 of verify.py:      {written.verifier_sha256}")
        out.print(f"Verify it anywhere with: python {escape(str(folder))}/verify.py SHA256-OF-THE-FIRST-ROOT")

    return Result(written, show)
