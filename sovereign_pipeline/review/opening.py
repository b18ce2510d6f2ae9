"""Opening a review: both answers to every prompt are made beforehand, sealed as an artifact, and pre-registered.

What belongs here: which adapter is held against which, the `review_plan` artifact, and the rows that open a review.
What does not: the plan itself (`plan.py`), which prompts there are (`prompts.py`), ballots (`ballots.py`).
"""

import datetime
import fcntl
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.errors import (
    CeilingExceeded,
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    StaleInput,
)
from sovereign_pipeline.evaluation.items import digest_of_items
from sovereign_pipeline.policy.review import FEWEST_OPERATORS, MOST_OPERATORS, OperatorName, Review
from sovereign_pipeline.registry import audit
from sovereign_pipeline.registry.catalog import find_adapter, last_adapter, registered_as
from sovereign_pipeline.registry.database import Registry
from sovereign_pipeline.registry.models import Adapter, Ballot, BlindReview
from sovereign_pipeline.registry.record import lineage, read_record
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.review.answering import Answering, open_contenders
from sovereign_pipeline.review.ballots import find_closed_of, find_open, were_asked
from sovereign_pipeline.review.building import rejected
from sovereign_pipeline.review.plan import ReviewPlan, commitment, deal
from sovereign_pipeline.review.prompts import Available, assert_enough, file_prompts, held_out_prompts
from sovereign_pipeline.review.sealed import (
    ANSWERS_FILE,
    PLAN_FILE,
    PROMPTS_FILE,
    REVIEW_PLAN,
    keep_seed,
    plan_of,
    read_plan,
)
from sovereign_pipeline.review.sign_in import issue_link
from sovereign_pipeline.settings import Settings

SEED_BYTES = 32

OpenContenders = Callable[[Workplace, Artifact, Artifact | None], AbstractContextManager[Answering]]


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
    passed_over = rejected(registry, workplace.store, line.line)
    opponent = last_adapter(registry, line.line, besides={candidate.adapter_digest, *passed_over})
    _assert_not_reviewed_yet(registry, workplace.store, candidate, opponent)
    seed = secrets.token_bytes(SEED_BYTES)
    request = _Request(registry, candidate, opponent, names, prompt_file, seed, contenders)
    with _nobody_else_opens(workplace.settings, line.line):
        production = produce(_plan_stage(request, stage), workplace, {stage.kind: record_ref})
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
    """While the answers are made, which takes minutes: a second opening would make them for nothing. The lock belongs
    to the open file, so the kernel frees it however its holder ends. Raises ConflictError while another holds it."""
    settings.review_secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.review_secrets / f"opening-{line}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"A review of line {line} is being opened by another process. Wait for it: `sovereign review status "
                f"{line}` shows when it is open."
            ) from None
        yield


@dataclass(frozen=True)
class _Request:
    registry: Registry
    candidate: Adapter
    opponent: Adapter | None
    operators: tuple[str, ...]
    prompt_file: Path | None
    seed: bytes
    open_contenders: OpenContenders


def _plan_stage(request: _Request, upstream: Stage) -> Stage:
    """The stage of one opening. Its identity holds the seed's commitment, so each opening is a plan of its own."""

    def external(workplace: Workplace) -> dict[str, str]:
        opponent = request.opponent
        files = {} if request.prompt_file is None else {"prompts": digest_of_items(request.prompt_file)}
        return {
            **files,
            "opponent": opponent.record_digest if opponent is not None else request.candidate.base_model_digest,
            "operators": digest_of(list(request.operators)),
            "seed": commitment(request.seed),
        }

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build_plan(request, workplace, inputs[upstream.kind], workspace)

    return Stage(
        kind=REVIEW_PLAN,
        code_version="3",
        build=build,
        inputs=(upstream,),
        config=lambda line: {
            "instruction": line.training.instruction,
            "ceiling": line.ceiling,
            **line.gates.review.model_dump(mode="json", exclude={"operators"}),
        },
        external=external,
        libraries=("peft", "torch", "transformers"),
    )


