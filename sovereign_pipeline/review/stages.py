"""The one stage of blind review: `blind_review`, the result of a closed review, and its gate.

What belongs here: its identity, its build and its gate. What does not: the figures (`result.py`), and the artifact that
opening a review makes (`plan_stage.py`).
"""

from pathlib import Path

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.policy.review import OfficerMay
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.review.closed_reviews import ReviewsToDate, find_reviews
from sovereign_pipeline.review.result import ReviewResult, as_markdown, evaluate_net_preference, review_result
from sovereign_pipeline.review.sealed import answers_of, read_plan
from sovereign_pipeline.review.unblinding import unblind_ballots, unblind_guesses

RESULT_FILE, TABLES_FILE = "review.json", "review.md"
BALLOTS_FILE, GUESSES_FILE, ANSWERS_FILE = "ballots.jsonl", "guesses.jsonl", "answers.jsonl"


def blind_review_stage(upstream: Stage) -> Stage:
    """The stage over the registered adapter that was reviewed."""

    def reviews(workplace: Workplace) -> ReviewsToDate:
        return find_reviews(workplace, workplace.store.current(workplace.line.line, upstream.kind))

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build(reviews(workplace), workplace, workspace)

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        return _evaluate(reviews(workplace), workplace, artifact)

    return Stage(
        kind="blind_review",
        code_version="4",
        build=build,
        inputs=(upstream,),
        external=lambda workplace: reviews(workplace).digests(),
        libraries=("evalica", "numpy", "pandas", "scipy"),
        judges_what_is_recorded=True,
        gates=(
            Gate(
                name="net_preference_not_negative",
                question="Did blinded operators prefer the candidate at least as often as its opponent?",
                code_version="3",
                evaluate=evaluate,
                officer_may=lambda line: line.gates.review.officer_may,
                agreed=_agreed,
            ),
        ),
    )


def _build(reviews: ReviewsToDate, workplace: Workplace, workspace: Path) -> Built:
    closed, earlier = reviews.read(open_registry(workplace.settings), workplace.store)
    result = review_result(closed, earlier)
    (workspace / RESULT_FILE).write_bytes(_as_bytes(result))
    (workspace / TABLES_FILE).write_text(as_markdown(result), encoding="utf-8")
    write_jsonl(workspace / BALLOTS_FILE, (each.model_dump() for each in unblind_ballots(closed)))
    write_jsonl(workspace / GUESSES_FILE, (each.model_dump() for each in unblind_guesses(closed)))
    review, _ = reviews.newest
    answers = answers_of(workplace.store, review, closed.seed)
    write_jsonl(workspace / ANSWERS_FILE, (each.model_dump() for each in answers.values()))
    plan = workplace.store.read_manifest(workplace.store.ref_of(review.plan_digest))
    return Built(
        summary={
            "review": result.review,
            "adapter": result.adapter,
            "opponent": result.opponent,
            "ballots": result.ballots,
            "operators": result.operators,
            "closed_early": result.closed_early is not None,
            "net_preference": result.net_preference.model_dump(mode="json"),
        },
        classification=plan.classification,
    )


def _evaluate(reviews: ReviewsToDate, workplace: Workplace, artifact: Artifact) -> Verdict:
    """Compute everything again from the registry's ballots, the plan and the revealed seed."""
    closed, earlier = reviews.read(open_registry(workplace.settings), workplace.store)
    result = review_result(closed, earlier)
    verdict = evaluate_net_preference(result)
    if artifact.file(RESULT_FILE).read_bytes() == _as_bytes(result):
        return verdict
    return Verdict(
        False, f"{RESULT_FILE} differs from what the ballots give. Materialize blind_review again.", verdict.evidence
    )


def _agreed(workplace: Workplace, ref: ArtifactRef) -> OfficerMay:
    """What an officer may do by the plan, which was sealed before anybody knew a ballot."""
    plan = workplace.store.read_manifest(ref).external_inputs["review_plan"]
    return read_plan(workplace.store, workplace.store.ref_of(plan)).plan.officer_may


def _as_bytes(result: ReviewResult) -> bytes:
    return canonical_json(result.model_dump(mode="json")) + b"\n"


BLIND_REVIEW = blind_review_stage(REGISTERED_ADAPTER)
