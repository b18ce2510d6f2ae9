"""The evaluation report as one self-contained HTML page: tables and pictures inline, nothing fetched.

What belongs here: how the report looks. What does not: computing a figure (`report.py`).
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.report.figures import ALL, Figure, WorseRows
from sovereign_pipeline.evaluation.report.gates import EXPOSURE, MarginTest
from sovereign_pipeline.evaluation.report.labels import label_of
from sovereign_pipeline.evaluation.report.report import (
    EvaluationReport,
    cells_of,
    compared_with,
    judge_cells,
    regressions_note,
)
from sovereign_pipeline.evaluation.statistics.paired import LossDifference
from sovereign_pipeline.signing.officers import officer_in_short
from sovereign_pipeline.wording import counted

_COLOURS: dict[Arm, str] = {"base": "#8a8f98", "incumbent": "#c58b2b", "candidate": "#1f6f8b"}
_OUTCOMES = {"pass": "#2c7a4b", "fail": "#a8322d", "inconclusive": "#8a6100"}
_FIGURE_COLUMNS = (
    "figure",
    "slice",
    "reference",
    "rows",
    "reference value",
    "candidate",
    "difference",
    "95 % CI",
    "McNemar p",
)

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c1e21}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d9dce1;text-align:right;vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.words td{text-align:left;white-space:normal}
.pass,.fail,.inconclusive{color:#fff;border-radius:.3rem;padding:.1rem .5rem;white-space:nowrap}
.pass{background:#2c7a4b}.fail{background:#a8322d}.inconclusive{background:#8a6100}
figure{margin:1rem 0}img{max-width:100%}figcaption,.note{color:#5b616b;font-size:.9rem}
"""


def as_html(report: EvaluationReport) -> str:
    """The whole page."""
    held = [each for finding in report.findings for each in finding.held]
    body = [
        f"<h1>Evaluation of {html.escape(report.line)} {_badge(report.outcome)}</h1>",
        f"<p>{html.escape(compared_with(report))} Differences are candidate minus reference.</p>",
        "<h2>Criteria</h2>",
        _figure(
            _forest_plot(held),
            "Right is better. Each bar is a difference with its 95 % confidence interval; a criterion is met when the "
            "whole bar lies right of the black mark, the margin.",
        ),
        *(
            f"<p><b>{html.escape(finding.gate)}</b> {_badge(finding.outcome)} {html.escape(finding.message)}</p>"
            for finding in report.findings
        ),
        _table(
            ("figure", "reference", "difference", "95 % CI", "margin", "minimum detectable difference", "outcome"),
            [_held_cells(each) for each in held],
        ),
        "<p class=note>Inconclusive: neither a loss within the margin nor a loss beyond it is shown. Minimum "
        "detectable difference: the smallest true difference that these rows detect with 80 % power.</p>",
        *_earlier_waivers(report),
        "<h2>Regressions</h2>",
        *_regressions(report),
        "<h2>All figures</h2>",
        "<p class=note>Losses in nats per token of the true reply, lower is better; accuracies and refusals as shares; "
        "lengths in tokens. 95 % confidence intervals: of means by bootstrap over case files, of shares Tango's score "
        "interval; both are wider where rows share a case file or a passage, and where there are few of these. "
        "McNemar p: exact test, two-sided, which takes the rows as independent.</p>",
        _table(_FIGURE_COLUMNS, [cells_of(figure) for figure in report.figures]),
        _figure(_shares_plot(report.figures), "Shares by arm."),
        "<h2>Rows that got worse</h2>",
        *(_worse_rows(each) for each in report.worse),
        "<h2>Judges</h2>",
        "<p class=note>Each judge of the red team on labelled answers, with 95 % confidence intervals (Wilson): "
        "answers that its rules were written in view of (tuned on), and others (fresh).</p>",
        _table(
            ("judge", "labelled answers", "language", "style", "n", "precision", "recall"),
            [judge_cells(quality) for quality in report.judges],
        ),
    ]
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Evaluation of {html.escape(report.line)}</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _held_cells(held: MarginTest) -> tuple[str, ...]:
    observed, judgement = held.observed, held.judgement
    return (
        label_of(held.what),
        held.reference,
        f"{observed.difference:+.3f}",
        f"{observed.low:+.3f} to {observed.high:+.3f}",
        f"{judgement.margin:.3f}" if judgement.margin else "superiority",
        f"{judgement.smallest_visible:.3f}",
        judgement.outcome,
    )


