"""Archives of letters, read with the recipe that `sources look` proposes: no wrong pair, and hardly one missing."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.extraction import Extraction, extract
from sovereign_pipeline.corpus.folders import look_at_folder
from sovereign_pipeline.corpus.letters import Number, number_of, numbers_of
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.corpus import archives
from sovereign_pipeline_tests.corpus.archives import Archive, by_path, by_reference, by_table

LEAST_RECALL = 0.95


def in_one_folder() -> Archive:
    """An archive in which each rule pairs a part of the letters."""
    parts = by_path("case folders with a title, dates with dots"), by_table(), by_reference()
    whole = Archive()
    for each in parts:
        whole.files |= each.files
        whole.key |= each.key
        whole.pairs |= each.pairs
    return whole


ARCHIVES: dict[str, tuple[Callable[[], Archive], str]] = {
    **{form: (lambda form=form: by_path(form), "path") for form in archives.FORMS},  # type: ignore[misc]
    "register": (by_table, "table"),
    "reference numbers": (by_reference, "reference number"),
    "reference numbers, two folders": (lambda: by_reference(in_two_folders=True), "reference number"),
    "all in one folder": (in_one_folder, ""),
}


def read_as_proposed(folder: Path, root: Path) -> Extraction:
    """Read a folder with the recipe that is proposed for it."""
    settings, ladder = (
        Settings(home=root / "home", data=root, vault=root / "vault"),
        ClassificationLadder(tuple(LADDER)),
    )
    facts = look_at_folder(settings, folder, folder, ladder)
    source = Source.model_validate({**facts.source, "licence": "own", "retention": "1 year"})
    return extract(settings, source, folder, ladder)


@pytest.mark.parametrize("name", ARCHIVES)
def test_each_reply_is_paired_with_the_letter_that_it_answers(name: str, tmp_path: Path) -> None:
    make, rule = ARCHIVES[name]
    archive, folder = make(), tmp_path / "sources" / "letters"
    archive.write(folder)
    read = read_as_proposed(folder, tmp_path)
    precision, recall, unlike = archive.figures(read.files)
    assert precision == 1.0, sorted(unlike - {tuple(sorted(pair)) for pair in archive.pairs})
    assert recall >= LEAST_RECALL, sorted(unlike)
    assert sorted(each["path"] for each in read.files) == sorted(archive.files)
    assert {each["reason"] for each in read.files if each["outcome"] == "row"} == {f"paired by {rule}"} or not rule


SPELLINGS = [
    ["2024/17", "2024-17", "17/2024", "٢٠٢٤/١٧", "2024 / 17", "(2024/017)", "\u200f۱۷–۲۰۲۴", "2024\\17"],
    ["HB/2024/17", "hb-17-2024", "HB.2024/17", "Hb/17/2024"],
    ["م/2024/17", "م/٢٠٢٤/١٧", "م - 17 / 2024"],
    ["Ares(2024)17"],
    ["2024/17/3"],
    ["2023/2024"],
    ["2024/2023"],
    ["217"],
]


def test_a_number_has_one_form_in_every_spelling() -> None:
    forms = [{number_of(each) for each in same} for same in SPELLINGS]
    assert [*map(len, forms)] == [1] * len(SPELLINGS)
    assert len(set[Number]().union(*forms)) == len(SPELLINGS)


def texts_with(kind: str) -> list[tuple[str, Number]]:
    """Return each sentence of a kind, in each language, with each form of number and date."""
    forms, found = {"own": archives.OWN, "cited": archives.CITED, "other": archives.OTHER_NUMBERS}[kind], []
    for language, sentences in forms.items():
        for place, (sentence, number) in enumerate((each, n(17)) for each in sentences for n in archives.SENDERS):
            written = archives.WRITTEN[place % len(archives.WRITTEN)](number) if kind == "cited" else number
            day = ("5 April 2024", "05/04/2024", "2024-04-05", "٥ أبريل ٢٠٢٤")[place % 4]
            text = sentence.format(n=written, x=written, o="HB/2024/9", d=day)
            found.append((f"{text}\n\n{'Dear Sir,' if language == 'en' else 'تحية طيبة'}\n\nHello.", number_of(number)))
    return found


@pytest.mark.parametrize("kind", ["own", "cited", "other"])
def test_own_and_cited_numbers_are_told_from_all_others(kind: str) -> None:
    for text, number in texts_with(kind):
        found = numbers_of(text)
        assert (number in found.own, number in found.cited) == (kind == "own", kind == "cited"), text


PIECES = (" ", "\t", "  ref  ref", ">\n", "\n", "  .", "subject:\n", "a-")


def test_a_text_that_repeats_a_piece_is_searched_in_seconds(tmp_path: Path) -> None:
    """Patterns search these texts outside the sandbox, without a limit on time."""
    for number, piece in enumerate(PIECES):
        text = f"Lamp{piece * (400_000 // len(piece))}end"
        (tmp_path / f"{number}-in.txt").write_text(text)
        (tmp_path / f"{number}-out.txt").write_text("Done.")
    settings = Settings(home=tmp_path / "home", data=tmp_path, vault=tmp_path / "vault")
    source = Source.model_validate({
        "name": "a", "path": ".", "kind": "documents", "licence": "own", "retention": "1 year",
        "pairs": {"request": "{id}-in", "reply": "{id}-out"},
    })  # fmt: skip
    begun = time.process_time()
    assert extract(settings, source, tmp_path, ClassificationLadder(tuple(LADDER))).counts["in_rows"] == 2 * len(PIECES)
    assert time.process_time() - begun < 60
