"""Links and ballots count once, and a review closes: when, by whom, and what it reveals."""

import datetime
import threading

import pytest

from sovereign_pipeline.base.errors import (
    ConflictError,
    GateRefused,
    InputError,
    IntegrityError,
    NotFoundError,
    SignInError,
)
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.keys import generate, read_key
from sovereign_pipeline.record.statements import EARLY_CLOSING, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import ReviewClosing
from sovereign_pipeline.record.trust_changes import add_officer
from sovereign_pipeline.review.acts import digest_of_row, entering_acts
from sovereign_pipeline.review.ballots import (
    SignedIn,
    ballots_digest,
    ballots_of,
    guesses_of,
    issue_another_link,
    issue_link,
    progress,
    use_link,
)
from sovereign_pipeline.review.closing import close, examine_all, findings_in, read_log, rows_of, said_of
from sovereign_pipeline.review.plan import commitment
from sovereign_pipeline_tests.officers import officer, officer_called
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("database")  # on either kind
def test_of_many_at_once_exactly_one_is_taken_and_the_log_stays_one_chain(reviews: ReviewBench) -> None:
    reviews.open()
    pair = reviews.asked("operator-1")[0].pair
    refused: list[ConflictError] = []

    def vote(outcome: int) -> None:
        try:
            reviews.vote("operator-1", pair, outcome)
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=vote, args=(number % 3 - 1,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    log = entries(reviews.registry)
    assert [entry.action for entry in log].count("ballot given") == 1


@pytest.mark.usefixtures("database")
def test_a_link_signs_in_once_also_when_many_try(reviews: ReviewBench) -> None:
    token = reviews.open().links["operator-2"]
    found: list[SignedIn | SignInError] = []

    def sign_in() -> None:
        try:
            found.append(use_link(reviews.registry, reviews.bench.settings, token))
        except SignInError as error:
            found.append(error)

    threads = [threading.Thread(target=sign_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    signed_in = [each for each in found if isinstance(each, SignedIn)]
    assert [(each.review, each.operator) for each in signed_in] == [(reviews.review.id, "operator-2")]
    assert all("used already" in str(each) for each in found if isinstance(each, SignInError))


def test_a_link_that_is_unknown_or_too_old_signs_nobody_in(reviews: ReviewBench) -> None:
    opened = reviews.open()
    with pytest.raises(SignInError, match="link is invalid"):
        use_link(reviews.registry, reviews.bench.settings, "guessed")
    with entering_acts(reviews.bench.settings, reviews.registry, opened.review) as entering:
        token = issue_link(entering, "operator-1", days=0, actor="clerk")
    with pytest.raises(SignInError, match="has expired"):
        use_link(reviews.registry, reviews.bench.settings, token)


def test_another_link_is_for_an_operator_of_the_open_review_alone(reviews: ReviewBench) -> None:
    workplace = reviews.bench.workplace()
    with pytest.raises(NotFoundError, match="has no open review"):
        issue_another_link(reviews.registry, workplace, "operator-1", "clerk")
    opened = reviews.open()
    assert issue_another_link(reviews.registry, workplace, "operator-1", "clerk") not in opened.links.values()
    with pytest.raises(NotFoundError, match="'stranger' is not an operator"):
        issue_another_link(reviews.registry, workplace, "stranger", "clerk")


def test_nothing_is_summed_up_before_the_review_is_closed(reviews: ReviewBench) -> None:
    """What can be read of an open review is how many; the ballots themselves say A and B and no more."""
    reviews.open()
    for operator in reviews.operators:
        reviews.vote(operator, reviews.asked(operator)[0].pair, 1)
    counts = progress(reviews.registry, reviews.review, dict.fromkeys(reviews.operators, 4))
    assert [(each.ballots, each.pairs, each.guesses) for each in counts] == [(1, 4, 0)] * 5
    about_artifacts = {"artifact sealed", "adapter registered"}
    said = repr([each.subjects for each in entries(reviews.registry) if each.action not in about_artifacts] + counts)
    assert not any(word in said for word in ("preference", "tie", "'a'", "'b'", "accuracy"))
    with pytest.raises(Exception, match="there is no closed review of its current registered adapter"):
        reviews.materialize()


@pytest.mark.usefixtures("database")  # on either kind
def test_it_closes_at_the_registered_number_and_reveals_the_seed_it_committed_to(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    closing = reviews.close()
    assert commitment(bytes.fromhex(closing.seed)) == reviews.review.seed_sha256
    assert (closing.ballots, closing.officer, closing.reason) == (20, None, None)
    entry = entries(reviews.registry)[-1]
    assert (entry.action, entry.subjects["ballots_sha256"]) == ("review closed", closing.ballots_sha256)
    with pytest.raises(ConflictError, match="is closed"):
        reviews.close()
    pair = reviews.asked("operator-1")[0].pair
    with pytest.raises(ConflictError, match="is closed"):
        reviews.guess("operator-1", pair, "a")


def test_below_that_number_only_a_named_officer_closes_with_a_reason(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.vote("operator-1", reviews.asked("operator-1")[0].pair, 1)
    with pytest.raises(GateRefused, match="1 of the 20 pre-registered ballots"):
        reviews.close()
    for early in ({"officer": "officer.salim"}, {"reason": "late"}, {"officer": "officer.salim", "reason": "  "}):
        with pytest.raises(InputError, match="needs both"):
            reviews.close(**early)
    with pytest.raises(SignInError, match=r"officer\.x may not close .* the recipe allowed officer\.salim"):
        reviews.close(officer="officer.x", reason="late")
    closing = reviews.close(officer="officer.salim", reason="two operators are on leave")
    officer = officer_called(reviews.bench.settings, "officer.salim").keyid
    assert (closing.ballots, closing.officer, closing.reason) == (1, officer, "two operators are on leave")
    entry = entries(reviews.registry)[-1]
    assert (entry.actor, entry.action) == ("clerk", "review closed early")
    assert (entry.subjects["officer"], entry.subjects["reason"]) == (officer, "two operators are on leave")


def test_ties_that_nobody_was_asked_for_do_not_bring_a_review_to_its_number(reviews: ReviewBench) -> None:
    """Nine prompts are ties on record from the beginning, which are more than the number."""
    reviews.planted.same = frozenset(range(3, 12))
    reviews.recipe(ballots=2)
    reviews.open()
    came = next(name for name in reviews.operators if reviews.asked(name))
    reviews.vote(came, reviews.asked(came)[0].pair, 1)
    counts = progress(reviews.registry, reviews.review, {name: len(reviews.asked(name)) for name in reviews.operators})
    assert sum(each.ballots for each in counts) == 1
    with pytest.raises(GateRefused, match="1 of the 2 pre-registered ballots"):
        reviews.close()


def test_the_registered_number_is_no_more_than_what_can_be_asked(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset({0})
    reviews.open()
    asked = sum(len(reviews.asked(name)) for name in reviews.operators)
    assert asked < 20
    reviews.vote_all(1)
    assert reviews.close().ballots == asked


@pytest.mark.security_case(
    "Closing a review is interrupted before the signing key is deleted", "the key is found and deleted"
)
def test_no_key_outlives_the_closing_of_its_review(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews.open()
    reviews.vote_all(1)
    key = reviews.bench.settings.review_secrets / f"{reviews.review.id}.key"

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("sovereign_pipeline.review.acts.note_signed", no_space)
        kept = key.read_bytes()
        with pytest.raises(OSError, match="No space left"):
            reviews.close()
    assert not key.exists()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}

    key.write_bytes(kept)  # as when the process is killed between the two
    ((review, (finding,)),) = examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings).items()
    assert (review, "the key that signs its acts still exists" in finding) == (reviews.review.id, True)
    with pytest.raises(ConflictError, match="is closed"):
        reviews.close()
    assert not key.exists()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}


def test_the_trust_root_must_let_an_officer_close(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    settings, key = reviews.bench.settings, generate()
    officer(settings)
    roots = [read_key(settings.keys / f"root-{number}.key", lambda: "") for number in (1, 2)]
    add_officer(settings.data / "trust", key.public_pem, "officer.salim", ["waive"], ["*"], roots)
    with pytest.raises(SignInError, match="the permission 'close' at PUBLIC"):
        close(reviews.registry, settings, reviews.review, reviews.contents, "clerk", key, "late")
    with pytest.raises(IntegrityError, match="does not have the role officer"):
        close(reviews.registry, settings, reviews.review, reviews.contents, "clerk", generate(), "late")


@pytest.mark.security_case("A review is closed early with its key, but without an officer's", "rejected by name")
@pytest.mark.parametrize(
    ("who", "finding"),
    [
        (None, "it was closed before the pre-registered number of ballots was cast, and not by an officer"),
        ("officer.salim", "it was closed early without an officer's signature"),
        ("stranger", "its early closing is invalid: The key"),
        ("another reason", "its early closing differs from the officer's signed statement"),
    ],
)
def test_an_early_closing_that_no_officer_signed_does_not_count(
    reviews: ReviewBench, who: str | None, finding: str
) -> None:
    """The act itself is signed with the review's key, as everything in the review is."""
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.vote("operator-1", reviews.asked("operator-1")[0].pair, 1)
    settings, review = reviews.bench.settings, reviews.review
    key = officer_called(settings, "officer.salim") if who == "another reason" else generate()
    with entering_acts(settings, reviews.registry, review.id) as entering:
        session = entering.session
        row = ReviewClosing(
            review_id=review.id,
            closed_at=datetime.datetime.now(datetime.UTC),
            seed=reviews.seed.hex(),
            ballots=1,
            ballots_sha256=ballots_digest(ballots_of(session, review.id), guesses_of(session, review.id)),
            officer=key.keyid if who in ("stranger", "another reason") else who,
            reason="late",
        )
        session.add(row)
        session.flush()
        said = {**said_of(review, row), "reason": "another" if who == "another reason" else "late"}
        subject = Subject("review_plan/manifest.json", review.plan_manifest_sha256)
        bundle = sign_statement(key, Statement((subject,), EARLY_CLOSING, said)).decode()
        signed = {"statement": bundle} if who in ("stranger", "another reason") else {}
        officer(settings)
        entering.enter("clerk", "review closed early", {"row": digest_of_row(row), **signed})
    with reviews.registry.reading() as session:
        rows = rows_of(session, review, read_log(session))
    (found,) = findings_in(rows, reviews.contents, settings)
    assert found.startswith(finding)
