"""Recognizers that a recipe adds."""

import importlib.metadata
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from presidio_analyzer import EntityRecognizer, RecognizerResult
from pydantic import ValidationError

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.corpus import AddedRecognizer, Privacy
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy.added_recognizers import (
    KIND_OF,
    recognizer_parts,
    try_added_recognizers,
)
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

BERTHS = {
    "definition": {
        "name": "Berth licences",
        "supported_entity": "BERTH_LICENCE",
        "patterns": [{"name": "licence", "regex": r"\bBL-[A-Z]{3}-\d{3}\b", "score": 0.9}],
    },
    "kind": "CR",
    "canary": {"text": "The licence is BL-ABC-123.", "finds": "BL-ABC-123"},
}
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


def test_a_class_of_presidios_own_is_taken_by_its_name_and_reads_context() -> None:
    nino = {
        "recognizer": "presidio_analyzer.predefined_recognizers.UkNinoRecognizer",
        "kind": "NID",
        "canary": {"text": "My national insurance number is AA 12 34 56 B.", "finds": "AA 12 34 56 B"},
    }
    text = "The national insurance number AB 98 76 54 C is mine."
    replaced = scrub(scrubber(nino), document(text)).documents[0].request
    assert replaced == "The national insurance number NID_1 is mine."


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


def test_the_same_findings_of_both_do_not_overlap() -> None:
    mail = {
        "recognizer": "presidio_analyzer.predefined_recognizers.EmailRecognizer",
        "canary": {"text": "write to said@canary.example.com", "finds": "said@canary.example.com"},
    }
    text = "write to hamood@canary.example.com or call +968 9234 1187"
    assert scrub(scrubber(mail), document(text)).documents[0].request == "write to EMAIL_1 or call PHONE_1"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TLDEXTRACT_CACHE", str(tmp_path))
    yield tried


def test_the_list_of_public_suffixes_is_not_fetched(no_network: list[Any]) -> None:
    mail = {
        "recognizer": "presidio_analyzer.predefined_recognizers.EmailRecognizer",
        "canary": {"text": "write to said@canary.example.com", "finds": "said@canary.example.com"},
    }
    scrub(scrubber(mail), document("write to hamood@another.example.co.uk"))
    assert no_network == []


# --- what stops the line ---------------------------------------------------------------------------------------------


def test_a_recognizer_that_misses_its_canary_stops() -> None:
    blind = {**BERTHS, "canary": {"text": "The licence is BL-ABC-12.", "finds": "BL-ABC-12"}}
    with pytest.raises(PrivacyError, match="Berth licences did not find the canary's value"):
        scrub(scrubber(blind), document("nothing here"))


def test_a_recognizer_that_raises_stops_with_the_row_and_without_text() -> None:
    with pytest.raises(PrivacyError, match=r"ValueError at .* in row R-2\.") as stopped:
        scrub(scrubber(slips()), document("fine", id="R-1"), document("break now", id="R-2"))
    assert "break now" not in str(stopped.value)


def test_a_pattern_that_takes_too_long_stops_instead_of_being_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    from presidio_analyzer import pattern_recognizer

    monkeypatch.setattr(pattern_recognizer, "REGEX_TIMEOUT_SECONDS", 0.01)
    slow = {
        "definition": {
            "name": "Slow",
            "supported_entity": "SLOW",
            "patterns": [{"name": "slow", "regex": r"(?:a|aa)+(?:b|$)c|BL-1", "score": 0.9}],
        },
        "kind": "CR",
        "canary": {"text": "BL-1", "finds": "BL-1"},
    }
    with pytest.raises(PrivacyError, match=r"RecognizerSkippedError at .* in row R-7\."):
        scrub(scrubber(slow), document("a" * 5_000 + "!", id="R-7"))


def test_a_warning_that_would_go_unseen_stops() -> None:
    logging.disable(logging.WARNING)
    try:
        with pytest.raises(PrivacyError, match="warnings are switched off"):
            scrub(scrubber(BERTHS), document("nothing here"))
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recognizer": "presidio_analyzer.predefined_recognizers.NoSuchRecognizer"}, "cannot be loaded"),
        ({"recognizer": "no_such_package.Recognizer"}, "cannot be loaded"),
        ({"recognizer": f"{HERE}.NotOne"}, "is not a Presidio recognizer"),
        ({"recognizer": f"{HERE}.not_called"}, "is not a Presidio recognizer"),
        ({"arguments": {"unknown": 1}}, "cannot be loaded"),
    ],
)
def test_a_recognizer_that_is_none_stops(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        scrub(scrubber(slips(**changes)), document("nothing here"))


def test_a_finding_of_no_known_kind_stops() -> None:
    with pytest.raises(PrivacyError, match=r"returns BERTH_LICENCE, which is not a known kind"):
        scrub(scrubber({**BERTHS, "kind": None}), document("nothing here"))


@pytest.mark.parametrize(
    "changes",
    [{"recognizer": None}, {"definition": {"name": "both"}}, {"canary": {"text": "a slip", "finds": "slips"}}],
)
def test_a_recipe_says_exactly_what_is_added(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AddedRecognizer.model_validate(slips(**changes))


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_recipe_without_them_keeps_its_identity() -> None:
    assert "recognizers" not in Privacy().identity()


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


def test_a_class_that_is_not_installed_has_no_identity() -> None:
    with pytest.raises(PrivacyError, match="cannot be loaded"):
        recognizer_parts(AddedRecognizer.model_validate(slips(recognizer="no_such_package.Recognizer")))


def test_each_kind_has_one_entity_of_its_own() -> None:
    assert list(KIND_OF.values()) == list(KINDS)


def test_firms_with_a_legal_form_are_bodies_where_bodies_are_wanted() -> None:
    scrubber = Scrubber("lamps", "run", Privacy(name_models={}), {"ORGANISATION": "replace"})
    text = "The Saltmarsh, Keane and Brandl Orchestra played; Kelpwick Lamps Ltd and Tamsin Oakes paid."
    scrubbed = scrub(scrubber, document(text)).documents[0].request
    assert scrubbed == "The Saltmarsh, Keane and Brandl Orchestra played; ORGANISATION_1 and NAME_1 paid."
