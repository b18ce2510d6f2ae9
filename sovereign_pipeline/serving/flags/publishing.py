"""A line's flag from the ledger: what officers decided, and the institution's share and groups.

What belongs here: what the flag must say now, and writing it where it says something else. What does not: going back
without the registry (`rollback.py`).
"""

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.in_force import rules_digest
from sovereign_pipeline.ledger.states import states
from sovereign_pipeline.ledger.tables import Adapter, Transition
from sovereign_pipeline.ledger.trust_on_record import assert_not_put_back
from sovereign_pipeline.policy.release import TransitionName
from sovereign_pipeline.release.holds import taken_back
from sovereign_pipeline.release.requests import Proposal, evidence_of
from sovereign_pipeline.release.standing import assert_signed, production_before
from sovereign_pipeline.release.transitions import arrow
from sovereign_pipeline.serving.flags.files import changing, read_change, sequences, verified_flag, write_change
from sovereign_pipeline.serving.flags.flag import Flag, Named, WayBack, evaluator_of, installed_evaluator
from sovereign_pipeline.serving.flags.journal import catch_up, enter, on_record
from sovereign_pipeline.signing.officers import pipeline_signer, trust_root
from sovereign_pipeline.signing.trust import Trust

SALT_BYTES = 32


@dataclass(frozen=True)
class Before:
    """What a line's flag said until now."""

    flag: Flag | None
    """The newest that can be believed."""
    newest: int
    """The number of the newest change, 0 for none."""

    @property
    def is_in_force(self) -> bool:
        """Whether the newest change is one that can be believed."""
        return self.flag is not None and self.flag.sequence == self.newest


def follow(registry: Registry, workplace: Workplace) -> tuple[Flag, bool]:
    """Let the flag of the workplace's line say what the ledger says. Returns it, and whether it was written now.

    Raises IntegrityError where a transition was not signed, asked for and approved as it says, and whatever keeps a
    change that was made without the registry out of the ledger.
    """
    settings, line = workplace.settings, workplace.line.line
    trust = trust_root(settings)
    signer = pipeline_signer(settings, trust)
    with changing(settings, line):
        catch_up(registry, workplace, trust)
        before = newest_believed(settings, line, trust)
        with registry.reading() as session:
            assert_not_put_back(session, settings, trust)
            known = on_record(session).get(line)
            next_number = 1 + max(before.newest, known.sequence if known is not None else 0)
            flag = _flag(session, registry, workplace, trust, before.flag, next_number)
        follows = before.is_in_force and next_number == before.newest + 1
        if before.flag is not None and follows and flag.says_the_same(before.flag):
            return before.flag, False
        evaluator_of(flag)
        change = write_change(settings, signer, flag)
        enter(registry, workplace, trust, change, flag)
    return flag, True


def newest_believed(settings: Settings, line: str, trust: Trust) -> Before:
    """What a line's flag said until now, leaving out what cannot be believed."""
    numbers = sequences(settings, line)
    for number in reversed(numbers):
        try:
            return Before(verified_flag(read_change(settings, line, number), line, trust), numbers[-1])
        except SovereignError:
            continue
    return Before(None, numbers[-1] if numbers else 0)


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
    superseded = production_before(session, registry.settings, rows)
    back = tuple(_ways_back(session, registry, workplace, production, staged, superseded))
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
        reason="The change before could not be believed." if sequence > 1 else "It is the line's first.",
        at=now,
        adapters={each: _named(session.get_one(Adapter, each)) for each in sorted(named)},
        back=back,
    )
    return _explained(flag, before, rows)


def _explained(flag: Flag, before: Flag | None, rows: Sequence[Transition]) -> Flag:
    """With why it changes, and since when it compares the same adapters in the same way."""
    if before is not None and flag.compares_the_same(before):
        flag = flag.model_copy(update={"began": before.began, "began_at": before.began_at})
    if rows and (before is None or _decided(flag) != _decided(before)):
        last = rows[-1]
        told = {"cause": "transition", "reason": f"Transition {last.sequence}: {last.transition} {last.adapter_id}."}
        return flag.model_copy(update=told)
    if before is not None and not flag.says_the_same(before):
        told = {"cause": "policy", "reason": "The institution's share or groups, or what assigns users, changed."}
        return flag.model_copy(update=told)
    return flag


def _decided(flag: Flag) -> tuple[object, ...]:
    """What officers decide of it; the ways back name the institution's rules, too."""
    return (flag.production, flag.staged, flag.staged_by, [way.adapter for way in flag.back])


def _ways_back(
    session: Session,
    registry: Registry,
    workplace: Workplace,
    production: str | None,
    staged: str | None,
    superseded: str | None,
) -> list[WayBack]:
    """The requests that an officer can sign while the registry is down."""
    found: list[WayBack] = []
    ways: tuple[tuple[TransitionName, str | None], ...] = (("unstage", staged), ("roll_back", superseded))
    for name, adapter_id in ways:
        if adapter_id is None:
            continue
        adapter = session.get_one(Adapter, adapter_id)
        before = states(session, adapter.line)[adapter_id]
        asked = arrow(name, adapter_id, before)
        proposal = Proposal(
            adapter=adapter,
            arrow=asked,
            before=before,
            incumbent=production,
            evidence=evidence_of(workplace, registry, adapter, asked),
            approvals=workplace.institution.release.approvals_for(name, adapter.classification),
            policy=rules_digest(workplace.settings, adapter.line),
            reason="",
            expires=datetime.datetime.now(datetime.UTC),
        )
        request = {key: value for key, value in proposal.predicate().items() if key not in ("reason", "expires")}
        found.append(WayBack(adapter=adapter_id, request=request))
    return found


def _named(adapter: Adapter) -> Named:
    return Named(
        digest=adapter.adapter_digest,
        record_manifest=adapter.record_manifest_sha256,
        classification=adapter.classification,
    )
