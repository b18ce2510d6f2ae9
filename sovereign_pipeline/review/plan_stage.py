"""MODULE DOCSTRING."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.errors import (
    CeilingExceeded,
    InputError,
    IntegrityError,
)
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.review.answering import Answering
from sovereign_pipeline.review.plan import ReviewPlan, commitment, deal
from sovereign_pipeline.review.prompts import Available, assert_enough, file_prompts, held_out_prompts
from sovereign_pipeline.review.sealed import (
    ANSWERS_FILE,
    PLAN_FILE,
    PROMPTS_FILE,
    REVIEW_PLAN,
)
from sovereign_pipeline.suites.items import digest_of_items

OpenContenders = Callable[[Workplace, Artifact, Artifact | None], AbstractContextManager[Answering]]


@dataclass(frozen=True)
class Request:
    registry: Registry
    candidate: Adapter
    opponent: Adapter | None
    operators: tuple[str, ...]
    prompt_file: Path | None
    seed: bytes
    open_contenders: OpenContenders


def plan_stage(request: Request, upstream: Stage) -> Stage:
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


def _build_plan(request: Request, workplace: Workplace, record: Artifact, workspace: Path) -> Built:
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


def _prompts(request: Request, workplace: Workplace, record: Artifact, opponent: Artifact | None) -> Available:
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
