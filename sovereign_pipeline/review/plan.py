"""Define the plan of a blind review. One sealed seed determines which operator sees which answers in which position."""

import hashlib
import hmac
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import Field, ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, canonical_json
from sovereign_pipeline.corpus.document import Message, read_jsonl
from sovereign_pipeline.policy.evaluation import Criterion, Review
from sovereign_pipeline.policy.evaluation import OfficerMay_review as OfficerMay
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import person_in_short
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.tables import BlindReview
from sovereign_pipeline.record.tree import RegistryDamaged

Position = Literal["a", "b"]
"""Position of an answer on the page: answer A or answer B."""


class Prompt(Frozen):
    id: str
    language: str
    text: str
    """The prompt as operators see it. Models also get the line's instruction."""
    messages: tuple[Message, ...] = Field(default=(), exclude_if=lambda messages: not messages)
    """Messages of a conversation before the answer; empty for a letter."""
    tools: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=lambda tools: not tools)


def readable(message: Message) -> str:
    """Format a message for people: its text, followed by its tool calls. JSON is shown as lines of `name: value`."""
    value = None
    with suppress(ValueError, RecursionError):
        value = json.loads(message.content)
    parts = [_lines(value) if isinstance(value, dict | list) else message.content]
    parts += [f"{call.name}\n{_lines(call.arguments)}".strip() for call in message.tool_calls]
    return "\n\n".join(part for part in parts if part)


def _lines(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_lines(each)}" for name, each in value.items())
    return ", ".join(map(_lines, value)) if isinstance(value, list | tuple) else str(value)


class AnswerPair(Frozen):
    """The answers of candidate and opponent to one prompt, both without surrounding whitespace."""

    id: str
    candidate: str
    opponent: str

    @property
    def is_identical(self) -> bool:
        return self.candidate == self.opponent


class PlannedPair(Frozen):
    pair: str
    """Random id of the pair. It differs between operators, so it does not reveal the prompt."""
    prompt: str
    shared: bool
    """True if every operator rates this prompt."""


class OpponentChoice(Frozen):
    """How the opponent was chosen."""

    named_by: str | None
    """Stored identifier of the person who named the opponent; None if the rule chose the opponent."""
    by_rule: str
    """The opponent that the rule chooses: the id of the line's newest other adapter that was reviewed and did not lose.
    If there is no such adapter, the name of the base model."""
    is_reviewed: bool | None
    """True if the opponent was reviewed and did not lose; None for the base model."""
    never_reviewed: tuple[str, ...]
    """Ids of newer adapters that the rule skips because they were never reviewed."""


class ReviewPlan(Frozen):
    """The content of `plan.json`, which is pre-registered before the first ballot."""

    line: str
    adapter: str
    """Id of the candidate adapter."""
    opponent: str | None
    """Id of the adapter that the candidate is compared with; None for the base model."""
    base_model: str
    candidate_digest: str
    """Digest of the artifact that generated the candidate's answers. Several versions may be registered for it."""
    opponent_digest: str
    candidate_weights: str
    """SHA-256 of the candidate's weights (`Adapter.adapter_sha256`). The same weights are reviewed only once against an
    opponent, even if they are in several artifacts."""
    opponent_weights: str | None
    """SHA-256 of the opponent's weights; None for the base model."""
    opponent_choice: OpponentChoice
    prompts_from: Literal["held_out", "file"]
    seed_sha256: str
    """SHA-256 of the sealed seed. It later proves that the revealed seed was not replaced."""
    act_key: str
    """Public key (Ed25519, hex) that verifies every act of the review."""
    identical: tuple[str, ...]
    """Ids of the prompts to which both arms gave the same answer."""
    operators: dict[str, tuple[PlannedPair, ...]]
    """Mapping of an operator's stored identifier or number (`record/officers.py`) to the pairs that the operator rates,
    in display order."""
    ballots: int
    """Number of ballots that are required to close the review. Automatic ties for identical answers do not count."""
    margin: float
    """The recipe's margin when the review was opened. Later changes of the recipe do not affect `margin`, `officer_may`
    and `may_close_early`."""
    officer_may: OfficerMay
    may_close_early: tuple[str, ...]
    guess_pairs: int
    criteria: tuple[Criterion, ...]
    settings: dict[str, int | str]
    """Generation settings of candidate and opponent."""

    @property
    def pairs(self) -> int:
        return sum(len(pairs) for pairs in self.operators.values())


