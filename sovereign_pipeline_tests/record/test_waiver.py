"""An officer's waiver: only where the recipe allows it, only of exactly one verdict, and by an officer's key alone."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sovereign_pipeline.base.errors import (
    GateRefused,
    InputError,
    IntegrityError,
    Remedy,
    SignInError,
    SovereignError,
)
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.dagster.chain import CHAIN
from sovereign_pipeline.policy.evaluation import Gates, OfficerMay
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.gates import (
    evaluate_gates,
    passing_verdict,
    propose_waiver,
    recorded_verdict,
    waiver_identity,
    waiver_in,
)
from sovereign_pipeline.record.gates import waive as waive_by_key
from sovereign_pipeline.record.keys import FileSigner, generate, read_key
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import TRUST, trust_root
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Outcome, Stage, Verdict, Workplace, make_artifact
from sovereign_pipeline.record.statements import WAIVER, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.trust_changes import add_officer, revoke
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.officers import PERSON, officer, waive
from sovereign_pipeline_tests.record.small_stages import make, writes


def says(outcome: Outcome) -> Callable[[Workplace, object, Inputs], Verdict]:
    return lambda workplace, artifact, inputs: Verdict(
        outcome == "pass", f"it is {outcome}.", {"n": 3}, inconclusive=outcome == "inconclusive"
    )


def stage_that(outcome: Outcome, may: OfficerMay, text: str = "abc", margin: float = 0.1) -> Stage:
    gate = Gate(
        "scores",
        "Is it good?",
        "1",
        says(outcome),
        config=lambda line: {"margin": margin},
        officer_may=lambda line: may,
    )
    return Stage("first", "1", writes(text, "SECRET"), config=lambda line: {"text": text}, gates=(gate,))


def consume(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> None:
    produce(Stage("second", "1", writes("second"), inputs=(stage,)), workplace, {"first": ref})


Failed = tuple[Stage, ArtifactRef]


@pytest.fixture
def failed(workplace: Workplace) -> Failed:
    """A SECRET artifact that did not pass its gate, which an officer may override."""
    stage = stage_that("fail", "override")
    return stage, make(stage, workplace)


@pytest.mark.parametrize(
    ("outcome", "may", "kind"),
    [
        ("inconclusive", "accept_inconclusive", "accept"),
        ("inconclusive", "override", "accept"),
        ("fail", "override", "override"),
    ],
)
def test_what_the_recipe_allows_lets_exactly_this_artifact_pass(
    outcome: Outcome, may: OfficerMay, kind: str, workplace: Workplace
) -> None:
    stage = stage_that(outcome, may)
    ref = make(stage, workplace)
    with pytest.raises(GateRefused, match="Or ask an officer to waive the gate") as refused:
        consume(stage, workplace, ref)
    assert refused.value.remedy == Remedy("waive_gate", {"line": "lamps", "gate": "scores"})
    made, _ = waive(stage, stage.gates[0], workplace, ref, "The suite is being enlarged.")
    consume(stage, workplace, ref)
    answer = passing_verdict(stage, stage.gates[0], workplace, ref)
    assert (answer.waiver, answer.verdict.passed) == (made, False)
    artifact = workplace.store.open(made)
    assert waiver_in(workplace, made).model_dump() == {
        "gate": "scores",
        "kind": kind,
        "officer": officer(workplace.settings).keyid,
        "reason": "The suite is being enlarged.",
    }
    assert artifact.manifest.inputs == {"gate_record": answer.record.digest}
    assert artifact.manifest.classification == "SECRET"


@pytest.mark.parametrize(
    ("outcome", "may", "said"),
    [
        ("inconclusive", "nothing", "permits waiving nothing"),
        ("fail", "nothing", "permits waiving nothing"),
        ("fail", "accept_inconclusive", "waiving only an inconclusive verdict"),
    ],
)
def test_what_the_recipe_does_not_allow_is_refused_when_it_is_made(
    outcome: Outcome, may: OfficerMay, said: str, workplace: Workplace
) -> None:
    stage = stage_that(outcome, may)
    ref = make(stage, workplace)
    with pytest.raises(GateRefused, match=said):
        waive(stage, stage.gates[0], workplace, ref, "Because.")
    assert not list(workplace.store.root.glob("*/waiver.json"))


def test_another_candidate_and_another_policy_are_not_accepted_with_it(workplace: Workplace) -> None:
    stage = stage_that("inconclusive", "accept_inconclusive")
    waive(stage, stage.gates[0], workplace, make(stage, workplace), "Because.")
    candidate = stage_that("inconclusive", "accept_inconclusive", text="other")
    with pytest.raises(GateRefused, match="is inconclusive"):
        consume(candidate, workplace, make(candidate, workplace))
    policy = stage_that("inconclusive", "accept_inconclusive", margin=0.2)
    with pytest.raises(GateRefused, match="is inconclusive"):
        consume(policy, workplace, make(policy, workplace))
    wider = stage_that("inconclusive", "override")
    with pytest.raises(GateRefused, match="is inconclusive"):
        consume(wider, workplace, make(wider, workplace))
    consume(stage, workplace, make(stage, workplace))


def test_wrong_usage_says_what_is_wrong(workplace: Workplace) -> None:
    stage = stage_that("inconclusive", "accept_inconclusive")
    ref = produce(stage, workplace, {}).ref
    with pytest.raises(GateRefused, match="nothing to waive"):
        waive(stage, stage.gates[0], workplace, ref, "Because.")
    evaluate_gates(stage, workplace, ref)
    for reason in ("", "  "):
        with pytest.raises(InputError, match="needs a reason or findings"):
            waive(stage, stage.gates[0], workplace, ref, reason)
    waive(stage, stage.gates[0], workplace, ref, "Because.")
    with pytest.raises(InputError, match=f"{PERSON} has already waived"):
        waive(stage, stage.gates[0], workplace, ref, number=2)
    passed = stage_that("pass", "override", text="good")
    with pytest.raises(InputError, match="passed, so there is nothing to waive"):
        waive(passed, passed.gates[0], workplace, make(passed, workplace), "Because.")


def test_only_gates_of_the_evaluation_know_an_officer(institution: DemoInstitution) -> None:
    institution.recipe["gates"] = {name: {"officer_may": "override"} for name in Gates.model_fields if name != "review"}
    line = institution.workplace().line
    knowing = {stage.kind for stage in CHAIN for gate in stage.gates if gate.officer_may(line) != "nothing"}
    assert knowing <= {"evaluation_report"}


def roots(workplace: Workplace) -> list[FileSigner]:
    officer(workplace.settings)
    return [read_key(workplace.settings.keys / f"root-{number}.key", lambda: "") for number in (1, 2)]


def add(workplace: Workplace, may: str, level: str) -> FileSigner:
    """One more officer."""
    signers, key = roots(workplace), generate()
    add_officer(workplace.settings.data / TRUST, key.public_pem, f"May {may} {level}", [may], [level], signers)
    return key


def plant(workplace: Workplace, stage: Stage, ref: ArtifactRef, files: Mapping[str, bytes]) -> None:
    """A waiver in the store and its index, made past `waive`."""
    (gate,) = stage.gates
    recorded = recorded_verdict(gate, workplace, ref)
    assert recorded is not None

    def build(workspace: Path) -> Built:
        for name, content in files.items():
            (workspace / name).write_bytes(content)
        return Built(summary={"gate": gate.name, "kind": "override"})

    make_artifact(workplace, waiver_identity(gate, workplace, recorded.record, recorded.verdict), build)


def statement_of(workplace: Workplace, stage: Stage, ref: ArtifactRef, signer: FileSigner, **changes: Any) -> Any:
    """The two files of a waiver that this key signs."""
    recorded = recorded_verdict(stage.gates[0], workplace, ref)
    assert recorded is not None
    said = {"gate": "scores", "kind": "override", "officer": signer.keyid, "reason": "Because."}
    content = canonical_json(said) + b"\n"
    predicate = {
        "line": "lamps",
        "gate": "scores",
        "kind": "override",
        "reason": "Because.",
        "artifact": ref.digest,
        "record": recorded.record.digest,
        **changes,
    }
    subject = Subject("waiver.json", hashlib.sha256(content).hexdigest())
    bundle = sign_statement(signer, Statement((subject,), WAIVER, predicate))
    return {"waiver.json": content, "waiver.sigstore.json": bundle}


def enter(workplace: Workplace, files: Mapping[str, bytes], signer: FileSigner) -> None:
    """What somebody does who can write to the database."""
    statement = hashlib.sha256(files["waiver.sigstore.json"]).hexdigest()
    workplace.waivers.enter(signer.keyid, trust_root(workplace.settings), {"statement": statement})


def test_an_entry_that_names_the_statement_and_no_person_precedes_the_waiver(
    workplace: Workplace, failed: Failed
) -> None:
    stage, ref = failed
    made, waiver = waive(stage, stage.gates[0], workplace, ref)
    bundle = workplace.store.open(made).file("waiver.sigstore.json").read_bytes()
    with open_registry(workplace.settings).reading() as session:
        (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.action == "gate waived"))
    assert entry.actor == f"officer:{waiver.officer}"
    assert entry.subjects["statement"] == hashlib.sha256(bundle).hexdigest()
    assert (entry.subjects["gate"], entry.subjects["artifact"]) == ("scores", ref.digest)
    assert "Demonstration Officer" not in str(entry.subjects)


def test_what_cannot_be_put_on_record_is_not_waived(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, failed: Failed
) -> None:
    stage, ref = failed
    key = officer(workplace.settings)
    proposal = propose_waiver(stage, stage.gates[0], workplace, ref, "Because.")
    for file in workplace.settings.home.glob("registry.db*"):
        file.unlink()
    (workplace.settings.home / "registry.db").write_bytes(b"no database")
    with pytest.raises(SovereignError, match="registry cannot be opened"):
        waive_by_key(proposal, key)
    assert not list(workplace.store.root.glob("*/waiver.json"))


def test_who_may_not_waive_at_this_level_does_not(workplace: Workplace, failed: Failed) -> None:
    """The artifact is SECRET."""
    stage, ref = failed
    proposal = propose_waiver(stage, stage.gates[0], workplace, ref, "Because.")
    for may, level in (("waive", "PUBLIC"), ("promote", "SECRET")):
        with pytest.raises(SignInError, match="the permission 'waive' at SECRET"):
            waive_by_key(proposal, add(workplace, may, level))
    with pytest.raises(IntegrityError, match="does not have the role officer"):
        waive_by_key(proposal, generate())
    waive_by_key(proposal, add(workplace, "waive", "SECRET"))
    consume(stage, workplace, ref)


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ({"signed": False}, "no officer signed"),
        ({"entered": False}, "this waiver has no ledger entry"),
        ({"by": ("waive", "INTERNAL")}, "the permission 'waive' at SECRET"),
        ({"by": ("approve", "*")}, "the permission 'waive' at SECRET"),
        ({"said": {"artifact": "0" * 64}}, "differs from the one that the officer signed"),
        ({"said": {"record": "0" * 64}}, "differs from the one that the officer signed"),
        ({"said": {"reason": "Other."}}, "differs from the one that the officer signed"),
        ({"said": {"kind": "accept"}}, "differs from the one that the officer signed"),
        ({"said": {"line": "lanterns"}}, "differs from the one that the officer signed"),
    ],
)
def test_one_that_no_officer_signed_for_this_is_found_out(
    planted: dict[str, Any], says: str, workplace: Workplace, failed: Failed
) -> None:
    stage, ref = failed
    key = add(workplace, *planted["by"]) if "by" in planted else officer(workplace.settings)
    files = statement_of(workplace, stage, ref, key, **planted.get("said", {}))
    if planted.get("entered", True):
        enter(workplace, files, key)
    plant(workplace, stage, ref, files if planted.get("signed", True) else {"waiver.json": files["waiver.json"]})
    with pytest.raises(IntegrityError, match=says):
        consume(stage, workplace, ref)


def test_a_waiver_counts_until_the_place_from_which_its_key_is_revoked(workplace: Workplace, failed: Failed) -> None:
    stage, ref = failed
    waive(stage, stage.gates[0], workplace, ref)
    keyid = officer(workplace.settings).keyid
    trust = workplace.settings.data / TRUST
    with open_registry(workplace.settings).reading() as session:
        after_it = tree.size_of(session)
    revoke(trust, keyid, after_it, roots(workplace))
    consume(stage, workplace, ref)
    later = stage_that("fail", "override", text="later")
    with pytest.raises(SignInError, match="is revoked"):
        waive(later, later.gates[0], workplace, make(later, workplace))
    waive(later, later.gates[0], workplace, make(later, workplace), number=2)
    revoke(trust, officer(workplace.settings, 2).keyid, 0, roots(workplace))
    with pytest.raises(IntegrityError, match="is revoked from index 0"):
        consume(later, workplace, make(later, workplace))
