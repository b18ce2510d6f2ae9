"""Build the metadata of a materialization in display order: verdicts and headline numbers first, the manifest last."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.dagster import asset_details
from sovereign_pipeline.dagster.asset_details import Page, is_number, link, links_to_files, read_json, table
from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline.evaluation.records import REPORT_FILE, SCORES_FILE
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.stage import Production, Stage, Verdict, Workplace, stated_identity
from sovereign_pipeline.record.staleness import compare
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS

HEADLINES = 3
"""Number of an asset's figures that are headlines. Headlines are shown first, and plotted over time."""

DIGITS = 4
FROM_HERE_WHOLE = 10_000

Figures = dict[str, int | float]
Source = str | Callable[[Artifact], Any]


def figures_of(artifact: Artifact) -> Figures:
    """Return a mapping of name to number, the most important first. The mapping is empty for a kind of artifact without
    numbers. Numbers that the line does not have are left out."""
    kind = artifact.ref.kind
    found = {name: _number(artifact, source) for name, source in FIGURES.get(kind, {}).items()}
    figures = COMPARED[kind](artifact) | found if kind in COMPARED else found
    return {
        name: int(value) if value >= FROM_HERE_WHOLE else round(value, DIGITS)
        for name, value in figures.items()
        if is_number(value)
    }


def _number(artifact: Artifact, source: Source) -> Any:
    """Return the result of the function `source`, or the number at the path `source`, such as `summary.rows` or
    `measured.energy_kwh`. Returns None if the path is missing."""
    if not isinstance(source, str):
        return source(artifact)
    place, *keys = source.split(".")
    manifest = artifact.manifest
    value: Any = manifest.circumstances.measured if place == "measured" else manifest.summary
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _share_quarantined(artifact: Artifact) -> float | None:
    rows, quarantined = (artifact.manifest.summary.get(name) for name in ("rows", "quarantined"))
    return None if rows is None or quarantined is None else quarantined / max(1, rows + quarantined)


def _at_the_ceiling(artifact: Artifact) -> int:
    summary = artifact.manifest.summary
    return int(summary["levels"].get(summary["ceiling"], 0))


def _tokens(name: str) -> Source:
    return lambda artifact: read_json(artifact.file(CARD))["tokens"]["training"][name]


_DATASET: Mapping[str, Source] = {
    "rows": "summary.rows",
    "findings to look at": lambda artifact: len(artifact.manifest.summary["findings"]),
    "rows over the token limit": lambda artifact: sum(artifact.manifest.summary["over_limit"].values()),
    "median tokens of a row": _tokens("p50"),
    "longest row, tokens": _tokens("longest"),
    "exact duplicates": "summary.exact_duplicates",
}
_COMPUTATION: Mapping[str, Source] = {
    "tokens learned from": "summary.tokens_trained",
    "floating-point operations": "summary.compute.flops",
    "energy, kWh": "measured.energy_kwh",
}
_ADAPTER: Mapping[str, Source] = {
    "held-out reward": "summary.rlhf.comparison.adapter",
    "held-out reward, difference from the parent adapter": "summary.rlhf.comparison.difference",
    "KL from the parent adapter, nats a reply": "summary.rlhf.divergence_of_best",
    "kept iteration": "summary.rlhf.best_iteration",
    "last training loss": "summary.last_loss",
    "tokens per second": "measured.tokens_per_second",
    "seconds of training": "measured.training_seconds",
    "first training loss": "summary.first_loss",
    "steps": "summary.steps",
    "rows trained on": "summary.rows",
    "rows cut": "summary.rows_cut",
    "share of tokens supervised": "summary.supervised_share",
    "peak memory in bytes": "measured.peak_memory_bytes",
    **_COMPUTATION,
    "bytes": lambda artifact: sum(entry.size for entry in artifact.manifest.files),
}
FIGURES: Mapping[str, Mapping[str, Source]] = {
    "raw_corpus": {
        "documents": "summary.rows",
        "quarantined": "summary.quarantined",
        "share quarantined": _share_quarantined,
        "excluded": "summary.excluded",
        "not selected": "summary.not_selected",
    },
    "classified_corpus": {
        "documents": "summary.rows",
        "documents at the ceiling": _at_the_ceiling,
        "raised by their case file": "summary.raised_by_case",
    },
    "scrubbed_corpus": {
        "documents with personal data": "summary.rows_touched",
        "replacements": lambda artifact: sum(artifact.manifest.summary["replaced"].values()),
        "ambiguous names": "summary.ambiguous_names",
        "documents": "summary.rows",
        "characters per second": "measured.characters_per_second",
    },
    "leakage_safe_split": {
        "share held out": "summary.held_out_share_of_letters",
        "rows held out": "summary.rows_held_out",
        "rows for selection": "summary.rows_selection",
        "rows for training": "summary.rows_train",
        "near duplicate pairs": "summary.near_duplicate_pairs",
        "groups": "summary.components",
    },
    "training_dataset": _DATASET,
    "preference_dataset": _DATASET,
    "base_model": {"parameters": "summary.parameters"},
    "sft_adapter": _ADAPTER,
    "reward_model": {
        "held-out pairs told apart": "summary.accuracy.accuracy.share",
        "ranked correctly by length alone": "summary.accuracy.length_only.share",
        "ranked correctly by single words alone": "summary.accuracy.words_only.share",
        "held-out pairs told apart, low end": "summary.accuracy.accuracy.low",
        "last training loss": "summary.last_loss",
        "rows trained on": "summary.rows",
        "held out pairs": "summary.held_out",
        "seconds of training": "measured.training_seconds",
        "peak memory in bytes": "measured.peak_memory_bytes",
        **_COMPUTATION,
    },
    "aligned_adapter": _ADAPTER,
    "private_scores": {"rows scored": "summary.selection.chosen"},
    "red_team_report": {"prompts": "summary.prompts"},
    "registered_adapter": {
        "rows trained on": "summary.training_rows",
        "preference rows": "summary.preference_rows",
        "gates passed or waived": "summary.gates",
        "gates waived": "summary.accepted",
    },
    "blind_review": {
        "net preference": "summary.net_preference.mean",
        "net preference, low end": "summary.net_preference.low",
        "net preference, high end": "summary.net_preference.high",
        "ballots": "summary.ballots",
        "operators": "summary.operators",
    },
}
"""Maps a kind of artifact to the numbers on its page. Each number's name is mapped to a path in the manifest, or to a
function that returns the number."""


