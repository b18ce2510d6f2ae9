"""Write each line's flag according to the transitions in the ledger, and log the flag's changes in the ledger."""

import datetime
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import stamps
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.catalog import FLAG_CHANGED, OVERTAKEN, State, lines_in, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import PIPELINE, PIPELINE_KEY_FILE, pipeline_signer, trust_root
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.statements import signed_by
from sovereign_pipeline.record.tables import Adapter, AuditEntry, Transition
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.registry.mlflow_mirror import follow_after_act
from sovereign_pipeline.release.requests import enter_rollback, unsigned_request
from sovereign_pipeline.release.standing import arrow, assert_signed, production_before
from sovereign_pipeline.release.trial import enter_judgements, judgement_files, taken_back
from sovereign_pipeline.serving.high_water_marks import FlagMark
from sovereign_pipeline.serving.rollout.flag import (
    Change,
    Flag,
    FlagAdapter,
    WayBack,
    changing,
    installed_evaluator,
    lines_with_flags,
    newest_verified,
    read_change,
    sequences,
    verified_flag,
    write_change,
)
from sovereign_pipeline.serving.rollout.in_force import Flags


def on_record(session: Session) -> dict[str, FlagMark]:
    """Return a mapping of line name to the newest change of the line's flag, according to the ledger."""
    query = select(AuditEntry.subjects).where(AuditEntry.action == FLAG_CHANGED).order_by(AuditEntry.sequence)
    return {
        each["line"]: FlagMark(sequence=each["change"], sha256=each["statement"]) for each in session.scalars(query)
    }


def catch_up(registry: Registry, workplace: Workplace, trust: Trust) -> None:
    """Log the changes of a line's flag that have no ledger entry yet, oldest first, and then the judgements of its
    trials. Raises IntegrityError if a change fails verification or differs from its ledger entry, and the errors of
    `enter` and `enter_judgements`."""
    settings, line = workplace.settings, workplace.line.line
    with registry.reading() as session:
        newest = on_record(session).get(line)
    if newest is not None:
        _assert_is_on_record(settings, line, newest)
    for sequence in sequences(settings, line):
        if newest is None or sequence > newest.sequence:
            change = read_change(settings, line, sequence)
            revoked_from = trust.key(PIPELINE, signed_by(change.signature)).revoked_from
            at_index = (
                None if revoked_from is None else revoked_from - 1
            )  # a change that a revoked key signed is logged too
            enter(registry, workplace, trust, change, verified_flag(change, line, trust, at_index))
    enter_judgements(registry, settings, line, trust)


def _assert_is_on_record(settings: Settings, line: str, newest: FlagMark) -> None:
    """Raise IntegrityError if the change on disk differs from the ledger's change with that number. An unreadable
    change is ignored, because the flag is then written again."""
    try:
        change = read_change(settings, line, newest.sequence)
    except IntegrityError:
        return
    if change.sha256 != newest.sha256:
        raise IntegrityError(
            f"The flag of line {line}: change {newest.sequence} differs from the change in the audit log.",
            "Find out who changed the file. Remove the change, and have the flag written again.",
        )


def enter(registry: Registry, workplace: Workplace, trust: Trust, change: Change, flag: Flag) -> None:
    """Log one change of a flag. If an officer requested the change, make the requested transition. If the transition
    cannot be made, for example because the key that signed the change was revoked, the entry states the reason.

    Raises ConflictError if the change is dated more than `CLOCKS` in the future and its key is not revoked. The change
    stays in force, and is logged later. Raises IntegrityError as `enter_rollback` does.
    """
    key = trust.key(PIPELINE, signed_by(change.signature))
    is_revoked = key.revoked_from is not None
    overtaken = f"The pipeline's key {key.keyid} is revoked." if is_revoked else None
    with registry.writing() as session:
        if not is_revoked and change.request is not None:
            records = {name: named.record_manifest for name, named in flag.adapters.items()}
            overtaken = enter_rollback(session, registry, workplace, trust, change.request, records)
        told = told_of(change, flag) | ({OVERTAKEN: overtaken} if overtaken is not None else {})
        append(session, f"pipeline:{key.keyid}", FLAG_CHANGED, told, dated=None if is_revoked else flag.at)
    if change.request is not None and overtaken is None:
        follow_after_act(registry, workplace.settings, flag.line, workplace.progress)


def told_of(change: Change, flag: Flag) -> dict[str, Any]:
    """Return the facts that the ledger entry about a change contains."""
    return {
        "line": flag.line,
        "change": flag.sequence,
        "statement": change.sha256,
        "production": flag.production,
        "staged": flag.staged,
        "staged_by": flag.staged_by,
        "began": flag.began,
        "share": f"{flag.share:g}",
        "groups": list(flag.groups),
        "stopped": flag.stopped,
        "cause": flag.cause,
        "reason": flag.reason,
        "evaluator": flag.evaluator,
        "request": flag.request,
        "made_at": flag.at.isoformat(),
    }


SALT_BYTES = 32


def follow(registry: Registry, workplace: Workplace) -> tuple[Flag, bool]:
    """Write the flag that follows from the ledger, unless the newest flag already has the same content. Returns the
    flag, and True if the flag was written.

    Raises IntegrityError if a transition fails verification, and the errors of `catch_up` and `write_change`.
    """
    settings, line = workplace.settings, workplace.line.line
    trust = trust_root(settings)
    signer = pipeline_signer(settings, trust)
    with changing(settings, line):
        catch_up(registry, workplace, trust)
        before, newest = newest_verified(settings, line, trust)
        with registry.reading() as session:
            known = on_record(session).get(line)
            next_number = 1 + max(newest, known.sequence if known is not None else 0)
            flag = _flag(session, registry, workplace, trust, before, next_number)
        if before is not None and next_number == before.sequence + 1 and flag.says_the_same(before):
            return before, False
        change = write_change(settings, signer, flag)
        enter(registry, workplace, trust, change, flag)
    return flag, True


