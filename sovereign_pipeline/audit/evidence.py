"""Writing an evidence package: one folder about adapters that convinces whoever has the first trust root's SHA-256.

What belongs here: which adapters answered when, documents about one, the index and its signature, the files on disk.
What does not: what is gathered (`gathering.py`). The verifier in the package, `verify.py`, shares no code with this
program.
"""

import datetime
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.audit import verify
from sovereign_pipeline.audit.documents.bill_of_materials import completed_bill
from sovereign_pipeline.audit.documents.facts import AdapterFacts, facts_of
from sovereign_pipeline.audit.documents.model_card import model_card
from sovereign_pipeline.audit.documents.open_lineage import lineage_events
from sovereign_pipeline.audit.documents.technical_file import technical_file
from sovereign_pipeline.audit.gathering import Gathered, gather
from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.record import checkpoints, notes, witnesses
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.catalog import FLAG_CHANGED, find_adapter, in_production, transitions_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.notes import Note
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.record.people import People
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.statements import EVIDENCE, SUFFIX, Statement, Subject, sign_statement
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.tree import prove
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.record.witnesses import assert_log_of, witnessed_by
from sovereign_pipeline.release.acts import issues_by_adapter
from sovereign_pipeline.release.standing import history_of

GIVEN = "evidence given"
"""Action of the entry before a package is written."""
INDEX = "index.json"
A_DAY = len("2027-03-14")

README = """# Evidence: {adapters}

Classification: {classification}. This folder holds no text of a document. It names officers, source files, rules, and
ids of rows where a verdict, a data card or the proof of a split does so.

Verify it, with Python 3.11 and `cryptography` alone, from the SHA-256 of the institution's first trust root, which you
have on paper:

    python YOUR-OWN/verify.py SHA256 --folder .

Run your own copy of `verify.py`, which you know, and not the one in this folder: whoever gave you the folder could have
changed it. Each release has its own; compare the SHA-256 with the one on paper. It takes an hour to read and longer to
agree with; begin at its top. It says at its end what it cannot know: the log's other entries, of which some may matter,
are not in this folder. `--on 2027-03-14` says what answered on a day (else when this was made), and `--seen N` refuses
a log with fewer entries than you have seen before. `index.json` lists every other file with its SHA-256 and is signed
by the pipeline.

Statements are what `cosign verify-blob-attestation` takes: with `--insecure-ignore-tlog --new-bundle-format`, and
`--trusted-root` of a file with `{{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}}`, it needs
no network.

| folder | holds |
|---|---|
| `trust/` | whose key counts for what (TUF) |
| `log/` | the log's signed checkpoint, and each entry that matters with its proof (C2SP tlog-proof, RFC 6962) |
| `registry/` | the registry's row of each adapter |
| `artifacts/` | manifests, signatures, and what holds no text: records, verdicts, waivers, report, cards |
| `statements/` | what officers and the pipeline signed (in-toto in sigstore bundles), by SHA-256 |
| `policy/` | the institution's rules and the line's recipe as they were in force, by SHA-256 |
| `flags/` | who got which adapter |
| `documents/` | the same for others: CycloneDX, OpenLineage, model card, technical file. Only the index vouches |
"""


@dataclass(frozen=True)
class Written:
    """A package that was written."""

    folder: Path
    archive: Path | None
    adapters: tuple[str, ...]
    classification: str
    files: int
    bytes: int
    entries: int
    """How many of the log are proven in it."""
    root_sha256: str
    verifier_sha256: str
    """Of `verify.py`, as this release has it."""


def answered(session: Session, line: str, on: str, since: datetime.datetime, until: datetime.datetime) -> list[str]:
    """The adapters of a line that answered anybody between two moments: by its flag or, before there was one, by its
    transitions. Raises NotFoundError where none did."""
    found: dict[str | None, None] = {}
    of_line = AuditEntry.subjects["line"].as_string() == line
    query = select(AuditEntry.subjects).where(AuditEntry.action == FLAG_CHANGED, of_line).order_by(AuditEntry.sequence)
    flags = [(datetime.datetime.fromisoformat(each["made_at"]), each) for each in session.scalars(query)]
    before = [flag for at, flag in flags if at <= since][-1:]
    for flag in [*before, *(flag for at, flag in flags if since < at <= until)]:
        found |= dict.fromkeys([flag["production"], flag["staged"] if flag["stopped"] is None else None])
    if not flags:
        moments = [row.made_at for row in transitions_of(session, line) if since < row.made_at <= until]
        found |= dict.fromkeys(in_production(session, line, at) for at in [since, *moments])
    adapters = [each for each in found if each is not None]
    if not adapters:
        raise NotFoundError(f"Line {line}: nothing answered on {on}.", "Give another day, or an adapter's id.")
    return adapters


