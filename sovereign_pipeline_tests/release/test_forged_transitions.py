"""Whoever has the pipeline's key, the ledger's and the database, and no officer's key, moves no adapter."""

import datetime

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import officers
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.catalog import STATE_CHANGED, State, facts_of
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.statements import TRANSITION, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter, Transition
from sovereign_pipeline.record.trust_changes import add_officer
from sovereign_pipeline.release.standing import Standing, assert_signed
from sovereign_pipeline_tests.release.conftest import Office

pytestmark = pytest.mark.slow


def forge(
    office: Office, adapter: Adapter, name: str, before: State, after: State, standing: Standing, number: int
) -> None:
    """A transition as the pipeline would sign and enter it, on the strength of any request."""
    at = datetime.datetime.now(datetime.UTC)
    with office.registry.writing() as session:
        approvals = [*standing.approval_statements]
        content = {
            "line": adapter.line,
            "sequence": number,
            "adapter": adapter.id,
            "transition": name,
            "from": before,
            "to": after,
            "request": standing.request.id,
            "approvals": approvals + approvals,
            "replaces": None,
            "at": at.isoformat(),
        }
        subject = Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256)
        made = Transition(
            line=adapter.line,
            sequence=number,
            adapter_id=adapter.id,
            transition=name,
            before=before,
            after=after,
            request_id=standing.request.id,
            made_at=at,
            statement=sign_statement(office.pipeline, Statement((subject,), TRANSITION, content)),
        )
        session.add(made)
        session.flush()
        append(session, f"pipeline:{office.pipeline.keyid}", STATE_CHANGED, facts_of(made))


def assert_refused(office: Office, why: str) -> None:
    with office.registry.reading() as session, pytest.raises(IntegrityError, match=why):
        assert_signed(session, office.registry.settings, office.trust, "lamps")


@pytest.mark.security_case(
    "The pipeline's key signs a promotion that cites the approved request for staging",
    "nothing of that line is accepted or served",
)
def test_a_request_makes_no_other_transition_than_the_one_it_asks_for(office: Office) -> None:
    adapter = office.adapter("approve")
    staging = office.ask("stage", adapter)
    staging = office.decide(staging, "omar")
    with office.registry.reading() as session:
        assert len(assert_signed(session, office.registry.settings, office.trust, "lamps")) == 2
    forge(office, adapter, "promote", "staged", "production", staging, 3)
    assert_refused(office, "it differs from request")


def test_a_request_of_one_adapter_moves_no_other(office: Office) -> None:
    old, adapter = office.adapter(), office.adapter()
    asked = office.ask("approve", old)
    for officer in ("omar", "ines"):
        asked = office.decide(asked, officer)
    forge(office, adapter, "approve", "registered", "approved", asked, 2)
    assert_refused(office, "it differs from request")


def test_an_approval_counts_once(office: Office) -> None:
    adapter = office.adapter()
    asked = office.decide(office.ask("approve", adapter), "omar")
    forge(office, adapter, "approve", "registered", "approved", asked, 1)
    assert_refused(office, "its approvals are not logged")


@pytest.mark.security_case(
    "An officer who may only add known issues requests a transition, and the pipeline's key makes it",
    "nothing of that line is accepted or served",
)
def test_rights_of_officers_are_asserted_at_each_reading(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = generate()
    add_officer(
        office.bench.settings.data / "trust", narrow.public_pem, "Nadia Saleh", ["issue"], ["*"], office.roots[:2]
    )
    office.officers = {**office.officers, "nadia": narrow}
    adapter = office.adapter()
    monkeypatch.setattr(officers, "assert_may", lambda *_: None)
    office.ask("reject", adapter, "nadia")
    assert_refused(office, "its approvals are not logged")
