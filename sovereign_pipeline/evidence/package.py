"""Collect the logged facts about adapters and write them as a signed evidence package. The package's verifier,
`verify.py`, shares no code with this module."""

import datetime
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base_models.stages import artifacts_of
from sovereign_pipeline.evidence import verify
from sovereign_pipeline.evidence.documents import (
    AdapterFacts,
    completed_bill,
    facts_of,
    lineage_events,
    model_card,
    technical_file,
)
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.record import catalog, checkpoints, notes, witnesses
from sovereign_pipeline.record.audit_log import REGISTERED, SEALED, append, stream_in
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import INSTITUTION, OF_TRUST, POLICY_CHANGED, kept_rule
from sovereign_pipeline.record.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.record.notes import Note
from sovereign_pipeline.record.officers import TRUST, People, pipeline_signer, trust_root
from sovereign_pipeline.record.sealing import bundles_of, sealed_at
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.statements import EVIDENCE, SUFFIX, Statement, Subject, sign_statement
from sovereign_pipeline.record.store import ArtifactStore, input_refs
from sovereign_pipeline.record.tables import Adapter, AuditEntry, row_as_dict, stored_content
from sovereign_pipeline.record.tree import prove
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.record.witnesses import assert_log_of, witnessed_by
from sovereign_pipeline.release import acts, cadence, recall
from sovereign_pipeline.release.acts import issues_by_adapter
from sovereign_pipeline.release.auditing import with_parents
from sovereign_pipeline.release.standing import DECIDED, history_of
from sovereign_pipeline.release.trial import ACCEPTED, JUDGED
from sovereign_pipeline.review.acts import find_closed_of
from sovereign_pipeline.serving.gateway.stores import ANSWERED
from sovereign_pipeline.serving.rollout.flag import read_change

SHOWN: Mapping[str, frozenset[str]] = {
    "raw_corpus": frozenset({"sources.json"}),
    "leakage_safe_split": frozenset({"proof.json"}),
    "training_dataset": frozenset({"card.json"}),
    "preference_dataset": frozenset({"card.json"}),
    "base_model": frozenset({"base_model.json"}),
    "evaluation_report": frozenset({"report.json"}),
    "gate_record": frozenset({"verdict.json"}),
    "gate_waiver": frozenset({"waiver.json", "waiver.sigstore.json"}),
    "registered_adapter": frozenset({"record.json", "bill_of_materials.json"}),
    "review_plan": frozenset({"plan.json"}),
    "blind_review": frozenset({"review.json", "ballots.jsonl", "guesses.jsonl"}),
}
"""Maps each kind of artifact to the files that a package may contain: counts, digests and verdicts, but no document
text."""


@dataclass(frozen=True)
class Written:
    folder: Path
    archive: Path | None
    adapters: tuple[str, ...]
    classification: str
    files: int
    bytes: int
    entries: int
    """Number of log entries with a proof in the package."""
    root_sha256: str
    verifier_sha256: str


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
    """Append a ledger entry, then write a package about adapters to a new folder. If `zipped`, also write it as a
    `.zip`.

    The package's own verifier checks all files before they are written. Raises IntegrityError if the registry or the
    package is invalid, or if too few witnesses have cosigned the package's entries. Raises InputError if the folder
    exists or has no parent, NotFoundError for an unknown adapter, and ConflictError if the ledger changed.

    Args:
        on: UTC date or time. The package includes the records of the answers of this day; None for today.
    """
    archive = folder.with_name(f"{folder.name}.zip") if zipped else None
    for path in (folder, archive):
        if path is not None and path.exists():
            raise InputError(f"{path}: this path already exists.", "Choose a new folder.")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: its parent folder does not exist.", "Correct the path.")
    adapters = [catalog.find_adapter(registry, each).id for each in adapters]
    trust = trust_root(settings)
    signer = pipeline_signer(settings, trust)
    verify_registry(registry)
    with registry.writing() as session:
        append(session, People(settings).commitment_of(account()), GIVEN, {"adapters": list(adapters), "on": on})
    newest = registry.checkpoint()
    with registry.reading() as session:
        progress("collecting the adapters' records")
        found = gather(registry, store, session, adapters, on)
        note = _checkpoint(newest, session, settings, trust, found)
        found.files["log/checkpoint"] = str(note).encode()
        work = Countdown(progress, "proving entries of the log", len(found.entries), "entry")
        for done, number in enumerate(sorted(found.entries), start=1):
            found.files[f"log/entries/{number}.tlog-proof"] = prove(session, number, note).encode()
            work.reached(done)
        made_at = datetime.datetime.now(datetime.UTC).isoformat()
        for adapter_id in adapters:
            facts = _facts(registry, session, trust, found, adapter_id, made_at)
            found.files |= {f"documents/{adapter_id}/{name}": each for name, each in documents(facts).items()}
    classification = load_institution(settings.data).ladder.highest(found.levels)
    shown = {"adapters": ", ".join(adapters), "classification": classification}
    found.files["README.md"] = README.read_text(encoding="utf-8").format(**shown).encode()
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


