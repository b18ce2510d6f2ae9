"""What an institution defines itself: recognizers, corrections of findings, and regions of telephone numbers."""

import importlib.metadata
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
from presidio_analyzer import EntityRecognizer, RecognizerResult
from pydantic import ValidationError

from sovereign_pipeline.base.errors import PrivacyError, RecipeError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.corpus import AddedRecognizer, Privacy
from sovereign_pipeline.privacy.added_recognizers import (
    recognizer_parts,
    try_added_recognizers,
)
from sovereign_pipeline.privacy.corrections import WordLists, load_word_lists, word_lists_file
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import classified, document, scrub


def defined(name: str, regex: str, text: str, finds: str) -> dict[str, Any]:
    """A definition of one pattern, and its canary."""
    pattern = {"name": name.lower(), "regex": regex, "score": 0.9}
    return {
        "definition": {"name": name, "supported_entity": "BERTH_LICENCE", "patterns": [pattern]},
        "kind": "CR",
        "canary": {"text": text, "finds": finds},
    }


BERTHS = defined("Berth licences", r"\bBL-[A-Z]{3}-\d{3}\b", "The licence is BL-ABC-123.", "BL-ABC-123")
HERE = __name__


class Slips(EntityRecognizer):
    """Finds the word "slip"."""

    def load(self) -> None:
        pass

    def __init__(self, supported_language: str = "en", word: str = "slip") -> None:
        self._word = word
        super().__init__(["PHONE_NUMBER"], supported_language=supported_language)

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[RecognizerResult]:
        if "break now" in text:
            raise ValueError(f"quotes {text}")
        start = text.find(self._word)
        return [RecognizerResult("PHONE_NUMBER", start, start + len(self._word), 0.9)] if start >= 0 else []


class NotOne:
    def __init__(self, **arguments: Any) -> None: ...


def not_called(**arguments: Any) -> None:
    pytest.fail("only a class of recognizers may be called, since an editor of a recipe holds no key")


def scrubber(*recognizers: dict[str, Any]) -> Scrubber:
    added = tuple(AddedRecognizer.model_validate(each) for each in recognizers)
    return Scrubber("lamps", "run", Privacy(name_models={}, patterns_only=("en", "ar"), recognizers=added))


def slips(**changes: Any) -> dict[str, Any]:
    return {"recognizer": f"{HERE}.Slips", "canary": {"text": "a slip here", "finds": "slip"}, **changes}


def test_what_a_definition_in_presidios_form_finds_is_replaced() -> None:
    text = "My licence BL-QQX-481, and BL-QQX-481 again."
    assert scrub(scrubber(BERTHS), document(text)).documents[0].request == "My licence CR_1, and CR_1 again."
    assert scrub(scrubber(), document(text)).documents[0].request == text


def test_the_form_in_the_page_works() -> None:
    page = (PROJECT_ROOT / "docs" / "how-to" / "personal-data.md").read_text(encoding="utf-8")
    forms = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    (form,) = [form["privacy"] for form in forms if "privacy" in form]
    try_added_recognizers(Privacy.model_validate(form))
    replaced = scrub(scrubber(*form["recognizers"]), document("Berth BL-QQX-481, insurance number AB 98 76 54 C"))
    assert replaced.documents[0].request == "Berth CR_1, insurance number NID_1"


def test_what_a_class_finds_is_replaced_in_its_languages_alone() -> None:
    english = document("the slip is wet", id="R-1", language="en")
    arabic = document("the slip is wet", id="R-2", language="ar", case="other")
    outcome = [scrub(scrubber(slips()), each).documents[0].request for each in (english, arabic)]
    assert outcome == ["the PHONE_1 is wet", "the slip is wet"]


