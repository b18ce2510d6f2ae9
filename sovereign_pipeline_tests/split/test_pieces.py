"""A held-out text that training has in pieces: found, kept out of the split, and refused by both gates."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.jsonl import TRAINING_ROWS
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline.split.contained_texts import TextCollector, Texts, texts_in
from sovereign_pipeline.split.pieces import in_pieces
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.dataset.chain import Rows, dataset_stage, tampering
from sovereign_pipeline_tests.split.chain import assigned, holding_out, materialize, split_stage

SYLLABLES = tuple(f"{one}{two}" for one in "bcdfghklmprstvwz" for two in "aeiou")
FORMULA = "Thank you for your letter, which reached the Harbour Office on the day after it was written and sent to us."
Cut = Callable[[str], list[str]]


def prose(seed: str, sentences: int = 6) -> str:
    """Invented sentences of 9 to 12 words, of which no two texts share a run."""
    draw = random.Random(seed)
    return " ".join(
        " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(draw.randint(9, 12))) + "."
        for _ in range(sentences)
    )


def parts(count: int) -> Cut:
    def cut(text: str) -> list[str]:
        words = text.split()
        ends = [len(words) * number // count for number in range(count + 1)]
        return [" ".join(words[first:end]) for first, end in itertools.pairwise(ends)]

    return cut


def sentences(text: str) -> list[str]:
    return [f"{each}." for each in text.split(".") if each.strip()]


def without_some_spaces(text: str) -> list[str]:
    words = text.split(" ")
    return ["".join(word + ("" if number % 3 == 0 else " ") for number, word in enumerate(words))]


def divided_at_line_ends(text: str) -> list[str]:
    return [" ".join(f"{word[:2]}-\n{word[2:]}" if len(word) > 4 else word for word in text.split())]


CUTS: dict[str, Cut] = {
    "quarters": parts(4),
    "thirds": parts(3),
    "sentences": sentences,
    "sentences in capitals": lambda text: [each.upper() for each in sentences(text)],
    "spaces lost": without_some_spaces,
    "words divided at line ends": divided_at_line_ends,
}


def texts_of(directory: Path, name: str, contents: list[str]) -> Texts:
    collector = TextCollector()
    for number, content in enumerate(contents):
        collector.add(number, texts_in("response", content))
    return collector.stored(directory / name)


@pytest.fixture(params=[1 << 30, 1], ids=["at once", "text by text"])
def memory(request: pytest.FixtureRequest) -> int:
    """How much the runs of held-out texts may take. It changes nothing."""
    memory: int = request.param
    return memory


@pytest.mark.parametrize("cut", CUTS)
def test_a_text_in_pieces_is_found_with_every_row_that_has_one(tmp_path: Path, cut: str, memory: int) -> None:
    held = [prose(f"held {number}") for number in range(5)]
    pieces = CUTS[cut](held[3])
    rows = [f"{prose(f'before {n}', 2)} {piece} {prose(f'after {n}', 2)}" for n, piece in enumerate(pieces)]
    others = [prose(f"other {number}") for number in range(40)]
    found = in_pieces(texts_of(tmp_path, "held", held), texts_of(tmp_path, "other", [*others, *rows]), memory)
    assert found.documents.tolist() == [[3, 40 + number] for number in range(len(rows))]
    assert found.largest_share > 0.7


@pytest.mark.parametrize(("sentences_of_ten", "is_found"), [(3, False), (7, True)])
def test_half_of_a_text_decides(tmp_path: Path, sentences_of_ten: int, is_found: bool, memory: int) -> None:
    text = prose("held", 10)
    rows = [f"{prose(f'own {n}', 3)} {each}" for n, each in enumerate(sentences(text)[:sentences_of_ten])]
    found = in_pieces(texts_of(tmp_path, "held", [text]), texts_of(tmp_path, "other", rows), memory)
    assert bool(len(found.documents)) == is_found


def test_a_formula_of_many_letters_covers_nothing(tmp_path: Path, memory: int) -> None:
    held, other = ([f"{FORMULA} {prose(f'{side} {n}', 1)}" for n in range(30)] for side in ("held", "other"))
    found = in_pieces(texts_of(tmp_path, "held", held), texts_of(tmp_path, "other", other), memory)
    assert not len(found.documents) and found.largest_share < 0.1


def forms(side: str, count: int) -> list[str]:
    """Letters of ten sentences each, which are drawn from 60."""
    draw, sentences = random.Random(side), [prose(f"form {number}", 1) for number in range(60)]
    return [" ".join(draw.sample(sentences, 10)) for _ in range(count)]


def test_common_sentences_condemn_nothing_and_longer_pieces_are_found_among_them(tmp_path: Path, memory: int) -> None:
    held, other = forms("held", 10), forms("other", 80)
    found = in_pieces(texts_of(tmp_path, "held", held), texts_of(tmp_path, "other", other), memory)
    assert not len(found.documents) and found.letters == 128
    assert "only in runs of 128 letters" in found.remark
    halves = [f"{row} {half}" for row, half in zip(other, parts(2)(held[3]), strict=False)]
    found = in_pieces(texts_of(tmp_path, "held", held), texts_of(tmp_path, "other", [*other, *halves]), memory)
    assert found.documents.tolist() == [[3, 80], [3, 81]]


def drafts(matter: str) -> list[str]:
    """Three versions of a letter of ten sentences. Two sentences of each differ."""
    of_all = sentences(prose(matter, 10))
    return [" ".join([*of_all[:-2], prose(f"{matter}, version {number}", 2)]) for number in range(3)]


@pytest.mark.security_case(
    (
        "Half of a corpus consists of letter versions or rows with the same piece, and training has a "
        "held-out letter in pieces"
    ),
    "these are not common sentences, and the letter is found with its pieces",
)
@pytest.mark.parametrize(
    ("count", "rows", "others"),
    [
        (2, 2, [draft for number in range(60) for draft in drafts(f"matter {number}")]),
        (4, 8, [prose(f"other {number}") for number in range(6)]),
    ],
    ids=["halves beside families of drafts", "quarters twice beside six others"],
)
def test_versions_of_letters_and_repeated_pieces_are_no_common_sentences(
    tmp_path: Path, count: int, rows: int, others: list[str], memory: int
) -> None:
    held = [prose(f"held {number}") for number in range(5)]
    pieces = parts(count)(held[3])
    with_pieces = [f"{prose(f'own {n}', 1)} {pieces[n % count]}" for n in range(rows)]
    found = in_pieces(texts_of(tmp_path, "held", held), texts_of(tmp_path, "other", [*with_pieces, *others]), memory)
    assert found.documents.tolist() == [[3, number] for number in range(rows)]


def rows_in_pieces(cut: Cut, letters: int = 16) -> Rows:
    """Letters, others with a piece of their replies each, and as many without."""
    rows = [letter(number, response=prose(f"reply {number}", 5)) for number in range(letters)]
    pieces = [piece for row in rows for piece in cut(row["response"])]
    carriers = [
        letter(
            1000 + n, response=f"{prose(f'a {n}', 2)} {piece} {prose(f'b {n}', 2)}", request=prose(f"request {n}", 2)
        )
        for n, piece in enumerate(pieces)
    ]
    alone = [letter(5000 + n, response=prose(f"alone {n}", 5), request=prose(f"asked {n}", 2)) for n in range(80)]
    return [*rows, *carriers, *alone]


@pytest.mark.security_case(
    "Other letters' replies contain a held-out letter's reply in quarters, in thirds, or by sentence",
    "leakage_safe_split does not hold the letter out while its pieces are trained on",
)
@pytest.mark.parametrize("cut", ["quarters", "thirds", "sentences"])
@pytest.mark.parametrize("by_date", [False, True])
def test_no_letter_is_held_out_whose_pieces_are_trained(tmp_path: Path, cut: str, by_date: bool) -> None:
    rows = rows_in_pieces(CUTS[cut])
    assignment = assigned(tmp_path, rows, Split(by_date=by_date))
    held = np.flatnonzero(assignment.is_held_out)
    trained = " ".join(rows[n]["response"] for n in np.flatnonzero(~assignment.is_held_out))
    assert held.size >= 0.12 * len(rows)
    for number in held[held < 16]:
        pieces = CUTS[cut](rows[number]["response"])
        assert sum(piece in trained for piece in pieces) < len(pieces) / 2
    assert assignment.check.found["text_in_pieces"] == 0


@pytest.mark.parametrize("by_date", [False, True])
def test_a_corpus_that_pieces_tie_together_is_refused_with_their_number(tmp_path: Path, by_date: bool) -> None:
    """Seven letters of three parts each. Every part stands in three of them, and any two letters share one part."""
    replies = [" ".join(prose(f"part {(n + step) % 7}", 5) for step in (0, 1, 3)) for n in range(7)]
    rows = [letter(n, response=reply, request=prose(f"request {n}", 2)) for n, reply in enumerate(replies)]
    with pytest.raises(InputError, match="text in pieces"):
        assigned(tmp_path, rows, Split(by_date=by_date))


REPLY = prose("the reply that is held out", 6)


_with_the_reply_held_out = holding_out(lambda held, every: {id for id in every if int(id[2:]) > 34} | {"R-00001"})


@pytest.mark.security_case(
    "A split holds a letter out although four training letters' replies contain its reply in quarters",
    "no_crossing_groups fails and names the rows",
)
def test_the_gate_refuses_a_split_with_a_text_in_pieces(institution: DemoInstitution) -> None:
    institution.rows[1]["response"] = REPLY
    for number, piece in enumerate(parts(4)(REPLY), start=10):
        institution.rows[number]["response"] = f"{prose(f'own {number}', 2)} {piece}"
    _, verdicts = materialize(institution.workplace(), split_stage(build=_with_the_reply_held_out))
    assert not verdicts["no_crossing_groups"].passed
    assert "1 text in pieces crosses (R-00001 ~ R-00010, R-00001 ~ R-00011" in verdicts["no_crossing_groups"].message


def test_by_date_older_rows_are_held_out_with_the_newer_letter_whose_pieces_they_have(
    institution: DemoInstitution,
) -> None:
    """The build ties them, and its gate finds the same tie."""
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [
        letter(n, response=prose(f"reply {n}", 6), date=f"{2025 if n > 34 else 2024}-01-{n % 28 + 1:02d}")
        for n in range(40)
    ]
    for number, piece in enumerate(parts(4)(institution.rows[39]["response"]), start=10):
        institution.rows[number]["response"] = f"{prose(f'own {number}', 2)} {piece}"
    split, verdicts = materialize(institution.workplace(), split_stage())
    held = {each.id for each in read_documents(split.file(HELD_OUT))}
    assert held == {f"R-{number:05d}" for number in (*range(10, 14), 39)}
    assert verdicts["no_crossing_groups"].passed, verdicts["no_crossing_groups"].message


@pytest.mark.security_case(
    "Four training rows added after the split contain a held-out letter's reply in quarters",
    "not_contaminated fails and lists the rows",
)
@pytest.mark.parametrize("repeats", [1, 30])
def test_rows_with_a_held_out_text_in_pieces_are_refused(institution: DemoInstitution, repeats: int) -> None:
    institution.rows = [letter(n, response=prose(f"reply {n}", 6)) for n in range(max(40, 4 * repeats + 40))]

    def tamper(rows: Rows, held_out: Rows) -> Rows:
        pieces = parts(4)(held_out[0]["output"]) * repeats
        return [{**row, "output": f"{row['output']} {piece}"} for row, piece in zip(rows, pieces, strict=False)]

    build = tampering(TRAINING_DATASET, TRAINING_ROWS, tamper, card_too=True)
    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    verdict = verdicts[NOT_CONTAMINATED]
    assert not verdict.passed
    assert f"{4 * repeats} rows together contain half or more of a text of 1 held-out document" in verdict.message
    assert verdict.evidence["held_out"]["rows_with_pieces"] == 4 * repeats
