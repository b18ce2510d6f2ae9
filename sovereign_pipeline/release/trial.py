"""Record the trial of a staged adapter: signed results, officers' acceptances, and the evidence for promotion."""

import datetime
import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, GateRefused, IntegrityError
from sovereign_pipeline.base.files import Frozen, read_bounded, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.record import officers, statements
from sovereign_pipeline.record.audit_log import CLOCKS, append
from sovereign_pipeline.record.catalog import (
    FLAG_CHANGED,
    OVERTAKEN,
    adapters_of,
    find_adapter,
    in_production,
    transitions_of,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.statements import SUFFIX, signed_by
from sovereign_pipeline.record.tables import Adapter, AuditEntry
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.record.verifying import verify_registry

ACCEPTED_SUFFIX = f".accepted{SUFFIX}"
LOOK = "`sovereign adapters hold LINE` shows the state of the trial. Stage the adapter again to start a new trial."


class Bound(Frozen):
    """The comparison of one measure between the staged adapter and production."""

    measure: str
    estimate: float | None
    """Staged minus production: a difference of shares, or the logarithm of a ratio. None if there are too few users."""
    at_most: float | None
    """Upper confidence limit of the estimate. It is valid only if the data are analysed once."""
    margin: float


class Judgement(Frozen):
    """The result of a trial, with its numbers."""

    line: str
    adapter: str
    incumbent: str | None
    """Id of the adapter in production, with which the staged adapter was compared."""
    staged_by: int | None
    """Number of the line's transition that staged the adapter."""
    began: int = Field(ge=1)
    """Number of the change of the line's flag that began the comparison."""
    number: int = Field(ge=1)
    """Number of this result within the comparison. A later severity-1 report produces another result."""
    outcome: Literal["promote", "inconclusive", "reported"]
    """`reported` means that the trial is open and a user reported severity 1."""
    because: str
    expected: str
    """A sentence that states when more data could decide an inconclusive trial. Empty for any other outcome."""
    days: float
    users: tuple[int, int]
    """Number of users of the staged adapter, and number of users of the adapter in production."""
    answers: tuple[int, int]
    rated: tuple[int, int]
    severe: int
    bounds: tuple[Bound, ...]
    observations: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the observations file, which is stored with the gateways' counts."""
    at: datetime.datetime


@dataclass(frozen=True)
class Signed:
    """A trial result with its signature and its file."""

    judgement: Judgement
    bundle: bytes
    path: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bundle).hexdigest()

    @property
    def acceptance(self) -> Path:
        """Path of an officer's signed acceptance of this result."""
        return self.path.with_name(self.path.name.removesuffix(SUFFIX) + ACCEPTED_SUFFIX)


def judgement_files(settings: Settings, line: str, adapter: str | None = None, began: int | None = None) -> list[Path]:
    """Return the paths of the result files of a line, or of one comparison, oldest first."""
    root = settings.home / "serving" / "holds" / line
    name = "*" if adapter is None or began is None else f"{adapter}-{began:08d}"
    found = (path for path in root.glob(f"{name}/*{SUFFIX}") if not path.name.endswith(ACCEPTED_SUFFIX))
    return sorted(found, key=lambda path: (path.parent.name[-8:], path.name))


def write_judgement(settings: Settings, signer: Signer, judgement: Judgement, record_manifest: str) -> Signed:
    """Sign a trial result and write it to its file. The caller must hold the lock of the line's flag.

    Args:
        record_manifest: SHA-256 of the manifest of the adapter's record.
    """
    subject = statements.Subject("registered_adapter/manifest.json", record_manifest)
    bundle = statements.sign_statement(
        signer, statements.Statement((subject,), statements.HOLD, judgement.model_dump(mode="json"))
    )
    directory = settings.home / "serving" / "holds" / judgement.line / f"{judgement.adapter}-{judgement.began:08d}"
    path = directory / f"{judgement.number:04d}{SUFFIX}"
    write_atomically(path, bundle)
    path.chmod(0o644)  # officers read this file from their own accounts
    return Signed(judgement, bundle, path)


