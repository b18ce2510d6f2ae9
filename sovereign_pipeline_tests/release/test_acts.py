"""Recalls, known issues and reviews count by an officer's signature alone, at each reading."""

import datetime
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError, IntegrityError, SignInError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.statements import KNOWN_ISSUE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter, KnownIssue, Recall, Table, row_as_dict
from sovereign_pipeline.record.trust_changes import add_officer, revoke
from sovereign_pipeline.release.acts import ADDED, add_issue, issues_by_adapter
from sovereign_pipeline.release.cadence import record_review, reviews_on_record
from sovereign_pipeline.release.recall import (
    OPENED,
    Question,
    ask,
    list_recalls,
    open_recall,
    open_recalls,
    waive_recall,
    waivers_of_recalls,
)
from sovereign_pipeline.release.requests import find_request
from sovereign_pipeline.release.standing import standing_of, standings
from sovereign_pipeline_tests.record.owner import change
from sovereign_pipeline_tests.release.conftest import Office

pytestmark = pytest.mark.slow

NOW = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)


@pytest.fixture
def adapter(office: Office) -> Adapter:
    return office.adapter()


def newcomer(office: Office, may: str, level: str = "*") -> FileSigner:
    key = generate()
    add_officer(
        office.bench.settings.data / "trust", key.public_pem, f"{may} {level}", [may], [level], office.roots[:2]
    )
    return key


def issues(office: Office) -> list[str]:
    with office.registry.reading() as session:
        return [each.text for each in issues_by_adapter(session, office.registry.settings).get("lamps-1.0.0", [])]


def put_in(office: Office, row: Table, action: str, actor: str, **subjects: Any) -> None:
    """What somebody does who can write to the database: a row, and an entry as this program makes it."""
    with office.registry.writing() as session:
        session.add(row)
        audit_log.append(session, actor, action, subjects)


NO_BUNDLE = b"I, the officer, did so."


def issue(officer: str, statement: bytes = NO_BUNDLE, number: int = 1) -> KnownIssue:
    return KnownIssue(
        adapter_id="lamps-1.0.0", number=number, text="Curt.", officer=officer, added_at=NOW, statement=statement
    )


NOT_SIGNED = {"at": NOW.isoformat(), "statement": hashlib.sha256(NO_BUNDLE).hexdigest()}


def test_each_act_takes_its_right_at_the_level_of_the_adapter(office: Office, adapter: Adapter) -> None:
    registry = office.registry
    answer = ask(registry, Question(source="letters"))
    acts: dict[str, Callable[[FileSigner], object]] = {
        "recall": lambda key: open_recall(registry, answer, key, "Withdrawn."),
        "waive": lambda key: waive_recall(registry, "recall-1", adapter.id, key, "Serves nobody."),
        "issue": lambda key: add_issue(registry, adapter.id, "Curt.", key),
        "review": lambda key: record_review(registry, adapter.id, "It stays.", key, NOW),
    }
    for may, act in acts.items():
        for key in (newcomer(office, may, "SECRET"), newcomer(office, f"not {may}")):
            with pytest.raises(SignInError, match=f"the permission '{may}' at PUBLIC"):
                act(key)
        with pytest.raises(IntegrityError, match="does not have the role officer"):
            act(generate())
        act(newcomer(office, may, "PUBLIC"))
    names = {str(key.person) for key in office.trust.keys("officer")}
    assert not [each for each in audit_log.entries(registry) if any(name in str(each.subjects) for name in names)]


@pytest.mark.security_case("Another program changes or removes a known issue", "rejected by name")
@pytest.mark.parametrize("statement", ["UPDATE known_issue SET text = 'Short.'", "DELETE FROM known_issue"])
def test_a_known_issue_is_changed_or_removed_by_nobody(office: Office, adapter: Adapter, statement: str) -> None:
    add_issue(office.registry, adapter.id, "Too long.", office.officers["layla"])
    assert issues(office) == ["Too long."]
    change(office.registry, statement)
    with pytest.raises(IntegrityError):
        issues(office)


def test_what_nobody_signed_counts_for_nothing_though_it_is_entered(office: Office, adapter: Adapter) -> None:
    said = {"adapter": adapter.id, "number": 1, "text": "Curt.", **NOT_SIGNED}
    put_in(office, issue("Somebody"), ADDED, "officer:Somebody", **said)
    with pytest.raises(IntegrityError, match=r"known issue 1 of lamps-1\.0\.0: This is not a sigstore bundle"):
        issues(office)
    recalled = {"recall": "recall-1", "source": "letters", "reason": "No.", **NOT_SIGNED}
    put_in(office, recall_of("Somebody"), OPENED, "officer:Somebody", **recalled)
    with pytest.raises(IntegrityError, match="recall-1"), office.registry.reading() as session:
        open_recalls(session, office.registry.settings, adapter.id)