def _earlier_waivers(report: EvaluationReport) -> list[str]:
    if not report.accepted_before:
        return []
    return [
        "<h2>Earlier waivers</h2><div class=words>",
        _table(
            ("adapter", "gate", "verdict", "kind", "officer", "reason", "at", "record"),
            [
                (
                    each.adapter,
                    each.gate,
                    each.outcome,
                    each.kind,
                    officer_in_short(each.officer),
                    each.reason,
                    each.at,
                    short(each.digest),
                )
                for each in report.accepted_before
            ],
        ),
        "</div>",
    ]


def _regressions(report: EvaluationReport) -> list[str]:
    note = f"<p class=note>{html.escape(regressions_note(report))}</p>"
    rows = [cells_of(figure) for figure in report.regressions]
    return [note, _table(_FIGURE_COLUMNS, rows)] if rows else [note]


def _worse_rows(worse: WorseRows) -> str:
    label = html.escape(label_of(worse.what))
    title = f"<p>{label}, compared with the {worse.reference}: {counted(worse.worse, 'row')} worse.</p>"
    rows = [
        (name, f"{before:.3f}", f"{after:.3f}")
        for name, before, after in zip(worse.ids, worse.before, worse.after, strict=True)
    ]
    return title + (_table(("id", worse.reference, "candidate"), rows) if rows else "")


def _badge(outcome: str) -> str:
    return f"<span class={outcome}>{outcome}</span>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(picture: Any, caption: str) -> str:
    """A matplotlib figure as an inline PNG without the date and version that matplotlib would write into it."""
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _forest_plot(held: Sequence[MarginTest]) -> Any:
    """One panel for each unit."""
    from matplotlib.figure import Figure as Picture

    panels = {
        "loss per token, nats": [
            each for each in held if isinstance(each.observed, LossDifference) and each.what != EXPOSURE
        ],
        "bits": [each for each in held if each.what == EXPOSURE],
        "share": [each for each in held if not isinstance(each.observed, LossDifference)],
    }
    panels = {unit: rows for unit, rows in panels.items() if rows}
    heights = [0.6 + 0.38 * len(rows) for rows in panels.values()]
    picture = Picture(figsize=(8.6, sum(heights) + 0.6), layout="constrained")
    every = picture.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
    for (unit, rows), (axes,) in zip(panels.items(), every, strict=True):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.axvline(0, color="#8a8f98", ls=":")
        for place, each in enumerate(reversed(rows)):
            sign = 1 if each.judgement.better == "higher" else -1
            ends = [sign * each.observed.low, sign * each.observed.high]
            colour = _OUTCOMES[each.judgement.outcome]
            axes.plot(ends, [place, place], color=colour, lw=3, solid_capstyle="butt")
            axes.plot([sign * each.observed.difference], [place], marker="o", color=colour)
            axes.plot([-each.judgement.margin] * 2, [place - 0.32, place + 0.32], color="#1c1e21", lw=2)
        axes.set_yticks(range(len(rows)), [f"{label_of(each.what)}\nvs {each.reference}" for each in reversed(rows)])
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"better than the reference by ({unit})")
    return picture


def _shares_plot(figures: Sequence[Figure]) -> Any:
    """The shares over all rows, one bar for each arm."""
    from matplotlib.figure import Figure as Picture

    shown = [figure for figure in figures if figure.unit == "share" and figure.slice == ALL]
    names = list(dict.fromkeys(figure.what for figure in shown))
    picture = Picture(figsize=(8.6, 0.8 + 0.5 * len(names)), layout="constrained")
    axes = picture.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    arms: dict[Arm, dict[str, float]] = {}
    for figure in shown:
        arms.setdefault(figure.reference, {})[figure.what] = figure.observed.reference
    arms["candidate"] = {figure.what: figure.observed.candidate for figure in shown}
    height = 0.8 / len(arms)
    for number, (arm, values) in enumerate(arms.items()):
        places = [place + (number - (len(arms) - 1) / 2) * height for place in range(len(names))]
        axes.barh(places, [values[name] for name in names], height * 0.9, color=_COLOURS[arm], label=arm)
    axes.set_yticks(range(len(names)), [label_of(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    picture.legend(frameon=False, loc="outside upper center", ncols=len(arms), fontsize=8)
    return picture
