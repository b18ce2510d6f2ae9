"""Open a review: choose candidate and opponent, generate their answers, then seal and pre-register the plan."""

import datetime
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, NotFoundError, StaleInput
from sovereign_pipeline.base.files import held_if_free
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.evaluation import FEWEST_OPERATORS, MOST_OPERATORS, OperatorName, Review
from sovereign_pipeline.record.catalog import find_adapter, registered_as
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import Adapter, Ballot, BlindReview
from sovereign_pipeline.review import acts
from sovereign_pipeline.review.ballots import issue_link
from sovereign_pipeline.review.plan import PlanContents, ReviewPlan, read_plan
from sovereign_pipeline.review.result import is_counted
from sovereign_pipeline.review.stages import (
    OpenContenders,
    Opponent,
    PlanRequest,
    choose_opponent,
    open_contenders,
    plan_stage,
    read_closed,
)


@dataclass(frozen=True)
class ReviewRequest:
    """The choices of the person who opens a review. The recipe decides everything else."""

    actor: str
    """Stored identifier of the person who opens the review, for the ledger (`record/officers.py`)."""
    candidate_stage: Stage
    """Stage that registers the candidate."""
    operators: tuple[str, ...] = ()
    """Names of the operators, if the recipe states only their number. Identifiers are stored instead of the names."""
    prompt_file: Path | None = None
    """File of prompts to use instead of the held-out documents, or None."""
    adapter_id: str | None = None
    """Id of the candidate. Only the line's current registered adapter is accepted; None means this adapter."""
    opponent: str | None = None
    """Id of the adapter to compare with, or `base`. If None, the rule chooses the opponent (`choose_opponent`)."""
    open_contenders: OpenContenders = open_contenders


@dataclass(frozen=True)
class Opened:
    review: str
    plan: ReviewPlan
    links: dict[str, str]
    """Mapping of operator to the token of a one-time sign-in link. Tokens are sent to the operators, and not stored."""


@dataclass(frozen=True)
class _Match:
    record: ArtifactRef
    """The candidate's registered_adapter artifact."""
    candidate: Adapter = field(compare=False)
    opponent: Opponent


def open_review(registry: Registry, workplace: Workplace, request: ReviewRequest) -> Opened:
    """Generate the answers, then seal and pre-register a review of the line's registered adapter.

    If an error is raised, no review was opened. Raises ConflictError if the line has an open review, or if candidate
    and opponent were compared before. Raises NotFoundError if the line has no registered adapter, StaleInput if
    `adapter_id` is not this adapter, and InputError for too few prompts or a wrong number of operators. Also raises the
    errors of `choose_opponent`, `file_prompts` and `produce`.
    """
    line = workplace.line.line
    with registry.reading() as session:
        _assert_none_is_open(session, line)
    operators = _commitments(workplace, request.operators)
    with _nobody_else_opens(workplace.settings, line):
        return _open(registry, workplace, request, operators)


def _open(registry: Registry, workplace: Workplace, request: ReviewRequest, operators: Mapping[str, str]) -> Opened:
    line, settings = workplace.line.line, workplace.settings
    match = _match(registry, workplace, request)
    drawn, people = acts.draw_secrets(), People(settings)
    stage = plan_stage(
        PlanRequest(
            registry=registry,
            candidate=match.candidate,
            chosen=match.opponent,
            operators=tuple(operators.values()),
            may_close_early=tuple(map(people.commitment_of, workplace.line.gates.review.may_close_early)),
            prompt_file=request.prompt_file,
            drawn=drawn,
            open_contenders=request.open_contenders,
        ),
        request.candidate_stage,
    )
    plan_ref = produce(stage, workplace, {request.candidate_stage.kind: match.record}).ref
    contents = read_plan(workplace.store, plan_ref)
    review_id = secrets.token_hex(8)
    acts.keep_secrets(settings, review_id, drawn)
    persons = {*operators.values(), *contents.plan.may_close_early, request.actor}
    with people.kept(persons), acts.opening_acts(settings, registry, review_id, drawn.key) as entering:
        _assert_none_is_open(entering.session, line)
        _assert_same_match(match, _match(registry, workplace, request), line)
        _register(entering, match, plan_ref, contents, request.actor)
        days = workplace.line.gates.review.link_days
        links = {name: issue_link(entering, each, days, request.actor) for name, each in operators.items()}
    return Opened(review_id, contents.plan, links)


def _match(registry: Registry, workplace: Workplace, request: ReviewRequest) -> _Match:
    record, candidate = _candidate(registry, workplace, request)
    opponent = choose_opponent(registry, workplace.store, candidate, request.opponent, request.actor)
    _assert_not_reviewed_yet(registry, workplace.store, candidate, opponent.adapter)
    return _Match(record, candidate, opponent)


def _assert_same_match(before: _Match, now: _Match, line: str) -> None:
    """Raise ConflictError if the candidate or opponent changed while the answers were generated.

    A review on another machine can change candidate or opponent, because the file lock covers only this machine. Call
    this function in the transaction that opens the review, because the transaction excludes other writers.
    """
    if before != now:
        raise ConflictError(
            f"Line {line}: the candidate or its opponent changed while the answers were generated.",
            "Open the review again.",
            act="open_review",
            line=line,
        )


