"""Who is shown what, in which order and on which side: all of it from one sealed seed.

What belongs here: pure functions from a seed to a plan. Whoever has the seed derives every side again; whoever has not
cannot tell a side from anything (HMAC-SHA256 under the seed, RFC 2104). What does not: answers and files
(`opening.py`).
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.hashing import canonical_json
from sovereign_pipeline.policy.review import Criterion, OfficerMay, Review

Arm = Literal["a", "b"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Record):
    """One prompt as an operator reads it. text: subject and letter; what the model was given adds the instruction."""

    id: str
    language: str
    text: str


class AnswerPair(_Record):
    """What both sides answered to one prompt (its id), both trimmed in the same way."""

    id: str
    candidate: str
    opponent: str

    @property
    def is_identical(self) -> bool:
        return self.candidate == self.opponent


class PlannedPair(_Record):
    """pair: its id for one operator, which says nothing. prompt: id of the prompt. shared: every operator rates it."""

    pair: str
    prompt: str
    shared: bool


class ReviewPlan(_Record):
    """What `plan.json` holds; pre-registered before the first ballot.

    adapter: the candidate's id; opponent: the id of the adapter that it would replace, None for the base model.
    candidate_digest, opponent_digest: of what answered, whatever it is registered as. seed_sha256: of the sealed seed.
    operators: name -> pairs in the order in which they are shown. ballots: the number of pairs that people were asked
    about at which the review may be closed. margin, officer_may, may_close_early: the recipe's at that time; it is
    judged and closed by these, whatever the recipe says once the ballots are known. settings: what decided the
    answers, for both sides alike.
    """

    line: str
    adapter: str
    opponent: str | None
    base_model: str
    candidate_digest: str
    opponent_digest: str
    prompts_from: Literal["held_out", "file"]
    seed_sha256: str
    operators: dict[str, tuple[PlannedPair, ...]]
    ballots: int
    margin: float
    officer_may: OfficerMay
    may_close_early: tuple[str, ...]
    guess_pairs: int
    criteria: tuple[Criterion, ...]
    settings: dict[str, int | str]

    @property
    def pairs(self) -> int:
        return sum(len(pairs) for pairs in self.operators.values())


def commitment(seed: bytes) -> str:
    """SHA-256 (64 hex digits) of a seed, published when the review is opened."""
    return hashlib.sha256(seed).hexdigest()


def deal(
    seed: bytes, languages: Mapping[str, str], operators: Sequence[str], review: Review
) -> dict[str, list[PlannedPair]]:
    """Choose prompts and deal them out. languages: prompt id -> its language; at least `review.prompts` of them.

    The choice is random under the seed. What was chosen is dealt round by round within each language, so that operators
    get the same mix. Each operator's pairs are in an order of their own.
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


def candidate_arms(seed: bytes, operator: str, pairs: Iterable[PlannedPair]) -> dict[str, Arm]:
    """Pair -> the side on which the candidate's answer stands. Of an operator's own pairs, and of those that are
    shared, the candidate is A in exactly half."""
    sides: dict[str, Arm] = {}
    planned = list(pairs)
    for is_shared in (False, True):
        ids = sorted(
            (each.pair for each in planned if each.shared == is_shared),
            key=lambda id: _rank(seed, "side", operator, id),
        )
        sides |= {id: "a" if place < len(ids) // 2 else "b" for place, id in enumerate(ids)}
    return sides


def pairs_to_guess(
    seed: bytes, operator: str, pairs: Iterable[PlannedPair], identical: set[str], count: int
) -> list[str]:
    """The pairs of an operator's own that are shown again at the end: as many with the candidate as A as with it as B,
    `count` at most. identical: prompts whose answers are the same; there is nothing to guess."""
    planned = list(pairs)
    sides = candidate_arms(seed, operator, planned)
    ids = sorted(
        (each.pair for each in planned if not each.shared and each.prompt not in identical),
        key=lambda id: _rank(seed, "guess", operator, id),
    )
    of_side = [[id for id in ids if sides[id] == side] for side in ("a", "b")]
    each_side = min(count // 2, *(len(found) for found in of_side))
    chosen = {id for found in of_side for id in found[:each_side]}
    return [id for id in ids if id in chosen]


def _rank(seed: bytes, *names: str) -> str:
    return hmac.new(seed, canonical_json(list(names)), hashlib.sha256).hexdigest()