def _build_plan(request: _Request, workplace: Workplace, record: Artifact, workspace: Path) -> Built:
    line, review, store = workplace.line, workplace.line.gates.review, workplace.store
    opponent_record = None if request.opponent is None else store.open(_record_of(request.opponent))
    if opponent_record is not None:
        _stop_above_ceiling(workplace, opponent_record)
    available = _prompts(request, workplace, record, opponent_record)
    where = "the held-out slice" if request.prompt_file is None else str(request.prompt_file)
    assert_enough(line.line, len(available.prompts), review, where)
    with request.open_contenders(workplace, record, opponent_record) as models:
        fitting = [each for each in available.prompts if models.fits(each, review.max_new_tokens)]
        assert_enough(line.line, len(fitting), review, f"{where}, without what is too long for a model,")
        operators = deal(request.seed, {each.id: each.language for each in fitting}, request.operators, review)
        used = {each.prompt for pairs in operators.values() for each in pairs}
        prompts = [each for each in fitting if each.id in used]
        workplace.progress(f"Answering {len(prompts)} prompts with both sides.")
        answers = []
        for start in range(0, len(prompts), review.batch_size):
            batch = prompts[start : start + review.batch_size]
            answers += models.answer(batch, review.max_new_tokens, review.batch_size)
            workplace.progress(f"{len(answers)} of {len(prompts)} prompts answered.")
        differing = {each.id for each in answers if not each.is_identical}
        asked = sum(each.prompt in differing for pairs in operators.values() for each in pairs)
        if not any(each.prompt in differing and not each.shared for pairs in operators.values() for each in pairs):
            raise InputError(
                f"Line {line.line}: both sides gave the same answer to every prompt, so there is nothing to compare. "
                f"Use other prompts (--prompts FILE), or train a candidate that differs."
            )
        settings: dict[str, int | str] = {
            "decoding": "greedy",
            "dtype": models.dtype,
            "max_new_tokens": review.max_new_tokens,
            "batch_size": review.batch_size,
            "instruction_sha256": digest_of(line.training.instruction),
        }
    plan = ReviewPlan(
        line=line.line,
        adapter=request.candidate.id,
        opponent=request.opponent.id if request.opponent is not None else None,
        base_model=request.candidate.base_model,
        candidate_digest=request.candidate.adapter_digest,
        opponent_digest=(
            request.opponent.adapter_digest if request.opponent is not None else request.candidate.base_model_digest
        ),
        prompts_from="held_out" if request.prompt_file is None else "file",
        seed_sha256=commitment(request.seed),
        operators={name: tuple(pairs) for name, pairs in operators.items()},
        ballots=min(review.ballots_to_close, asked),
        margin=review.margin,
        officer_may=review.officer_may,
        may_close_early=review.may_close_early,
        guess_pairs=review.guess_pairs,
        criteria=review.criteria,
        settings=settings,
    )
    (workspace / PLAN_FILE).write_bytes(canonical_json(plan.model_dump(mode="json")) + b"\n")
    write_jsonl(workspace / PROMPTS_FILE, (each.model_dump() for each in prompts))
    write_jsonl(workspace / ANSWERS_FILE, (each.model_dump() for each in answers))
    levels = [available.level] if available.level is not None else []
    levels += [opponent_record.manifest.classification] if opponent_record is not None else []
    return Built(
        summary={
            "adapter": plan.adapter,
            "opponent": plan.opponent or plan.base_model,
            "operators": len(plan.operators),
            "prompts": len(prompts),
            "pairs": plan.pairs,
            "identical_answers": sum(answer.is_identical for answer in answers),
            "ballots_to_close": plan.ballots,
            "left_out_as_trained_by_opponent": available.seen,
            "left_out_as_too_long": len(available.prompts) - len(fitting),
        },
        classification=workplace.institution.ladder.highest(levels) if levels else None,
    )


def _stop_above_ceiling(workplace: Workplace, opponent: Artifact) -> None:
    level, ceiling = opponent.manifest.classification, workplace.line.ceiling
    if workplace.institution.ladder.exceeds(level, ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {ceiling} at most, and the adapter that the candidate would replace "
            f"is {level}, so its answers cannot be shown. Have the ceiling of the line raised."
        )


def _prompts(request: _Request, workplace: Workplace, record: Artifact, opponent: Artifact | None) -> Available:
    own, *earlier = _splits(request.registry, workplace.store, record)
    of_opponent = [] if opponent is None else _splits(request.registry, workplace.store, opponent)
    if request.prompt_file is not None:
        return file_prompts(workplace, request.prompt_file, [own, *earlier, *of_opponent])
    return held_out_prompts(own, of_opponent)


def _splits(registry: Registry, store: ArtifactStore, record: Artifact) -> list[Artifact]:
    """The split that an adapter was trained on, by its record, and those of the adapters that it went on from."""
    found = [store.open(ref) for ref, _ in lineage(store, record.manifest) if ref.kind == "leakage_safe_split"]
    if not found:
        raise IntegrityError(f"{record.path}: this record was made from no leakage_safe_split. Register it anew.")
    start = read_record(record).started_from
    if start is not None:
        found += _splits(registry, store, store.open(_record_of(find_adapter(registry, start.adapter))))
    return found


def _record_of(adapter: Adapter) -> ArtifactRef:
    return ArtifactRef(
        kind="registered_adapter",
        line=adapter.line,
        digest=adapter.record_digest,
        manifest_sha256=adapter.record_manifest_sha256,
    )


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