def draft_technical_file(registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str) -> str:
    """Return a draft of an adapter's technical file, filled in from the registry. Raises the errors of `gather`."""
    made_at = datetime.datetime.now(datetime.UTC).isoformat()
    with registry.reading() as session:
        found = gather(registry, store, session, [adapter_id])
        return technical_file(_facts(registry, session, trust_root(settings), found, adapter_id, made_at))


def answered(
    session: Session, settings: Settings, line: str, on: str, since: datetime.datetime, until: datetime.datetime
) -> list[str]:
    """Return a line's adapters that could answer users between `since` and `until`. Raises NotFoundError, which names
    the day `on`, if there are none."""
    steps = recall.answering(session, settings, line)
    begun = [each for each in steps if each.at <= since][-1:]
    during = [*begun, *(each for each in steps if since < each.at <= until)]
    adapters = list(dict.fromkeys(adapter for each in during for adapter in each.adapters))
    if not adapters:
        raise NotFoundError(f"Line {line}: no adapter answered on {on}.", "Name a different day, or an adapter's id.")
    return adapters


def documents(facts: AdapterFacts) -> dict[str, bytes]:
    """Return the documents about an adapter in external formats, as a mapping of file name to content."""
    bill = json.dumps(completed_bill(facts), ensure_ascii=False, indent=1, sort_keys=True)
    return {
        "bill-of-materials.cdx.json": f"{bill}\n".encode(),
        "lineage.openlineage.jsonl": lineage_events(facts),
        "model-card.md": model_card(facts).encode(),
        "technical-file.md": technical_file(facts).encode(),
    }


