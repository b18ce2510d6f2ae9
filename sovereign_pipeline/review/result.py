"""Compute the result of a closed review: the unblinded ballots, the statistics, the verdict and its tables."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from sovereign_pipeline.base.errors import GateRefused, IntegrityError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.intervals import at_confidence, confidence
from sovereign_pipeline.evaluation.report.looks import confidence_at
from sovereign_pipeline.policy.evaluation import Criterion
from sovereign_pipeline.record.officers import officer_in_short
from sovereign_pipeline.record.stage import Outcome, Verdict
from sovereign_pipeline.record.tables import Ballot, Guess
from sovereign_pipeline.record.tree import RegistryDamaged
from sovereign_pipeline.review.plan import (
    PlanContents,
    PlannedPair,
    Position,
    candidate_positions,
    commitment,
    in_words,
)
from sovereign_pipeline.split.shingles import normal_text

POWER = 0.8


class Estimate(Frozen):
    """A mean with its confidence interval. The interval takes clusters of dependent values into account. Its confidence
    is 95 % unless the docstring of a field states another."""

    mean: float
    low: float | None
    """Lower bound. Like `high` and `detectable`, it is None for fewer than two clusters."""
    high: float | None
    detectable: float | None
    """Minimum detectable mean: the smallest true mean for which the interval excludes zero in 80 % of samples."""
    values: int
    clusters: int


class Agreement(Frozen):
    """Agreement of several raters who rated the same units."""

    alpha: float | None
    """Krippendorff's alpha; None if no unit was rated by two raters, or if all values are equal."""
    units: int
    raters: int


class RankedVersion(Frozen):
    version: str
    strength: float
    """Logarithm of the Bradley-Terry parameter; 0 for the lowest version. A version beats another with probability 1 /
    (1 + exp(-d)), where d is the difference of their strengths."""
    pairs: int


def estimate(values: Sequence[float], clusters: Sequence[str], bounds: tuple[float, float]) -> Estimate:
    """Return the mean of the values with a confidence interval at `confidence`, clipped to `bounds`.

    The variance is the larger of two variances. The first is the variance between clusters, Σ_g (Σ_i∈g (x_i - x̄))² ·
    G/(G-1) / n². The second is the variance of independent values, with half a value added at each bound. The quantile
    is Student's with G-1 degrees of freedom.

    With clusters of equal size, the first variance gives the t-interval of the cluster means. This interval keeps its
    level for few clusters, even if their variances differ (Ibragimov and Müller 2010, "t-Statistic Based Correlation
    and Heterogeneity Robust Inference", section 2). With clusters of different sizes, the first variance is the
    cluster-robust variance (Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference", section
    VI.D). A percentile bootstrap, which the automated scores use, is too narrow below some 20 clusters.

    The second variance is needed if all operators agree, because the interval would otherwise have no width (half
    values as in Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions").

    Args:
        clusters: the cluster of each value. Values of one cluster are dependent.
        bounds: the lowest and the highest possible value.

    Raises ValueError if there are no values, or if the numbers of values and clusters differ.
    """
    import numpy as np
    from scipy.special import stdtrit

    if not values or len(values) != len(clusters):
        raise ValueError(f"each value needs one cluster: {len(values)} values, {len(clusters)} clusters")
    x = np.asarray(values, dtype=np.float64)
    names, membership = np.unique(clusters, return_inverse=True)
    mean, count = float(x.mean()), len(names)
    if count < 2:
        return Estimate(mean=mean, low=None, high=None, detectable=None, values=len(x), clusters=count)
    sums = np.bincount(membership, weights=x - mean, minlength=count)
    between = float(sums @ sums) * count / (count - 1) / len(x) ** 2
    spread = float(((x - mean) ** 2).sum()) + sum((bound - mean) ** 2 for bound in bounds) / 2
    independent = spread / len(x) ** 2
    error = max(between, independent) ** 0.5
    quantile, power = (float(stdtrit(count - 1, share)) for share in ((1 + confidence()) / 2, POWER))
    return Estimate(
        mean=mean,
        low=max(bounds[0], mean - quantile * error),
        high=min(bounds[1], mean + quantile * error),
        detectable=(quantile + power) * error,
        values=len(x),
        clusters=count,
    )


