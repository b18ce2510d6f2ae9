"""Holds, purges and reviews count by officers who may do so; the verifier says what they did, and refuses the rest."""

from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.record.statements import EARLY_CLOSING, HOLD, HOLD_ACCEPTANCE, PURGE, REVIEW
from sovereign_pipeline_tests.audit.story import ADAPTER, OTHER, RECORD, SIGNERS, Review, Story, moment

JUDGED: dict[str, Any] = {"line": "lamps", "adapter": ADAPTER, "outcome": "inconclusive", "observations": "1" * 64}
JUDGED |= {"incumbent": None, "because": "few asked", "bounds": []}


@pytest.fixture
def story() -> Story:
    return Story()


def _accept(story: Story, by: str = "layla", **more: Any) -> None:
    """more: what the officer signs otherwise, and `told`, what the entry says otherwise."""
    told = more.pop("told", {})
    judgement = story.act("pipeline", "hold judged", HOLD, RECORD, JUDGED)
    said = {"line": "lamps", "adapter": ADAPTER, "judgement": judgement, "outcome": "inconclusive"}
    said |= {"reason": "Few ask.", "at": moment(27)} | more
    story.act(by, "hold accepted", HOLD_ACCEPTANCE, said["judgement"], said, **told)


def test_a_hold_and_who_accepted_it_are_told(story: Story) -> None:
    _accept(story)
    accepted = f'inconclusive hold of {ADAPTER} accepted by layla: "Few ask."'
    assert story.told("Holds") == [f"hold of {ADAPTER}: inconclusive", accepted]


@pytest.mark.security_case(
    "A hold is accepted by an officer who may not promote, in other words, or of another adapter", "refused by name"
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": "clerk"}, "clerk may not promote this"),
        ({"told": {"reason": "All is well."}}, "says something else than what was signed"),
        ({"adapter": OTHER}, "accepts a judgement that is not on record, or another adapter's"),
        ({"judgement": "2" * 64}, "accepts a judgement that is not on record, or another adapter's"),
        ({"outcome": "promote"}, "accepts a judgement that is not on record, or another adapter's"),
        ({"at": moment(29)}, "it is dated 2026-11-29T09:00:00.*, after entry 3"),
    ],
    ids=["who may not", "another reason", "another adapter", "an unknown judgement", "another outcome", "another day"],
)
def test_a_hold_is_accepted_as_it_was_judged(story: Story, planted: dict[str, Any], why: str) -> None:
    _accept(story, **planted)
    with pytest.raises(verify.Refused, match=why):
        story.told("Holds")


@pytest.mark.security_case("The pipeline signs another judgement of a hold than its entry says", "refused")
def test_a_hold_is_judged_as_its_entry_says(story: Story) -> None:
    story.act("pipeline", "hold judged", HOLD, RECORD, JUDGED, outcome="promote")
    with pytest.raises(verify.Refused, match="entry 2 says something else than what was signed"):
        story.told("Holds")


@pytest.mark.security_case("An officer's act is dated before its adapter was registered", "refused")
def test_an_act_is_dated_after_its_adapter_was_registered(story: Story) -> None:
    story.enter("adapter registered", {"adapter": ADAPTER}, "")
    said = {"adapter": ADAPTER, "number": 1, "text": "It stays.", "at": moment(20)}
    story.act("layla", "adapter reviewed", REVIEW, RECORD, said)
    with pytest.raises(verify.Refused, match=r"it is dated 2026-11-20T09:00:00.*, before entry 2"):
        story.told("Officers' acts")


def _purge(story: Story, by: str = "layla", adapter: str = ADAPTER) -> None:
    said = {"line": "lamps", "adapter": adapter, "files": [], "reason": "The disk is full."}
    bundle = story.sign(by, PURGE, RECORD, said)
    told = {"line": "lamps", "adapter": ADAPTER, "weights": [], "bytes": 1}
    told |= {"statement": verify.sha256(bundle), "bundle": bundle.decode()}
    story.enter("release weights purged", told, f"officer:{SIGNERS[by].keyid}")


