"""Making and judging `blind_review`: which closed review is read, and what is written of it.

What belongs here: build, gate and identity of the one stage of this room. What does not: the figures (`result.py`).
"""

from pathlib import Path

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.artifacts.stage import Built, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.errors import NotFoundError
from sovereign_pipeline.ledger.catalog import registered_as
from sovereign_pipeline.ledger.database import Registry, open_registry
from sovereign_pipeline.ledger.tables import BlindReview, ReviewClosing
from sovereign_pipeline.review.ballots import find_closed, find_closed_of, read_ballots, were_asked
from sovereign_pipeline.review.result import (
    ClosedReview,
    EarlyClosing,
    ReviewResult,
    as_markdown,
    evaluate_net_preference,
    guesses_of,
    is_rejection,
    ratings_of,
    review_result,
)
from sovereign_pipeline.review.sealed import plan_of

RESULT_FILE = "review.json"


def closed_review_digests(upstream: Stage, workplace: Workplace) -> dict[str, str]:
    """Of the review itself, its plan and ballots; of the earlier ones, what the ladder reads."""
    (review, closing), earlier = _reviews(upstream, workplace, open_registry(workplace.settings))
    return {
        "review_plan": review.plan_digest,
        "ballots": closing.ballots_sha256,
        "earlier_reviews": digest_of([[each.plan_digest, ended.ballots_sha256] for each, ended in earlier]),
    }


def build_blind_review(upstream: Stage, workplace: Workplace, workspace: Path) -> Built:
    closed, earlier = _closed(upstream, workplace)
    result = review_result(closed, earlier)
    (workspace / RESULT_FILE).write_bytes(_as_bytes(result))
    (workspace / "review.md").write_text(as_markdown(result), encoding="utf-8")
    write_jsonl(workspace / "ballots.jsonl", (each.model_dump() for each in ratings_of(closed)))
    write_jsonl(workspace / "guesses.jsonl", (each.model_dump() for each in guesses_of(closed)))
    ((review, _), _) = _reviews(upstream, workplace, open_registry(workplace.settings))
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


def evaluate_blind_review(upstream: Stage, workplace: Workplace, artifact: Artifact) -> Verdict:
    """Compute everything again from the registry's ballots, the plan and the revealed seed.

    What is inconclusive is a no where the plan lets no officer accept it and the recipe, changed since, would.
    """
    closed, earlier = _closed(upstream, workplace)
    result = review_result(closed, earlier)
    verdict = evaluate_net_preference(result)
    allowed, now = closed.contents.plan.officer_may, workplace.line.gates.review.officer_may
    if verdict.inconclusive and allowed == "nothing" != now:
        late = "No officer may accept that: the recipe allows it only since the review was opened."
        return Verdict(False, f"{verdict.message} {late}", verdict.evidence)
    if artifact.file(RESULT_FILE).read_bytes() == _as_bytes(result):
        return verdict
    return Verdict(
        False, f"{RESULT_FILE} does not say what the ballots say. Materialize blind_review again.", verdict.evidence
    )


def adapters_that_lost(registry: Registry, store: ArtifactStore, line: str) -> set[str]:
    """Digests of the adapters of a line that people, in the newest review of each, liked less than what they were to
    replace. They take no one's place, so nothing is held against them. Raises as reading a review does."""
    newest = {}
    for review, closing in find_closed(registry, line):
        if were_asked(registry, closing):
            closed = _read(registry, store, review, closing)
            newest[closed.contents.plan.candidate_digest] = closed
    return {digest for digest, closed in newest.items() if is_rejection(closed)}


def _closed(upstream: Stage, workplace: Workplace) -> tuple[ClosedReview, list[ClosedReview]]:
    registry = open_registry(workplace.settings)
    last, earlier = _reviews(upstream, workplace, registry)
    return _read(registry, workplace.store, *last), [_read(registry, workplace.store, *each) for each in earlier]


def _read(registry: Registry, store: ArtifactStore, review: BlindReview, closing: ReviewClosing) -> ClosedReview:
    ballots, guesses = read_ballots(registry, closing)
    return ClosedReview(
        review=review.id,
        contents=plan_of(store, review),
        seed=bytes.fromhex(closing.seed),
        ballots=ballots,
        guesses=guesses,
        closed_early=EarlyClosing(officer=closing.officer, reason=closing.reason or "")
        if closing.officer is not None
        else None,
    )


def _reviews(
    upstream: Stage, workplace: Workplace, registry: Registry
) -> tuple[tuple[BlindReview, ReviewClosing], list[tuple[BlindReview, ReviewClosing]]]:
    """The newest closed review of the line's current registered adapter, under whichever version its weights were
    reviewed, and every review that was closed before it."""
    line = workplace.line.line
    current = workplace.store.current(line, upstream.kind)
    adapter = registered_as(registry, current.digest) if current is not None else None
    of_adapter = find_closed_of(registry, line, adapter.adapter_digest) if adapter is not None else []
    closed = find_closed(registry, line)
    ids = {review.id for review, _ in of_adapter}
    numbers = [number for number, (review, _) in enumerate(closed) if review.id in ids]
    if not numbers:
        raise NotFoundError(
            f"Line {line}: no review of its current registered adapter was closed. Open one with `sovereign review "
            f"open {line}`, and close it when every ballot is given."
        )
    return closed[numbers[-1]], closed[: numbers[-1]]


def _as_bytes(result: ReviewResult) -> bytes:
    return canonical_json(result.model_dump(mode="json")) + b"\n"
