"""Staleness: each kind of change is planted once, and the explanation names it and nothing else. Optional inputs."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.base.files import short
from sovereign_pipeline.record import stage as making
from sovereign_pipeline.record.manifest import MANIFEST_FILE
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Gate, Inputs, Stage, Verdict, Workplace, identity_of
from sovereign_pipeline.record.staleness import LONGEST_VALUE, Change, Reason, explain, stale_kinds
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.officers import waive
from sovereign_pipeline_tests.record.small_stages import FIRST, SECOND, SHORT, make, writes

CONFIG = {"rate": 1, "gone": True, "sources": [{"path": "a"}], "levels": ["low", "high"], "note": "x" * 200}
DETAILED = replace(
    FIRST,
    config=lambda line: CONFIG,
    external=lambda workplace: {"suite": "1" * 64, "old": "2" * 64},
    libraries=("pydantic",),
)


def of(stage: Stage, workplace: Workplace) -> tuple[Reason, ...]:
    """The explanation of one stage, after holding it to the decision that `stale_kinds` makes."""
    (explanation,) = explain([stage], workplace)
    assert explanation.is_stale == bool(stale_kinds([stage], workplace))
    return explanation.reasons


def change_of(stage: Stage, workplace: Workplace) -> Change:
    (reason,) = of(stage, workplace)
    assert reason.cause == "identity changed"
    (change,) = reason.changes
    return change


def test_what_was_made_under_the_present_recipe_has_no_reason(workplace: Workplace) -> None:
    make(SECOND, workplace, first=make(FIRST, workplace))
    assert [each.reasons for each in explain([FIRST, SECOND], workplace)] == [(), ()]
    assert stale_kinds([FIRST, SECOND], workplace) == []


def test_nothing_made_yet_makes_all_below_stale(workplace: Workplace) -> None:
    first, second = explain([FIRST, SECOND], workplace)
    assert first.reasons == (Reason("never made"),)
    assert second.reasons == (Reason("upstream stale", "first"), Reason("never made"))
    assert stale_kinds([FIRST, SECOND], workplace) == ["first", "second"]


def config(**changes: object) -> Callable[[Stage], Stage]:
    given = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    return lambda stage: replace(stage, config=lambda line: given)


def files(**digests: str) -> Callable[[Stage], Stage]:
    return lambda stage: replace(stage, external=lambda workplace: digests)


LONG = "x" * (LONGEST_VALUE - 1) + "…"


@pytest.mark.parametrize(
    ("alter", "change"),
    [
        (lambda stage: replace(stage, code_version="2"), Change("code version", "", "1", "2")),
        (config(rate=1.0), Change("recipe", "rate", "1", "1.0")),
        (config(gone=None), Change("recipe", "gone", "true", None)),
        (config(new={"depth": 3}), Change("recipe", "new.depth", None, "3")),
        (config(sources=[{"path": "b"}]), Change("recipe", "sources.0.path", "a", "b")),
        (config(levels=["low"]), Change("recipe", "levels", '["low","high"]', '["low"]')),
        (config(note="y" * LONGEST_VALUE), Change("recipe", "note", LONG, "y" * LONGEST_VALUE)),
        (files(suite="3" * 64, old="2" * 64), Change("outside file", "suite", "1" * 12, "3" * 12)),
        (files(suite="1" * 64), Change("outside file", "old", "2" * 12, None)),
        (files(suite="1" * 64, old="2" * 64, new="4" * 64), Change("outside file", "new", None, "4" * 12)),
    ],
)
def test_the_field_that_changed_is_named_with_both_values(
    workplace: Workplace, alter: Callable[[Stage], Stage], change: Change
) -> None:
    make(DETAILED, workplace)
    assert of(DETAILED, workplace) == ()
    altered = replace(alter(DETAILED), gates=DETAILED.gates)
    assert change_of(altered, workplace) == change


def test_another_ladder_is_named_for_the_artifact_and_for_its_gate(workplace: Workplace) -> None:
    make(FIRST, workplace)
    levels = workplace.institution.classification
    institution = workplace.institution.model_copy(update={"classification": (*levels, "MORE")})
    gate, identity = of(FIRST, replace(workplace, institution=institution))
    assert (gate.cause, identity.cause) == ("gate without record", "identity changed")
    assert gate.changes == identity.changes
    (change,) = identity.changes
    assert change.field == "classification ladder"
    assert "MORE" in (change.now or "") and "MORE" not in (change.before or "")


def test_a_gate_without_a_record_says_what_changed_since_it_was_evaluated(workplace: Workplace) -> None:
    ref = produce(FIRST, workplace, {}).ref
    workplace.store.make_current("lamps", "first", ref)
    assert of(FIRST, workplace) == (Reason("gate without record", "is_short"),)
    other = replace(SHORT, name="another", config=lambda line: {"depth": 1})
    make(replace(FIRST, gates=(SHORT, other)), workplace)
    stricter = replace(FIRST, gates=(replace(SHORT, config=lambda line: {"margin": 5}), other))
    (reason,) = of(stricter, workplace)
    assert reason == Reason("gate without record", "is_short", (Change("recipe", "margin", None, "5"),))
    assert str(reason) == "gate is_short was not evaluated since a change: recipe margin: added, 5"


def in_doubt(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return Verdict(False, "3 rows show neither.", inconclusive=True)


def test_a_gate_that_did_not_pass_is_named_until_it_is_waived(workplace: Workplace) -> None:
    doubt = Gate("doubt", "Is it?", "1", in_doubt, officer_may=lambda line: "override")
    stage = replace(FIRST, gates=(SHORT, doubt))
    ref = make(stage, workplace)
    assert of(stage, workplace) == (Reason("gate not passed", "doubt"),)
    waive(stage, doubt, workplace, ref, "Because.")
    assert of(stage, workplace) == ()


def test_a_passthrough_is_stale_with_its_input_and_when_the_recipe_ends_or_begins_it(workplace: Workplace) -> None:
    idle = Stage("idle", "1", writes("own"), inputs=(FIRST,), passthrough_of=lambda line: "first")
    first = make(FIRST, workplace)
    make(idle, workplace, first=first)
    assert of(idle, workplace) == ()
    renewed = replace(FIRST, build=writes("new"), code_version="2")
    new = make(renewed, workplace)
    behind = replace(idle, inputs=(renewed,))
    assert change_of(behind, workplace) == Change("input", "first", short(first.digest), short(new.digest))
    busy = replace(behind, passthrough_of=lambda line: None)
    assert of(busy, workplace) == (Reason("passthrough changed"),)
    make(busy, workplace, first=new)
    assert of(behind, workplace) == (Reason("passthrough changed"),)


@pytest.mark.parametrize(
    "other",
    [
        replace(FIRST, gates=(replace(SHORT, code_version="2"),)),
        replace(FIRST, inputs=(Stage("zero", "1", writes("")),)),
    ],
    ids=["gate", "input"],
)
def test_what_a_consumer_would_refuse_is_stale(workplace: Workplace, other: Stage) -> None:
    """The chain has another stage of this name than the one through which a consumer looks."""
    make(SECOND, workplace, first=make(FIRST, workplace))
    assert explain([FIRST, replace(SECOND, inputs=(other,))], workplace)[1].reasons == (Reason("not usable"),)


@pytest.mark.parametrize("changed", [0, 1], ids=["upstream", "itself"])
def test_a_changed_manifest_is_found_and_never_taken_for_current(workplace: Workplace, changed: int) -> None:
    first = make(FIRST, workplace)
    refs = (first, make(SECOND, workplace, first=first))
    path = workplace.store.path_of(refs[changed].digest) / MANIFEST_FILE
    content = json.loads(path.read_bytes())
    content["circumstances"]["created_at"] = "2001-01-01T00:00:00+00:00"
    path.chmod(0o644)
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="manifest"):
        stale_kinds([FIRST, SECOND], workplace)


def test_a_planted_index_makes_nothing_current(workplace: Workplace) -> None:
    first = make(FIRST, workplace)
    second = make(SECOND, workplace, first=first)
    later = replace(SECOND, code_version="9")
    workplace.store.remember(making.identity_of(later, workplace, {"first": first}).fingerprint, second)
    assert stale_kinds([FIRST, later], workplace) == ["second"]


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
    with pytest.raises(StaleInput, match=r"second .* is stale\. It was built without third, which the recipe now"):
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
