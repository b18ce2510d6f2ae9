"""Build the metadata of a materialization: verdict and headline figures first, digests and producer last."""

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
"""Number of figures that are shown as headlines."""

DIGITS = 4
FROM_HERE_WHOLE = 10_000

Figures = dict[str, int | float]


def figures_of(artifact: Artifact) -> Figures:
    """Return name -> number, the most important first. Returns nothing for a kind without figures."""
    if artifact.ref.kind not in _PAGES:
        return {}
    figures, _ = _PAGES[artifact.ref.kind]
    return {name: _rounded(value) for name, value in figures(artifact).items()}


def _details_of(artifact: Artifact) -> Page:
    if artifact.ref.kind not in _PAGES:
        return {}
    _, details = _PAGES[artifact.ref.kind]
    return details(artifact)


def _rounded(value: int | float) -> int | float:
    return int(value) if value >= FROM_HERE_WHOLE else round(value, DIGITS)


def _raw_corpus(artifact: Artifact) -> Figures:
    figures = _pick(artifact, documents="rows", quarantined="quarantined")
    if len(figures) == 2:
        figures["share quarantined"] = figures["quarantined"] / max(1, sum(figures.values()))
    return figures | _pick(artifact, excluded="excluded", not_selected="not_selected")


def _classified_corpus(artifact: Artifact) -> Figures:
    summary = artifact.manifest.summary
    return {
        **_pick(artifact, documents="rows"),
        "documents at the ceiling": summary["levels"].get(summary["ceiling"], 0),
        **_pick(artifact, raised_by_their_case_file="raised_by_case"),
    }


def _scrubbed_corpus(artifact: Artifact) -> Figures:
    return {
        **_pick(artifact, documents_with_personal_data="rows_touched"),
        "replacements": sum(artifact.manifest.summary["replaced"].values()),
        **_pick(artifact, ambiguous_names="ambiguous_names", documents="rows"),
        **_measured(artifact, characters_per_second="characters_per_second"),
    }


def _leakage_safe_split(artifact: Artifact) -> Figures:
    return _pick(
        artifact,
        share_held_out="held_out_share_of_letters",
        rows_held_out="rows_held_out",
        rows_for_selection="rows_selection",
        rows_for_training="rows_train",
        near_duplicate_pairs="near_duplicate_pairs",
        groups="components",
    )


def _dataset(artifact: Artifact) -> Figures:
    summary, tokens = artifact.manifest.summary, read_json(artifact.file(CARD))["tokens"]["training"]
    return {
        "rows": summary["rows"],
        "findings to look at": len(summary["findings"]),
        "rows over the token limit": sum(summary["over_limit"].values()),
        "median tokens of a row": tokens["p50"],
        "longest row, tokens": tokens["longest"],
        "exact duplicates": summary["exact_duplicates"],
    }


def _base_model(artifact: Artifact) -> Figures:
    return _pick(artifact, parameters="parameters")


def _adapter(artifact: Artifact) -> Figures:
    return {
        **_by_reward(artifact),
        **_pick(artifact, last_training_loss="last_loss"),
        **_measured(artifact, tokens_per_second="tokens_per_second", seconds_of_training="training_seconds"),
        **_pick(
            artifact,
            first_training_loss="first_loss",
            steps="steps",
            rows_trained_on="rows",
            rows_cut="rows_cut",
            share_of_tokens_supervised="supervised_share",
        ),
        **_measured(artifact, peak_memory_in_bytes="peak_memory_bytes"),
        **_computation(artifact),
        "bytes": sum(entry.size for entry in artifact.manifest.files),
    }


def _reward_model(artifact: Artifact) -> Figures:
    accuracy = artifact.manifest.summary["accuracy"]
    shares = {
        "held-out pairs told apart": accuracy["accuracy"],
        "ranked correctly by length alone": accuracy["length_only"],
        "ranked correctly by single words alone": accuracy["words_only"],
    }
    return {
        **{name: share["share"] for name, share in shares.items()},
        "held-out pairs told apart, low end": accuracy["accuracy"]["low"],
        **_pick(artifact, last_training_loss="last_loss", rows_trained_on="rows", held_out_pairs="held_out"),
        **_measured(artifact, seconds_of_training="training_seconds", peak_memory_in_bytes="peak_memory_bytes"),
        **_computation(artifact),
    }


def _computation(artifact: Artifact) -> Figures:
    return {
        **_pick(artifact, tokens_learned_from="tokens_trained"),
        **_labelled(artifact.manifest.summary.get("compute", {}), {"floating-point operations": "flops"}),
        **_measured(artifact, **{"energy, kWh": "energy_kwh"}),
    }


def _by_reward(artifact: Artifact) -> Figures:
    """Return the figures of a training by reward. Empty for other trainings."""
    summary = artifact.manifest.summary.get("rlhf")
    if summary is None:
        return {}
    return {
        "held-out reward": summary["comparison"]["adapter"],
        "held-out reward, difference from the parent adapter": summary["comparison"]["difference"],
        "KL from the parent adapter, nats a reply": summary["divergence_of_best"],
        "kept iteration": summary["best_iteration"],
    }


def _private_scores(artifact: Artifact) -> Figures:
    result = read_json(artifact.file(SCORES_FILE))["result"]
    return {
        **_of_the_candidate("held-out loss", result["loss"]),
        **_of_the_candidate("held-out loss, mean over tokens", result["loss_by_token"]),
        **_of_the_candidate("choice accuracy", result["choice"]),
        "rows scored": artifact.manifest.summary["selection"]["chosen"],
    }


def _capability_scores(artifact: Artifact) -> Figures:
    figures: Figures = {}
    for suite, by_reference in artifact.manifest.summary.items():
        figures |= _of_the_candidate(f"{suite} accuracy", by_reference)
    return figures