def read_judgement(path: Path, trust: Trust, record_manifest: str, at_index: int | None = None) -> Signed:
    """Read a trial result and verify the pipeline's signature. Raises IntegrityError if the result or the signature is
    invalid, or if the file's path belongs to another result.

    Args:
        at_index: ledger index of the result's entry; None if there is no entry yet.
    """
    bundle = read_bounded(path, statements.LARGEST_BUNDLE, LOOK)
    verified = statements.verify_statement(
        bundle, trust, officers.PIPELINE, predicate_type=statements.HOLD, sha256=record_manifest, at_index=at_index
    )
    try:
        judgement = Judgement.model_validate_json(json.dumps(dict(verified.statement.predicate)))
    except ValidationError:
        raise IntegrityError(f"{path}: this is not a trial result that this release can read.", LOOK) from None
    said = (judgement.line, f"{judgement.adapter}-{judgement.began:08d}", f"{judgement.number:04d}{SUFFIX}")
    if said != (path.parent.parent.name, path.parent.name, path.name):
        raise IntegrityError(
            f"{path}: this file was signed as the result of another trial.", "Find out who wrote the file."
        )
    return Signed(judgement, bundle, path)


JUDGED, ACCEPTED, REPORTED = "hold judged", "hold accepted", "severity 1 reported"
GATEWAY = "gateway"
"""Value of `actor` in the ledger entries that gateways write."""
JUDGEMENT_FILE = "judgement.sigstore.json"
"""Name of the subject in the signed statement of an acceptance."""


@dataclass(frozen=True)
class Held:
    """The newest trial result of a staged adapter."""

    signed: Signed
    accepted_by: str | None
    """Officer who accepted the result, or None if nobody has accepted it."""
    acceptance: str | None
    """SHA-256 of the officer's signed acceptance, or None if there is none."""

    @property
    def lets_through(self) -> bool:
        return self.signed.judgement.outcome == "promote" or self.acceptance is not None


@dataclass(frozen=True, order=True)
class Report:
    """A user's report of severity 1 about an adapter. If a trial is required, an ordinary promotion of the adapter's
    weights then needs a trial result that counts the report, and an officer's acceptance of this result."""

    line: str
    adapter: str
    user: str
    """Salted hash of the user."""


def enter_reports(registry: Registry, reports: Collection[Report]) -> None:
    """Add a ledger entry for each severity-1 report that has none yet, even if the adapter is no longer staged."""
    with registry.reading() as session:
        new = {*reports} - {Report(**each) for each in _subjects(session, REPORTED)}
    if new:
        with registry.writing() as session:
            for each in sorted(new):
                append(session, GATEWAY, REPORTED, asdict(each))


def enter_judgements(registry: Registry, settings: Settings, line: str, trust: Trust) -> None:
    """Add a ledger entry for every trial result of a line that has none yet, oldest first. Skips results that a revoked
    key signed, and results of unregistered adapters. Raises IntegrityError if the pipeline did not sign a result."""
    files = judgement_files(settings, line)
    with registry.reading() as session:
        entered = [each.subjects for each in _entries(session, JUDGED, line)]
        records = {each.id: each.record_manifest_sha256 for each in adapters_of(session, line)}
    known = {(f"{each['adapter']}-{each['began']:08d}", f"{each['number']:04d}") for each in entered}
    for path in files:
        adapter = path.parent.name[:-9]
        if adapter not in records or (path.parent.name, path.name[:4]) in known:
            continue
        bundle = read_bounded(path, statements.LARGEST_BUNDLE, LOOK)
        if trust.key(officers.PIPELINE, signed_by(bundle)).revoked_from is not None:
            continue  # not valid; the line's flag is signed again, which begins a new comparison
        signed = read_judgement(path, trust, records[adapter])
        judged = signed.judgement
        with registry.writing() as session:
            told = {
                **judged.model_dump(mode="json", include={"line", "adapter", "incumbent", "began", "number", "severe"}),
                "outcome": judged.outcome,
                "because": judged.because,
                "observations": judged.observations,
                "judged_at": judged.at.isoformat(),
                "statement": signed.sha256,
            }
            append(session, f"pipeline:{signed_by(signed.bundle)}", JUDGED, told, dated=judged.at)


