"""`sovereign doctor`: check everything that a run needs, and print a line for each check, with a remedy if the check
fails."""

import datetime
import importlib.util
import os
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rich.markup import escape
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.base_models.stages import load_card, verify
from sovereign_pipeline.cli.terminal import advice_of, out, tell_progress
from sovereign_pipeline.corpus.ocr import find_tesseract
from sovereign_pipeline.ops.backup import CREATED, FAILED
from sovereign_pipeline.policy.institution import Institution, Kubernetes, Slurm, load_institution
from sovereign_pipeline.policy.line import Line, load_lines
from sovereign_pipeline.privacy.vault import fingerprint_of, read_public_key
from sovereign_pipeline.record import notes, witnesses
from sovereign_pipeline.record.audit_log import assert_contents, proven_entry
from sovereign_pipeline.record.database import Registry, beyond_a_service, is_there, open_registry
from sovereign_pipeline.record.manifest import MANIFEST_FILE
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.record.sealing import PROVENANCE_BUNDLE
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS
from sovereign_pipeline.registry.mlflow_mirror import differences
from sovereign_pipeline.release.cadence import due_reviews
from sovereign_pipeline.release.recall import list_recalls, question_of
from sovereign_pipeline.serving.rollout.flag import current_flag, evaluator_of, lines_with_flags
from sovereign_pipeline.suites.cards import load_suite_card, suite_digest
from sovereign_pipeline.training import kubernetes_jobs, slurm


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    found: str

    advice: Mapping[str, str] = field(default_factory=dict)
    """Mapping of a remedy's label, such as `Hint`, to the remedy."""


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a line for each finding, with its remedies below."""
    for each in findings:
        out.print(f"{'[green]✓[/]' if each.ok else '[red]✗[/]'} {escape(each.what)}: {escape(each.found)}")
        for label, advice in each.advice.items():
            out.print(f"  [bold]{label}:[/] {escape(advice)}")


def failed(what: str, error: SovereignError) -> Finding:
    return Finding(what, False, error.message, advice_of(error))


def wrong(what: str, found: str, hint: str, command: str | None = None) -> Finding:
    """Return a failed finding with its remedy."""
    return Finding(what, False, found, {"Hint": hint} | ({"Command": command} if command is not None else {}))


NEEDED_BYTES = 6 << 30
"""Free disk space in bytes that a run needs for base model, artifacts of two lines, MLflow and Dagster. Includes a
reserve."""
PATIENCE = 3.0
"""Timeout for a host's answer, in seconds."""


def python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info[:2] == (3, 11), version)


def disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding("disk", free >= NEEDED_BYTES, f"{free / (1 << 30):.1f} GiB free at {place}")


def private(settings: Settings) -> Finding:
    """Find files of the installation that other accounts of this machine can open. The pipeline itself creates only
    files that no other account can open."""
    roots = [root for root in (settings.home, *settings.secret_directories.values()) if root.exists()]
    found = [path for root in roots for path in reachable_by_others(root)]
    if not found:
        return Finding("permissions", True, "no other account can read or write this directory")
    return Finding(
        "permissions",
        False,
        f"other accounts can read {counted(len(found), 'file')}: {and_more([str(path) for path in found])}",
        {"Command": f"chmod -R go= {shlex.join(map(str, roots))}"},
    )


def reachable_by_others(root: Path) -> Iterator[Path]:
    """Yield the files below `root` that their group or other accounts can open. Files that vanish during the search are
    ignored, such as SQLite's log when another process closes the database."""
    if not _grants(root.resolve(), stat.S_IXGRP | stat.S_IXOTH):
        return
    for directory, inside, names in os.walk(root):  # skips vanished files, and follows no links
        place = Path(directory)
        inside[:] = sorted(name for name in inside if _grants(place / name, stat.S_IXGRP | stat.S_IXOTH))
        yield from (place / name for name in sorted(names) if _grants(place / name, stat.S_IRWXG | stat.S_IRWXO))


