"""The stage and its gate: honest splits pass, planted crossings are refused."""

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.artifacts.stage import Built, Inputs, Workplace
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split import stages
from sovereign_pipeline.split.near_duplicates import NearDuplicates
from sovereign_pipeline.split.stages import HELD_OUT, LEAKAGE_SAFE_SPLIT, PROOF, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.split.chain import documents_of, materialize, scrubbing_that, split_stage
from sovereign_pipeline_tests.split.test_paraphrases import WORDINGS

GATE = "no_crossing_groups"


def test_every_document_is_on_one_side_in_order_and_the_proof_counts_them(institution: DemoInstitution) -> None:
    institution.rows += [letter(number, id=f"S-{number}") for number in range(5)]
    workplace = institution.workplace()
    split, verdicts = materialize(workplace, split_stage())
    train, held_out = documents_of(split, TRAIN), documents_of(split, HELD_OUT)
    order = {row["id"]: place for place, row in enumerate(institution.rows)}
    for side in (train, held_out):
        assert [document.id for document in side] == sorted((d.id for d in side), key=order.__getitem__)
    assert {d.id for d in train} | {d.id for d in held_out} == order.keys()
    assert len(train) + len(held_out) == len(order)
    proof = json.loads(split.file(PROOF).read_bytes())
    assert proof["rows"] == {"train": len(train), "held_out": len(held_out)}
    assert proof["held_out_share_of_letters"] == pytest.approx(len(held_out) / 45, abs=1e-6)
    assert proof["near_duplicates"]["pairs"] == proof["near_duplicates"]["copies"] == 5
    assert proof["components"]["count"] == 40
    assert proof["components"]["largest"]["rows"] == 2
    assert proof["crossing"] == {"case": 0, "link": 0, "near_duplicate": 0}
    assert proof["crossing_check"]["recall"] == 1
    assert verdicts[GATE].passed, verdicts[GATE].message


def test_the_same_inputs_give_the_same_artifact(tmp_path: Path) -> None:
    rows = [letter(number) for number in range(30)]
    digests = {
        materialize(DemoInstitution(tmp_path / name, minimal_recipe(), rows).workplace(), split_stage())[0].ref.digest
        for name in ("one", "other")
    }
    assert len(digests) == 1