def hold_of(session: Session, settings: Settings, trust: Trust, adapter: Adapter, incumbent: str | None) -> Held | None:
    """Return the newest logged result of the adapter's current comparison with `incumbent`, and its acceptance. Returns
    None if there is no result. Raises IntegrityError if a file is missing or differs from its ledger entry."""
    staged_by, flag = _staged_by(session, adapter), _newest_flag(session, adapter)
    found: Held | None = None
    for entry in _entries(session, JUDGED, adapter.line):
        is_current = flag is None or flag["began"] == entry.subjects["began"]
        if entry.subjects["adapter"] != adapter.id or not is_current:
            continue
        signed = _on_record(settings, trust, adapter, entry)
        if (signed.judgement.incumbent, signed.judgement.staged_by) == (incumbent, staged_by):
            found = _accepted(session, trust, adapter, signed)
    return found


def hold_evidence(registry: Registry, workplace: Workplace, adapter: Adapter) -> dict[str, Any]:
    """Return the trial's evidence for a promotion, by digest, or the reason why no trial is needed.

    Raises GateRefused if the adapter was withdrawn from users or, where a trial is required, if:
    - the trial is open, has a date in the future, does not meet the current rules, or missed severity-1 reports;
    - the trial is inconclusive, and no officer accepted it; or
    - a recall removed the adapter that the trial would compare with.
    """
    settings = workplace.settings
    with registry.reading() as session:
        incumbent = in_production(session, adapter.line)
        if (why := taken_back(session, adapter)) is not None:
            raise GateRefused(f"{adapter.id} was withdrawn: {why}", "Stage it again, or stage another version.")
        reports = _reports(session, adapter)
        is_exempt = adapter.classification in workplace.institution.release.promote_without_hold
        if incumbent is None:
            if not is_exempt:
                _assert_nothing_was_recalled(session, adapter)
            if not reports:
                return {"needed": False, "because": "No adapter in production could be compared with it."}
        if is_exempt:
            return {"needed": False, "because": "The institution requires no trial at this level."}
        held = hold_of(session, settings, officers.trust_root(settings), adapter, incumbent)
    if held is None or (held.signed.judgement.outcome == "reported" and incumbent is not None):
        raise GateRefused(
            f"{adapter.id}: its trial is open.",
            f"`sovereign adapters hold {adapter.line}` shows what is missing, and when it could be complete.",
        )
    judged = held.signed.judgement
    if judged.at > datetime.datetime.now(datetime.UTC) + CLOCKS:  # A wrong clock also miscounts the trial's days.
        raise GateRefused(
            f"{adapter.id}: its trial's result is dated {judged.at:%Y-%m-%d %H:%M}, in the future: a clock was wrong.",
            "Correct the gateway's clock, and stage the adapter again.",
        )
    if judged.severe < reports:
        raise GateRefused(
            f"{adapter.id}: its trial counted {judged.severe} severity-1 reports, but {reports} about these "
            "weights are logged.",
            "Stage another version.",
        )
    institution = workplace.institution
    rules, is_searched = institution.rollout_of(adapter.line).hold, institution.serving.searches_answers(adapter.line)
    short = _short_of(judged, rules, is_searched=is_searched)
    if judged.outcome == "promote" and short:
        raise GateRefused(
            f"{adapter.id}: its trial does not meet the current rules for {', '.join(short)}.",
            "Stage it again, or stage another version.",
        )
    if not held.lets_through:
        raise GateRefused(
            f"{adapter.id}: its trial was inconclusive: {judged.because}.",
            f"{judged.expected} Or have an officer accept it: `sovereign adapters accept-hold {adapter.id}`.".strip(),
        )
    return {
        "needed": True,
        "outcome": judged.outcome,
        "judgement": held.signed.sha256,
        "observations": judged.observations,
        "acceptance": held.acceptance,
    }


def evidence_of_urgency(registry: Registry, workplace: Workplace, adapter: Adapter) -> dict[str, Any]:
    """Return the evidence for an urgent promotion, which does not wait for the trial. Later reports and results do not
    change this evidence, but a withdrawal of the adapter from users does.

    Raises ConflictError if the trial allows an ordinary promotion.
    """
    try:
        hold_evidence(registry, workplace, adapter)
    except GateRefused:
        with registry.reading() as session:
            return {"needed": True, "urgent": True, "taken_back": taken_back(session, adapter) is not None}
    raise ConflictError(
        f"{adapter.id}: its trial allows the promotion, so an urgent promotion is not needed.", "Request `promote`."
    )


