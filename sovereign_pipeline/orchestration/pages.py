"""What an asset's page shows of its artifact: counts, digests, tables and plots, read from the artifact's own files.

What belongs here: presentation. What does not: judging, or anything that would show text of a document.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.production import Production
from sovereign_pipeline.artifacts.stage import Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.quality import Finding
from sovereign_pipeline.dataset.tokens import as_table

Page = dict[str, Any]

_DOCUMENT_COLUMNS = {
    "id": "row id in the source",
    "source": "name of the source in the recipe",
    "case": "case file; never on both sides of the split",
    "department": "",
    "author": "officer who wrote the reply",
    "date": "ISO day of the reply",
    "classification": "level on the institution's ladder",
    "language": "",
    "subject": "",
    "request": "the incoming letter",
    "response": "the reply that was sent, or the chosen one",
    "rejected": "the rejected reply of a preference pair, else null",
    "label": "whether people found the reply good, else null",
    "links": "ids of rows of the same matter",
}
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    **{
        kind: _DOCUMENT_COLUMNS for kind in ("raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split")
    },
    "training_dataset": {"id": "row id", "instruction": "", "input": "subject and letter", "output": "the reply"},
    "preference_dataset": {
        "id": "row id",
        "prompt": "whole user message",
        "chosen": "of a pair",
        "rejected": "of a pair",
        "completion": "in place of a pair: a reply that people judged",
        "label": "whether they found it good",
    },
}


def schema_of(kind: str) -> dict[str, dg.TableSchema]:
    """The column schema shown on the asset's definition, for assets that hold rows."""
    columns = _COLUMNS.get(kind)
    if columns is None:
        return {}
    described = [dg.TableColumn(name, "string", description=text or None) for name, text in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(columns=described)}


def page_of(workplace: Workplace, production: Production, verdicts: Mapping[str, Verdict]) -> Page:
    """Metadata of one materialization: what is true of every artifact, then what its kind has to show."""
    artifact = workplace.store.open(production.ref)
    manifest = artifact.manifest
    page: Page = {
        "classification": manifest.classification,
        "line owner": workplace.line.owner,
        "sha256": artifact.ref.digest,
        "dagster/uri": artifact.path.as_uri(),
        "made at": manifest.circumstances.created_at,
        "found, not made again": production.reused,
        **_PAGES.get(artifact.ref.kind, _summary)(artifact),
        **_contamination(verdicts),
        "files": _table(
            [{"file": entry.path, "bytes": entry.size, "sha256": entry.sha256} for entry in manifest.files]
        ),
        "producer": dg.MetadataValue.json(
            {
                "code_version": manifest.producer.code_version,
                "source_sha256": manifest.circumstances.source_sha256,
                "config": manifest.producer.config,
                "libraries": manifest.producer.libraries,
            }
        ),
        **{f"made from {kind}": _link(kind, digest) for kind, digest in manifest.inputs.items()},
    }
    if manifest.external_inputs:
        page["outside files"] = _table(
            [{"file": name, "sha256": sha256} for name, sha256 in manifest.external_inputs.items()]
        )
    if artifact.manifest.circumstances.measured:
        page["measured"] = _table(
            [{"what": name, "value": value} for name, value in manifest.circumstances.measured.items()]
        )
    if "rows" in manifest.summary:
        page["dagster/row_count"] = manifest.summary["rows"]
    return page


def _summary(artifact: Artifact) -> Page:
    return {"summary": dg.MetadataValue.json(artifact.manifest.summary)}


def _raw_corpus(artifact: Artifact) -> Page:
    sources = _read_json(artifact.file("sources.json"))
    shown = ("name", "role", "rows", "documents", "quarantined", "not_selected", "licence", "retention", "sha256")
    quarantined = [dict(row, id=row["id"] or "") for row in read_jsonl(artifact.file("quarantine.jsonl"))]
    page: Page = {
        "sources": _table([{name: source[name] for name in shown} for source in sources]),
        "quarantined": artifact.manifest.summary["quarantined"],
    }
    if quarantined:
        page["quarantine (first 50)"] = _table(quarantined[:50])
    return page


