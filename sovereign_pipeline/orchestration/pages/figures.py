"""The headline figures of each kind of artifact, as numbers, the ones that matter most first.

What belongs here: numbers that Dagster plots over a line's materializations, each read from the artifact's manifest or
report. What does not: tables and texts (`corpus.py`, `models.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline.evaluation.records import REPORT_FILE, SCORES_FILE
from sovereign_pipeline.orchestration.pages.cells import is_number, read_json
from sovereign_pipeline.record.store import Artifact

HEADLINES = 3
"""So many of a kind's figures are read at a glance."""

DIGITS = 4
FROM_HERE_WHOLE = 10_000

Figures = dict[str, int | float]


def figures_of(artifact: Artifact) -> Figures:
    """Name -> number, the most important first; no figures for a kind without any."""
    read = _FIGURES.get(artifact.ref.kind)
    found = read(artifact) if read is not None else {}
    return {name: _rounded(value) for name, value in found.items()}


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
        "bytes": sum(entry.size for entry in artifact.manifest.files),
    }


def _reward_model(artifact: Artifact) -> Figures:
    accuracy = artifact.manifest.summary["accuracy"]
    shares = {
        "held-out pairs told apart": accuracy["accuracy"],
        "told apart by length alone": accuracy["length_only"],
        "told apart by single words alone": accuracy["words_only"],
    }
    return {
        **{name: share["share"] for name, share in shares.items()},
        "held-out pairs told apart, low end": accuracy["accuracy"]["low"],
        **_pick(artifact, last_training_loss="last_loss", rows_trained_on="rows", held_out_pairs="held_out"),
        **_measured(artifact, seconds_of_training="training_seconds", peak_memory_in_bytes="peak_memory_bytes"),
    }


def _by_reward(artifact: Artifact) -> Figures:
    """Of a training by reward; empty for others."""
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
    """The gates' margins too: how far each difference is from the end that would not pass."""
    report = read_json(artifact.file(REPORT_FILE))
    outcomes = [finding["outcome"] for finding in report["findings"]]
    figures: Figures = {
        "gates passed": outcomes.count("pass"),
        "gates not passed": len(outcomes) - outcomes.count("pass"),
        "worse beyond chance": artifact.manifest.summary["regressions"],
    }
    for finding in report["findings"]:
        for held in finding["held"]:
            label = f"{held['what']}, compared with the {held['reference']}"
            figures[f"{label}: difference"] = held["observed"]["difference"]
            figures[f"{label}: left of the margin"] = _left_of_the_margin(held)
    return figures


def _left_of_the_margin(held: Mapping[str, Any]) -> float:
    """From the worse end of the interval to the margin; negative where the gate did not pass."""
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
    """The candidate's own value, and its difference from each reference."""
    values = [each["candidate"] for each in by_reference.values()]
    return {
        **({what: values[0]} if values else {}),
        **{f"{what}, difference from the {name}": each["difference"] for name, each in by_reference.items()},
    }


def _pick(artifact: Artifact, **named: str) -> Figures:
    """Label (with underscores for spaces) -> number of that name in the summary, where there is one: summaries of
    earlier releases lack some."""
    return _labelled(artifact.manifest.summary, named)


def _measured(artifact: Artifact, **named: str) -> Figures:
    return _labelled(artifact.manifest.circumstances.measured, named)


def _labelled(values: Mapping[str, Any], named: Mapping[str, str]) -> Figures:
    return {label.replace("_", " "): values[name] for label, name in named.items() if is_number(values.get(name))}


_FIGURES: Mapping[str, Callable[[Artifact], Figures]] = {
    "raw_corpus": _raw_corpus,
    "classified_corpus": _classified_corpus,
    "scrubbed_corpus": _scrubbed_corpus,
    "leakage_safe_split": _leakage_safe_split,
    "training_dataset": _dataset,
    "preference_dataset": _dataset,
    "base_model": _base_model,
    "sft_adapter": _adapter,
    "reward_model": _reward_model,
    "aligned_adapter": _adapter,
    "capability_scores": _capability_scores,
    "private_scores": _private_scores,
    "red_team_report": _red_team_report,
    "evaluation_report": _evaluation_report,
    "registered_adapter": _registered_adapter,
    "blind_review": _blind_review,
}
