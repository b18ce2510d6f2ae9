"""What is on record about adapters, as the files of an evidence package: entries, statements, artifacts, rows, rules.

Everything is public to whoever gets the package, so no text of a document is among it (`shown_files.py`).

What belongs here: which entries and files an adapter's evidence is. What does not: writing and signing the package
(`evidence.py`), and what a reader verifies of it (`verify.py`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.audit.shown_files import shown_files
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.stages import artifacts_of
from sovereign_pipeline.record.audit_log import REGISTERED
from sovereign_pipeline.record.catalog import FLAG_CHANGED, PURGED, REQUESTED, STATE_CHANGED, WAIVED, find_adapter
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import INSTITUTION, OF_TRUST, POLICY_CHANGED, kept_rule
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.sealing import SEALED
from sovereign_pipeline.record.statements import SUFFIX
from sovereign_pipeline.record.store import ArtifactStore, input_refs
from sovereign_pipeline.record.tables import (
    Adapter,
    AdapterReview,
    AuditEntry,
    KnownIssue,
    Recall,
    RecallWaiver,
    ReleaseDecision,
    ReleaseRequest,
    Transition,
    row_as_dict,
)
from sovereign_pipeline.record.tree import AT_ONCE
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.verification import record_of
from sovereign_pipeline.release import acts, cadence, recall
from sovereign_pipeline.release.standing import DECIDED
from sovereign_pipeline.release.trial import ACCEPTED, JUDGED
from sovereign_pipeline.review.acts import find_closed_of
from sovereign_pipeline.serving.rollout.flag import read_change

HINT = "Restore registry and home from copies of the same time."


@dataclass
class Gathered:
    """Files by their path in the package, and the numbers of the entries that must be proven."""

    files: dict[str, bytes] = field(default_factory=dict)
    entries: set[int] = field(default_factory=set)
    levels: dict[str, int] = field(default_factory=dict)
    """Classification level of an artifact -> its place in the institution's ladder."""


def gather(registry: Registry, store: ArtifactStore, session: Session, adapters: Sequence[str]) -> Gathered:
    """Everything about adapters, those that they were continued from, and the decisions about their lines.

    Raises IntegrityError where something is on record that is not there, and NotFoundError for an unknown adapter.
    """
    settings, found = registry.settings, Gathered()
    covered = _with_parents(registry, store, adapters)
    lines = sorted({row.line for row in covered.values() if row.id in adapters})
    _trust_and_rules(session, settings, lines, found)
    refs = [ref for row in covered.values() for ref in _of_adapter(store, row)]
    refs += _reviews(registry, store, session, covered.values(), found)
    _artifacts(store, session, refs, found)
    about = {*covered, *_decisions(session, settings, lines, found)}
    _acts(session, covered, found)
    _rows(session, about, found)
    return found


def _with_parents(registry: Registry, store: ArtifactStore, adapters: Iterable[str]) -> dict[str, Adapter]:
    """The adapters by their ids, with those whose training they continued, and so on."""
    found: dict[str, Adapter] = {}
    waiting = list(adapters)
    while waiting:
        row = find_adapter(registry, waiting.pop())
        if row.id in found:
            continue
        found[row.id] = row
        record = read_record(store.open(record_of(row)))
        if record.parent_adapter is not None:
            waiting.append(record.parent_adapter.adapter)
    return found


def _of_adapter(store: ArtifactStore, row: Adapter) -> list[ArtifactRef]:
    """The record of an adapter, and the records and waivers of its gates, as they were registered."""
    named = [{"digest": row.record_digest, "manifest_sha256": row.record_manifest_sha256}, *row.gate_records]
    named += [each["acceptance"] for each in row.gate_records if each.get("acceptance")]
    return [
        store.ref_of(each["digest"]).model_copy(update={"manifest_sha256": each["manifest_sha256"]}) for each in named
    ]


def _artifacts(store: ArtifactStore, session: Session, roots: Iterable[ArtifactRef], found: Gathered) -> None:
    """The files that may be shown of artifacts and all that they were made of, and the entry of each."""
    waiting, manifests = list(roots), dict[ArtifactRef, Manifest]()
    while waiting:
        ref = waiting.pop()
        ref = store.ref_of(ref.digest).model_copy(update={"manifest_sha256": ref.manifest_sha256})
        if ref in manifests:
            continue
        manifest = manifests[ref] = store.read_manifest(ref)
        waiting += [*input_refs(manifest), *(origin for origin, _ in artifacts_of(store, manifest.external_inputs))]
        found.levels[manifest.classification] = manifest.ladder.index(manifest.classification)
        for name, content in shown_files(store, ref, manifest):
            found.files[f"artifacts/{ref.digest}/{name}"] = content
            if ref.kind == "gate_acceptance" and name.endswith(SUFFIX) and not name.startswith("manifest"):
                _enter(session, WAIVED, found, statement=hashlib.sha256(content).hexdigest())
    needed = sorted(ref.manifest_sha256 for ref in manifests)
    columns = (AuditEntry.sequence, AuditEntry.subjects["manifest_sha256"].as_string())
    first: dict[str, int] = {}
    for start in range(0, len(needed), AT_ONCE):
        query = select(*columns).where(AuditEntry.action == SEALED, columns[1].in_(needed[start : start + AT_ONCE]))
        for sequence, manifest_sha256 in session.execute(query.order_by(AuditEntry.sequence)):
            first.setdefault(manifest_sha256, sequence)
    if missing := [ref for ref in manifests if ref.manifest_sha256 not in first]:
        raise IntegrityError(f"{store.path_of(missing[0].digest)}: no entry of the audit log names it.", HINT)
    found.entries |= {*first.values()}