def _grants(path: Path, bits: int) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return bool(mode & bits) and not stat.S_ISLNK(mode)  # the mode of a link's target decides, not the link's mode


def device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, torch.cuda.get_device_name(0))
    return Finding("device", True, f"CPU, {os.cpu_count()} cores (no CUDA device)")


def trainer(institution: Institution) -> Finding:
    place = institution.trainer
    if place.where == "ray" and importlib.util.find_spec("ray") is None:
        command = "pip install 'sovereign-pipeline[ray]'"
        return Finding("trainer", False, "runs on Ray, but the package ray is not installed", {"Command": command})
    try:
        match place:
            case Slurm():
                return Finding("trainer", True, f"runs on Slurm; {slurm.check_cluster(place)}")
            case Kubernetes():
                return Finding("trainer", True, f"runs on Kubernetes; {kubernetes_jobs.check_cluster(place)}")
    except SovereignError as error:
        return failed("trainer", error)
    return Finding("trainer", True, "runs here" if place.where == "here" else f"runs on {place.where}")


def writable(settings: Settings) -> Finding:
    """Check that this account can write to every directory of the installation, or create the directory if it is
    missing."""
    roots = {VARIABLES["home"]: settings.home, **settings.secret_directories}
    refused = [f"{name} ({path})" for name, path in roots.items() if not _may_write(path)]
    copy = settings.ledger_copy
    if copy is not None and not (copy.is_file() and os.access(copy, os.W_OK)):
        refused.append(f"{VARIABLES['ledger_copy']} ({copy})")
    if refused:
        hint = "Give the account that runs this program access to these directories, or mount their disk."
        return wrong("writable", f"this account cannot write to {and_more(refused)}", hint)
    return Finding("writable", True, f"home and {counted(len(roots) - 1, 'secret directory', 'secret directories')}")


def _may_write(path: Path) -> bool:
    place = next(each for each in (path, *path.parents) if each.exists())
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def reachable(settings: Settings, institution: Institution) -> list[Finding]:
    """Connect to each configured host. Databases are not included, because `records` checks them."""
    hosts = {VARIABLES["otlp_url"]: settings.otlp_url}
    if institution.trainer.where == "ray":
        hosts["trainer"] = institution.trainer.address
    return [_reached(name, url) for name, url in hosts.items() if url]


