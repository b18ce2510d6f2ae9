"""A staged adapter that does harm is taken back by itself, and one that does well is judged once."""

import datetime
import math
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.serving.rollout.hold import (
    Sums,
    Watcher,
    best_scale,
    difference,
    is_worse_at_any_look,
    judge,
    one_sided_bound,
    sample_ratio_p,
    state_of,
    two_sided_bound,
    upper_limit,
)
from sovereign_pipeline.serving.rollout.telemetry import read_tally
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import TEXT, USERS, Traffic, adapters_of
from sovereign_pipeline_tests.serving.rollout.simulated import Arms, Rollout, aborted


@pytest.mark.parametrize(
    ("fault", "measures"),
    [
        ({"lost": 0.3}, ["lost"]),
        ({"empty": 0.3}, ["empty"]),
        ({"other_script": 0.3}, ["other script"]),
        ({"slower": 3.0}, ["slower"]),
        ({"disliked": 0.3}, ["disliked"]),
        ({"slower": 30.0, "patience": 8.0}, ["given up", "slower"]),  # none is complete, and none is lost
    ],
)
def test_what_does_harm_is_taken_back_and_the_ledger_says_why(
    traffic: Traffic, fault: dict[str, float], measures: list[str]
) -> None:
    traffic.ask(3)
    traffic.watcher.look()
    assert traffic.flag.is_rolling_out
    traffic.ask(12, **fault)
    traffic.watcher.look()
    assert not traffic.flag.is_rolling_out
    assert {*adapters_of(traffic.flags, USERS).values()} == {traffic.flag.production}
    traffic.desk.follow()
    last = traffic.desk.told()[-1]
    assert last["cause"] == "regression"
    assert all(f"{each}: +" in last["reason"] for each in measures)
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
    assert traffic.said[0].partition("aborted: ")[2].startswith("personal data: +")


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
    assert {*adapters_of(traffic.flags, USERS).values()} == {traffic.flag.production}


def test_a_good_one_is_judged_once_its_time_is_over(traffic: Traffic) -> None:
    traffic.ask(12)
    traffic.report(2)
    traffic.telemetry.write()
    flag, tally = traffic.flag, read_tally(traffic.telemetry.directory, traffic.flag)
    now = datetime.datetime.now(datetime.UTC)

    def judged(days: int, **rules: Any) -> tuple[str, str]:
        state = judge(flag, tally, Hold(**rules), now + datetime.timedelta(days=days))
        assert state is not None
        return state.outcome, state.because

    assert judged(0) == ("open", "missing: 7 days")
    assert judged(7, lost=0.05) == ("promote", "not worse by a margin in any metric")
    outcome, because = judged(7, lost=0.001)
    assert outcome == "inconclusive" and because.startswith("lost")
    outcome, because = judged(8, users=60, answers=5000)
    assert outcome == "open" and "answers of the staged adapter" in because


def test_what_was_judged_stays(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic.ask(12)
    institution = traffic.desk.office.bench.workplace().institution
    rules = {"rollout": institution.rollout.model_copy(update={"hold": Hold(lost=0.05)})}
    institution = institution.model_copy(update=rules)
    began_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=7, hours=1)
    old = traffic.flag.model_copy(update={"began_at": began_at})
    watcher = Watcher(traffic.desk.settings, institution, traffic.flags, traffic.telemetry, traffic.said.append)
    monkeypatch.setattr(traffic.flags, "flags", lambda: {LINE: old})
    watcher.look()
    assert ": promote: " in traffic.said[-1]
    traffic.ask(3, lost=0.08)
    watcher.look()
    state = state_of(traffic.desk.settings, traffic.telemetry.directory, old, institution)
    assert state is not None and state.outcome == "promote" and "judged on" in state.because


def test_counts_that_cannot_be_read_judge_nothing(traffic: Traffic) -> None:
    traffic.ask(1)
    traffic.watcher.look()
    flag, first = traffic.flag, traffic.watcher.state(traffic.flag)
    assert first is not None and traffic.watcher.state(flag) is first, "judging 50,000 users takes seconds"
    (path,) = traffic.telemetry.directory.rglob("*.json")
    path.with_name("other.json").write_text("{")
    with pytest.raises(IntegrityError):
        traffic.watcher.look()
    with pytest.raises(IntegrityError):
        traffic.watcher.state(flag)


def test_counts_hold_no_text_and_no_name(traffic: Traffic) -> None:
    traffic.ask(1)
    traffic.telemetry.write()
    written = "".join(path.read_text() for path in traffic.telemetry.directory.rglob("*.json"))
    assert written
    assert "user-" not in written
    assert "harbour" not in written


MARGIN = 0.02


def by_sequence(arms: Arms) -> bool:
    found = difference(*arms, is_share=True)
    return found is not None and is_worse_at_any_look(found, MARGIN, 0.05)


@pytest.mark.parametrize(
    ("variance", "one_sided", "two_sided"),
    [(100, 36.343051, 38.550546), (1000, 87.470842, 95.981736), (5000, 204.341682, 222.952920)],
)
def test_the_bounds_are_those_of_confseq(variance: float, one_sided: float, two_sided: float) -> None:
    """Howard and others' own program, with alpha 0.05 and tightest at a variance of 1,000."""
    assert two_sided_bound(variance, 0.05, best_scale(1000, 0.05)) == pytest.approx(two_sided, abs=1e-5)
    assert one_sided_bound(variance, 0.05, best_scale(1000, 0.1)) == pytest.approx(one_sided, abs=1e-5)


def test_one_that_is_as_bad_as_allowed_is_seldom_taken_back_and_one_that_does_harm_is() -> None:
    assert aborted(Rollout(rise=MARGIN), range(120), by_sequence) <= 0.05
    assert aborted(Rollout(rise=0.17), range(30), by_sequence) >= 0.9


def test_a_difference_is_between_users() -> None:
    staged = {str(number): Sums(10, number % 2 * 10) for number in range(20)}
    production = {str(number): Sums(10, 5) for number in range(20)}
    found = difference(staged, production, is_share=True)
    assert found is not None
    assert found.estimate == 0
    assert found.standard_error == pytest.approx(math.sqrt(0.25 / 19 + 0.25 / 200), rel=0.02)
    assert upper_limit(found, 0.05) == pytest.approx(1.729 * found.standard_error, rel=0.01)
    assert difference({"one": Sums(10, 5)}, production, is_share=True) is None


def test_an_arm_in_which_nothing_happened_is_not_certain() -> None:
    quiet = {str(number): Sums(5, 0) for number in range(12)}
    found = difference(quiet, quiet, is_share=True)
    assert found is not None and found.variance > 0


def test_users_who_are_not_as_they_were_drawn_are_noticed() -> None:
    assert sample_ratio_p(100, 900, 0.1) == pytest.approx(1)
    assert sample_ratio_p(160, 840, 0.1) < 1e-6
    assert sample_ratio_p(0, 0, 0.1) == 1
