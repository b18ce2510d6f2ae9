"""Personal data in the columns that are kept: a key takes its place, or the row goes to quarantine."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import IntegrityError, PrivacyError, QuarantineExceeded
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl
from sovereign_pipeline.corpus.stages import DOCUMENTS, QUARANTINE, RAW_CORPUS, read_sources
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.privacy.corrections import word_lists_file
from sovereign_pipeline.privacy.detection import SECRET_FILE, kinds_in_columns
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import careless, classified
from sovereign_pipeline_tests.privacy.test_own_definitions import BERTHS

PERSON = "Salma Al Harthi, 9234 1187, salma@canary.example"
TREATMENTS = Institution(name="Lamp Office", classification=("PUBLIC",)).treatments("lamps")


def kinds(value: str, **treatments: str) -> set[str]:
    config: dict[str, Any] = {"columns": {"keep_words": []}, "sensitive": {**TREATMENTS, **treatments}}
    return set(kinds_in_columns(config)(value))


def raw(workplace: Workplace) -> tuple[ArtifactRef, list[Document], list[dict[str, Any]]]:
    ref = produce(RAW_CORPUS, workplace, {}).ref
    verdicts = evaluate_gates(RAW_CORPUS, workplace, ref)
    assert all(each.passed for each in verdicts.values()), verdicts
    artifact = workplace.store.open(ref)
    return ref, list(read_documents(artifact.file(DOCUMENTS))), list(read_jsonl(artifact.file(QUARANTINE)))


@pytest.mark.parametrize(("value", "expected"), examples(__file__, "personal_data"))
def test_personal_data_in_a_column_is_found(value: str, expected: list[str]) -> None:
    assert kinds(value) >= {*expected}
    assert not kinds(value, **dict.fromkeys(expected, "keep")) & {*expected}


@pytest.mark.parametrize("value", examples(__file__, "an_ordinary_column_is_not_touched"))
def test_an_ordinary_column_is_not_touched(value: str) -> None:
    assert kinds(value) == set()


@pytest.mark.security_case(
    "An id, case or link occurs in several spellings, some of which look like a name or identifier",
    "all spellings stay as they are, or all become one pseudonym",
)
@pytest.mark.parametrize("spellings", examples(__file__, "spellings_of_one_value"))
def test_all_spellings_of_a_value_have_one_decision(spellings: list[str]) -> None:
    config = {"columns": {"keep_words": [], "personal_data": "replace"}, "sensitive": TREATMENTS}
    screen = ColumnScreen.of(config, kinds_in_columns, lambda: bytes(32))
    respelt = (way(each) for each in spellings for way in (str, str.lower, str.upper, str.title))
    found = [(screen.case_of(each), screen.tied(each) or "", bool(screen.kinds_of("id", each))) for each in respelt]
    assert len({(folded(case), folded(id), is_found) for case, id, is_found in found}) == 1
    assert found[0][0].startswith("case-") == found[0][1].startswith("id-") == found[0][2]


@pytest.mark.security_case(
    "The department contains a name with phone and e-mail, or an id, case or link contains a civil number",
    "a pseudonym replaces the value everywhere, so that rows of one case and links stay connected",
)
def test_a_key_takes_the_place_of_what_a_column_holds(institution: DemoInstitution) -> None:
    institution.recipe["sources"][0]["links"] = "with"
    institution.rows[0] |= {"department": PERSON, "case": "civil 10457832"}
    institution.rows[1] |= {"case": "Civil 10457832", "with": ["10457833", "R-00003"]}
    institution.rows[2] |= {"id": "10457833"}
    workplace = institution.workplace()
    ref, documents, quarantined = raw(workplace)
    first, second, third = documents[:3]
    assert quarantined == []
    assert first.department.startswith("department-") and first.case.startswith("case-")
    assert first.case == second.case
    assert third.id.startswith("id-") and second.links == (third.id, "R-00003")
    assert documents[3].model_dump() == {**documents[3].model_dump(), "id": "R-00003", "department": "lamps"}
    stored = b"".join(path.read_bytes() for path in workplace.settings.home.rglob("*") if path.is_file())
    assert not any(each.encode() in stored for each in ("10457832", "10457833", "Harthi", "9234 1187", "salma@"))
    assert produce(RAW_CORPUS, workplace, {}).ref == ref


def test_keys_stay_the_same_when_rows_are_added_and_differ_between_installations(
    institution: DemoInstitution, tmp_path: Path
) -> None:
    institution.rows[2] |= {"id": "10457833"}
    before = raw(institution.workplace())[1][2].id
    institution.rows.insert(0, {**institution.rows[5], "id": "10457834"})
    again = raw(institution.workplace())[1]
    assert again[3].id == before != again[0].id
    other = DemoInstitution(tmp_path / "other", institution.recipe, institution.rows)
    assert raw(other.workplace())[1][3].id != before


@pytest.mark.security_case(
    "A column contains personal data, and the recipe says `quarantine`",
    "the row is quarantined, and no message contains its id",
)
def test_the_recipe_may_want_such_rows_in_quarantine(institution: DemoInstitution) -> None:
    institution.recipe["privacy"] |= {"columns": "quarantine"}
    institution.rows[2] |= {"id": "10457833", "department": PERSON}
    with pytest.raises(QuarantineExceeded) as stopped:
        raw(institution.workplace())
    assert "personal data in id, department (EMAIL, NAME, NID, PHONE): row 3." in str(stopped.value)
    assert "10457833" not in str(stopped.value) and "Harthi" not in str(stopped.value)
    institution.recipe["quarantine"] = {"max_share": 0.1}
    _, documents, quarantined = raw(institution.workplace())
    assert len(documents) == 39
    assert [(row["row"], row["id"]) for row in quarantined] == [(3, None)]
    assert not (institution.settings.vault / SECRET_FILE).exists()


def test_a_kind_at_which_the_policy_stops_stops_the_line(institution: DemoInstitution) -> None:
    institution.rows[2] |= {"case": "IBAN OM820270310045566770012"}
    institution.write()
    path = institution.settings.data / "institution.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "sensitive": {"IBAN": "stop"}}))
    with pytest.raises(PrivacyError, match="contains IBAN in case") as stopped:
        produce(RAW_CORPUS, institution.workplace_as_written(), {})
    assert "OM82" not in str(stopped.value)


@pytest.mark.security_case(
    "The secret for pseudonyms is replaced, so that trained rows no longer match held-out ones",
    "reading the sources stops until the secret is restored",
)
def test_another_secret_stops(institution: DemoInstitution) -> None:
    institution.rows[2] |= {"id": "10457833"}
    raw(institution.workplace())
    secret = institution.settings.vault / SECRET_FILE
    assert secret.stat().st_mode & 0o777 == 0o600
    secret.write_bytes(bytes(32))
    institution.rows[3]["request"] += " And more."
    with pytest.raises(PrivacyError, match="differs from the secret of earlier corpora"):
        produce(RAW_CORPUS, institution.workplace(), {})
    secret.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="this is not a secret"):
        produce(RAW_CORPUS, institution.workplace(), {})


@pytest.mark.security_case(
    "The column `language` contains a whole letter", "the row is quarantined, and no message quotes the value"
)
def test_a_language_is_a_language_tag(institution: DemoInstitution) -> None:
    wrong = ["Busaidi", "en_GB", "en Dear Sir, my civil number is 10457832", "x", "12", "e\n"]
    for number, language in enumerate(wrong):
        institution.rows[number]["language"] = language
    with pytest.raises(QuarantineExceeded) as stopped:
        raw(institution.workplace())
    assert all(f"R-{number:05d}" in str(stopped.value) for number in range(len(wrong)))
    assert "Busaidi" not in str(stopped.value) and "10457832" not in str(stopped.value)


def test_a_language_tag_is_read_as_its_language(institution: DemoInstitution) -> None:
    for number, tag in enumerate(["en-GB", "AR-om", "ar-Arab-OM", "en-GB-oed99", "deu-DE-1996"]):
        institution.rows[number]["language"] = tag
    workplace = institution.workplace()
    made = workplace.store.open(produce(RAW_CORPUS, workplace, {}).ref)
    assert [each.language for each in read_documents(made.file(DOCUMENTS))][:6] == ["en", "ar", "ar", "en", "deu", "en"]


@pytest.mark.security_case(
    "A kept column contains a value that the institution's word lists, recognizers or phone regions define as personal",
    "a pseudonym replaces it, as in texts",
)
def test_the_institutions_own_definitions_reach_the_columns(institution: DemoInstitution) -> None:
    institution.rows[0] |= {"department": "Blue Lantern", "case": "bl-abc-123"}
    institution.rows[1] |= {"case": "Umm Quorvan/17", "department": "581.2345"}
    before = raw(institution.workplace())
    assert [each.department for each in before[1][:2]] == ["Blue Lantern", "581.2345"]
    institution.recipe["privacy"] |= {"recognizers": [BERTHS], "phone_regions": {"valid": ["IS"]}}
    lists = word_lists_file(institution.settings.data, "lamps")
    lists.parent.mkdir()
    own = {"always": [{"value": "Blue Lantern", "kind": "NAME"}], "same_person": [["Umm Quorvan", "Salma Zadjali"]]}
    lists.write_text(yaml.safe_dump(own))
    ref, (first, second, *_), _ = raw(institution.workplace())
    assert first.department.startswith("department-") and first.case.startswith("case-")
    assert second.case.startswith("case-") and second.department.startswith("department-")
    lists.write_text(yaml.safe_dump({**own, "never": [{"value": "Lamp", "reason": "a thing"}]}))
    assert raw(institution.workplace())[0] == ref, "columns do not depend on `never`"
    lists.write_text(yaml.safe_dump({"same_person": own["same_person"]}))
    assert raw(institution.workplace())[1][0].department == "Blue Lantern"


def test_the_gate_reads_the_columns_of_the_scrubbed_corpus(institution: DemoInstitution) -> None:
    lists = word_lists_file(institution.settings.data, "lamps")
    lists.parent.mkdir(parents=True)
    lists.write_text(yaml.safe_dump({"always": [{"value": "Blue Lantern", "kind": "NAME"}]}))
    workplace = institution.workplace()

    def change(source: Iterator[Document]) -> Iterable[Document]:
        rows = [row.model_copy(update={"author": "NAME_1"}) for row in source]
        rows[1] = rows[1].model_copy(update={"id": "10457833"})
        rows[2] = rows[2].model_copy(update={"department": PERSON})
        rows[3] = rows[3].model_copy(update={"case": "Blue Lantern/17"})
        return rows

    stage = careless(change)
    ref = produce(stage, workplace, classified(workplace)).ref
    verdict = evaluate_gates(stage, workplace, ref)["no_identifier_left"]
    assert not verdict.passed
    assert verdict.evidence["rows"] == ["line 2", "line 3", "line 4"]
    assert "10457833" not in verdict.message and "Harthi" not in verdict.message


def test_a_link_to_a_row_that_is_not_selected_is_a_link_to_a_row(institution: DemoInstitution) -> None:
    institution.recipe["sources"][0] |= {"links": "with", "where": {"department": "lamps"}}
    institution.rows[1] |= {"with": ["10457833"]}
    institution.rows[2] |= {"id": "10457833", "department": "buoys"}
    workplace = institution.workplace()
    ref, documents, _ = raw(workplace)
    (source,) = read_sources(workplace.store.open(ref))
    assert (source["links"], source["links_without_row"]) == (1, 0)
    assert documents[1].links[0].startswith("id-")
