"""What an opened review keeps sealed: its plan with prompts, and its answers, which nobody reads without the seed.

The answers are encrypted in the store: whoever reads the store alone can neither tell which is the candidate's nor
compare them with what the evaluation let the same arms answer. They can be read once closing has revealed the seed.

What belongs here: the files of the `review_plan` artifact, read back verified. What does not: making them
(`plan_stage.py`), and where the seed lies (`custody.py`).
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import ValidationError

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.ledger.tables import BlindReview
from sovereign_pipeline.review.plan import AnswerPair, PlannedPair, Prompt, ReviewPlan

REVIEW_PLAN = "review_plan"
PLAN_FILE, PROMPTS_FILE, ANSWERS_FILE = "plan.json", "prompts.jsonl", "answers.sealed"

ONLY_NONCE = bytes(12)
"""Each key encrypts one text: the seed is drawn anew for every review."""


@dataclass(frozen=True)
class PlanContents:
    """A verified review_plan artifact, without its answers."""

    plan: ReviewPlan
    prompts: Mapping[str, Prompt]
    """By prompt id."""
    identical: frozenset[str]
    """Ids of the prompts to which both arms gave the same answer."""
    classification: str
    """The plan's level."""

    def asked(self, operator: str) -> list[PlannedPair]:
        """The pairs that an operator rates, in order; those with identical answers are ties already."""
        return [each for each in self.plan.operators.get(operator, ()) if each.prompt not in self.identical]


def seal_answers(seed: bytes, answers: Iterable[AnswerPair]) -> bytes:
    """Encrypt the answers under the seed (ChaCha20-Poly1305, RFC 8439)."""
    content = canonical_json([each.model_dump() for each in answers])
    return ChaCha20Poly1305(_answers_key(seed)).encrypt(ONLY_NONCE, content, None)


def read_plan(store: ArtifactStore, ref: ArtifactRef) -> PlanContents:
    """Open and verify a plan. Raises IntegrityError when bytes changed or the files do not belong together."""
    artifact = store.open(ref)
    try:
        plan = ReviewPlan.model_validate_json(artifact.file(PLAN_FILE).read_bytes())
        prompts = {row.id: row for row in map(Prompt.model_validate, read_jsonl(artifact.file(PROMPTS_FILE)))}
        identical = frozenset(plan.identical)
    except ValidationError:
        raise _no_plan(artifact) from None
    used = {each.prompt for pairs in plan.operators.values() for each in pairs}
    if used != prompts.keys() or not identical <= used:
        raise _not_together(artifact)
    return PlanContents(plan, prompts, identical, artifact.manifest.classification)


def plan_of(store: ArtifactStore, review: BlindReview) -> PlanContents:
    """Read the plan of a review as it was registered. Raises IntegrityError when it is another one."""
    ref = ref_of_plan(review)
    contents = read_plan(store, ref)
    plan = contents.plan
    if (plan.line, plan.adapter, plan.opponent, plan.seed_sha256, plan.ballots) != (
        review.line,
        review.adapter_id,
        review.opponent_id,
        review.seed_sha256,
        review.ballots,
    ):
        raise IntegrityError(
            f"{store.path_of(ref.digest)}: the registry's row of this review names another adapter or seed, or another "
            f"number of ballots. The registry was changed past its triggers.",
            "Restore the registry from a copy, and find out who changed it.",
        )
    return contents


def answers_of(store: ArtifactStore, review: BlindReview, seed: bytes) -> dict[str, AnswerPair]:
    """Both arms' answers of a review, by prompt id.

    Raises IntegrityError for bytes that changed, and for a seed other than the one they were sealed with.
    """
    artifact = store.open(ref_of_plan(review))
    try:
        content = ChaCha20Poly1305(_answers_key(seed)).decrypt(
            ONLY_NONCE, artifact.file(ANSWERS_FILE).read_bytes(), None
        )
    except InvalidTag:
        raise IntegrityError(
            f"{artifact.file(ANSWERS_FILE)}: this seed does not open the answers.",
            "Restore seed and store from copies.",
        ) from None
    try:
        return {row.id: row for row in map(AnswerPair.model_validate, json.loads(content))}
    except ValidationError:
        raise _no_plan(artifact) from None


def ref_of_plan(review: BlindReview) -> ArtifactRef:
    return ArtifactRef(
        kind=REVIEW_PLAN, line=review.line, digest=review.plan_digest, manifest_sha256=review.plan_manifest_sha256
    )


def _answers_key(seed: bytes) -> bytes:
    return hmac.new(seed, canonical_json(["answers"]), hashlib.sha256).digest()


def _no_plan(artifact: Artifact) -> IntegrityError:
    return IntegrityError(f"{artifact.path}: this is not a review's plan.", "Open the review again.")


def _not_together(artifact: Artifact) -> IntegrityError:
    return IntegrityError(
        f"{artifact.path}: plan, prompts and answers do not belong together.", "Open the review again."
    )
