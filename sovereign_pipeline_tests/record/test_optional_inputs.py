"""An input that some lines read: part of what is made for these, and of nothing else."""

from dataclasses import replace

import pytest

from sovereign_pipeline.base.errors import GateRefused, StaleInput
from sovereign_pipeline.record.stage import Stage, Verdict, Workplace, identity_of
from sovereign_pipeline.record.staleness import Change, Reason, explain, stale_kinds
from sovereign_pipeline_tests.record.small_stages import FIRST, SECOND, SHORT, make, writes

FAILING = replace(SHORT, evaluate=lambda workplace, artifact, inputs: Verdict(False, "it is long.", {}))


def optional(stage: Stage) -> Stage:
    """`SECOND` with one more input, which lines with canaries read."""
    return replace(
        SECOND,
        optional_inputs=(stage,),
        reads_optional=lambda line: (stage.kind,) if line.training.canaries is not None else (),
    )


def reading(workplace: Workplace) -> Workplace:
    training = workplace.line.training
    planted = type(training).model_validate({**training.model_dump(), "canaries": {}})
    return replace(workplace, line=workplace.line.model_copy(update={"training": planted}))


def test_a_line_that_does_not_read_it_makes_what_it_made_before(workplace: Workplace) -> None:
    first = make(FIRST, workplace)
    before = make(SECOND, workplace, first=first)
    failing = Stage("third", "1", writes("third"), gates=(FAILING,))
    stage = optional(failing)
    make(failing, workplace)
    assert identity_of(stage, workplace, {"first": first}).fingerprint == (
        identity_of(SECOND, workplace, {"first": first}).fingerprint
    )
    assert make(stage, workplace, first=first) == before
    assert stale_kinds([FIRST, failing, stage], workplace) == ["third"], "its own gate did not pass, and no other"


def test_a_line_that_reads_it_is_stale_with_it_and_joins_its_level(workplace: Workplace) -> None:
    third = Stage("third", "1", writes("third", "CONFIDENTIAL"), gates=(SHORT,))
    stage, workplace = optional(third), reading(workplace)
    first = make(FIRST, workplace)
    earlier = make(SECOND, workplace, first=first)
    (reason,) = explain([FIRST, third, stage], workplace)[2].reasons[:1]
    assert reason == Reason("upstream stale", "third")
    ref = make(third, workplace)
    follower = Stage("fourth", "1", writes("fourth"), inputs=(stage,))
    with pytest.raises(StaleInput, match=r"second .* is stale\. It was built without third, which the line now needs"):
        make(follower, workplace, second=earlier)
    made = make(stage, workplace, first=first, third=ref)
    manifest = workplace.store.read_manifest(made)
    assert made != earlier and manifest.inputs == {"first": first.digest, "third": ref.digest}
    assert manifest.classification == "CONFIDENTIAL"
    assert stale_kinds([FIRST, third, stage], workplace) == []
    renewed = replace(third, code_version="2")
    other = make(renewed, workplace)
    assert other.digest != ref.digest
    changed = Change("input", "third", ref.digest[:12], other.digest[:12])
    assert explain([FIRST, renewed, optional(renewed)], workplace)[2].reasons == (
        Reason("identity changed", changes=(changed,)),
    )
    with pytest.raises(StaleInput, match=r"third .* is stale"):
        make(replace(follower, inputs=(optional(renewed),)), workplace, second=made)


@pytest.mark.security_case("A line uses a reward model whose gate did not pass", "nothing is built from it")
def test_its_gates_count_for_those_that_read_it(workplace: Workplace) -> None:
    failing = Stage("third", "1", writes("third"), gates=(FAILING,))
    stage = optional(failing)
    first, third = make(FIRST, workplace), make(failing, workplace)
    with pytest.raises(GateRefused, match="gate 'is_short' failed for third"):
        make(stage, reading(workplace), first=first, third=third)
    assert make(stage, workplace, first=first)
