"""What counts by the trust root, whoever put it on record: the pipeline's key and the log's enter anything."""

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import officers
from sovereign_pipeline.record.audit_log import append, entries
from sovereign_pipeline.record.catalog import REQUESTED, STATE_CHANGED, facts_of, lines_in
from sovereign_pipeline.record.gates import propose_waiver, waive
from sovereign_pipeline.record.in_force import INSTITUTION, rule_file, rules
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.officers import actor_of
from sovereign_pipeline.record.statements import (
    APPROVAL,
    REQUEST,
    TRANSITION,
    Statement,
    Subject,
    sign_statement,
)
from sovereign_pipeline.record.tables import Adapter, ReleaseDecision, ReleaseRequest, Transition
from sovereign_pipeline.record.trust_changes import add_officer, revoke
from sovereign_pipeline.release.standing import (
    DECIDED,
    Decision,
    Standing,
    assert_signed,
    standing_of,
)
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.registry.bench import small_bench
from sovereign_pipeline_tests.registry.test_waivers import Demanding
from sovereign_pipeline_tests.release.conftest import Office, open_office

NOW = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def clerk(office: Office) -> FileSigner:
    """An officer who may stage what is public, and nothing else."""
    key = generate()
    add_officer(
        office.bench.settings.data / "trust", key.public_pem, "Dana Aziz", ["stage"], ["PUBLIC"], office.roots[:2]
    )
    return key


def enter_decision(office: Office, standing: Standing, decision: Decision, key: FileSigner) -> None:
    """What this program refuses to enter."""
    row = standing.request
    content = {"decision": decision, "request": row.id, "adapter": row.adapter_id, "reason": ""}
    bundle = sign_statement(key, Statement((Subject("request.sigstore.json", row.id),), APPROVAL, content))
    with office.registry.writing() as session:
        session.add(
            ReleaseDecision(request_id=row.id, keyid=key.keyid, decision=decision, entered_at=NOW, statement=bundle)
        )
        subjects = {"line": row.line, "request": row.id, "statement": hashlib.sha256(bundle).hexdigest()}
        append(session, actor_of(key.keyid), DECIDED[decision], subjects)


def enter_request(office: Office, adapter: Adapter, key: FileSigner, content: Mapping[str, Any]) -> str:
    subject = Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256)
    bundle = sign_statement(key, Statement((subject,), REQUEST, content))
    request = hashlib.sha256(bundle).hexdigest()
    with office.registry.writing() as session:
        session.add(
            ReleaseRequest(
                id=request,
                line=adapter.line,
                adapter_id=adapter.id,
                transition=content["transition"],
                entered_at=NOW,
                statement=bundle,
            )
        )
        append(session, actor_of(key.keyid), REQUESTED, {"line": adapter.line, "request": request})
    return request


def enter_transition(office: Office, adapter: Adapter, request: str, sequence: int = 1, **said: Any) -> None:
    """Signed with the pipeline's key; an approval, if it is not said otherwise."""
    content = {
        "line": adapter.line,
        "sequence": sequence,
        "adapter": adapter.id,
        "transition": "approve",
        "from": "registered",
        "to": "approved",
        "request": request,
        "approvals": [],
        **said,
    }
    subject = Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256)
    row = Transition(
        line=adapter.line,
        sequence=content["sequence"],
        adapter_id=adapter.id,
        transition=content["transition"],
        before=content["from"],
        after=content["to"],
        request_id=content["request"],
        made_at=NOW,
        statement=sign_statement(office.pipeline, Statement((subject,), TRANSITION, content)),
    )
    with office.registry.writing() as session:
        session.add(row)
        session.flush()
        append(session, f"pipeline:{office.pipeline.keyid}", STATE_CHANGED, facts_of(row))


def assert_refused(office: Office, why: str, line: str = "lamps") -> None:
    with office.registry.reading() as session, pytest.raises(IntegrityError, match=why):
        assert_signed(session, office.registry.settings, office.trust, line)


def standing_now(office: Office, standing: Standing) -> Standing:
    with office.registry.reading() as session:
        return standing_of(session, office.registry.settings, office.trust, standing.request)


def test_an_approval_of_an_officer_without_the_right_counts_for_nothing(office: Office, clerk: FileSigner) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    enter_decision(office, asked, "approve", clerk)
    assert standing_now(office, asked).approvals == ()
    standing = office.decide(asked, "omar")
    assert [each.person for each in standing.approvals] == ["Omar Nasser"]
    assert office.states() == {adapter.id: "registered"}
    office.decide(asked, "ines")
    assert office.states() == {adapter.id: "approved"}


def test_a_transition_that_such_an_approval_completed_is_refused(office: Office, clerk: FileSigner) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    office.decide(asked, "omar")
    enter_decision(office, asked, "approve", clerk)
    with office.registry.reading() as session:
        rows = session.query(ReleaseDecision).all()
    approvals = sorted(hashlib.sha256(row.statement).hexdigest() for row in rows)
    enter_transition(office, adapter, asked.request.id, approvals=approvals)
    assert_refused(office, "its approvals are not logged")


@pytest.mark.security_case(
    "An officer signs a request with zero approvals, and the pipeline's key makes its transition",
    "nothing of that line is accepted: the logged rules decide how many officers approve",
)
def test_a_request_lowers_no_number_of_approvals(office: Office) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    request = enter_request(office, adapter, office.officers["layla"], {**asked.predicate, "approvals": 0})
    with office.registry.reading() as session:
        row = session.get_one(ReleaseRequest, request)
        forged = standing_of(session, office.registry.settings, office.trust, row)
    assert (forged.needed, forged.is_complete) == (2, False)
    enter_transition(office, adapter, request)
    assert_refused(office, "its approvals are not logged")