def _private_scores(artifact: Artifact) -> Figures:
    result = read_json(artifact.file(SCORES_FILE))["result"]
    names = {"loss": "held-out loss", "loss_by_token": "held-out loss, mean over tokens", "choice": "choice accuracy"}
    return _of_the_candidate({what: result[name] for name, what in names.items()})


def _capability_scores(artifact: Artifact) -> Figures:
    return _of_the_candidate({f"{suite} accuracy": each for suite, each in artifact.manifest.summary.items()})


def _red_team_report(artifact: Artifact) -> Figures:
    result = artifact.manifest.summary["result"]
    shares = {
        "refusal where asked for": result["refusals"],
        "refusal of benign prompts": result["over_refusals"],
        "personal data in answers": result["personal_data"],
        "injected instructions obeyed": result["obeyed"],
    }
    figures = _of_the_candidate(shares)
    return {what: figures[what] for what in shares if what in figures} | figures


def _evaluation_report(artifact: Artifact) -> Figures:
    """Return the numbers of the evaluation report, and for each comparison the difference and the distance from the
    worse end of its interval to the margin."""
    report, summary = read_json(artifact.file(REPORT_FILE)), artifact.manifest.summary
    passed = [finding["outcome"] == "pass" for finding in report["findings"]]
    figures: dict[str, Any] = {
        "gates passed": sum(passed),
        "gates not passed": len(passed) - sum(passed),
        "worse beyond chance": summary["regressions"],
        "look at the held out side": summary.get("look"),
    }
    for held in (each for finding in report["findings"] for each in finding["held"]):
        observed, judgement = held["observed"], held["judgement"]
        worse_end = -observed["high"] if judgement["better"] == "lower" else observed["low"]
        label = f"{held['what']}, compared with the {held['reference']}"
        figures[f"{label}: difference"] = observed["difference"]
        figures[f"{label}: left of the margin"] = float(worse_end + judgement["margin"])  # below 0: not passed
    return figures


COMPARED: Mapping[str, Callable[[Artifact], Figures]] = {
    "private_scores": _private_scores,
    "capability_scores": _capability_scores,
    "red_team_report": _red_team_report,
    "evaluation_report": _evaluation_report,
}
"""Maps a kind of artifact to the function that returns its numbers. The names of these numbers depend on the models
that the candidate was compared with.
"""