def in_words(opponent: str, choice: OpponentChoice) -> str:
    """Explain the choice of the opponent in sentences."""
    if choice.named_by is not None:
        rule = "" if choice.by_rule == opponent else f" The rule gives {choice.by_rule}."
        unknown = "" if choice.is_reviewed is not False else f" Nobody has reviewed {opponent}."
        return f"{opponent} was named as the opponent by {person_in_short(choice.named_by)}.{unknown}{rule}"
    passed_over = f" Passed over, since nobody reviewed them: {', '.join(choice.never_reviewed)}."
    if choice.is_reviewed is None:
        reason = f"{opponent} is the opponent by rule: no other adapter of the line was reviewed without losing."
    else:
        reason = f"{opponent} is the opponent by rule: the newest other adapter that was reviewed and did not lose."
    return reason + (passed_over if choice.never_reviewed else "")


def commitment(seed: bytes) -> str:
    return hashlib.sha256(seed).hexdigest()


def deal(
    seed: bytes, languages: Mapping[str, str], operators: Sequence[str], review: Review
) -> dict[str, list[PlannedPair]]:
    """Choose prompts pseudorandomly from the seed, and assign them to the operators. Return a mapping of operator to
    pairs in display order.

    Each language's prompts are dealt to the operators in turn, so that all get nearly the same mix of languages.

    Args:
        languages: mapping of prompt id to the prompt's language. At least `review.prompts` prompts are required.
    """
    chosen = sorted(languages, key=lambda id: _rank(seed, "prompt", id))[: review.prompts]
    shared, own = chosen[: review.shared_prompts], chosen[review.shared_prompts :]
    own.sort(key=lambda id: languages[id])
    planned = {}
    for number, operator in enumerate(operators):
        pairs = [
            PlannedPair(pair=_rank(seed, "pair", operator, id)[:16], prompt=id, shared=is_shared)
            for is_shared, ids in ((True, shared), (False, own[number :: len(operators)]))
            for id in ids
        ]
        planned[operator] = sorted(pairs, key=lambda pair: _rank(seed, "order", operator, pair.pair))
    return planned