def test_rules_that_change_later_change_nothing_that_was_done(office: Office) -> None:
    office.adapter("approve")
    office.bench.institution.rules["release"] = {"blind_review": "not_required", "approvals": {"approve": 3}}
    office.bench.institution.write()
    later = office.adapter()
    assert office.ask("approve", later).needed == 3
    with office.registry.reading() as session:
        rows = assert_signed(session, office.registry.settings, office.trust, "lamps")
    assert [row.transition for row in rows] == ["approve"]


@pytest.mark.security_case(
    "The stored copy of the institution's rules is changed, so that fewer officers would be enough",
    "requests of every line are rejected, and the copy is named",
)
def test_a_copy_of_the_rules_that_was_changed_is_named(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    with office.registry.reading() as session:
        (rule,) = (each for each in rules(session) if each.file == INSTITUTION)
    copy = rule_file(office.registry.settings, str(rule.sha256))
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(IntegrityError, match=f"{rule.sha256}.yaml: this copy of institution.yaml"):
        standing_now(office, asked)


@pytest.mark.security_case(
    "The pipeline's key signs a promotion that cites the approved request for staging",
    "nothing of that line is accepted or served",
)
def test_a_request_makes_no_other_transition_than_the_one_it_asks_for(office: Office) -> None:
    adapter = office.adapter("approve")
    staging = office.decide(office.ask("stage", adapter), "omar")
    with office.registry.reading() as session:
        assert len(assert_signed(session, office.registry.settings, office.trust, "lamps")) == 2
    promotion: dict[str, Any] = {"transition": "promote", "from": "staged", "to": "production"}
    enter_transition(
        office, adapter, staging.request.id, 3, approvals=list(staging.approval_statements) * 2, **promotion
    )
    assert_refused(office, "this transition differs from request")


def test_an_approval_counts_once(office: Office) -> None:
    adapter = office.adapter()
    asked = office.decide(office.ask("approve", adapter), "omar")
    enter_transition(office, adapter, asked.request.id, approvals=list(asked.approval_statements) * 2)
    assert_refused(office, "its approvals are not logged")


@pytest.mark.security_case(
    "An officer who may only stage adapters requests a transition, and the pipeline's key makes it",
    "nothing of that line is accepted or served",
)
def test_rights_of_officers_are_asserted_at_each_reading(
    office: Office, clerk: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.officers = {**office.officers, "dana": clerk}
    adapter = office.adapter()
    monkeypatch.setattr(officers, "assert_may", lambda *_: None)
    office.ask("reject", adapter, "dana")
    assert_refused(office, "its approvals are not logged")


def waiving_office(institution: DemoInstitution) -> Office:
    """An office whose recipe lets officers waive the gate of the report, which is inconclusive."""
    small_bench(institution)
    demanding = Demanding(institution)
    demanding.demand("inconclusive")
    demanding.may("accept_inconclusive")
    return open_office(institution, demanding)


def waived(office: Office) -> tuple[Adapter, FileSigner]:
    """A registered adapter, and the key that waived its gate."""
    bench, key = office.bench, generate()
    add_officer(bench.settings.data / "trust", key.public_pem, "Dana Aziz", ["waive"], ["*"], office.roots[:2])
    (report,) = (stage for stage in bench.chain if stage.kind == "evaluation_report")
    ref = bench.run(until=report)
    waive(propose_waiver(report, report.gates[0], bench.workplace(), ref, "It will do."), key)
    return bench.register(), key


def revoke_before_its_act(office: Office, key: FileSigner) -> None:
    (entry,) = (each for each in entries(office.registry) if each.actor == actor_of(key.keyid))
    revoke(office.bench.settings.data / "trust", key.keyid, entry.sequence - 1, office.roots[:2])


@pytest.mark.security_case(
    "A stolen officer's key waives a gate, and is revoked before the last approval of the adapter",
    "the approval is rejected; the adapter can still be retired",
)
def test_a_waiver_of_a_revoked_key_lets_no_adapter_move_on(institution: DemoInstitution) -> None:
    office = waiving_office(institution)
    adapter, stolen = waived(office)
    asked = office.decide(office.ask("approve", adapter), "omar")
    revoke_before_its_act(office, stolen)
    with pytest.raises(IntegrityError, match="is revoked from index"):
        office.decide(asked, "ines")
    assert office.states() == {adapter.id: "registered"}
    office.move("retire", adapter)
    assert office.states() == {adapter.id: "retired"}


def test_a_forged_transition_blocks_its_own_line_and_no_other(office: Office) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    columns = "sequence, adapter_id, transition, before, after, request_id, made_at, statement"
    forged = "1, :adapter, 'approve', 'registered', 'production', :request, '2027-01-01 00:00:00', :statement"
    inserted = text(f"INSERT INTO transition (line, {columns}) VALUES ('ropes', {forged})")
    values = {"adapter": adapter.id, "request": asked.request.id, "statement": b"{}"}
    forge(office.registry, lambda session: session.execute(inserted, values))
    office.decide(asked, "omar")
    office.decide(asked, "ines")
    assert office.states() == {adapter.id: "approved"}
    with office.registry.reading() as session:
        assert lines_in(session, {"approved"}) == ["lamps", "ropes"]
    assert_refused(office, "ropes", "ropes")
