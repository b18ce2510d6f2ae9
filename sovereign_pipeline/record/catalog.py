"""Look up adapters, their states, datasets, purges and gate waivers in the registry."""

import datetime
import difflib
import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.officers import actor_of, verify_act
from sovereign_pipeline.record.statements import PURGE
from sovereign_pipeline.record.tables import (
    Adapter,
    AuditEntry,
    BaseModelRow,
    BlindReview,
    Dataset,
    Transition,
    row_as_dict,
)
from sovereign_pipeline.record.tree import RegistryDamaged
from sovereign_pipeline.record.trust_root import Trust

State = Literal[
    "registered", "in review", "approved", "staged", "production", "superseded", "rejected", "recalled", "retired"
]
STATES: tuple[State, ...] = get_args(State)

ENDED: frozenset[State] = frozenset({"rejected", "recalled", "retired"})
"""Final states. An adapter in a final state is not served, not used as a parent, and not compared with other
adapters."""

REQUESTED, STATE_CHANGED, FLAG_CHANGED = "release requested", "state changed", "flag changed"
"""Actions of the ledger entries about requests, transitions, and changes of a line's flag. The flag decides which
adapters answer users."""
OVERTAKEN = "overtaken"
"""Key in the ledger entry of a flag's change. It is set if the change has no effect because another decision came
first."""

URGENT = "promote_urgently"
"""Name of the transition that promotes an adapter without a passed trial."""

TransitionRow = Transition | Row[Any]
"""A transition as an ORM object or, for long lists, as a plain row."""


def transitions_of(session: Session, line: str) -> list[Transition]:
    """Return every transition of a line, oldest first. Raises IntegrityError if a transition does not start from its
    adapter's previous state or is about another line's adapter, or if two adapters end up in production."""
    rows = list(session.scalars(select(Transition).where(Transition.line == line).order_by(Transition.sequence)))
    _assert_one_follows_the_other(line, rows)
    return rows


def facts_of(row: TransitionRow) -> dict[str, object]:
    """Return the subjects of a transition's ledger entry. They contain the SHA-256 of the signed statement instead of
    the statement."""
    return {
        "line": row.line,
        "sequence": row.sequence,
        "adapter": row.adapter_id,
        "transition": row.transition,
        "from": row.before,
        "to": row.after,
        "request": row.request_id,
        "at": row.made_at.isoformat(),
        "statement": hashlib.sha256(row.statement).hexdigest(),
    }


def states(session: Session, line: str | None = None, at: datetime.datetime | None = None) -> dict[str, State]:
    """Return a mapping of adapter id to state. Raises the errors of `transitions_of`.

    Args:
        line: the line of adapters; None for all lines.
        at: time for which to return the states, without adapters registered later; None for now.
    """
    adapters, reviewed = select(Adapter.id), select(BlindReview.adapter_id)
    if line is not None:
        adapters, reviewed = adapters.where(Adapter.line == line), reviewed.where(BlindReview.line == line)
    if at is not None:
        adapters, reviewed = adapters.where(Adapter.registered_at <= at), reviewed.where(BlindReview.opened_at <= at)
    found: dict[str, State] = dict.fromkeys(session.scalars(adapters), "registered")
    found |= dict.fromkeys((each for each in session.scalars(reviewed) if each in found), "in review")
    columns = Transition.__table__.c
    query = select(*(each for each in columns if each.name != "statement")).order_by(columns.line, columns.sequence)
    made = session.execute(query if line is None else query.where(columns.line == line))
    by_line = {each: list(rows) for each, rows in itertools.groupby(made, key=lambda row: str(row.line))}
    for each, rows in by_line.items():
        _assert_one_follows_the_other(each, rows)
        if at is not None:
            rows = [
                row for row, made in zip(rows, in_order([each.made_at for each in rows]), strict=True) if made <= at
            ]
        found |= {row.adapter_id: _state(row.after) for row in rows}
    return found


