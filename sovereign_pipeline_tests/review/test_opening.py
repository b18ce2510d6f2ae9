"""Opening a review: who is shown what, what is refused, and what is pre-registered before the first ballot."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import (
    ConflictError,
    GateRefused,
    InputError,
    IntegrityError,
    NotFoundError,
    Remedy,
    StaleInput,
)
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.people import People
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import BlindReview, SignInLink
from sovereign_pipeline.review.acts import ReviewSecrets, draw_secrets, sealed_seed
from sovereign_pipeline.review.ballots import given, progress
from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline.review.plan import answers_of, commitment, deal
from sovereign_pipeline.review.plan_stage import Contenders
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = pytest.mark.slow


def held_out(reviews: ReviewBench) -> set[str]:
    split = reviews.bench.artifact("leakage_safe_split")
    return {each.id for each in read_documents(split.file("held_out.jsonl"))}


def nothing_was_opened(reviews: ReviewBench) -> bool:
    with reviews.registry.reading() as session:
        seeds = list(reviews.bench.settings.review_secrets.glob("*.seed"))
        return session.query(BlindReview).count() == session.query(SignInLink).count() == len(seeds) == 0


def test_a_review_is_of_held_out_documents_against_the_base_when_nothing_came_before(reviews: ReviewBench) -> None:
    opened = reviews.open(operators=["amal", "badr", "dana", "eid", "fahd"])
    plan, contents = opened.plan, reviews.contents
    assert contents.plan == plan
    assert (plan.adapter, plan.opponent, plan.base_model) == ("lamps-1.0.0", None, "tiny")
    assert (plan.ballots, plan.pairs, plan.prompts_from) == (20, 20, "held_out")
    assert contents.prompts.keys() <= held_out(reviews)
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


def test_no_token_is_stored_and_opening_is_on_record(reviews: ReviewBench) -> None:
    opened = reviews.open()
    database = (reviews.bench.settings.home / "registry.db").read_bytes()
    assert not any(token.encode() in database for token in opened.links.values())
    log = entries(reviews.registry)
    registered = next(number for number, entry in enumerate(log) if entry.action == "adapter registered")
    opening, *links = (entry for entry in log[registered + 1 :] if entry.action != "artifact sealed")
    assert [opening.action, *(each.action for each in links)] == ["review opened", *["sign-in link issued"] * 5]
    assert (opening.actor, len(links)) == ("clerk", 5)
    assert opening.subjects["seed"] == opened.plan.seed_sha256
    assert opening.subjects["plan"] == reviews.review.plan_digest


def test_what_both_answer_identically_is_a_tie_on_record_that_nobody_is_asked_about(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset(range(3, 12))
    reviews.open()
    assert len(reviews.contents.identical) == 9
    for name in reviews.operators:
        on_record, asked = (
            given(reviews.registry, reviews.review, name).ballots,
            {each.pair for each in reviews.asked(name)},
        )
        assert on_record == {each.pair for each in reviews.contents.plan.operators[name]} - asked
    counts = progress(reviews.registry, reviews.review, {name: len(reviews.asked(name)) for name in reviews.operators})
    assert {each.ballots for each in counts} == {0}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["amal", "badr", "dana", "eid"], "4 different operators were given, but the recipe requires 5"),
        (["amal", "badr", "dana", "eid", "amal"], "4 different operators"),
        (["amal", "badr", "dana", "eid", "a\nb"], "letters, digits"),
    ],
)
def test_operators_must_be_as_many_as_the_recipe_asks_for(reviews: ReviewBench, names: list[str], said: str) -> None:
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
    assert nothing_was_opened(reviews)


def test_a_line_without_a_registered_adapter_is_told_to_run(bench: Bench) -> None:
    reviews = ReviewBench(bench)
    reviews.recipe()
    with pytest.raises(NotFoundError, match="no registered adapter to review") as refusal:
        reviews.open()
    assert refusal.value.remedy == Remedy("run_line", {"line": "lamps"})


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
    with pytest.raises(InputError, match="No pairs are left to compare"):
        reviews.open()
    assert nothing_was_opened(reviews)


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


def test_a_review_that_was_closed_before_anybody_rated_may_be_opened_again(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.close(officer="officer.salim", reason="wrong operators")
    reviews.open()


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
@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this machine", "on another machine"])
def test_no_second_review_of_the_same_two_is_opened_beside_a_running_opening(
    reviews: ReviewBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    drawn: list[str] = []

    def draw_after_another_review() -> ReviewSecrets:
        if not drawn:
            drawn.append("once")
            here = os.environ.get("SOVEREIGN_REVIEW_SECRETS")
            if elsewhere:  # where this machine's lock is not seen
                monkeypatch.setenv("SOVEREIGN_REVIEW_SECRETS", str(tmp_path / "elsewhere"))
            reviews.open()
            reviews.vote_all(-1)
            reviews.close()
            if here is None:
                monkeypatch.delenv("SOVEREIGN_REVIEW_SECRETS", raising=False)
            else:
                monkeypatch.setenv("SOVEREIGN_REVIEW_SECRETS", here)
        return draw_secrets()

    monkeypatch.setattr("sovereign_pipeline.review.acts.draw_secrets", draw_after_another_review)
    with pytest.raises(ConflictError, match="That result is final" if elsewhere else "Another process is opening"):
        reviews.open()
    with reviews.registry.reading() as session:
        assert session.query(BlindReview).count() == elsewhere
