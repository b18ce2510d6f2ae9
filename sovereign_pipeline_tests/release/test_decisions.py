"""From a request to a transition: who must agree, what is asserted again, and what is refused."""

import datetime
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Self

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    RecipeError,
    SignInError,
)
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.audit_log import SEALED, entries
from sovereign_pipeline.record.catalog import in_production, incumbent_of
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.trust_changes import add_officer, revoke
from sovereign_pipeline.release.recall import Question, answering_at, waive_recall
from sovereign_pipeline.release.requests import decide, propose, request
from sovereign_pipeline.release.standing import Standing, assert_signed, standings
from sovereign_pipeline.training.continuation import parent_digests
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.release.conftest import TO_PRODUCTION, Office
from sovereign_pipeline_tests.release.test_rights import enter_decision

pytestmark = pytest.mark.slow


def test_two_other_officers_approve_and_the_second_makes_the_transition(office: Office) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    assert (asked.ended, asked.approvals, office.states()) == (None, (), {adapter.id: "registered"})
    once = office.decide(asked, "omar")
    assert [each.person for each in once.approvals] == ["Omar Nasser"]
    assert office.states() == {adapter.id: "registered"}
    twice = office.decide(asked, "ines")
    assert "the transition was made" in str(twice.ended)
    assert office.states() == {adapter.id: "approved"}
    log = entries(office.registry)
    assert [each.action for each in log if each.action != SEALED] == [
        "trust root named",
        "policy changed",
        "policy changed",
        "adapter registered",
        "release requested",
        "release approved",
        "release approved",
        "pipeline key changed",
        "state changed",
    ]
    assert not any(person in str(each.subjects) + each.actor for each in log for person in ("Omar", "Nasser", "Layla"))


def test_nobody_approves_what_they_asked_for_or_approves_twice(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    with pytest.raises(SignInError, match=r"Layla Haddad made request .* nobody may approve their own request"):
        office.decide(asked, "layla")
    office.decide(asked, "omar")
    with pytest.raises(ConflictError, match=r"Omar Nasser has already approved request"):
        office.decide(asked, "omar")


def test_what_a_requester_approved_past_this_program_does_not_count(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    enter_decision(office, asked, "approve", office.officers["layla"])
    once = office.decide(asked, "omar")
    assert ([each.person for each in once.approvals], once.ended) == (["Omar Nasser"], None)


def test_a_second_key_of_one_person_is_no_second_officer(office: Office) -> None:
    other = generate()
    add_officer(office.bench.settings.data / "trust", other.public_pem, "Omar Nasser", ["*"], ["*"], office.roots[:2])
    office.officers = {**office.officers, "omar's other key": other}
    asked = office.ask("approve", office.adapter())
    office.decide(asked, "omar")
    with pytest.raises(ConflictError, match="Omar Nasser has already approved request"):
        office.decide(asked, "omar's other key")


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda office, asked: office.decide(asked, "ines", "reject"), "Ines Farah rejected it"),
        (lambda office, asked: office.decide(asked, "layla", "withdraw"), "Layla Haddad withdrew it"),
    ],
)
def test_a_request_ends(office: Office, act: Callable[[Office, Standing], Standing], expected: str) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    assert act(office, asked).ended == expected
    with pytest.raises(ConflictError, match=expected):
        office.decide(asked, "omar")
    assert office.states() == {adapter.id: "registered"}


@pytest.mark.parametrize("hidden", ["\x1b[2A", "\x9b2K", "\u202e", "\u2066"])
def test_a_reason_cannot_rewrite_what_is_shown_before_a_key_signs(office: Office, hidden: str) -> None:
    with pytest.raises(InputError, match="contains an invisible character"):
        office.ask("retire", office.adapter(), reason=f"Needed.{hidden} Not.")