@st.composite
def corpora(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that share cases, links, authors, days and texts at random; some texts differ by a few words only."""
    count = draw(st.integers(20, 60))
    rows = []
    for number in range(count):
        text = letter(draw(st.integers(0, count * 2)))
        words = text["response"].split()
        for place in draw(st.lists(st.integers(0, len(words) - 1), max_size=3)):
            words[place] = f"other{number}"
        rows.append(
            {
                **letter(number),
                "case": f"CASE/{draw(st.integers(0, count))}",
                "author": f"Officer {draw(st.integers(0, count))}",
                "date": f"2024-{draw(st.integers(1, 12)):02d}-{draw(st.integers(1, 28)):02d}",
                "request": text["request"],
                "response": " ".join(words),
                "related": [f"R-{draw(st.integers(0, count)):05d}"] if draw(st.integers(0, 4)) == 0 else [],
            }
        )
    return rows


def word_shingles(document: Document) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{document.request} {document.response}".lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def crossing_by_brute_force(train: list[Document], held_out: list[Document], by_author: bool) -> list[str]:
    """Every pair across the sides that shares a matter, told from the documents alone."""
    found = []
    for one, other in itertools.product(train, held_out):
        left, right = word_shingles(one), word_shingles(other)
        if one.case == other.case:
            found.append(f"case {one.id} {other.id}")
        if {one.id, *one.links} & {other.id, *other.links}:
            found.append(f"link {one.id} {other.id}")
        if by_author and one.author == other.author:
            found.append(f"author {one.id} {other.id}")
        if len(left & right) / len(left | right) >= 0.7:
            found.append(f"near-duplicate {one.id} {other.id}")
    return found


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=corpora(),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.12, 0.3]),
    by_author=st.booleans(),
    by_date=st.booleans(),
    rng=st.randoms(use_true_random=False),
)
def test_nothing_crosses_whatever_the_corpus(
    rows: list[dict[str, Any]],
    seed: int,
    share: float,
    by_author: bool,
    by_date: bool,
    rng: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = minimal_recipe(split={"seed": seed, "held_out_share": share, "by_author": by_author, "by_date": by_date})
    recipe["sources"][0]["links"] = "related"

    def split(rows: list[dict[str, Any]]) -> tuple[list[Document], list[Document]] | None:
        workplace = DemoInstitution(tmp_path_factory.mktemp("any"), recipe, rows).workplace()
        try:
            artifact, verdicts = materialize(workplace, split_stage())
        except InputError as error:
            assert re.search("tied together|would be held out", str(error))
            return None
        assert verdicts[GATE].passed, verdicts[GATE].message
        return documents_of(artifact, TRAIN), documents_of(artifact, HELD_OUT)

    sides = split(rows)
    # The order of the rows changes nothing but their order.
    again = split(rng.sample(rows, len(rows)))
    if sides is None or again is None:
        assert sides == again
        return
    train, held_out = sides
    ids = [document.id for document in held_out]
    assert sorted(ids) == sorted(document.id for document in again[1])
    assert sorted([*ids, *(document.id for document in train)]) == sorted(row["id"] for row in rows)
    assert crossing_by_brute_force(train, held_out, by_author) == []
    assert share * len(rows) - 1e-6 <= len(held_out) < len(rows)
    if by_date:
        assert max(document.date for document in train) < max(document.date for document in held_out)


def _torn_apart(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """R-00000 goes to training and R-00001 is held out, whatever ties them."""
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    documents = list(read_documents(inputs["scrubbed_corpus"].file("documents.jsonl")))
    held = {d.id for d in read_documents(workspace / HELD_OUT)} - {"R-00000"} | {"R-00001"}
    write_documents(workspace / HELD_OUT, [d for d in documents if d.id in held])
    write_documents(workspace / TRAIN, [d for d in documents if d.id not in held])
    return built


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ({"case": "CASE/00000"}, "1 case crosses"),
        ({"related": ["R-00000"]}, "1 link crosses"),
        ({key: letter(0)[key] for key in ("request", "response")}, "1 near-duplicate pair crosses"),
        (
            {"request": letter(0)["request"] + " indeed", "response": letter(0)["response"]},
            "1 near-duplicate pair crosses",
        ),
        (
            {"author": "Only One"},
            "1 author crosses",
        ),
    ],
)
def test_a_planted_crossing_is_refused(institution: DemoInstitution, planted: dict[str, Any], says: str) -> None:
    institution.recipe["sources"][0]["links"] = "related"
    if "author" in planted:
        institution.recipe["split"] = {"by_author": True}
        institution.rows = [letter(number, author=f"Officer {number}") for number in range(40)]
        institution.rows[0]["author"] = "Only One"
    institution.rows = [{"related": [], **row} for row in institution.rows]
    institution.rows[1].update(planted)
    _, verdicts = materialize(institution.workplace(), split_stage(build=_torn_apart))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message
    assert institution.rows[1]["request"] not in verdicts[GATE].message


def test_the_same_documents_split_honestly_pass(institution: DemoInstitution) -> None:
    institution.rows[1].update({"case": "CASE/00000", "author": "x"})
    _, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed


def _dropping(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    write_documents(workspace / TRAIN, list(read_documents(workspace / TRAIN))[1:])
    return built


def _doubling(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    held_out = list(read_documents(workspace / HELD_OUT))
    write_documents(workspace / TRAIN, [*read_documents(workspace / TRAIN), held_out[0]])
    return built


def _holding_out_little(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    kept = next(iter(read_documents(workspace / HELD_OUT)))
    documents = list(read_documents(inputs["scrubbed_corpus"].file("documents.jsonl")))
    write_documents(workspace / HELD_OUT, [kept])
    write_documents(workspace / TRAIN, [d for d in documents if d.id != kept.id])
    return built


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (_dropping, "is missing, changed or out of order"),
        (_doubling, "1 id crosses"),
        (_holding_out_little, "1 of 40 letters are held out, 12% are asked"),
    ],
)
def test_files_that_are_not_a_split_of_the_corpus_are_refused(
    institution: DemoInstitution, build: Any, says: str
) -> None:
    _, verdicts = materialize(institution.workplace(), split_stage(build=build))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message


def test_authors_are_told_apart_by_name_although_scrubbing_numbers_them_anew(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_author": True}
    institution.rows = [letter(number, author=f"Officer {number % 20}") for number in range(60)]
    institution.rows[25]["author"] = "OFFICER  5"

    def scrubbed(document: Document) -> Document:
        return document.model_copy(update={"author": "NAME_1"})

    split, verdicts = materialize(institution.workplace(), split_stage(scrubbed))
    assert verdicts[GATE].passed, verdicts[GATE].message
    author_of = {row["id"]: int(row["author"].split()[1]) for row in institution.rows}
    train, held_out = ({author_of[d.id] for d in documents_of(split, side)} for side in (TRAIN, HELD_OUT))
    assert not train & held_out
    assert train | held_out == set(range(20))
    assert all("Officer" not in split.file(name).read_text() for name in (TRAIN, HELD_OUT, PROOF))


def test_one_huge_case_stays_whole_and_out_of_the_held_out_side(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case="HUGE" if number < 60 else f"C{number}") for number in range(100)]
    split, verdicts = materialize(institution.workplace(), split_stage())
    held_out = documents_of(split, HELD_OUT)
    assert verdicts[GATE].passed
    assert "HUGE" not in {document.case for document in held_out}
    assert 12 <= len(held_out) <= 14


def test_a_corpus_of_one_matter_stops_with_what_to_change(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case="ONE") for number in range(20)]
    with pytest.raises(InputError, match=r"All 20 letters of the corpus are tied together.*by_author"):
        materialize(institution.workplace(), split_stage())


def test_two_documents_with_one_id_stop_the_split(institution: DemoInstitution) -> None:
    def change(document: Document) -> Document:
        return document.model_copy(update={"id": "R-00003"}) if document.id == "R-00004" else document

    with pytest.raises(InputError, match="more than one document \\(R-00003\\)"):
        materialize(institution.workplace(), split_stage(change))


def test_a_pair_that_minhash_misses_is_tied_all_the_same(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.rows += [letter(number, id=f"S-{number}", case=f"OTHER/{number}") for number in range(40)]
    nothing = NearDuplicates(np.empty((0, 2), np.int64), 0, 0, 0)
    monkeypatch.setattr(stages, "near_duplicates", lambda *arguments: nothing)
    split, verdicts = materialize(institution.workplace(), split_stage())
    proof = json.loads(split.file(PROOF).read_bytes())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert proof["near_duplicates"]["found_by_exhaustive_check_only"] > 0


def test_the_split_reads_only_its_own_section_of_the_recipe(institution: DemoInstitution) -> None:
    line = institution.workplace().line
    other = line.model_copy(update={"training": line.training.model_copy(update={"instruction": "Other."})})
    assert LEAKAGE_SAFE_SPLIT.config(line) == LEAKAGE_SAFE_SPLIT.config(other)


def test_the_stand_in_has_the_place_of_scrubbing() -> None:
    assert [stage.kind for stage in LEAKAGE_SAFE_SPLIT.inputs] == [scrubbing_that().kind]


def test_by_date_no_training_document_is_of_the_cut_day_or_later(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows[0]["case"] = institution.rows[27]["case"]  # of the first day and of the last
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert "No training document is newer than 2024-01-25" in verdicts[GATE].message
    proof = json.loads(split.file(PROOF).read_bytes())
    assert proof["date_cut"] == {
        "first_day_held_out": "2024-01-26",
        "newest_training_day": "2024-01-25",
        "older_documents_held_out_with_their_group": 1,
    }
    held_out = documents_of(split, HELD_OUT)
    assert {document.id for document in held_out if document.date < "2024-01-26"} == {"R-00000"}
    assert max(document.date for document in documents_of(split, TRAIN)) == "2024-01-25"


def test_a_split_that_was_not_made_by_date_is_refused_where_the_line_asks_for_it(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]

    def by_seed(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        other = workplace.line.split.model_copy(update={"by_date": False})
        line = workplace.line.model_copy(update={"split": other})
        return LEAKAGE_SAFE_SPLIT.build(replace(workplace, line=line), inputs, workspace)

    _, verdicts = materialize(institution.workplace(), split_stage(build=by_seed))
    assert not verdicts[GATE].passed
    assert "are neither newer than all training documents nor tied to one that is" in verdicts[GATE].message


def test_by_date_a_tie_that_minhash_misses_still_counts(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old near-duplicate of a new letter is held out with it; the gate finds the tie by the exact comparison."""
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows[0].update({key: institution.rows[27][key] for key in ("request", "response")})
    workplace = institution.workplace()
    _, verdicts = materialize(workplace, split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    monkeypatch.setattr(stages, "near_duplicates", lambda *arguments: NearDuplicates(np.empty((0, 2), int), 0, 0, 0))
    again = stages.evaluate_no_crossing_groups(
        workplace,
        workplace.store.open(workplace.store.current("lamps", LEAKAGE_SAFE_SPLIT.kind)),
        {"scrubbed_corpus": workplace.store.open(workplace.store.current("lamps", "scrubbed_corpus"))},
    )
    assert again.passed, again.message


def _tearing_apart_two_wordings(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """R-00016 is held out and R-00017, the same letter in other words, is not."""
    built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
    documents = list(read_documents(inputs["scrubbed_corpus"].file("documents.jsonl")))
    held = {d.id for d in read_documents(workspace / HELD_OUT)} - {"R-00017"} | {"R-00016"}
    write_documents(workspace / HELD_OUT, [d for d in documents if d.id in held])
    write_documents(workspace / TRAIN, [d for d in documents if d.id not in held])
    return built


@pytest.mark.parametrize(("build", "passes"), [(LEAKAGE_SAFE_SPLIT.build, True), (_tearing_apart_two_wordings, False)])
def test_paraphrases_never_cross_where_the_line_asks_for_it(
    institution: DemoInstitution, build: Any, passes: bool
) -> None:
    institution.recipe["split"] = {"paraphrases": {"cosine": 0.93}}
    texts = [text.split(" ") for wordings in WORDINGS for text in wordings]
    institution.rows = [
        letter(number, request=" ".join(words[:6]), response=" ".join(words[6:])) for number, words in enumerate(texts)
    ]
    split, verdicts = materialize(institution.workplace(), split_stage(build=build))
    proof = json.loads(split.file(PROOF).read_bytes())
    assert proof["crossing"]["paraphrase"] == 0
    assert proof["paraphrases"]["pairs"] >= 9
    assert verdicts[GATE].passed == passes, verdicts[GATE].message
    if not passes:
        assert re.search(r"paraphrase pairs? cross.*R-00016 ~ R-00017", verdicts[GATE].message)


def test_a_line_that_asks_for_paraphrases_without_the_model_stops(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.recipe["split"] = {"paraphrases": {}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        materialize(institution.workplace(), split_stage())
