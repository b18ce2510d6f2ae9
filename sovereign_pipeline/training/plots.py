"""Pictures of a training, for people."""

import io
from pathlib import Path
from typing import cast

from sovereign_pipeline.corpus.document import read_jsonl


def loss_curve_png(training_log: Path) -> bytes:
    """PNG of the loss per step, with the learning rate behind it, from a `training_log.jsonl`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(read_jsonl(training_log))
    steps = [cast(int, row["step"]) for row in rows]
    figure, loss_axis = pyplot.subplots(figsize=(7, 3.5), dpi=110)
    try:
        rate_axis = loss_axis.twinx()
        rate_axis.fill_between(steps, [cast(float, row["learning_rate"]) for row in rows], alpha=0.15, color="grey")
        rate_axis.set_ylabel("learning rate")
        rate_axis.set_ylim(bottom=0)
        loss_axis.plot(steps, [cast(float, row["loss"]) for row in rows], marker=".", color="tab:blue")
        loss_axis.set_xlabel("step")
        loss_axis.set_ylabel("loss on the completion")
        loss_axis.grid(alpha=0.3)
        figure.tight_layout()
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()
    finally:
        pyplot.close(figure)
