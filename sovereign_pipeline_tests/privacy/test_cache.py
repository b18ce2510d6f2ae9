"""What was found is remembered by digest, without text, and an entry that does not fit is not trusted."""

import sqlite3
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.case_files import ScrubbedCase
from sovereign_pipeline.privacy.detection import Detector, FindingsCache, Text
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

PATTERNS = Privacy(name_models={}, patterns_only=("en", "ar"))
DETECTOR = "d" * 64
LETTER = "Civil No. 8765 4321, phone +968 9123 4567. Mr Said Al Busaidi"


def scrubber(directory: Path, privacy: Privacy = PATTERNS) -> Scrubber:
    return Scrubber("lamps", "run", privacy, cache=FindingsCache(directory, DETECTOR))


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
    again, searched = scrubbed_with(tmp_path)
    assert (again, searched) == (first, 0)
    assert again.documents[0].request == "Civil No. NID_1, phone PHONE_1. Mr NAME_1"


def test_the_cache_holds_no_text(tmp_path: Path) -> None:
    scrubbed_with(tmp_path)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert entries(tmp_path)
    assert not any(word.encode() in content for word in ("Busaidi", "8765", "Civil", "العريمي"))


def test_a_new_text_is_searched_together_with_the_canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scrubbed_with(tmp_path)
    monkeypatch.setattr("sovereign_pipeline.privacy.analysis.structured_spans", lambda *arguments: [])
    with pytest.raises(PrivacyError, match="canary"):
        scrub(scrubber(tmp_path), document("A new letter."))


def test_nothing_is_remembered_from_a_batch_whose_canary_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("sovereign_pipeline.privacy.analysis.structured_spans", lambda *arguments: [])
        with pytest.raises(PrivacyError, match="canary"):
            scrub(scrubber(tmp_path), document(LETTER))
    assert entries(tmp_path) == []
    assert scrubbed_with(tmp_path)[0].documents[0].request == "Civil No. NID_1, phone PHONE_1. Mr NAME_1"


@pytest.mark.parametrize("damage", ["cut", "changed", "moved", "emptied", "no bytes"])
def test_an_entry_that_is_not_whole_is_found_anew(tmp_path: Path, damage: str) -> None:
    first, _ = scrubbed_with(tmp_path)
    with sqlite3.connect(tmp_path / f"{DETECTOR}.sqlite") as file:
        before = file.execute("SELECT key, content FROM finding").fetchall()
        other = {key: before[place - 1][1] for place, (key, _) in enumerate(before)}
        for key, content in before:
            damaged = {
                "cut": content[:-1],
                "changed": content[:-1] + bytes([content[-1] ^ 1]),
                "moved": other[key],
                "emptied": b"",
                "no bytes": 7,
            }[damage]
            file.execute("UPDATE finding SET content = ? WHERE key = ?", (damaged, key))
    again, searched = scrubbed_with(tmp_path)
    assert again == first
    assert searched > 1


def test_an_entry_that_does_not_fit_the_text_is_found_anew(tmp_path: Path) -> None:
    first, _ = scrubbed_with(tmp_path)
    text = Text.of("R-1", "en", True, LETTER)
    cache = FindingsCache(tmp_path, DETECTOR)
    (content,) = cache.read([text.key]).values()
    cache.write({text.key: content[:-10] + (len(LETTER) + 1).to_bytes(4, "little") + content[-6:]})
    again, searched = scrubbed_with(tmp_path)
    assert again == first
    assert searched == 1


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{DETECTOR}.sqlite").write_bytes(b"no database at all" * 400)
    with pytest.raises(PrivacyError, match=DETECTOR):
        scrubbed_with(tmp_path)