def lines_in(session: Session, wanted: Collection[State]) -> list[str]:
    """Return the sorted names of the lines with an adapter in one of these states. Includes lines with inconsistent
    transitions, so that a later check of such a line reports the error."""
    found = set[str]()
    try:
        state = states(session)
    except IntegrityError:
        state = {}
        for line in session.scalars(select(Transition.line).distinct()).all():
            try:
                state |= states(session, line)
            except IntegrityError:
                found.add(line)
    ids = [each for each, reached in state.items() if reached in wanted]
    return sorted({*found, *session.scalars(select(Adapter.line).where(Adapter.id.in_(ids)).distinct())})


def state_of(session: Session, adapter: Adapter) -> State:
    return states(session, adapter.line)[adapter.id]


def state_and_incumbent(session: Session, adapter: Adapter) -> tuple[State, str | None]:
    """Return an adapter's state, and the id of the adapter in production for the same line (None if there is none)."""
    found = states(session, adapter.line)
    return found[adapter.id], next((each for each, state in found.items() if state == "production"), None)


def in_production(session: Session, line: str, at: datetime.datetime | None = None) -> str | None:
    """Return the id of the line's adapter in production at time `at` (by default now), or None if there is none."""
    return next((each for each, state in states(session, line, at).items() if state == "production"), None)


def in_order(times: Sequence[datetime.datetime]) -> list[datetime.datetime]:
    """Correct the times of consecutive log entries for wrong clocks, so that the times never decrease. Each time is
    replaced by the earliest of this time and the times of all later entries."""
    return list(itertools.accumulate(reversed(times), min))[::-1]


def _assert_one_follows_the_other(line: str, rows: Sequence[TransitionRow]) -> None:
    """Assert that each transition is about an adapter of this line and starts from the adapter's last state, and that
    the last transition leaves at most one adapter in production."""
    reached: dict[str, str] = {}
    for row in rows:
        if line_of(row.adapter_id) != line:
            raise _not_on_record(line, row.sequence, f"is about {row.adapter_id}, which belongs to another line")
        before = reached.get(row.adapter_id)
        begins = {before} if before is not None else {"registered", "in review"}
        if row.before not in begins:
            raise _not_on_record(
                line, row.sequence, f"starts from '{row.before}', but {row.adapter_id} was in a different state"
            )
        reached[row.adapter_id] = _state(row.after)
    serving = [adapter for adapter, state in reached.items() if state == "production"]
    if len(serving) > 1:
        raise _not_on_record(line, len(rows), f"leaves {' and '.join(serving)} in production")


def _state(word: str) -> State:
    return _BY_WORD[word]


_BY_WORD: Mapping[str, State] = {each: each for each in STATES}


def _not_on_record(line: str, number: int, problem: str) -> IntegrityError:
    return RegistryDamaged(f"The registry: transition {number} of line {line} {problem}.")


def adapters_of(session: Session, line: str) -> list[Adapter]:
    return list(session.scalars(select(Adapter).where(Adapter.line == line).order_by(Adapter.id)))


