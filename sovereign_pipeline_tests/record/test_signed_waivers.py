"""A waiver counts by an officer's key alone: each way to have one without is refused."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SignInError, SovereignError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.gates import propose_waiver, recorded_verdict, waiver_identity
from sovereign_pipeline.record.gates import waive as waive_by_key
from sovereign_pipeline.record.keys import FileSigner, generate, read_key
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import TRUST, trust_root
from sovereign_pipeline.record.stage import Built, Stage, Workplace, make_artifact
from sovereign_pipeline.record.statements import WAIVER, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.trust_changes import add_officer, revoke
from sovereign_pipeline_tests.officers import officer, waive
from sovereign_pipeline_tests.record.small_stages import make
from sovereign_pipeline_tests.record.test_waiver import consume, stage_that


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


def test_an_entry_that_names_the_statement_and_no_person_precedes_the_waiver(workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    made, waiver = waive(stage, stage.gates[0], workplace, ref)
    bundle = workplace.store.open(made).file("waiver.sigstore.json").read_bytes()
    with open_registry(workplace.settings).reading() as session:
        (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.action == "gate waived"))
    assert entry.actor == f"officer:{waiver.officer}"
    assert entry.subjects["statement"] == hashlib.sha256(bundle).hexdigest()
    assert (entry.subjects["gate"], entry.subjects["artifact"]) == ("scores", ref.digest)
    assert "Demonstration Officer" not in str(entry.subjects)


def test_what_cannot_be_put_on_record_is_not_waived(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    key = officer(workplace.settings)
    proposal = propose_waiver(stage, stage.gates[0], workplace, ref, "Because.")
    for file in workplace.settings.home.glob("registry.db*"):
        file.unlink()
    (workplace.settings.home / "registry.db").write_bytes(b"no database")
    with pytest.raises(SovereignError, match="registry cannot be opened"):
        waive_by_key(proposal, key)
    assert not list(workplace.store.root.glob("*/waiver.json"))


def test_who_may_not_waive_at_this_level_does_not(workplace: Workplace) -> None:
    """The artifact is SECRET."""
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    proposal = propose_waiver(stage, stage.gates[0], workplace, ref, "Because.")
    for may, level in (("waive", "PUBLIC"), ("promote", "SECRET")):
        with pytest.raises(SignInError, match="may not decide about 'waive' at SECRET"):
            waive_by_key(proposal, add(workplace, may, level))
    with pytest.raises(IntegrityError, match="does not have the role officer"):
        waive_by_key(proposal, generate())
    waive_by_key(proposal, add(workplace, "waive", "SECRET"))
    consume(stage, workplace, ref)


def test_without_a_trust_root_nobody_waives_and_no_waiver_counts(workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    proposal, trust = propose_waiver(stage, stage.gates[0], workplace, ref, "Because."), workplace.settings.data / TRUST
    elsewhere = trust.with_name("elsewhere")
    trust.rename(elsewhere)
    with pytest.raises(NotFoundError, match="there is no trust root"):
        waive_by_key(proposal, generate())
    elsewhere.rename(trust)
    waive(stage, stage.gates[0], workplace, ref)
    trust.rename(elsewhere)
    with pytest.raises(NotFoundError, match="there is no trust root"):
        consume(stage, workplace, ref)


def test_one_that_nobody_signed_counts_for_nothing(workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    key = officer(workplace.settings)
    files = statement_of(workplace, stage, ref, key)
    plant(workplace, stage, ref, {"waiver.json": files["waiver.json"]})
    with pytest.raises(IntegrityError, match="no officer signed"):
        consume(stage, workplace, ref)


def test_one_that_is_on_no_record_does_not_count(workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    plant(workplace, stage, ref, statement_of(workplace, stage, ref, officer(workplace.settings)))
    with pytest.raises(IntegrityError, match="this waiver has no ledger entry"):
        consume(stage, workplace, ref)


@pytest.mark.parametrize(("may", "level"), [("waive", "INTERNAL"), ("approve", "*")])
def test_one_by_an_officer_who_may_not_is_found_out_though_it_is_on_record(
    may: str, level: str, workplace: Workplace
) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    key = add(workplace, may, level)
    files = statement_of(workplace, stage, ref, key)
    enter(workplace, files, key)
    plant(workplace, stage, ref, files)
    with pytest.raises(IntegrityError, match="may not decide about 'waive' at SECRET"):
        consume(stage, workplace, ref)


@pytest.mark.parametrize(
    "changes",
    [{"artifact": "0" * 64}, {"record": "0" * 64}, {"reason": "Other."}, {"kind": "accept"}, {"line": "lanterns"}],
)
def test_a_signature_for_something_else_is_none_for_this(changes: dict[str, str], workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
    key = officer(workplace.settings)
    files = statement_of(workplace, stage, ref, key, **changes)
    enter(workplace, files, key)
    plant(workplace, stage, ref, files)
    with pytest.raises(IntegrityError, match="signed another waiver"):
        consume(stage, workplace, ref)


def test_a_waiver_counts_until_the_place_from_which_its_key_is_revoked(workplace: Workplace) -> None:
    stage = stage_that("fail", "override")
    ref = make(stage, workplace)
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
    with pytest.raises(IntegrityError, match="is revoked from entry 0"):
        consume(later, workplace, make(later, workplace))
