"""Weights are fitted to texts with marked names, measured on texts that were not fitted, and decide which is a name."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.corpus.name_fitting import (
    TrainingSet,
    cross_validated,
    examples_of,
    fit_script,
    read_set,
    write_weights,
)
from sovereign_pipeline.base.errors import InputError, PrivacyError
from sovereign_pipeline.privacy.names.latin_names import Candidate, Scorer, explain, load_weights

TOWNS = ["Saltmarsh", "Kelpwick", "Ashkirk", "Ferrow", "Harbolt", "Lindle"]
PEOPLE = ["Oakes", "Brandl", "Quarshie", "Voss", "Solberg", "Abara"]


def find(texts: Sequence[str], letters: Sequence[bool]) -> Iterator[list[Candidate]]:
    """Each capitalised word, with the word before it as its feature."""
    for text in texts:
        yield [
            Candidate(*word.span(2), (f"after {word[1]}", "a word")) for word in re.finditer(r"(\w+) ([A-Z]\w+)", text)
        ]


@pytest.fixture
def letters(tmp_path: Path) -> TrainingSet:
    rows = [
        {"text": f"we met {who} in {town}", "spans": [[7, 7 + len(who)]], "group": f"{who} {town}"}
        for who in PEOPLE
        for town in TOWNS
    ]
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_set(path, "invented here")


def test_fitted_weights_decide_and_are_measured(letters: TrainingSet, tmp_path: Path) -> None:
    fitted = fit_script([letters], {"letters": examples_of(letters.texts, find)})
    write_weights({"latin": fitted}, tmp_path / "weights.json")
    weights = load_weights(tmp_path / "weights.json")["latin"]
    record = weights.sets["letters"]
    assert (record.texts, record.names, record.licence, record.sha256) == (36, 36, "invented here", letters.sha256)
    assert record.measured["balanced"] == (1.0, 1.0)
    text = "they met Obuya in Muscat"
    (candidates,) = find([text], [False])
    assert [text[each.start : each.end] for each in Scorer({"latin": weights}).names("latin", candidates)] == ["Obuya"]
    assert explain(weights, candidates[0].features, 1).startswith("after met +")


def test_texts_of_one_group_are_not_scored_by_weights_that_saw_it(letters: TrainingSet) -> None:
    """Each group has a word of its own, which says nothing on the other side."""

    def by_group(texts: Sequence[str], signed: Sequence[bool]) -> Iterator[list[Candidate]]:
        for text, found in zip(texts, find(texts, signed), strict=True):
            yield [each._replace(features=(f"{text.split()[2]} {each.start > 9}",)) for each in found]

    grouped = [each.model_copy(update={"group": each.text.split()[2]}) for each in letters.texts]
    known = cross_validated({"letters": examples_of(letters.texts, by_group)})
    unknown = cross_validated({"letters": examples_of(grouped, by_group)})
    assert known.counts("letters", 0.0).recall == 1.0
    assert unknown.counts("letters", 0.0).recall == 0.0


def test_candidates_in_an_identifier_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"text": "write to Oakes at oakes.Voss@canary.example"}\n')

    def every_word(texts: Sequence[str], signed: Sequence[bool]) -> Iterator[list[Candidate]]:
        yield [Candidate(*word.span(), ()) for word in re.finditer(r"[A-Z]\w+", texts[0])]

    (example,) = examples_of(read_set(path).texts, every_word)
    assert [each.start for each in example.candidates] == [9]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"spans": []}', '{"text": "ab", "spans": [[0, 3]]}', '{"text": "ab", "spans": [[1, 1]]}', '{"t": 1}'],
)
def test_a_line_that_is_no_marked_text_is_refused_without_its_text(tmp_path: Path, line: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f'{{"text": "whole", "spans": [[0, 5]]}}\n{line}\n')
    with pytest.raises(InputError, match="line 2") as error:
        read_set(path)
    assert line not in str(error.value) or len(line) < 3


@pytest.mark.parametrize("content", ["", "{}}", '{"latin": {"bias": 1}}', '{"greek": {"bias": 1, "features": {}}}'])
def test_a_file_that_has_no_weights_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "weights.json").write_text(content)
    with pytest.raises(PrivacyError, match="not a file of name weights"):
        load_weights(tmp_path / "weights.json")
