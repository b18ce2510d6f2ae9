"""Draw plots for asset pages: training curves, a reward model's calibration, a staged adapter's trial, and
experiments."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sovereign_pipeline.corpus.document import read_jsonl

REWARDS = ("rewards/margins", "rewards/chosen", "rewards/rejected")
BY_REWARD = (
    ("reward", ("reward", "gold")),
    ("KL, nats per reply", ("kl",)),
    ("entropy, nats per token", ("entropy",)),
    ("tokens per reply", ("reply_tokens",)),
    ("shares", ("clip_share", "missing_ends", "repetition", "groups_without_spread")),
    ("value loss", ("value_loss",)),
    ("raw score of the reward model, logits", ("reward_raw", "gold_raw")),
)
"""Panels of the plot for a training run that learned from rewards: label, and columns of the training log. The first
two panels also show the parts of the reward. Columns that the algorithm does not log are skipped."""


def loss_curve_png(training_log: Path) -> bytes:
    """Draw the loss and the learning rate per step from a `training_log.jsonl`, and return a PNG.

    If the log has rewards of a preference method (β·log ratio, nats), a second panel shows these rewards: the chosen,
    the rejected and the margin of pairs, or the rewards of replies with positive and with negative feedback.
    """
    rows = list(read_jsonl(training_log))
    steps = [cast(int, row["step"]) for row in rows]
    rewards = [name for name in REWARDS if any(name in row for row in rows)]
    with _drawing(1 + bool(rewards), squeeze=False, figsize=(7, 3.5 + 2 * bool(rewards)), dpi=110) as (figure, axes):
        loss_axis = axes[0, 0]
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


def calibration_png(bins: Sequence[tuple[float, float, float, float]]) -> bytes:
    """Draw a calibration plot as PNG. `bins`: a tuple for each bin (expected share, observed share, and lower and upper
    end of the observed share's 95 % interval)."""
    with _drawing(figsize=(4.5, 4), dpi=110) as (figure, axes):
        axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, linestyle="--", label="calibrated")
        for expected, _, low, high in bins:
            axes.plot([expected, expected], [low, high], color="tab:blue", linewidth=1)
        axes.plot([each[0] for each in bins], [each[1] for each in bins], "o", color="tab:blue", label="held-out pairs")
        axes.set_xlabel("probability that the model assigns to its preferred reply")
        axes.set_ylabel("share of pairs in which this reply was chosen")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
        return _png(figure)


def is_by_reward(training_log: Path) -> bool:
    return any("reward" in row for row in read_jsonl(training_log))


def reward_curves_png(training_log: Path) -> bytes:
    """Draw a training run that learned from rewards as PNG, from its `training_log.jsonl`.

    The panels show, per iteration, reward and held-out reward with their parts, KL, entropy, length, shares, value loss
    and a reward model's raw scores. The last panel shows both rewards over √KL, which reveals over-optimisation (Gao et
    al. 2022, figure 1).
    """
    rows = list(read_jsonl(training_log))
    columns = {name for row in rows for name in row}
    parts = sorted(name for name in columns if "/" in name)
    with _drawing(4, 2, figsize=(9, 11), dpi=100) as (figure, axes):
        panels = axes.flat
        for label, names in BY_REWARD:
            shown = [name for name in names if name in columns]
            shown += [part for part in parts if part.split("/")[0] in names]
            if not shown:
                continue
            panel = next(panels)
            for name in shown:
                _line(panel, rows, "step", name, 1.0 if "/" not in name else 0.4)
            panel.set_title(label, fontsize=9)
            panel.set_xlabel("iteration", fontsize=8)
            if len(shown) > 1:
                panel.legend(frameon=False, fontsize=7)
        panel = next(panels)
        measured = [{**row, "distance": max(0.0, cast(float, row["kl"])) ** 0.5} for row in rows]
        for name in ("reward", "gold"):
            _line(panel, sorted(measured, key=lambda row: cast(float, row["distance"])), "distance", name, 1.0)
        panel.set_title("reward over √KL", fontsize=9)
        panel.legend(frameon=False, fontsize=7)
        for panel in panels:
            panel.axis("off")
        return _png(figure)


def _line(axes: Any, rows: Sequence[Mapping[str, object]], place: str, name: str, opacity: float) -> None:
    points = [(row[place], row[name]) for row in rows if name in row]
    axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=name, alpha=opacity)
    axes.grid(alpha=0.3)


def hold_png(bounds: Sequence[tuple[str, float, float]]) -> bytes:
    """Draw the trial of a staged adapter as PNG. `bounds`: a tuple (metric, difference, upper limit of the difference)
    for each metric. Both numbers are in units of the margin. A positive difference means that the staged adapter is
    worse."""
    with _drawing(figsize=(7, 1.2 + 0.35 * len(bounds)), dpi=110) as (figure, axes):
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
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])  # matplotlib's own labels are powers of ten
        axes.set_xlabel("difference from production, in margins (above 0: worse; line: up to the upper limit)")
        return _png(figure)


MOST_NAMED = 6
"""Maximum number of distinct values of a key for which the axis labels each value."""
LONGEST_NAME = 40
"""Maximum number of characters of an axis label."""


def experiment_png(trials: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Draw the trials of an experiment as PNG. The panel of each column shows the loss, with its confidence interval,
    over the column's values.

    trials: one mapping for each measured trial, with the keys `loss`, `low`, `high` and `state`, and a value for each
        column. Numbers that span a factor of ten or more get a logarithmic axis. Values that are not numbers are placed
        at equal distances.
    """
    colours = {"finished": "tab:blue", "stopped": "tab:grey", "running": "tab:orange"}
    with _drawing(1, len(columns), squeeze=False, sharey=True, figsize=(3.2 * len(columns), 3.4), dpi=110) as (
        figure,
        axes,
    ):
        for axis, column in zip(axes[0], columns, strict=True):
            values = [trial[column] for trial in trials]
            names = sorted({str(value) for value in values})
            is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            for state, colour in colours.items():
                shown = [trial for trial in trials if trial["state"] == state]
                at = [trial[column] if is_number else names.index(str(trial[column])) for trial in shown]
                losses = [trial["loss"] for trial in shown]
                axis.vlines(at, [t["low"] for t in shown], [t["high"] for t in shown], color=colour, alpha=0.35)
                axis.plot(at, losses, "o", color=colour, label=state if shown else None, alpha=0.8)
            if is_number and min(values, default=0) > 0 and max(values) >= 10 * min(values):
                axis.set_xscale("log")
            if not is_number:
                axis.set_xticks(range(len(names)), [_as_text(name) for name in names])
            elif len(names) <= MOST_NAMED:
                axis.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
                axis.minorticks_off()
            axis.set_xlabel(column)
            axis.grid(alpha=0.3)
        axes[0, 0].set_ylabel("loss on the selection side, nats per token")
        axes[0, -1].legend(frameon=False, fontsize=8)
        return _png(figure)


def _as_text(value: str) -> str:
    """Return a text as a plot label: shortened, and with `$` escaped, because matplotlib reads `$…$` as a formula."""
    return (value if len(value) <= LONGEST_NAME else f"{value[:LONGEST_NAME]}…").replace("$", r"\$")


@contextmanager
def _drawing(*grid: int, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a figure with its axes. Close it after the block, because matplotlib keeps open figures in memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(*grid, **options)
    try:
        yield figure, axes
    finally:
        pyplot.close(figure)


def _png(figure: Any) -> bytes:
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
