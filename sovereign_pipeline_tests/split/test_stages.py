"""The stage leakage_safe_split: every document on one side, the proof counts them, and what stops it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN, assignment, stages
from sovereign_pipeline.split.near_duplicates import NearDuplicates
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.split.chain import documents_of, holding_out, materialize, split_stage
from sovereign_pipeline_tests.split.test_features import WORDINGS

GATE = NO_CROSSING_GROUPS.name


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
    kinds = ("case", "link", "equal_text", "near_duplicate", "contained_text", "text_in_pieces")
    assert proof["crossing"] == dict.fromkeys(kinds, 0)
    assert set(proof["contained_texts"]["crossing_by_fields"].values()) == {0}
    assert proof["crossing_check"]["recall"] == 1
    assert verdicts[GATE].passed, verdicts[GATE].message


def test_the_proof_is_stored_in_the_same_form_byte_for_byte(institution: DemoInstitution) -> None:
    """Its form is stored in artifacts and must not change unnoticed."""
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows += [letter(number, id=f"S-{number}", date="2024-01-02") for number in range(3)]
    split, _ = materialize(institution.workplace(), split_stage())
    assert split.file(PROOF).read_text() == Path(__file__).with_name("proof.json").read_text(encoding="utf-8")


def test_the_same_inputs_give_the_same_artifact(tmp_path: Path) -> None:
    rows = [letter(number) for number in range(30)]
    digests = {
        materialize(DemoInstitution(tmp_path / name, minimal_recipe(), rows).workplace(), split_stage())[0].ref.digest
        for name in ("one", "other")
    }
    assert len(digests) == 1


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


@pytest.mark.security_case(
    "Letters spell their common case file in capitals, in lower case, with Arabic digits and other dashes",
    "all of them stay on one side of the split",
)
def test_spellings_of_one_case_file_stay_together(institution: DemoInstitution) -> None:
    spellings = ["PRM-2024-{}", "prm-2024-{}", "PRM–٢٠٢٤–{}", "PRM - 2024 - {}"]
    institution.rows = [letter(number, case=spellings[number % 4].format(number // 4)) for number in range(80)]
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    sides = [{int(d.id[2:]) // 4 for d in documents_of(split, side)} for side in (TRAIN, HELD_OUT)]
    assert not sides[0] & sides[1]


def test_one_huge_case_stays_whole_and_out_of_the_held_out_side(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case="HUGE" if number < 60 else f"C{number}") for number in range(100)]
    split, verdicts = materialize(institution.workplace(), split_stage())
    held_out = documents_of(split, HELD_OUT)
    assert verdicts[GATE].passed
    assert "HUGE" not in {document.case for document in held_out}
    assert 12 <= len(held_out) <= 14


@pytest.mark.parametrize(
    ("changes", "split", "cause", "hinted"),
    [
        ({"case": "ONE"}, {}, "case", "case numbers"),
        ({"linked": ["R-00000"]}, {}, "link", "column of links"),
        ({"author": "A. Clerk"}, {"by_author": True}, "author", "split.by_author: false"),
        ({"request": letter(99)["request"]}, {}, "contained text", "another letter's text"),
    ],
)
def test_a_corpus_of_one_matter_stops_with_the_tie_and_what_to_change(
    institution: DemoInstitution, changes: dict[str, Any], split: dict[str, Any], cause: str, hinted: str
) -> None:
    institution.rows = [letter(number, linked=[]) | changes for number in range(20)]
    institution.recipe["sources"][0]["links"] = "linked"
    institution.recipe["split"] = split
    with pytest.raises(InputError) as stopped:
        materialize(institution.workplace(), split_stage())
    assert "All 20 letters" in str(stopped.value)
    assert f"joined by {cause} (largest group without it" in str(stopped.value)
    assert hinted in str(stopped.value.hint)
    assert ("by_author" in str(stopped.value.hint)) == (cause == "author")


def test_far_more_held_out_than_asked_is_refused_with_what_joins_the_group(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case="HUGE" if number else "C") for number in range(100)]
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert not verdicts[GATE].passed and len(documents_of(split, TRAIN)) == 1
    assert (
        "99 of 100 letters are held out (99%) where the recipe asks for 12%, and 1 are left" in verdicts[GATE].message
    )
    assert "has 99 letters, joined by case (largest group without it" in verdicts[GATE].message


def test_a_tie_without_which_the_group_is_as_large_has_no_remedy(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case="HUGE" if number else "C") for number in range(100)]
    institution.rows[6] |= {text: institution.rows[5][text] for text in ("request", "response")}
    _, verdicts = materialize(institution.workplace(), split_stage())
    assert ", contained text (largest group without it: 99)" in verdicts[GATE].message
    assert "case numbers" in verdicts[GATE].message and "exclude" not in verdicts[GATE].message


def test_half_held_out_because_there_are_two_groups_is_no_fault(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, case=f"C{number % 2}") for number in range(40)]
    _, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message


def test_two_documents_with_one_id_stop_the_split(institution: DemoInstitution) -> None:
    def change(document: Document) -> Document:
        return document.model_copy(update={"id": "R-00003"}) if document.id == "R-00004" else document

    with pytest.raises(InputError, match="more than one document \\(R-00003\\)"):
        materialize(institution.workplace(), split_stage(change))


def test_a_pair_that_the_searches_miss_is_tied_all_the_same(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.rows += [
        letter(number, id=f"S-{number}", case=f"OTHER/{number}", request=f"{letter(number)['request']} Indeed.")
        for number in range(40)
    ]
    nothing = NearDuplicates(np.empty((0, 2), np.int64), 0, 0, 0)
    monkeypatch.setattr(assignment, "near_duplicates", lambda *arguments: nothing)
    monkeypatch.setattr(assignment, "contained_pairs", lambda *arguments: nothing.pairs)
    split, verdicts = materialize(institution.workplace(), split_stage())
    proof = json.loads(split.file(PROOF).read_bytes())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert proof["near_duplicates"]["found_by_exhaustive_check_only"] > 0


def test_the_split_reads_only_its_own_section_of_the_recipe(institution: DemoInstitution) -> None:
    line = institution.workplace().line
    other = line.model_copy(update={"training": line.training.model_copy(update={"instruction": "Other."})})
    assert LEAKAGE_SAFE_SPLIT.config(line) == LEAKAGE_SAFE_SPLIT.config(other)


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
    assert "are neither newer than all training documents nor tied to such a document" in verdicts[GATE].message


def test_by_date_a_tie_that_minhash_misses_still_counts(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old near-duplicate of a new letter is held out with it; the gate finds the tie by the exact comparison."""
    institution.recipe["split"] = {"by_date": True}
    institution.rows = [letter(number, date=f"2024-01-{number % 28 + 1:02d}") for number in range(56)]
    institution.rows[0].update({key: institution.rows[27][key] for key in ("request", "response")})
    workplace = institution.workplace()
    split, verdicts = materialize(workplace, split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    monkeypatch.setattr(stages, "near_duplicates", lambda *arguments: NearDuplicates(np.empty((0, 2), int), 0, 0, 0))
    scrubbed = workplace.store.open_input(split.manifest, "scrubbed_corpus")
    again = stages.evaluate_no_crossing_groups(workplace, split, {"scrubbed_corpus": scrubbed})
    assert again.passed, again.message


_tearing_apart_two_wordings = holding_out(lambda held, every: held - {"R-00017"} | {"R-00016"})
"""R-00016 is held out and R-00017, the same letter in other words, is not."""


@pytest.mark.parametrize(("build", "passes"), [(LEAKAGE_SAFE_SPLIT.build, True), (_tearing_apart_two_wordings, False)])
def test_paraphrases_never_cross_where_the_line_asks_for_it(
    institution: DemoInstitution, build: Any, passes: bool
) -> None:
    institution.recipe["split"] = {"paraphrases": {"cosine": 0.93}}
    texts = [text.split(" ") for wordings in WORDINGS for text in wordings]
    institution.rows = [
        letter(
            number,
            request=" ".join(words[:6]),
            response=" ".join(words[6:]),
            language="en" if words[0].isascii() else "ar",
        )
        for number, words in enumerate(texts)
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


SIDES = (TRAIN, SELECTION, HELD_OUT)


@pytest.mark.parametrize("by_date", [False, True])
def test_a_selection_side_is_taken_of_what_is_not_held_out(institution: DemoInstitution, by_date: bool) -> None:
    """The held-out side is the same with and without one, and no case crosses between two of the three."""
    institution.rows = [
        letter(number, case=f"C{number // 2}", date=f"2024-01-{number // 3 + 1:02d}") for number in range(80)
    ]
    institution.recipe["split"] = {"by_date": by_date}
    without, _ = materialize(institution.workplace(), split_stage())
    institution.recipe["split"] = {"by_date": by_date, "selection": 0.2}
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert split.file(HELD_OUT).read_bytes() == without.file(HELD_OUT).read_bytes()
    sides = {name: documents_of(split, name) for name in SIDES}
    cases = [{document.case for document in side} for side in sides.values()]
    assert len(set.union(*cases)) == sum(map(len, cases))
    proof = json.loads(split.file(PROOF).read_bytes())
    counts = {name.removesuffix(".jsonl"): len(side) for name, side in sides.items()}
    assert proof["rows"] == counts and sum(counts.values()) == 80
    assert 16 <= counts["selection"] <= 18
    assert set(proof["selection"]["crossing"].values()) == {0}
    assert "selection" not in json.loads(without.file(PROOF).read_bytes())
    if by_date:
        days = [{document.date for document in sides[name]} for name in SIDES]
        assert max(days[0]) < max(days[1]) < max(days[2])


def _moving_to(side: str, other: str) -> Any:
    """A build that moves the first document of one side, whose case has two, to another."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
        moved, *left = read_documents(workspace / side)
        order = [document.id for document in read_documents(inputs["scrubbed_corpus"].file(DOCUMENTS))]
        added = sorted([moved, *read_documents(workspace / other)], key=lambda document: order.index(document.id))
        write_documents(workspace / side, left)
        write_documents(workspace / other, added)
        return built

    return build


@pytest.mark.security_case(
    "A letter of one case file is moved from one side of the split to another, of training, selection and held out",
    "the gate fails, whichever two of the three sides the case crosses",
)
@pytest.mark.parametrize(("side", "other"), [(one, two) for one in SIDES for two in SIDES if one != two])
def test_a_case_that_crosses_any_two_sides_is_refused(institution: DemoInstitution, side: str, other: str) -> None:
    institution.rows = [letter(number, case=f"C{number // 2}") for number in range(60)]
    institution.recipe["split"] = {"selection": 0.2}
    _, verdicts = materialize(institution.workplace(), split_stage(build=_moving_to(side, other)))
    assert not verdicts[GATE].passed and "1 case crosses" in verdicts[GATE].message


def test_a_split_without_the_selection_side_of_the_recipe_is_refused(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"selection": 0.2}

    def without(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        line = workplace.line.model_copy(update={"split": Split()})
        return LEAKAGE_SAFE_SPLIT.build(replace(workplace, line=line), inputs, workspace)

    _, verdicts = materialize(institution.workplace(), split_stage(build=without))
    assert not verdicts[GATE].passed and "selection" in verdicts[GATE].message


def test_by_date_newer_cases_are_the_next_held_out_side_and_the_old_one_moves_to_selection(
    institution: DemoInstitution,
) -> None:
    """So nothing of the old one is trained either, which the gate proves again."""
    rows = [letter(number, date=f"2024-{number // 28 + 1:02d}-{number % 28 + 1:02d}") for number in range(114)]
    institution.recipe["split"] = {"by_date": True, "selection": 0.1}
    drawn = []
    for count in (100, 114):
        institution.rows = rows[:count]
        split, verdicts = materialize(institution.workplace(), split_stage())
        assert verdicts[GATE].passed, verdicts[GATE].message
        drawn.append({side: {document.id for document in documents_of(split, side)} for side in SIDES})
    before, after = drawn
    assert after[HELD_OUT] == {row["id"] for row in rows[100:]}
    assert after[SELECTION] == before[HELD_OUT]
