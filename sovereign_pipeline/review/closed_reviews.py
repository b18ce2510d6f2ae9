"""Read closed reviews, choose the opponent of a candidate, and define the stage `blind_review`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sovereign_pipeline.base.errors import ConflictError, InputError, NotFoundError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.policy.evaluation import OfficerMay_review as OfficerMay
from sovereign_pipeline.record.catalog import ENDED, adapters_of, find_adapter, registered_as, states
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.tables import Adapter, BlindReview, ReviewClosing
from sovereign_pipeline.review.acts import find_closed, find_closed_of
from sovereign_pipeline.review.closing import assert_none, findings_in, read_log, rows_of
from sovereign_pipeline.review.plan import OpponentChoice, answers_of, plan_of, read_plan
from sovereign_pipeline.review.result import (
    ClosedReview,
    EarlyClosing,
    ReviewResult,
    as_markdown,
    evaluate_net_preference,
    has_lost,
    is_counted,
    review_result,
    unblind_ballots,
    unblind_guesses,
)

Rows = tuple[BlindReview, ReviewClosing]
"""The registry's rows of a closed review, without its ballots."""


@dataclass(frozen=True)
class ReviewsToDate:
    """The newest closed review of a line's current registered adapter, and all earlier closed reviews of the line."""

    newest: Rows
    earlier: Sequence[Rows]

    def digests(self) -> dict[str, str]:
        """Name -> digest of every input of the review's result."""
        review, closing = self.newest
        return {
            "review_plan": review.plan_digest,
            "ballots": closing.ballots_sha256,
            "earlier_reviews": digest_of([[each.plan_digest, ended.ballots_sha256] for each, ended in self.earlier]),
        }

    def read(self, registry: Registry, store: ArtifactStore) -> tuple[ClosedReview, list[ClosedReview]]:
        *earlier, newest = read_closed(registry, store, [*self.earlier, self.newest])
        return newest, earlier


def find_reviews(workplace: Workplace, registered: ArtifactRef | None) -> ReviewsToDate:
    """Find the closed reviews of the weights in a line's current registered_adapter artifact. Raises NotFoundError if
    no review of these weights is closed."""
    line, registry = workplace.line.line, open_registry(workplace.settings)
    adapter = registered_as(registry, registered.digest) if registered is not None else None
    found = reviews_of(registry, adapter) if adapter is not None else None
    if found is None:
        raise NotFoundError(
            f"Line {line}: there is no closed review of its current registered adapter.",
            "Open a review, and close it when all ballots are cast.",
            act="open_review",
            line=line,
        )
    return found


def reviews_of(registry: Registry, adapter: Adapter) -> ReviewsToDate | None:
    """Return the newest closed review of an adapter's weights and all earlier closed reviews of the line, or None if
    these weights were not reviewed. The weights may belong to any artifact or version."""
    closed = find_closed(registry, adapter.line)
    ids = {review.id for review, _ in find_closed_of(registry, adapter.line, adapter.adapter_sha256)}
    numbers = [number for number, (review, _) in enumerate(closed) if review.id in ids]
    return ReviewsToDate(closed[numbers[-1]], closed[: numbers[-1]]) if numbers else None


def standings(registry: Registry, store: ArtifactStore, line: str) -> dict[str, bool]:
    """Return SHA-256 of reviewed weights -> True if the weights lost their newest review that has counted ballots.

    The key is the weights' digest, because a changed recipe can result in another artifact with the same weights.
    Raises IntegrityError if a review was changed.
    """
    closed = read_closed(registry, store, find_closed(registry, line))
    return {each.contents.plan.candidate_weights: has_lost(each) for each in closed if is_counted(each)}


def adapters_that_lost(registry: Registry, store: ArtifactStore, line: str) -> set[str]:
    """Return the SHA-256 of all weights of the line that lost their newest blind review. Such an adapter cannot be the
    incumbent. Raises IntegrityError if a review was changed."""
    return {weights for weights, lost in standings(registry, store, line).items() if lost}


def read_closed(registry: Registry, store: ArtifactStore, closed: Sequence[Rows]) -> list[ClosedReview]:
    """Read closed reviews, and compare each review with its acts in the ledger. Raises IntegrityError that lists every
    difference."""
    if not closed:
        return []
    with registry.reading() as session:
        log = read_log(session)
        rows = [rows_of(session, review, log) for review, _ in closed]
        plans = [plan_of(store, review) for review, _ in closed]
    read = []
    for each, contents, (review, closing) in zip(rows, plans, closed, strict=True):
        assert_none(review.id, findings_in(each, contents, registry.settings))
        early = None
        if closing.officer is not None:
            early = EarlyClosing(officer=closing.officer, reason=closing.reason or "")
        seed = bytes.fromhex(closing.seed)
        read.append(ClosedReview(review.id, contents, seed, each.ballots, each.guesses, early))
    return read


BASE = "base"
"""Name of the base model as an opponent. No adapter can have this id, because adapter ids end with a version."""


@dataclass(frozen=True)
class Opponent:
    adapter: Adapter | None = field(compare=False)
    """The adapter; None for the candidate's base model."""
    id: str
    choice: OpponentChoice


