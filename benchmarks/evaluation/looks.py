"""What trying often does to a gate, without and with the correction for looks: `docs/benchmarks/evaluation.md`.

    .venv/bin/python -m benchmarks.evaluation.looks

A team trains ten adapters that are exactly as good as their base: the difference of each held-out letter is drawn
anew, so the looks are independent, which is the worst case. It stops at the first that passes the test of superiority
of `held_out_loss_improves`, by the gates' own intervals.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import yaml

from benchmarks.harness import say
from sovereign_pipeline.base.intervals import CONFIDENCE, at_confidence, clustered_interval
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.evaluation.report.looks import confidence_at
from sovereign_pipeline.evaluation.statistics import POWER, gate_powers, normal_quantile
from sovereign_pipeline.policy.line import Line

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "benchmarks" / "evaluation.md"
BEGIN, END = "<!-- looks -->\n", "<!-- /looks -->"
LOOKS, LETTERS = 10, 24
SHOWN = (1, 2, 3, 5, 10)
MARGINS = "gates:\n  held_out_loss:"
"""Where the margins of the power table begin in `docs/how-to/evaluate.md`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teams", type=int, default=2_000)
    passed = simulated(parser.parse_args().teams)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + markdown(passed) + END + rest.split(END)[1], encoding="utf-8")


def simulated(teams: int) -> np.ndarray:
    """Return, for each team, look and rule (without and with the correction), whether an adapter has passed."""
    cases, drawn = [str(number) for number in range(LETTERS)], np.random.default_rng(7)
    passed = np.zeros((teams, LOOKS, 2), np.bool_)
    for team in range(teams):
        for look in range(LOOKS):
            differences = drawn.normal(size=LETTERS)
            if differences.mean() > -1.4 * differences.std(ddof=1) / LETTERS**0.5:
                continue  # an interval below 0 takes 2.07 standard errors, give or take the bootstrap's 10 %
            for rule, level in enumerate((CONFIDENCE, confidence_at(look + 1))):
                with at_confidence(level):
                    passed[team, look, rule] = clustered_interval(differences.tolist(), cases, team)[1] < 0
                if not passed[team, look, rule]:
                    break
        if team % 100 == 99:
            say(f"{team + 1} of {teams} teams")
    return np.logical_or.accumulate(passed, axis=1)


def markdown(passed: np.ndarray) -> str:
    teams = len(passed)
    rows = [
        "| within | without correction | with | nominal, at most |",
        "|---|---:|---:|---:|",
        *(
            f"| {look} look{'s' if look > 1 else ''} | {_share(passed[:, look - 1, 0])} | "
            f"{_share(passed[:, look - 1, 1])} | "
            f"{sum((1 - confidence_at(each)) / 2 for each in range(1, look + 1)):.2%} |"
            for look in SHOWN
        ),
    ]
    powers = {look: _powers(look) for look in SHOWN}
    needed = [
        f"| rows needed at look | {' | '.join(map(str, SHOWN))} |",
        f"|---|{'---:|' * len(SHOWN)}",
        *(
            f"| {gate} (margin {margin:g}) | {' | '.join(f'{powers[look][gate][1]}' for look in SHOWN)} |"
            for gate, (margin, _) in powers[1].items()
        ),
        f"| minimum detectable difference of the loss, times | {' | '.join(f'{_wider(look):.2f}' for look in SHOWN)} |",
    ]
    return (
        f"Share of {teams:,} simulated teams that get at least one superior result, although no adapter is better than "
        f"its base ({LETTERS} letters; shares have 95 % intervals):\n\n"
        + "\n".join(rows)
        + "\n\nWith so few letters, the bootstrap's interval is a little too narrow, so the simulated shares are above "
        "the nominal shares.\n\nThe correction costs rows. This table shows `needed` of "
        "[the power table](../how-to/evaluate.md#choose-margins) at later looks.\n\n" + "\n".join(needed) + "\n"
    )


def _share(values: np.ndarray) -> str:
    share, teams = float(values.mean()), len(values)
    half = normal_quantile(0.975) * math.sqrt(share * (1 - share) / teams)
    return f"{share:.1%} (± {half:.1%})"


def _powers(look: int) -> dict[str, tuple[float, int]]:
    """Return gate -> margin and rows needed at a look, with the margins of the documented table."""
    guide = (PROJECT / "docs" / "how-to" / "evaluate.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load((PROJECT / "data" / "lines" / "permits-desk.yaml").read_text(encoding="utf-8"))
    recipe |= yaml.safe_load(guide[guide.index(MARGINS) :].split("```")[0])
    with at_confidence(confidence_at(look)):
        found = gate_powers(
            Settings.from_environment({"SOVEREIGN_DATA": str(PROJECT / "data")}), Line.model_validate(recipe)
        )
    return {each.gate: (each.margin, each.needed) for each in found}


def _wider(look: int) -> float:
    """Return the factor of the minimum detectable difference, for many letters."""
    quantile, first = (normal_quantile((1 + confidence_at(each)) / 2) for each in (look, 1))
    return (quantile + normal_quantile(POWER)) / (first + normal_quantile(POWER))


if __name__ == "__main__":
    main()