def _assert_nothing_was_recalled(session: Session, adapter: Adapter) -> None:
    """Raise GateRefused if the line's last adapter in production was recalled. Otherwise a recall, which can need fewer
    approvals than a promotion, would make the next promotion possible without a trial."""
    last = [row for row in transitions_of(session, adapter.line) if row.before == "production"][-1:]
    if last and last[0].transition != "retire":
        raise GateRefused(
            f"{adapter.id}: '{last[0].transition}' took {last[0].adapter_id} out of production, so no trial "
            "can compare these two adapters.",
            "Roll back to an earlier adapter, or promote this one urgently.",
        )


def _reports(session: Session, adapter: Adapter) -> int:
    """Return the number of users who reported severity 1 about the adapter's weights, in any staging. This is the
    number of users in logged reports, or the highest number that a trial counted, whichever is larger."""
    same = set(session.scalars(select(Adapter.id).where(Adapter.adapter_sha256 == adapter.adapter_sha256)))
    users = {each["user"] for each in _subjects(session, REPORTED) if each["adapter"] in same}
    counted = (int(each["severe"]) for each in _subjects(session, JUDGED) if each["adapter"] in same)
    return max([len(users), *counted])


def _short_of(judged: Judgement, rules: Hold, *, is_searched: bool) -> list[str]:
    """Return the names of the current trial rules that a trial result does not meet. If `is_searched` is False, the
    line's answers are not scanned for personal data, and the rule about personal data is skipped."""
    there = {"days": judged.days, "users": min(judged.users), "answers": min(judged.answers)}
    at_most = {each.measure: each.at_most for each in judged.bounds}
    short = [name for name, number in there.items() if number < getattr(rules, name)]
    not_compared = () if is_searched else ("personal_data",)
    for measure in sorted({*Hold.model_fields} - {*there, *not_compared}):
        most = at_most.get(measure)
        if most is None or most >= rules.margin_of(measure):
            short.append(measure)
    return short


