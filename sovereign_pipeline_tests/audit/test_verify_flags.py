"""Who got which adapter when: by flags that say one thing everywhere, after transitions, in the log's order."""

import json
from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.serving.rollout.flag import Flag, document
from sovereign_pipeline_tests.audit.story import ADAPTER, NAMED, OTHER, Story, moment

END = "what came later is not known when the package was made, 2026-11-30 09:00:00"


def _in_production(story: Story, adapter: str = ADAPTER) -> None:
    for transition, left, reached in (("approve", "registered", "approved"), ("stage", "approved", "staged")):
        story.move(transition, left, reached, adapter)
    story.move("promote", "staged", "production", adapter)


def _staged(story: Story, adapter: str = OTHER) -> None:
    story.move("approve", "registered", "approved", adapter)
    story.move("stage", "approved", "staged", adapter)


@pytest.fixture
def story() -> Story:
    """One adapter in production, another one staged, and a flag that says so; a day later."""
    made = Story()
    _in_production(made)
    made.flag(ADAPTER)
    _staged(made)
    made.flag(ADAPTER, OTHER)
    made.at = moment(28)
    return made


def test_what_answered_is_said_by_the_flag(story: Story) -> None:
    both = f"production: {ADAPTER}; staged: {OTHER} for 25 % of the users"
    assert story.answered("2026-11-28") == [f"at 2026-11-28 00:00:00: {both}"]
    before = story.answered("2026-11-26")
    assert before == ["at 2026-11-26 00:00:00: not known: the log begins here with entry 1, 2026-11-27 09:00:00"]
    later = story.answered("2026-12-24T10:00")
    assert later == [f"at 2026-12-24 10:00:00: not known; when the package was made, 2026-11-30 09:00:00: {both}"]
    assert story.answered("2026-11-30") == [f"at 2026-11-30 00:00:00: {both}", END]


def test_what_began_within_a_second_is_said_of_that_second(story: Story) -> None:
    story.at = moment(29).replace("09:00:00", "09:00:00.700000")
    story.move("unstage", "staged", "approved", OTHER)
    story.flag(ADAPTER)
    alone = f"production: {ADAPTER}"
    assert story.answered("2026-11-29T09:00:00") == [f"at 2026-11-29 09:00:00: {alone}"]
    assert story.answered("2026-11-29")[-1] == f"from 2026-11-29 09:00:00: {alone}"


def test_that_nothing_is_here_which_answered_is_said_from_the_first_entry_on() -> None:
    story = Story()
    assert story.answered("2026-11-27") == [
        "at 2026-11-27 00:00:00: not known: the log begins here with entry 1, 2026-11-27 09:00:00",
        "from 2026-11-27 09:00:00: none, by what is here",
    ]
    assert story.answered("2026-11-28") == ["at 2026-11-28 00:00:00: none, by what is here"]


def test_a_line_whose_flag_is_not_here_is_not_said_to_answer_nothing() -> None:
    story = Story()
    _staged(story, ADAPTER)
    (told,) = story.answered("2026-11-28")
    no_flag = "by its transitions; no flag change is here, which would say who got what"
    assert told == f"at 2026-11-28 00:00:00: production: none; staged: {ADAPTER} {no_flag}"


def test_a_withdrawal_that_no_flag_follows_is_said(story: Story) -> None:
    story.move("unstage", "staged", "approved", OTHER)
    told = f"though by the transitions {OTHER} was approved from then on; no flag change follows"
    assert story.answered("2026-11-29")[0].endswith(told)
    story.at = moment(29)
    story.flag(ADAPTER)
    since, until = story.answered("2026-11-28")[1], story.answered("2026-11-30")[0]
    assert since.startswith("from 2026-11-28 09:00:00: ") and "the next flag change is entry" in since
    assert until == f"at 2026-11-30 00:00:00: production: {ADAPTER}"


@pytest.mark.security_case("The newest change of a flag is kept out of evidence", "that no flag follows is said")
def test_a_staging_that_no_flag_follows_is_said() -> None:
    story = Story()
    _in_production(story)
    story.flag(ADAPTER)
    story.at = moment(28)
    _staged(story)
    told = f"production: {ADAPTER}, though by the transitions {OTHER} was staged from then on; no flag change follows"
    assert story.answered("2026-11-29") == [f"at 2026-11-29 00:00:00: {told}"]


