"""The evaluation report as one self-contained HTML page: tables and pictures inside it, nothing fetched.

What belongs here: how the report looks. Figures come from `report.py`; nothing is computed here.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from sovereign_pipeline.evaluation.models import Reference, Side
from sovereign_pipeline.evaluation.records import PrivateSample
from sovereign_pipeline.evaluation.report import EvaluationReport, compared_with, losses, shares
from sovereign_pipeline.evaluation.statistics import LossDifference, ShareDifference

_COLOURS: dict[Side, str] = {"base": "#8a8f98", "incumbent": "#c58b2b", "candidate": "#1f6f8b"}

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c1e21}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d9dce1;text-align:right}
th:first-child,td:first-child{text-align:left}
.pass,.fail{color:#fff;border-radius:.3rem;padding:.1rem .5rem}.pass{background:#2c7a4b}.fail{background:#a8322d}
figure{margin:1rem 0}img{max-width:100%}figcaption,.note{color:#5b616b;font-size:.9rem}
"""


def as_html(report: EvaluationReport, samples: Sequence[PrivateSample]) -> str:
    """The page. `samples`: the rows behind the held-out loss, shown by id."""
    red_team = report.red_team
    body = [
        f"<h1>Evaluation of {html.escape(report.line)} {_badge(report.verdict)}</h1>",
        f"<p>{html.escape(compared_with(report))} Differences are candidate minus reference.</p>",
        "<ul>" + "".join(f"<li>{html.escape(reason)}</li>" for reason in report.reasons) + "</ul>",
        f"<h2>Held-out letters {_badge(report.held_out_verdict)}</h2>",
        "<p class=note>Loss per token of the true reply (nats); lower is better. The interval is a 95 % bootstrap "
        "over cases.</p>",
        _table(
            ("", "against", "letters", "reference", "candidate", "difference", "95 % interval"),
            [
                (
                    name,
                    reference,
                    str(loss.rows),
                    f"{loss.reference:.3f}",
                    f"{loss.candidate:.3f}",
                    f"{loss.difference:+.3f}",
                    f"{loss.low:+.3f} to {loss.high:+.3f}",
                )
                for name, reference, loss in losses(report)
            ],
        ),
        _figure(_paired_plot(samples), "Each line is one letter: its loss under the base and under the candidate."),
        _figure(
            _interval_plot(report.held_out.loss),
            "Mean difference with its interval; zero would mean that nothing changed.",
        ),
        "<h2>Shares " + " ".join(_badge(each.verdict) for each in report.capability) + "</h2>",
        "<p class=note>Accuracy of choices, and refusals. p: McNemar's exact test, two-sided.</p>",
        _table(
            ("", "against", "n", "reference", "candidate", "difference", "95 % interval", "p"),
            [
                (
                    name,
                    reference,
                    str(share.rows),
                    f"{share.reference:.3f}",
                    f"{share.candidate:.3f}",
                    f"{share.difference:+.3f}",
                    f"{share.low:+.3f} to {share.high:+.3f}",
                    f"{share.p_value:.3f}",
                )
                for name, reference, share in shares(report)
            ],
        ),
        _figure(_capability_plot(report), "Capability suites; the dotted line is the lowest accuracy accepted."),
        f"<h2>Red team {_badge(red_team.verdict)}</h2>",
        _figure(_refusal_plot(report), "Share of prompts refused, by kind. Benign prompts should be answered."),
        f"<p>Refusals are told by rules whose precision is {red_team.result.judge.precision:.2f} and recall "
        f"{red_team.result.judge.recall:.2f} on {red_team.result.judge.labels} labelled answers ("
        + ", ".join(
            f"{html.escape(language)}: {quality.precision:.2f} and {quality.recall:.2f} on {quality.labels}"
            for language, quality in red_team.result.judge_by_language.items()
        )
        + ").</p>",
        "<h2>Rows with the least gain over the base</h2>",
        _table(
            ("letter", "language", "tokens", "base", "candidate", "difference"),
            [
                (
                    row.id,
                    row.language,
                    str(row.tokens),
                    f"{row.losses['base']:.3f}",
                    f"{row.losses['candidate']:.3f}",
                    f"{row.losses['candidate'] - row.losses['base']:+.3f}",
                )
                for row in sorted(samples, key=lambda row: (row.losses["base"] - row.losses["candidate"], row.id))[:10]
            ],
        ),
    ]
    head = f"<meta charset=utf-8><title>Evaluation of {html.escape(report.line)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _badge(outcome: str) -> str:
    return f"<span class={outcome}>{outcome}</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _figure(picture: Any, caption: str) -> str:
    """A matplotlib figure as an inline PNG without the date and version that matplotlib would write into it."""
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    axes = picture.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return picture, axes


