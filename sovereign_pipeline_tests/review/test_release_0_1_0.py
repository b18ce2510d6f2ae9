"""Reviews that release 0.1.0 opened, unsigned: a closed one keeps its result, an open one cannot go on."""

import datetime
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.tables import Ballot, ReviewClosing, row_as_dict
from sovereign_pipeline.review import ballots
from sovereign_pipeline.review.catalog import find_last
from sovereign_pipeline.review.closed_reviews import adapters_that_lost
from sovereign_pipeline.review.closing import close
from sovereign_pipeline.review.links import use_link
from sovereign_pipeline.review.reconciling import examine_all
from sovereign_pipeline.review.sealed import plan_of
from sovereign_pipeline_tests.ledger.owner import go_back, without_triggers
from sovereign_pipeline_tests.registry.bench import REGISTERED_ADAPTER
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.slow]

NOW = datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC)
NEW_IN_THE_PLAN = {"act_key", "identical", "opponent_choice", "candidate_weights", "opponent_weights"}
LEDGER = ("ledger_entry", "ledger_node", "ledger_key")
EMPTIED = (*LEDGER, "review_closing", "ballot", "guess", "sign_in_use", "sign_in_link", "audit_entry", "blind_review")


def unsealed_plan(reviews: ReviewBench) -> ArtifactRef:
    """The plan of the bench's open review as release 0.1.0 wrote it: without a key, and with its answers in clear."""
    contents, answers = reviews.contents, reviews.answers

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        plan = contents.plan.model_dump(mode="json", exclude=NEW_IN_THE_PLAN)
        (workspace / "plan.json").write_bytes(canonical_json(plan) + b"\n")
        write_jsonl(workspace / "prompts.jsonl", (each.model_dump() for each in contents.prompts.values()))
        write_jsonl(workspace / "answers.jsonl", (each.model_dump() for each in answers.values()))
        return Built(summary={})

    stage = Stage(kind="review_plan", code_version="3", build=build, inputs=(REGISTERED_ADAPTER,))
    inputs = {"registered_adapter": reviews.bench.refs["registered_adapter"]}
    return produce(stage, reviews.bench.workplace(), inputs).ref


def back_to_release_0_1_0(reviews: ReviewBench, *, closed: bool) -> None:
    """Let the registry be one of release 0.1.0 with one review, whose candidate lost every pair, and migrate it."""
    reviews.open()
    plan, seed, row = unsealed_plan(reviews), reviews.seed, row_as_dict(reviews.review)
    row = {**row, "id": "old", "plan_digest": plan.digest, "plan_manifest_sha256": plan.manifest_sha256}
    row["opened_at"] = "2025-01-01 00:00:00+00:00"
    del row["act_key"]
    given = {(name, each.pair): reviews.position_of(name, each.pair) for name in reviews.operators
             for each in reviews.asked(name)}  # fmt: skip
    criteria = reviews.contents.plan.criteria
    engine = reviews.registry.engine
    with without_triggers(engine):
        with engine.begin() as connection:
            for table in EMPTIED:
                connection.execute(text(f"DELETE FROM {table}"))
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO blind_review ({names}) VALUES ({values})"), row)
        with Session(engine) as session:
            audit.append(session, "clerk", "review opened", {"review": "old"})
            for (operator, pair), position in given.items():
                ballot = Ballot(
                    review_id="old",
                    operator=operator,
                    pair=pair,
                    preference="b" if position == "a" else "a",
                    ratings=dict.fromkeys(ballots.ratings_asked(criteria), 3),
                    given_at=NOW,
                )
                session.add(ballot)
                said = {"review": "old", "pair": pair, "ballot": digest_of(ballots.content_of(ballot))}
                audit.append(session, operator, "ballot given", said)
            if closed:
                held = ballots.ballots_of(session, "old")
                session.add(
                    ReviewClosing(
                        review_id="old",
                        closed_at=NOW,
                        seed=seed.hex(),
                        ballots=len(held),
                        ballots_sha256=ballots.ballots_digest(held, []),
                    )
                )
                audit.append(session, "clerk", "review closed", {"review": "old", "seed": seed.hex()})
            session.commit()
        with engine.begin() as connection:
            go_back(connection, "0003")
    engine.dispose()
    for directory in (reviews.bench.settings.ledger, reviews.bench.settings.keys):
        shutil.rmtree(directory)
    reviews.registry = open_registry(reviews.bench.settings)
    for path in reviews.bench.settings.review_secrets.iterdir():
        path.unlink()


