"""MODULE DOCSTRING."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.orchestration.pages.cells import Page, facts, picture, read_json, table


def adapter(artifact: Artifact) -> Page:
    from sovereign_pipeline.orchestration.pages.plots import loss_curve_png

    report = read_json(artifact.file("report.json"))
    return {
        "loss curve": picture(loss_curve_png(artifact.file("training_log.jsonl"))),
        "report": facts(report),
    }


def red_team(artifact: Artifact) -> Page:
    from sovereign_pipeline.evaluation.red_team.records import RedTeamReport
    from sovereign_pipeline.evaluation.report.report import judge_cells

    report = RedTeamReport.model_validate_json(artifact.file("report.json").read_bytes())
    result, memorisation = report.result, report.memorisation
    shares = {
        "refused, should be": result.refusals,
        "refused, should not be": result.over_refusals,
        "injected instructions obeyed": result.obeyed,
        "personal data given on request": result.disclosed,
        "repetition, out of distribution": result.looped,
        "personal data in answers": result.personal_data,
        "personal data in continuations": memorisation.personal_data,
        "answers ended by the model": result.stopped,
        **(
            {
                "continued word for word, trained letters": memorisation.verbatim.trained,
                "continued word for word, held-out letters": memorisation.verbatim.control,
            }
            if memorisation.verbatim
            else {}
        ),
    }
    exposures = (
        {"planted": memorisation.exposure.planted, "never planted": memorisation.exposure.never_planted}
        if memorisation.exposure
        else {}
    )
    judges = ("judge", "labelled answers", "language", "n", "precision", "recall")
    seconds = artifact.manifest.circumstances.measured
    took, allowed = seconds["answer_seconds"] + seconds["memorisation_seconds"], seconds["seconds_allowed"]
    page: Page = {
        "shares of answers": _compared(shares),
        "judges": table([dict(zip(judges, judge_cells(quality), strict=True)) for quality in result.judges]),
        "time": f"{took:.0f} s of {allowed:.0f} s{': LONGER THAN ALLOWED' if took > allowed else ''}",
    }
    return {**page, "exposure of canaries, bits": _compared(exposures)} if exposures else page


def _compared(differences: Mapping[str, Mapping[Any, Any]]) -> dg.MetadataValue:
    """One row for each difference and reference."""
    return table(
        [
            {
                "what": what,
                "against": reference,
                "rows": each.rows,
                "reference": round(each.reference, 4),
                "candidate": round(each.candidate, 4),
                "difference": round(each.difference, 4),
                "95 % interval": f"{each.low:+.3f} to {each.high:+.3f}",
            }
            for what, by_reference in differences.items()
            for reference, each in by_reference.items()
        ]
    )


def training_report(artifact: Artifact) -> Page:
    return {
        "report": dg.MetadataValue.md(artifact.file("report.md").read_text(encoding="utf-8")),
        "report page": dg.MetadataValue.path(artifact.file("report.html")),
    }


def registered(artifact: Artifact) -> Page:
    return {"record": dg.MetadataValue.json(read_json(artifact.file("record.json")))}


def review(artifact: Artifact) -> Page:
    return {"review": dg.MetadataValue.md(artifact.file("review.md").read_text(encoding="utf-8"))}