def candidate_positions(seed: bytes, operator: str, pairs: Iterable[PlannedPair]) -> dict[str, Position]:
    """Return a mapping of pair id to the position of the candidate's answer. The candidate is A in exactly half of an
    operator's own pairs and in exactly half of the shared pairs."""
    positions: dict[str, Position] = {}
    planned = list(pairs)
    for is_shared in (False, True):
        ids = sorted(
            (each.pair for each in planned if each.shared == is_shared),
            key=lambda id: _rank(seed, "side", operator, id),
        )
        positions |= {id: "a" if place < len(ids) // 2 else "b" for place, id in enumerate(ids)}
    return positions


def pairs_to_guess(
    seed: bytes, operator: str, pairs: Iterable[PlannedPair], identical: Collection[str], count: int
) -> list[str]:
    """Choose at most `count` of an operator's own pairs for the guesses at the end. The candidate is A in exactly half
    of the chosen pairs.

    Args:
        identical: ids of prompts with identical answers. Their pairs are not chosen, because the answers look the same.
    """
    planned = list(pairs)
    positions = candidate_positions(seed, operator, planned)
    ids = sorted(
        (each.pair for each in planned if not each.shared and each.prompt not in identical),
        key=lambda id: _rank(seed, "guess", operator, id),
    )
    by_position = [[id for id in ids if positions[id] == position] for position in ("a", "b")]
    of_each = min(count // 2, *(len(found) for found in by_position))
    chosen = {id for found in by_position for id in found[:of_each]}
    return [id for id in ids if id in chosen]


def _rank(seed: bytes, *names: str) -> str:
    return hmac.new(seed, canonical_json(list(names)), hashlib.sha256).hexdigest()


REVIEW_PLAN = "review_plan"
PLAN_FILE, PROMPTS_FILE, SEALED_FILE = "plan.json", "prompts.jsonl", "answers.sealed"

ONLY_NONCE = bytes(12)
"""Constant nonce. It is safe because every review has a new seed, so each key encrypts only one text."""


@dataclass(frozen=True)
class PlanContents:
    """The content of a verified review_plan artifact, except for the answers."""

    plan: ReviewPlan
    prompts: Mapping[str, Prompt]
    identical: frozenset[str]
    """Ids of the prompts to which both arms gave the same answer."""
    classification: str

    def asked(self, operator: str) -> list[PlannedPair]:
        """Return the pairs that an operator rates, in display order. Pairs with identical answers are left out, because
        they count as ties."""
        return [each for each in self.plan.operators.get(operator, ()) if each.prompt not in self.identical]


def seal_answers(seed: bytes, answers: Iterable[AnswerPair]) -> bytes:
    """Encrypt the answers with a key that is derived from the seed (ChaCha20-Poly1305, RFC 8439)."""
    content = canonical_json([each.model_dump() for each in answers])
    return ChaCha20Poly1305(_answers_key(seed)).encrypt(ONLY_NONCE, content, None)


def read_plan(store: ArtifactStore, ref: ArtifactRef) -> PlanContents:
    """Open and verify a plan. Raises IntegrityError if a file was changed or is invalid, or if `plan.json` and
    `prompts.jsonl` list different prompts."""
    artifact = store.open(ref)
    try:
        plan = ReviewPlan.model_validate_json(artifact.file(PLAN_FILE).read_bytes())
        prompts = {row.id: row for row in map(Prompt.model_validate, read_jsonl(artifact.file(PROMPTS_FILE)))}
        identical = frozenset(plan.identical)
    except ValidationError:
        raise _no_plan(artifact) from None
    used = {each.prompt for pairs in plan.operators.values() for each in pairs}
    if used != prompts.keys() or not identical <= used:
        problem = f"{PLAN_FILE} and {PROMPTS_FILE} list different prompts"
        raise IntegrityError(f"{artifact.path}: {problem}.", "Open the review again.")
    return PlanContents(plan, prompts, identical, artifact.manifest.classification)


def plan_of(store: ArtifactStore, review: BlindReview) -> PlanContents:
    """Read the registered plan of a review. Raises the errors of `read_plan`, and IntegrityError if the plan and the
    registry's row disagree."""
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
        raise RegistryDamaged(
            f"{store.path_of(ref.digest)}: this plan and the registry's row of the review disagree on line, "
            "adapter, opponent, seed or number of ballots. Another program changed the registry."
        )
    return contents


def answers_of(store: ArtifactStore, review: BlindReview, seed: bytes) -> dict[str, AnswerPair]:
    """Return a mapping of prompt id to the decrypted answers of candidate and opponent. Raises IntegrityError if the
    artifact was changed, or if the answers were sealed with a different seed."""
    artifact = store.open(ref_of_plan(review))
    try:
        content = ChaCha20Poly1305(_answers_key(seed)).decrypt(
            ONLY_NONCE, artifact.file(SEALED_FILE).read_bytes(), None
        )
    except InvalidTag:
        raise IntegrityError(
            f"{artifact.file(SEALED_FILE)}: this seed does not decrypt the answers.",
            "Restore the seed and the store from the same backup.",
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
    return IntegrityError(f"{artifact.path}: this is not a valid review plan.", "Open the review again.")
