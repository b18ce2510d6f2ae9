"""Going back without the registry, and how the ledger follows."""

import datetime
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Self

import pytest

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.keys import generate, write_key
from sovereign_pipeline.record.officers import PIPELINE_KEY_FILE
from sovereign_pipeline.record.statements import REQUEST, Statement, Subject, sign_statement
from sovereign_pipeline.record.trust_changes import add_officer, revoke, rotate_key
from sovereign_pipeline.release.recall import Question, waive_recall
from sovereign_pipeline.release.standing import history_of
from sovereign_pipeline.serving.rollout import rollback as module
from sovereign_pipeline.serving.rollout.flag import REQUEST_FILE, current_flag, root_of, sequences, write_change
from sovereign_pipeline.serving.rollout.rollback import rollback, stop
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import Desk, adapter_of


@pytest.fixture
def desk(desk_of_two: Desk) -> Desk:
    return desk_of_two


def test_the_ledger_follows_a_rollback_that_was_made_without_it(desk: Desk) -> None:
    (first, second), gateway = desk.adapters, desk.gateway()
    assert adapter_of(gateway) == second.id
    assert desk.office.states() == {first.id: "superseded", second.id: "production"}
    rollback(desk.settings, LINE, first.id, desk.office.officers["omar"], "It answers in verse.")
    assert desk.office.states()[second.id] == "production", "the registry was not asked"
    assert adapter_of(gateway) == first.id
    flag = desk.follow()
    assert desk.office.states() == {first.id: "production", second.id: "superseded"}
    assert flag.production == first.id
    with desk.office.registry.reading() as session:
        last = history_of(session, desk.office.registry.settings, desk.office.trust, LINE)[-1]
    assert (last["transition"], last["requested_by"], last["reason"]) == (
        "roll_back",
        "Omar Nasser",
        "It answers in verse.",
    )
    told = desk.told()
    assert [each["change"] for each in told] == sequences(desk.settings, LINE)
    assert [each["cause"] for each in told][-2:] == ["rollback", "transition"]
    rollback(desk.settings, LINE, None, desk.office.officers["ines"], "It was right after all.")
    assert desk.follow().production == second.id


def test_a_rollback_by_a_clock_that_is_ahead_counts_at_once_and_is_logged_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = desk.adapters
    before = len(desk.told())
    with monkeypatch.context() as patch:
        patch.setattr(module, "datetime", SimpleNamespace(**{**vars(datetime), "datetime": Ahead}))
        rollback(desk.settings, LINE, None, desk.office.officers["omar"], "It answers in verse.")
    assert adapter_of(desk.gateway()) == first.id
    with pytest.raises(ConflictError):
        desk.follow()
    assert (len(desk.told()), desk.office.states()[second.id]) == (before, "production")
    monkeypatch.setattr(audit_log, "datetime", SimpleNamespace(**{**vars(datetime), "datetime": Ahead}))
    assert desk.follow().production == first.id
    assert desk.office.states() == {first.id: "production", second.id: "superseded"}


class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return super().now(tz) + datetime.timedelta(hours=3)


def test_a_staged_adapter_is_taken_back_first_and_a_rollback_of_production_stops_it(desk: Desk) -> None:
    (first, second), third, omar = desk.adapters, desk.staged(), desk.office.officers["omar"]
    assert rollback(desk.settings, LINE, None, omar, "No.").production == second.id
    desk.follow()
    assert desk.office.states() == {first.id: "superseded", second.id: "production", third.id: "approved"}
    desk.office.move("stage", third)
    assert desk.follow().is_rolling_out
    stopped = rollback(desk.settings, LINE, first.id, omar, "No.")
    with pytest.raises(NotFoundError):
        rollback(desk.settings, LINE, first.id, omar, "No.")
    for flag in (stopped, desk.follow()):
        assert not flag.is_rolling_out
    assert desk.office.states() == {first.id: "production", second.id: "superseded", third.id: "staged"}


def test_back_to_an_adapter_that_was_recalled_meanwhile(desk: Desk) -> None:
    """The flag does not know of the recall yet. The line goes on with what the registry lets answer."""
    first, second = desk.adapters
    registry, omar = desk.office.registry, desk.office.officers["omar"]
    recall(registry, Question(source="letters"), omar)
    waive_recall(registry, "recall-1", second.id, omar, "It was checked.")
    rollback(desk.settings, LINE, first.id, omar, "No.")
    assert desk.follow().production == second.id
    assert "overtaken" in desk.told()[-2]
    assert desk.office.states() == {first.id: "superseded", second.id: "production"}


def rotate_pipeline_key(desk: Desk) -> None:
    """From the current entry on; the new key is installed."""
    replacement, trust = generate(), desk.settings.data / "trust"
    size = len(entries(desk.office.registry))
    rotate_key(trust, "pipeline", replacement.public_pem, size, desk.office.roots[:2])
    for path in desk.settings.keys.glob(f"{PIPELINE_KEY_FILE}*"):
        path.unlink()
    write_key(desk.settings.keys / PIPELINE_KEY_FILE, replacement, None)


def revoke_officer(desk: Desk) -> None:
    trust, size = desk.settings.data / "trust", len(entries(desk.office.registry))
    revoke(trust, desk.office.officers["omar"].keyid, size, desk.office.roots[:2])


def need_approvals(desk: Desk) -> None:
    desk.office.bench.institution.rules["release"]["approvals"] = {"roll_back": 1}


