"""Cached findings, and what makes another detector or another text."""

import sqlite3
from hashlib import blake2b
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy import detection
from sovereign_pipeline.privacy.case_files import ScrubbedCase
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.privacy.detection import Detector, FindingsCache, Text, detector_digest
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

PATTERNS = Privacy(name_models={}, patterns_only=("en", "ar"))


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
    keys = {
        Text.of(language, letter, normalise("one text")).key for language in ("en", "ar") for letter in (True, False)
    }
    assert len(keys) == 4
    assert (
        Text.of("en", True, normalise("one text")).key == Text.of("en", True, normalise("one text"), is_canary=True).key
    )


def test_every_file_of_the_package_and_every_kind_makes_another_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found by other patterns, or written with other numbers for the kinds, is not read again."""
    labels = tmp_path / "identifiers" / "labels.py"
    labels.parent.mkdir()
    monkeypatch.setattr(detection, "__file__", str(tmp_path / "detection.py"))
    found = set()
    for content, kinds in (("before", KINDS), ("after", KINDS), ("after", KINDS[::-1])):
        labels.write_text(content)
        monkeypatch.setattr(detection, "KINDS", kinds)
        found.add(detector_digest(PATTERNS, {}, {}, ()))
    assert len(found) == 3


ARABIC = "السلام عليكم، نفيدكم بأن طلبكم المتعلق بإصلاح الرصيف القديم قيد الدراسة لدى المكتب المختص."
ENGLISH = "We met with Thandeka Mokoena and Sipho about the mooring fee last week."


def test_each_language_of_a_text_is_searched_by_its_own_detectors() -> None:
    """The model finds an unlisted name under Arabic, and no name in words that it cannot read."""
    parts = (f"{ARABIC}\n{ENGLISH}", f"{ENGLISH}\n{ARABIC}")
    texts = [Text.of(language, True, normalise(part)) for language in ("en", "ar") for part in parts]
    for spans in Detector(Privacy(), {}).find(texts).values():
        assert [span.key for span in spans] == ["Thandeka Mokoena", "Sipho"]


DETECTOR, SECRET = "d" * 64, bytes(32)
LETTER = "Civil No. 8765 4321, phone +968 9123 4567. Mr Said Al Busaidi"


def scrubber(directory: Path, privacy: Privacy = PATTERNS) -> Scrubber:
    return Scrubber("lamps", "run", privacy, cache=FindingsCache(directory, DETECTOR, SECRET))


def scrubbed_with(directory: Path) -> tuple[ScrubbedCase, int]:
    """The scrubbed letter, and how many texts had to be searched for it."""
    one = scrubber(directory)
    return scrub(one, document(LETTER)), one.texts_searched


def entries(directory: Path) -> list[tuple[bytes, bytes]]:
    return list(sqlite3.connect(directory / f"{DETECTOR}.sqlite").execute("SELECT key, content FROM finding"))


def test_a_text_that_was_seen_is_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, searched = scrubbed_with(tmp_path)
    assert searched > 1  # the letter, and the canaries
    monkeypatch.setattr(Detector, "find", None)
    monkeypatch.setattr(Detector, "read_again", None)
    again, searched = scrubbed_with(tmp_path)
    assert (again, searched) == (first, 0)
    assert again.documents[0].request == "Civil No. NID_1, phone PHONE_1. Mr NAME_1"


def test_a_case_file_with_a_changed_date_is_decided_anew(tmp_path: Path) -> None:
    """Placeholders are numbered by date, although no text changed."""
    for dates, numbers in ((("2024-01-01", "2024-02-01"), (1, 2)), (("2024-03-01", "2024-02-01"), (2, 1))):
        rows = [document(f"CR 100000{n}", id=f"R-{n}", case="C", date=date) for n, date in enumerate(dates)]
        scrubbed = scrub(scrubber(tmp_path), *rows).documents
        assert [each.request for each in scrubbed] == [f"CR CR_{number}" for number in numbers]


def test_the_cache_holds_no_text(tmp_path: Path) -> None:
    scrubbed_with(tmp_path)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert entries(tmp_path)
    assert not any(word.encode() in content for word in ("Busaidi", "8765", "Civil", "العريمي"))


def test_a_new_text_is_searched_together_with_the_canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scrubbed_with(tmp_path)
    monkeypatch.setattr("sovereign_pipeline.privacy.detection.structured_spans", lambda *arguments: [])
    with pytest.raises(PrivacyError, match="canary"):
        scrub(scrubber(tmp_path), document("A new letter."))


def test_nothing_is_remembered_from_a_batch_whose_canary_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("sovereign_pipeline.privacy.detection.structured_spans", lambda *arguments: [])
        with pytest.raises(PrivacyError, match="canary"):
            scrub(scrubber(tmp_path), document(LETTER))
    assert entries(tmp_path) == []
    assert scrubbed_with(tmp_path)[0].documents[0].request == "Civil No. NID_1, phone PHONE_1. Mr NAME_1"


@pytest.mark.security_case(
    "Cached findings of the scrubber are replaced by others, with digests made without the secret of `SOVEREIGN_KEYS`",
    "they are ignored, and the texts are searched again",
)
@pytest.mark.parametrize("damage", ["cut", "changed", "moved", "emptied", "no bytes", "of no key", "of another key"])
def test_an_entry_that_is_not_whole_is_found_anew(tmp_path: Path, damage: str) -> None:
    first, _ = scrubbed_with(tmp_path)
    with sqlite3.connect(tmp_path / f"{DETECTOR}.sqlite") as file:
        before = file.execute("SELECT key, content FROM finding").fetchall()
        other = {key: before[place - 1][1] for place, (key, _) in enumerate(before)}
        foreign = FindingsCache(tmp_path / "foreign", DETECTOR, bytes(31) + b"1")
        foreign.write({key: b"[]" for key, _ in before})
        signed = dict(entries(tmp_path / "foreign"))
        for key, content in before:
            damaged = {
                "cut": content[:-1],
                "changed": content[:-1] + bytes([content[-1] ^ 1]),
                "moved": other[key],
                "emptied": b"",
                "no bytes": 7,
                "of no key": blake2b(key, digest_size=8).digest(),
                "of another key": signed[key],
            }[damage]
            file.execute("UPDATE finding SET content = ? WHERE key = ?", (damaged, key))
    again, searched = scrubbed_with(tmp_path)
    assert again == first
    assert searched > 1


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{DETECTOR}.sqlite").write_bytes(b"no database at all" * 400)
    with pytest.raises(PrivacyError, match=DETECTOR):
        scrubbed_with(tmp_path)