def test_a_withdrawn_approval_does_not_count_and_is_not_given_again(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    office.decide(asked, "omar")
    assert office.decide(asked, "omar", "withdraw").approvals == ()
    with pytest.raises(ConflictError, match="Omar Nasser has withdrawn their approval"):
        office.decide(asked, "omar")
    assert office.decide(asked, "ines").ended is None


@pytest.mark.security_case(
    "the rules become stricter while a request is open", "the request is rejected and must be made again"
)
def test_a_request_under_laxer_rules_changes_nothing(office: Office) -> None:
    office.bench.institution.rules["release"] = {"blind_review": "not_required", "approvals": {"approve": 1}}
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    office.bench.institution.rules["release"] = {"blind_review": "not_required", "approvals": {"approve": 2}}
    with pytest.raises(ConflictError, match="was made for 1 approvals"):
        office.decide(asked, "omar")
    assert office.states() == {adapter.id: "registered"}


@pytest.mark.security_case(
    "the pipeline's key is revoked", "it makes no transition, and the line's history stays valid"
)
def test_a_revoked_pipeline_key_makes_no_transition(office: Office) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    office.decide(asked, "omar")
    revoke(office.bench.settings.data / "trust", office.pipeline.keyid, 99, office.roots[:2])
    with pytest.raises(SignInError, match="this pipeline key is revoked"):
        office.decide(asked, "ines")
    assert office.states() == {adapter.id: "registered"}


def test_a_request_expires(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=14)
    with pytest.raises(ConflictError, match="it expired on"):
        decide(
            office.registry, office.bench.workplace(), asked.request.id, "approve", office.officers["omar"], now=later
        )


def test_a_promotion_supersedes_what_was_in_production(office: Office) -> None:
    first = office.adapter(*TO_PRODUCTION)
    second = office.adapter(*TO_PRODUCTION)
    assert office.states() == {first.id: "superseded", second.id: "production"}
    office.move("roll_back", first)
    assert office.states() == {first.id: "production", second.id: "superseded"}
    with office.registry.reading() as session:
        rows = assert_signed(session, office.registry.settings, office.trust, "lamps")
    assert [each.transition for each in rows][-2:] == ["supersede", "roll_back"]


def test_what_was_in_production_at_a_moment(office: Office) -> None:
    first = office.adapter()
    before = datetime.datetime.now(datetime.UTC)
    office.to_production(first)
    during = datetime.datetime.now(datetime.UTC)
    second = office.adapter(*TO_PRODUCTION)
    with office.registry.reading() as session:
        asked = [in_production(session, "lamps", at) for at in (before, during, None)]
    assert asked == [None, first.id, second.id]


@pytest.mark.parametrize("hours", [-3, 9_000])
def test_what_answered_follows_the_log_where_the_clock_was_wrong(
    office: Office, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    first, second = office.adapter(), office.adapter()
    office.to_production(first)
    before = datetime.datetime.now(datetime.UTC)
    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "datetime", _clock_moved_by(hours))
        office.to_production(second)
    opened = recall(office.registry, Question(source="letters"), office.officers["omar"])
    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "datetime", _clock_moved_by(hours))
        waive_recall(office.registry, opened.id, second.id, office.officers["ines"], "Nothing of it is left.")
    now = datetime.datetime.now(datetime.UTC)
    with office.registry.reading() as session:
        for at in (now, None) if hours < 0 else (None,):  # when an act of the future was made, nobody knows yet
            found = answering_at(session, office.bench.settings, "lamps", at)
            assert found is not None and found.adapters == [second.id]
        if hours > 0:
            then = answering_at(session, office.bench.settings, "lamps", before)
            assert then is not None and then.production == first.id


def _clock_moved_by(hours: int) -> SimpleNamespace:
    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return super().now(tz) + datetime.timedelta(hours=hours)

    return SimpleNamespace(datetime=Moved, UTC=datetime.UTC, timedelta=datetime.timedelta)


def test_of_racing_approvals_one_makes_the_transition(office: Office, database: str) -> None:
    adapters = [office.adapter() for _ in range(2)]
    for adapter in adapters:
        office.move("approve", adapter)
        office.move("stage", adapter)
    asked = [office.ask("promote", adapter) for adapter in adapters]
    for each in asked:
        office.decide(each, "omar")
    refused: list[Exception] = []

    workplace = office.bench.workplace()

    def approve(standing: Standing) -> None:
        try:
            decide(office.registry, workplace, standing.request.id, "approve", office.officers["ines"])
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=approve, args=(each,)) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert sorted(office.states().values()) == ["production", "staged"]


@pytest.mark.parametrize("transition", ["retire", "reject", "recall"])
def test_what_takes_an_adapter_back_needs_one_officer(office: Office, transition: str) -> None:
    adapter = office.adapter()
    assert "was made" in str(office.ask(transition, adapter).ended)
    assert office.states()[adapter.id] == {"retire": "retired", "reject": "rejected", "recall": "recalled"}[transition]


def test_a_request_that_needs_nobody_is_on_record_with_its_transition_or_not_at_all(office: Office) -> None:
    adapter = office.adapter()
    workplace = office.bench.institution.workplace_as_written()
    proposal = propose(
        office.registry, workplace, adapter.id, "retire", "It is old.", datetime.datetime.now(datetime.UTC)
    )
    (office.bench.settings.keys / "pipeline.key").unlink()
    with pytest.raises(NotFoundError, match=r"pipeline\.key: the pipeline's key is missing"):
        request(office.registry, workplace, office.officers["layla"], proposal)
    with office.registry.reading() as session:
        assert standings(session, office.registry.settings, office.trust, "lamps") == []


def test_a_retired_adapter_stays_retired(office: Office) -> None:
    adapter = office.adapter("retire")
    with pytest.raises(ConflictError, match="is retired") as refused:
        office.ask("approve", adapter)
    assert refused.value.hint == "From retired, no transition is allowed."


def test_a_wrong_name_and_an_empty_reason_are_refused(office: Office) -> None:
    adapter = office.adapter()
    with pytest.raises(InputError, match="no transition 'promot'") as refused:
        office.ask("promot", adapter)
    assert "promote" in refused.value.hint
    with pytest.raises(InputError, match="needs a reason"):
        office.ask("approve", adapter, reason=" ")
    with pytest.raises(NotFoundError, match="no request"):
        decide(office.registry, office.bench.workplace(), "ffff", "approve", office.officers["omar"])


