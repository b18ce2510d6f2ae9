"""The stage scrubbed_corpus and its gate."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyrage
import pytest

from sovereign_pipeline.base.errors import GateRefused, PrivacyError
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.privacy import stages
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.normalisation import NormalisedText
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.privacy.vault import FINDINGS, fingerprint_of, read_public_key, read_vault
from sovereign_pipeline.record.gates import evaluate_gates, passing_verdict
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Verdict, Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus.sources import changed_document
from sovereign_pipeline_tests.materializing import materialize
from sovereign_pipeline_tests.officers import waive
from sovereign_pipeline_tests.privacy.conftest import careless, classified
from sovereign_pipeline_tests.privacy.test_own_definitions import BERTHS


def add_public_key(workplace: Workplace) -> str:
    identity = pyrage.x25519.Identity.generate()
    workplace.settings.vault_public_key.write_text(f"{identity.to_public()}\n")
    return str(identity)


def test_the_stage_scrubs_and_its_gate_passes(institution: DemoInstitution) -> None:
    institution.rows[3]["request"] = "Civil number 87654321, +968 9123 4567, Said Al Busaidi, said@"
    workplace = institution.workplace()
    key = add_public_key(workplace)
    ref = materialize(SCRUBBED_CORPUS, workplace, classified(workplace))
    assert all(verdict.passed for verdict in evaluate_gates(SCRUBBED_CORPUS, workplace, ref).values())
    artifact = workplace.store.open(ref)
    documents = list(read_documents(artifact.file(DOCUMENTS)))
    assert documents[3].request == "Civil number NID_1, PHONE_1, NAME_1, EMAIL_1"
    assert len(documents) == 40
    findings = json.loads(artifact.file(FINDINGS).read_text())
    assert findings["by_language"] == {"en": {"EMAIL": 1, "NAME": 41, "NID": 1, "PHONE": 1}}
    assert findings["documents_touched"] == 1
    assert findings["doubtful"] == {"EMAIL": {"values": 1, "rows": ["R-00003"]}}
    assert artifact.manifest.summary["doubtful"] == {"EMAIL": 1}
    rows = [row for _, rows in read_vault(workplace.settings.vault, key) for row in rows]
    revealed = {row.original for row in rows if row.run == findings["run"]}
    assert {"87654321", "+968 9123 4567", "Said Al Busaidi"} <= revealed
    home = b"".join(path.read_bytes() for path in workplace.settings.home.rglob("*") if path.is_file())
    assert b"Busaidi" not in home


def test_without_the_public_key_nothing_is_made(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    inputs = classified(workplace)
    with pytest.raises(PrivacyError, match="public key is missing") as stopped:
        produce(SCRUBBED_CORPUS, workplace, inputs)
    assert stopped.value.remedy is not None and stopped.value.remedy.act == "make_vault_key"
    workplace.settings.vault_public_key.write_text("age1nonsense")
    with pytest.raises(PrivacyError, match="not an age public key"):
        produce(SCRUBBED_CORPUS, workplace, inputs)


def verdict_on(
    changes: Callable[[str], dict[str, str]], institution: DemoInstitution, gate: str = "no_identifier_left"
) -> Verdict:
    """Of a gate, on a corpus in which these rows have other values, and all authors a placeholder."""
    workplace = institution.workplace()
    stage = careless(lambda source: (changed_document(row, {"author": "NAME_1", **changes(row.id)}) for row in source))
    return evaluate_gates(stage, workplace, produce(stage, workplace, classified(workplace)).ref)[gate]


def test_the_gate_finds_an_identifier_that_was_left(institution: DemoInstitution) -> None:
    planted = {
        "R-00002": "call ٩١٢٣٤٥٦٧",
        "R-00005": "IBAN OM820270310045566770012 of a@b.example",
        "R-00007": "> civil number 1045\n> 7832",
    }
    verdict = verdict_on(lambda row: {"response": planted.get(row, "ok")}, institution)
    assert not verdict.passed
    assert verdict.evidence["left"] == {"EMAIL": 1, "IBAN": 1, "NID": 1, "PHONE": 1}
    assert verdict.evidence["rows"] == ["R-00002", "R-00005", "R-00007"]
    assert "OM82" not in verdict.message


@pytest.mark.parametrize(("left", "outcome"), [("see @canary_desk", "inconclusive"), ("civil number 10457832", "fail")])
def test_an_officer_may_record_that_what_only_looks_like_an_identifier_is_none(
    institution: DemoInstitution, left: str, outcome: str
) -> None:
    institution.recipe["privacy"] = {"officer_may": "accept_inconclusive"}
    workplace = institution.workplace()
    stage = careless(lambda source: (changed_document(row, {"response": left, "author": "NAME_1"}) for row in source))
    ref = produce(stage, workplace, classified(workplace)).ref
    gate = stage.gates[0]
    verdict = evaluate_gates(stage, workplace, ref)[gate.name]
    assert (verdict.outcome, verdict.evidence["rows_with_identifiers"]) == (outcome, 40)
    if outcome == "fail":
        with pytest.raises(GateRefused):
            waive(stage, gate, workplace, ref, "It is the desk's.")
        return
    waive(stage, gate, workplace, ref, "It is the desk's.")
    assert passing_verdict(stage, gate, workplace, ref).waiver is not None


def test_a_row_at_which_the_gate_itself_fails_is_named(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = institution.workplace()
    add_public_key(workplace)
    scrubbed = materialize(SCRUBBED_CORPUS, workplace, classified(workplace))

    read = Detector.read_again

    def fails(self: Detector, language: str, text: str | NormalisedText) -> Any:
        if "w3x" in repr(text):
            raise RuntimeError(text)
        return read(self, language, text)

    monkeypatch.setattr(Detector, "read_again", fails)
    with pytest.raises(PrivacyError, match=r"Line 4 of the scrubbed corpus: .* RuntimeError") as failed:
        stages.evaluate_no_identifier_left(workplace, workplace.store.open(scrubbed), {})
    assert "w3x" not in str(failed.value)


def test_the_recipes_own_recognizers_read_the_output_too(institution: DemoInstitution) -> None:
    institution.recipe["privacy"] |= {"recognizers": [BERTHS]}
    verdict = verdict_on(lambda row: {"response": "BL-ABC-481"} if row == "R-00009" else {}, institution)
    assert not verdict.passed
    assert (verdict.evidence["left"], verdict.evidence["rows"]) == ({"CR": 1}, ["R-00009"])


@pytest.mark.security_case(
    "A level, a case or a row of the scrubbed corpus is changed, and manifest and index are recomputed",
    "the gate `columns_kept` compares every row with the classified corpus and names the rows",
)
@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"classification": "PUBLIC"}, ["line 3", "line 6"]),
        ({"case": "PRM/OTHER"}, ["line 3", "line 6"]),
        ({"rejected": "another reply"}, ["line 3", "line 6"]),
        ({"response": "another reply", "author": "NAME_9"}, []),
    ],
)
def test_the_gate_finds_a_row_that_is_not_the_classified_one(
    institution: DemoInstitution, change: dict[str, str], rows: list[str]
) -> None:
    for row in institution.rows:
        row["classification"] = "SECRET"
    verdict = verdict_on(lambda row: change if row in ("R-00002", "R-00005") else {}, institution, "columns_kept")
    assert verdict.passed is not bool(rows)
    assert verdict.evidence["rows"] == rows


def test_the_gate_finds_a_row_that_is_missing(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage = careless(lambda source: (row for row in source if row.id != "R-00039"))
    ref = produce(stage, workplace, classified(workplace)).ref
    verdict = evaluate_gates(stage, workplace, ref)["columns_kept"]
    assert not verdict.passed
    assert verdict.evidence["rows_that_differ"] == 1


@pytest.mark.security_case(
    "The vault's public key is replaced between two runs",
    "scrubbing stops and names both fingerprints; nothing is encrypted to the new key",
)
def test_a_public_key_that_was_swapped_stops_the_line(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    add_public_key(workplace)
    ref = materialize(SCRUBBED_CORPUS, workplace, classified(workplace))
    used = workplace.store.read_manifest(ref).circumstances.recorded["vault_public_key"]
    assert used == fingerprint_of(read_public_key(workplace.settings.vault_public_key))
    sealed = sorted(workplace.settings.vault.rglob("*.age"))
    add_public_key(workplace)
    institution.rows[0]["request"] += " And one thing more."
    workplace = institution.workplace()
    inputs = classified(workplace)
    with pytest.raises(PrivacyError, match=f"used is {used}"):
        produce(SCRUBBED_CORPUS, workplace, inputs)
    assert sorted(workplace.settings.vault.rglob("*.age")) == sealed


@pytest.mark.security_case(
    "The vault's public key differs from the one in institution.yaml",
    "scrubbing stops, even at the first run",
)
def test_a_key_that_the_institution_does_not_name_stops_the_line(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    add_public_key(workplace)
    inputs = classified(workplace)
    here = fingerprint_of(read_public_key(workplace.settings.vault_public_key))
    other = replace(workplace, institution=workplace.institution.model_copy(update={"vault_key": "0" * 64}))
    with pytest.raises(PrivacyError, match=r"in institution\.yaml is 0000"):
        produce(SCRUBBED_CORPUS, other, inputs)
    named = replace(workplace, institution=workplace.institution.model_copy(update={"vault_key": here}))
    assert not produce(SCRUBBED_CORPUS, named, inputs).reused


def test_the_digest_does_not_depend_on_the_key_and_changing_it_makes_nothing_stale(
    institution: DemoInstitution,
) -> None:
    workplace = institution.workplace()
    add_public_key(workplace)
    inputs = classified(workplace)
    first = produce(SCRUBBED_CORPUS, workplace, inputs)
    add_public_key(workplace)
    again = produce(SCRUBBED_CORPUS, workplace, inputs)
    assert again.reused and again.ref == first.ref
