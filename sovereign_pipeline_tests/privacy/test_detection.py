"""The written form of findings, and what makes another detector or another text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy import detection
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.privacy.detection import Text, detector_digest, read_findings

PATTERNS = Privacy(name_models={}, patterns_only=("en", "ar"))


@given(st.binary(max_size=60), st.text(max_size=20))
def test_whatever_is_read_lies_in_the_text_and_in_order(content: bytes, original: str) -> None:
    text = Text.of("R-1", "en", False, original).normalised
    spans = read_findings(content, text)
    if spans is None:
        return
    edges = [edge for span in spans for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= len(text.text))


def test_recipe_policy_model_and_library_each_make_another_detector() -> None:
    models, libraries = {"name_model:en": "1"}, ("phonenumbers",)
    base = detector_digest(PATTERNS, {}, models, libraries)
    assert base == detector_digest(PATTERNS, {}, models, libraries)
    lists = WordLists.model_validate({"always": [{"value": "x", "kind": "NAME"}]})
    others = {
        detector_digest(PATTERNS.model_copy(update={"keep_words": ("x",)}), {}, models, libraries),
        detector_digest(PATTERNS, {"PLACE": "replace"}, models, libraries),
        detector_digest(PATTERNS, {}, models, libraries, lists),
        detector_digest(PATTERNS, {}, {"name_model:en": "2"}, libraries),
        detector_digest(PATTERNS, {}, models, ("phonenumbers", "spacy")),
    }
    assert len(others | {base}) == 6


def test_language_and_place_in_the_document_are_part_of_the_key() -> None:
    keys = {Text.of("R", language, letter, "one text").key for language in ("en", "ar") for letter in (True, False)}
    assert len(keys) == 4
    assert Text.of("R", "en", True, "one text").key == Text.of("S", "en", True, "one text").key


def test_every_file_of_the_package_and_every_kind_makes_another_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found by other patterns, or written with other numbers for the kinds, is not read again."""
    (tmp_path / "identifiers").mkdir()
    for name in ("detection.py", "identifiers/labels.py"):
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(detection, "__file__", str(tmp_path / "detection.py"))
    before = detector_digest(PATTERNS, {}, {}, ())
    (tmp_path / "identifiers" / "labels.py").write_text("after")
    changed = detector_digest(PATTERNS, {}, {}, ())
    monkeypatch.setattr(detection, "KINDS", KINDS[::-1])
    assert len({before, changed, detector_digest(PATTERNS, {}, {}, ())}) == 3