def _reviews(
    registry: Registry, store: ArtifactStore, session: Session, rows: Iterable[Adapter], found: Gathered
) -> list[ArtifactRef]:
    """Plan, result, verdicts and waivers of the closed blind reviews of adapters, and every act of these reviews."""
    plans: dict[str, ArtifactRef] = {}
    for row in rows:
        for review, _ in find_closed_of(registry, row.line, row.adapter_sha256):
            plans[review.plan_digest] = store.ref_of(review.plan_digest).model_copy(
                update={"manifest_sha256": review.plan_manifest_sha256}
            )
            of_review = AuditEntry.subjects["review"].as_string() == review.id
            found.entries |= {*session.scalars(select(AuditEntry.sequence).where(of_review))}
    if not plans:
        return []
    results: dict[str, ArtifactRef] = {}
    for kind in ("blind_review", "gate_record", "gate_acceptance"):
        query = select(AuditEntry.subjects).where(
            AuditEntry.action == SEALED, AuditEntry.subjects["kind"].as_string() == kind
        )
        for said in session.scalars(query.order_by(AuditEntry.sequence)):
            if not store.path_of(said["digest"]).exists():
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
    """Requests, decisions, transitions, flags and holds of lines. Returns the ids of the adapters that they name."""
    about: set[str] = set()
    for line in lines:
        of_line = select(ReleaseRequest.statement).where(ReleaseRequest.line == line)
        of_requests = select(ReleaseDecision.statement).join(ReleaseRequest).where(ReleaseRequest.line == line)
        made = select(Transition.statement).where(Transition.line == line)
        known = [each for query in (of_line, of_requests, made) for each in session.scalars(query)]
        holds = sorted((settings.home / "serving" / "holds" / line).glob(f"*/*{SUFFIX}"))
        known += [path.read_bytes() for path in holds]
        for entry in _enter(session, FLAG_CHANGED, found, line=line):
            change = read_change(settings, line, entry.subjects["change"])
            known.append(change.signature)
            found.files[f"flags/{line}/{change.sequence}.json"] = change.flags
        by_digest = {hashlib.sha256(each).hexdigest(): each for each in known}
        for action in (REQUESTED, *DECIDED.values(), STATE_CHANGED, JUDGED, ACCEPTED):
            for entry in _enter(session, action, found, line=line):
                about.add(entry.subjects["adapter"])
                _statement(entry, by_digest, found)
        for entry in _entries(session, FLAG_CHANGED, line=line):
            _statement(entry, by_digest, found)
    return about


def _acts(session: Session, covered: Mapping[str, Adapter], found: Gathered) -> None:
    """Recalls, their waivers, known issues, reviews and purges of adapters."""
    tables = (Recall, RecallWaiver, KnownIssue, AdapterReview)
    known = [each for table in tables for each in session.scalars(select(table.statement)) if each is not None]
    by_digest = {hashlib.sha256(each).hexdigest(): each for each in known}
    for action in (acts.ADDED, cadence.REVIEWED, recall.OPENED, recall.WAIVED, PURGED):
        for entry in _entries(session, action):
            named = entry.subjects.get("adapters") or [entry.subjects["adapter"]]
            if not {*named} & {*covered}:
                continue
            found.entries.add(entry.sequence)
            if action != PURGED:  # whose entry holds the statement
                _statement(entry, by_digest, found)


def _rows(session: Session, about: Iterable[str], found: Gathered) -> None:
    """The registry's row of each adapter, and the entry that names it."""
    for adapter_id in sorted(about):
        row = session.get_one(Adapter, adapter_id)
        found.files[f"registry/{adapter_id}.json"] = canonical_json(row_as_dict(row))
        _enter(session, REGISTERED, found, adapter=adapter_id)


def _statement(entry: AuditEntry, known: Mapping[str, bytes], found: Gathered) -> None:
    """The signed statement that an entry names."""
    sha256 = str(entry.subjects.get("statement") or entry.subjects.get("request"))
    if sha256 not in known:
        raise IntegrityError(
            f"The registry: what was signed for entry {entry.sequence} of the audit log is not there.", HINT
        )
    found.files[f"statements/{sha256}{SUFFIX}"] = known[sha256]


def _enter(session: Session, action: str, found: Gathered, **subjects: str) -> list[AuditEntry]:
    """The entries of an act about something; each is to be proven."""
    entries = _entries(session, action, **subjects)
    found.entries |= {entry.sequence for entry in entries}
    return entries


def _entries(session: Session, action: str, **subjects: str) -> list[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.action == action)
    for name, value in subjects.items():
        query = query.where(AuditEntry.subjects[name].as_string() == value)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))
