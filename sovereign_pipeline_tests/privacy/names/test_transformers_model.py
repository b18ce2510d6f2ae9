"""What a transformers model finds: whole names in texts of any length, whatever its labels are called."""

import re
import socket
from collections.abc import Iterable
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.names.name_models import Entity, load_name_model
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import CANARIES, Scrubber
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import document, scrub
from sovereign_pipeline_tests.privacy.names.tiny_ner import POSITIONS, copied, sentences

pytestmark = pytest.mark.slow


def named(model: Path, *texts: str) -> list[list[tuple[str, str]]]:
    found = load_name_model("ar", str(model)).entities(texts)
    return [
        [(text[each.start : each.end], each.label) for each in entities]
        for text, entities in zip(texts, found, strict=True)
    ]


def test_loading_and_asking_open_no_connection(arabic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was asked for: {arguments[-1]}")

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert named(arabic, "كتب السيد سعيد الكندي إلى الدائرة في صحار")


def test_pieces_of_words_become_whole_names(arabic: Path) -> None:
    first, second, empty = named(
        arabic,
        "زار بدرية اليحمدي و سعيد بن راشد العريمي مكتب الميناء في نزوى يوم الأحد",
        "لا يلزم الدائرة ترخيص في قريات يوم الأحد .",
        "",
    )
    assert first == [("بدرية اليحمدي", "PERSON"), ("سعيد بن راشد العريمي", "PERSON"), ("نزوى", "PLACE")]
    assert second == [("قريات", "PLACE")]
    assert empty == []


def test_what_the_model_learned_it_finds_in_sentences_it_did_not_see(arabic: Path) -> None:
    rows = list(sentences(10_000, 200))
    texts = [" ".join(words) for words, _ in rows]
    expected = [
        [word for word, label in zip(words, labels, strict=True) if label.endswith("PERS")] for words, labels in rows
    ]
    found = [
        [word for name, label in each if label == "PERSON" for word in name.split()] for each in named(arabic, *texts)
    ]
    assert sum(a == b for a, b in zip(expected, found, strict=True)) >= 190


def test_a_long_text_is_read_to_its_end_with_exact_offsets(arabic: Path) -> None:
    """More than twenty windows of one text hold the same words of names as its sentences do one by one."""
    lines = [" ".join(words) for words, _ in sentences(20_000, 80)]
    text = "\n".join(lines)
    model = load_name_model("ar", str(arabic))
    assert len(model._tokenizer(text)["input_ids"]) > 20 * POSITIONS  # type: ignore[attr-defined]
    entities = next(model.entities([text]))
    assert all(before.end <= after.start for before, after in pairwise(entities))
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    alone = [
        Entity(begin + each.start, begin + each.end, each.label)
        for begin, found in zip(starts, model.entities(lines), strict=False)
        for each in found
    ]
    assert person_words(text, entities) == person_words(text, alone)


def person_words(text: str, entities: Iterable[Entity]) -> list[tuple[int, str]]:
    """Where each word of a person's name begins, and the word."""
    return [
        (each.start + word.start(), word.group())
        for each in entities
        if each.label == "PERSON"
        for word in re.finditer(r"\S+", text[each.start : each.end])
    ]


def test_answers_do_not_depend_on_what_is_asked_together(arabic: Path) -> None:
    texts = [" ".join(words) for words, _ in sentences(30_000, 40)]
    assert named(arabic, *texts) == [named(arabic, text)[0] for text in texts]


@pytest.mark.parametrize(("labels", "expected"), examples(__file__, "labels_of_other_schemes"))
def test_labels_of_other_schemes(arabic: Path, tmp_path: Path, labels: list[str], expected: list[str]) -> None:
    """The same weights under other names of labels. "S-" ends its entity at once, so the surname is one of its own."""
    model = copied(arabic, tmp_path / "model", id2label={str(n): label for n, label in enumerate(labels)})
    text = "زار بدرية اليحمدي و سعيد الكندي مكتب الميناء في نزوى يوم الأحد"
    assert [label for _, label in named(model, text)[0]] == expected


# --- the whole scrubber ----------------------------------------------------------------------------------------------


def test_the_scrubber_finds_by_the_model_what_no_pattern_tells(arabic: Path) -> None:
    with_model = Scrubber("lamps", "run", Privacy(name_models={"ar": str(arabic)}, patterns_only=("en",)))
    patterns = Scrubber("lamps", "run", Privacy(name_models={}))
    letter = document("زار تنوف مكتب الميناء في نزوى يوم الأحد", language="ar")
    assert scrub(patterns, letter).documents[0].request == letter.request
    assert scrub(with_model, letter).documents[0].request == "زار NAME_1 مكتب الميناء في نزوى يوم الأحد"
    english = document("زار تنوف مكتب الميناء", language="en")
    assert scrub(with_model, english).documents[0].request == english.request


def test_a_model_that_is_deaf_to_the_canary_stops(arabic: Path, tmp_path: Path) -> None:
    """With the labels turned round, what was a person is nothing."""
    deaf = copied(arabic, tmp_path / "deaf", id2label={"0": "O", "1": "O", "2": "O", "3": "O", "4": "B-PER"})
    scrubber = Scrubber("lamps", "run", Privacy(name_models={"ar": str(deaf)}))
    with pytest.raises(PrivacyError, match="found no person in the canary"):
        scrub(scrubber, document("nothing here"))


def test_the_canary_itself(arabic: Path) -> None:
    text = next(normalise(each.document.request).text for each in CANARIES if each.language == "ar")
    assert "سعيد" in " ".join(name for name, label in named(arabic, text)[0] if label == "PERSON")
