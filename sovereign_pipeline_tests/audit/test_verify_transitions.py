"""Who has the pipeline's and the log's key still needs officers, each for what their key and request allow."""

from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.release.transitions import ARROWS
from sovereign_pipeline_tests.audit.story import ADAPTER, OTHER, Story


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
