"""Collect and verify the facts for the list of lines, the page of a line and the page of an adapter."""

import datetime
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SovereignError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.stages import RAW_CORPUS, SOURCES
from sovereign_pipeline.policy.institution import ClassificationLadder, load_institution
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.catalog import (
    ENDED,
    STATES,
    URGENT,
    WAIVED,
    LedgerWaivers,
    Purge,
    State,
    adapters_in_brief,
    find_adapter,
    line_of,
    purge_of,
    state_of,
    transitions_of,
    urgent_promotions,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.gates import KIND_OF, read_verdict, read_waiver
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.officers import actor_of, officer_shown, trust_root
from sovereign_pipeline.record.store import Artifact, ArtifactStore, lineage
from sovereign_pipeline.record.tables import Adapter, AdapterReview, AuditEntry, KnownIssue, Recall, RecallWaiver
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.release.acts import issues_by_adapter
from sovereign_pipeline.release.cadence import Due, due_reviews, reviews_on_record
from sovereign_pipeline.release.recall import open_recalls, question_of, recalls_in_force, waivers_of_recalls
from sovereign_pipeline.release.requests import (
    assert_not_recalled,
    assert_staged_long_enough,
    assert_still_so,
    evidence_of,
)
from sovereign_pipeline.release.standing import (
    SUPERSEDE,
    Arrow,
    Standing,
    arrow,
    history_of,
    open_standings,
    standings,
    standings_of_adapter,
)
from sovereign_pipeline.release.trial import ACCEPTED
from sovereign_pipeline.review.acts import find_open
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.web.rendering import (
    AdapterView,
    Digest,
    GateView,
    Happened,
    Missing,
    NextStep,
    Node,
    Remark,
    Waived,
)
from sovereign_pipeline.workplace import open_workplace

_OFFICER = actor_of("")


@dataclass(frozen=True)
class OnRecord:
    """The verified records of an adapter."""

    adapter: Adapter
    trust: Trust
    requests: Sequence[Standing]
    history: Sequence[Mapping[str, Any]]
    """Transitions of the adapter, oldest first, as `release/standing.py` returns them."""
    recalls: Sequence[Recall]
    recall_waivers: Sequence[RecallWaiver]
    issues: Sequence[KnownIssue]
    reviews: Sequence[AdapterReview]
    waived: Sequence[Waived]
    """Waivers of gates of the adapter's inputs and of its blind reviews."""
    holds_accepted: Sequence[AuditEntry]
    purge: Purge | None

    def person(self, officer: str) -> str:
        return person_of(self.trust, officer)


def person_of(trust: Trust, officer: str) -> str:
    """Return an officer's display name.

    Args:
        officer: the officer's key id, or the actor's name in a ledger entry.
    """
    return officer_shown(trust, officer.removeprefix(_OFFICER))


def waiver_entries(session: Session, line: str, evaluated: set[str]) -> list[AuditEntry]:
    """Return a line's ledger entries about waived gates, oldest first. Does not verify them.

    Args:
        evaluated: digests of the artifacts whose gates were waived.
    """
    found = _entries(session, WAIVED, line)
    return [each for each in found if each.subjects["artifact"] in evaluated]


def accepted_holds(session: Session, adapter: Adapter) -> list[AuditEntry]:
    return [each for each in _entries(session, ACCEPTED, adapter.line) if each.subjects["adapter"] == adapter.id]


def _entries(session: Session, action: str, line: str) -> list[AuditEntry]:
    of_line = AuditEntry.subjects["line"].as_string() == line
    query = select(AuditEntry).where(AuditEntry.action == action, of_line)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def time_line(found: OnRecord) -> tuple[Happened, ...]:
    """Return all events of an adapter, oldest first. Events of the same second are in the order of an adapter's
    lifecycle."""
    return tuple(sorted(_happened(found), key=lambda each: each.at))


def _happened(found: OnRecord) -> Iterator[Happened]:
    def act(
        at: datetime.datetime, what: str, about: str, officer: str, words: str, *, is_waiver: bool = False
    ) -> Happened:
        return Happened(moment(at), what, about, found.person(officer), words=words, is_waiver=is_waiver)

    for gate in found.waived:
        yield Happened(gate.at, "A gate was waived", gate.what, gate.person, words=gate.reason, is_waiver=True)
    yield Happened(moment(found.adapter.registered_at), "It was registered", found.adapter.id)
    yield from map(_asked, found.requests)
    for entry in found.holds_accepted:
        reason = entry.subjects.get("reason", "")
        yield act(entry.at, "An inconclusive trial was accepted", "", entry.actor, reason, is_waiver=True)
    for made in found.history:
        # The superseding request is about another adapter, whose classification level may be higher.
        words = made["reason"] if made["transition"] != SUPERSEDE else ""
        yield Happened(
            made["at"][:19],
            "Its state changed",
            f"{made['from']} → {made['to']}",
            made["requested_by"],
            tuple(made["approved_by"]),
            words,
        )
    for recall in found.recalls:
        yield act(recall.opened_at, "It was recalled", recall.id, recall.officer, recall.reason)
    for each in found.recall_waivers:
        yield act(each.waived_at, "A recall was waived", each.recall_id, each.officer, each.reason, is_waiver=True)
    for issue in found.issues:
        yield act(issue.added_at, "A known issue was added", str(issue.number), issue.officer, issue.text)
    for review in found.reviews:
        yield act(review.reviewed_at, "It was reviewed and kept", "", review.officer, review.text)
    if (purge := found.purge) is not None:
        yield Happened(moment(purge.at), "Its weights were removed", by=purge.officer, words=purge.reason)


def _asked(standing: Standing) -> Happened:
    asked = standing.predicate
    about = f"{asked['transition']}: {asked['from']} → {asked['to']}"
    return Happened(
        moment(standing.request.entered_at),
        "A change was requested"
        if standing.ended is None or standing.is_made
        else "A change was requested, but not made",
        about,
        standing.requester.person,
        () if standing.is_made else tuple(each.person for each in standing.approvals),
        asked["reason"] if standing.ended is None or standing.is_made else f"{asked['reason']} ({standing.ended})",
    )


def moment(at: datetime.datetime) -> str:
    """Format a time in UTC to the second."""
    return at.isoformat(timespec="seconds")[:19]


FURTHER: Mapping[State, str] = {
    "registered": "approve",
    "in review": "approve",
    "approved": "stage",
    "staged": "promote",
    "superseded": "roll_back",
}
"""Mapping of state to the transition that advances an adapter in this state. In other states, no transition advances an
adapter."""


def next_step(registry: Registry, adapter: Adapter, state: State, asked: Sequence[Standing]) -> NextStep | None:
    """Return an adapter's next transition with every unmet condition, or None if there is no next transition.

    Args:
        asked: every request about the adapter.

    Raises IntegrityError if a record was changed, and names the record.
    """
    if state not in FURTHER:
        return None
    step = arrow(FURTHER[state], adapter.id, state)
    missing = (*_refusals(registry, adapter, step), *_approvals(registry, adapter, step, asked))
    return NextStep(step.name, step.after, missing)


def _refusals(registry: Registry, adapter: Adapter, step: Arrow) -> list[Missing]:
    """List the reasons why the transition would be rejected now. All checks run, so that the first failed check does
    not hide a later one."""
    try:
        workplace = open_workplace(registry.settings, adapter.line)
    except IntegrityError:
        raise
    except SovereignError as error:  # the line was removed, or its recipe is invalid
        return [_missing(error)]
    with registry.reading() as session:
        before = transitions_of(session, adapter.line)
        return [
            refused
            for refused in (
                _refused(lambda: assert_not_recalled(session, registry.settings, adapter, step)),
                _refused(lambda: evidence_of(workplace, registry, adapter, step)),
                _refused(lambda: assert_staged_long_enough(workplace, step, before, adapter)),
            )
            if refused is not None
        ]


def _refused(asserted: Callable[[], object]) -> Missing | None:
    """Run a check and return its failure, or None if it passes. IntegrityError is not caught, because a page must not
    show a changed record."""
    try:
        asserted()
    except IntegrityError:
        raise
    except SovereignError as error:
        return _missing(error)
    return None


def _missing(error: SovereignError) -> Missing:
    return Missing(error.message, error.hint)


def _approvals(registry: Registry, adapter: Adapter, step: Arrow, asked: Sequence[Standing]) -> list[Missing]:
    found, counting = list[Missing](), list[Standing]()
    for each in asked:
        if each.ended is not None or each.request.transition != step.name or each.is_made:
            continue
        if (why := _overtaken(registry, adapter, step, each)) is None:
            counting.append(each)
        else:
            named = f"Request {each.request.id[:12]} by {each.requester.person}"
            found.append(Missing(f"{named} {why}, so approvals have no effect.", "Make a new request."))
    if not counting:
        needed = _needed(registry, adapter, step)
        more = f" and {counted(needed, 'approval')} by others" if needed else ""
        return [*found, Missing(f"A request by an officer{more}.")]
    for each in counting:
        lacking = each.needed - len(each.approvals)
        if lacking <= 0:
            continue
        given = f", after {and_more(officer.person for officer in each.approvals)}" if each.approvals else ""
        expires = datetime.datetime.fromisoformat(each.predicate["expires"])
        found.append(
            Missing(
                f"{counted(lacking, 'more approval')} of request {each.request.id[:12]} by {each.requester.person}"
                f"{given}; it expires on {expires:%Y-%m-%d}."
            )
        )
    return found


def _overtaken(registry: Registry, adapter: Adapter, step: Arrow, asked: Standing) -> str | None:
    """Return the reason why a request would be rejected even with enough approvals; None if there is none. Names no
    other adapter, because the reader may not be permitted to see that adapter."""
    with registry.reading() as session:
        try:
            assert_still_so(session, asked.request, asked.predicate, adapter)
        except ConflictError:
            return "was made before the adapter's state or the adapter in production changed"
    try:
        evidence = evidence_of(open_workplace(registry.settings, adapter.line), registry, adapter, step)
    except IntegrityError:
        raise
    except SovereignError:  # already listed among the unmet conditions
        return None
    return None if evidence == asked.predicate["evidence"] else "is based on evidence that has changed"


def _needed(registry: Registry, adapter: Adapter, step: Arrow) -> int:
    return load_institution(registry.settings.data).release.approvals_for(step.name, adapter.classification)


FILES_DRAWN = 6
BLIND_REVIEW = "blind_review"
FILE = "source:"
"""Prefix in the names of `raw_corpus`'s external inputs that are the institution's files."""

Lineage = Mapping[ArtifactRef, Manifest]


def adapter_view(registry: Registry, store: ArtifactStore, adapter_id: str, now: datetime.datetime) -> AdapterView:
    """Build the view of one adapter for readers. Raises NotFoundError for an unknown adapter, and IntegrityError if a
    record was changed."""
    settings = registry.settings
    adapter = find_adapter(registry, adapter_id)
    institution, trust = load_institution(settings.data), trust_root(settings)
    record_ref = adapter.record_ref
    record = read_record(store.open(record_ref))
    manifest = store.read_manifest(record_ref)
    made_of: Lineage = {record_ref: manifest, **dict(lineage(store, manifest))}
    files = _files(store, made_of)
    nodes = _nodes(made_of, files)
    gates = _gates(registry, store, adapter, trust)
    with registry.reading() as session:
        state = state_of(session, adapter)
        history = history_of(session, settings, trust, adapter.line, adapter_id)
        reviews = _reviews(store, adapter, history)
        found = OnRecord(
            adapter=adapter,
            trust=trust,
            requests=standings_of_adapter(session, settings, trust, adapter_id),
            history=history,
            recalls=open_recalls(session, settings, adapter_id, state),
            recall_waivers=waivers_of_recalls(session, settings, adapter_id),
            issues=issues_by_adapter(session, settings, adapter_id).get(adapter_id, []),
            reviews=[each for each in reviews_on_record(session, settings) if each.adapter_id == adapter_id],
            waived=(
                *(each.waived for each in gates if each.waived is not None),
                *_waived_reviews(trust, waiver_entries(session, adapter.line, {each["digest"] for each in reviews})),
            ),
            holds_accepted=accepted_holds(session, adapter),
            purge=purge_of(session, trust, adapter_id),
        )
        is_under_review = _is_under_review(session, adapter)
        entries = tree.size_of(session)
    due = due_reviews(registry, settings, now.date(), adapter.line)
    return AdapterView(
        adapter=adapter,
        record=record,
        state=state,
        institution=institution.name,
        is_demonstration=trust.is_demonstration,
        weights_purged=found.purge.at.date().isoformat() if found.purge is not None else None,
        nodes=nodes,
        files_not_drawn=max(0, len(files) - FILES_DRAWN),
        digests=tuple(_digests(adapter, made_of, files, with_weights=found.purge is None)),
        gates=gates,
        waived=tuple(_waived(found)),
        time_line=time_line(found),
        reviews=reviews,
        is_under_review=is_under_review,
        issues=tuple(
            Remark(str(each.number), found.person(each.officer), moment(each.added_at), each.text)
            for each in found.issues
        ),
        recalls=tuple(
            Remark(each.id, found.person(each.officer), moment(each.opened_at), each.reason, str(question_of(each)))
            for each in found.recalls
        ),
        due=next((each for each in due if each.adapter == adapter.id), None),
        next_step=next_step(registry, adapter, state, found.requests),
        entries=entries,
        read_at=moment(now),
    )


def _files(store: ArtifactStore, made_of: Lineage) -> list[tuple[str, str, str]]:
    """Return the source's name, the path in the recipe and the SHA-256 of each source file."""
    found = []
    for ref, manifest in made_of.items():
        if manifest.kind != RAW_CORPUS.kind:
            continue
        stated = json.loads(store.read_file(ref, manifest, SOURCES))
        paths = {each["name"]: str(each.get("path") or each["name"]) for each in stated}
        for name, sha256 in sorted(manifest.external_inputs.items()):
            if name.startswith(FILE):
                source = name.removeprefix(FILE)
                found.append((source, paths.get(source, source), sha256))
    return found


def _nodes(made_of: Lineage, files: Sequence[tuple[str, str, str]]) -> tuple[Node, ...]:
    """Return the lineage's nodes, with the record first and the source files last. If an artifact is an input under
    several names, it still has only one node."""
    manifests = {ref.digest: manifest for ref, manifest in made_of.items()}
    drawn = [(f"{name} {sha256}", name, sha256) for name, _, sha256 in files[:FILES_DRAWN]]
    below = {digest: {*manifest.inputs.values()} for digest, manifest in manifests.items()}
    nodes = [
        Node(
            digest,
            manifest.kind,
            digest,
            manifest.classification,
            tuple(id for id, _, _ in drawn)
            if manifest.kind == RAW_CORPUS.kind
            else tuple(sorted(below[digest] - _reached(below, below[digest]))),
            tuple(entry.path for entry in manifest.files),
        )
        for digest, manifest in manifests.items()
    ]
    return (*nodes, *(Node(id, name, sha256, None, ()) for id, name, sha256 in drawn))


def _reached(below: Mapping[str, set[str]], from_these: Iterable[str]) -> set[str]:
    """Return the ids of all direct and indirect inputs of the artifacts in `from_these`. These artifacts themselves are
    not included."""
    found: set[str] = set()
    waiting = [each for digest in from_these for each in below[digest]]
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting += below[digest]
    return found


def _digests(
    adapter: Adapter, made_of: Lineage, files: Sequence[tuple[str, str, str]], *, with_weights: bool
) -> Iterable[Digest]:
    """Yield the digests of weights, artifacts and source files, each with the command that checks it. For an artifact,
    the command hashes the manifest, which lists every file and input by digest."""
    weights = next(
        (
            PurePosixPath("artifacts") / ref.digest / entry.path
            for ref, manifest in made_of.items()
            for entry in manifest.files
            if ref.digest == adapter.adapter_digest and entry.sha256 == adapter.adapter_sha256
        ),
        None,
    )
    if weights is not None and with_weights:
        yield Digest("weights", adapter.adapter_sha256, f"sha256sum {weights}", adapter.adapter_sha256)
    seen: set[str] = set()
    for ref, manifest in made_of.items():
        if ref.digest in seen:
            continue
        seen.add(ref.digest)
        yield Digest(manifest.kind, ref.digest, f"sha256sum artifacts/{ref.digest}/manifest.json", ref.manifest_sha256)
    for name, path, sha256 in files:
        yield Digest(name, sha256, f"sha256sum {_in_a_shell(path)}", sha256)


def _in_a_shell(path: str) -> str:
    """Quote a path for the shell. Readers paste the command, and an attacker may have chosen the file's name."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _gates(registry: Registry, store: ArtifactStore, adapter: Adapter, trust: Trust) -> tuple[GateView, ...]:
    def opened(stated: Mapping[str, str]) -> Artifact:
        return store.open(store.ref_of(stated["digest"], stated["manifest_sha256"]))

    gates = []
    for stated in adapter.gate_records:
        record, waived = opened(stated), None
        verdict = read_verdict(record)
        if (given := stated.get("waiver")) is not None:
            artifact = opened(given)
            waiver = read_waiver(store, registry.settings, LedgerWaivers(lambda: registry), artifact)
            at = datetime.datetime.fromisoformat(artifact.manifest.circumstances.created_at)
            (evaluated,) = record.manifest.inputs.values()
            waived = Waived(
                f"{stated['gate']} ({stated['stage']})",
                verdict.outcome,
                person_of(trust, waiver.officer),
                moment(at.astimezone(datetime.UTC)),
                waiver.reason,
                f"{stated['stage']} {evaluated[:12]}",
            )
        gates.append(
            GateView(stated["stage"], stated["gate"], verdict.outcome, verdict.message, waived, stated["digest"])
        )
    return tuple(gates)


def _waived_reviews(trust: Trust, entries: Iterable[AuditEntry]) -> Iterable[Waived]:
    outcomes = {kind: outcome for outcome, kind in KIND_OF.items()}
    for entry in entries:
        said = entry.subjects
        yield Waived(
            f"{said['gate']} ({said['stage']})",
            outcomes[said["kind"]],
            person_of(trust, entry.actor),
            moment(entry.at),
            said["reason"],
            f"{said['stage']} {said['artifact'][:12]}",
        )


def _waived(found: OnRecord) -> Iterable[Waived]:
    yield from found.waived
    for entry in found.holds_accepted:
        person, reason = found.person(entry.actor), str(entry.subjects.get("reason", ""))
        yield Waived("hold", "inconclusive", person, moment(entry.at), reason, found.adapter.id)
    for made in found.history:
        if made["transition"] == URGENT:
            persons = and_more([made["requested_by"], *made["approved_by"]])
            what = "promoted urgently, without a passed trial"
            yield Waived(what, "", persons, made["at"][:19], made["reason"], found.adapter.id)
    for each in found.recall_waivers:
        yield Waived(
            each.recall_id, "", found.person(each.officer), moment(each.waived_at), each.reason, found.adapter.id
        )


def _reviews(
    store: ArtifactStore, adapter: Adapter, history: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """Return digest and summary of each blind review that the adapter's transitions cite, and of the line's newest
    review if that review is about this adapter."""
    cited = [made["evidence"].get(BLIND_REVIEW) for made in history]
    current = store.current(adapter.line, BLIND_REVIEW)
    if current is not None and store.read_manifest(current).summary["adapter"] == adapter.id:
        cited.append(current.digest)
    return tuple(
        {"digest": digest, **store.read_manifest(store.ref_of(digest)).summary}
        for digest in dict.fromkeys(filter(None, cited))
    )


def _is_under_review(session: Session, adapter: Adapter) -> bool:
    review = find_open(session, adapter.line)
    return review is not None and review.adapter_id == adapter.id


ORDER: tuple[State, ...] = ("production", "staged", "approved", "in review", "registered")
"""States in display order. Adapters in other states serve nobody, and the page collapses their rows."""


@dataclass(frozen=True)
class _Adapter:
    line: str
    classification: str


@dataclass(frozen=True)
class Reader:
    """A signed-in reader with the caller's grants."""

    caller: Caller
    ladder: ClassificationLadder

    def reads(self, line: str, classification: str) -> bool:
        return self.caller.may_oversee(_Adapter(line, classification), self.ladder)

    def reads_line(self, line: str) -> bool:
        """Return True if any administration grant of the reader covers the line. The levels of the line's adapters
        are not compared."""
        return any(grant.admin and (grant.lines is None or line in grant.lines) for grant in self.caller.grants)


@dataclass(frozen=True)
class LineInBrief:
    """A line in the list. Adapters above the reader's clearance are counted only in `withheld`."""

    line: str
    adapters: int
    level: str | None
    """The highest classification level of the line's visible adapters. None if all adapters are withheld."""
    production: str | None
    staged: str | None
    is_urgent: bool
    """True if the adapter in production was promoted without passing its trial."""
    requests: int
    """Number of open requests."""
    recalled: int
    """Number of adapters to which an open recall applies, and whose state is neither recalled nor retired."""
    due: Due | None
    """The next review of the newest adapter."""
    withheld: tuple[tuple[str, int], ...]
    """Pairs of a classification level and the number of adapters at this level that are hidden from the reader."""

    @property
    def waits(self) -> bool:
        """Return True if the line needs an officer's decision."""
        return bool(self.requests or self.recalled or (self.due is not None and self.due.state != "not due"))


@dataclass(frozen=True)
class Row:
    adapter: Mapping[str, Any]
    """The adapter as `adapters_in_brief` returns it."""
    is_urgent: bool
    """True if the adapter was promoted without passing its trial."""
    due: Due | None
    next_step: NextStep | None
    """Next transition of the adapter. None unless the adapter is the line's newest in its state."""


@dataclass(frozen=True)
class LineView:
    line: str
    rows: tuple[Row, ...]
    folded: tuple[Row, ...]
    withheld: tuple[tuple[str, int], ...]
    """As in `LineInBrief`."""


def overview(registry: Registry, reader: Reader, today: datetime.date) -> tuple[LineInBrief, ...]:
    """Return every line that a reader may see: first the lines that need an officer's decision, then all others. Each
    group is sorted by name.

    States come from the replayed ledger, in one pass. Signatures of open requests, recalls and reviews are verified
    here; signatures of closed requests are verified on the line's page. Raises IntegrityError if a record was
    changed, and names the record.
    """
    settings = registry.settings
    with registry.reading() as session:
        brief = adapters_in_brief(registry)
        urgent = urgent_promotions(session)
        asked = Counter(each.request.adapter_id for each in open_standings(session, settings, trust_root(settings)))
        serving = {row["id"]: row["state"] for row in brief if row["state"] not in ENDED}
        recalled = recalls_in_force(session, settings, serving)
    due = {each.adapter: each for each in due_reviews(registry, settings, today)}
    found = []
    for line, rows in _by_line(brief).items():
        if not reader.reads_line(line):
            continue
        seen, withheld = _seen(reader, line, rows)
        by_state = {row["state"]: row["id"] for row in seen}
        production = by_state.get("production")
        found.append(
            LineInBrief(
                line,
                len(seen),
                max((row["classification"] for row in seen), key=reader.ladder.rank, default=None),
                production,
                by_state.get("staged"),
                production in urgent,
                sum(asked[row["id"]] for row in seen),
                sum(row["id"] in recalled for row in seen),
                next((due[row["id"]] for row in seen if row["id"] in due), None),
                withheld,
            )
        )
    return tuple(sorted(found, key=lambda each: (not each.waits, each.line)))


def line_view(registry: Registry, reader: Reader, line: str, today: datetime.date) -> LineView | None:
    """Return a line's adapters, or None if the line has no adapters or the reader may not see the line. Raises
    IntegrityError if a record was changed, and names the record."""
    brief = adapters_in_brief(registry, line) if reader.reads_line(line) else []
    if not brief:
        return None
    settings = registry.settings
    with registry.reading() as session:
        urgent = urgent_promotions(session)
        requests = standings(session, settings, trust_root(settings), line)
    due = {each.adapter: each for each in due_reviews(registry, settings, today, line)}
    seen, withheld = _seen(reader, line, brief)
    leading = {row["state"]: row["id"] for row in seen if row["state"] in FURTHER and row["state"] in ORDER}
    shown = [
        Row(
            row,
            row["id"] in urgent,
            due.get(row["id"]),
            _next_step(registry, row, requests) if leading.get(row["state"]) == row["id"] else None,
        )
        for row in reversed(seen)
    ]
    rest = [state for state in STATES if state not in ORDER]
    return LineView(line, _in_states(shown, ORDER), _in_states(shown, rest), withheld)


def _in_states(rows: Sequence[Row], states: Sequence[State]) -> tuple[Row, ...]:
    return tuple(row for state in states for row in rows if row.adapter["state"] == state)


def _by_line(brief: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found = defaultdict[str, list[Mapping[str, Any]]](list)
    for row in brief:
        found[line_of(row["id"])].append(row)
    return found


def _seen(
    reader: Reader, line: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], tuple[tuple[str, int], ...]]:
    """Return the adapters that a reader may see, and the number of hidden adapters at each level."""
    counts = Counter(row["classification"] for row in rows)
    withheld = {level: count for level, count in counts.items() if not reader.reads(line, level)}
    return [row for row in rows if row["classification"] not in withheld], tuple(sorted(withheld.items()))


def _next_step(registry: Registry, row: Mapping[str, Any], requests: Sequence[Standing]) -> NextStep | None:
    asked = [each for each in requests if each.request.adapter_id == row["id"]]
    return next_step(registry, find_adapter(registry, row["id"]), row["state"], asked)
