"""How often a staged adapter is taken back that should not be, and how soon one that should: simulated rollouts.

`python -m benchmarks.serving.hold`. Users differ (their own failure rates are from a beta distribution with an
intraclass correlation of 0.05); every test looks 56 times in 14 days.
"""

import argparse
import math
from collections.abc import Callable

from typer import echo

from sovereign_pipeline.serving.rollout.hold import difference, is_worse_at_any_look
from sovereign_pipeline_tests.serving.rollout.simulated import Arms, Rollout, aborted

MARGIN, ALPHA = 0.02, 0.05
NORMAL = 1.645
"""The quantile of a single look."""


def pooled(arms: Arms) -> bool:
    """On requests, as if they were independent and this the only look."""
    (count, total), (others, of_others) = (
        (sum(each.count for each in arm.values()), sum(each.total for each in arm.values())) for arm in arms
    )
    one, other = total / count, of_others / others
    spread = math.sqrt(one * (1 - one) / count + other * (1 - other) / others)
    return spread > 0 and one - other - MARGIN > NORMAL * spread


def between_users(arms: Arms) -> bool:
    """With the variance between users, as if this were the only look."""
    found = difference(*arms, is_share=True)
    return found is not None and found.estimate - MARGIN > NORMAL * found.standard_error


def sequence(arms: Arms) -> bool:
    """What a hold does, for one measure."""
    found = difference(*arms, is_share=True)
    return found is not None and is_worse_at_any_look(found, MARGIN, ALPHA)


TESTS: dict[str, Callable[[Arms], bool]] = {
    "on requests, each look by itself": pooled,
    "between users, each look by itself": between_users,
    "between users, for all looks (a hold)": sequence,
}
RISES = (0.0, MARGIN, 0.06, 0.12, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=400)
    rollouts = parser.parse_args().rollouts
    echo(f"Share of {rollouts} rollouts in which the staged adapter is taken back; 3 % fail, {MARGIN:.0%} is allowed.")
    echo("| test | " + " | ".join(f"+{rise:.0%}" for rise in RISES) + " |")
    echo("|---|" + "---|" * len(RISES))
    for name, test in TESTS.items():
        shares = [aborted(Rollout(rise=rise), range(rollouts), test) for rise in RISES]
        echo(f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
