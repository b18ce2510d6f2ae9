"""Opening a review: both answers to every prompt are made beforehand, sealed as an artifact, and pre-registered.

What belongs here: which adapter is held against which, the `review_plan` artifact, and the rows that open a review.
What does not: the plan itself (`plan.py`), which prompts there are (`prompts.py`), ballots (`ballots.py`).
"""

import datetime
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Stage, Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    StaleInput,
)
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.catalog import find_adapter, last_adapter, registered_as
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Adapter, Ballot, BlindReview
from sovereign_pipeline.locks import held_if_free
from sovereign_pipeline.policy.review import FEWEST_OPERATORS, MOST_OPERATORS, OperatorName, Review
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.review.answering import open_contenders
from sovereign_pipeline.review.ballots import find_closed_of, find_open, were_asked
from sovereign_pipeline.review.building import adapters_that_lost
from sovereign_pipeline.review.plan import ReviewPlan
from sovereign_pipeline.review.plan_stage import OpenContenders, Request, plan_stage
from sovereign_pipeline.review.sealed import (
    keep_seed,
    plan_of,
    read_plan,
)
from sovereign_pipeline.review.sign_in import issue_link
from sovereign_pipeline.settings import Settings

SEED_BYTES = 32


@dataclass(frozen=True)
class Opened:
    """review: its id. links: operator -> token of the one-time link, to be handed over and stored nowhere."""

    review: str
    plan: ReviewPlan
    links: dict[str, str]


def open_review(
    registry: Registry,
    workplace: Workplace,
    actor: str,
    operators: Sequence[str] = (),
    prompt_file: Path | None = None,
    adapter_id: str | None = None,
    stage: Stage = REGISTERED_ADAPTER,
    contenders: OpenContenders = open_contenders,
) -> Opened:
    """Answer, seal and pre-register one review of the line's registered adapter.

    operators: their names, when the recipe gives a number only. prompt_file: prompts in place of the held-out letters.
    adapter_id: the candidate; the line's current registered adapter when None, and it must be that one. Raises
    ConflictError while another review of the line is open or when both were compared before, StaleInput or GateRefused
    when the candidate may not be used, InputError for too few prompts or operators, and whatever reading prompts
    raises. Nothing is opened on any error.
    """
    line, review = workplace.line, workplace.line.gates.review
    with registry.reading() as session:
        _assert_none_is_open(session, line.line)
    names = _operators(review, operators)
    record_ref, candidate = _candidate(registry, workplace, adapter_id, stage)
    passed_over = adapters_that_lost(registry, workplace.store, line.line)
    opponent = last_adapter(registry, line.line, besides={candidate.adapter_digest, *passed_over})
    _assert_not_reviewed_yet(registry, workplace.store, candidate, opponent)
    seed = secrets.token_bytes(SEED_BYTES)
    request = Request(registry, candidate, opponent, names, prompt_file, seed, contenders)
    with _nobody_else_opens(workplace.settings, line.line):
        production = produce(plan_stage(request, stage), workplace, {stage.kind: record_ref})
    contents = read_plan(workplace.store, production.ref)
    review_id = secrets.token_hex(8)
    keep_seed(workplace.settings, review_id, seed)
    now = datetime.datetime.now(datetime.UTC)
    with registry.writing() as session:
        _assert_none_is_open(session, line.line)
        session.add(
            BlindReview(
                id=review_id,
                line=line.line,
                adapter_id=candidate.id,
                opponent_id=opponent.id if opponent is not None else None,
                record_digest=record_ref.digest,
                plan_digest=production.ref.digest,
                plan_manifest_sha256=production.ref.manifest_sha256,
                seed_sha256=contents.plan.seed_sha256,
                ballots=contents.plan.ballots,
                opened_at=now,
            )
        )
        session.flush()
        audit.append(
            session,
            actor,
            "review opened",
            {
                "review": review_id,
                "line": line.line,
                "adapter": candidate.id,
                "plan": production.ref.digest,
                "seed": contents.plan.seed_sha256,
                "ballots": contents.plan.ballots,
            },
        )
        identical = contents.identical
        session.add_all(
            Ballot(review_id=review_id, operator=name, pair=each.pair, preference="tie", ratings=None, given_at=now)
            for name, pairs in contents.plan.operators.items()
            for each in pairs
            if each.prompt in identical
        )
        links = {name: issue_link(session, review_id, name, review.link_days, actor) for name in names}
    return Opened(review_id, contents.plan, links)