def test_a_weak_pattern_counts_only_with_its_context_or_a_lower_limit() -> None:
    weak = {
        "definition": {
            "name": "Tokens",
            "supported_entity": "TOKEN",
            "patterns": [{"name": "token", "regex": r"\bq\d{4}z\b", "score": 0.1}],
            "context": ["locker"],
        },
        "kind": "ACCOUNT",
        "canary": {"text": "locker q1234z", "finds": "q1234z"},
    }
    texts = ("my locker q5678z", "my q5678z")
    outcome = [scrub(scrubber(weak), document(text)).documents[0].request for text in texts]
    assert outcome == ["my locker ACCOUNT_1", "my q5678z"]
    lower = scrubber({**weak, "score": 0.05})
    assert scrub(lower, document("my q5678z")).documents[0].request == "my ACCOUNT_1"


def test_the_same_findings_of_both_do_not_overlap_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Presidio's recognizer of addresses would fetch the list of public suffixes."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TLDEXTRACT_CACHE", str(tmp_path))
    mail = {
        "recognizer": "presidio_analyzer.predefined_recognizers.EmailRecognizer",
        "canary": {"text": "write to said@canary.example.com", "finds": "said@canary.example.com"},
    }
    text = "write to hamood@another.example.co.uk or call +968 9234 1187"
    assert scrub(scrubber(mail), document(text)).documents[0].request == "write to EMAIL_1 or call PHONE_1"
    assert tried == []


def test_a_recognizer_that_raises_stops_with_the_row_and_without_text() -> None:
    with pytest.raises(PrivacyError, match=r"ValueError at .* in row R-2\.") as stopped:
        scrub(scrubber(slips()), document("fine", id="R-1"), document("break now", id="R-2"))
    assert "break now" not in str(stopped.value)


def test_a_pattern_that_takes_too_long_stops_instead_of_being_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    from presidio_analyzer import pattern_recognizer

    monkeypatch.setattr(pattern_recognizer, "REGEX_TIMEOUT_SECONDS", 0.01)
    slow = defined("Slow", r"(?:a|aa)+(?:b|$)c|BL-1", "BL-1", "BL-1")
    with pytest.raises(PrivacyError, match=r"RecognizerSkippedError at .* in row R-7\."):
        scrub(scrubber(slow), document("a" * 5_000 + "!", id="R-7"))


def test_a_warning_that_would_go_unseen_stops() -> None:
    logging.disable(logging.WARNING)
    try:
        with pytest.raises(PrivacyError, match="warnings are switched off"):
            scrub(scrubber(BERTHS), document("nothing here"))
    finally:
        logging.disable(logging.NOTSET)


BLIND = {**BERTHS, "canary": {"text": "The licence is BL-ABC-12.", "finds": "BL-ABC-12"}}