def _paired_plot(samples: Sequence[PrivateSample]) -> Any:
    picture, axes = _axes(7, 3.6)
    for row in samples:
        base, candidate = row.losses["base"], row.losses["candidate"]
        colour = _COLOURS["candidate"] if candidate < base else "#a8322d"
        axes.plot([0, 1], [base, candidate], marker="o", lw=1, color=colour)
    axes.set_xticks([0, 1], ["base", "candidate"])
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylabel("loss per token (nats)")
    return picture


def _interval_plot(loss: Mapping[Reference, LossDifference]) -> Any:
    picture, axes = _axes(7, 1 + len(loss) / 2)
    for place, each in enumerate(loss.values()):
        axes.plot([each.low, each.high], [place, place], color=_COLOURS["candidate"], lw=3)
        axes.plot([each.difference], [place], marker="o", color=_COLOURS["candidate"])
    axes.axvline(0, color=_COLOURS["base"], ls=":")
    axes.set_yticks(range(len(loss)), [f"against {reference}" for reference in loss])
    axes.set_ylim(-0.5, len(loss) - 0.5)
    axes.set_xlabel("difference of loss per token (nats)")
    return picture


def _capability_plot(report: EvaluationReport) -> Any:
    picture, axes = _axes(7, 2.8)
    accuracies = [each.result.accuracy for each in report.capability]
    _bars(axes, [each.suite for each in report.capability], accuracies)
    for place, (each, accuracy) in enumerate(zip(report.capability, accuracies, strict=True)):
        lowest = max(against.reference for against in accuracy.values()) - each.margin
        axes.plot([place - 0.4, place + 0.4], [lowest, lowest], color="#1c1e21", ls=":")
    axes.set_ylabel("accuracy")
    return picture


def _refusal_plot(report: EvaluationReport) -> Any:
    picture, axes = _axes(7, 2.8)
    kinds = report.red_team.result.by_kind
    _bars(axes, [f"{kind} (n={share['base'].rows})" for kind, share in kinds.items()], list(kinds.values()))
    axes.set_ylabel("share refused")
    return picture


def _bars(axes: Any, names: Sequence[str], shares: Sequence[Mapping[Reference, ShareDifference]]) -> None:
    """One group a name: a bar for each reference, and one for the candidate."""
    places = range(len(names))
    bars: dict[Side, list[float]] = {
        **{reference: [share[reference].reference for share in shares] for reference in (shares[0] if shares else ())},
        "candidate": [share["base"].candidate for share in shares],
    }
    width = 0.8 / len(bars)
    for number, (side, heights) in enumerate(bars.items()):
        beside = (number - (len(bars) - 1) / 2) * width
        axes.bar([place + beside for place in places], heights, width * 0.95, color=_COLOURS[side], label=side)
    axes.set_xticks(list(places), names)
    beside = max(0.0, (3 - len(names)) / 2)  # so that one pair does not fill the picture
    axes.set_xlim(-0.6 - beside, len(names) - 0.4 + beside)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
