"""Who has the pipeline's and the log's key still needs officers, each for what their key and request allow."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.evidence import verify
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.statements import APPROVAL, RECALL, RECALL_WAIVER
from sovereign_pipeline.record.trust_changes import create_trust, rotate_root
from sovereign_pipeline.release.standing import ARROWS
from sovereign_pipeline.serving.rollout.flag import Flag, document
from sovereign_pipeline_tests.evidence.story import ADAPTER, AT, EVIDENCE, NAMED, OTHER, RECORD, Story, moment


@pytest.fixture
def story() -> Story:
    """An adapter that was approved."""
    made = Story()
    made.move("approve", "registered", "approved")
    return made


def test_an_urgent_promotion_is_told(story: Story) -> None:
    story.move("stage", "approved", "staged")
    story.move("promote_urgently", "staged", "production", reason="The fees changed.")
    assert story.changes()[-1] == "production"
    (note,) = story.package.words["Holds"]
    assert note.startswith("! PROMOTED URGENTLY") and '"The fees changed."' in note and "omar" in note


@pytest.mark.security_case("A request that has already taken effect is used for another transition", "rejected")
def test_a_request_takes_effect_once(story: Story) -> None:
    request = story.move("stage", "approved", "staged")
    story.move("unstage", "staged", "approved")
    approval = next(story.package.entries("release approved", request=request))["subjects"]["statement"]
    story.make(request, "stage", "approved", "staged", approval)
    with pytest.raises(verify.Refused, match="transition 4 of line lamps: its request had taken effect before"):
        story.changes()


def _replaced(story: Story) -> tuple[str, str]:
    """Another adapter takes the place of the first: one request makes two changes. Returns it and its approval."""
    for transition, left, reached in (("stage", "approved", "staged"), ("promote", "staged", "production")):
        story.move(transition, left, reached)
    story.move("approve", "registered", "approved", OTHER)
    story.move("stage", "approved", "staged", OTHER)
    request = story.ask("promote", "staged", "production", adapter=OTHER, incumbent=ADAPTER)
    approval = story.decide(request)
    story.make(request, "supersede", "production", "superseded", approval)
    story.make(request, "promote", "staged", "production", approval, adapter=OTHER)
    return request, approval


@pytest.mark.security_case("A request that superseded an adapter is used to supersede it again", "rejected")
def test_a_request_supersedes_once(story: Story) -> None:
    request, approval = _replaced(story)
    back = story.ask("roll_back", "superseded", "production", incumbent=OTHER)
    by = story.decide(back)
    story.make(back, "supersede", "production", "superseded", by, adapter=OTHER)
    story.make(back, "roll_back", "superseded", "production", by)
    assert story.changes()[-1] == "production"
    story.make(request, "supersede", "production", "superseded", approval)
    with pytest.raises(verify.Refused, match="transition 10 of line lamps: its request had taken effect before"):
        story.changes()


@pytest.mark.security_case("A promotion supersedes another adapter than its request names", "rejected")
def test_a_request_supersedes_the_adapter_that_it_names(story: Story) -> None:
    story.move("stage", "approved", "staged")
    request = story.ask("promote", "staged", "production", incumbent=None)
    approval = story.decide(request)
    story.make(request, "promote", "staged", "production", approval)
    story.make(request, "supersede", "production", "superseded", approval)
    with pytest.raises(verify.Refused, match="transition 4 of line lamps: it is not what request"):
        story.changes()


@pytest.mark.security_case("A request about an adapter is logged for another line", "rejected")
def test_a_request_is_of_the_line_that_its_officer_named(story: Story) -> None:
    story.ask("stage", "approved", "staged", line="lanterns")
    with pytest.raises(verify.Refused, match="differs from the signed statement"):
        story.changes()


@pytest.mark.security_case("One approval is listed twice, but two are needed", "rejected")
def test_approvals_are_of_different_persons(story: Story) -> None:
    request = story.ask("stage", "approved", "staged", approvals=2)
    approval = story.decide(request)
    story.make(request, "stage", "approved", "staged", approval, approval)
    with pytest.raises(verify.Refused, match="it names approvals that do not count, or fewer than 2"):
        story.changes()


@pytest.mark.security_case("A second approval by the same officer is listed, but two officers are needed", "rejected")
def test_an_officer_approves_once(story: Story) -> None:
    request = story.ask("stage", "approved", "staged", approvals=2)
    said = {"decision": "approve", "request": request}
    approvals = story.decide(request), story.act("omar", "release approved", APPROVAL, request, {**said, "reason": "x"})
    story.make(request, "stage", "approved", "staged", *approvals)
    with pytest.raises(verify.Refused, match="it names approvals that do not count, or fewer than 2"):
        story.changes()


@pytest.mark.security_case("A transition is dated before its approvals, or after its entry", "rejected")
@pytest.mark.parametrize(("day", "why"), [(20, "before entry"), (29, "after entry")])
def test_a_transition_is_dated_between_its_approvals_and_its_entry(story: Story, day: int, why: str) -> None:
    request = story.ask("stage", "approved", "staged")
    story.make(request, "stage", "approved", "staged", story.decide(request), at=moment(day))
    with pytest.raises(verify.Refused, match=f"it is dated .*, {why}"):
        story.changes()


@pytest.mark.security_case("A signed request lists more gates than its adapter has", "rejected")
def test_a_request_rests_on_as_many_gates_as_there_are(story: Story) -> None:
    story.move("stage", "approved", "staged", evidence={**EVIDENCE, "gates": 29})
    with pytest.raises(verify.Refused, match="it rests on another adapter's evidence"):
        story.changes()


@pytest.mark.security_case("Newer rules are logged, but their file is missing in the evidence package", "rejected")
def test_all_rules_on_record_are_here(story: Story) -> None:
    verify.check_rules(story.package)
    story.enter("policy changed", {"file": "institution.yaml", "now": "8" * 64}, "")
    with pytest.raises(verify.Refused, match=f"policy/{'8' * 64}.yaml: the package lacks it"):
        verify.check_rules(story.package)


@pytest.mark.security_case(
    "An entry is dated before an earlier one, or its hash does not continue it", "rejected by number"
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"at": moment(20)}, "entry 3: it is dated .*, before an entry"),
        ({"previous": "0"}, "it does not follow entry 2"),
    ],
    ids=["dated back", "another entry before"],
)
def test_entries_are_in_the_order_of_time(planted: dict[str, str], why: str) -> None:
    entries = {number: {"at": moment(27), "previous": str(number - 1), "hash": str(number)} for number in (1, 2, 3)}
    verify.check_order(entries)
    entries[3] |= planted
    with pytest.raises(verify.Refused, match=why):
        verify.check_order(entries)


@pytest.mark.security_case("A transition is made from a request that its requester withdrew", "rejected")
@pytest.mark.parametrize("by", ["layla", "clerk"])
def test_a_request_that_was_withdrawn_takes_no_effect(story: Story, by: str) -> None:
    request = story.ask("stage", "approved", "staged", by)
    approval = story.decide(request)
    story.decide(request, by, "withdraw")
    story.make(request, "stage", "approved", "staged", approval)
    with pytest.raises(verify.Refused, match=f"{by} withdrew it before it took effect"):
        story.changes()


@pytest.mark.security_case(
    "An officer without the right requests a transition with a negative number of approvals", "rejected"
)
@pytest.mark.parametrize("more", [{"approvals": -1}, {"approvals": False}, {"approvals": 0.5}, {"policy": {}}], ids=str)
def test_a_request_names_a_number_of_approvals_and_rules(story: Story, more: dict[str, Any]) -> None:
    story.make(story.ask("stage", "approved", "staged", "clerk", **more), "stage", "approved", "staged")
    with pytest.raises(verify.Refused, match="it names no number of approvals, or no rules"):
        story.changes()


@pytest.mark.security_case("An officer who may only recall requests a recall whose end state is production", "rejected")
def test_a_transition_leads_where_its_name_says(story: Story) -> None:
    story.make(story.ask("recall", "approved", "production", "clerk", approvals=0), "recall", "approved", "production")
    with pytest.raises(verify.Refused, match="no 'recall' leads from approved to production"):
        story.changes()


@pytest.mark.security_case("An adapter is promoted without ever having been approved", "rejected")
def test_an_adapter_begins_undecided() -> None:
    story = Story()
    story.move("promote", "staged", "production")
    with pytest.raises(verify.Refused, match=f"{ADAPTER} was not staged"):
        story.changes()


def test_both_sides_know_the_same_transitions() -> None:
    assert {str(each.name): ({*each.before}, str(each.after)) for each in ARROWS} == verify.ARROWS


END = "later changes are not known, because the package was made at 2026-11-30 09:00:00"


def _in_production(story_verify_flags: Story, adapter: str = ADAPTER) -> None:
    for transition, left, reached in (("approve", "registered", "approved"), ("stage", "approved", "staged")):
        story_verify_flags.move(transition, left, reached, adapter)
    story_verify_flags.move("promote", "staged", "production", adapter)


def _staged(story_verify_flags: Story, adapter: str = OTHER) -> None:
    story_verify_flags.move("approve", "registered", "approved", adapter)
    story_verify_flags.move("stage", "approved", "staged", adapter)


@pytest.fixture
def story_verify_flags() -> Story:
    """One adapter in production, another one staged, and a flag that says so; a day later."""
    made = Story()
    _in_production(made)
    made.flag(ADAPTER)
    _staged(made)
    made.flag(ADAPTER, OTHER)
    made.at = moment(28)
    return made


def test_what_answered_is_said_by_the_flag(story_verify_flags: Story) -> None:
    both = f"production: {ADAPTER}; staged: {OTHER} for 25 % of the users"
    assert story_verify_flags.answered("2026-11-28") == [f"at 2026-11-28 00:00:00: {both}"]
    before = story_verify_flags.answered("2026-11-26")
    assert before == ["at 2026-11-26 00:00:00: not known: the log begins here with entry 1, 2026-11-27 09:00:00"]
    later = story_verify_flags.answered("2026-12-24T10:00")
    assert later == [
        f"at 2026-12-24 10:00:00: not known, because the package was made at 2026-11-30 09:00:00; then: {both}"
    ]
    assert story_verify_flags.answered("2026-11-30") == [f"at 2026-11-30 00:00:00: {both}", END]


@pytest.mark.parametrize(("transition", "reached"), [("retire", "retired"), ("recall", "recalled")])
def test_a_flag_that_outlives_its_adapter_gives_it_to_nobody(
    story_verify_flags: Story, transition: str, reached: str
) -> None:
    story_verify_flags.move(transition, "production", reached)
    assert story_verify_flags.answered("2026-11-29")[0].endswith(f"; {ADAPTER} answered nobody, as it was {reached}")
    assert "answered nobody" not in story_verify_flags.answered("2026-11-27T10:00")[0]


@pytest.mark.security_case(
    "An evidence package omits the newest change of a flag", "the output says that no flag follows"
)
def test_a_staging_that_no_flag_follows_is_said() -> None:
    story_verify_flags = Story()
    _in_production(story_verify_flags)
    story_verify_flags.flag(ADAPTER)
    story_verify_flags.at = moment(28)
    _staged(story_verify_flags)
    told = f"production: {ADAPTER}, although {OTHER} was staged from then on by the transitions; no flag change follows"
    assert story_verify_flags.answered("2026-11-29") == [f"at 2026-11-29 00:00:00: {told}"]


@pytest.mark.security_case("A flag serves an adapter that was withdrawn before", "the evidence package is rejected")
@pytest.mark.parametrize("cause", ["transition", "regression", "rollback"])
@pytest.mark.parametrize("told", [{}, {"overtaken": "Others decided."}], ids=["counting", "overtaken"])
def test_a_flag_gives_out_nothing_that_was_taken_back(story_verify_flags: Story, cause: str, told: Any) -> None:
    story_verify_flags.move("unstage", "staged", "approved", OTHER)
    story_verify_flags.flag(ADAPTER, OTHER, cause=cause, told=told)
    with pytest.raises(verify.Refused, match=r"or a later one ended that|it does not stop the staged adapter"):
        story_verify_flags.answered("2026-11-29")


def test_a_rollback_gives_out_what_its_officer_asked_for() -> None:
    """Others decided meanwhile, so that its transition was never made."""
    for by, counts in (("layla", True), ("clerk", False)):
        story_verify_flags = Story()
        _in_production(story_verify_flags)
        story_verify_flags.flag(ADAPTER)
        _staged(story_verify_flags)
        promoted = story_verify_flags.ask("promote", "staged", "production", adapter=OTHER, incumbent=ADAPTER)
        approval = story_verify_flags.decide(promoted)
        story_verify_flags.make(promoted, "supersede", "production", "superseded", approval)
        story_verify_flags.make(promoted, "promote", "staged", "production", approval, adapter=OTHER)
        story_verify_flags.flag(OTHER)
        asked = story_verify_flags.ask("roll_back", "superseded", "production", by, incumbent=OTHER, approvals=0)
        story_verify_flags.flag(ADAPTER, cause="rollback", request=asked)
        if counts:
            assert story_verify_flags.answered("2026-11-29")[0].endswith(
                f"although {ADAPTER} was already superseded by the transitions"
            )
            continue
        with pytest.raises(verify.Refused, match=f"no transition before it made {ADAPTER} production"):
            story_verify_flags.answered("2026-11-29")


@pytest.mark.parametrize("is_late", [True, False])
def test_a_late_rollback_follows_the_rules_of_its_time(story: Story, is_late: bool) -> None:
    """The gateway followed it on the 27th, and it was logged after other rules and after its request had expired."""
    _replaced(story)
    story.at, newer = moment(29), b"newer rules"
    story.package.files[f"policy/{verify.sha256(newer)}.yaml"] = newer
    story.enter("policy changed", {"file": "institution.yaml", "now": verify.sha256(newer)}, "")
    asked: dict[str, Any] = {"incumbent": OTHER, "approvals": 0, "expires": moment(28)}
    back = story.ask("roll_back", "superseded", "production", **asked)
    story.make(back, "supersede", "production", "superseded", adapter=OTHER)
    story.make(back, "roll_back", "superseded", "production")
    if not is_late:
        with pytest.raises(verify.Refused, match=r"institution\.yaml [0-9a-f]+ was not in force"):
            story.changes()
        return
    story.flag(ADAPTER, cause="rollback", request=back, at=AT)
    assert story.changes()[-2:] == ["superseded", "production"]


@pytest.mark.security_case("A flag's file, statement and entry differ, or its share is invalid", "rejected by name")
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"file": {"flags": {}}}, "the file differs from the signed statement"),
        ({"told": {"share": "0.5"}}, "entry .* differs from the signed statement"),
        ({"told": {"groups": ["desk"]}}, "entry .* differs from the signed statement"),
        ({"told": {"stopped": "harm"}}, "entry .* differs from the signed statement"),
        ({"told": {"made_at": moment(20)}}, "entry .* differs from the signed statement"),
        ({"at": moment(29)}, "is dated .*, after entry"),
        ({"at": moment(20)}, "is dated .*, before entry"),
    ],
    ids=["file", "share", "groups", "stopped", "time", "dated later", "dated back"],
)
def test_a_flag_says_one_thing(story_verify_flags: Story, planted: dict[str, Any], why: str) -> None:
    story_verify_flags.flag(ADAPTER, OTHER, **planted)
    with pytest.raises(verify.Refused, match=why):
        story_verify_flags.answered("2026-11-29")


@pytest.mark.security_case("A flag in an evidence package assigns more than 100 % of the users", "rejected")
def test_a_share_is_one(story_verify_flags: Story) -> None:
    story_verify_flags.package.acts = verify.read_acts(story_verify_flags.package)
    *_, (entry, act) = story_verify_flags.package.acts_of("flag changed")
    act.predicate["share"], entry["subjects"]["share"] = 1e9, "1e+09"
    with pytest.raises(verify.Refused, match="the share is not a number between 0 and 1"):
        verify.read_flags(story_verify_flags.package, "lamps", verify.read_changes(story_verify_flags.package, "lamps"))


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


OLD, NEW, LAST = ([generate() for _ in range(3)] for _ in range(3))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Those of a trust root whose keys were changed twice."""
    directory = tmp_path_factory.mktemp("trust") / "trust"
    create_trust(directory, OLD, {"pipeline": [generate().public_pem]})
    rotate_root(directory, NEW, OLD[:2])
    rotate_root(directory, LAST, NEW[:2])
    return {f"trust/{path.name}": path.read_bytes() for path in Path(directory).iterdir()}


