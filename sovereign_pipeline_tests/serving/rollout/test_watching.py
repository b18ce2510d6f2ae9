"""A staged adapter that does harm is taken back by itself, and one that does well is judged once."""

import datetime

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import FLAG_CHANGED
from sovereign_pipeline.serving.rollout.hold import Watcher, judge, state_of
from sovereign_pipeline.serving.rollout.telemetry import read_tally
from sovereign_pipeline_tests.serving.flags.conftest import LINE
from sovereign_pipeline_tests.serving.flags.conftest import desk as desk
from sovereign_pipeline_tests.serving.flags.conftest import office as office
from sovereign_pipeline_tests.serving.rollout.traffic import TEXT, USERS, Traffic
from sovereign_pipeline_tests.serving.rollout.traffic import look_always as look_always
from sovereign_pipeline_tests.serving.rollout.traffic import traffic as traffic


@pytest.mark.parametrize(
    "fault", [{"lost": 0.3}, {"empty": 0.3}, {"other_script": 0.3}, {"slower": 3.0}, {"disliked": 0.3}]
)
def test_what_does_harm_is_taken_back_and_the_ledger_says_why(traffic: Traffic, fault: dict[str, float]) -> None:
    traffic.ask(3)
    traffic.watcher.look()
    assert traffic.flag.is_rolling_out
    traffic.ask(12, **fault)
    traffic.watcher.look()
    assert not traffic.flag.is_rolling_out
    assert {choice.arm for user in USERS if (choice := traffic.flags.which(LINE, user))} == {"production"}
    traffic.desk.follow()
    last = [each.subjects for each in entries(traffic.desk.office.registry) if each.action == FLAG_CHANGED][-1]
    assert last["cause"] == "regression"
    (measure,) = fault
    assert last["reason"].startswith(measure.replace("_", " "))
    traffic.watcher.look()  # nothing more to take back
    assert len(traffic.said) == 1


def test_one_that_discloses_personal_data_is_taken_back_where_answers_are_searched(traffic: Traffic) -> None:
    traffic.ask(12, discloses=0.3)
    traffic.watcher.look()
    assert traffic.flag.is_rolling_out, "nothing says that the line's answers are searched"
    traffic.desk.office.bench.institution.rules["serving"] = {"lines": {LINE: {"privacy": {"answers": "replace"}}}}
    institution = traffic.desk.office.bench.workplace().institution
    Watcher(traffic.desk.settings, institution, traffic.flags, traffic.telemetry, traffic.said.append).look()
    assert not traffic.flag.is_rolling_out
    assert traffic.said[0].partition("taken back: ")[2].startswith("personal data: +")


def test_one_that_nobody_waits_for_is_taken_back(traffic: Traffic) -> None:
    """Every answer is so slow that its caller goes away: none is complete, and none is lost."""
    traffic.ask(15, slower=30.0, patience=8.0)
    traffic.watcher.look()
    assert not traffic.flag.is_rolling_out
    traffic.desk.follow()
    last = [each.subjects for each in entries(traffic.desk.office.registry) if each.action == FLAG_CHANGED][-1]
    assert "given up: +" in last["reason"]
    assert "slower: +" in last["reason"]


def test_a_broken_one_is_known_by_few_answers(traffic: Traffic) -> None:
    by_arm = {choice.arm: choice for user in USERS if (choice := traffic.flags.which(LINE, user))}
    for _ in range(20):
        traffic.telemetry.note(LINE, by_arm["staged"], "", 0, 1.0, "lost")
    traffic.telemetry.note(LINE, by_arm["production"], "", 0, 1.0, "lost")
    traffic.watcher.look()
    assert traffic.flag.is_rolling_out, "the other one fails, too: it is the engine"
    traffic.telemetry.note(LINE, by_arm["production"], TEXT, 9, 1.0, "complete")
    traffic.watcher.look()
    assert not traffic.flag.is_rolling_out