def agreement(
    ratings: Sequence[tuple[str, Hashable, float]], level: Literal["nominal", "ordinal", "interval"]
) -> Agreement:
    """Compute Krippendorff's alpha: 1 is perfect agreement, 0 is agreement by chance. Source: Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability".

    Args:
        ratings: tuples of rater, unit and value. A rater need not have rated every unit.
    """
    import evalica
    import pandas as pd

    raters, units = len({rater for rater, _, _ in ratings}), len({unit for _, unit, _ in ratings})
    rated: dict[Hashable, list[float]] = {}
    for _, unit, value in ratings:
        rated.setdefault(unit, []).append(value)
    pairable = [value for values in rated.values() if len(values) > 1 for value in values]
    if len(set(pairable)) < 2:
        return Agreement(alpha=None, units=units, raters=raters)
    table = pd.DataFrame(ratings, columns=["rater", "unit", "value"]).pivot(
        index="rater", columns="unit", values="value"
    )
    return Agreement(alpha=float(evalica.alpha(table, level).alpha), units=units, raters=raters)


def rank_versions(outcomes: Sequence[tuple[str, str, float]], of: str) -> list[RankedVersion]:
    """Return the Bradley-Terry strengths of all versions that comparisons link to `of`, directly or indirectly. The
    strongest version is first.

    Strengths of versions that are not linked cannot be compared. Each pair of compared versions gets one additional
    tie, because a version that always won or lost would otherwise have an infinite strength. Source: Bradley and Terry
    1952; Agresti 2002, section 10.6.

    Args:
        outcomes: tuples of version, other version and result. The result is 1 if the first version wins, 0 if it loses,
        and 0.5 for a tie.
    """
    import evalica

    linked = {of}
    while more := {name for each in outcomes for name in each[:2] if linked & set(each[:2])} - linked:
        linked |= more
    outcomes = [each for each in outcomes if each[0] in linked]
    if not outcomes:
        return []
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    compared = sorted({tuple(sorted(each[:2])) for each in outcomes})
    games = [*outcomes, *((one, other, 0.5) for one, other in compared)]
    scores = evalica.bradley_terry(
        [one for one, _, _ in games],
        [other for _, other, _ in games],
        [winner[result] for _, _, result in games],
        tolerance=1e-12,
        limit=100_000,
    ).scores
    lowest = math.log(min(scores))
    ranked = [
        RankedVersion(
            version=str(version),
            strength=math.log(score) - lowest,
            pairs=sum(version in each[:2] for each in outcomes),
        )
        for version, score in scores.items()
    ]
    return sorted(ranked, key=lambda each: (-each.strength, each.version))


class EarlyClosing(Frozen):
    """The officer who closed a review early, and the officer's reason."""

    officer: str
    reason: str


@dataclass(frozen=True)
class ClosedReview:
    """A closed review with every input of its result."""

    review: str
    contents: PlanContents
    seed: bytes
    ballots: Sequence[Ballot]
    guesses: Sequence[Guess]
    closed_early: EarlyClosing | None

    @property
    def opponent(self) -> str:
        """Id of the adapter that the candidate is compared with, or name of the base model."""
        return self.contents.plan.opponent or self.contents.plan.base_model


class UnblindedBallot(Frozen):
    """A row of `ballots.jsonl`."""

    operator: str
    pair: str
    prompt: str
    shared: bool
    """True if every operator rates this prompt."""
    candidate_position: Position
    """Position of the candidate's answer on the page."""
    preference: int
    """1 for the candidate, -1 for the opponent, 0 for a tie."""
    candidate: dict[Criterion, int]
    """Mapping of criterion to the rating (1 to 5) of the candidate's answer. Empty for identical answers, which are not
    rated."""
    opponent: dict[Criterion, int]

    @property
    def was_asked(self) -> bool:
        return bool(self.candidate)


class UnblindedGuess(Frozen):
    """A row of `guesses.jsonl`."""

    operator: str
    pair: str
    right: bool
    """True if the operator guessed correctly which answer is the candidate's."""


