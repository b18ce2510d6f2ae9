"""The prompts of a review: held-out documents, or a file; never what candidate or opponent was trained on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sovereign_pipeline.base.errors import CeilingExceeded, InputError, Remedy, SourceError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import BlindReview, SignInLink
from sovereign_pipeline.review.plan_stage import file_prompts
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.evaluation.documents import conversation
from sovereign_pipeline_tests.release.holders import Holders, letters
from sovereign_pipeline_tests.review.conftest import ReviewBench


def held_out(reviews: ReviewBench) -> set[str]:
    split = reviews.bench.artifact("leakage_safe_split")
    return {each.id for each in read_documents(split.file("held_out.jsonl"))}


def trained(reviews: ReviewBench) -> set[str]:
    split = reviews.bench.artifact("leakage_safe_split")
    return {each.id for each in read_documents(split.file("train.jsonl"))}


def prompt_file(path: Path, count: int, **changes: Any) -> Path:
    rows = [
        {"id": f"P-{n}", "language": "en", "classification": "INTERNAL", "prompt": f"When is lamp {n} lit?", **changes}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nothing_was_opened(reviews: ReviewBench) -> bool:
    with reviews.registry.reading() as session:
        seeds = list(reviews.bench.settings.review_secrets.glob("*.seed"))
        return session.query(BlindReview).count() == session.query(SignInLink).count() == len(seeds) == 0


def test_too_few_held_out_documents_are_refused_with_numbers_and_with_what_would_do(reviews: ReviewBench) -> None:
    reviews.recipe(prompts_each=20)
    with pytest.raises(InputError) as refusal:
        reviews.open()
    said = str(refusal.value)
    assert "5 operators with 20 prompts each and 2 shared prompts need 102 different prompts" in said
    assert "The held-out slice has 20" in said
    assert "prompts_each to 2" in said and "a prompt file of at least 102 rows" in said
    assert refusal.value.remedy == Remedy("open_review_with_prompts", {"line": "lamps"})
    assert nothing_was_opened(reviews)


def test_a_later_version_is_compared_with_the_one_before_it_on_documents_new_to_both(reviews: ReviewBench) -> None:
    """The earlier one was trained on documents that the later one's split holds out: those are not shown."""
    trained_before = trained(reviews)
    reviews.bench.institution.rows = reviews.bench.institution.rows[15:] + [letter(number) for number in range(90, 120)]
    reviews.bench.register()
    assert len(held_out(reviews) & trained_before) == 20
    with pytest.raises(InputError, match=r"need 12 different prompts\. The held-out slice has 5"):
        reviews.open(opponent="lamps-1.0.0")
    trained_before = trained(reviews)
    reviews.bench.institution.rows = [letter(number) for number in range(200, 210)] + reviews.bench.institution.rows[
        25:
    ]
    reviews.bench.institution.rows = [letter(number) for number in range(210, 220)] + reviews.bench.institution.rows
    adapter = reviews.bench.register()
    opened = reviews.open(opponent="lamps-1.1.0")
    assert (opened.plan.adapter, opened.plan.opponent) == (adapter.id, "lamps-1.1.0")
    assert held_out(reviews) & trained_before
    assert not reviews.contents.prompts.keys() & trained_before


def test_prompts_from_a_file_raise_the_classification_of_the_plan(reviews: ReviewBench, tmp_path: Path) -> None:
    file = prompt_file(tmp_path / "prompts.jsonl", 12)
    opened = reviews.open(prompt_file=file)
    assert opened.plan.prompts_from == "file"
    assert {each.text for each in reviews.contents.prompts.values()} == {f"When is lamp {n} lit?" for n in range(12)}
    manifest = reviews.bench.store.read_manifest(reviews.bench.store.ref_of(reviews.review.plan_digest))
    assert manifest.classification == "INTERNAL"
    assert manifest.external_inputs["prompts"] == file_sha256(file)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"classification": "SECRET"}, CeilingExceeded, "row P-0 is SECRET"),
        ({"classification": "HIDDEN"}, SourceError, "row P-0 is classified as 'HIDDEN'"),
        ({"level": "PUBLIC"}, SourceError, "line 1: "),
    ],
)
def test_a_prompt_file_that_says_something_wrong_is_refused(
    reviews: ReviewBench, tmp_path: Path, changes: dict[str, str], error: type[Exception], said: str
) -> None:
    reviews.bench.recipe["ceiling"] = "CONFIDENTIAL"
    reviews.bench.register()
    with pytest.raises(error, match=said):
        reviews.open(prompt_file=prompt_file(tmp_path / "prompts.jsonl", 12, **changes))
    assert nothing_was_opened(reviews)


@pytest.mark.parametrize("form", ["whole", "without its subject", "other signs"])
def test_a_training_document_in_a_prompt_file_is_refused_by_its_id(
    reviews: ReviewBench, tmp_path: Path, form: str
) -> None:
    split = reviews.bench.artifact("leakage_safe_split")
    trained = next(read_documents(split.file("train.jsonl")))
    text = trained.request if form == "without its subject" else f"{trained.subject}\n\n{trained.request}"
    file = prompt_file(tmp_path / "prompts.jsonl", 12)
    row = {"id": "P-x", "language": "en", "classification": "PUBLIC"}
    with file.open("a") as rows:
        prompt = text.upper().replace(" ", "  ") if form == "other signs" else text
        rows.write(json.dumps({**row, "prompt": prompt}) + "\n")
    with pytest.raises(SourceError, match=r"candidate or opponent was trained on 1 row \(P-x\)"):
        reviews.open(prompt_file=file)


@pytest.mark.slow
def test_a_document_on_which_the_base_model_was_tuned_here_is_refused_too(reviews: ReviewBench, tmp_path: Path) -> None:
    holders = Holders(reviews.bench)
    tuned = holders.register(sft={"adapter": "none"})
    text = next(read_documents(reviews.bench.artifact("leakage_safe_split").file("train.jsonl"))).request
    holders.base_model_of(tuned, "own")
    holders.register("buoys", letters(100, 160), base_model="own")
    file = prompt_file(tmp_path / "prompts.jsonl", 12)
    with file.open("a") as rows:
        rows.write(json.dumps({"id": "P-x", "language": "en", "classification": "PUBLIC", "prompt": text}) + "\n")
    with pytest.raises(SourceError, match=r"candidate or opponent was trained on 1 row \(P-x\)"):
        reviews.open(prompt_file=file, candidate_stage=reviews.bench.chain[-1])


@pytest.mark.parametrize("turn", [0, 4])
def test_a_user_turn_of_a_training_conversation_is_refused_too(reviews: ReviewBench, tmp_path: Path, turn: int) -> None:
    trained = conversation(1)
    write_documents(tmp_path / "train.jsonl", [trained])
    split = cast(Artifact, SimpleNamespace(file=lambda name: tmp_path / name))
    file = prompt_file(tmp_path / "prompts.jsonl", 1, prompt=trained.messages[turn].content)
    with pytest.raises(SourceError, match=r"\(P-0\)"):
        file_prompts(reviews.bench.workplace(), file, [split])