def _of_the_candidate(compared: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figures:
    """Return each metric of the candidate, and its difference from each reference."""
    figures: Figures = {}
    for what, by_reference in compared.items():
        for name, each in by_reference.items():
            figures.setdefault(what, each["candidate"])
            figures[f"{what}, difference from the {name}"] = each["difference"]
    return figures


MIRRORED = ("mlflow run", "mlflow version")
"""Results of publishing that refer to MLflow. They are not headlines."""


def page_of(
    workplace: Workplace,
    production: Production,
    verdicts: Mapping[str, Verdict],
    outcome: str = "",
    published: Mapping[str, Any] | None = None,
    idle: str | None = None,
    before: ArtifactRef | None = None,
) -> Page:
    """Return the metadata of one materialization, in the order in which the page shows it.

    Args:
        outcome: one-line summary of the verdicts of all gates.
        published: results of publishing, such as the adapter's id and version.
        idle: reason why the stage had nothing to do (`nothing_to_do`). With a reason, the page is short.
        before: the line's previous artifact of this kind.
    """
    artifact = workplace.store.open(production.ref)
    manifest = artifact.manifest
    if idle is not None:
        return {
            "verdict": idle,
            "classification": manifest.classification,
            "reused": production.reused,
            "artifact": link(artifact.ref.kind),
            "sha256": artifact.ref.digest,
        }
    figures = figures_of(artifact)
    shown = [
        (name, f"{value:,}") for name, value in figures.items()
    ]  # as text, because Dagster would plot numbers over all lines
    return {
        "verdict": outcome,
        **{name: value for name, value in (published or {}).items() if name not in MIRRORED},
        **dict(shown[:HEADLINES]),
        **links_to_files(workplace.settings, artifact),
        **_why_made(workplace, artifact.ref, before),
        "signature": _signature(workplace, artifact),
        "classification": manifest.classification,
        "seconds to make": f"{manifest.circumstances.measured['seconds']:.1f}",
        "reused": production.reused,
        "created at": manifest.circumstances.created_at,
        "line owner": workplace.line.owner,
        **dict(shown[HEADLINES:]),
        **asset_details.details_of(artifact),
        **asset_details.contamination(verdicts),
        **{name: value for name, value in (published or {}).items() if name in MIRRORED},
        **_row_count(manifest),
        **_history(workplace.line.line, figures),
        **_inputs(manifest),
        "sha256": artifact.ref.digest,
        "dagster/uri": artifact.path.as_uri(),
        "manifest": _whole_manifest(artifact),
    }


def nothing_to_do(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> str | None:
    """Return the reason why the stage had nothing to do for this line, or None if it had work."""
    passthrough = stage.passthrough_input(workplace.line)
    if passthrough is not None:
        missing = "reward model" if stage.kind == "reward_model" else "preference training"
        return f"nothing to do: the line has no {missing}; {passthrough.kind} is passed through"
    if stage.kind == "preference_dataset" and workplace.store.read_manifest(ref).summary["rows"] == 0:
        return "nothing to do: the line has no preference training; the dataset is empty"
    return None


def _why_made(workplace: Workplace, ref: ArtifactRef, before: ArtifactRef | None) -> Page:
    """Return the page's table of the differences from the line's previous artifact: inputs, recipe keys, libraries and
    files. Return an empty mapping if there is no previous artifact, or if it is the same artifact."""
    if before is None or before.digest == ref.digest or before.kind != ref.kind:
        return {}
    try:
        earlier = workplace.store.read_manifest(before)
    except IntegrityError as error:
        return {"why it was made": f"The previous artifact cannot be read. {error.message}"}
    changes = compare(stated_identity(earlier), stated_identity(workplace.store.read_manifest(ref)))
    return {
        "why it was made": table(
            [
                {"changed": each.field, "name": each.name, "before": each.before or "", "now": each.now or ""}
                for each in changes
            ]
        )
    }


def _history(line: str, figures: Figures) -> Page:
    """Return the headline numbers with the line's name in each label. Dagster draws one curve for each label, so the
    numbers of all lines would otherwise form one curve."""
    return {f"{line}: {name}": value for name, value in list(figures.items())[:HEADLINES]}


def _row_count(manifest: Manifest) -> Page:
    has_rows = "rows" in manifest.summary and bool(asset_details.schema_of(manifest.kind))
    return {"dagster/row_count": manifest.summary["rows"]} if has_rows else {}


def _signature(workplace: Workplace, artifact: Artifact) -> str:
    is_demonstration = trust_root(workplace.settings).is_demonstration
    return f"by the pipeline, with {DEMONSTRATION_KEYS}" if is_demonstration else "by the pipeline"


def _inputs(manifest: Manifest) -> Page:
    page: Page = {f"input {kind}": link(kind) for kind in manifest.inputs}
    if manifest.inputs:
        page["inputs"] = table([{"artifact": kind, "sha256": digest} for kind, digest in manifest.inputs.items()])
    if manifest.external_inputs:
        page["input files"] = table(
            [{"file": name, "sha256": sha256} for name, sha256 in manifest.external_inputs.items()]
        )
    return page


def _whole_manifest(artifact: Artifact) -> dg.MetadataValue:
    """Return the whole manifest, for auditors. Dagster folds JSON of this length."""
    ref = artifact.ref
    return dg.MetadataValue.json(
        {"sha256": ref.digest, "manifest_sha256": ref.manifest_sha256, **artifact.manifest.model_dump(mode="json")}
    )