def test_without_the_pipelines_key_this_gateway_alone_takes_it_back(traffic: Traffic) -> None:
    traffic.ask(12, lost=0.5)
    traffic.desk.settings.keys.rename(traffic.desk.settings.keys.with_name("elsewhere"))
    with pytest.raises(IntegrityError):
        traffic.watcher.look()
    assert {choice.arm for user in USERS if (choice := traffic.flags.which(LINE, user))} == {"production"}


def test_a_good_one_is_judged_once_its_time_is_over(traffic: Traffic) -> None:
    traffic.ask(12)
    traffic.telemetry.write()
    flag, tally = traffic.flag, read_tally(traffic.telemetry.directory, traffic.flag)
    now = datetime.datetime.now(datetime.UTC)
    state = judge(flag, tally, Hold(), now)
    assert state is not None
    assert (state.outcome, state.because) == ("open", "missing: 7 days")
    over = judge(flag, tally, Hold(lost=0.05), now + datetime.timedelta(days=7))
    assert over is not None
    assert (over.outcome, over.because) == ("promote", "as good in all that is compared")
    strict = judge(flag, tally, Hold(lost=0.001), now + datetime.timedelta(days=7))
    assert strict is not None
    assert strict.outcome == "inconclusive"
    assert strict.because.startswith("lost")
    few = judge(flag, tally, Hold(users=60, answers=5000), now + datetime.timedelta(days=8))
    assert few is not None
    assert few.outcome == "open"
    assert "answers of the staged adapter" in few.because


def test_one_report_of_the_worst_is_enough_that_it_is_not_judged_as_good(traffic: Traffic) -> None:
    traffic.ask(12)
    traffic.report(2)
    now = datetime.datetime.now(datetime.UTC)

    def outcome(days: int) -> tuple[str, str]:
        traffic.telemetry.write()
        tally = read_tally(traffic.telemetry.directory, traffic.flag)
        state = judge(traffic.flag, tally, Hold(lost=0.05), now + datetime.timedelta(days=days))
        assert state is not None
        return state.outcome, state.because

    assert outcome(7)[0] == "promote"
    traffic.report(1)
    assert outcome(7) == ("inconclusive", "1 report of severity 1")
    assert outcome(5) == ("open", "missing: 2 days; 1 report of severity 1")


def test_what_was_judged_stays(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic.ask(12)
    institution = traffic.desk.office.bench.workplace().institution
    rules = {"rollout": institution.rollout.model_copy(update={"hold": Hold(lost=0.05)})}
    institution = institution.model_copy(update=rules)
    old = traffic.flag.model_copy(
        update={"began_at": datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=7, hours=1)}
    )
    watcher = Watcher(traffic.desk.settings, institution, traffic.flags, traffic.telemetry, traffic.said.append)
    monkeypatch.setattr(traffic.flags, "flags", lambda: {LINE: old})
    watcher.look()
    assert ": promote: " in traffic.said[-1]
    traffic.ask(3, lost=0.08)
    watcher.look()
    state = state_of(traffic.desk.settings, traffic.telemetry.directory, old, institution)
    assert state is not None
    assert state.outcome == "promote"
    assert "judged on" in state.because
    traffic.report(1)
    watcher.look()
    state = state_of(traffic.desk.settings, traffic.telemetry.directory, old, institution)
    assert state is not None
    assert state.outcome == "inconclusive"
    assert state.because.startswith("1 report of severity 1 (judged to promote on ")
    traffic.ask(20, lost=0.6)
    watcher.look()
    assert "is taken back" in traffic.said[-1]


def test_counts_hold_no_text_and_no_name(traffic: Traffic) -> None:
    traffic.ask(1)
    traffic.telemetry.write()
    written = "".join(path.read_text() for path in traffic.telemetry.directory.rglob("*.json"))
    assert written
    assert "user-" not in written
    assert "harbour" not in written
