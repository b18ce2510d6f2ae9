"""Opening a review: its prompts, who is shown what, what is refused, and what is registered before."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    ConflictError,
    GateRefused,
    InputError,
    IntegrityError,
    NotFoundError,
    Remedy,
    SourceError,
    StaleInput,
)
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import BlindReview
from sovereign_pipeline.review.acts import ReviewSecrets, draw_secrets, sealed_seed
from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline.review.plan import answers_of, commitment, deal
from sovereign_pipeline.review.stages import Contenders, file_prompts
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.evaluation.documents import conversation
from sovereign_pipeline_tests.release.holders import Holders, letters
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = pytest.mark.slow


def test_a_review_is_of_held_out_documents_against_the_base_when_nothing_came_before(reviews: ReviewBench) -> None:
    opened = reviews.open(operators=["amal", "badr", "dana", "eid", "fahd"])
    plan, contents = opened.plan, reviews.contents
    assert contents.plan == plan
    assert (plan.adapter, plan.opponent, plan.base_model) == ("lamps-1.0.0", None, "tiny")
    assert (plan.ballots, plan.pairs, plan.prompts_from) == (20, 20, "held_out")
    assert contents.prompts.keys() <= reviews.documents("held_out")
    assert len(contents.prompts) == 5 * 2 + 2
    assert list(opened.links) == ["amal", "badr", "dana", "eid", "fahd"]
    people = People(reviews.bench.settings)
    assert sorted(plan.operators) == sorted(map(people.commitment_of, opened.links))
    assert plan.settings["decoding"] == "greedy"
    manifest = reviews.bench.store.read_manifest(reviews.bench.store.ref_of(reviews.review.plan_digest))
    assert manifest.inputs == {"registered_adapter": reviews.bench.refs["registered_adapter"].digest}
    assert manifest.classification == "PUBLIC"
    summary = json.dumps(manifest.summary)
    assert "wording" not in summary and "lamp" not in summary.replace("lamps-1.0.0", "")
    database = (reviews.bench.settings.home / "registry.db").read_bytes()
    assert not any(token.encode() in database for token in opened.links.values())
    log = [entry for entry in entries(reviews.registry) if entry.action != "artifact sealed"]
    opening, *links = log[[entry.action for entry in log].index("review opened") :]
    assert [each.action for each in links] == ["sign-in link issued"] * 5
    assert {each.actor for each in (opening, *links)} == {"clerk"}
    assert opening.subjects["seed"] == plan.seed_sha256
    assert opening.subjects["plan"] == reviews.review.plan_digest


def test_the_seed_is_committed_to_sealed_and_gives_every_pair_again(reviews: ReviewBench) -> None:
    opened = reviews.open()
    seed = reviews.seed
    assert commitment(seed) == opened.plan.seed_sha256 == reviews.review.seed_sha256
    path = reviews.bench.settings.review_secrets / f"{opened.review}.seed"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    everything = b"".join(
        file.read_bytes() for file in reviews.bench.store.path_of(reviews.review.plan_digest).iterdir()
    )
    everything += (reviews.bench.settings.home / "registry.db").read_bytes()
    assert seed not in everything and seed.hex().encode() not in everything
    ids = {id: each.language for id, each in reviews.contents.prompts.items()}
    review = reviews.bench.workplace().line.gates.review
    assert {pair.prompt for pairs in deal(seed, ids, list(opened.links), review).values() for pair in pairs} == set(ids)
    path.write_bytes(b"x" * 32)
    with pytest.raises(IntegrityError, match="does not match its commitment"):
        sealed_seed(reviews.bench.settings, reviews.review)
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        sealed_seed(reviews.bench.settings, reviews.review)


@pytest.mark.security_case(
    "Someone with access to the store reads the candidate's answers before closing", "they are encrypted"
)
@pytest.mark.security_case(
    "Someone compares a review's answers with the candidate's replies in the store", "they are encrypted"
)
def test_no_answer_can_be_read_in_home_or_database_before_closing(reviews: ReviewBench) -> None:
    """Under either name, in any order: there is no text to compare with what else the store holds."""
    reviews.open()
    answers = [text for each in reviews.answers.values() for text in (each.candidate, each.opponent)]
    assert len(set(answers)) == 24
    home = reviews.bench.settings.home
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert not any(text[-24:].encode() in everything for text in answers)
    assert not reviews.bench.settings.review_secrets.is_relative_to(home)
    sealed = reviews.bench.store.path_of(reviews.review.plan_digest)
    assert sorted(path.name for path in sealed.iterdir()) == [
        "answers.sealed",
        "manifest.json",
        "manifest.json.sigstore.json",
        "plan.json",
        "prompts.jsonl",
    ]
    assert not any(reviews.seed in path.read_bytes() for path in sealed.iterdir())
    with pytest.raises(IntegrityError, match="this seed does not decrypt the answers"):
        answers_of(reviews.bench.store, reviews.review, b"x" * 32)
    reviews.vote_all(1)
    reviews.close()
    artifact, _ = reviews.materialize()
    assert artifact.file("answers.jsonl").read_text().count('"candidate"') == 12


@pytest.mark.security_case("Another account reads an open review's files", "modes are 0700 and 0600")
def test_nothing_that_an_open_review_leaves_behind_is_open_to_another_account(reviews: ReviewBench) -> None:
    settings = reviews.bench.settings
    before = {path for path in settings.home.rglob("*")}
    mask = os.umask(0o022)
    try:
        keep_private()
        reviews.open()
        create_app(settings, reviews.registry)
        reviews.vote_all(1)
    finally:
        os.umask(mask)
    made = [path for path in settings.home.rglob("*") if path not in before]
    made += [settings.review_secrets, *settings.review_secrets.iterdir()]
    assert {".seed", ".key", ".acts", ".sealed"} <= {path.suffix for path in made}
    assert [path for path in made if path.stat().st_mode & 0o077] == []


@pytest.mark.security_case("the directory of seeds and keys is open to other accounts", "rejected")
def test_seeds_are_put_into_no_directory_that_others_can_enter(reviews: ReviewBench) -> None:
    reviews.bench.settings.review_secrets.mkdir()
    reviews.bench.settings.review_secrets.chmod(0o750)
    with pytest.raises(InputError, match="other accounts can enter"):
        reviews.open()


def test_operators_must_be_as_many_as_the_recipe_asks_for(reviews: ReviewBench) -> None:
    four = ["amal", "badr", "dana", "eid"]
    for names, said in ((four, "4 different"), ([*four, "amal"], "4 different"), ([*four, "a\nb"], "letters, digits")):
        with pytest.raises(InputError, match=said):
            reviews.open(operators=names)


def test_operators_of_the_recipe_are_taken_and_no_others(reviews: ReviewBench) -> None:
    names = ["amal", "badr", "dana", "eid", "fahd", "ghada"]
    reviews.recipe(operators=names)
    with pytest.raises(InputError, match="The recipe already names the operators"):
        reviews.open(operators=["x1", "x2", "x3", "x4", "x5", "x6"])
    assert list(reviews.open().links) == names


def test_only_what_is_registered_and_current_and_passed_its_gates_can_be_reviewed(reviews: ReviewBench) -> None:
    with pytest.raises(NotFoundError, match="no registered adapter 'lamps-9'"):
        reviews.open(adapter_id="lamps-9")
    reviews.another_adapter()
    with pytest.raises(StaleInput, match=r"current registered adapter of line lamps is lamps-1\.1\.0"):
        reviews.open(adapter_id="lamps-1.0.0")
    reviews.bench.forget_verdicts("evaluation_report")
    with pytest.raises(GateRefused, match="'not_empty' has no record"):
        reviews.open()
    assert reviews.nothing_was_opened()


def test_one_review_at_a_time_and_one_answer_for_the_same_two(reviews: ReviewBench) -> None:
    reviews.open()
    with pytest.raises(ConflictError, match="already has an open review"):
        reviews.open()
    reviews.vote_all(1)
    reviews.close()
    with pytest.raises(ConflictError, match=r"was reviewed against tiny already\. That result is final"):
        reviews.open()
    reviews.another_adapter()
    assert reviews.open().plan.opponent == "lamps-1.0.0"


def test_a_review_of_equal_answers_is_not_opened(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset(range(99))
    with pytest.raises(InputError, match="no pairs to compare"):
        reviews.open()
    assert reviews.nothing_was_opened()


def test_a_second_opening_beside_a_running_one_is_refused_before_it_answers_anything(reviews: ReviewBench) -> None:
    refused: list[ConflictError] = []

    @contextmanager
    def opening_once_more(workplace: Workplace, candidate: Artifact, opponent: Artifact | None) -> Iterator[Contenders]:
        with pytest.raises(ConflictError, match="Another process is opening") as error:
            reviews.open()
        refused.append(error.value)
        with reviews.planted.open(workplace, candidate, opponent) as answering:
            yield answering

    reviews.open(open_contenders=opening_once_more)
    assert refused
    assert reviews.planted.given == len(reviews.answers)


def test_a_review_in_which_shared_prompts_alone_were_rated_may_be_opened_again(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    for each in reviews.asked("operator-1"):
        if each.shared:
            reviews.vote("operator-1", each.pair, 1)
    reviews.close(officer="officer.salim", reason="on leave")
    with pytest.raises(GateRefused, match="no operator rated an unshared pair"):
        reviews.materialize()
    reviews.open()


@pytest.mark.security_case("Two commands open a review of the same arms at the same time", "the later one is rejected")
def test_no_second_review_of_the_same_two_is_opened_beside_an_opening_on_another_machine(
    reviews: ReviewBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw_after_another_review() -> ReviewSecrets:
        if not drawn:
            drawn.append("once")
            with monkeypatch.context() as elsewhere:  # where this machine's lock is not seen
                elsewhere.setenv("SOVEREIGN_REVIEW_SECRETS", str(tmp_path / "elsewhere"))
                reviews.reviewed(-1)
        return draw_secrets()

    monkeypatch.setattr("sovereign_pipeline.review.acts.draw_secrets", draw_after_another_review)
    with pytest.raises(ConflictError, match="That result is final"):
        reviews.open()
    with reviews.registry.reading() as session:
        assert session.query(BlindReview).count() == 1


def prompt_file(path: Path, count: int, **changes: Any) -> Path:
    rows = [
        {"id": f"P-{n}", "language": "en", "classification": "INTERNAL", "prompt": f"When is lamp {n} lit?", **changes}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_too_few_held_out_documents_are_refused_with_numbers_and_with_what_would_do(reviews: ReviewBench) -> None:
    reviews.recipe(prompts_each=20)
    with pytest.raises(InputError) as refusal:
        reviews.open()
    assert "need 102 different prompts" in str(refusal.value) and "prompts_each to 2" in str(refusal.value)
    assert refusal.value.remedy == Remedy("open_review_with_prompts", {"line": "lamps"})
    assert reviews.nothing_was_opened()


def test_a_later_version_is_compared_with_the_one_before_it_on_documents_new_to_both(reviews: ReviewBench) -> None:
    """The earlier one was trained on documents that the later one's split holds out: those are not shown."""
    trained_before = reviews.documents("train")
    reviews.bench.institution.rows = reviews.bench.institution.rows[15:] + [letter(number) for number in range(90, 120)]
    reviews.bench.register()
    assert len(reviews.documents("held_out") & trained_before) == 20
    with pytest.raises(InputError, match=r"need 12 different prompts\. The held-out side of the split has 5"):
        reviews.open(opponent="lamps-1.0.0")
    trained_before = reviews.documents("train")
    reviews.bench.institution.rows = [letter(number) for number in range(200, 210)] + reviews.bench.institution.rows[
        25:
    ]
    reviews.bench.institution.rows = [letter(number) for number in range(210, 220)] + reviews.bench.institution.rows
    adapter = reviews.bench.register()
    opened = reviews.open(opponent="lamps-1.1.0")
    assert (opened.plan.adapter, opened.plan.opponent) == (adapter.id, "lamps-1.1.0")
    assert reviews.documents("held_out") & trained_before
    assert not reviews.contents.prompts.keys() & trained_before