def choose_opponent(
    registry: Registry, store: ArtifactStore, candidate: Adapter, named: str | None, actor: str
) -> Opponent:
    """Return the opponent `named` or, if it is None, the opponent that the rule chooses.

    Args:
        named: id of an adapter of the line, or `base`; None chooses by rule.
        actor: the person who named the opponent.

    Raises NotFoundError for an unknown adapter, InputError for an adapter of another line or with the candidate's
    weights, and ConflictError for an opponent that lost its review. Also raises ConflictError if the candidate was
    reviewed before and `named` is not the rule's choice: a candidate must not be reviewed again and again until it
    meets a weak opponent.
    """
    standing = standings(registry, store, candidate.line)
    others = _other_adapters(registry, candidate)
    by_rule = next((each for each in others if standing.get(each.adapter_sha256) is False), None)
    newer = others[: others.index(by_rule)] if by_rule is not None else others
    opponent = by_rule if named is None else _named(registry, candidate, named, standing)
    if _name(candidate, opponent) != _name(candidate, by_rule) and candidate.adapter_sha256 in standing:
        raise ConflictError(
            f"{candidate.id} was reviewed already, so its next opponent must be the rule's choice: "
            f"{_name(candidate, by_rule)}.",
            "Do not name an opponent.",
        )
    return Opponent(
        opponent,
        _name(candidate, opponent),
        OpponentChoice(
            named_by=actor if named is not None else None,
            by_rule=_name(candidate, by_rule),
            is_reviewed=opponent.adapter_sha256 in standing if opponent is not None else None,
            never_reviewed=tuple(each.id for each in newer if each.adapter_sha256 not in standing),
        ),
    )


def _other_adapters(registry: Registry, candidate: Adapter) -> list[Adapter]:
    """Return the line's adapters in use whose weights differ from the candidate's, newest first."""
    with registry.reading() as session:
        adapters, state = adapters_of(session, candidate.line), states(session, candidate.line)
    others = [
        each for each in adapters if each.adapter_sha256 != candidate.adapter_sha256 and state[each.id] not in ENDED
    ]
    return sorted(others, key=lambda each: each.version_numbers, reverse=True)


def _named(registry: Registry, candidate: Adapter, named: str, standing: Mapping[str, bool]) -> Adapter | None:
    if named == BASE:
        return None
    opponent = find_adapter(registry, named)
    if opponent.line != candidate.line:
        raise InputError(
            f"{named} is an adapter of line {opponent.line}, not of {candidate.line}.", "Choose another opponent."
        )
    if opponent.adapter_sha256 == candidate.adapter_sha256:
        raise InputError(f"{named} has the same weights as the candidate {candidate.id}.", "Choose another opponent.")
    if standing.get(opponent.adapter_sha256):
        raise ConflictError(f"{named} lost its blind review, so it cannot be an opponent.", "Choose another opponent.")
    return opponent


def _name(candidate: Adapter, opponent: Adapter | None) -> str:
    return opponent.id if opponent is not None else candidate.base_model


RESULT_FILE, TABLES_FILE = "review.json", "review.md"
BALLOTS_FILE, GUESSES_FILE, ANSWERS_FILE = "ballots.jsonl", "guesses.jsonl", "answers.jsonl"


def blind_review_stage(upstream: Stage) -> Stage:
    """Return the stage `blind_review`. `upstream` is the stage that registers the adapter."""

    def reviews(workplace: Workplace) -> ReviewsToDate:
        return find_reviews(workplace, workplace.store.current(workplace.line.line, upstream.kind))

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build(reviews(workplace), workplace, workspace)

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        return _evaluate(reviews(workplace), workplace, artifact)

    return Stage(
        kind="blind_review",
        code_version="5",
        build=build,
        inputs=(upstream,),
        external=lambda workplace: reviews(workplace).digests(),
        libraries=("evalica", "numpy", "pandas", "scipy"),
        judges_what_is_recorded=True,
        gates=(
            Gate(
                name="net_preference_not_negative",
                question="Did blinded operators prefer the candidate at least as often as its opponent?",
                code_version="4",
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
    """Recompute the result from the registry's ballots, the plan and the seed, and compare the result with the
    artifact."""
    closed, earlier = reviews.read(open_registry(workplace.settings), workplace.store)
    result = review_result(closed, earlier)
    verdict = evaluate_net_preference(result)
    if artifact.file(RESULT_FILE).read_bytes() == _as_bytes(result):
        return verdict
    return Verdict(
        False, f"{RESULT_FILE} differs from what the ballots give. Materialize blind_review again.", verdict.evidence
    )


def _agreed(workplace: Workplace, ref: ArtifactRef) -> OfficerMay:
    """Return the waivers that the review's plan permits. The plan was sealed before the first ballot."""
    plan = workplace.store.read_manifest(ref).external_inputs["review_plan"]
    return read_plan(workplace.store, workplace.store.ref_of(plan)).plan.officer_may


def _as_bytes(result: ReviewResult) -> bytes:
    return canonical_json(result.model_dump(mode="json")) + b"\n"