def _read(files: dict[str, bytes], first: bytes) -> verify.Trust:
    package = verify.Package({**files})
    package.index = {"made_at": moment(27)}
    return verify.read_trust(package, verify.sha256(first))


def _signed_by(file: bytes, signers: list[FileSigner]) -> bytes:
    content: dict[str, Any] = json.loads(file)
    message = verify.tuf_canonical(content["signed"]).encode()
    content["signatures"] = [{"keyid": each.keyid, "sig": each.sign(message).hex()} for each in signers]
    return json.dumps(content).encode()


@pytest.mark.security_case("A later root is not signed by the previous root's keys, or not by its own", "rejected")
@pytest.mark.parametrize(
    "signers", [NEW, OLD, [*OLD[:1], *NEW], [*OLD, *NEW[:1]]], ids=["new", "old", "1 old", "1 new"]
)
def test_a_root_is_signed_by_old_keys_and_new(files: dict[str, bytes], signers: list[FileSigner]) -> None:
    forged = files | {"trust/2.root.json": _signed_by(files["trust/2.root.json"], signers)}
    with pytest.raises(verify.Refused, match=r"trust/2\.root\.json: [01] of the 2 required keys signed it"):
        _read(forged, files["trust/1.root.json"])
    again = files | {"trust/2.root.json": _signed_by(files["trust/2.root.json"], [*OLD[:2], *NEW[:2]])}
    assert _read(again, files["trust/1.root.json"]).root_version == 3


