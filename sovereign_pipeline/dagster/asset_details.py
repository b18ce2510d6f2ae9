"""Build the tables, texts and links on an asset's page in Dagster, with a function for each kind of artifact."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.stages import QUARANTINE, SOURCES
from sovereign_pipeline.dagster.chain import PRESENTATION
from sovereign_pipeline.dagster.plots import calibration_png, is_by_reward, loss_curve_png, reward_curves_png
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline.dataset.quality import QualityFinding
from sovereign_pipeline.dataset.tokens import as_table
from sovereign_pipeline.evaluation.records import REPORT_FILE, REPORT_MARKDOWN, SCORES_FILE, RedTeamReport
from sovereign_pipeline.evaluation.report.figures import SHARES
from sovereign_pipeline.evaluation.report.report import judge_cells
from sovereign_pipeline.privacy.vault import FINDINGS
from sovereign_pipeline.record.manifest import READABLE
from sovereign_pipeline.record.stage import Verdict
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.record import RECORD_FILE
from sovereign_pipeline.review.stages import TABLES_FILE
from sovereign_pipeline.split import PROOF
from sovereign_pipeline.training.report import TRAINING_LOG_FILE
from sovereign_pipeline.training.reward_model import read_reward_report

Page = dict[str, Any]


def link(kind: str) -> dg.MetadataValue:
    return dg.MetadataValue.asset(dg.AssetKey(kind))


def picture(png: bytes) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def facts(facts: Mapping[str, Any]) -> dg.MetadataValue:
    """Return a table of two columns, name and value. Nested values are written as JSON."""
    return table(
        [
            {"fact": name, "value": json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}
            for name, value in facts.items()
        ]
    )


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """Return a table. Dagster's tables support only numbers and text, so other values become text."""
    records = [
        dg.TableRecord({name: value if isinstance(value, int | float) else str(value) for name, value in row.items()})
        for row in rows
    ]
    kinds = {
        name: "int" if isinstance(value, int) else "float" if isinstance(value, float) else "string"
        for name, value in (rows[0] if rows else {}).items()
    }
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in kinds.items()])
    return dg.MetadataValue.table(records, schema=schema)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def links_to_files(settings: Settings, artifact: Artifact) -> Page:
    """Return a link for each file that a browser may display. The links work while `sovereign up` runs."""
    listed = {entry.path for entry in artifact.manifest.files}
    return {
        label: dg.MetadataValue.url(url_of(settings, artifact.ref.digest, file))
        for file, label in READABLE.get(artifact.ref.kind, {}).items()
        if file in listed
    }


def url_of(settings: Settings, digest: str, file: str) -> str:
    return f"{settings.pages_url}/{digest}/{file}"


QUARANTINED_SHOWN = 50
DOUBTFUL_SHOWN = 20


def schema_of(kind: str) -> dict[str, dg.TableSchema]:
    """Return the column schema for the page of an asset's definition, or an empty mapping for a kind of artifact
    without rows."""
    columns = PRESENTATION[kind].columns.items() if kind in PRESENTATION else ()
    described = [dg.TableColumn(name, "string", description=text) for name, text in columns]
    return {"dagster/column_schema": dg.TableSchema(columns=described)} if described else {}


def raw_corpus(artifact: Artifact) -> Page:
    sources = read_json(artifact.file(SOURCES))
    shown = ("name", "role", "rows", "documents", "quarantined", "excluded", "not_selected", "licence", "retention")
    quarantined = [dict(row, id=row["id"] or "") for row in read_jsonl(artifact.file(QUARANTINE))]
    page: Page = {"sources": table([{name: source.get(name, 0) for name in shown} for source in sources])}
    excluded = [{"source": source["name"], **row} for source in sources for row in source.get("exclusions", [])]
    if excluded:
        page["excluded by the recipe"] = table(excluded)
    if quarantined:
        page[f"quarantine (first {QUARANTINED_SHOWN})"] = table(quarantined[:QUARANTINED_SHOWN])
    return page


def classified_corpus(artifact: Artifact) -> Page:
    summary = artifact.manifest.summary
    return {
        "ceiling": summary["ceiling"],
        "levels": table([{"level": level, "documents": count} for level, count in summary["levels"].items()]),
    }


def scrubbed_corpus(artifact: Artifact) -> Page:
    replaced = artifact.manifest.summary["replaced"]
    page: Page = {
        "replaced": table([{"personal data": kind, "occurrences": count} for kind, count in sorted(replaced.items())])
    }
    doubtful = read_json(artifact.file(FINDINGS))["doubtful"]
    if doubtful:
        page[f"doubtful (first {DOUBTFUL_SHOWN} rows)"] = table(
            [
                {
                    "personal data": kind,
                    "occurrences": found["values"],
                    "rows": ", ".join(found["rows"][:DOUBTFUL_SHOWN]),
                }
                for kind, found in sorted(doubtful.items())
            ]
        )
    return page


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each leaf value, such as (`crossing: case`, `0`)."""
    for name, value in facts.items():
        label = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, str(value)


def dataset(artifact: Artifact) -> Page:
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    return {
        "quality": table([_finding(finding) for finding in card.findings]),
        "tokens": table([dict(side) for side in as_table(card.tokens)]),
    }


def _finding(finding: QualityFinding) -> dict[str, Any]:
    return {
        "finding": finding.name,
        "look": "yes" if finding.warns else "",
        "rows": finding.count,
        "share": finding.share,
        "first row ids": ", ".join(finding.rows),
        "what it counts": finding.what,
        "what to do": finding.todo,
    }


def contamination(verdicts: Mapping[str, Verdict]) -> Page:
    """Return a table of the contamination counts by suite, or nothing if the contamination gate has no verdict. The
    row ids are in `listed.jsonl` of the gate's record."""
    verdict = verdicts.get(NOT_CONTAMINATED)
    if verdict is None:
        return {}
    return {"contamination": table([{"suite": name, **counts} for name, counts in verdict.evidence["suites"].items()])}