@pytest.mark.security_case(
    "An officer rolls back while the registry is down, and then the officer's or the pipeline's key is revoked, or the "
    "rules require approvals",
    "the rollback does not count; the line goes on with the ledger's adapter, and can be decided about",
)
@pytest.mark.parametrize("change", [revoke_officer, rotate_pipeline_key, need_approvals])
def test_a_rollback_that_counts_no_more_leaves_the_line_as_the_ledger_has_it(
    desk: Desk, change: Callable[[Desk], None]
) -> None:
    first, second = desk.adapters
    rollback(desk.settings, LINE, first.id, desk.office.officers["omar"], "It answers in verse.")
    assert adapter_of(desk.gateway()) == first.id
    change(desk)
    assert desk.follow().production == second.id
    assert desk.office.states() == {first.id: "superseded", second.id: "production"}
    assert "overtaken" in desk.told()[-2] and "overtaken" not in desk.told()[-1]
    assert "Omar" not in str(desk.told())
    assert adapter_of(desk.gateway()) == second.id
    desk.office.move("recall", second)
    assert desk.follow().production is None


@pytest.mark.parametrize("is_lifted", [False, True], ids=["stopped", "stopped, then let go on by the stolen key"])
def test_a_stop_stays_when_its_key_is_revoked(rolling_out: Desk, is_lifted: bool) -> None:
    settings, (_, staged) = rolling_out.settings, rolling_out.adapters
    stop(settings, LINE, staged.id, "errors: 0.4 more")
    if is_lifted:
        flag = rolling_out.follow()
        lifted = flag.model_copy(update={"sequence": flag.sequence + 1, "stopped": None})
        write_change(settings, rolling_out.office.pipeline, lifted)
    rotate_pipeline_key(rolling_out)
    assert rolling_out.follow().stopped == "errors: 0.4 more"
    assert "overtaken" in rolling_out.told()[-2]


def test_there_is_an_adapter_to_go_back_to(rolling_out: Desk) -> None:
    settings, omar = rolling_out.settings, rolling_out.office.officers["omar"]
    rollback(settings, LINE, None, omar, "No.")
    with pytest.raises(NotFoundError):
        rollback(settings, LINE, None, omar, "No.")


def test_who_may_not_roll_back(desk: Desk) -> None:
    first, _ = desk.adapters
    with pytest.raises(IntegrityError, match="does not have the role officer"):
        rollback(desk.settings, LINE, None, generate(), "No.")
    clerk = generate()
    trust = desk.settings.data / "trust"
    add_officer(trust, clerk.public_pem, "Sami Aziz", ["reject"], ["*"], desk.office.roots[:2])
    with pytest.raises(SignInError, match="roll_back"):
        rollback(desk.settings, LINE, None, clerk, "No.")
    with pytest.raises(NotFoundError, match=r"lamps-9\.0\.0 is not an adapter"):
        rollback(desk.settings, LINE, "lamps-9.0.0", desk.office.officers["omar"], "No.")
    with pytest.raises(InputError):
        rollback(desk.settings, LINE, first.id, desk.office.officers["omar"], " \n")
    desk.office.bench.institution.rules["release"]["approvals"] = {"roll_back": 1}
    desk.office.bench.workplace()  # writes the rules
    with pytest.raises(ConflictError, match="needs 1 approvals"):
        rollback(desk.settings, LINE, first.id, desk.office.officers["omar"], "No.")


@pytest.mark.security_case(
    "A flag claims an officer's rollback, but there is no signed request", "gateways and ledger reject it"
)
def test_a_rollback_without_an_officers_request_is_not_believed(desk: Desk) -> None:
    first, second = desk.adapters
    rollback(desk.settings, LINE, first.id, desk.office.officers["omar"], "No.")
    (root_of(desk.settings) / LINE / f"{sequences(desk.settings, LINE)[-1]:08d}" / REQUEST_FILE).unlink()
    assert adapter_of(desk.gateway()) is None
    with pytest.raises(IntegrityError, match="is missing or has the wrong SHA-256"):
        desk.follow()
    assert desk.office.states()[second.id] == "production"


@pytest.mark.security_case(
    "The pipeline's key signs a rollback that cites an officer's signature for another act", "gateways reject it"
)
@pytest.mark.parametrize("beside", ["approval", "rollback to another", "request of a clerk", "expired", "what it says"])
def test_a_rollback_made_by_hand_is_not_believed(desk: Desk, beside: str) -> None:
    first, second = desk.adapters
    clerk = generate()
    rights = ["roll_back"], ["SECRET"]
    add_officer(desk.settings.data / "trust", clerk.public_pem, "Sami Aziz", *rights, desk.office.roots[:2])
    flag, officer = current_flag(desk.settings, LINE, desk.office.trust), desk.office.officers["omar"]
    (way,) = flag.back
    assert (way.adapter, flag.production) == (first.id, second.id)
    now = datetime.datetime.now(datetime.UTC)
    asked = {**way.request, "reason": "No.", "expires": (now + datetime.timedelta(days=1)).isoformat()}
    told = {"sequence": flag.sequence + 1, "cause": "rollback", "production": first.id, "back": (), "at": now}
    if beside == "approval":
        asked |= {"transition": "approve"}
    elif beside == "rollback to another":
        told["production"] = second.id
    elif beside == "request of a clerk":
        officer = clerk
    elif beside == "expired":
        asked["expires"] = (now - datetime.timedelta(seconds=1)).isoformat()
    subject = Subject("registered_adapter/manifest.json", first.record_manifest_sha256)
    request = sign_statement(officer, Statement((subject,), REQUEST, asked))
    told["request"] = hashlib.sha256(request).hexdigest()
    gateway = desk.gateway()
    assert adapter_of(gateway) == second.id
    write_change(desk.settings, desk.office.pipeline, flag.model_copy(update=told), request)
    started = desk.gateway()
    if beside == "what it says":
        assert adapter_of(started) == first.id
        return
    assert adapter_of(started) is None
    assert "no officer who may roll back requested this change" in started.problems()[LINE]