def shown_files(store: ArtifactStore, ref: ArtifactRef, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of an artifact's manifest, signatures, and files that a package may contain (`SHOWN`).
    Raises IntegrityError if a file differs from the manifest. The caller must have verified manifest and signatures.
    """
    path = store.path_of(ref.digest)
    yield MANIFEST_FILE, (path / MANIFEST_FILE).read_bytes()
    shown = SHOWN.get(manifest.kind, frozenset())
    attested = {name.removesuffix(SUFFIX) for name in bundles_of(manifest)}
    for entry in manifest.files:
        if entry.path in shown:
            yield entry.path, store.read_file(ref, manifest, entry.path)
    listed = {entry.path for entry in manifest.files}
    for name in sorted(attested):
        if name in shown or name not in listed:  # signatures of the manifest and of weights directories
            yield name + SUFFIX, (path / (name + SUFFIX)).read_bytes()


@dataclass
class Gathered:
    """The files of a package by path, and the numbers of the ledger entries to prove."""

    files: dict[str, bytes] = field(default_factory=dict)
    entries: set[int] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    """The artifacts' classification levels."""


def gather(
    registry: Registry, store: ArtifactStore, session: Session, adapters: Sequence[str], on: str | None = None
) -> Gathered:
    """Collect all records of adapters and their parent adapters, and the decisions about their lines.

    Args:
        on: UTC date or time. The records of the answers of this day are collected; None for today.

    Raises IntegrityError if a logged item is missing, and NotFoundError for an unknown adapter.
    """
    settings, found = registry.settings, Gathered()
    covered = {row.id: row for each in adapters for row in with_parents(registry, store, each)}
    lines = sorted({row.line for row in covered.values() if row.id in adapters})
    _trust_and_rules(session, settings, lines, found)
    refs = [ref for row in covered.values() for ref in _of_adapter(store, row)]
    refs += _reviews(registry, store, session, covered.values(), found)
    _artifacts(store, session, refs, found)
    about = {*covered, *_decisions(session, settings, lines, found)}
    _acts(session, covered, about, found)
    _rows(session, about, found)
    day = (verify.moment(on) if on else datetime.datetime.now(datetime.UTC)).date().isoformat()
    of_day = AuditEntry.subjects["hour"].as_string().startswith(day, autoescape=True)
    of_lines = AuditEntry.subjects["line"].as_string().in_(lines)
    hours = select(AuditEntry.sequence).where(AuditEntry.action == ANSWERED, of_lines, of_day)
    found.entries |= {*session.scalars(hours)}
    return found


def _of_adapter(store: ArtifactStore, row: Adapter) -> list[ArtifactRef]:
    """Return references to an adapter's record, and to the records and waivers of its gates, as registered."""
    named = [{"digest": row.record_digest, "manifest_sha256": row.record_manifest_sha256}, *row.gate_records]
    named += [each["waiver"] for each in row.gate_records if each.get("waiver")]
    return [store.ref_of(each["digest"], each["manifest_sha256"]) for each in named]


def _artifacts(store: ArtifactStore, session: Session, roots: Iterable[ArtifactRef], found: Gathered) -> None:
    """Add the `SHOWN` files of artifacts and of their whole lineage, and each artifact's ledger entry."""
    waiting, manifests = list(roots), dict[ArtifactRef, Manifest]()
    while waiting:
        ref = waiting.pop()
        ref = store.ref_of(ref.digest, ref.manifest_sha256)
        if ref in manifests:
            continue
        manifest = manifests[ref] = store.read_manifest(ref)
        waiting += [*input_refs(manifest), *(origin for origin, _ in artifacts_of(store, manifest.external_inputs))]
        found.levels.add(manifest.classification)
        for name, content in shown_files(store, ref, manifest):
            found.files[f"artifacts/{ref.digest}/{name}"] = content
            if ref.kind == "gate_waiver" and name.endswith(SUFFIX) and not name.startswith("manifest"):
                _enter(session, catalog.WAIVED, found, statement=hashlib.sha256(content).hexdigest())
    for ref in manifests:
        sequence = sealed_at(session, ref)
        if sequence is None:
            raise IntegrityError(
                f"{store.path_of(ref.digest)}: no entry of the audit log is about this artifact.", checkpoints.RESTORE
            )
        found.entries.add(sequence)


def _reviews(
    registry: Registry, store: ArtifactStore, session: Session, rows: Iterable[Adapter], found: Gathered
) -> list[ArtifactRef]:
    """Add the ledger entries of the adapters' closed blind reviews to `found`. Return references to the reviews' plans,
    results, verdicts and waivers."""
    plans: dict[str, ArtifactRef] = {}
    for row in rows:
        for review, _ in find_closed_of(registry, row.line, row.adapter_sha256):
            plans[review.plan_digest] = store.ref_of(review.plan_digest, review.plan_manifest_sha256)
            of_review = AuditEntry.subjects["review"].as_string() == review.id
            found.entries |= {*session.scalars(select(AuditEntry.sequence).where(of_review))}
    if not plans:
        return []
    results: dict[str, ArtifactRef] = {}
    kinds = ("blind_review", "gate_record", "gate_waiver")
    log = stream_in(session)
    sealed = [each.subjects for each in log if each.action == SEALED and each.subjects["kind"] in kinds]
    for kind in kinds:
        for said in sealed:
            if said["kind"] != kind or not store.path_of(said["digest"]).exists():
                continue
            ref = store.ref_of(said["digest"])
            manifest = store.read_manifest(ref)
            is_result = kind == "blind_review" and manifest.external_inputs.get("review_plan") in plans
            if is_result or {*manifest.inputs.values()} & {*results}:
                results[ref.digest] = ref
    return [*plans.values(), *results.values()]


def _trust_and_rules(session: Session, settings: Settings, lines: Sequence[str], found: Gathered) -> None:
    from sovereign_pipeline.record.trust_root import read_files  # loads TUF's library

    for name, content in read_files(settings.data / TRUST).items():
        found.files[f"trust/{name}"] = content
    for action in OF_TRUST:
        _enter(session, action, found)
    for file in (INSTITUTION, *(f"lines/{line}.yaml" for line in lines)):
        for entry in _enter(session, POLICY_CHANGED, found, file=file):
            sha256 = entry.subjects["now"]
            if sha256 is not None:
                found.files[f"policy/{sha256}.yaml"] = kept_rule(settings, file, sha256, entry.sequence)


def _decisions(session: Session, settings: Settings, lines: Sequence[str], found: Gathered) -> set[str]:
    """Add requests, decisions, transitions, flags and trials of lines. Returns the ids of the adapters in these
    acts."""
    about: set[str] = set()
    for line in lines:
        holds = (settings.home / "serving" / "holds" / line).glob(f"*/*{SUFFIX}")
        in_files = [path.read_bytes() for path in sorted(holds)]
        for entry in _enter(session, catalog.FLAG_CHANGED, found, line=line):
            change = read_change(settings, line, entry.subjects["change"])
            in_files.append(change.signature)
            found.files[f"flags/{line}/{change.sequence}.json"] = change.flags
        known = {hashlib.sha256(each).hexdigest(): each for each in in_files}
        for action in (catalog.REQUESTED, *DECIDED.values(), catalog.STATE_CHANGED, JUDGED, ACCEPTED):
            for entry in _enter(session, action, found, line=line):
                about.add(entry.subjects["adapter"])
                _statement(entry, found, known)
        for entry in _entries(session, catalog.FLAG_CHANGED, line=line):
            _statement(entry, found, known)
    return about


def _acts(session: Session, covered: Mapping[str, Adapter], about: Collection[str], found: Gathered) -> None:
    """Add the covered adapters' known issues, reviews and purges. Also add the recalls, and the waivers of recalls, of
    all adapters of their lines, because these acts decide when an adapter could answer.

    Args:
        about: ids of all adapters in the decisions about the lines.
    """
    for action in (acts.ADDED, cadence.REVIEWED, recall.OPENED, recall.WAIVED, catalog.PURGED):
        for entry in _entries(session, action):
            named = entry.subjects.get("adapters") or [entry.subjects["adapter"]]
            if not {*named} & {*(about if action in (recall.OPENED, recall.WAIVED) else covered)}:
                continue
            found.entries.add(entry.sequence)
            if action != catalog.PURGED:  # a purge's entry contains its statement
                _statement(entry, found)


def _rows(session: Session, about: Iterable[str], found: Gathered) -> None:
    """Add each adapter's registry row, and the ledger entry of its registration."""
    for adapter_id in sorted(about):
        row = session.get_one(Adapter, adapter_id)
        found.files[f"registry/{adapter_id}.json"] = canonical_json(row_as_dict(row))
        _enter(session, REGISTERED, found, adapter=adapter_id)


def _statement(entry: AuditEntry, found: Gathered, in_files: Mapping[str, bytes] | None = None) -> None:
    """Add the signed statement that an entry refers to: from `in_files` or, if `in_files` lacks the statement, from the
    registry. Raises IntegrityError if the statement is missing."""
    sha256 = str(entry.subjects.get("statement") or entry.subjects.get("request"))
    try:
        content = (in_files or {}).get(sha256) or stored_content(sha256)
    except IntegrityError:
        raise IntegrityError(
            f"The signed statement of entry {entry.sequence} of the audit log is in neither SOVEREIGN_HOME nor the "
            "registry.",
            checkpoints.RESTORE,
        ) from None
    found.files[f"statements/{sha256}{SUFFIX}"] = content


def _enter(session: Session, action: str, found: Gathered, **subjects: str) -> list[AuditEntry]:
    """Return the ledger entries with an action and these subjects, and add their numbers to `found.entries`."""
    entries = _entries(session, action, **subjects)
    found.entries |= {entry.sequence for entry in entries}
    return entries


def _entries(session: Session, action: str, **subjects: str) -> list[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.action == action)
    for name, value in subjects.items():
        query = query.where(AuditEntry.subjects[name].as_string() == value)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


GIVEN = "evidence given"
"""Action of the ledger entry that is added before a package is written."""
INDEX = "index.json"
A_DAY = len("2027-03-14")

README = Path(__file__).resolve().parent / "templates" / "package.md"


def _facts(
    registry: Registry, session: Session, trust: Trust, found: Gathered, adapter_id: str, made_at: str
) -> AdapterFacts:
    settings = registry.settings
    issues = [each.text for each in issues_by_adapter(session, settings, adapter_id).get(adapter_id, [])]
    history = history_of(session, settings, trust, catalog.find_adapter(registry, adapter_id).line, adapter_id)
    return facts_of(found.files, adapter_id, load_institution(settings.data).name, made_at, issues, history)


def _checkpoint(newest: Note, session: Session, settings: Settings, trust: Trust, found: Gathered) -> Note:
    """Return the checkpoint for the proofs. If the trust root names witnesses, enough of these witnesses have cosigned
    the checkpoint. Raises ConflictError if an entry to prove is newer than the checkpoint, and IntegrityError if
    the log's key lacks its role or the witnesses have not cosigned every entry to prove."""
    log = checkpoints.verifier(session, settings)
    assert log is not None  # an entry was just added
    size = notes.parse_tree_head(newest.text).size
    if size < max(found.entries):
        raise ConflictError("The registry was written to during the export.", "Run the command again.")
    assert_log_of(trust, log, size)
    witnessed = witnessed_by(trust, log, settings)
    if witnessed is None:
        return newest
    if witnessed.entries < max(found.entries):
        raise IntegrityError(
            f"The evidence needs entry {max(found.entries)} of the log, but the log's witnesses have cosigned only "
            f"{witnessed.entries} entries.",
            "Write a request for the witnesses, import their answers, and run the command again.",
        )
    sizes = {notes.parse_tree_head(each.text).size: each for each in witnesses.asked(settings)}
    return sizes[witnessed.entries]


def _assert_holds(files: dict[str, bytes], trust: Trust) -> None:
    try:
        verify.verify(files, trust.root_sha256, None, 0, lambda text: None)
    except verify.Refused as refused:
        raise IntegrityError(
            f"The evidence is invalid, so no package was written: {refused}.",
            "Verify the adapter from the trust root to find the cause.",
        ) from None


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Create a temporary folder beside `folder`, and remove it at the end unless it was renamed."""
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
    """Write a reproducible `.zip`: files sorted by name, without times."""
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as stream:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{root}/{name}")
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            stream.writestr(entry, files[name])