def _flag(
    session: Session, registry: Registry, workplace: Workplace, trust: Trust, before: Flag | None, sequence: int
) -> Flag:
    line = workplace.line.line
    rows = assert_signed(session, registry.settings, trust, line)
    state = states(session, line)
    production = next((each for each, at in state.items() if at == "production"), None)
    staging = next((row for row in reversed(rows) if row.after == "staged" and state[row.adapter_id] == "staged"), None)
    staged = staging.adapter_id if staging is not None else None
    rules = workplace.institution.rollout_of(line)
    ways = (("unstage", staged), ("roll_back", production_before(session, registry.settings, rows)))
    back = tuple(
        _way_back(session.get_one(Adapter, each), name, registry, workplace, state[each], production)
        for name, each in ways
        if each is not None
    )
    named = {each for each in (production, staged, *(way.adapter for way in back)) if each is not None}
    staged_by = staging.sequence if staging is not None else None
    now = datetime.datetime.now(datetime.UTC)
    flag = Flag(
        line=line,
        sequence=sequence,
        production=production,
        staged=staged,
        staged_by=staged_by,
        share=rules.share if staged is not None else 0,
        groups=tuple(sorted(rules.groups)) if staged is not None else (),
        stopped=taken_back(session, session.get_one(Adapter, staged)) if staged is not None else None,
        began=sequence,
        began_at=now,
        salt=before.salt if before is not None else secrets.token_hex(SALT_BYTES),
        evaluator=installed_evaluator(),
        cause="signed anew",
        reason="The previous change failed verification." if sequence > 1 else "This is the line's first flag.",
        at=now,
        adapters={each: _named(session.get_one(Adapter, each)) for each in sorted(named)},
        back=back,
    )
    return _explained(flag, before, rows)


def _explained(flag: Flag, before: Flag | None, rows: Sequence[Transition]) -> Flag:
    """Add the cause of the change to a flag. If the flag compares the same adapters and users as the previous flag, the
    comparison continues: copy its start from the previous flag."""
    if before is not None and flag.compares_the_same(before):
        flag = flag.model_copy(update={"began": before.began, "began_at": before.began_at})
    if rows and (before is None or flag.decided != before.decided):
        last = rows[-1]
        told = {"cause": "transition", "reason": f"Transition {last.sequence}: {last.transition} {last.adapter_id}."}
        return flag.model_copy(update=told)
    if before is not None and not flag.says_the_same(before):
        told = {"cause": "policy", "reason": "The institution's share or groups, or the flag evaluator, changed."}
        return flag.model_copy(update=told)
    return flag


def _way_back(
    adapter: Adapter, transition: str, registry: Registry, workplace: Workplace, before: State, production: str | None
) -> WayBack:
    """Prepare a rollback that an officer can sign while the registry is down."""
    asked = arrow(transition, adapter.id, before)
    request = unsigned_request(registry, workplace, adapter, asked, before, production)
    return WayBack(adapter=adapter.id, request=request)


def _named(adapter: Adapter) -> FlagAdapter:
    return FlagAdapter(
        digest=adapter.adapter_digest,
        record_manifest=adapter.record_manifest_sha256,
        classification=adapter.classification,
    )


Seen = tuple[object, ...]
WorkplaceOf = Callable[[str], Workplace]
"""Function that returns the workplace of a line."""


class FlagSync:
    """Synchronises flags with the ledger. A gateway calls `look` at regular intervals."""

    def __init__(
        self, settings: Settings, flags: Flags, registry: Callable[[], Registry], workplace_of: WorkplaceOf
    ) -> None:
        self._settings = settings
        self._workplace_of = workplace_of
        self._flags = flags
        self._registry = registry
        self._seen: Seen | None = None

    def look(self) -> None:
        """If this machine has the pipeline's key, write the flags that follow from the ledger, and log their changes.
        Raises IntegrityError if a line failed, after the other lines were handled, or if a line's newest flag is not in
        force."""
        registry = self._registry()
        with registry.reading() as session:
            self._flags.compare_with(on_record(session))
            entries = tree.size_of(session)
        seen = (entries, *self._facts())
        wrong: list[str] = []
        if seen != self._seen and (self._settings.keys / PIPELINE_KEY_FILE).is_file():
            wrong += self._follow(registry)
            self._seen = None if wrong else (entries, *self._facts())
        wrong += self._flags.problems().values()
        if wrong:
            raise IntegrityError(" ".join(dict.fromkeys(wrong)), "Correct the cause. The previous flags stay in force.")

    def _follow(self, registry: Registry) -> Iterator[str]:
        with registry.reading() as session:
            lines = {*lines_in(session, {"staged", "production"}), *lines_with_flags(self._settings)}
        for line in sorted(lines):
            try:
                follow(registry, self._workplace_of(line))
            except SovereignError as error:
                yield error.message

    def _facts(self) -> Seen:
        numbers = [
            (line, tuple(sequences(self._settings, line)), len(judgement_files(self._settings, line)))
            for line in lines_with_flags(self._settings)
        ]
        return (stamps([self._settings.data / "institution.yaml"]), *numbers)