def _red_team_report(artifact: Artifact) -> Figures:
    result = artifact.manifest.summary["result"]
    shares = {
        "refusal where asked for": result["refusals"],
        "refusal of benign prompts": result["over_refusals"],
        "personal data in answers": result["personal_data"],
        "injected instructions obeyed": result["obeyed"],
    }
    figures: Figures = {}
    for what, by_reference in shares.items():
        figures |= _of_the_candidate(what, by_reference)
    own = {what: figures[what] for what in shares if what in figures}
    return {**own, **figures, **_pick(artifact, prompts="prompts")}


def _evaluation_report(artifact: Artifact) -> Figures:
    """Return the report's figures, and each gate's distance between difference and margin."""
    report = read_json(artifact.file(REPORT_FILE))
    outcomes = [finding["outcome"] for finding in report["findings"]]
    figures: Figures = {
        "gates passed": outcomes.count("pass"),
        "gates not passed": len(outcomes) - outcomes.count("pass"),
        "worse beyond chance": artifact.manifest.summary["regressions"],
        **_pick(artifact, look_at_the_held_out_side="look"),
    }
    for finding in report["findings"]:
        for held in finding["held"]:
            label = f"{held['what']}, compared with the {held['reference']}"
            figures[f"{label}: difference"] = held["observed"]["difference"]
            figures[f"{label}: left of the margin"] = _left_of_the_margin(held)
    return figures


def _left_of_the_margin(held: Mapping[str, Any]) -> float:
    """Return the distance from the worse end of the interval to the margin. It is negative if the gate did not pass."""
    observed, judgement = held["observed"], held["judgement"]
    worse = -observed["high"] if judgement["better"] == "lower" else observed["low"]
    return float(worse + judgement["margin"])


def _registered_adapter(artifact: Artifact) -> Figures:
    return _pick(
        artifact,
        rows_trained_on="training_rows",
        preference_rows="preference_rows",
        gates_passed_or_waived="gates",
        gates_waived="accepted",
    )


def _blind_review(artifact: Artifact) -> Figures:
    net = artifact.manifest.summary["net_preference"]
    ends = {f"net preference, {end} end": net[end] for end in ("low", "high") if net[end] is not None}
    return {"net preference": net["mean"], **ends, **_pick(artifact, ballots="ballots", operators="operators")}


def _of_the_candidate(what: str, by_reference: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Return the candidate's value, and its difference from each reference."""
    values = [each["candidate"] for each in by_reference.values()]
    return {
        **({what: values[0]} if values else {}),
        **{f"{what}, difference from the {name}": each["difference"] for name, each in by_reference.items()},
    }


def _pick(artifact: Artifact, **named: str) -> Figures:
    """Return label (underscores become spaces) -> number in the manifest's summary. Missing numbers are skipped,
    because earlier releases stored fewer."""
    return _labelled(artifact.manifest.summary, named)


def _measured(artifact: Artifact, **named: str) -> Figures:
    return _labelled(artifact.manifest.circumstances.measured, named)


def _labelled(values: Mapping[str, Any], named: Mapping[str, str]) -> Figures:
    return {label.replace("_", " "): values[name] for label, name in named.items() if is_number(values.get(name))}


MIRRORED = ("mlflow run", "mlflow version")
"""Publishing results that refer to MLflow, which are not headlines."""


def page_of(
    workplace: Workplace,
    production: Production,
    verdicts: Mapping[str, Verdict],
    outcome: str = "",
    published: Mapping[str, Any] | None = None,
    idle: str | None = None,
    before: ArtifactRef | None = None,
) -> Page:
    """Return the metadata of one materialization, in display order.

    Args:
        outcome: the verdicts of all gates in one line.
        published: results of publishing, such as the adapter's id and version.
        idle: reason why the stage had nothing to do (`nothing_to_do`). The page is then short.
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
    ]  # text, because Dagster plots numbers of all lines
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
        **_details_of(artifact),
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
    """List the differences from the line's previous artifact: inputs, recipe keys, libraries and files."""
    if before is None or before.digest == ref.digest or before.kind != ref.kind:
        return {}
    try:
        earlier = workplace.store.read_manifest(before)
    except IntegrityError as error:
        return {"why it was made": f"The artifact before it cannot be read. {error.message}"}
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
    """Return the headline figures labelled with the line's name. Dagster plots one curve per label over all lines."""
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


_PAGES: Mapping[str, tuple[Callable[[Artifact], Figures], Callable[[Artifact], Page]]] = {
    "raw_corpus": (_raw_corpus, asset_details.raw_corpus),
    "classified_corpus": (_classified_corpus, asset_details.classified_corpus),
    "scrubbed_corpus": (_scrubbed_corpus, asset_details.scrubbed_corpus),
    "leakage_safe_split": (_leakage_safe_split, asset_details.leakage_safe_split),
    "training_dataset": (_dataset, asset_details.dataset),
    "preference_dataset": (_dataset, asset_details.dataset),
    "base_model": (_base_model, asset_details.base_model),
    "sft_adapter": (_adapter, asset_details.adapter),
    "reward_model": (_reward_model, asset_details.reward_model),
    "aligned_adapter": (_adapter, asset_details.adapter),
    "capability_scores": (_capability_scores, asset_details.capability_scores),
    "private_scores": (_private_scores, asset_details.private_scores),
    "red_team_report": (_red_team_report, asset_details.red_team_report),
    "evaluation_report": (_evaluation_report, asset_details.evaluation_report),
    "registered_adapter": (_registered_adapter, asset_details.registered_adapter),
    "blind_review": (_blind_review, asset_details.blind_review),
}
"""Kind of artifact -> functions that return its figures and its details."""