def found(reviews: ReviewBench) -> Mapping[str, Any]:
    return examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings)


def test_a_closed_one_keeps_its_result_which_states_that_it_is_unsigned(reviews: ReviewBench) -> None:
    back_to_release_0_1_0(reviews, closed=True)
    *_, reviews_end, rows_begin = audit.entries(reviews.registry)
    assert (reviews_end.action, reviews_end.subjects) == ("unsigned reviews end here", {"reviews": ["old"]})
    assert rows_begin.action == "rows of an earlier release taken over"
    assert found(reviews) == {}
    assert len(adapters_that_lost(reviews.registry, reviews.bench.store, "lamps")) == 1
    artifact, verdicts = reviews.materialize()
    (verdict,) = verdicts.values()
    assert verdict.evidence["outcome"] == "fail"
    assert "release 0.1.0 did not sign them" in verdict.message
    assert "was the adapter registered last, reviewed or not" in artifact.file("review.md").read_text()


@pytest.mark.security_case("a ballot is inserted into a review of an earlier release, which is unsigned", "refused")
def test_nothing_is_added_to_an_unsigned_review(reviews: ReviewBench) -> None:
    back_to_release_0_1_0(reviews, closed=True)
    with reviews.registry.writing() as session:
        ballot = Ballot(
            review_id="old",
            operator="ghost",
            pair="p",
            preference="a",
            ratings={"a.tone": 5},
            given_at=NOW,
        )
        session.add(ballot)
        session.flush()
        said = {"review": "old", "pair": "p", "ballot": digest_of(ballots.content_of(ballot))}
        audit.append(session, "ghost", "ballot given", said)
    assert list(found(reviews)) == ["old"]
    with pytest.raises(IntegrityError, match="after reviews began to be signed"):
        reviews.materialize()


@pytest.mark.security_case("an unsigned review is inserted, as if an earlier release had made it", "refused")
def test_no_unsigned_review_is_added(reviews: ReviewBench) -> None:
    back_to_release_0_1_0(reviews, closed=True)
    with reviews.registry.writing() as session:
        for table, key in (("blind_review", "id"), ("ballot", "review_id"), ("review_closing", "review_id")):
            columns = list(session.execute(text(f"SELECT * FROM {table}")).keys())
            chosen = ", ".join("'new'" if column == key else column for column in columns)
            session.execute(text(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM {table}"))
        audit.append(session, "sovereign", "unsigned reviews end here", {"reviews": ["new"]})
    assert list(found(reviews)) == ["new"]
    with pytest.raises(IntegrityError, match="was not there when reviews began to be signed"):
        adapters_that_lost(reviews.registry, reviews.bench.store, "lamps")


def test_an_open_one_cannot_be_rated_or_closed_and_another_one_can_be_opened(reviews: ReviewBench) -> None:
    back_to_release_0_1_0(reviews, closed=False)
    review, closing = find_last(reviews.registry, "lamps")
    assert (review.id, closing) == ("old", None)
    contents = plan_of(reviews.bench.store, review)
    with pytest.raises(ConflictError, match=r"opened by release 0\.1\.0, which did not sign ballots"):
        close(reviews.registry, reviews.bench.settings, review, contents, "clerk")
    with reviews.registry.writing() as session:
        session.execute(
            text("INSERT INTO sign_in_link VALUES (:digest, 'old', 'operator-1', :later)"),
            {"digest": hashlib.sha256(b"kept").hexdigest(), "later": "2099-01-01 00:00:00+00:00"},
        )
    with pytest.raises(SignInError, match="belongs to a review of an earlier release"):
        use_link(reviews.registry, reviews.bench.settings, "kept")
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    assert reviews.materialize()[1]["net_preference_not_negative"].passed


@pytest.mark.security_case("a closing is inserted for a review that an earlier release left open", "refused")
def test_an_open_one_is_not_closed_by_a_row(reviews: ReviewBench) -> None:
    back_to_release_0_1_0(reviews, closed=False)
    with reviews.registry.writing() as session:
        held = ballots.ballots_of(session, "old")
        digest, now = ballots.ballots_digest(held, []), NOW
        session.add(
            ReviewClosing(review_id="old", closed_at=now, seed=reviews.seed.hex(), ballots=20, ballots_sha256=digest)
        )
        session.flush()
        audit.append(session, "clerk", "review closed", {"review": "old"})
    with pytest.raises(IntegrityError, match="after reviews began to be signed"):
        reviews.materialize()