def test_prompts_from_a_file_raise_the_classification_of_the_plan(reviews: ReviewBench, tmp_path: Path) -> None:
    file = prompt_file(tmp_path / "prompts.jsonl", 12)
    opened = reviews.open(prompt_file=file)
    assert opened.plan.prompts_from == "file"
    assert {each.text for each in reviews.contents.prompts.values()} == {f"When is lamp {n} lit?" for n in range(12)}
    manifest = reviews.bench.store.read_manifest(reviews.bench.store.ref_of(reviews.review.plan_digest))
    assert manifest.classification == "INTERNAL"
    assert manifest.external_inputs["prompts"] == file_sha256(file)


def test_a_prompt_file_that_says_something_wrong_is_refused(reviews: ReviewBench, tmp_path: Path) -> None:
    reviews.bench.recipe["ceiling"] = "CONFIDENTIAL"
    reviews.bench.register()
    wrong: list[tuple[dict[str, str], type[Exception], str]] = [
        ({"classification": "SECRET"}, CeilingExceeded, "row P-0 has the level SECRET"),
        ({"classification": "HIDDEN"}, SourceError, "row P-0 is classified as 'HIDDEN'"),
        ({"level": "PUBLIC"}, SourceError, "line 1: "),
    ]
    for changes, error, said in wrong:
        with pytest.raises(error, match=said):
            reviews.open(prompt_file=prompt_file(tmp_path / "prompts.jsonl", 12, **changes))
    assert reviews.nothing_was_opened()