def _summary(*names: str) -> Callable[[Artifact], Page]:
    return lambda each: {name: each.manifest.summary[name] for name in names if name in each.manifest.summary}


def _text(label: str, file: str) -> Callable[[Artifact], Page]:
    return lambda artifact: {label: dg.MetadataValue.md(artifact.file(file).read_text(encoding="utf-8"))}


def adapter(artifact: Artifact) -> Page:
    log = artifact.file(TRAINING_LOG_FILE)
    page = {**_summary("precision")(artifact), "loss curve": picture(loss_curve_png(log))}
    if is_by_reward(log):
        page["reward and divergence"] = picture(reward_curves_png(log))
        page["training by reward"] = facts(_by_reward(artifact.manifest.summary["rlhf"]))
    return page


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


def _by_reward(summary: Mapping[str, Any]) -> dict[str, Any]:
    comparison = summary["comparison"]
    return {
        "algorithm": summary["algorithm"],
        "held-out reward of parent and adapter": f"{comparison['parent']:.3f}, {comparison['adapter']:.3f}",
        "difference, 95 % interval": (
            f"{comparison['difference']:+.3f} ({comparison['low']:+.3f} to {comparison['high']:+.3f}), "
            f"{comparison['prompts']} prompts of {comparison['cases']} cases"
        ),
        "kept": f"the adapter of iteration {summary['best_iteration']} of {summary['iterations']}",
        "ended early": summary["stopped"] or "no",
        "reward": ", ".join(f"{name} ×{part['weight']:g}" for name, part in summary["reward"].items()),
        "KL of the kept adapter from its parent, nats a reply": round(summary["divergence_of_best"], 2),
        "replies cut at max_new_tokens": f"{summary['cut_share']:.0%}, {summary['cut_replies']}",
    }


def private_scores(artifact: Artifact) -> Page:
    scores = read_json(artifact.file(SCORES_FILE))
    result = scores["result"]
    return {
        "held-out rows": _compared(
            {
                "loss, mean over documents": result["loss"],
                "loss, mean over tokens": result["loss_by_token"],
                "choice": result["choice"],
            }
        ),
        "selection": facts(scores["selection"]),
    }


def red_team_report(artifact: Artifact) -> Page:
    report = RedTeamReport.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
    result, memorisation = report.result, report.memorisation
    shares = {what: getattr(result, name) for what, name, _ in SHARES} | {
        "personal data in continuations": memorisation.personal_data,
        "answers ended by the model": result.stopped,
    }
    if memorisation.verbatim:
        shares["continued verbatim, trained documents"] = memorisation.verbatim.trained
        shares["continued verbatim, held-out documents"] = memorisation.verbatim.control
    judges = ("judge", "labelled answers", "language", "style", "n", "precision", "recall")
    seconds = artifact.manifest.circumstances.measured
    took, allowed = seconds["answer_seconds"] + seconds["memorisation_seconds"], seconds["seconds_allowed"]
    page: Page = {
        "shares of answers": _compared(shares),
        "judges": table([dict(zip(judges, judge_cells(quality), strict=True)) for quality in result.judges]),
        "time": f"{took:.0f} s of {allowed:.0f} s{': LONGER THAN ALLOWED' if took > allowed else ''}",
    }
    if exposure := memorisation.exposure:
        compared = {"planted": exposure.planted, "never planted": exposure.never_planted}
        page["exposure of canaries, bits"] = _compared(compared)
    return page


def _compared(differences: Mapping[str, Mapping[Any, Any]]) -> dg.MetadataValue:
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


DETAILS: Mapping[str, Callable[[Artifact], Page]] = {
    "raw_corpus": raw_corpus,
    "classified_corpus": classified_corpus,
    "scrubbed_corpus": scrubbed_corpus,
    "leakage_safe_split": lambda each: {
        "proof": table([{"fact": name, "value": value} for name, value in _flat(read_json(each.file(PROOF)))])
    },
    "training_dataset": dataset,
    "preference_dataset": dataset,
    "base_model": _summary("name", "licence", "architecture"),
    "sft_adapter": adapter,
    "reward_model": reward_model,
    "aligned_adapter": adapter,
    "capability_scores": lambda each: {"accuracy by suite": _compared(each.manifest.summary)},
    "private_scores": private_scores,
    "red_team_report": red_team_report,
    "evaluation_report": _text("report", REPORT_MARKDOWN),
    "registered_adapter": lambda each: {"whole record": dg.MetadataValue.json(read_json(each.file(RECORD_FILE)))},
    "blind_review": _text("result", TABLES_FILE),
}


def details_of(artifact: Artifact) -> Page:
    """Return the tables and texts of an artifact's page. The result is empty for a kind that has none."""
    return DETAILS[artifact.ref.kind](artifact) if artifact.ref.kind in DETAILS else {}