def _register(
    entering: acts.Entering, match: _Match, plan_ref: ArtifactRef, contents: PlanContents, actor: str
) -> None:
    """Add a new review to the database: its row, the act of its opening, and the ballots for pairs with identical
    answers. Each operator's ballot for such a pair is a tie."""
    plan, now, session = contents.plan, datetime.datetime.now(datetime.UTC), entering.session
    opponent = match.opponent.adapter
    row = BlindReview(
        id=entering.review,
        line=plan.line,
        adapter_id=match.candidate.id,
        opponent_id=opponent.id if opponent is not None else None,
        record_digest=match.record.digest,
        plan_digest=plan_ref.digest,
        plan_manifest_sha256=plan_ref.manifest_sha256,
        seed_sha256=plan.seed_sha256,
        ballots=plan.ballots,
        opened_at=now,
        act_key=plan.act_key,
    )
    session.add(row)
    session.flush()
    entering.enter(
        actor,
        acts.OPENED,
        {
            "line": plan.line,
            "adapter": match.candidate.id,
            "opponent": plan.opponent or plan.base_model,
            "opponent_named": match.opponent.choice.named_by is not None,
            "opponent_reviewed": match.opponent.choice.is_reviewed,
            "plan": plan_ref.digest,
            "seed": plan.seed_sha256,
            "ballots": plan.ballots,
            "row": acts.digest_of_row(row),
        },
    )
    session.add_all(
        Ballot(review_id=row.id, operator=name, pair=each.pair, preference="tie", ratings=None, given_at=now)
        for name, pairs in plan.operators.items()
        for each in pairs
        if each.prompt in contents.identical
    )


@contextmanager
def _nobody_else_opens(settings: Settings, line: str) -> Iterator[None]:
    """Lock the line on this machine while a review is being opened. If another process has the lock, raises
    ConflictError at once, before any answers are generated."""
    with held_if_free(acts.secrets_directory(settings) / f"opening-{line}.lock") as is_held:
        if not is_held:
            raise ConflictError(
                f"Another process is opening a review of line {line}.",
                "Wait until `sovereign review status` shows the review as open.",
                act="review_status",
                line=line,
            )
        yield


def _candidate(registry: Registry, workplace: Workplace, request: ReviewRequest) -> tuple[ArtifactRef, Adapter]:
    line, wanted = workplace.line.line, request.adapter_id
    current = workplace.store.current(line, request.candidate_stage.kind)
    registered = registered_as(registry, current.digest) if current is not None else None
    if current is None or registered is None:
        raise NotFoundError(
            f"Line {line} has no registered adapter to review.", "Run the line first.", act="run_line", line=line
        )
    if wanted is not None and find_adapter(registry, wanted).id != registered.id:
        raise StaleInput(
            f"The current registered adapter of line {line} is {registered.id}. Only this adapter can be reviewed.",
            f"Leave out the adapter, or restore the recipe of {wanted} and run the line.",
            act="run_line",
            line=line,
        )
    return current, registered


def _commitments(workplace: Workplace, named: Sequence[str]) -> dict[str, str]:
    """Return a mapping of each operator's name to the stored identifier. If neither the recipe nor the request names
    the operators, name and identifier are the same label, such as `operator-1`."""
    people, in_recipe = People(workplace.settings), workplace.line.gates.review.operators
    names = _operators(workplace.line.gates.review, named)
    are_names = bool(named) or not isinstance(in_recipe, int)
    return {name: people.commitment_of(name) if are_names else name for name in names}


def _operators(review: Review, named: Sequence[str]) -> tuple[str, ...]:
    in_recipe = () if isinstance(review.operators, int) else review.operators
    names = tuple(named) or in_recipe
    if not names:
        names = tuple(f"operator-{number}" for number in range(1, review.operator_count + 1))
    try:
        TypeAdapter(tuple[OperatorName, ...]).validate_python(names)
    except ValidationError:
        raise InputError(
            "The name of an operator has a character that is not allowed.",
            "Use the name that the proxy sends. It may contain only letters, digits and . _ @ -",
        ) from None
    if in_recipe and set(names) != set(in_recipe):
        raise InputError(
            f"The recipe already names the operators: {', '.join(in_recipe)}.",
            "Leave out the names here, or change the recipe.",
        )
    different = len(set(names))
    if different != len(names) or different != review.operator_count:
        raise InputError(
            f"{different} different operators were given, but the recipe requires {review.operator_count} "
            f"(gates.review.operators, {FEWEST_OPERATORS} to {MOST_OPERATORS}).",
            f"Name {review.operator_count} different operators.",
        )
    return names


def _assert_not_reviewed_yet(
    registry: Registry, store: ArtifactStore, candidate: Adapter, opponent: Adapter | None
) -> None:
    """Raise ConflictError if a closed review compared the same weights, in any artifact and version.

    If reviews could be repeated, any candidate would pass in the end. A review may be repeated only if none of its
    ballots counted, because such a review has no result.
    """
    against = opponent.adapter_sha256 if opponent is not None else None
    for closed in read_closed(registry, store, acts.find_closed(registry, candidate.line)):
        reviewed = closed.contents.plan
        same_arms = (reviewed.candidate_weights, reviewed.opponent_weights) == (candidate.adapter_sha256, against)
        if same_arms and is_counted(closed):
            same = "" if reviewed.adapter == candidate.id else f" (as {reviewed.adapter}, with the same weights)"
            raise ConflictError(
                f"{candidate.id}{same} was reviewed against {opponent.id if opponent else candidate.base_model} "
                f"already. That result is final.",
                "Train another candidate, or have an officer waive an inconclusive verdict.",
            )


def _assert_none_is_open(session: Session, line: str) -> None:
    if acts.find_open(session, line) is not None:
        raise ConflictError(
            f"Line {line} already has an open review.", "Close that review first.", act="review_status", line=line
        )
