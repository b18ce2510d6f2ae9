"""The one report an officer reads before an adapter is registered: what was measured, what was demanded, what follows.

What belongs here: putting the results together, and the report as Markdown. Every figure is computed from the samples
of the inputs. The list of figures is `figures.py`, the demands are `gates.py`, the page with pictures is `page.py`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.evaluation.arms.arms import ARMS, Arm
from sovereign_pipeline.evaluation.capability.capability import capability_results
from sovereign_pipeline.evaluation.capability.records import CapabilitySample
from sovereign_pipeline.evaluation.held_out.private import private_result
from sovereign_pipeline.evaluation.held_out.records import PrivateSample, ReplySample
from sovereign_pipeline.evaluation.records import CANARIES, REPLIES, VERBATIM, IncumbentFacts, Record, read_rows
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
from sovereign_pipeline.evaluation.report.waivers import EarlierWaiver
from sovereign_pipeline.policy.line import Line


class EvaluationReport(Record):
    """evaluation_report's `report.json`. Losses in nats per token, shares from 0 to 1, differences candidate minus
    reference. incumbent: None for a line that has none yet.

    findings: one a gate; outcome: the worst of theirs. figures: all that was compared. worse: the rows that the
    candidate did worst, by id. accepted_before: what officers let pass of the line's earlier adapters; what is let pass
    of this one comes after its report and stands in its record.
    """

    line: str
    incumbent: IncumbentFacts | None
    outcome: Outcome
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    worse: tuple[WorseRows, ...]
    judges: tuple[JudgeQuality, ...]
    accepted_before: tuple[EarlierWaiver, ...]

    @property
    def regressions(self) -> tuple[Figure, ...]:
        return tuple(figure for figure in self.figures if figure.is_regression)

    def finding(self, gate: str) -> Finding:
        return next(each for each in self.findings if each.gate == gate)


def read_samples(capability: Path, private: Path, red_team: Path) -> Samples:
    """Read the samples of three artifacts' directories. Raises IntegrityError."""
    replies = private / REPLIES
    return Samples(
        private=read_rows(private / "samples.jsonl", PrivateSample),
        replies=read_rows(replies, ReplySample) if replies.exists() else [],
        capability=read_rows(capability / "samples.jsonl", CapabilitySample),
        red_team=read_rows(red_team / "samples.jsonl", RedTeamSample),
        labels=read_rows(red_team / "judge.jsonl", JudgedLabel),
        canaries=read_rows(red_team / CANARIES, CanarySample),
        verbatim=read_rows(red_team / VERBATIM, VerbatimSample),
    )


def evaluate(
    line: Line, samples: Samples, incumbent: IncumbentFacts | None, accepted_before: Sequence[EarlierWaiver]
) -> EvaluationReport:
    """What the samples say, held against the recipe's `gates`. Raises IntegrityError for a sample without one of the
    arms, or with one that was not compared."""
    _assert_arms(samples, incumbent)
    seed = line.evaluation.seed
    results = Results(
        held_out=private_result(samples.private, seed),
        capability=capability_results(samples.capability),
        suites=[suite.name for suite in line.evaluation.capability],
        red_team=red_team_result(samples.red_team, samples.labels),
        asked=_languages(samples.red_team),
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
        accepted_before=tuple(accepted_before),
    )


def compared_with(report: EvaluationReport) -> str:
    """One sentence: what the candidate is held against."""
    incumbent = report.incumbent
    if incumbent is None:
        return "The candidate against its base model; the line has no other registered adapter."
    named = f"the incumbent {incumbent.id} ({short(incumbent.digest)})"
    if not incumbent.compared:
        return f"The candidate against its base model; {named} stands on another base model and is not compared."
    return f"The candidate against its base model and {named}, on the same rows."


def as_markdown(report: EvaluationReport) -> str:
    """The report's tables, for an asset's page."""
    rows = [
        f"**{report.line}: {report.outcome.upper()}**",
        "",
        compared_with(report),
        "",
        *(f"- **{finding.gate}: {finding.outcome}.** {finding.message}" for finding in report.findings),
        "",
        *_accepted(report),
        f"{len(report.regressions)} of {len(report.figures)} figures are worse than a reference beyond chance"
        + (": " if report.regressions else "; ")
        + "".join(f"{each.what}, {each.slice} (against the {each.reference}); " for each in report.regressions)
        + f"{BY_CHANCE}.",
        "",
        "| what | of | against | rows | reference | candidate | difference | 95 % interval | McNemar p |",
        "|---|---|---|---:|---:|---:|---:|---|---:|",
        *(f"| {' | '.join(cells_of(figure))} |" for figure in report.figures),
        "",
        "| rows that fared worse | against | how many | first ids |",
        "|---|---|---:|---|",
        *(f"| {each.what} | {each.reference} | {each.worse} | {', '.join(each.ids)} |" for each in report.worse),
        "",
        "| judge | labelled answers | language | n | precision | recall |",
        "|---|---|---|---:|---|---|",
        *(f"| {' | '.join(judge_cells(quality))} |" for quality in report.judges),
    ]
    return "\n".join(rows) + "\n"


def cells_of(figure: Figure) -> tuple[str, ...]:
    """One figure as a row of the tables: what, slice, reference, rows, both values, difference, interval, p."""
    observed, digits = figure.observed, 1 if figure.unit == "tokens" else 3
    p_value = getattr(observed, "p_value", None)
    return (
        figure.what,
        figure.slice,
        figure.reference,
        str(observed.rows),
        f"{observed.reference:.{digits}f}",
        f"{observed.candidate:.{digits}f}",
        f"{observed.difference:+.{digits}f}",
        f"{observed.low:+.{digits}f} to {observed.high:+.{digits}f}",
        "" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
    )


def _accepted(report: EvaluationReport) -> list[str]:
    if not report.accepted_before:
        return []
    return [
        "| officers let pass before | gate | which gave | as | officer | reason | at |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.adapter} | {each.gate} | {each.outcome} | {each.kind} | {_cell(each.officer)} | "
            f"{_cell(each.reason)} | {each.at} |"
            for each in report.accepted_before
        ),
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def judge_cells(quality: JudgeQuality) -> tuple[str, ...]:
    """A judge's row in a table. fresh: labelled answers that its rules were not written in view of."""
    seen = "tuned on" if quality.tuned else "fresh"
    shares = str(quality.precision), str(quality.recall)
    return quality.judge, seen, quality.language, str(quality.labels), *shares


def _languages(samples: Sequence[RedTeamSample]) -> dict[str, set[str]]:
    """Kind of prompt -> languages that there are prompts in."""
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
                f"{kind}: row {row} holds what {', '.join(arms)} did, and {', '.join(sorted(compared))} are compared. "
                f"Materialize {kind} again."
            )