@pytest.mark.security_case("A root in the middle of the chain is missing, or is given as the first", "rejected")
@pytest.mark.security_case(
    "An evidence package has a trust root from before a change of its keys", "rejected as outdated"
)
def test_no_root_is_left_out(files: dict[str, bytes]) -> None:
    first, second, third = (files[f"trust/{number}.root.json"] for number in (1, 2, 3))
    left_out = {name: content for name, content in files.items() if name != "trust/2.root.json"}
    with pytest.raises(verify.Refused, match=r"trust/root\.json: it is not the newest root"):
        _read(left_out, first)
    with pytest.raises(verify.Refused, match=r"trust/2\.root\.json: 0 of the 2 required keys"):
        _read(left_out | {"trust/2.root.json": third}, first)
    with pytest.raises(verify.Refused, match=r"trust/1\.root\.json: it is not version 1 of the root"):
        _read(files | {"trust/1.root.json": second}, second)
    older = {"trust/1.root.json": first, "trust/root.json": first, "trust/targets.json": files["trust/targets.json"]}
    with pytest.raises(verify.Refused, match=r"trust/targets\.json: 0 of the 2 required keys signed it"):
        _read(older, first)


@pytest.mark.security_case("The targets are signed by root keys that were replaced", "rejected")
def test_the_targets_are_the_newest_roots(files: dict[str, bytes]) -> None:
    forged = files | {"trust/targets.json": _signed_by(files["trust/targets.json"], NEW)}
    with pytest.raises(verify.Refused, match=r"trust/targets\.json: 0 of the 2 required keys signed it"):
        _read(forged, files["trust/1.root.json"])


