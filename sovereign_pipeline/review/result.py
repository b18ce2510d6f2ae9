"""What the ballots of a closed review amount to, and whether the candidate may ship on them.

What belongs here: undoing the sides, the figures, the gate's answer, and the tables. What does not: how an interval is
computed (`statistics.py`), and where ballots lie (`ballots.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.stage import Outcome, Verdict
from sovereign_pipeline.errors import GateRefused, IntegrityError
from sovereign_pipeline.ledger.tables import Ballot, Guess
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.plan import Arm, PlannedPair, candidate_arms, commitment
from sovereign_pipeline.review.sealed import PlanContents
from sovereign_pipeline.review.statistics import Agreement, Estimate, Rung, agreement, estimate, ladder


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rating(_Record):
    """One ballot with its sides undone. preference: 1 for the candidate, -1 for the opponent, 0 for a tie.

    candidate_side: what the candidate was shown as. candidate, opponent: criterion -> 1 to 5; empty where both answers
    were the same and nobody was asked.
    """

    operator: str
    pair: str
    prompt: str
    shared: bool
    candidate_side: Arm
    preference: int
    candidate: dict[Criterion, int]
    opponent: dict[Criterion, int]


class GuessOf(_Record):
    """One guess at the end. right: the operator took the candidate's answer for the new side's."""

    operator: str
    pair: str
    right: bool


class Compared(_Record):
    """One criterion: mean ratings (1 to 5) of both, and the mean of the paired differences."""

    candidate: float
    opponent: float
    difference: Estimate


class EarlyClosing(_Record):
    officer: str
    reason: str


class ReviewResult(_Record):
    """`review.json`. Everything but `agreement` is over the own pairs of operators who rated one of them; nothing is
    over shared ones twice.

    opponent: the id of an adapter, or the name of the base model. seed: revealed, to derive every side again. ballots:
    given, of ballots_registered that the review was to have; margin: pre-registered with that number. net_preference:
    (wins - losses) / pairs, ties counting 0. identical: ties that nobody was asked for. agreement: of the preference,
    and by criterion, over the shared pairs. guesses: share of guesses that were right; by chance one half, whatever the
    operators think of the answers, since as many of the pairs have the candidate as A as have it as B. ladder: over
    this and all earlier reviews of the line, of the versions that comparisons link to this candidate; the same weights
    under several versions stand there once, by the newest.
    """

    review: str
    line: str
    adapter: str
    opponent: str
    seed: str
    operators: int
    ballots: int
    ballots_registered: int
    margin: float
    closed_early: EarlyClosing | None
    wins: int
    losses: int
    ties: int
    identical: int
    net_preference: Estimate
    criteria: dict[Criterion, Compared]
    agreement: dict[str, Agreement]
    guesses: Estimate | None
    ladder: tuple[Rung, ...]


@dataclass(frozen=True)
class ClosedReview:
    """All that a result is computed from. review: its id."""

    review: str
    contents: PlanContents
    seed: bytes
    ballots: Sequence[Ballot]
    guesses: Sequence[Guess]
    closed_early: EarlyClosing | None

    @property
    def opponent(self) -> str:
        return self.contents.plan.opponent or self.contents.plan.base_model


def ratings_of(closed: ClosedReview) -> list[Rating]:
    """Undo the sides. Raises IntegrityError for a seed that is not the committed one, and for a ballot that
    cannot be."""
    plan = closed.contents.plan
    if commitment(closed.seed) != plan.seed_sha256:
        raise IntegrityError(f"Review {closed.review}: the revealed seed is not the one that was committed to.")
    sides, planned = _sides(closed), _planned(closed)
    ratings = []
    for ballot in closed.ballots:
        key = (ballot.operator, ballot.pair)
        if key not in planned:
            raise IntegrityError(f"Review {closed.review}: there is a ballot of a pair that was never shown.")
        if (ballot.ratings is None) != (planned[key].prompt in closed.contents.identical):
            raise IntegrityError(f"Review {closed.review}: a tie stands without having been asked, or the other way.")
        side: Arm = sides[key]
        other: Arm = "b" if side == "a" else "a"
        ratings.append(
            Rating(
                operator=ballot.operator,
                pair=ballot.pair,
                prompt=planned[key].prompt,
                shared=planned[key].shared,
                candidate_side=side,
                preference=0 if ballot.preference == "tie" else 1 if ballot.preference == side else -1,
                candidate=_of_side(ballot, side),
                opponent=_of_side(ballot, other),
            )
        )
    return ratings


def guesses_of(closed: ClosedReview) -> list[GuessOf]:
    sides = _sides(closed)
    return [
        GuessOf(operator=each.operator, pair=each.pair, right=each.choice == sides[each.operator, each.pair])
        for each in closed.guesses
    ]


def review_result(closed: ClosedReview, earlier: Sequence[ClosedReview]) -> ReviewResult:
    """Every figure of one review. earlier: the line's reviews that were closed before, for the ladder.

    Raises GateRefused when no operator rated a pair of their own, and as `ratings_of`.
    """
    plan = closed.contents.plan
    ratings = ratings_of(closed)
    own = _counted(ratings)
    if not own:
        raise GateRefused(
            f"Review {closed.review} of line {plan.line} was closed without a ballot to count. Open another one: "
            f"`sovereign review open {plan.line}`."
        )
    guesses = guesses_of(closed)
    return ReviewResult(
        review=closed.review,
        line=plan.line,
        adapter=plan.adapter,
        opponent=closed.opponent,
        seed=closed.seed.hex(),
        operators=len({each.operator for each in own}),
        ballots=sum(bool(each.candidate) for each in ratings),
        ballots_registered=plan.ballots,
        margin=plan.margin,
        closed_early=closed.closed_early,
        wins=sum(each.preference > 0 for each in own),
        losses=sum(each.preference < 0 for each in own),
        ties=sum(each.preference == 0 for each in own),
        identical=sum(not each.candidate for each in own),
        net_preference=estimate([float(each.preference) for each in own], [each.operator for each in own], (-1.0, 1.0)),
        criteria=_criteria(plan.criteria, own),
        agreement=_agreement(plan.criteria, [each for each in ratings if each.shared and each.candidate]),
        guesses=estimate([float(each.right) for each in guesses], [each.operator for each in guesses], (0.0, 1.0))
        if guesses
        else None,
        ladder=_ladder([*earlier, closed]),
    )


def is_rejection(closed: ClosedReview) -> bool:
    """Whether people liked the candidate less. False also where no ballot counts."""
    return sum(each.preference for each in _counted(ratings_of(closed))) < 0


def outcome_of(net: Estimate, margin: float) -> Outcome:
    """No below zero; yes when the whole interval lies at or above -margin; else inconclusive.

    So a candidate whose true net preference is -margin or worse gets a yes in at most 2.5 % of reviews.
    """
    if net.mean < 0:
        return "fail"
    return "pass" if net.low is not None and net.low >= -margin else "inconclusive"


def evaluate_net_preference(result: ReviewResult) -> Verdict:
    """`outcome_of` with its numbers. An officer may accept what is inconclusive where the recipe allows it; never
    a no."""
    net, margin = result.net_preference, result.margin
    said = (
        f"{result.adapter} against {result.opponent}: net preference {net.mean:+.3f} ({result.wins} won, "
        f"{result.losses} lost, {result.ties} tied, {result.identical} of them identical) over "
        f"{result.operators} operators"
    )
    if net.low is None or net.high is None or net.detectable is None:
        interval = "; one operator alone gives no interval."
    else:
        interval = (
            f", 95 % interval {net.low:+.3f} to {net.high:+.3f}; it may not be negative, and the interval may reach "
            f"{-margin + 0.0:+.3f}."
        )
    early = result.closed_early
    if early is not None:
        interval += (
            f" Closed early by {early.officer} with {result.ballots} of {result.ballots_registered} ballots: "
            f"{early.reason}"
        )
    outcome = outcome_of(net, margin)
    after = ""
    if outcome == "fail":
        after = " A candidate that people like less does not ship."
    elif outcome == "inconclusive" and net.detectable is not None:
        after = f" This review could have seen {net.detectable:+.3f} and more."
    return _verdict(outcome, f"{said}{interval}{after}", result)


def as_markdown(result: ReviewResult) -> str:
    """The result's tables, for an asset's page."""
    rows = [
        f"**{result.adapter} against {result.opponent}**",
        "",
        f"{result.ballots} of {result.ballots_registered} pre-registered ballots by {result.operators} operators; "
        f"{result.wins} won, {result.losses} lost, {result.ties} tied ({result.identical} identical, not asked).",
        "",
        "| candidate minus opponent | candidate | opponent | difference | 95 % interval over operators |",
        "|---|---:|---:|---:|---|",
        f"| net preference | | | {result.net_preference.mean:+.3f} | {_interval(result.net_preference)} |",
        *(
            f"| {name} (1 to 5) | {each.candidate:.2f} | {each.opponent:.2f} | {each.difference.mean:+.3f} | "
            f"{_interval(each.difference)} |"
            for name, each in result.criteria.items()
        ),
        "",
        "| agreement on the shared pairs | Krippendorff's alpha | units | operators |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {'not defined' if each.alpha is None else f'{each.alpha:.3f}'} | {each.units} | "
            f"{each.raters} |"
            for name, each in result.agreement.items()
        ),
        "",
        "| version | strength (Bradley-Terry, log scale) | pairs |",
        "|---|---:|---:|",
        *(f"| {rung.version} | {rung.strength:.3f} | {rung.pairs} |" for rung in result.ladder),
        "",
        "Which answer was the new one was not guessed."
        if result.guesses is None
        else f"Which answer was the new one was guessed right in {result.guesses.mean:.0%} of {result.guesses.values} "
        f"pairs (95 % interval {_interval(result.guesses)}); by chance it is 50 %.",
    ]
    if result.closed_early is not None:
        rows += ["", f"Closed early by {result.closed_early.officer}: {result.closed_early.reason}"]
    return "\n".join(rows) + "\n"


def _interval(each: Estimate) -> str:
    return "none" if each.low is None or each.high is None else f"{each.low:+.3f} to {each.high:+.3f}"


def _sides(closed: ClosedReview) -> dict[tuple[str, str], Arm]:
    return {
        (operator, pair): side
        for operator, pairs in closed.contents.plan.operators.items()
        for pair, side in candidate_arms(closed.seed, operator, pairs).items()
    }


def _planned(closed: ClosedReview) -> dict[tuple[str, str], PlannedPair]:
    return {(operator, each.pair): each for operator, pairs in closed.contents.plan.operators.items() for each in pairs}


def _of_side(ballot: Ballot, side: Arm) -> dict[Any, int]:
    prefix = f"{side}."
    return {
        name.removeprefix(prefix): value for name, value in (ballot.ratings or {}).items() if name.startswith(prefix)
    }


def _criteria(criteria: Sequence[Criterion], own: Sequence[Rating]) -> dict[Criterion, Compared]:
    asked = [each for each in own if each.candidate]
    if not asked:
        return {}
    return {
        criterion: Compared(
            candidate=sum(each.candidate[criterion] for each in asked) / len(asked),
            opponent=sum(each.opponent[criterion] for each in asked) / len(asked),
            difference=estimate(
                [float(each.candidate[criterion] - each.opponent[criterion]) for each in asked],
                [each.operator for each in asked],
                (-4.0, 4.0),
            ),
        )
        for criterion in criteria
    }


def _agreement(criteria: Sequence[Criterion], shared: Sequence[Rating]) -> dict[str, Agreement]:
    """Ordinal: that "better" and "worse" are further apart than either from a tie is all that is assumed."""
    preferences = [(each.operator, each.prompt, float(each.preference)) for each in shared]

    def rated(criterion: Criterion) -> list[tuple[str, tuple[str, str], float]]:
        return [
            (each.operator, (each.prompt, side), float(values[criterion]))
            for each in shared
            for side, values in (("candidate", each.candidate), ("opponent", each.opponent))
        ]

    return {
        "preference": agreement(preferences, "ordinal"),
        **{criterion: agreement(rated(criterion), "ordinal") for criterion in criteria},
    }


def _counted(ratings: Sequence[Rating]) -> list[Rating]:
    """The own pairs of every operator who rated one. Ties for identical answers are on record for operators who never
    came; counted, each of those would be one more opinion."""
    own = [each for each in ratings if not each.shared]
    came = {each.operator for each in own if each.candidate}
    return [each for each in own if each.operator in came]


def _ladder(reviews: Sequence[ClosedReview]) -> tuple[Rung, ...]:
    """reviews: in the order of closing; the last one's candidate is whom the ladder is about."""
    names: dict[str, str] = {}
    outcomes = []
    for each in reviews:
        plan = each.contents.plan
        names |= {plan.opponent_digest: each.opponent, plan.candidate_digest: plan.adapter}
        counted = _counted(ratings_of(each))
        outcomes += [(plan.candidate_digest, plan.opponent_digest, (one.preference + 1) / 2) for one in counted]
    rungs = ladder(outcomes, of=reviews[-1].contents.plan.candidate_digest)
    return tuple(rung.model_copy(update={"version": names[rung.version]}) for rung in rungs)


def _verdict(outcome: Outcome, message: str, result: ReviewResult) -> Verdict:
    evidence: Mapping[str, Any] = {
        "review": result.review,
        "outcome": outcome,
        "net_preference": result.net_preference.model_dump(mode="json"),
        "wins": result.wins,
        "losses": result.losses,
        "ties": result.ties,
    }
    return Verdict(outcome == "pass", message, dict(evidence), inconclusive=outcome == "inconclusive")