@pytest.mark.security_case("A flag gives out an adapter that was taken back before it", "evidence of it is refused")
@pytest.mark.parametrize("cause", ["transition", "regression", "rollback"])
def test_a_flag_gives_out_nothing_that_was_taken_back(story: Story, cause: str) -> None:
    story.move("unstage", "staged", "approved", OTHER)
    story.flag(ADAPTER, OTHER, cause=cause)
    with pytest.raises(verify.Refused, match=r"or one took it back|it stops nothing"):
        story.answered("2026-11-29")


def test_a_stop_and_a_rollback_that_were_entered_late_are_told(story: Story) -> None:
    story.move("recall", "production", "recalled")
    story.flag(ADAPTER, OTHER, cause="regression", stopped="harm", at=moment(27))
    told = story.answered("2026-11-29")[0]
    assert told.endswith(
        f"(by its own word since 2026-11-27 09:00:00), though by the transitions {ADAPTER} was recalled by then"
    )


def test_a_rollback_gives_out_what_its_officer_asked_for() -> None:
    """Others decided meanwhile, so that its transition was never made."""
    for by, counts in (("layla", True), ("clerk", False)):
        story = Story()
        _in_production(story)
        story.flag(ADAPTER)
        _staged(story)
        promoted = story.ask("promote", "staged", "production", adapter=OTHER, incumbent=ADAPTER)
        approval = story.decide(promoted)
        story.make(promoted, "supersede", "production", "superseded", approval)
        story.make(promoted, "promote", "staged", "production", approval, adapter=OTHER)
        story.flag(OTHER)
        asked = story.ask("roll_back", "superseded", "production", by, incumbent=OTHER, approvals=0)
        story.flag(ADAPTER, cause="rollback", request=asked)
        if counts:
            assert story.answered("2026-11-29")[0].endswith(
                f"though by the transitions {ADAPTER} was superseded by then"
            )
            continue
        with pytest.raises(verify.Refused, match=f"no transition before it let {ADAPTER} be production"):
            story.answered("2026-11-29")


@pytest.mark.security_case("File, statement and entry of a flag differ, or its share is no share", "refused by name")
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"file": {"flags": {}}}, "the file says something else than what was signed"),
        ({"told": {"share": "0.5"}}, "entry .* says something else than what was signed"),
        ({"told": {"groups": ["desk"]}}, "entry .* says something else than what was signed"),
        ({"told": {"stopped": "harm"}}, "entry .* says something else than what was signed"),
        ({"told": {"made_at": moment(20)}}, "entry .* says something else than what was signed"),
        ({"at": moment(29)}, "is dated .*, after entry"),
        ({"at": moment(20)}, "is dated .*, before entry"),
    ],
    ids=["file", "share", "groups", "stopped", "time", "dated later", "dated back"],
)
def test_a_flag_says_one_thing(story: Story, planted: dict[str, Any], why: str) -> None:
    story.flag(ADAPTER, OTHER, **planted)
    with pytest.raises(verify.Refused, match=why):
        story.answered("2026-11-29")


@pytest.mark.security_case("A flag of evidence gives more than everybody", "refused")
def test_a_share_is_one(story: Story) -> None:
    story.package.acts = verify.read_acts(story.package)
    *_, (entry, act) = story.package.acts_of("flag changed")
    act.predicate["share"], entry["subjects"]["share"] = 1e9, "1e+09"
    with pytest.raises(verify.Refused, match="a share is no number between 0 and 1"):
        verify.read_flags(story.package, "lamps", verify.read_changes(story.package, "lamps"))


@pytest.mark.parametrize("groups", [(), ("desk", "night")])
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.25, 1.0])
@pytest.mark.parametrize(("production", "stopped"), [(ADAPTER, None), (None, None), (ADAPTER, "harm")])
def test_both_sides_write_the_same_file(
    share: float, groups: tuple[str, ...], production: str | None, stopped: str | None
) -> None:
    at, known = moment(27), {each: NAMED for each in (ADAPTER, OTHER)}
    said = {"line": "lamps", "sequence": 7, "production": production, "staged": OTHER, "share": share, "groups": groups}
    said |= {"stopped": stopped, "began": 1, "began_at": at, "salt": "5" * 64, "evaluator": "flagd 1", "staged_by": 5}
    said |= {"cause": "policy", "reason": "So.", "at": at, "adapters": known, "back": ()}
    flag = Flag.model_validate_json(json.dumps(said))
    assert verify.flag_file(flag.model_dump(mode="json")) == json.loads(document(flag))
    assert (OTHER in verify.in_words(flag.model_dump())) == flag.is_rolling_out