DARK = f"; {ADAPTER} answered nobody, under recall-1"


@pytest.mark.security_case(
    "An adapter in production was recalled for a time, and the evidence package is asked what answered then",
    "the output says that it answered nobody from the recall to its waiver, with or without a flag",
)
@pytest.mark.parametrize("has_flag", [True, False])
def test_an_adapter_answers_nobody_from_a_recall_to_its_waiver(has_flag: bool) -> None:
    made = Story()
    _in_production(made)
    if has_flag:
        made.flag(ADAPTER)
    made.at = moment(28)
    _recall(made, "recall-1", ADAPTER, OTHER)
    if has_flag:
        made.flag(ADAPTER)
    made.at = moment(29)
    _waive(made, "recall-1", OTHER)
    _waive(made, "recall-1", ADAPTER)
    before, *_ = made.answered("2026-11-27T10:00")
    assert DARK not in before and ADAPTER in before
    assert made.answered("2026-11-28T10:00")[0].endswith(DARK)
    day = made.answered("2026-11-28")
    assert not day[0].endswith(DARK) and {each.endswith(DARK) for each in day[1:]} == {True}
    assert not made.answered("2026-11-29T10:00")[0].endswith(DARK)


def test_hours_that_the_gateway_entered_are_told() -> None:
    made = Story()
    for hour, count in (("2026-11-27T09:00Z", 5), ("2026-11-27T10:00Z", 7)):
        said = {"line": "lamps", "hour": hour, "answers": count, "by_adapter": {ADAPTER: count}}
        made.enter("hour of answers", said, "gateway")
    (at,) = verify.hours(made.package, "lamps", "2026-11-27T09:30")
    assert at.startswith("5 answers in the hour from 2026-11-27 09:00") and at.endswith(f"{ADAPTER}: 5")
    assert len([*verify.hours(made.package, "lamps", "2026-11-27")]) == 2
    for other in (("lamps", "2026-11-28"), ("lamps", "2026-11-27T11:00"), ("buoys", "2026-11-27")):
        assert [*verify.hours(made.package, *other)] == [
            "the gateway entered no answers at this time, as far as the package shows"
        ]


def _recall(story: Story, name: str, *adapters: str) -> None:
    said = {"recall": name, "source": "letters", "reason": "Withdrawn.", "adapters": list(adapters), "at": story.at}
    story.act("layla", "recall opened", RECALL, RECORD, said)


def _waive(story: Story, name: str, adapter: str) -> None:
    said = {"recall": name, "adapter": adapter, "reason": "It holds nothing of it.", "at": story.at}
    story.act("omar", "recall waived", RECALL_WAIVER, RECORD, said)
