"""A promotion rests on the signed judgement of the hold: refused while it is open, or inconclusive and not accepted."""

import datetime
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import ConflictError, GateRefused, IntegrityError, SignInError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.keys import FileSigner, generate, write_key
from sovereign_pipeline.record.trust_changes import add_officer
from sovereign_pipeline.release.trial import (
    ACCEPTED,
    JUDGED,
    REPORTED,
    accept_hold,
    enter_reports,
    judgement_files,
    read_judgement,
    write_judgement,
)
from sovereign_pipeline.serving.rollout import hold
from sovereign_pipeline.serving.rollout.flag import Flag, root_of
from sovereign_pipeline.serving.rollout.hold import Watcher
from sovereign_pipeline.serving.rollout.rollback import stop
from sovereign_pipeline.serving.rollout.telemetry import Severity, read_reports
from sovereign_pipeline.web.views import adapter_view
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import Traffic
from sovereign_pipeline_tests.serving.rollout.test_rollback import rotate_pipeline_key


class Held:
    """A line whose staged adapter is in a hold."""

    def __init__(self, traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
        self.traffic, self.desk, self.office = traffic, traffic.desk, traffic.desk.office
        self._monkeypatch = monkeypatch
        self.office.bench.institution.rules["rollout"]["hold"] = {"lost": 0.05}
        self.rules(blind_review="not_required")
        self.incumbent, self.staged = self.desk.adapters

    def rules(self, **release: object) -> None:
        self.office.bench.institution.rules["release"] = release
        self.office.bench.workplace()

    def judge(self, lost: float = 0.05) -> None:
        """Eight days later a gateway looks, and the ledger follows."""
        self.look(lost)
        self.desk.follow()

    def look(self, lost: float = 0.05) -> None:
        institution = self.office.bench.workplace().institution
        rules = institution.rollout.model_copy(update={"hold": Hold(lost=lost)})
        institution = institution.model_copy(update={"rollout": rules})
        began_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
        old: Flag = self.traffic.flag.model_copy(update={"began_at": began_at})
        telemetry, flags = self.traffic.telemetry, self.traffic.flags
        with self._monkeypatch.context() as patch:
            patch.setattr(flags, "flags", lambda: {LINE: old})
            Watcher(self.desk.settings, institution, flags, telemetry, self.traffic.said.append).look()

    def accept(self, officer: FileSigner | None = None, shown: str | None = None) -> None:
        """shown: SHA-256 of the judgement that the officer saw; None: the newest."""
        signer, workplace = officer or self.office.officers["ines"], self.office.bench.workplace()
        shown = shown or file_sha256(self.judgement)
        accept_hold(self.office.registry, workplace, signer, self.staged.id, "Few ask; fifty were read.", shown)

    def refused(self, because: str = ".") -> None:
        with pytest.raises(GateRefused, match=because):
            self.office.ask("promote", self.staged)

    def restage(self) -> None:
        """An officer rolls back, and the same adapter is staged again."""
        for transition in ("unstage", "stage"):
            self.office.move(transition, self.staged)
            self.desk.follow()
        directory = self.traffic.telemetry.directory
        self.traffic = Traffic(self.desk, directory)

    def told(self, action: str) -> list[dict[str, object]]:
        return [dict(each.subjects) for each in entries(self.office.registry) if each.action == action]

    @property
    def judgement(self) -> Path:
        return judgement_files(self.desk.settings, LINE)[-1]


@pytest.fixture
def held(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(traffic, monkeypatch)


def test_an_open_hold_refuses_a_promotion_until_it_is_judged(held: Held) -> None:
    held.refused("its trial is open")
    held.traffic.ask(12)
    held.judge()
    (judged,) = held.told(JUDGED)
    assert (judged["adapter"], judged["outcome"]) == (held.staged.id, "promote")
    with pytest.raises(ConflictError):
        held.office.ask("promote_urgently", held.staged)
    rules = held.office.bench.institution.rules
    rules["serving"] = {"lines": {LINE: {"privacy": {"answers": "report"}}}}
    held.refused("does not meet the current rules for personal_data")
    rules["serving"] = {"lines": {LINE: {"privacy": {"requests": "report"}}}}
    standing = held.office.ask("promote", held.staged)
    evidence = standing.predicate["evidence"]["hold"]
    assert evidence["judgement"] == judged["statement"]
    assert evidence["observations"] == judged["observations"]
    held.office.decide(standing, "omar")
    assert held.office.decide(standing, "ines").is_made
    assert held.office.states()[held.staged.id] == "production"


def test_a_judgement_whose_key_is_revoked_before_it_is_logged_does_not_count(held: Held) -> None:
    held.traffic.ask(12)
    held.look()
    began = held.traffic.flag.began
    rotate_pipeline_key(held.desk)
    assert held.desk.follow().began > began
    assert held.judgement.exists() and held.told(JUDGED) == []
    held.refused("its trial is open")


def test_a_hold_that_a_clock_ahead_ended_does_not_count(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return super().now(tz) + datetime.timedelta(days=8)

    held.traffic.ask(12)
    with monkeypatch.context() as patch:
        patch.setattr(hold, "datetime", SimpleNamespace(**{**vars(datetime), "datetime": Ahead}))
        with pytest.raises(ConflictError):
            held.judge()
    assert held.told(JUDGED) == []
    held.refused()
    held.judgement.unlink()
    held.judge()
    assert [each["outcome"] for each in held.told(JUDGED)] == ["promote"]


def test_what_was_withdrawn_stays_withdrawn_beside_another_staged_adapter(held: Held) -> None:
    held.traffic.ask(12)
    held.judge()
    held.traffic.ask(20, lost=0.6)
    held.traffic.watcher.look()
    held.desk.follow()
    other = held.office.adapter("approve", "stage")
    held.desk.follow()
    held.refused("was withdrawn")
    held.office.move("unstage", other)
    held.desk.follow()
    flag = held.traffic.flags.flag(LINE)
    assert flag is not None and flag.staged == held.staged.id and flag.stopped is not None and not flag.is_rolling_out


def test_approvals_are_bound_to_the_judgement(held: Held) -> None:
    held.traffic.ask(12)
    held.judge()
    standing = held.office.ask("promote", held.staged)
    held.office.decide(standing, "omar")
    held.traffic.report(1)
    held.judge()
    assert [each["outcome"] for each in held.told(JUDGED)] == ["promote", "inconclusive"]
    with pytest.raises(GateRefused, match="1 report of severity 1"):
        held.office.decide(standing, "ines")
    held.accept()
    with pytest.raises(ConflictError, match="is based on has changed"):
        held.office.decide(standing, "ines")
    assert held.office.states()[held.staged.id] == "staged"


def test_an_inconclusive_hold_is_accepted_once(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held.traffic.ask(12)
    held.judge(lost=0.001)
    held.refused("inconclusive: lost")
    reviewer = generate()
    trust = held.desk.settings.data / "trust"
    add_officer(trust, reviewer.public_pem, "Huda Salem", ["review"], ["*"], held.office.roots[:2])
    with pytest.raises(SignInError, match="the permission 'promote'"):
        held.accept(reviewer)
    key = tmp_path / "ines.key"
    write_key(key, held.office.officers["ines"], None)
    for variable in ("home", "data", "vault"):
        monkeypatch.setenv(f"SOVEREIGN_{variable.upper()}", str(held.office.bench.institution.root / variable))
    given = CliRunner().invoke(
        app, ["adapters", "accept-hold", held.staged.id, "--reason", "Fifty were read.", "--key", str(key)]
    )
    assert given.exit_code == 0, given.output
    assert "inconclusive: lost" in given.output
    (accepted,) = held.told(ACCEPTED)
    assert accepted["reason"] == "Fifty were read."
    with pytest.raises(ConflictError, match="has already accepted"):
        held.accept(held.office.officers["omar"])
    held.judge(lost=0.001)  # looked at again: the judgement stays, and so does the acceptance
    evidence = held.office.ask("promote", held.staged).predicate["evidence"]["hold"]
    assert (evidence["outcome"], evidence["acceptance"]) == ("inconclusive", accepted["statement"])


@pytest.mark.security_case(
    "An adapter with a severity-1 report is staged again, or its line's share is changed",
    "the report counts in the next trial, too; if the count is lost, the ledger prevents the promotion",
)
@pytest.mark.parametrize(("is_judged", "is_lost"), [(False, False), (False, True), (True, True)])
def test_reports_follow_an_adapter_through_restaging(held: Held, *, is_judged: bool, is_lost: bool) -> None:
    held.traffic.ask(12)
    held.traffic.report(1)
    if is_judged:
        held.judge()
    else:
        held.traffic.watcher.look()
        held.desk.follow()
    assert [each["outcome"] for each in held.told(JUDGED)] == ["inconclusive" if is_judged else "reported"]
    held.refused()
    if is_lost:
        shutil.rmtree(held.traffic.telemetry.directory)
    held.restage()
    held.traffic.ask(12)
    held.judge()
    assert held.told(JUDGED)[-1]["outcome"] == ("promote" if is_lost else "inconclusive")
    held.refused("severity-1 reports" if is_lost else "1 report of severity 1")


@pytest.mark.security_case(
    "One officer removes the incumbent from production, so that no comparison is possible",
    "retiring it needs a promotion's approvals; after a recall, nothing is promoted without a trial",
)
def test_one_officer_cannot_do_away_with_the_trial(held: Held) -> None:
    held.traffic.ask(12)
    standing = held.office.ask("retire", held.incumbent)
    assert (standing.needed, standing.is_made) == (2, False)
    held.office.move("recall", held.incumbent)
    assert "production" not in held.office.states().values()
    held.refused("'recall' took")
    held.office.move("retire", held.incumbent)  # as what is recalled, by one officer
    held.refused("'recall' took")
    held.rules(blind_review="not_required", promote_without_hold=[held.staged.classification])
    assert held.office.ask("promote", held.staged).predicate["evidence"]["hold"]["needed"] is False


@pytest.mark.security_case(
    "A user reports severity 1 about an adapter that was rolled back, and it is staged again at once",
    "the report is a ledger entry at once, and the promotion is rejected",
)
def test_a_report_about_an_adapter_that_is_not_staged_stops_its_promotion(held: Held) -> None:
    held.office.move("retire", held.incumbent)  # with all approvals: there is nothing to compare with
    held.desk.follow()
    assert held.office.ask("promote", held.staged).predicate["evidence"]["hold"]["needed"] is False
    held.office.move("unstage", held.staged)
    held.desk.follow()
    telemetry = held.traffic.telemetry
    telemetry.report(LINE, held.staged.id, "5a" * 32)
    telemetry.write()
    for _ in range(2):
        enter_reports(held.office.registry, read_reports(telemetry.directory))
    assert held.told(REPORTED) == [{"line": LINE, "adapter": held.staged.id, "user": "5a" * 32}]
    held.office.move("stage", held.staged)
    held.refused()
    held.desk.follow()
    held.traffic.watcher.look()
    held.desk.follow()
    held.accept()
    held.office.move("promote", held.staged)


def test_an_urgent_promotion_has_all_approvals_and_is_shown_for_good(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = held.office
    held.rules(blind_review="not_required", approvals={"promote_urgently": 0})
    held.traffic.report(1)
    standing = office.ask("promote_urgently", held.staged, reason="The fees changed.")
    assert (standing.needed, standing.is_made) == (2, False)
    assert standing.predicate["evidence"]["hold"] == {"needed": True, "urgent": True, "taken_back": False}
    office.decide(standing, "omar")
    held.traffic.ask(12)
    held.judge()
    assert [each["outcome"] for each in held.told(JUDGED)] == ["inconclusive"]
    assert office.decide(standing, "ines").is_made
    first = office.bench.register()
    office.move("retire", held.staged)
    for variable in ("home", "data", "vault"):
        monkeypatch.setenv(f"SOVEREIGN_{variable.upper()}", str(office.bench.institution.root / variable))
    (shown, *others) = json.loads(CliRunner().invoke(app, ["adapters", "list", "--json"]).stdout)[1:]
    assert shown["promoted_urgently"] is not None
    assert {each["promoted_urgently"] for each in others} <= {None}, first
    for command in ("list", "status", "show"):
        arguments = ["adapters", command, *([held.staged.id] if command == "show" else [])]
        assert "without a passed trial" in CliRunner().invoke(app, arguments).output
    view = adapter_view(office.registry, office.bench.store, held.staged.id, datetime.datetime.now(datetime.UTC))
    (waived,) = view.waived
    assert "urgently" in waived.what and "Ines Farah" in waived.person and waived.reason == "The fees changed."


def test_an_urgent_request_ends_if_the_adapter_is_taken_back(held: Held) -> None:
    standing = held.office.ask("promote_urgently", held.staged)
    held.office.decide(standing, "omar")
    stop(held.desk.settings, LINE, held.staged.id, "empty: +30 %")
    held.desk.follow()
    with pytest.raises(ConflictError):
        held.office.decide(standing, "ines")


@pytest.mark.security_case("A signed trial result is changed, removed, or signed by another key", "rejected")
def test_a_judgement_that_is_not_the_one_on_record_refuses(held: Held) -> None:
    held.traffic.ask(12)
    held.judge(lost=0.001)
    settings, manifest = held.desk.settings, held.staged.record_manifest_sha256
    path = held.judgement
    inconclusive = read_judgement(path, held.office.trust, manifest).judgement
    assert inconclusive.outcome == "inconclusive"
    good = inconclusive.model_copy(update={"outcome": "promote"})
    write_judgement(settings, held.office.pipeline, good, manifest)
    with pytest.raises(IntegrityError, match="differs from its ledger entry"):
        held.office.ask("promote", held.staged)
    write_judgement(settings, held.office.officers["omar"], good, manifest)
    with pytest.raises(IntegrityError):
        held.office.ask("promote", held.staged)
    path.unlink()
    with pytest.raises(IntegrityError, match="its file is missing"):
        held.office.ask("promote", held.staged)


@pytest.mark.security_case(
    "A new trial result arrives while an officer enters the passphrase to accept the previous one",
    "rejected: only the displayed result can be accepted",
)
@pytest.mark.security_case(
    "A user withdraws and repeats a report, to block a promotion for ever",
    "a user counts once, and an officer's acceptance stays valid",
)
def test_what_is_accepted_is_what_was_shown_and_stays_so(held: Held) -> None:
    held.traffic.ask(12)
    held.judge(lost=0.001)
    shown = file_sha256(held.judgement)
    held.traffic.report(1)
    held.judge(lost=0.001)
    with pytest.raises(ConflictError, match="has a new result"):
        held.accept(shown=shown)
    assert not held.told(ACCEPTED)
    held.accept()
    severities: tuple[Severity, ...] = (2, 1, 2, 1)
    for severity in severities:
        held.traffic.report(severity)
    held.judge(lost=0.001)
    assert len(held.told(JUDGED)) == 2
    held.office.ask("promote", held.staged)


@pytest.mark.security_case(
    "A trial's rules are loosened until a gateway has evaluated it, and then restored", "the promotion is rejected"
)
def test_a_judgement_by_laxer_rules_lets_nothing_through(held: Held) -> None:
    held.traffic.ask(12, lost=0.1)
    held.judge(lost=1)
    assert [each["outcome"] for each in held.told(JUDGED)] == ["promote"]
    held.refused("does not meet the current rules for lost")
    held.desk.rules(share=0.3)  # another comparison
    held.desk.follow()
    held.refused("its trial is open")


@pytest.mark.security_case(
    "The flag that withdrew a harmful adapter is removed from the home",
    "the adapter stays withdrawn, by the ledger, and is not promoted",
)
def test_a_stop_that_is_on_record_outlives_its_file(held: Held) -> None:
    held.traffic.ask(12)
    held.judge()
    stop(held.desk.settings, LINE, held.staged.id, "empty: +30 %")
    stopped = held.desk.follow()
    shutil.rmtree(root_of(held.desk.settings) / LINE / f"{stopped.sequence:08d}")
    again = held.desk.follow()
    assert (again.sequence, again.stopped) == (stopped.sequence + 1, "empty: +30 %")
    for levels in ([], [held.staged.classification]):
        held.rules(blind_review="not_required", promote_without_hold=levels)
        held.refused("was withdrawn")