def write_package(
    registry: Registry,
    store: ArtifactStore,
    settings: Settings,
    adapters: Sequence[str],
    folder: Path,
    progress: Progress,
    *,
    on: str | None = None,
    zipped: bool = False,
) -> Written:
    """Put an entry on record, and write a package about adapters into a new folder; beside it a `.zip` where asked.

    The package is verified by its own verifier before it gets its name. Raises IntegrityError where it does not hold,
    and where witnesses have not yet seen all of it; InputError for a folder that is there.
    """
    archive = folder.with_name(f"{folder.name}.zip") if zipped else None
    for path in (folder, archive):
        if path is not None and path.exists():
            raise InputError(f"{path}: there is something already.", "Name a new folder.")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: its folder is not there.", "Correct the path.")
    adapters = [find_adapter(registry, each).id for each in adapters]
    trust = trust_root(settings)
    signer = pipeline_signer(settings, trust)
    verify_registry(registry)
    with registry.writing() as session:
        append(session, People(settings).commitment_of(account()), GIVEN, {"adapters": list(adapters), "on": on})
    with registry.reading() as session:
        progress("gathering what is on record")
        found = gather(registry, store, session, adapters)
        note = _checkpoint(registry, session, settings, trust, found)
        found.files["log/checkpoint"] = str(note).encode()
        work = Countdown(progress, "proving entries of the log", len(found.entries), "entry")
        for done, number in enumerate(sorted(found.entries), start=1):
            found.files[f"log/entries/{number}.tlog-proof"] = prove(session, number, note).encode()
            work.reached(done)
        made_at = datetime.datetime.now(datetime.UTC).isoformat()
        for adapter_id in adapters:
            facts = _facts(registry, session, trust, found, adapter_id, made_at)
            found.files |= {f"documents/{adapter_id}/{name}": each for name, each in documents(facts).items()}
    classification = max(found.levels, key=found.levels.__getitem__)
    names = ", ".join(adapters)
    found.files["README.md"] = README.format(adapters=names, classification=classification).encode()
    found.files["verify.py"] = Path(verify.__file__).read_bytes()
    said = {
        "adapters": list(adapters),
        "classification": classification,
        "entries": notes.parse_tree_head(note.text).size,
        "made_at": made_at,
        "on": on,
    }
    listed = {
        name: {"sha256": hashlib.sha256(each).hexdigest(), "size": len(each)} for name, each in found.files.items()
    }
    index = json.dumps({**said, "files": listed}, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"
    about = Subject(INDEX, hashlib.sha256(index).hexdigest())
    signature = sign_statement(signer, Statement((about,), EVIDENCE, said))
    files = {**found.files, INDEX: index, INDEX + SUFFIX: signature}
    _assert_holds(files, trust)
    with _beside(folder) as partial:
        _write(partial, files)
        partial.rename(folder)
    if archive is not None:
        _zip(archive, folder.name, files)
    return Written(
        folder=folder,
        archive=archive,
        adapters=tuple(adapters),
        classification=classification,
        files=len(files),
        bytes=sum(map(len, files.values())),
        entries=len(found.entries),
        root_sha256=trust.root_sha256,
        verifier_sha256=hashlib.sha256(files["verify.py"]).hexdigest(),
    )


def documents(facts: AdapterFacts) -> dict[str, bytes]:
    """What others ask for about an adapter, each in its form, by the name of its file."""
    return {
        "bill-of-materials.cdx.json": _as_file(completed_bill(facts)),
        "lineage.openlineage.jsonl": lineage_events(facts),
        "model-card.md": model_card(facts).encode(),
        "technical-file.md": technical_file(facts).encode(),
    }


def draft_technical_file(registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str) -> str:
    """The technical file of an adapter as the record fills it in now, for persons to complete.

    Raises as `gather`.
    """
    made_at = datetime.datetime.now(datetime.UTC).isoformat()
    with registry.reading() as session:
        found = gather(registry, store, session, [adapter_id])
        return technical_file(_facts(registry, session, trust_root(settings), found, adapter_id, made_at))


def _facts(
    registry: Registry, session: Session, trust: Trust, found: Gathered, adapter_id: str, made_at: str
) -> AdapterFacts:
    """What documents about an adapter are written from."""
    settings = registry.settings
    issues = [each.text for each in issues_by_adapter(session, settings, adapter_id).get(adapter_id, [])]
    history = history_of(session, settings, trust, find_adapter(registry, adapter_id).line, adapter_id)
    return facts_of(found.files, adapter_id, load_institution(settings.data).name, made_at, issues, history)


def _as_file(bill: Mapping[str, Any]) -> bytes:
    return json.dumps(bill, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _checkpoint(registry: Registry, session: Session, settings: Settings, trust: Trust, found: Gathered) -> Note:
    """The checkpoint on which the proofs rest: where the trust root names witnesses, one that enough of them cosigned.

    Raises IntegrityError where the log's key has not the role, and where witnesses have not seen every entry.
    """
    log = checkpoints.verifier(session, settings)
    assert log is not None  # an entry was just made
    newest = registry.checkpoint()
    assert_log_of(trust, log, notes.parse_tree_head(newest.text).size)
    witnessed = witnessed_by(trust, log, settings)
    if witnessed is None:
        return newest
    if witnessed.entries < max(found.entries):
        raise IntegrityError(
            f"The evidence needs entry {max(found.entries)} of the log, and its witnesses have seen "
            f"{witnessed.entries} entries.",
            "Write a request for the witnesses, bring back their answers, and ask again.",
        )
    sizes = {notes.parse_tree_head(each.text).size: each for each in witnesses.asked(settings)}
    return sizes[witnessed.entries]


def _assert_holds(files: dict[str, bytes], trust: Trust) -> None:
    try:
        verify.verify(files, trust.root_sha256, None, 0, lambda text: None)
    except verify.Refused as refused:
        raise IntegrityError(
            f"The evidence does not hold, so no package was written: {refused}.",
            "Find out what is wrong: verify the adapter from the trust root.",
        ) from None


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, unless it was renamed."""
    parent = folder.absolute().parent
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _zip(archive: Path, root: str, files: Mapping[str, bytes]) -> None:
    """The same files give the same bytes: in the order of their names, without times."""
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as stream:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{root}/{name}")
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            stream.writestr(entry, files[name])
