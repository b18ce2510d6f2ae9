"""The result of a closed review: its figures, the verdict on them, and its tables.

What belongs here: what follows from ballots that are unblinded. What does not: undoing the positions
(`unblinding.py`), and how an interval is computed (`statistics.py`).
"""

from collections.abc import Sequence

from pydantic import ConfigDict, Field

from sovereign_pipeline.artifacts.stage import Outcome, Verdict
from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.ledger.people import person_in_short
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.plan import in_words
from sovereign_pipeline.review.statistics import Agreement, Estimate, RankedVersion, agreement, estimate, rank_versions
from sovereign_pipeline.review.unblinding import (
    ClosedReview,
    EarlyClosing,
    UnblindedBallot,
    counted_ballots,
    unblind_ballots,
    unblind_guesses,
)
from sovereign_pipeline.signing.officers import officer_in_short


class CriterionResult(Frozen):
    """One criterion: the mean rating of each arm, 1 to 5, and the mean of the paired differences."""

    candidate: float
    opponent: float
    difference: Estimate


class ReviewResult(Frozen):
    """`review.json`. All but `agreement` is over the own pairs of operators who rated one of them."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    review: str
    line: str
    adapter: str
    """Id of the candidate."""
    opponent: str
    """Id of the adapter that the candidate would replace, or name of the base model."""
    opponent_chosen: str
    """How it became the opponent, and whether it was reviewed itself."""
    seed: str
    """Revealed, so that every position can be derived again; 64 hex digits."""
    operators: int
    ballots: int
    """How many were given."""
    ballots_registered: int
    """How many the review was to have."""
    margin: float
    """Pre-registered."""
    closed_early: EarlyClosing | None
    wins: int
    losses: int
    ties: int
    identical: int
    """Ties for identical answers, which nobody rated."""
    net_preference: Estimate
    """(wins - losses) / pairs; ties count 0."""
    criteria: dict[Criterion, CriterionResult]
    agreement: dict[str, Agreement]
    """Over the shared pairs: of the preference, and by criterion."""
    guesses: Estimate | None
    """Share of guesses that were right. By chance it is one half, since the candidate is A in half of the pairs."""
    ranking: tuple[RankedVersion, ...] = Field(validation_alias="ladder", serialization_alias="ladder")
    """Over this and all earlier reviews of the line, of the versions that comparisons link to this candidate.

    The same weights under several versions are there once, under the newest.
    """


def review_result(closed: ClosedReview, earlier: Sequence[ClosedReview]) -> ReviewResult:
    """Compute every figure of one review.

    Args:
        earlier: the line's reviews that were closed before, for the ranking.

    Raises GateRefused when no operator rated a pair of their own, and as `unblind_ballots`.
    """
    plan = closed.contents.plan
    ballots = unblind_ballots(closed)
    own = counted_ballots(ballots)
    if not own:
        raise GateRefused(
            f"Review {closed.review} of line {plan.line} was closed without a ballot to count.",
            "Open another one.",
            act="open_review",
            line=plan.line,
        )
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
        net_preference=estimate([float(each.preference) for each in own], [each.operator for each in own], (-1.0, 1.0)),
        criteria=_criteria(plan.criteria, own),
        agreement=_agreement(plan.criteria, [each for each in ballots if each.shared and each.was_asked]),
        guesses=_guesses(closed),
        ranking=_ranking([*earlier, closed]),
    )


def is_counted(closed: ClosedReview) -> bool:
    """Whether a review has ballots to count."""
    return bool(counted_ballots(unblind_ballots(closed)))


def has_lost(closed: ClosedReview) -> bool:
    """Whether the candidate lost more pairs than it won. False also where no ballot counts."""
    return sum(each.preference for each in counted_ballots(unblind_ballots(closed))) < 0


def outcome_of(net: Estimate, margin: float) -> Outcome:
    """Fail below zero; pass when the whole interval is at or above -margin; else inconclusive.

    A candidate whose true net preference is -margin or worse passes in at most 2.5 % of reviews.
    """
    if net.mean < 0:
        return "fail"
    return "pass" if net.low is not None and net.low >= -margin else "inconclusive"


def evaluate_net_preference(result: ReviewResult) -> Verdict:
    """The outcome with its numbers. An officer may waive it only where it is inconclusive and the recipe allows it."""
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
            "; one operator alone gives no interval."
            if net.low is None or net.high is None
            else f", 95 % CI {net.low:+.3f} to {net.high:+.3f}, margin {-result.margin + 0.0:+.3f}."
        )
    ]
    sentences.append(result.opponent_chosen)
    early = result.closed_early
    if early is not None:
        sentences.append(
            f"Closed early by {_officer(early.officer)} with {result.ballots} of {result.ballots_registered} "
            f"ballots: {early.reason}"
        )
    if outcome == "fail":
        sentences.append("A candidate that lost the blind review does not ship.")
    elif outcome == "inconclusive" and net.detectable is not None:
        sentences.append(f"Minimum detectable net preference (80 % power): {net.detectable:+.3f}.")
    return " ".join(sentences)


def as_markdown(result: ReviewResult) -> str:
    """The result's tables, for an asset's page."""
    rows = [
        f"**{result.adapter} against {result.opponent}**",
        "",
        result.opponent_chosen,
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
        *(f"| {each.version} | {each.strength:.3f} | {each.pairs} |" for each in result.ranking),
        "",
        "Which answer was the new one was not guessed."
        if result.guesses is None
        else f"Which answer was the new one was guessed right in {result.guesses.mean:.0%} of {result.guesses.values} "
        f"pairs (95 % interval {_interval(result.guesses)}); by chance it is 50 %.",
    ]
    if result.closed_early is not None:
        rows += ["", f"Closed early by {_officer(result.closed_early.officer)}: {result.closed_early.reason}"]
    return "\n".join(rows) + "\n"


def _officer(officer: str) -> str:
    """A key's id, in few letters; what stands for a person, or a name, is of before officers signed."""
    return officer_in_short(person_in_short(officer))


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
    """Ordinal: no more is assumed than that a win and a loss are further apart than either is from a tie."""
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
    """Rank the last review's candidate among the versions it is linked to. reviews: in the order of closing."""
    names: dict[str, str] = {}
    outcomes = []
    for each in reviews:
        plan = each.contents.plan
        candidate, opponent = each.candidate_weights, each.opponent_weights or plan.opponent_digest
        names |= {opponent: each.opponent, candidate: plan.adapter}
        counted = counted_ballots(unblind_ballots(each))
        outcomes += [(candidate, opponent, (one.preference + 1) / 2) for one in counted]
    ranked = rank_versions(outcomes, of=reviews[-1].candidate_weights)
    return tuple(each.model_copy(update={"version": names[each.version]}) for each in ranked)