def recall_of(officer: str) -> Recall:
    return Recall(id="recall-1", source="letters", reason="No.", officer=officer, opened_at=NOW, statement=NO_BUNDLE)


@pytest.mark.parametrize(
    ("signs", "says"),
    [
        ("promoter", "the permission 'issue' at PUBLIC"),
        ("stranger", "does not have the role officer"),
        ("other words", "differs from its signed statement"),
        ("other adapter", "not about"),
    ],
)
def test_a_signature_that_is_not_for_this_is_found_out(office: Office, adapter: Adapter, signs: str, says: str) -> None:
    """Row and entry are as they should be; the database's owner wrote both."""
    key = {"promoter": lambda: newcomer(office, "promote"), "stranger": generate}.get(
        signs, lambda: office.officers["layla"]
    )()
    said = {"adapter": adapter.id, "number": 1, "text": "Curt.", "at": NOW.isoformat()}
    signed = {**said, "text": "Long."} if signs == "other words" else said
    manifest = "0" * 64 if signs == "other adapter" else adapter.record_manifest_sha256
    statement = sign_statement(key, Statement((Subject("lamps-1.0.0/manifest.json", manifest),), KNOWN_ISSUE, signed))
    row = issue(key.keyid, statement)
    put_in(office, row, ADDED, f"officer:{key.keyid}", **said, statement=row_as_dict(row)["statement"])
    with pytest.raises(IntegrityError, match=says):
        issues(office)


@pytest.mark.security_case(
    "A statement is signed with a revoked key", "rejected from the ledger entry of the revocation on"
)
def test_an_act_counts_until_the_place_from_which_its_key_is_revoked(office: Office, adapter: Adapter) -> None:
    key = office.officers["layla"]
    add_issue(office.registry, adapter.id, "Too long.", key)
    newest = audit_log.entries(office.registry)[-1].sequence
    trust = office.bench.settings.data / "trust"
    revoke(trust, key.keyid, newest, office.roots[:2])
    assert issues(office) == ["Too long."]
    with pytest.raises(SignInError, match="is revoked"):
        add_issue(office.registry, adapter.id, "Curt.", key)
    add_issue(office.registry, adapter.id, "Curt.", office.officers["omar"])
    revoke(trust, office.officers["omar"].keyid, newest, office.roots[:2])
    assert issues(office) == ["Too long."]


@pytest.mark.security_case(
    "A thief of an officer's key enters acts, and the key is revoked from an earlier entry",
    "The acts do not count, everything else goes on, and `audit verify` names them",
)
def test_acts_of_a_thief_stop_nothing(office: Office, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, settings, thief = office.registry, office.bench.settings, office.officers["omar"]
    kept = open_recall(registry, ask(registry, Question(source="letters")), office.officers["layla"], "Withdrawn.")
    newest = audit_log.entries(registry)[-1].sequence
    waive_recall(registry, kept.id, adapter.id, thief, "Harmless.")
    stolen = open_recall(registry, ask(registry, Question(dataset=adapter.dataset_digest)), thief, "Anything.")
    add_issue(registry, adapter.id, "Anything.", thief)
    record_review(registry, adapter.id, "Anything.", thief, NOW)
    asked = office.ask("reject", adapter, "omar")
    with registry.reading() as session:
        assert [each.id for each in open_recalls(session, settings, adapter.id)] == [stolen.id]
    revoke(settings.data / "trust", thief.keyid, newest, office.roots[:2])
    with registry.reading() as session:
        assert [each.id for each in open_recalls(session, settings, adapter.id)] == [kept.id]
        assert [each.id for each, _ in list_recalls(session, settings)] == [kept.id]
        assert waivers_of_recalls(session, settings, adapter.id) == []
        assert reviews_on_record(session, settings) == []
        assert standings(session, settings, office.trust, "lamps") == []
        with pytest.raises(IntegrityError):
            standing_of(session, settings, office.trust, asked.request)
    assert issues(office) == []
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    verified = CliRunner().invoke(app, ["audit", "verify", "--json"])
    assert (verified.exit_code, json.loads(verified.stdout)["acts_of_revoked_keys"]) == (
        0,
        [*range(newest + 1, newest + 6)],
    )


@pytest.mark.parametrize("digits", ["", "a", "abc", "ABCD", "%%%%", "xyz1", "a" * 65])
def test_a_request_is_named_by_four_digits_or_more(office: Office, digits: str) -> None:
    with office.registry.reading() as session, pytest.raises(InputError, match="is not the id of a request"):
        find_request(session, digits)