def renew_link(registry: Registry, workplace: Workplace, operator: str, actor: str) -> str:
    """One more link for an operator of the line's open review. actor: whoever runs the command. Raises NotFoundError
    when there is no such one."""
    line = workplace.line.line
    with registry.writing() as session:
        review = find_open(session, line)
        if review is None:
            raise NotFoundError(f"Line {line} has no open review. Open one: `sovereign review open {line}`.")
        operators = plan_of(workplace.store, review).plan.operators
        if operator not in operators:
            raise NotFoundError(f"'{operator}' takes no part in it; its operators are {', '.join(operators)}.")
        return issue_link(session, review.id, operator, workplace.line.gates.review.link_days, actor)


@contextmanager
def _nobody_else_opens(settings: Settings, line: str) -> Iterator[None]:
    """While the answers are made, which takes minutes: a second opening would make them for nothing.

    Raises ConflictError while another process holds the lock.
    """
    settings.review_secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    with held_if_free(settings.review_secrets / f"opening-{line}.lock") as is_held:
        if not is_held:
            raise ConflictError(
                f"A review of line {line} is being opened by another process. Wait for it: `sovereign review status "
                f"{line}` shows when it is open."
            )
        yield


def _candidate(
    registry: Registry, workplace: Workplace, adapter_id: str | None, stage: Stage
) -> tuple[ArtifactRef, Adapter]:
    line = workplace.line.line
    current = workplace.store.current(line, stage.kind)
    registered = registered_as(registry, current.digest) if current is not None else None
    if current is None or registered is None:
        raise NotFoundError(
            f"Line {line} has no registered adapter to be reviewed. Run the line first: `sovereign run {line}`."
        )
    if adapter_id is not None and find_adapter(registry, adapter_id).id != registered.id:
        raise StaleInput(
            f"Line {line}: its current registered adapter is {registered.id}, and only what would ship is reviewed. "
            f"Leave --adapter out, or put the recipe of {adapter_id} back and run the line: `sovereign run {line}`."
        )
    return current, registered


def _operators(review: Review, named: Sequence[str]) -> tuple[str, ...]:
    in_recipe = () if isinstance(review.operators, int) else review.operators
    names = tuple(named) or in_recipe
    if not names:
        names = tuple(f"operator-{number}" for number in range(1, review.operator_count + 1))
    try:
        TypeAdapter(tuple[OperatorName, ...]).validate_python(names)
    except ValidationError:
        raise InputError(
            "An operator's name may hold letters, digits and . _ @ - only, as the proxy or a link names them."
        ) from None
    if in_recipe and set(names) != set(in_recipe):
        raise InputError(
            f"The recipe names the operators: {', '.join(in_recipe)}. Leave --operators out, or change it."
        )
    if len(set(names)) != len(names) or len(names) != review.operator_count:
        raise InputError(
            f"{len(set(names))} different operators are named, and the recipe asks for {review.operator_count} "
            f"({FEWEST_OPERATORS} to {MOST_OPERATORS}: gates.review.operators)."
        )
    return names


def _assert_not_reviewed_yet(
    registry: Registry, store: ArtifactStore, candidate: Adapter, opponent: Adapter | None
) -> None:
    """Reviews that are repeated until one says yes would let anything ship in the end. The same weights under another
    version are the same candidate."""
    against = opponent.adapter_digest if opponent is not None else candidate.base_model_digest
    for review, closing in find_closed_of(registry, candidate.line, candidate.adapter_digest):
        if plan_of(store, review).plan.opponent_digest == against and were_asked(registry, closing):
            same = "" if review.adapter_id == candidate.id else f" (then {review.adapter_id}, the same weights)"
            raise ConflictError(
                f"{candidate.id}{same} was reviewed against {opponent.id if opponent else candidate.base_model} "
                f"already; that answer stands. Train another candidate, or let an officer decide where the answer was "
                f"inconclusive."
            )


def _assert_none_is_open(session: Session, line: str) -> None:
    if find_open(session, line) is not None:
        raise ConflictError(
            f"Line {line} has an open review already. See `sovereign review status {line}`, and close it "
            f"before another."
        )