def _classified_corpus(artifact: Artifact) -> Page:
    summary = artifact.manifest.summary
    return {
        "levels": _table([{"level": level, "documents": count} for level, count in summary["levels"].items()]),
        "ceiling": summary["ceiling"],
        "raised by their case file": summary["raised_by_case"],
    }


def _proof(artifact: Artifact) -> Page:
    proof = _read_json(artifact.file("proof.json"))
    return {"proof": _table([{"fact": name, "value": value} for name, value in _flat(proof)])}


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every single value with the names that lead to it: `crossing: case`, `0`."""
    for name, value in facts.items():
        label = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, str(value)


def _card(artifact: Artifact) -> Page:
    card = DatasetCard.model_validate_json(artifact.file("card.json").read_bytes())
    return {
        "findings to look at": sum(finding.warns for finding in card.findings),
        "quality": _table([_finding(finding) for finding in card.findings]),
        "tokens": _table([dict(side) for side in as_table(card.tokens)]),
        "data card": dg.MetadataValue.md(card.to_markdown()),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding.name,
        "look": "yes" if finding.warns else "",
        "rows": finding.count,
        "share": finding.share,
        "first row ids": ", ".join(finding.rows),
        "what it counts": finding.what,
        "what to do": finding.todo,
    }


def _contamination(verdicts: Mapping[str, Verdict]) -> Page:
    """By suite; the row ids are in `listed.jsonl` of the gate's record."""
    verdict = verdicts.get(NOT_CONTAMINATED)
    if verdict is None:
        return {}
    return {"contamination": _table([{"suite": name, **counts} for name, counts in verdict.evidence["suites"].items()])}


def _adapter(artifact: Artifact) -> Page:
    from sovereign_pipeline.training.plots import loss_curve_png

    report = _read_json(artifact.file("report.json"))
    return {
        "loss curve": _picture(loss_curve_png(artifact.file("training_log.jsonl"))),
        "report": _facts(report),
    }


def _red_team(artifact: Artifact) -> Page:
    from sovereign_pipeline.evaluation.records import RedTeamReport
    from sovereign_pipeline.evaluation.report import judge_cells

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
        "judges": _table([dict(zip(judges, judge_cells(quality), strict=True)) for quality in result.judges]),
        "time": f"{took:.0f} s of {allowed:.0f} s{': LONGER THAN ALLOWED' if took > allowed else ''}",
    }
    return {**page, "exposure of canaries, bits": _compared(exposures)} if exposures else page


def _compared(differences: Mapping[str, Mapping[Any, Any]]) -> dg.MetadataValue:
    """One row for each difference and reference."""
    return _table(
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


def _report(artifact: Artifact) -> Page:
    return {
        "report": dg.MetadataValue.md(artifact.file("report.md").read_text(encoding="utf-8")),
        "report page": dg.MetadataValue.path(artifact.file("report.html")),
    }


def _registered(artifact: Artifact) -> Page:
    return {"record": dg.MetadataValue.json(_read_json(artifact.file("record.json")))}


def _review(artifact: Artifact) -> Page:
    return {"review": dg.MetadataValue.md(artifact.file("review.md").read_text(encoding="utf-8"))}


_PAGES: Mapping[str, Callable[[Artifact], Page]] = {
    "raw_corpus": _raw_corpus,
    "classified_corpus": _classified_corpus,
    "leakage_safe_split": _proof,
    "training_dataset": _card,
    "preference_dataset": _card,
    "sft_adapter": _adapter,
    "aligned_adapter": _adapter,
    "red_team_report": _red_team,
    "evaluation_report": _report,
    "registered_adapter": _registered,
    "blind_review": _review,
}


def _link(kind: str, digest: str) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"[{kind}](/assets/{kind}) `{short(digest)}`")


def _picture(png: bytes) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def _facts(facts: Mapping[str, Any]) -> dg.MetadataValue:
    """A flat two-column table; nested values as JSON."""
    return _table(
        [
            {"fact": name, "value": json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}
            for name, value in facts.items()
        ]
    )


def _table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """Cells become text where they are no number, since a table of the UI knows no other kinds."""
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


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