def test_a_purge_is_told(story: Story) -> None:
    _purge(story)
    (told,) = story.told("Officers' acts")
    assert told.endswith(f': release weights purged by layla, {ADAPTER}: "The disk is full."')


@pytest.mark.security_case("Weights are purged by an officer who may not, or with another adapter's purge", "refused")
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": "clerk"}, "clerk may not retire this"),
        ({"adapter": OTHER}, "says something else than what was signed"),
    ],
    ids=["who may not", "another adapter"],
)
def test_a_purge_is_an_officers(story: Story, planted: dict[str, Any], why: str) -> None:
    _purge(story, **planted)
    with pytest.raises(verify.Refused, match=why):
        story.told("Officers' acts")


def _close_early(story: Story, by: str | None = "omar", ballots: int = 2, **told: Any) -> Review:
    """A review of which two of five ballots were given. `by`: the officer who signs that; None: nobody."""
    review = Review(story, ballots=5)
    said = {
        "line": "lamps",
        "review": review.NAME,
        "ballots": ballots,
        "ballots_sha256": "9" * 64,
        "reason": "On leave.",
    }
    signed = {}
    if by is not None:
        bundle = story.sign(by, EARLY_CLOSING, review.plan.manifest_sha256, said)
        signed = {"officer": SIGNERS[by].keyid, "statement": bundle.decode()}
    result = {"kind": "blind_review", "inputs": {}}
    result["external_inputs"] = {"review_plan": review.plan.digest, "ballots": "9" * 64}
    made = verify.Artifact("7" * 64, result, "8" * 64, 0)
    story.package.artifacts[made.digest] = made
    found = {"adapter": ADAPTER, "opponent": "tiny", "wins": 2, "losses": 0, "ties": 0, "seed": review.seed.hex()}
    story.package.files[f"{made.folder}/review.json"] = verify.canonical(found)
    review.close(2, "review closed early", **{"reason": "On leave.", **signed, **told})
    return review


def test_who_closed_a_review_early_is_told(story: Story) -> None:
    words = [*_close_early(story).words()]
    early = '2 of 5 ballots, closed early by omar: "On leave."'
    assert words == [f"{ADAPTER} against tiny: 2 won, 0 lost, 0 tied; {early}"]


@pytest.mark.security_case(
    "A blind review is closed early by whoever has its key, without an officer's signature, or with another's",
    "evidence of it is refused",
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": None}, "review-1, closed early: no officer signed that"),
        ({"by": "clerk"}, "clerk may not close this"),
        ({"ballots": 5}, "says something else than what is on record"),
        ({"reason": "All is well."}, "says something else than what is on record"),
        ({"officer": SIGNERS["layla"].keyid}, "its entry names another officer"),
    ],
    ids=["nobody", "who may not", "of other ballots", "another reason", "another officer"],
)
def test_a_review_is_closed_early_by_an_officer(story: Story, planted: dict[str, Any], why: str) -> None:
    with pytest.raises(verify.Refused, match=why):
        [*_close_early(story, **planted).words()]


@pytest.mark.security_case("A blind review is closed below its number of ballots as if it were complete", "refused")
def test_a_review_of_too_few_ballots_was_closed_early(story: Story) -> None:
    review = Review(story, ballots=5)
    review.close(4)
    with pytest.raises(verify.Refused, match="review review-1: it was closed with 4 of 5 ballots"):
        [*review.words()]


@pytest.mark.security_case("An act is added to a blind review after its closing", "refused")
def test_nothing_comes_after_the_closing_of_a_review(story: Story) -> None:
    review = Review(story, ballots=5)
    review.close(5)
    assert [*review.words()] == []
    review.act("ballot given")
    with pytest.raises(verify.Refused, match="review review-1: its last act does not close it"):
        [*review.words()]
