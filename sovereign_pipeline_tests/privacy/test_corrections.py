"""What people corrected in the findings of a line, and what becomes of a text then."""

from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.corrections import WordLists, load_word_lists, word_lists_file
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub


def scrubbed(text: str, *others: str, **lists: Any) -> list[str]:
    """Texts of one case file, scrubbed by patterns and these lists."""
    scrubber = Scrubber("lamps", "run", Privacy(name_models={}), words=WordLists.model_validate(lists))
    rows = [document(each, id=f"R-{number}") for number, each in enumerate([text, *others])]
    return [each.request for each in scrub(scrubber, *rows).documents]


def never(*values: str) -> list[dict[str, str]]:
    return [{"value": value, "reason": "checked"} for value in values]


@pytest.mark.parametrize(("text", "value", "result"), examples(__file__, "what_is_never_personal_stays"))
def test_what_is_never_personal_stays(text: str, value: str, result: str) -> None:
    assert "_1" in scrubbed(text)[0]
    assert scrubbed(text, never=never(value)) == [result]


def test_another_person_of_that_name_is_still_replaced_beside_it() -> None:
    texts = scrubbed("Mr Amer Quorvan works in the Quorvan Building.", never=never("Quorvan Building"))
    assert texts == ["Mr NAME_1 works in the Quorvan Building."]


@pytest.mark.parametrize(("text", "value", "kind", "result"), examples(__file__, "what_is_always_personal_is_replaced"))
def test_what_is_always_personal_is_replaced(text: str, value: str, kind: str, result: str) -> None:
    assert scrubbed(text, always=[{"value": value, "kind": kind}]) == [result]


def test_names_of_one_person_get_one_placeholder_in_a_case_file() -> None:
    texts = ("Mrs Salma Zadjali wrote.", "Then Umm Idris came, and Mr Amer Quorvan.")
    assert scrubbed(*texts, same_person=[["Salma Zadjali", "Umm Idris"]]) == [
        "Mrs NAME_1 wrote.",
        "Then NAME_1 came, and Mr NAME_2.",
    ]


@pytest.mark.parametrize(("lists", "said"), examples(__file__, "lists_that_contradict_themselves_are_refused"))
def test_lists_that_contradict_themselves_are_refused(tmp_path: Path, lists: dict[str, Any], said: str) -> None:
    (tmp_path / "privacy").mkdir()
    word_lists_file(tmp_path, "lamps").write_text(yaml.safe_dump(lists))
    with pytest.raises(RecipeError, match=said):
        load_word_lists(tmp_path, "lamps")


def test_the_lists_of_a_line_make_another_corpus_and_its_manifest_holds_none_of_their_words(
    institution: DemoInstitution,
) -> None:
    institution.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en", "ar"]}
    institution.rows[3] |= {"request": "The old Quorvanhouse key is with desk@canary.example since May."}
    workplace = institution.workplace()
    workplace.settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")

    def scrubbed() -> ArtifactRef:
        refs: dict[str, ArtifactRef] = {}
        for stage in (RAW_CORPUS, CLASSIFIED_CORPUS):
            refs[stage.kind] = produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs}).ref
            workplace.store.make_current("lamps", stage.kind, refs[stage.kind])
            evaluate_gates(stage, workplace, refs[stage.kind])
        return produce(SCRUBBED_CORPUS, workplace, {CLASSIFIED_CORPUS.kind: refs[CLASSIFIED_CORPUS.kind]}).ref

    without = scrubbed()
    file = word_lists_file(institution.settings.data, "lamps")
    file.parent.mkdir()
    file.write_text(
        yaml.safe_dump({"always": [{"value": "Quorvanhouse", "kind": "NAME"}], "never": never("desk@canary.example")})
    )
    ref = scrubbed()
    assert ref != without
    artifact = workplace.store.open(ref)
    assert "The old NAME_1 key is with desk@canary.example since May." in artifact.file(DOCUMENTS).read_text()
    assert "uorvan" not in str(artifact.manifest)
    verdict = evaluate_gates(SCRUBBED_CORPUS, workplace, ref)["no_identifier_left"]
    assert verdict.passed, verdict.message
    assert verdict.evidence["left_by_word_lists"] == {"EMAIL": 1}
    assert "word lists leave 1 values" in verdict.message
