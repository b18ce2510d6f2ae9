"""Who has the pipeline's and the log's key still needs officers, each for what their key and request allow."""

from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.record.statements import APPROVAL
from sovereign_pipeline.release.standing import ARROWS
from sovereign_pipeline_tests.audit.story import ADAPTER, EVIDENCE, OTHER, Story, moment


@pytest.fixture
def story() -> Story:
    """An adapter that was approved."""
    made = Story()
    made.move("approve", "registered", "approved")
    return made


def test_transitions_that_officers_allow_are_read(story: Story) -> None:
    story.move("stage", "approved", "staged")
    story.move("unstage", "staged", "approved")
    assert story.changes() == ["approved", "staged", "approved"]


@pytest.mark.security_case("A request that has taken effect is used for another transition", "refused")
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


def test_one_request_promotes_an_adapter_and_supersedes_the_one_before(story: Story) -> None:
    _replaced(story)
    assert story.changes()[-2:] == ["superseded", "production"]


@pytest.mark.security_case("The request that superseded an adapter is used to supersede it once more", "refused")
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


@pytest.mark.security_case("A promotion supersedes another adapter than its request names", "refused")
def test_a_request_supersedes_the_adapter_that_it_names(story: Story) -> None:
    story.move("stage", "approved", "staged")
    request = story.ask("promote", "staged", "production", incumbent=None)
    approval = story.decide(request)
    story.make(request, "promote", "staged", "production", approval)
    story.make(request, "supersede", "production", "superseded", approval)
    with pytest.raises(verify.Refused, match="transition 4 of line lamps: it is not what request"):
        story.changes()


@pytest.mark.security_case("A request about an adapter is entered as one of another line", "refused")
def test_a_request_is_of_the_line_that_its_officer_named(story: Story) -> None:
    story.ask("stage", "approved", "staged", line="lanterns")
    with pytest.raises(verify.Refused, match="says something else than what was signed"):
        story.changes()


@pytest.mark.security_case("One approval is named twice where two are needed", "refused")
def test_approvals_are_of_different_persons(story: Story) -> None:
    request = story.ask("stage", "approved", "staged", approvals=2)
    approval = story.decide(request)
    story.make(request, "stage", "approved", "staged", approval, approval)
    with pytest.raises(verify.Refused, match="it names approvals that do not count, or fewer than 2"):
        story.changes()


@pytest.mark.security_case("A second approval of the same officer is named where two are needed", "refused")
def test_an_officer_approves_once(story: Story) -> None:
    request = story.ask("stage", "approved", "staged", approvals=2)
    said = {"decision": "approve", "request": request}
    approvals = story.decide(request), story.act("omar", "release approved", APPROVAL, request, {**said, "reason": "x"})
    story.make(request, "stage", "approved", "staged", *approvals)
    with pytest.raises(verify.Refused, match="it names approvals that do not count, or fewer than 2"):
        story.changes()


@pytest.mark.security_case("A transition is dated before its approvals, or after its entry", "refused")
@pytest.mark.parametrize(("day", "why"), [(20, "before entry"), (29, "after entry")])
def test_a_transition_is_dated_between_its_approvals_and_its_entry(story: Story, day: int, why: str) -> None:
    request = story.ask("stage", "approved", "staged")
    story.make(request, "stage", "approved", "staged", story.decide(request), at=moment(day))
    with pytest.raises(verify.Refused, match=f"it is dated .*, {why}"):
        story.changes()


@pytest.mark.security_case("A request was signed about more gates than its adapter has", "refused")
def test_a_request_rests_on_as_many_gates_as_there_are(story: Story) -> None:
    story.move("stage", "approved", "staged", evidence={**EVIDENCE, "gates": 29})
    with pytest.raises(verify.Refused, match="it rests on another adapter's evidence"):
        story.changes()


@pytest.mark.security_case("Newer rules are on record, and their file is kept out of evidence", "refused")
def test_all_rules_on_record_are_here(story: Story) -> None:
    verify.check_rules(story.package)
    story.enter("policy changed", {"file": "institution.yaml", "now": "8" * 64}, "")
    with pytest.raises(verify.Refused, match=f"policy/{'8' * 64}.yaml: the package lacks it"):
        verify.check_rules(story.package)


@pytest.mark.security_case("An entry is dated back behind an earlier one, or follows another one", "refused by number")
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


@pytest.mark.security_case("A transition is made of a request that its requester withdrew", "refused")
@pytest.mark.parametrize("by", ["layla", "clerk"])
def test_a_request_that_was_withdrawn_takes_no_effect(story: Story, by: str) -> None:
    request = story.ask("stage", "approved", "staged", by)
    approval = story.decide(request)
    story.decide(request, by, "withdraw")
    story.make(request, "stage", "approved", "staged", approval)
    with pytest.raises(verify.Refused, match=f"{by} withdrew it before it took effect"):
        story.changes()


@pytest.mark.security_case("An officer who may not decide asks for less than no approvals", "refused")
@pytest.mark.parametrize("more", [{"approvals": -1}, {"approvals": False}, {"approvals": 0.5}, {"policy": {}}], ids=str)
def test_a_request_names_a_number_of_approvals_and_rules(story: Story, more: dict[str, Any]) -> None:
    story.make(story.ask("stage", "approved", "staged", "clerk", **more), "stage", "approved", "staged")
    with pytest.raises(verify.Refused, match="it names no number of approvals, or no rules"):
        story.changes()


@pytest.mark.security_case("An officer who may only recall asks for a recall that ends in production", "refused")
def test_a_transition_leads_where_its_name_says(story: Story) -> None:
    story.make(story.ask("recall", "approved", "production", "clerk", approvals=0), "recall", "approved", "production")
    with pytest.raises(verify.Refused, match="no 'recall' leads from approved to production"):
        story.changes()


@pytest.mark.security_case("An adapter is promoted that was never approved", "refused")
def test_an_adapter_begins_undecided() -> None:
    story = Story()
    story.move("promote", "staged", "production")
    with pytest.raises(verify.Refused, match=f"{ADAPTER} was not staged"):
        story.changes()


def test_both_sides_know_the_same_transitions() -> None:
    assert {str(each.name): ({*each.before}, str(each.after)) for each in ARROWS} == verify.ARROWS