def test_an_officer_decides_only_about_what_the_trust_root_names(office: Office) -> None:
    clerk = generate()
    trust = office.bench.settings.data / "trust"
    add_officer(trust, clerk.public_pem, "Dana Aziz", ["stage"], ["PUBLIC"], office.roots[:2])
    office.officers = {**office.officers, "dana": clerk}
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    with pytest.raises(SignInError, match="does not give Dana Aziz the permission 'approve'"):
        office.decide(asked, "dana")
    with pytest.raises(SignInError, match="does not give Dana Aziz the permission 'retire'"):
        office.ask("retire", adapter, "dana")


def test_a_stranger_and_a_revoked_key_are_refused(office: Office) -> None:
    office.officers = {**office.officers, "nobody": generate()}
    asked = office.ask("approve", office.adapter())
    with pytest.raises(IntegrityError, match="does not have the role officer"):
        office.decide(asked, "nobody")
    revoke(office.bench.settings.data / "trust", office.officers["omar"].keyid, 99, office.roots[:2])
    with pytest.raises(SignInError, match="The key of Omar Nasser is revoked"):
        office.decide(asked, "omar")
    office.decide(asked, "ines")


def test_revoking_from_an_earlier_entry_takes_the_approval_back(office: Office) -> None:
    asked = office.ask("approve", office.adapter())
    office.decide(asked, "omar")
    revoke(office.bench.settings.data / "trust", office.officers["omar"].keyid, 2, office.roots[:2])
    with office.registry.reading() as session:
        (found,) = standings(session, office.registry.settings, office.trust, "lamps")
    assert (found.approvals, found.ended) == ((), None)


def test_a_transition_does_not_outlive_an_approval_that_it_rested_on(office: Office) -> None:
    office.move("approve", office.adapter())
    revoke(office.bench.settings.data / "trust", office.officers["omar"].keyid, 2, office.roots[:2])
    with pytest.raises(IntegrityError), office.registry.reading() as session:
        assert_signed(session, office.registry.settings, office.trust, "lamps")


def test_an_approval_that_was_copied_to_another_request_is_refused(office: Office) -> None:
    first, second = office.adapter(), office.adapter()
    of_first, of_second = office.ask("approve", first), office.ask("approve", second)
    office.decide(of_first, "omar")
    copied = text(
        f"INSERT INTO release_decision SELECT '{of_second.request.id}', keyid, decision, entered_at, statement "
        f"FROM release_decision"
    )
    forge(office.registry, lambda session: session.execute(copied))
    with pytest.raises(IntegrityError):
        office.decide(of_second, "ines")


@pytest.mark.security_case(
    "The rules become stricter while the last officer is asked to confirm",
    "the approval is rejected, and the new rules apply to the next one",
)
def test_rules_that_change_while_an_officer_is_asked_apply(office: Office) -> None:
    adapter = office.adapter("approve", "stage")
    asked = office.decide(office.ask("promote", adapter), "omar")
    workplace = office.bench.workplace()
    office.bench.institution.rules["release"] |= {"staged_hours": 48}
    office.bench.institution.write()
    with pytest.raises(ConflictError, match="rules changed after the request was shown"):
        decide(office.registry, workplace, asked.request.id, "approve", office.officers["ines"])
    with pytest.raises(ConflictError, match="must stay staged for 48 hours"):
        office.decide(asked, "ines")
    assert office.states() == {adapter.id: "staged"}


def test_a_changed_byte_stops_a_request_and_the_last_approval(office: Office) -> None:
    adapter = office.adapter()
    asked = office.ask("approve", adapter)
    office.decide(asked, "omar")
    weights = office.bench.artifact("sft_adapter").file("adapter/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="adapter_model"):
        office.decide(asked, "ines")
    with pytest.raises(IntegrityError, match="adapter_model"):
        office.ask("approve", adapter)
    assert office.states() == {adapter.id: "registered"}


def test_the_incumbent_is_what_is_in_production_else_the_last_that_may_be_used(office: Office) -> None:
    first, second, third = (office.adapter() for _ in range(3))

    def incumbent(weights: str | None = None) -> str | None:
        adapter = incumbent_of(office.registry, "lamps", weights, ())
        return adapter.id if adapter is not None else None

    assert incumbent() == third.id
    office.move("retire", third)
    assert incumbent() == second.id
    office.to_production(first)
    assert incumbent() == first.id
    office.move("recall", second)
    # Earlier adapters count in the state that they had when a candidate was registered: its scores stay as they are.
    assert incumbent(third.adapter_sha256) == second.id
    assert incumbent(second.adapter_sha256) == first.id


def test_nothing_is_continued_from_a_retired_adapter(office: Office) -> None:
    adapter = office.adapter()
    office.bench.recipe["training"]["start_from"] = adapter.id
    parent_digests(office.bench.workplace())
    office.move("retire", adapter)
    with pytest.raises(RecipeError, match=f"{adapter.id} is retired, so training cannot continue from it"):
        parent_digests(office.bench.workplace())