def unblind_ballots(closed: ClosedReview) -> list[UnblindedBallot]:
    """Return every ballot of a closed review with the candidate's position. Raises IntegrityError if the seed does not
    have the SHA-256 in the plan, or if a ballot contradicts the plan."""
    plan = closed.contents.plan
    if commitment(closed.seed) != plan.seed_sha256:
        raise RegistryDamaged(f"Review {closed.review}: the revealed seed does not match its commitment.")
    positions, planned = _positions(closed), _planned(closed)
    ballots = []
    for ballot in closed.ballots:
        key = (ballot.operator, ballot.pair)
        if key not in planned:
            raise _planted(closed, "a ballot is for a pair that the plan does not contain")
        if (ballot.ratings is None) != (planned[key].prompt in closed.contents.identical):
            raise _planted(closed, "a ballot lacks ratings, or has ratings for identical answers")
        position = positions[key]
        ballots.append(
            UnblindedBallot(
                operator=ballot.operator,
                pair=ballot.pair,
                prompt=planned[key].prompt,
                shared=planned[key].shared,
                candidate_position=position,
                preference=0 if ballot.preference == "tie" else 1 if ballot.preference == position else -1,
                candidate=_ratings_at(ballot, position),
                opponent=_ratings_at(ballot, "b" if position == "a" else "a"),
            )
        )
    return ballots


def unblind_guesses(closed: ClosedReview) -> list[UnblindedGuess]:
    positions = _positions(closed)
    return [
        UnblindedGuess(operator=each.operator, pair=each.pair, right=each.choice == positions[each.operator, each.pair])
        for each in closed.guesses
    ]


def counted_ballots(ballots: Sequence[UnblindedBallot]) -> list[UnblindedBallot]:
    """Return the ballots that count: the ballots on unshared pairs, of operators who rated at least one such pair.

    Ties for identical answers are recorded even for operators who never took part. Such ties must not count.
    """
    own = [each for each in ballots if not each.shared]
    came = {each.operator for each in own if each.was_asked}
    return [each for each in own if each.operator in came]


def _planted(closed: ClosedReview, what: str) -> IntegrityError:
    return RegistryDamaged(f"Review {closed.review}: {what}.")


def _positions(closed: ClosedReview) -> dict[tuple[str, str], Position]:
    return {
        (operator, pair): position
        for operator, pairs in closed.contents.plan.operators.items()
        for pair, position in candidate_positions(closed.seed, operator, pairs).items()
    }


def _planned(closed: ClosedReview) -> dict[tuple[str, str], PlannedPair]:
    return {(operator, each.pair): each for operator, pairs in closed.contents.plan.operators.items() for each in pairs}


def _ratings_at(ballot: Ballot, position: Position) -> dict[Any, int]:
    prefix = f"{position}."
    return {
        name.removeprefix(prefix): value for name, value in (ballot.ratings or {}).items() if name.startswith(prefix)
    }


class CriterionResult(Frozen):
    """Mean ratings (1 to 5) of candidate and opponent on one criterion, and the mean of the paired differences."""

    candidate: float
    opponent: float
    difference: Estimate


class ReviewResult(Frozen):
    """The content of `review.json`. Wins, losses, ties, preference and ratings are computed over the counted ballots
    (`counted_ballots`)."""

    review: str
    line: str
    adapter: str
    """Id of the candidate."""
    opponent: str
    """Id of the adapter that the candidate is compared with, or name of the base model."""
    opponent_chosen: str
    """Reason for the choice of the opponent, and a note if nobody has reviewed the opponent."""
    seed: str
    """Revealed seed, 64 hex digits. The position of every answer can be derived from the seed."""
    operators: int
    ballots: int
    ballots_registered: int
    margin: float
    closed_early: EarlyClosing | None
    wins: int
    losses: int
    ties: int
    identical: int
    """Number of ties for identical answers, which are not rated."""
    net_preference: Estimate
    """(wins - losses) / pairs, where ties count as 0. The confidence of the interval depends on `look`."""
    criteria: dict[Criterion, CriterionResult]
    agreement: dict[str, Agreement]
    """Agreement on the shared pairs, for the preference and for each criterion."""
    guesses: Estimate | None
    """Share of correct guesses. One half is expected by chance, because the candidate is A in half of the pairs."""
    ranking: tuple[RankedVersion, ...]
    """Ranking of all versions that comparisons link to this candidate, over all reviews of the line so far. Weights
    that are registered as several versions are listed once, as the newest version."""
    look: int = Field(default=1, exclude_if=lambda number: number == 1)
    """Number of this review, from 1, among the line's reviews that share a prompt with it. Only reviews with a counted
    ballot are numbered."""