def _reached(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "Start the service, or correct its address."
        return wrong(f"host of {name}", f"{parts.hostname}:{port} does not answer ({reason})", hint)
    return Finding(f"host of {name}", True, f"{parts.hostname}:{port} answers")


EXPIRES_SOON = datetime.timedelta(days=60)
"""Time before a trust root's expiry at which the holders of its keys should renew the trust root."""


def trust(settings: Settings) -> Finding:
    """Check the trust root, and the pipeline's key that signs every artifact."""
    try:
        trust = trust_root(settings)
        pipeline_signer(settings, trust)
        if is_there(settings):
            open_registry(settings)  # compares the trust root with the logged one
    except SovereignError as error:
        return failed("trust root", error)
    if trust.is_demonstration:
        hint = "Create a trust root with sovereign-trust, on an offline machine."
        return Finding(
            "trust root",
            False,
            f"{DEMONSTRATION_KEYS}: anyone with access to this machine can sign as anybody",
            {"Hint": hint},
        )
    if trust.expires - datetime.datetime.now(datetime.UTC) < EXPIRES_SOON:
        hint = "Have the holders of its keys renew it on the offline machine. An expired trust root stops all runs."
        return wrong("trust root", f"expires on {trust.expires:%Y-%m-%d}", hint, "sovereign-trust renew DIR --key FILE")
    return Finding("trust root", True, f"root {trust.root_version}, accepted until {trust.expires:%Y-%m-%d}")


def vault(settings: Settings, institution: Institution) -> Finding:
    """Check that the vault has a public key, and that institution.yaml pins this key."""
    if not settings.vault_public_key.is_file():
        command = f"sovereign-vault keygen --private FILE --public {settings.vault_public_key}"
        return wrong("vault key", "no public key", "Create a key pair on an offline machine.", command)
    try:
        fingerprint = fingerprint_of(read_public_key(settings.vault_public_key))
    except SovereignError as error:
        return failed("vault key", error)
    if institution.vault_key is None:
        found = f"institution.yaml pins no key, so the first key at {settings.vault_public_key} is trusted"
        return wrong(
            "vault key", found, f"Check that this key is yours, then set vault_key: {fingerprint} in institution.yaml."
        )
    if institution.vault_key != fingerprint:
        found = f"{settings.vault_public_key} differs from the key that institution.yaml pins"
        return wrong(
            "vault key",
            found,
            "Find out who changed the file. If the change was intended, update vault_key in institution.yaml.",
        )
    return Finding("vault key", True, f"public key at {settings.vault_public_key} is the pinned one")


def base_models(settings: Settings, recipes: Sequence[Line]) -> list[Finding]:

    findings = []
    for name in sorted({recipe.training.base_model for recipe in recipes}):
        try:
            verify(settings, load_card(settings, name), tell_progress)
            findings.append(Finding(f"base model {name}", True, "every file matches its pinned digest"))
        except SovereignError as error:
            findings.append(failed(f"base model {name}", error))
    return findings


def suites(settings: Settings, recipes: Sequence[Line]) -> list[Finding]:
    """Check that each published suite that a recipe names is in the mirror, and that the suite's card pins the digest
    of its files."""
    entries = [each for recipe in recipes if recipe.evaluation is not None for each in recipe.evaluation.capability]
    findings = []
    for name in sorted({entry.suite for entry in entries if entry.suite is not None}):
        try:
            card = load_suite_card(settings, name)
            digest = suite_digest(settings, card)
        except SovereignError as error:
            findings.append(failed(f"suite {name}", error))
            continue
        if card.sha256 is None:
            hint = f"Check that the files are the publisher's, then set sha256: {digest} in its card."
            findings.append(wrong(f"suite {name}", "the card has no digest, so any files are accepted", hint))
        else:
            findings.append(Finding(f"suite {name}", True, "every file matches its pinned digest"))
    return findings


def ocr(recipes: Sequence[Line]) -> list[Finding]:
    if not any(source.ocr for recipe in recipes for source in recipe.sources):
        return []
    try:
        find_tesseract()
    except SovereignError as error:
        return [failed("OCR", error)]
    return [Finding("OCR", True, "tesseract has the language data for English and Arabic")]


def signed(settings: Settings) -> list[Finding]:
    """Find artifacts without a signature. Does not verify signatures; `adapters verify` does."""
    stored = [path.parent for path in settings.artifacts.glob(f"*/{MANIFEST_FILE}")]
    if not stored:
        return []
    unsigned = [path.name[:12] for path in sorted(stored) if not (path / PROVENANCE_BUNDLE).is_file()]
    if not unsigned:
        return [Finding("artifacts", True, f"{counted(len(stored), 'artifact')}, each with a signature")]
    what = f"{len(unsigned)} of {counted(len(stored), 'artifact')} are unsigned: {and_more(unsigned)}"
    return [wrong("artifacts", what, "Restore these artifacts from a backup.")]


LONGEST_UNWITNESSED = datetime.timedelta(days=31)
"""Maximum age of the oldest ledger entry that too few witnesses have cosigned."""
LONGEST_WITHOUT_BACKUP = datetime.timedelta(days=31)
LOG = "docs/how-to/ledger.md"


def records(settings: Settings) -> list[Finding]:
    """Return the findings about the registry and the flags. If there is no registry, the checks of the registry are
    skipped, and no registry is created."""
    parts: dict[str, Callable[[Registry], list[Finding]]] = {
        "registry": rights,
        "recalls": recalls,
        "reviews": reviews,
        "MLflow": mlflow,
        "witnesses": unwitnessed,
        "backup": backups,
    }
    findings: list[Finding] = []
    for what, part in parts.items() if is_there(settings) else ():
        try:
            findings += part(open_registry(settings))
        except SovereignError as error:
            findings.append(failed(what, error))
    return [*findings, *flags(settings)]


SECONDS_BETWEEN_HEARTBEATS = 60.0
"""Maximum age, in seconds, of a running Dagster daemon's last heartbeat. (A daemon sends a heartbeat every 30 s.)"""


def dagster_database(settings: Settings) -> list[Finding]:
    """Check that Dagster's database can be opened, belongs to this SOVEREIGN_HOME, and is used by at most one
    daemon."""
    from sovereign_pipeline.dagster.resources import open_instance

    if settings.dagster_url is None:
        return []
    what = "Dagster's database"
    try:
        with open_instance(settings) as instance:
            beats = [each.last_heartbeat for each in instance.get_daemon_statuses().values()]
    except SovereignError as error:
        return [failed(what, error)]
    since = datetime.datetime.now(datetime.UTC).timestamp() - SECONDS_BETWEEN_HEARTBEATS
    daemons = {each.daemon_id for each in beats if each is not None and each.timestamp > since}
    if len(daemons) > 1:
        return [wrong(what, f"{len(daemons)} daemons run, and each starts every due run", "Stop all daemons but one.")]
    return [Finding(what, True, f"it belongs to this installation; {'a daemon runs' if daemons else 'no daemon runs'}")]


def rights(registry: Registry) -> list[Finding]:
    """Check that the connected database role has no more rights than a service needs."""
    with registry.engine.connect() as connection:
        is_file, found = connection.dialect.name == "sqlite", beyond_a_service(connection)
    if found:
        hint = "Connect services with a role that can only read and insert: docs/how-to/ledger.md."
        return [Finding("registry", False, and_more(found), {"Hint": hint})]
    where = (
        "SQLite has no roles: write access to the file is full access"
        if is_file
        else "the role can only read and insert"
    )
    return [Finding("registry", True, where)]


def recalls(registry: Registry) -> list[Finding]:
    """Return a failed finding for each recall that still applies to an adapter. Also verify the ledger entries and rows
    from which recalls are computed."""
    with registry.reading() as session:
        assert_contents(session)
        held = [(recall, adapters) for recall, adapters in list_recalls(session, registry.settings) if adapters]
    hint = "Retire each adapter, or have an officer waive the recall for it."
    return [
        Finding(
            recall.id,
            False,
            f"{question_of(recall)} is recalled, and these adapters were trained on it: {and_more(adapters)}",
            {"Hint": hint},
        )
        for recall, adapters in held
    ] or [Finding("recalls", True, "none applies to an adapter")]


def mlflow(registry: Registry) -> list[Finding]:
    found = differences(registry, registry.settings)
    if not found:
        return [Finding("MLflow", True, "matches the registry")]
    command = {"Command": "sovereign adapters mlflow --repair"}
    return [Finding("MLflow", False, f"differs from the registry: {and_more(found, separator='; ')}", command)]


def flags(settings: Settings) -> list[Finding]:
    """Verify the newest change of each line's flag, and evaluate the flag."""
    findings: list[Finding] = []
    for line in lines_with_flags(settings):
        try:
            flag = current_flag(settings, line, trust_root(settings))
            evaluator_of(flag)
        except SovereignError as error:
            findings.append(failed(f"flag of {line}", error))
        else:
            findings.append(Finding(f"flag of {line}", True, flag.in_words()))
    return findings


def reviews(registry: Registry) -> list[Finding]:
    """Return a failed finding for each line whose newest adapter must be reviewed now."""
    found = due_reviews(registry, registry.settings, datetime.datetime.now(datetime.UTC).date())
    late = [each for each in found if each.state != "not due"]
    hint = "Have an officer review the adapter, or run the line again."
    return [
        wrong(f"review of {each.adapter}", f"{each.state} since {each.on}", hint, "sovereign adapters status")
        for each in late
    ] or [Finding("reviews", True, "none is due")]


def unwitnessed(registry: Registry) -> list[Finding]:
    """Check that a witness policy exists, and that no entry waits longer than `LONGEST_UNWITNESSED` for witnesses."""
    path = registry.settings.data / "trust" / "witnesses.policy"
    witnessed = 0
    if path.exists():
        note = witnesses.newest_witnessed(registry.settings, witnesses.read_policy(path))
        witnessed = notes.parse_tree_head(note.text).size if note is not None else 0
    with registry.reading() as session:
        since = _moment_of(session, witnessed + 1)
    if since is None:
        return [Finding("witnesses", True, f"every entry is witnessed, up to {witnessed}")]
    found = f"unwitnessed since {since:%Y-%m-%d} (entry {witnessed + 1})"
    if not path.exists():
        hint = f"List witnesses in {path}. Without witnesses, nobody detects a rewritten ledger ({LOG})."
        return [wrong("witnesses", found, hint)]
    if datetime.datetime.now(datetime.UTC) - since > LONGEST_UNWITNESSED:
        return [
            wrong(
                "witnesses",
                found,
                "Request cosignatures from the witnesses.",
                "sovereign audit checkpoint --request FILE",
            )
        ]
    return [Finding("witnesses", True, found)]


def backups(registry: Registry) -> list[Finding]:
    query = select(AuditEntry.action, AuditEntry.at).where(AuditEntry.action.in_((CREATED, FAILED)))
    made: list[datetime.datetime] = []
    with registry.reading() as session:
        for action, entered in session.execute(query.order_by(AuditEntry.sequence)):
            made = [*made, entered] if action == CREATED else made[:-1]
    at = made[-1] if made else None
    command = "sovereign backup create --out DIR --recipient FILE"
    if at is None:
        return [wrong("backup", "no backup is logged", "Create a backup on a separate disk.", command)]
    if datetime.datetime.now(datetime.UTC) - at > LONGEST_WITHOUT_BACKUP:
        return [
            wrong("backup", f"the newest was created on {at:%Y-%m-%d}", "Create a new one on a separate disk.", command)
        ]
    return [Finding("backup", True, f"taken on {at:%Y-%m-%d}")]


def _moment_of(session: Session, sequence: int) -> datetime.datetime | None:
    from sovereign_pipeline.record import tree

    return proven_entry(session, sequence).at if sequence <= tree.size_of(session) else None


def examine(settings: Settings) -> list[Finding]:
    """Run all checks, in the order in which a run would meet the problems. If institution.yaml is invalid, the
    remaining checks are skipped."""
    findings = [python(), disk(settings), private(settings), writable(settings)]
    findings += [device(), trust(settings)]
    try:
        institution = load_institution(settings.data)
    except SovereignError as error:
        return [*findings, failed("institution", error)]
    recipes = load_lines(settings.data, institution)
    findings += [vault(settings, institution), trainer(institution)]
    findings += reachable(settings, institution)
    findings += [failed(f"line {name}", error) for name, error in recipes.broken.items()]
    findings += [Finding(f"line {recipe.line}", True, recipe.purpose) for recipe in recipes.valid]
    if not recipes.valid and not recipes.broken:
        findings.append(Finding("lines", False, "no line has a recipe", {"Hint": "Add a recipe.", "Command": _ADD}))
    findings += [*base_models(settings, recipes.valid), *suites(settings, recipes.valid)]
    findings += [*ocr(recipes.valid), *signed(settings), *records(settings)]
    return [*findings, *dagster_database(settings)]


_ADD = "sovereign sources look FILE"
