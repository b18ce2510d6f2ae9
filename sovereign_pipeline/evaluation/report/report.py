"""The report that an officer reads before an adapter is registered, computed from the samples of its inputs.

What belongs here: assembling it, and its Markdown. What does not: the list of figures (`figures.py`), the criteria
(`gates.py`), and the HTML page (`page.py`).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.evaluation.arms.arms import ARMS, Arm
from sovereign_pipeline.evaluation.capability.capability import capability_results
from sovereign_pipeline.evaluation.capability.records import CapabilitySample
from sovereign_pipeline.evaluation.files import CANARIES, JUDGED_LABELS, REPLIES, SAMPLES, VERBATIM, read_rows
from sovereign_pipeline.evaluation.held_out.private import private_result
from sovereign_pipeline.evaluation.held_out.records import PrivateSample, ReplySample
from sovereign_pipeline.evaluation.red_team.memorisation import memorisation_result
from sovereign_pipeline.evaluation.red_team.records import (
    CanarySample,
    JudgedLabel,
    JudgeQuality,
    RedTeamSample,
    VerbatimSample,
)
from sovereign_pipeline.evaluation.red_team.red_team import red_team_result
from sovereign_pipeline.evaluation.report.figures import BY_CHANCE, Figure, Samples, WorseRows, figures, worse_rows
from sovereign_pipeline.evaluation.report.gates import Finding, Results, find_all, worst
from sovereign_pipeline.evaluation.report.labels import label_of
from sovereign_pipeline.evaluation.report.waivers import EarlierWaiver
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.signing.officers import officer_in_short
from sovereign_pipeline.wording import counted


class IncumbentFacts(Frozen):
    """The adapter that the candidate would replace."""

    id: str
    """In the registry."""
    digest: str
    """Of its artifact."""
    compared: bool
    """Whether it was scored; not when it has another base model than the candidate."""


class EvaluationReport(Frozen):
    """evaluation_report's `report.json`: losses in nats per token, shares from 0 to 1, candidate minus reference."""

    line: str
    incumbent: IncumbentFacts | None
    """None for a line without one."""
    outcome: Outcome
    """The worst of the findings'."""
    findings: tuple[Finding, ...]
    """One for each gate."""
    figures: tuple[Figure, ...]
    worse: tuple[WorseRows, ...]
    judges: tuple[JudgeQuality, ...]
    precision: str | None = None
    """In which every arm was scored and answered; None of scores of the first release."""
    accepted_before: tuple[EarlierWaiver, ...]
    """Waivers of the line's earlier adapters. This adapter's own come after its report and are in its record."""

    @property
    def regressions(self) -> tuple[Figure, ...]:
        """The figures that are significantly worse than a reference."""
        return tuple(figure for figure in self.figures if figure.is_regression)

    def finding(self, gate: str) -> Finding:
        """The finding of one gate."""
        return next(each for each in self.findings if each.gate == gate)

    def without_wording(self) -> "EvaluationReport":
        """The report without its sentences, which another version of the program may word otherwise."""
        findings = tuple(finding.model_copy(update={"message": ""}) for finding in self.findings)
        return self.model_copy(update={"findings": findings})


def read_samples(capability: Path, private: Path, red_team: Path) -> Samples:
    """Read the samples of three artifacts' directories. Raises IntegrityError."""
    replies = private / REPLIES
    return Samples(
        private=read_rows(private / SAMPLES, PrivateSample),
        replies=read_rows(replies, ReplySample) if replies.exists() else [],
        capability=read_rows(capability / SAMPLES, CapabilitySample),
        red_team=read_rows(red_team / SAMPLES, RedTeamSample),
        labels=read_rows(red_team / JUDGED_LABELS, JudgedLabel),
        canaries=read_rows(red_team / CANARIES, CanarySample),
        verbatim=read_rows(red_team / VERBATIM, VerbatimSample),
    )


def evaluate(
    line: Line,
    samples: Samples,
    incumbent: IncumbentFacts | None,
    accepted_before: Sequence[EarlierWaiver],
    precision: str | None,
) -> EvaluationReport:
    """Compute the report from the samples and the recipe's `gates`.

    Raises IntegrityError for a sample that lacks a compared arm, or has one that was not compared.
    """
    _assert_arms(samples, incumbent)
    seed = line.named_evaluation.seed
    results = Results(
        held_out=private_result(samples.private, seed),
        capability=capability_results(samples.capability),
        suites=[suite.name for suite in line.named_evaluation.capability],
        red_team=red_team_result(samples.red_team, samples.labels),
        prompt_languages=_languages(samples.red_team),
        memorisation=memorisation_result(samples.canaries, samples.verbatim, seed),
    )
    findings = find_all(results, line.gates)
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
    )


def compared_with(report: EvaluationReport) -> str:
    """What the candidate is compared with, and in which precision."""
    incumbent, computed = report.incumbent, f" All computed in {report.precision}." if report.precision else ""
    if incumbent is None:
        return f"The candidate is compared with its base model; the line has no other registered adapter.{computed}"
    named = f"the incumbent {incumbent.id} ({short(incumbent.digest)})"
    if not incumbent.compared:
        other = "has another base model and is not compared"
        return f"The candidate is compared with its base model; {named} {other}.{computed}"
    return f"The candidate is compared with its base model and {named}, on the same rows.{computed}"


def as_markdown(report: EvaluationReport) -> str:
    """The report's tables, for an asset's page."""
    rows = [
        f"**{report.line}: {report.outcome.upper()}**",
        "",
        compared_with(report),
        "",
        *(f"- **{finding.gate}: {finding.outcome}.** {finding.message}" for finding in report.findings),
        "",
        *_earlier_waivers(report),
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
    """How many figures are regressions, and how many would be by chance."""
    return (
        f"{len(report.regressions)} of {counted(len(report.figures), 'figure')} significantly worse than a reference, "
        f"with or without a criterion; {BY_CHANCE}."
    )


def cells_of(figure: Figure) -> tuple[str, ...]:
    """One figure as a row of the tables: label, slice, reference, rows, both values, difference, interval, p."""
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


def _earlier_waivers(report: EvaluationReport) -> list[str]:
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
    """A judge's row in a table. "fresh" answers are those that its rules were not written in view of."""
    labels = "tuned on" if quality.tuned else "fresh"
    shares = str(quality.precision), str(quality.recall)
    return quality.judge, labels, quality.language, quality.style, str(quality.labels), *shares


def _languages(samples: Sequence[RedTeamSample]) -> dict[str, set[str]]:
    """Kind of prompt -> languages of its prompts."""
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
                f"{kind}: row {row} has {', '.join(arms)}; {', '.join(sorted(compared))} are compared.",
                f"Materialize {kind} again.",
            )