def review_result(closed: ClosedReview, earlier: Sequence[ClosedReview]) -> ReviewResult:
    """Compute every value of one review's result.

    Args:
        earlier: the reviews of the line that were closed earlier. They are needed for the ranking and for `look`.

    Raises GateRefused if no operator rated an unshared pair, and the errors of `unblind_ballots`.
    """
    plan = closed.contents.plan
    ballots = unblind_ballots(closed)
    own = counted_ballots(ballots)
    if not own:
        raise GateRefused(
            f"Review {closed.review} of line {plan.line} was closed, but no operator rated an unshared pair.",
            "Open another review.",
            act="open_review",
            line=plan.line,
        )
    look = 1 + sum(is_counted(each) for each in earlier if _prompts(each) & _prompts(closed))
    with at_confidence(confidence_at(look)):
        net = estimate([float(each.preference) for each in own], [each.operator for each in own], (-1.0, 1.0))
    return ReviewResult(
        review=closed.review,
        line=plan.line,
        adapter=plan.adapter,
        opponent=closed.opponent,
        opponent_chosen=in_words(closed.opponent, plan.opponent_choice),
        seed=closed.seed.hex(),
        operators=len({each.operator for each in own}),
        ballots=sum(each.was_asked for each in ballots),
        ballots_registered=plan.ballots,
        margin=plan.margin,
        closed_early=closed.closed_early,
        wins=sum(each.preference > 0 for each in own),
        losses=sum(each.preference < 0 for each in own),
        ties=sum(each.preference == 0 for each in own),
        identical=sum(not each.was_asked for each in own),
        net_preference=net,
        criteria=_criteria(plan.criteria, own),
        agreement=_agreement(plan.criteria, [each for each in ballots if each.shared and each.was_asked]),
        guesses=_guesses(closed),
        ranking=_ranking([*earlier, closed]),
        look=look,
    )


def _prompts(closed: ClosedReview) -> set[str]:
    """Return the ids and texts of a review's prompts. Texts identify prompts whose ids differ between reviews."""
    asked = {each.prompt for pairs in closed.contents.plan.operators.values() for each in pairs}
    return asked | {normal_text(each.text) for each in closed.contents.prompts.values() if each.id in asked}


def is_counted(closed: ClosedReview) -> bool:
    return bool(counted_ballots(unblind_ballots(closed)))


def has_lost(closed: ClosedReview) -> bool:
    """Return True if the candidate lost more pairs than it won. Returns False if no ballot counts."""
    return sum(each.preference for each in counted_ballots(unblind_ballots(closed))) < 0


def outcome_of(net: Estimate, margin: float) -> Outcome:
    """Return "fail" for a negative mean. Otherwise return "pass" if the whole interval is at or above -margin, or else
    "inconclusive". If the true net preference is -margin or worse, at most 2.5 % of reviews pass."""
    if net.mean < 0:
        return "fail"
    return "pass" if net.low is not None and net.low >= -margin else "inconclusive"


def evaluate_net_preference(result: ReviewResult) -> Verdict:
    """Return the verdict on the net preference, with its numbers. An officer may waive the verdict only if it is
    inconclusive and the recipe permits the waiver."""
    outcome = outcome_of(result.net_preference, result.margin)
    return Verdict(
        outcome == "pass",
        _message(result, outcome),
        {
            "review": result.review,
            "outcome": outcome,
            "net_preference": result.net_preference.model_dump(mode="json"),
            "wins": result.wins,
            "losses": result.losses,
            "ties": result.ties,
        },
        inconclusive=outcome == "inconclusive",
    )


def _message(result: ReviewResult, outcome: Outcome) -> str:
    net = result.net_preference
    sentences = [
        f"{result.adapter} against {result.opponent}: net preference {net.mean:+.3f} ({result.wins} won, "
        f"{result.losses} lost, {result.ties} tied, {result.identical} of them identical) over "
        f"{result.operators} operators"
        + (
            "; a single operator gives no interval."
            if net.low is None or net.high is None
            else f", {_confidence(result)} CI {net.low:+.3f} to {net.high:+.3f}, margin {-result.margin + 0.0:+.3f}."
        )
    ]
    if result.look > 1:
        sentences.append(f"This is look {result.look} at prompts that the line's reviews share.")
    sentences.append(result.opponent_chosen)
    early = result.closed_early
    if early is not None:
        sentences.append(
            f"Closed early by {officer_in_short(early.officer)} with {result.ballots} of {result.ballots_registered} "
            f"ballots: {early.reason}"
        )
    if outcome == "fail":
        sentences.append("A candidate that lost the blind review does not ship.")
    elif outcome == "inconclusive" and net.detectable is not None:
        sentences.append(f"Minimum detectable net preference (80 % power): {net.detectable:+.3f}.")
    return " ".join(sentences)


