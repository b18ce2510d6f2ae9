"""What an opened review left sealed: its plan with prompts and answers, and the seed of its sides, read back verified.

What belongs here: the files of the `review_plan` artifact, and the seed's file. What does not: making them
(`opening.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """A verified review_plan artifact. prompts, answers: by prompt id."""

    plan: ReviewPlan
    prompts: Mapping[str, Prompt]
    answers: Mapping[str, AnswerPair]

    @property
    def identical(self) -> set[str]:
        """Prompts to which both sides answered the same."""
        return {id for id, pair in self.answers.items() if pair.is_identical}

    def asked(self, operator: str) -> list[PlannedPair]:
        """The pairs that an operator is asked about, in order; of those with identical answers the tie is on record."""
        identical = self.identical
        return [each for each in self.plan.operators.get(operator, ()) if each.prompt not in identical]


def read_plan(store: ArtifactStore, ref: ArtifactRef) -> PlanContents:
    """Open and verify a plan. Raises IntegrityError when bytes changed or the files do not belong together."""
    artifact = store.open(ref)
    try:
        plan = ReviewPlan.model_validate_json(artifact.file(PLAN_FILE).read_bytes())
        prompts = {row.id: row for row in map(Prompt.model_validate, read_jsonl(artifact.file(PROMPTS_FILE)))}
        answers = {row.id: row for row in map(AnswerPair.model_validate, read_jsonl(artifact.file(ANSWERS_FILE)))}
    except ValidationError:
        raise IntegrityError(f"{artifact.path}: not a review's plan. Open the review again.") from None
    used = {each.prompt for pairs in plan.operators.values() for each in pairs}
    if not used == prompts.keys() == answers.keys():
        raise IntegrityError(f"{artifact.path}: plan, prompts and answers do not belong together.")
    return PlanContents(plan, prompts, answers)


def plan_of(store: ArtifactStore, review: BlindReview) -> PlanContents:
    """The plan of a review as it was registered. Raises IntegrityError when it is another one."""
    ref = ArtifactRef(
        kind=REVIEW_PLAN, line=review.line, digest=review.plan_digest, manifest_sha256=review.plan_manifest_sha256
    )
    contents = read_plan(store, ref)
    if (contents.plan.adapter, contents.plan.seed_sha256) != (review.adapter_id, review.seed_sha256):
        raise IntegrityError(
            f"{store.path_of(ref.digest)}: the registry's row of this review says another adapter or seed. The "
            f"registry was changed past its triggers: restore it from a copy."
        )
    return contents


def keep_seed(settings: Settings, review: str, seed: bytes) -> None:
    """Where the page's process finds it, readable by its own account alone."""
    settings.review_secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _seed_path(settings, review)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(seed)


def sealed_seed(settings: Settings, review: BlindReview) -> bytes:
    """Raises IntegrityError unless it is the seed that was committed to when the review was opened."""
    path = _seed_path(settings, review.id)
    if not path.is_file():
        raise IntegrityError(
            f"{path}: the sealed seed of this review is gone, so nobody can tell which answer was whose. Restore it "
            f"from a copy."
        )
    seed = path.read_bytes()
    if commitment(seed) != review.seed_sha256:
        raise IntegrityError(f"{path}: not the seed that was committed to. Restore it from a copy.")
    return seed


def _seed_path(settings: Settings, review: str) -> Path:
    return settings.review_secrets / f"{review}.seed"
