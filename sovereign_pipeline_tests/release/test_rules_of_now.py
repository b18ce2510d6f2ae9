"""Requests and decisions under another trust root or other rules than those of now."""

import datetime
import shutil
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import ConflictError, IntegrityError
from sovereign_pipeline.record.trust_changes import revoke
from sovereign_pipeline.release.requests import propose, request
from sovereign_pipeline_tests.release.conftest import Office

pytestmark = pytest.mark.slow


def test_rules_that_were_changed_since_the_request_was_shown_are_refused(office: Office) -> None:
    adapter, workplace = office.adapter(), office.bench.workplace()
    now = datetime.datetime.now(datetime.UTC)
    proposal = propose(office.registry, workplace, adapter.id, "approve", "It is needed.", now)
    assert set(proposal.predicate["policy"]) == {"institution.yaml", "lines/lamps.yaml"}
    office.bench.institution.rules["release"] = {"blind_review": "not_required", "request_days": 2}
    office.bench.institution.write()
    with pytest.raises(ConflictError, match="rules changed after the request was shown"):
        request(office.registry, workplace, office.officers["layla"], proposal)


@pytest.mark.security_case("The trust root from before a revocation is restored", "no request or decision is accepted")
def test_a_trust_root_that_was_put_back_is_refused(office: Office, tmp_path: Path) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    trust = office.bench.settings.data / "trust"
    shutil.copytree(trust, tmp_path / "older")
    revoke(trust, office.officers["omar"].keyid, 1, office.roots[:2])
    office.decide(asked, "ines")
    shutil.copytree(trust, tmp_path / "newest")
    shutil.copytree(tmp_path / "older", trust, dirs_exist_ok=True)
    older = "is older than root 1 and targets 5, under which entry [0-9]+"
    with pytest.raises(IntegrityError, match=older):
        office.decide(asked, "omar")
    with pytest.raises(IntegrityError, match=older):
        office.ask("retire", adapter, "omar")
    shutil.copytree(tmp_path / "newest", trust, dirs_exist_ok=True)
    assert office.states() == {adapter.id: "registered"}