def as_markdown(result: ReviewResult) -> str:
    """Format the result's tables in Markdown, for an asset's page."""
    rows = [
        f"**{result.adapter} against {result.opponent}**",
        "",
        result.opponent_chosen,
        "",
        f"{result.ballots} of {result.ballots_registered} pre-registered ballots by {result.operators} operators; "
        f"{result.wins} won, {result.losses} lost, {result.ties} tied ({result.identical} identical, not rated).",
        "",
        "| candidate minus opponent | candidate | opponent | difference | 95 % interval over operators |",
        "|---|---:|---:|---:|---|",
        f"| net preference (interval of {_confidence(result)}) | | | {result.net_preference.mean:+.3f} | "
        f"{_interval(result.net_preference)} |",
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
        *(f"| {each.version} | {each.strength:.3f} | {each.pairs} |" for each in result.ranking),
        "",
        "No operator guessed which answer was the new one."
        if result.guesses is None
        else f"Operators guessed correctly which answer was the new one in {result.guesses.mean:.0%} of "
        f"{result.guesses.values} pairs (95 % interval {_interval(result.guesses)}); 50 % is expected by chance.",
    ]
    if result.closed_early is not None:
        rows += ["", f"Closed early by {officer_in_short(result.closed_early.officer)}: {result.closed_early.reason}"]
    return "\n".join(rows) + "\n"


def _confidence(result: ReviewResult) -> str:
    return f"{100 * confidence_at(result.look):.4g} %"


def _interval(each: Estimate) -> str:
    return "none" if each.low is None or each.high is None else f"{each.low:+.3f} to {each.high:+.3f}"


def _criteria(criteria: Sequence[Criterion], own: Sequence[UnblindedBallot]) -> dict[Criterion, CriterionResult]:
    asked = [each for each in own if each.was_asked]
    if not asked:
        return {}
    return {
        criterion: CriterionResult(
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


def _guesses(closed: ClosedReview) -> Estimate | None:
    guesses = unblind_guesses(closed)
    if not guesses:
        return None
    return estimate([float(each.right) for each in guesses], [each.operator for each in guesses], (0.0, 1.0))


def _agreement(criteria: Sequence[Criterion], shared: Sequence[UnblindedBallot]) -> dict[str, Agreement]:
    """Compute the operators' agreement on ordinal scales. For the preference, the order is loss, tie, win."""
    preferences = [(each.operator, each.prompt, float(each.preference)) for each in shared]

    def rated(criterion: Criterion) -> list[tuple[str, tuple[str, str], float]]:
        return [
            (each.operator, (each.prompt, arm), float(values[criterion]))
            for each in shared
            for arm, values in (("candidate", each.candidate), ("opponent", each.opponent))
        ]

    return {
        "preference": agreement(preferences, "ordinal"),
        **{criterion: agreement(rated(criterion), "ordinal") for criterion in criteria},
    }


def _ranking(reviews: Sequence[ClosedReview]) -> tuple[RankedVersion, ...]:
    """Rank all versions that comparisons link to the last review's candidate, directly or indirectly.

    Args:
        reviews: the line's closed reviews in the order of closing.
    """
    names: dict[str, str] = {}
    outcomes = []
    for each in reviews:
        plan = each.contents.plan
        candidate, opponent = plan.candidate_weights, plan.opponent_weights or plan.opponent_digest
        names |= {opponent: each.opponent, candidate: plan.adapter}
        counted = counted_ballots(unblind_ballots(each))
        outcomes += [(candidate, opponent, (one.preference + 1) / 2) for one in counted]
    ranked = rank_versions(outcomes, of=reviews[-1].contents.plan.candidate_weights)
    return tuple(each.model_copy(update={"version": names[each.version]}) for each in ranked)