def accept_hold(
    registry: Registry, workplace: Workplace, signer: Signer, adapter_id: str, reason: str, shown: str
) -> Held:
    """Record an officer's signed acceptance of an inconclusive trial result. A result can be accepted once.

    Args:
        shown: SHA-256 of the result that the officer was shown.

    Raises:
        SignInError: the trust root does not permit the officer to promote at the adapter's level.
        ConflictError: no result can be accepted, or there is a newer result than the one that was shown.
    """
    settings = workplace.settings
    trust, adapter = officers.trust_root(settings), find_adapter(registry, adapter_id)
    officer = officers.officer_of(trust, signer.keyid)
    officers.assert_may(officer, "promote", [adapter.classification])
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, settings, trust)
        held = hold_to_accept(session, settings, trust, adapter, in_production(session, adapter.line))
        if held.signed.sha256 != shown:
            raise ConflictError(f"{adapter.id}: its trial has a new result.", "Read the new result, then accept it.")
        said = {
            "line": adapter.line,
            "adapter": adapter.id,
            "judgement": held.signed.sha256,
            "outcome": held.signed.judgement.outcome,
            "reason": officers.on_one_line(reason),
            "at": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        subject = statements.Subject(JUDGEMENT_FILE, held.signed.sha256)
        bundle = statements.sign_statement(signer, statements.Statement((subject,), statements.HOLD_ACCEPTANCE, said))
        write_atomically(held.signed.acceptance, bundle)  # has no effect if the transaction fails
        held.signed.acceptance.chmod(0o644)
        signature = hashlib.sha256(bundle).hexdigest()
        append(
            session, officers.actor_of(officer.keyid), ACCEPTED, {**said, "statement": signature, **trust_named(trust)}
        )
    return Held(held.signed, officer.person, signature)


def hold_to_accept(session: Session, settings: Settings, trust: Trust, adapter: Adapter, incumbent: str | None) -> Held:
    """Return the trial's result if nobody has accepted it yet, and it is inconclusive or, without an adapter in
    production, `reported`. Raises ConflictError otherwise."""
    held = hold_of(session, settings, trust, adapter, incumbent)
    if held is None:
        raise ConflictError(f"{adapter.id}: no trial result is logged that could be accepted.", LOOK)
    if held.signed.judgement.outcome == "reported" and incumbent is not None:
        raise ConflictError(f"{adapter.id}: its trial is open.", LOOK)
    if held.signed.judgement.outcome == "promote":
        raise ConflictError(f"{adapter.id}: its trial allows the promotion, so there is nothing to accept.")
    if held.acceptance is not None:
        raise ConflictError(f"{adapter.id}: {held.accepted_by} has already accepted this result.")
    return held


def _accepted(session: Session, trust: Trust, adapter: Adapter, signed: Signed) -> Held:
    for entry in _entries(session, ACCEPTED, adapter.line):
        if entry.subjects["judgement"] != signed.sha256:
            continue
        bundle = read_bounded(signed.acceptance, statements.LARGEST_BUNDLE, LOOK)
        signature = hashlib.sha256(bundle).hexdigest()
        verified = officers.verify_act(
            bundle,
            trust,
            "promote",
            [adapter.classification],
            predicate_type=statements.HOLD_ACCEPTANCE,
            sha256=signed.sha256,
            at_index=entry.sequence - 1,
        )
        said = verified.statement.predicate
        if signature != entry.subjects["statement"] or officers.actor_of(verified.key.keyid) != entry.actor:
            raise _differs(str(signed.acceptance))
        if (said["adapter"], said["judgement"]) != (adapter.id, signed.sha256):
            raise _differs(str(signed.acceptance))
        return Held(signed, verified.key.person, signature)
    return Held(signed, None, None)


def _on_record(settings: Settings, trust: Trust, adapter: Adapter, entry: AuditEntry) -> Signed:
    told = entry.subjects
    files = judgement_files(settings, adapter.line, adapter.id, told["began"])
    path = next((each for each in files if each.name.startswith(f"{told['number']:04d}.")), None)
    if path is None:
        raise IntegrityError(
            f"Result {told['number']} of the trial of {adapter.id} is logged, but its file is missing.",
            "Restore the file from a backup of SOVEREIGN_HOME, or stage the adapter again.",
        )
    signed = read_judgement(path, trust, adapter.record_manifest_sha256, entry.sequence - 1)
    if signed.sha256 != told["statement"] or signed.judgement.outcome != told["outcome"]:
        raise _differs(str(path))
    return signed


def _staged_by(session: Session, adapter: Adapter) -> int | None:
    rows = transitions_of(session, adapter.line)
    staged = [row.sequence for row in rows if row.adapter_id == adapter.id and row.after == "staged"]
    return staged[-1] if staged else None


def taken_back(session: Session, adapter: Adapter) -> str | None:
    """Return the reason why the staged adapter was withdrawn from users, or None if it was not withdrawn."""
    newest = _newest_flag(session, adapter)
    return newest["stopped"] if newest is not None else None


def _newest_flag(session: Session, adapter: Adapter) -> dict[str, Any] | None:
    """Return the newest change of the line's flag for the adapter's latest staging, or None. Changes about other
    adapters are skipped. A change without effect (`OVERTAKEN`) is skipped unless it withdrew the adapter from users."""
    now = (adapter.id, _staged_by(session, adapter))
    found = (entry.subjects for entry in reversed(_entries(session, FLAG_CHANGED, adapter.line)))
    about = (dict(each) for each in found if (each["staged"], each["staged_by"]) == now)
    return next((each for each in about if each["stopped"] or OVERTAKEN not in each), None)


def _subjects(session: Session, action: str) -> list[dict[str, Any]]:
    return list(session.scalars(select(AuditEntry.subjects).where(AuditEntry.action == action)))


def _entries(session: Session, action: str, line: str) -> list[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.action == action, AuditEntry.subjects["line"].as_string() == line)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def _differs(what: str) -> IntegrityError:
    return IntegrityError(f"{what}: this file differs from its ledger entry.", "Find out who changed the file.")