def test_a_training_document_in_a_prompt_file_is_refused_by_its_id(reviews: ReviewBench, tmp_path: Path) -> None:
    split = reviews.bench.artifact("leakage_safe_split")
    trained = next(read_documents(split.file("train.jsonl")))
    whole = f"{trained.subject}\n\n{trained.request}"
    for text in (whole, trained.request, whole.upper().replace(" ", "  ")):
        file = prompt_file(tmp_path / "prompts.jsonl", 12)
        with file.open("a") as rows:
            row = {"id": "P-x", "language": "en", "classification": "PUBLIC", "prompt": text}
            rows.write(json.dumps(row) + "\n")
        with pytest.raises(SourceError, match=r"candidate or opponent was trained on 1 row \(P-x\)"):
            reviews.open(prompt_file=file)


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


def test_a_user_turn_of_a_training_conversation_is_refused_too(reviews: ReviewBench, tmp_path: Path) -> None:
    trained = conversation(1)
    write_documents(tmp_path / "train.jsonl", [trained])
    split = cast(Artifact, SimpleNamespace(file=lambda name: tmp_path / name))
    for turn in (0, 4):
        file = prompt_file(tmp_path / "prompts.jsonl", 1, prompt=trained.messages[turn].content)
        with pytest.raises(SourceError, match=r"\(P-0\)"):
            file_prompts(reviews.bench.workplace(), file, [split])