def list_adapters(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Return the columns and state of each adapter of a line (None: of all lines), in the order of registration."""
    query = select(Adapter).order_by(Adapter.registered_at, Adapter.id)
    if line is not None:
        query = query.where(Adapter.line == line)
    with registry.reading() as session:
        adapters = list(session.scalars(query))
        state = states(session, line)
        return [{**row_as_dict(adapter), "state": state[adapter.id]} for adapter in adapters]


def adapters_in_brief(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Return what overview tables show of each adapter of a line (None: of all lines), in the order of registration:
    the columns in `_BRIEF` and the state. Loads no large columns, so this is fast for thousands of adapters."""
    query = select(*_BRIEF).order_by(_COLUMNS.registered_at, _COLUMNS.id)
    if line is not None:
        query = query.where(_COLUMNS.line == line)
    names = [column.name for column in _BRIEF]
    with registry.reading() as session:
        rows = session.execute(query).all()
        state = states(session, line)
        return [dict(zip(names, row, strict=True), state=state[row.id]) for row in rows]


_COLUMNS = Adapter.__table__.c
_BRIEF = [
    *(_COLUMNS.id, _COLUMNS.classification, _COLUMNS.method, _COLUMNS.adapter_digest, _COLUMNS.dataset_digest),
    *(_COLUMNS.base_model, _COLUMNS.registered_at, _COLUMNS.review_date),
]


def show_adapter(registry: Registry, adapter_id: str) -> dict[str, Any]:
    """Return an adapter's columns, state and waivers, and the columns of its datasets and base model. Raises
    NotFoundError for an unknown id; the error lists known adapters."""
    with registry.reading() as session:
        adapter = find_adapter(registry, adapter_id)
        digests = [digest for digest in (adapter.dataset_digest, adapter.preference_dataset_digest) if digest]
        datasets = session.scalars(select(Dataset).where(Dataset.digest.in_(digests)).order_by(Dataset.kind.desc()))
        return {
            **row_as_dict(adapter),
            "state": state_of(session, adapter),
            "waivers": waivers_of(adapter),
            "datasets": [row_as_dict(dataset) for dataset in datasets],
            "base": row_as_dict(session.get_one(BaseModelRow, adapter.base_model_digest)),
        }


def waivers_of(adapter: Adapter) -> list[dict[str, Any]]:
    """Return a dictionary for each waived gate of an adapter: the stage, gate and outcome, and the waiver's digest,
    kind, officer, reason and time."""
    return [
        {**{name: each[name] for name in ("stage", "gate", "outcome")}, **each["waiver"]}
        for each in adapter.gate_records
        if "waiver" in each
    ]


def waivers_of_line(registry: Registry, line: str, besides: str | None = None) -> list[dict[str, Any]]:
    """Return the waivers of a line's registered adapters, each with the adapter's id, oldest adapter first.

    Args:
        besides: digest of an adapter's artifact. The waivers of this adapter are left out.
    """
    query = select(Adapter).where(Adapter.line == line).order_by(Adapter.registered_at, Adapter.id)
    with registry.reading() as session:
        return [
            {"adapter": adapter.id, **each}
            for adapter in session.scalars(query)
            if adapter.adapter_digest != besides
            for each in waivers_of(adapter)
        ]


def list_datasets(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Return every registered dataset of a line, or of all lines if `line` is None, oldest first. Each has the ids of
    the adapters trained on it (`adapters`)."""
    query = select(Dataset).order_by(Dataset.created_at, Dataset.digest)
    if line is not None:
        query = query.where(Dataset.line == line)
    with registry.reading() as session:
        adapters = session.scalars(select(Adapter).order_by(Adapter.registered_at, Adapter.id)).all()
        return [_dataset_as_dict(dataset, adapters) for dataset in session.scalars(query)]


def show_dataset(registry: Registry, digest: str) -> dict[str, Any]:
    """Return the dataset whose digest begins with `digest`. Raises NotFoundError unless there is exactly one."""
    found = [dataset for dataset in list_datasets(registry) if dataset["digest"].startswith(digest)]
    if len(found) == 1:
        return found[0]
    known = and_more(dataset["digest"][:12] for dataset in found or list_datasets(registry)) or "none"
    problem = f"{len(found)} dataset digests begin with" if found else "There is no registered dataset"
    raise NotFoundError(f"{problem} '{digest}'.", f"Give one of these digests, or a longer prefix: {known}.")


def registered_as(registry: Registry, record_digest: str) -> Adapter | None:
    with registry.reading() as session:
        return session.scalars(select(Adapter).where(Adapter.record_digest == record_digest)).one_or_none()


def is_registered(registry: Registry, record_digest: str) -> bool:
    return registered_as(registry, record_digest) is not None


def find_adapter(registry: Registry, adapter_id: str) -> Adapter:
    """Return the row of an adapter. Raises NotFoundError for an unknown id; the error lists known adapters, similar ids
    first."""
    with registry.reading() as session:
        adapter = session.get(Adapter, adapter_id)
        if adapter is not None:
            return adapter
        known = session.scalars(select(Adapter.id).order_by(Adapter.id)).all()
    nearest = difflib.get_close_matches(adapter_id, known)
    told = and_more([*nearest, *(each for each in known if each not in nearest)]) or "none"
    raise NotFoundError(f"There is no registered adapter '{adapter_id}'.", f"Known adapters: {told}.")


def line_of(adapter_id: str) -> str:
    """Return the name of an adapter's line. The adapter's id begins with this name."""
    return adapter_id.rpartition("-")[0]


def incumbent_of(registry: Registry, line: str, weights: str | None, besides: Collection[str | None]) -> Adapter | None:
    """Return the adapter that a candidate would replace: the line's adapter in production. If there is none, return the
    line's highest version, or None if the line has no other adapter. Ignores rejected, recalled and retired adapters.

    If the candidate is registered, each lower version counts with the state that it had at the candidate's
    registration, so that later transitions do not make the candidate's scores stale. Versions decide which adapter is
    newest: registration times are whole seconds, so two times can be equal.

    Args:
        weights: SHA-256 of the candidate's weights (`Adapter.adapter_sha256`). Adapters with these weights are ignored.
        besides: SHA-256 of further weights to ignore.
    """
    with registry.reading() as session:
        adapters = adapters_of(session, line)
        state = states(session, line)
        same = [adapter for adapter in adapters if adapter.adapter_sha256 == weights]
        if same:
            first = min(same, key=lambda adapter: adapter.version_numbers)
            earlier = {adapter.id for adapter in adapters if adapter.version_numbers < first.version_numbers}
            then = states(session, line, first.registered_at)
            state |= {adapter: then[adapter] for adapter in earlier if adapter in then}
    others = [
        adapter
        for adapter in adapters
        if adapter.adapter_sha256 not in {weights, *besides} and state[adapter.id] not in ENDED
    ]
    serving = [adapter for adapter in others if state[adapter.id] == "production"]
    return max(serving or others, key=lambda adapter: adapter.version_numbers, default=None)


def _dataset_as_dict(dataset: Dataset, adapters: Sequence[Adapter]) -> dict[str, Any]:
    trained = [each.id for each in adapters if dataset.digest in (each.dataset_digest, each.preference_dataset_digest)]
    return {**row_as_dict(dataset), "adapters": trained}


def urgent_promotions(session: Session) -> dict[str, datetime.date]:
    """Return a mapping of adapter id to the day of the adapter's first promotion without a passed trial. For display
    only: signatures are not verified."""
    query = select(Transition.adapter_id, Transition.made_at).where(Transition.transition == URGENT)
    found: dict[str, datetime.date] = {}
    for adapter, at in session.execute(query.order_by(Transition.line, Transition.sequence)):
        found.setdefault(adapter, at.date())
    return found


PURGED = "release weights purged"
MAY = "retire"
"""Permission that a purge needs in the trust root."""
STATEMENT = "bundle"
"""Key in the subjects of a purge's ledger entry. The value is the text of the signed statement."""


@dataclass(frozen=True)
class PurgedFile:
    """A file that a purge removed, with the path, size and SHA-256 from the artifact's manifest."""

    artifact: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Purge:
    """A purge of an adapter's weights, as stated in the purge's ledger entry and signed statement."""

    adapter: str
    at: datetime.datetime
    files: tuple[PurgedFile, ...]
    reason: str
    officer: str

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def purge_dates(session: Session) -> dict[str, datetime.date]:
    """Return a mapping of adapter id to the day on which the adapter's weights were purged. For display only:
    signatures are not verified."""
    query = select(AuditEntry.subjects["adapter"].as_string(), AuditEntry.at).where(AuditEntry.action == PURGED)
    found: dict[str, datetime.date] = {}
    for adapter, at in session.execute(query.order_by(AuditEntry.sequence)):
        found.setdefault(adapter, at.date())
    return found


def purge_of(session: Session, trust: Trust, adapter_id: str) -> Purge | None:
    """Return the purge of an adapter's weights, or None if they were not purged. Raises IntegrityError if a purge is
    logged, but no officer with the permission `MAY` signed exactly this purge."""
    query = _entries().where(AuditEntry.subjects["adapter"].as_string() == adapter_id).limit(1)
    entry = session.scalars(query).first()
    return _verified(session, trust, entry) if entry is not None else None


def purges_of(session: Session, artifact: str) -> list[AuditEntry]:
    """Return the ledger entries of the purges that removed files of an artifact. Does not verify signatures."""
    return [each for each in session.scalars(_entries()) if artifact in each.subjects["weights"]]


def files_purged(session: Session, trust: Trust, artifact: str) -> dict[str, Purge]:
    """Return a mapping of each purged file's path to the purge, for one artifact. Raises the errors of `purge_of`."""
    found: dict[str, Purge] = {}
    for entry in purges_of(session, artifact):
        purge = _verified(session, trust, entry)
        for file in purge.files:
            if file.artifact == artifact:
                found.setdefault(file.path, purge)
    return found


def _entries() -> Select[AuditEntry]:
    return select(AuditEntry).where(AuditEntry.action == PURGED).order_by(AuditEntry.sequence)


def _verified(session: Session, trust: Trust, entry: AuditEntry) -> Purge:
    subjects = entry.subjects
    bundle = str(subjects[STATEMENT]).encode()
    adapter = session.get(Adapter, subjects["adapter"])
    if adapter is None or hashlib.sha256(bundle).hexdigest() != subjects["statement"]:
        raise _differs(entry)
    verified = verify_act(
        bundle,
        trust,
        MAY,
        [adapter.classification],
        predicate_type=PURGE,
        sha256=adapter.record_manifest_sha256,
        at_index=entry.sequence - 1,
    )
    predicate = verified.statement.predicate
    try:
        files = tuple(PurgedFile(**each) for each in predicate["files"])
    except TypeError:
        raise _differs(entry) from None
    stated = (predicate["line"], predicate["adapter"], sorted({file.artifact for file in files}))
    if stated != (adapter.line, adapter.id, subjects["weights"]):
        raise _differs(entry)
    return Purge(adapter.id, entry.at, files, predicate["reason"], verified.key.person)


def _differs(entry: AuditEntry) -> IntegrityError:
    return RegistryDamaged(f"The audit log: entry {entry.sequence} differs from the signed purge.")


WAIVED = "gate waived"


@dataclass(frozen=True)
class LedgerWaivers:
    """Logs gate waivers in the ledger, and looks them up. The registry is opened on first use."""

    opened: Callable[[], Registry]

    def enter(self, keyid: str, trust: Trust, subjects: Mapping[str, Any]) -> None:
        registry = self.opened()
        with registry.writing() as session:
            assert_in_force(session, registry.settings, trust)
            append(session, actor_of(keyid), WAIVED, {**subjects, **trust_named(trust)})

    def index_of(self, statement: str) -> int | None:
        """Return the ledger index of the waiver whose signed statement has this SHA-256, or None."""
        query = select(AuditEntry.sequence).where(
            AuditEntry.action == WAIVED, AuditEntry.subjects["statement"].as_string() == statement
        )
        with self.opened().reading() as session:
            sequence = session.scalars(query.order_by(AuditEntry.sequence).limit(1)).one_or_none()
        return sequence - 1 if sequence is not None else None
