"""What an opened review keeps sealed, read back verified: its plan with prompts and answers, and its seed.

What belongs here: the files of the `review_plan` artifact, and the seed's file. What does not: making them
(`plan_stage.py`, `opening.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.tables import BlindReview
from sovereign_pipeline.review.plan import AnswerPair, PlannedPair, Prompt, ReviewPlan, commitment
from sovereign_pipeline.settings import Settings

REVIEW_PLAN = "review_plan"
PLAN_FILE, PROMPTS_FILE, ANSWERS_FILE = "plan.json", "prompts.jsonl", "answers.jsonl"


@dataclass(frozen=True)
class PlanContents:
    """A verified review_plan artifact."""

    plan: ReviewPlan
    prompts: Mapping[str, Prompt]
    """By prompt id."""
    answers: Mapping[str, AnswerPair]
    """By prompt id."""

    @cached_property
    def identical(self) -> set[str]:
        """Ids of the prompts to which both arms gave the same answer."""
        return {id for id, pair in self.answers.items() if pair.is_identical}

    def asked(self, operator: str) -> list[PlannedPair]:
        """The pairs that an operator rates, in order; those with identical answers are ties already."""
        return [each for each in self.plan.operators.get(operator, ()) if each.prompt not in self.identical]


def read_plan(store: ArtifactStore, ref: ArtifactRef) -> PlanContents:
    """Open and verify a plan. Raises IntegrityError when bytes changed or the files do not belong together."""
    artifact = store.open(ref)
    try:
        plan = ReviewPlan.model_validate_json(artifact.file(PLAN_FILE).read_bytes())
        prompts = {row.id: row for row in map(Prompt.model_validate, read_jsonl(artifact.file(PROMPTS_FILE)))}
        answers = {row.id: row for row in map(AnswerPair.model_validate, read_jsonl(artifact.file(ANSWERS_FILE)))}
    except ValidationError:
        raise IntegrityError(f"{artifact.path}: this is not a review's plan.", "Open the review again.") from None
    used = {each.prompt for pairs in plan.operators.values() for each in pairs}
    if not used == prompts.keys() == answers.keys():
        raise IntegrityError(
            f"{artifact.path}: plan, prompts and answers do not belong together.", "Open the review again."
        )
    return PlanContents(plan, prompts, answers)


def plan_of(store: ArtifactStore, review: BlindReview) -> PlanContents:
    """Read the plan of a review as it was registered. Raises IntegrityError when it is another one."""
    ref = ArtifactRef(
        kind=REVIEW_PLAN, line=review.line, digest=review.plan_digest, manifest_sha256=review.plan_manifest_sha256
    )
    contents = read_plan(store, ref)
    if (contents.plan.adapter, contents.plan.seed_sha256) != (review.adapter_id, review.seed_sha256):
        raise IntegrityError(
            f"{store.path_of(ref.digest)}: the registry's row of this review names another adapter or seed. The "
            f"registry was changed past its triggers.",
            "Restore the registry from a copy, and find out who changed it.",
        )
    return contents


def keep_seed(settings: Settings, review: str, seed: bytes) -> None:
    """Write the seed to where the page's process reads it, readable by its own account alone."""
    settings.review_secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _seed_path(settings, review)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(seed)


def sealed_seed(settings: Settings, review: BlindReview) -> bytes:
    """Read the seed. Raises IntegrityError unless it is the one committed to when the review was opened."""
    path = _seed_path(settings, review.id)
    if not path.is_file():
        raise IntegrityError(
            f"{path}: the sealed seed of this review is missing. Without it nobody can derive which answer was whose.",
            "Restore the file from a copy.",
        )
    seed = path.read_bytes()
    if commitment(seed) != review.seed_sha256:
        raise IntegrityError(f"{path}: this is not the seed that was committed to.", "Restore the file from a copy.")
    return seed


def _seed_path(settings: Settings, review: str) -> Path:
    return settings.review_secrets / f"{review}.seed"
