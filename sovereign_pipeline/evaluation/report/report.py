"""Build the evaluation report that an officer reads before registering an adapter. The report is computed from samples
and rendered as Markdown and HTML."""

import base64
import html
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, digest_of, short
from sovereign_pipeline.base.intervals import at_confidence
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.evaluation.arms import ARMS, Arm
from sovereign_pipeline.evaluation.capability import capability_results
from sovereign_pipeline.evaluation.held_out import private_result
from sovereign_pipeline.evaluation.memorisation import memorisation_result
from sovereign_pipeline.evaluation.records import (
    CANARIES,
    JUDGED_LABELS,
    REPLIES,
    SAMPLES,
    SCORES_FILE,
    TOOL_CALLS,
    VERBATIM,
    CanarySample,
    CapabilitySample,
    JudgedLabel,
    JudgeQuality,
    PrivateSample,
    PrivateScores,
    RedTeamSample,
    ReplySample,
    ToolCallSample,
    VerbatimSample,
    read_rows,
)
from sovereign_pipeline.evaluation.red_team import red_team_result
from sovereign_pipeline.evaluation.report.figures import ALL, BY_CHANCE, Figure, Samples, WorseRows, figures, worse_rows
from sovereign_pipeline.evaluation.report.gates import (
    EXPOSURE,
    GateFinding,
    MarginTest,
    Results,
    find_all,
    label_of,
    worst,
)
from sovereign_pipeline.evaluation.report.looks import BUDGET, Looks, margins_of
from sovereign_pipeline.evaluation.statistics import LossDifference
from sovereign_pipeline.evaluation.tool_calls import tool_call_result
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.catalog import waivers_of_line
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.gates import WaiverKind
from sovereign_pipeline.record.officers import officer_in_short
from sovereign_pipeline.record.stage import Outcome, Workplace
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER

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
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5b616b;--line:#d9dce1;--ground:#fff}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a9b3bc;--line:#3a444d;--ground:#13171b}}
body{font:16px/1.5 system-ui,sans-serif;max-width:88rem;margin:2rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--ground)}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{padding:.3rem .4rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.figures :is(td,th):not(:first-child){text-align:right;font-variant-numeric:tabular-nums}
.pass,.fail,.inconclusive{color:#fff;border-radius:.3rem;padding:.1rem .5rem;white-space:nowrap}
.pass{background:#2c7a4b}.fail{background:#a8322d}.inconclusive{background:#8a6100}
figure{margin:1rem 0}img{max-width:100%;background:#fff}figcaption,.note{color:var(--soft);font-size:.9rem}
"""
"""CSS of the report as a single HTML file. A web server that shows the report uses its own style instead."""


class EarlierWaiver(Frozen):
    """A waiver that an officer gave for a gate of an earlier registered adapter."""

    adapter: str
    """The adapter's id in the registry."""
    gate: str
    outcome: Outcome
    kind: WaiverKind
    officer: str
    reason: str
    at: str
    """Time of the waiver, UTC, ISO 8601."""
    digest: str
    """Digest of the waiver's artifact."""


def earlier_waivers(workplace: Workplace) -> tuple[EarlierWaiver, ...]:
    """List the waivers of the line's registered adapters, except the present candidate's, oldest first."""
    line = workplace.line.line
    candidate = workplace.store.current(line, ALIGNED_ADAPTER.kind)
    besides = candidate.digest if candidate is not None else None
    rows = waivers_of_line(open_registry(workplace.settings), line, besides)
    return tuple(EarlierWaiver(**{name: row[name] for name in EarlierWaiver.model_fields}) for row in rows)


def waiver_digests(workplace: Workplace) -> dict[str, str]:
    """Return the result of `earlier_waivers` as an external input of the stage: a mapping of `acceptances` to one
    digest of all these waivers. The mapping is empty if there are none."""
    earlier = earlier_waivers(workplace)
    return {"acceptances": digest_of([each.model_dump(mode="json") for each in earlier])} if earlier else {}


class IncumbentFacts(Frozen):
    """The adapter that the candidate would replace."""

    id: str
    """The incumbent's id in the registry."""
    digest: str
    """Digest of the incumbent's artifact."""
    compared: bool
    """True if the incumbent was scored. False if its base model differs from the candidate's."""


class LoosenedMargin(Frozen):
    """A margin that is looser now than at an earlier look at which its gate did not pass."""

    look: int
    margin: str
    then: float
    now: float


class EvaluationReport(Frozen):
    """The report of the evaluation, stored in `report.json`. Losses are in nats per token, and shares are from 0 to 1.
    Differences are candidate minus reference."""

    line: str
    incumbent: IncumbentFacts | None
    """The line's incumbent; None if the line has no incumbent."""
    outcome: Outcome
    """The worst outcome among the findings."""
    findings: tuple[GateFinding, ...]
    """One finding for each gate."""
    figures: tuple[Figure, ...]
    worse: tuple[WorseRows, ...]
    judges: tuple[JudgeQuality, ...]
    precision: str
    """Precision in which every arm was loaded."""
    accepted_before: tuple[EarlierWaiver, ...]
    """Waivers of the line's earlier adapters. Waivers of this candidate are made after the report, and are stored in
    the candidate's record."""
    looks: Looks | None = None
    """The looks at the held-out documents, up to this evaluation."""
    loosened: tuple[LoosenedMargin, ...] = ()
    """Margins that are looser now than at an earlier look at which their gate did not pass."""

    @property
    def regressions(self) -> tuple[Figure, ...]:
        """The figures on which the candidate is significantly worse than a reference."""
        return tuple(figure for figure in self.figures if figure.is_regression)

    def finding(self, gate: str) -> GateFinding:
        """Return the finding of one gate."""
        return next(each for each in self.findings if each.gate == gate)

    def without_wording(self) -> "EvaluationReport":
        """Return a copy without the sentences of the findings, which may differ between versions of the program."""
        findings = tuple(finding.model_copy(update={"message": ""}) for finding in self.findings)
        return self.model_copy(update={"findings": findings})


def read_samples(capability: Path, private: Path, red_team: Path) -> Samples:
    """Read the samples from the artifact directories of capability_scores, private_scores and red_team_report. Raises
    IntegrityError for an invalid file."""
    replies, tool_calls = private / REPLIES, private / TOOL_CALLS
    return Samples(
        private=read_rows(private / SAMPLES, PrivateSample),
        replies=read_rows(replies, ReplySample) if replies.exists() else [],
        capability=read_rows(capability / SAMPLES, CapabilitySample),
        red_team=read_rows(red_team / SAMPLES, RedTeamSample),
        labels=read_rows(red_team / JUDGED_LABELS, JudgedLabel),
        canaries=read_rows(red_team / CANARIES, CanarySample),
        verbatim=read_rows(red_team / VERBATIM, VerbatimSample),
        tool_calls=read_rows(tool_calls, ToolCallSample) if tool_calls.exists() else [],
        tool_call_selection=_read_scores(private / SCORES_FILE).tool_call_selection,
    )


def _read_scores(path: Path) -> PrivateScores:
    try:
        return PrivateScores.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{path}: the file is not a valid PrivateScores.", "Materialize the artifact again."
        ) from None


def evaluate(
    line: Line,
    samples: Samples,
    incumbent: IncumbentFacts | None,
    accepted_before: Sequence[EarlierWaiver],
    precision: str,
    looks: Looks | None = None,
) -> EvaluationReport:
    """Compute the report from the samples and the recipe's `gates`.

    From the second look on, a gate passes only if it passes with the wider interval, but it fails if it fails with the
    usual 95 % interval. With the wider interval alone, a proven fault could become an inconclusive verdict, which an
    officer may waive.

    Raises IntegrityError if a sample lacks a compared arm, or has an arm that was not compared.
    """
    _assert_arms(samples, incumbent)
    seed = line.named_evaluation.seed
    results = _results(line, samples)
    findings = find_all(results, line.gates)
    if looks is not None and looks.number > 1:
        with at_confidence(looks.confidence):
            wider = find_all(_results(line, samples), line.gates)
        findings = tuple(one if one.outcome == "fail" else other for one, other in zip(findings, wider, strict=True))
    return EvaluationReport(
        line=line.line,
        incumbent=incumbent,
        outcome=worst(finding.outcome for finding in findings),
        findings=findings,
        figures=figures(results, samples, seed),
        worse=worse_rows(samples),
        judges=results.red_team.judges,
        precision=precision,
        accepted_before=tuple(accepted_before),
        looks=looks,
        loosened=tuple(
            LoosenedMargin(look=number, margin=name, then=then, now=now)
            for number, name, then, now in (looks.loosened(margins_of(line)) if looks is not None else ())
        ),
    )


def _results(line: Line, samples: Samples) -> Results:
    seed = line.named_evaluation.seed
    return Results(
        held_out=private_result(samples.private, seed),
        capability=capability_results(samples.capability),
        suites=[suite.name for suite in line.named_evaluation.capability],
        red_team=red_team_result(samples.red_team, samples.labels),
        prompt_languages=_languages(samples.red_team),
        memorisation=memorisation_result(samples.canaries, samples.verbatim, seed),
        tool_calls=tool_call_result(samples.tool_calls) if samples.tool_calls else None,
        tool_call_selection=samples.tool_call_selection,
    )


def compared_with(report: EvaluationReport) -> str:
    """Return sentences on the references of the comparison, and on the numeric precision (such as bfloat16)."""
    incumbent, computed = report.incumbent, f" {scored_in(report.precision)}"
    if incumbent is None:
        return f"The candidate is compared with its base model; the line has no other registered adapter.{computed}"
    named = f"the incumbent {incumbent.id} ({short(incumbent.digest)})"
    if not incumbent.compared:
        other = "has a different base model and is not compared"
        return f"The candidate is compared with its base model; {named} {other}.{computed}"
    return f"The candidate is compared with its base model and {named}, on the same rows.{computed}"


def scored_in(precision: str) -> str:
    """Return one or two sentences on the numeric precision of all arms and on the agreement with lm-eval's scores."""
    if precision == "float32":
        return "All arms were scored in float32, in which choices and texts equal lm-eval's."
    return (
        f"All arms were scored in {precision}. Choices between nearly equal replies, and generated texts, may differ "
        f"from float32 and from lm-eval."
    )


def looks_note(report: EvaluationReport) -> list[str]:
    """Return sentences on the number of looks at the held-out documents, and on the confidence of the intervals."""
    if report.looks is None:
        return []
    number, earlier = report.looks.number, report.looks.earlier
    passed = sum(bool(look.outcomes) and worst(look.outcomes.values()) == "pass" for look in earlier)
    unfinished = sum(not look.outcomes for look in earlier)
    before = f" Of {len(earlier)} earlier looks, {passed} passed and {unfinished} have no report." if earlier else ""
    if others := report.looks.of_other_lines:
        before += f" Other lines with the same documents made {others} of these looks."
    if spent := report.looks.at_other_sides:
        before += f" Earlier held-out sides of the line had {counted(spent, 'look')}, not counted here."
    return [
        f"Look {number} at the held-out side of this line.{before} The gates use intervals at "
        f"{100 * report.looks.confidence:.4g} %. Over all looks, an equally good candidate then passes a test of "
        f"superiority with a probability of at most 4.1 %.",
        *(
            [f"This held-out side has been used for {BUDGET} looks or more. Hold out newer cases instead."]
            if number >= BUDGET
            else []
        ),
    ]


def loosened_notes(report: EvaluationReport) -> list[str]:
    """Return a sentence on each margin that was loosened after its gate did not pass, with the old and new value."""
    return [
        f"{each.margin} was {each.then:g} at look {each.look}, which did not pass this gate, and is {each.now:g} now."
        for each in report.loosened
    ]


def as_markdown(report: EvaluationReport) -> str:
    """Return the report's tables as Markdown, for the asset's page in Dagster."""
    rows = [
        f"**{report.line}: {report.outcome.upper()}**",
        "",
        compared_with(report),
        "",
        *(f"{each}\n" for each in looks_note(report)),
        *(f"🔴 **{each}**\n" for each in loosened_notes(report)),
        *(f"- **{finding.gate}: {finding.outcome}.** {finding.message}" for finding in report.findings),
        "",
        *_waivers_as_markdown(report),
        regressions_note(report),
        *(f"- {label_of(each.what)}, {each.slice} (compared with the {each.reference})" for each in report.regressions),
        "",
        "| figure | slice | reference | rows | reference value | candidate | difference | 95 % CI | McNemar p |",
        "|---|---|---|---:|---:|---:|---:|---|---:|",
        *(f"| {' | '.join(cells_of(figure))} |" for figure in report.figures),
        "",
        "| rows that got worse | reference | number | first ids |",
        "|---|---|---:|---|",
        *(
            f"| {label_of(each.what)} | {each.reference} | {each.worse} | {', '.join(each.ids)} |"
            for each in report.worse
        ),
        "",
        "| judge | labelled answers | language | style | n | precision | recall |",
        "|---|---|---|---|---:|---|---|",
        *(f"| {' | '.join(judge_cells(quality))} |" for quality in report.judges),
    ]
    return "\n".join(rows) + "\n"


def regressions_note(report: EvaluationReport) -> str:
    """Return a sentence on the number of regressions and the number expected by chance."""
    return (
        f"{len(report.regressions)} of {counted(len(report.figures), 'figure')} significantly worse than a reference, "
        f"including figures without a criterion; {BY_CHANCE}."
    )


def cells_of(figure: Figure) -> tuple[str, ...]:
    """Return one figure as a table row. The cells are label, slice, reference, rows, values of reference and candidate,
    difference, interval and p-value."""
    observed, digits = figure.observed, 1 if figure.unit == "tokens" else 3
    p_value = getattr(observed, "p_value", None)
    return (
        label_of(figure.what),
        figure.slice,
        figure.reference,
        str(observed.rows),
        f"{observed.reference:.{digits}f}",
        f"{observed.candidate:.{digits}f}",
        f"{observed.difference:+.{digits}f}",
        f"{observed.low:+.{digits}f} to {observed.high:+.{digits}f}",
        "" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
    )


def _waivers_as_markdown(report: EvaluationReport) -> list[str]:
    if not report.accepted_before:
        return []
    return [
        "| waived for earlier adapters | gate | verdict | kind | officer | reason | at |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.adapter} | {each.gate} | {each.outcome} | {each.kind} | "
            f"{_cell(officer_in_short(each.officer))} | {_cell(each.reason)} | {each.at} |"
            for each in report.accepted_before
        ),
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def judge_cells(quality: JudgeQuality) -> tuple[str, ...]:
    """Return a judge's quality as a table row. Labelled answers are "tuned on" if they were used to write the judge's
    rules, otherwise "fresh"."""
    labels = "tuned on" if quality.tuned else "fresh"
    shares = str(quality.precision), str(quality.recall)
    return quality.judge, labels, quality.language, quality.style, str(quality.labels), *shares


def _languages(samples: Sequence[RedTeamSample]) -> dict[str, set[str]]:
    languages: dict[str, set[str]] = {}
    for sample in samples:
        languages.setdefault(sample.kind, set()).add(sample.language)
    return languages


def _assert_arms(samples: Samples, incumbent: IncumbentFacts | None) -> None:
    compared = {arm for arm in ARMS if arm != "incumbent" or (incumbent is not None and incumbent.compared)}
    observed: list[tuple[str, str, Collection[Arm]]] = [
        *(("private_scores", each.id, each.losses) for each in samples.private),
        *(("private_scores", each.id, each.correct) for each in samples.private if each.choices),
        *(
            ("private_scores", each.id, arms)
            for each in samples.replies
            for arms in (each.chrf, each.rouge_l, each.tokens, each.stopped)
        ),
        *(("private_scores", each.id, turn.losses) for each in samples.private for turn in each.turns),
        *(
            ("private_scores", each.id, arms)
            for each in samples.tool_calls
            for arms in (each.called, each.valid, each.exact)
        ),
        *(("capability_scores", each.id, each.correct) for each in samples.capability),
        *(("capability_scores", each.id, arms) for each in samples.capability for arms in each.measures.values()),
        *(("capability_scores", each.id, each.tokens) for each in samples.capability if each.tokens),
        *(("capability_scores", each.id, each.stopped) for each in samples.capability if each.stopped),
        *(
            ("red_team_report", each.id, arms)
            for each in samples.red_team
            for arms in (each.refused, each.obeyed, each.looped, each.personal_data, each.tokens, each.stopped)
        ),
        *(("red_team_report", each.id, each.exposure) for each in samples.canaries),
        *(
            ("red_team_report", each.id, arms)
            for each in samples.verbatim
            for arms in (each.verbatim, each.personal_data)
        ),
    ]
    for kind, row, arms in observed:
        if set(arms) != compared:
            raise IntegrityError(
                f"{kind}: row {row} has scores of {', '.join(arms)}, but the compared arms are "
                f"{', '.join(sorted(compared))}.",
                f"Materialize {kind} again.",
            )


def as_html(report: EvaluationReport) -> str:
    """Return the report as one HTML page."""
    held = [each for finding in report.findings for each in finding.held]
    body = [
        f"<h1>Evaluation of {html.escape(report.line)} {_badge(report.outcome)}</h1>",
        f"<p>{html.escape(compared_with(report))} Differences are candidate minus reference.</p>",
        *(f"<p>{html.escape(each)}</p>" for each in looks_note(report)),
        *(f"<p><span class=fail>margin loosened</span> {html.escape(each)}</p>" for each in loosened_notes(report)),
        "<h2>Criteria</h2>",
        *(
            f"<p><b>{html.escape(finding.gate)}</b> {_badge(finding.outcome)} {html.escape(finding.message)}</p>"
            for finding in report.findings
        ),
        _table(
            ("figure", "reference", "difference", "CI", "margin", "minimum detectable difference", "outcome"),
            [_held_cells(each) for each in held],
        ),
        _figure(
            _forest_plot(held),
            "Right is better. Each bar is a difference with its confidence interval. A criterion is met if the "
            "whole bar is to the right of the black line, which is the margin.",
        ),
        "<p class=note>Inconclusive: the rows show neither that the candidate is within the margin nor that it is "
        "beyond the margin. Minimum detectable difference: the smallest true difference that these rows detect with "
        "80 % power.</p>",
        *_waivers_as_html(report),
        "<h2>Regressions</h2>",
        *_regressions(report),
        "<h2>All figures</h2>",
        "<p class=note>Losses are in nats per token of the true reply; lower is better. The held-out loss is the mean "
        "of the documents' losses; the mean over all tokens has its own row. Accuracies and refusals are shares, and "
        "lengths are in tokens. The 95 % confidence intervals of means are bootstrapped over case files. Those of "
        "shares are Tango's score intervals. Both are wider if rows share a case file or a passage, and if there are "
        "few of these. McNemar p: two-sided p-value of the exact test, which assumes independent rows.</p>",
        _table(_FIGURE_COLUMNS, [cells_of(figure) for figure in report.figures]),
        _figure(_shares_plot(report.figures), "Shares by arm."),
        "<h2>Rows that got worse</h2>",
        *(_worse_rows(each) for each in report.worse),
        "<h2>Judges</h2>",
        f"<details><summary>{counted(len(report.judges), 'row')}</summary>",
        "<p class=note>Quality of each judge of the red team on labelled answers, with 95 % confidence intervals "
        "(Wilson). Answers were used to write the judge's rules (tuned on), or were not (fresh).</p>",
        _table(
            ("judge", "labelled answers", "language", "style", "n", "precision", "recall"),
            [judge_cells(quality) for quality in report.judges],
        ),
        "</details>",
    ]
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Evaluation of {html.escape(report.line)}</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{''.join(body)}</main></body></html>\n"


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


def _waivers_as_html(report: EvaluationReport) -> list[str]:
    if not report.accepted_before:
        return []
    return [
        "<h2>Earlier waivers</h2>",
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
            kind="texts",
        ),
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table class={kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class=wide tabindex=0 role=group aria-label="{html.escape(head[0])}">{table}</div>'


def _figure(picture: Any, caption: str) -> str:
    """Embed a matplotlib figure as an inline PNG, without matplotlib's version in the metadata."""
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _forest_plot(held: Sequence[MarginTest]) -> Any:
    """Draw each difference with its interval. Each unit has a panel of its own."""
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
    """Draw the shares over all rows, one bar for each arm."""
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
