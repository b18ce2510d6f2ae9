"""What the pages of models, adapters, scores and releases show besides figures.

What belongs here: the assets of the groups `training`, `evaluation` and `release`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel

from sovereign_pipeline.evaluation.records import REPORT_FILE, REPORT_MARKDOWN, SCORES_FILE, RedTeamReport
from sovereign_pipeline.evaluation.report.report import judge_cells
from sovereign_pipeline.orchestration.pages.cells import Page, facts, picture, read_json, table
from sovereign_pipeline.orchestration.pages.plots import (
    calibration_png,
    is_by_reward,
    loss_curve_png,
    reward_curves_png,
)
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.record import RECORD_FILE
from sovereign_pipeline.review.closed_reviews import TABLES_FILE
from sovereign_pipeline.training.report import TRAINING_LOG_FILE
from sovereign_pipeline.training.reward_model import read_reward_report


def base_model(artifact: Artifact) -> Page:
    summary = artifact.manifest.summary
    return {name: summary[name] for name in ("name", "licence", "architecture") if name in summary}


def adapter(artifact: Artifact) -> Page:
    log = artifact.file(TRAINING_LOG_FILE)
    page: Page = {
        **{name: artifact.manifest.summary[name] for name in ("precision",) if name in artifact.manifest.summary},
        "loss curve": picture(loss_curve_png(log)),
    }
    if not is_by_reward(log):
        return page
    summary = artifact.manifest.summary["rlhf"]
    return {
        **page,
        "reward and divergence": picture(reward_curves_png(log)),
        "training by reward": facts(_flat(summary)),
    }


def reward_model(artifact: Artifact) -> Page:
    found = read_reward_report(artifact).accuracy
    shares = {
        "the reward model": found.accuracy,
        "the reply's length alone": found.length_only,
        "single words alone": found.words_only,
        "the reward model, where the length is wrong": found.where_length_is_wrong,
    }
    return {
        "loss curve": picture(loss_curve_png(artifact.file(TRAINING_LOG_FILE))),
        "held-out pairs told apart": table(
            [
                {
                    "by": name,
                    "pairs": share.of,
                    "right": round(share.share, 4),
                    "95 % interval": f"{share.low:.3f} to {share.high:.3f}",
                }
                for name, share in shares.items()
            ]
        ),
        "calibration": picture(
            calibration_png(
                [(each.expected, each.right.share, each.right.low, each.right.high) for each in found.calibration]
            )
        ),
    }


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a training by reward, its comparison with the parent adapter first."""
    comparison = summary["comparison"]
    return {
        "algorithm": summary["algorithm"],
        "held-out reward of parent and adapter": f"{comparison['parent']:.3f}, {comparison['adapter']:.3f}",
        "difference, 95 % interval": (
            f"{comparison['difference']:+.3f} ({comparison['low']:+.3f} to {comparison['high']:+.3f}), "
            f"{comparison['prompts']} prompts of {comparison['cases']} case files"
        ),
        "kept": f"the adapter of iteration {summary['best_iteration']} of {summary['iterations']}",
        "ended early": summary["stopped"] or "no",
        "reward": ", ".join(f"{name} ×{part['weight']:g}" for name, part in summary["reward"].items()),
        "KL one update before it was kept, nats a reply": round(summary["divergence_of_best"], 2),
    }


def capability_scores(artifact: Artifact) -> Page:
    return {"accuracy by suite": _compared(artifact.manifest.summary)}


def private_scores(artifact: Artifact) -> Page:
    scores = read_json(artifact.file(SCORES_FILE))
    return {
        "held-out rows": _compared({"loss": scores["result"]["loss"], "choice": scores["result"]["choice"]}),
        "selection": facts(scores["selection"]),
    }


def red_team_report(artifact: Artifact) -> Page:
    report = RedTeamReport.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
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
                "continued verbatim, trained documents": memorisation.verbatim.trained,
                "continued verbatim, held-out documents": memorisation.verbatim.control,
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
    judges = ("judge", "labelled answers", "language", "style", "n", "precision", "recall")
    seconds = artifact.manifest.circumstances.measured
    took, allowed = seconds["answer_seconds"] + seconds["memorisation_seconds"], seconds["seconds_allowed"]
    page: Page = {
        "shares of answers": _compared(shares),
        "judges": table([dict(zip(judges, judge_cells(quality), strict=True)) for quality in result.judges]),
        "time": f"{took:.0f} s of {allowed:.0f} s{': LONGER THAN ALLOWED' if took > allowed else ''}",
    }
    return {**page, "exposure of canaries, bits": _compared(exposures)} if exposures else page


def _compared(differences: Mapping[str, Mapping[Any, Any]]) -> dg.MetadataValue:
    """One row for each difference and reference; a difference is a record or its JSON."""
    return table(
        [
            {
                "what": what,
                "against": reference,
                "rows": each["rows"],
                "reference": round(each["reference"], 4),
                "candidate": round(each["candidate"], 4),
                "difference": round(each["difference"], 4),
                "95 % interval": f"{each['low']:+.3f} to {each['high']:+.3f}",
            }
            for what, by_reference in differences.items()
            for reference, each in _as_json(by_reference).items()
        ]
    )


def _as_json(by_reference: Mapping[Any, Any]) -> Mapping[str, Any]:
    return {name: each.model_dump() if isinstance(each, BaseModel) else each for name, each in by_reference.items()}


def evaluation_report(artifact: Artifact) -> Page:
    return {"report": dg.MetadataValue.md(artifact.file(REPORT_MARKDOWN).read_text(encoding="utf-8"))}


def registered_adapter(artifact: Artifact) -> Page:
    return {"whole record": dg.MetadataValue.json(read_json(artifact.file(RECORD_FILE)))}


def blind_review(artifact: Artifact) -> Page:
    return {"result": dg.MetadataValue.md(artifact.file(TABLES_FILE).read_text(encoding="utf-8"))}
