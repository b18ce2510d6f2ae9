"""Pictures of a training, of a calibration and of a hold.

What belongs here: drawing what a training log or a comparison says. What does not: where a picture is shown
(`models.py`, `rollout.py`).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from sovereign_pipeline.corpus.document import read_jsonl

REWARDS = ("rewards/margins", "rewards/chosen", "rewards/rejected")


def loss_curve_png(training_log: Path) -> bytes:
    """PNG of the loss per step, with the learning rate behind it, from a `training_log.jsonl`.

    Where preferences were learned, their rewards (β·log ratio, nats) lie below: margins of pairs, or of each kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(read_jsonl(training_log))
    steps = [cast(int, row["step"]) for row in rows]
    rewards = [name for name in REWARDS if any(name in row for row in rows)]
    figure, axes = pyplot.subplots(1 + bool(rewards), squeeze=False, figsize=(7, 3.5 + 2 * bool(rewards)), dpi=110)
    loss_axis = axes[0, 0]
    try:
        rate_axis = loss_axis.twinx()
        rate_axis.fill_between(steps, [cast(float, row["learning_rate"]) for row in rows], alpha=0.15, color="grey")
        rate_axis.set_ylabel("learning rate")
        rate_axis.set_ylim(bottom=0)
        loss_axis.plot(steps, [cast(float, row["loss"]) for row in rows], marker=".", color="tab:blue")
        loss_axis.set_ylabel("loss")
        loss_axis.grid(alpha=0.3)
        for name in rewards:
            places, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
            axes[1, 0].plot(places, values, marker=".", label=name.removeprefix("rewards/"))
        if rewards:
            axes[1, 0].axhline(0, color="grey", linewidth=0.8)
            axes[1, 0].set_ylabel("reward")
            axes[1, 0].legend(loc="upper left", frameon=False)
        axes[-1, 0].set_xlabel("step")
        return _png(figure)
    finally:
        pyplot.close(figure)


def calibration_png(bins: Sequence[tuple[float, float, float, float]]) -> bytes:
    """PNG of a calibration. bins: expected share, observed share, and the observed one's 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 4), dpi=110)
    try:
        axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, linestyle="--", label="calibrated")
        for expected, _, low, high in bins:
            axes.plot([expected, expected], [low, high], color="tab:blue", linewidth=1)
        axes.plot([each[0] for each in bins], [each[1] for each in bins], "o", color="tab:blue", label="held-out pairs")
        axes.set_xlabel("probability that the model gives the reply it prefers")
        axes.set_ylabel("share of pairs in which it is the chosen one")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
        return _png(figure)
    finally:
        pyplot.close(figure)


def hold_png(bounds: Sequence[tuple[str, float, float]]) -> bytes:
    """PNG of a hold. bounds: measure, how much worse the staged adapter is, and its upper limit, both in margins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.35 * len(bounds)), dpi=110)
    try:
        for place, (_, estimate, at_most) in enumerate(reversed(bounds)):
            colour = "tab:green" if at_most < 1 else "tab:orange" if estimate < 1 else "tab:red"
            axes.plot([estimate, at_most], [place, place], color=colour, linewidth=2)
            axes.plot([estimate], [place], marker="o", color=colour)
        axes.axvline(1, color="tab:red", linestyle="--", linewidth=0.9)
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(range(len(bounds)), [name for name, _, _ in reversed(bounds)])
        axes.set_xscale("symlog", linthresh=2)
        low, high = axes.get_xlim()
        ticks = [each for each in (-100, -10, -2, -1, 0, 1, 2, 10, 100) if low <= each <= high]
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])  # its own are powers of ten
        axes.set_xlabel("worse than production, in margins (line: up to the upper limit; 1: the margin)")
        return _png(figure)
    finally:
        pyplot.close(figure)


def _png(figure: Any) -> bytes:
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