@pytest.mark.parametrize(
    ("recognizer", "message"),
    [
        (BLIND, "Berth licences did not find the canary's value"),
        ({**BERTHS, "kind": None}, "returns BERTH_LICENCE, which is not a known kind"),
        (slips(recognizer="presidio_analyzer.predefined_recognizers.NoSuchRecognizer"), "cannot be loaded"),
        (slips(recognizer="no_such_package.Recognizer"), "cannot be loaded"),
        (slips(recognizer=f"{HERE}.NotOne"), "is not a Presidio recognizer"),
        (slips(recognizer=f"{HERE}.not_called"), "is not a Presidio recognizer"),
        (slips(arguments={"unknown": 1}), "cannot be loaded"),
    ],
)
def test_a_recognizer_that_is_none_or_finds_nothing_known_stops(recognizer: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        scrub(scrubber(recognizer), document("nothing here"))


@pytest.mark.parametrize(
    "changes",
    [{"recognizer": None}, {"definition": {"name": "both"}}, {"canary": {"text": "a slip", "finds": "slips"}}],
)
def test_a_recipe_says_exactly_what_is_added(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AddedRecognizer.model_validate(slips(**changes))


def test_the_version_of_its_distribution_is_part_of_the_identity() -> None:
    presidios = slips(recognizer="presidio_analyzer.predefined_recognizers.UkNinoRecognizer")
    parts = recognizer_parts(AddedRecognizer.model_validate(presidios))
    assert parts == {"library presidio_analyzer": importlib.metadata.version("presidio-analyzer")}


def test_every_file_of_a_package_that_no_distribution_holds_is_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "harbour_recognizers"
    package.mkdir()
    (package / "__init__.py").write_text("from harbour_recognizers.words import Words\n")
    (package / "words.py").write_text("from harbour_recognizers.lists import LIST\nclass Words: ...\n")
    (package / "lists.py").write_text("LIST = ()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    item = AddedRecognizer.model_validate(slips(recognizer="harbour_recognizers.Words"))
    before = recognizer_parts(item)
    assert set(before) == {"__init__.py", "words.py", "lists.py"}
    (package / "lists.py").write_text("LIST = ('berth',)\n")
    assert recognizer_parts(item) != before


def test_firms_with_a_legal_form_are_bodies_where_bodies_are_wanted() -> None:
    scrubber = Scrubber("lamps", "run", Privacy(name_models={}), {"ORGANISATION": "replace"})
    text = "The Saltmarsh, Keane and Brandl Orchestra played; Kelpwick Lamps Ltd and Tamsin Oakes paid."
    scrubbed = scrub(scrubber, document(text)).documents[0].request
    assert scrubbed == "The Saltmarsh, Keane and Brandl Orchestra played; ORGANISATION_1 and NAME_1 paid."


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
    institution.rows[3] |= {"request": "The old Quorvanhouse key is with desk@canary.example since May."}
    workplace = institution.workplace()
    workplace.settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")

    def scrubbed() -> ArtifactRef:
        return produce(SCRUBBED_CORPUS, workplace, classified(workplace)).ref

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


KUWAIT = {"valid": ["KW"], "grouped": []}
FRANCE = {"valid": ["OM", "FR"]}


def with_regions(text: str, regions: dict[str, Any] | None) -> str:
    recipe = {"name_models": {}, **({"phone_regions": regions} if regions else {})}
    return scrub(Scrubber("lamps", "run", Privacy.model_validate(recipe)), document(text)).documents[0].request


@pytest.mark.parametrize(
    ("text", "regions", "result"),
    [
        ("he is at 50123456 today", None, "he is at NID_1 today"),
        ("he is at 50123456 today", KUWAIT, "he is at PHONE_1 today"),
        ("the desk, 01--42--27--12--34, knows", None, "the desk, 01--42--27--12--34, knows"),
        ("the desk, 01--42--27--12--34, knows", FRANCE, "the desk, PHONE_1, knows"),
        ("under Decree 53/2019, 4521 tonnes", FRANCE, "under Decree 53/2019, 4521 tonnes"),
    ],
)
def test_a_number_is_a_phone_where_it_is_valid_in_the_recipes_regions(
    text: str, regions: dict[str, Any] | None, result: str
) -> None:
    assert with_regions(text, regions) == result


def test_the_gate_reads_by_the_same_regions() -> None:
    recipe = Privacy.model_validate({"name_models": {}, "phone_regions": FRANCE})
    text = "the desk, 01--42--27--12--34, knows"

    def kinds(privacy: Privacy) -> list[str]:
        return [span.kind for span in Detector(privacy, {}).read_again("en", text).left]

    assert kinds(recipe) == ["PHONE"]
    assert kinds(Privacy(name_models={})) == []


def test_the_default_changes_no_identity_and_another_one_does() -> None:
    named = Privacy.model_validate({"phone_regions": {"valid": ["OM"]}})
    assert named.identity() == Privacy().identity()
    assert "phone_regions" not in Privacy().identity()
    assert Privacy.model_validate({"phone_regions": KUWAIT}).identity()["phone_regions"]["valid"] == ["KW"]


@pytest.mark.parametrize("regions", [{"valid": ["Oman"]}, {"valid": []}, {"grouped": ["XX"]}])
def test_what_is_no_region_is_refused(regions: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Privacy.model_validate({"phone_regions": regions})
