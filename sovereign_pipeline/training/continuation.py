"""Retraining: the registered adapter that SFT goes on from, whether it may, and what it had been trained on.

What belongs here: finding it by its id, verifying it, and holding its training rows against what is held out now. What
does not: training (`trainer.py`), and comparing two sides of a split (`split/stages.py`). The registry comes after
training in the order of the work, so it is imported inside the functions that look an adapter up.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.verified import read_descriptor
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.dataset.files import LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.errors import CeilingExceeded, GateRefused, IntegrityError, NotFoundError, RecipeError
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.files import HELD_OUT
from sovereign_pipeline.split.overlap import shared_with_held_out
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.gates import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.tuned_model import tuned_model

_EXTERNAL = "start_from:"
_IN_THE_RECIPE = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
_IDS_IN_A_MESSAGE = 10


@dataclass(frozen=True)
class Start:
    """A registered adapter that may be gone on from. digest: of its artifact. directory: its PEFT directory, every byte
    verified. classification: the highest of the adapter's and of its registration's."""

    adapter: str
    digest: str
    directory: Path
    classification: str

    @property
    def facts(self) -> dict[str, str]:
        """For the summary of what is trained from it."""
        return {"adapter": self.adapter, "digest": self.digest, "classification": self.classification}


def parent_digests(workplace: Workplace) -> dict[str, str]:
    """`start_from:<id>` -> digest of the adapter's artifact, as a stage's external input; empty where the line starts
    from its base model. Raises NotFoundError for an adapter that is not registered."""
    named = workplace.line.training.start_from
    return {} if named is None else {f"{_EXTERNAL}{named}": _registered(workplace, named)[0].ref.digest}


def started_from(manifest: Manifest) -> tuple[str, str] | None:
    """Id and digest of the adapter that a sft_adapter went on from, as its manifest has them."""
    for name, digest in manifest.external_inputs.items():
        if name.startswith(_EXTERNAL):
            return name.removeprefix(_EXTERNAL), digest
    return None


def resolve_parent(workplace: Workplace, inputs: Inputs, base: Path) -> Start | None:
    """The adapter that the line's recipe starts from, or None. base: the verified directory of the line's base model.

    Raises NotFoundError for one that is not registered, IntegrityError when its bytes changed, RecipeError when it is a
    whole model, or was trained on another base model or with other LoRA settings, CeilingExceeded when it is above the
    line's ceiling, and GateRefused when it was, or may have been, trained on rows that are held out now.
    """
    named = workplace.line.training.start_from
    if named is None:
        return None
    artifact, registered_as = _registered(workplace, named)
    tuned = tuned_model(artifact)
    if tuned.holds != "adapter":
        raise RecipeError(f"{_of(workplace, named)} is a whole model and no adapter. Use it as a base model instead.")
    ladder = workplace.institution.ladder
    level = ladder.highest((artifact.manifest.classification, registered_as))
    if ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"{_of(workplace, named)} is {level}, and the line may hold {workplace.line.ceiling} at most. Start from "
            f"another adapter or from the base model, or have the ceiling of the line raised."
        )
    _assert_same_base(workplace, named, artifact, inputs["base_model"])
    _assert_same_shape(workplace, named, tuned.directory, base)
    leaks = _leaks(workplace, artifact, inputs)
    if leaks:
        raise GateRefused(
            f"{_of(workplace, named)} was trained on what is held out now: {'; '.join(leaks)}. Its scores would mean "
            f"nothing. Leave start_from out, or start from an adapter that has not seen these rows."
        )
    return Start(named, artifact.ref.digest, tuned.directory, level)


def evaluate_parent(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Hold the rows of every adapter that this one went on from against the held-out side of the present split.

    Raises GateRefused, and leaves no answer, when a dataset of an earlier adapter cannot be opened.
    """
    sft = inputs.get("sft_adapter", artifact)  # of the preference stage: what SFT left
    start = started_from(sft.manifest)
    if start is None:
        return Verdict(
            True, "The line starts from the base model, and from no registered adapter.", {"started_from": None}
        )
    named, digest = start
    earlier, _ = _registered(workplace, named)
    evidence: dict[str, Any] = {"started_from": named, "digest": digest}
    if earlier.ref.digest != digest:
        return Verdict(
            False,
            f"It went on from {short(digest)}, and {named} is registered as {short(earlier.ref.digest)}.",
            evidence,
        )
    leaks = _leaks(workplace, earlier, inputs)
    if leaks:
        return Verdict(False, f"{named} was trained on what is held out now: {'; '.join(leaks)}.", evidence)
    datasets = [dataset.ref.digest for dataset in _trained_on(workplace, earlier)]
    return Verdict(
        True,
        f"Nothing that {named} was trained on ({len(datasets)} datasets) is held out now, nor near it.",
        {**evidence, "datasets": datasets},
    )


def parent_config(line: Line) -> dict[str, Any]:
    """What decides the answer of `evaluate_parent` besides the artifacts."""
    return line.split.model_dump(mode="json")


def _registered(workplace: Workplace, named: str) -> tuple[Artifact, str]:
    """The artifact of a registered adapter, every byte verified, and its classification in the registry."""
    from sovereign_pipeline.ledger.catalog import find_adapter
    from sovereign_pipeline.ledger.database import open_registry

    row = find_adapter(open_registry(workplace.settings), named)
    ref = workplace.store.ref_of(row.adapter_digest).model_copy(update={"manifest_sha256": row.manifest_sha256})
    return workplace.store.open(ref), row.classification


def _assert_same_base(workplace: Workplace, named: str, artifact: Artifact, base_model: Artifact) -> None:
    theirs = read_descriptor(workplace.store.open_input(artifact.manifest, "base_model"))
    ours = read_descriptor(base_model)
    if theirs["digest"] != ours["digest"]:
        raise RecipeError(
            f"{_of(workplace, named)} was trained on the base model {theirs['name']} ({short(theirs['digest'])}), and "
            f"the line's is {ours['name']} ({short(ours['digest'])}). Set training.base_model to that model as it was, "
            f"or leave start_from out."
        )


def _assert_same_shape(workplace: Workplace, named: str, directory: Path, base: Path) -> None:
    from safetensors import safe_open

    sft = workplace.line.training.sft
    config = json.loads((directory / "adapter_config.json").read_bytes())
    to_set = [
        f"training.sft.{_IN_THE_RECIPE[name]}: {json.dumps(config.get(name))} (it is {json.dumps(value)})"
        for name, value in lora_settings(sft).items()
        if config.get(name) != value
    ]
    if not to_set:
        with safe_open(directory / "adapter_model.safetensors", "pt") as weights:
            found = set(weights.keys())
        if found != expected_lora_tensors(base, sft).keys():
            modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in found if ".lora_A." in name})
            to_set = [f"training.sft.target_modules: [{', '.join(modules)}] (it is {json.dumps(sft.target_modules)})"]
    if to_set:
        raise RecipeError(
            f"{_of(workplace, named)} has another shape than the recipe asks for. Set {', '.join(to_set)}; or leave "
            f"start_from out."
        )


def _leaks(workplace: Workplace, earlier: Artifact, inputs: Inputs) -> list[str]:
    """What an earlier adapter was trained on and the present split holds out, by ids; empty for nothing. Raises
    GateRefused when that cannot be told."""
    dataset = inputs[PREFERENCE_DATASET.kind if PREFERENCE_DATASET.kind in inputs else TRAINING_DATASET.kind]
    split = _split_of(workplace, dataset)
    held_out = {document.id for document in read_documents(split.file(HELD_OUT))}
    found: list[str] = []
    try:
        trained_on = list(_trained_on(workplace, earlier))
        for each in trained_on:
            leaked = sorted(_row_ids(each) & held_out)
            if leaked:
                found.append(f"{len(leaked)} rows of {each.ref.kind} {short(each.ref.digest)} ({_some(leaked)})")
        splits = {each.ref.digest: each for each in (_split_of(workplace, dataset) for dataset in trained_on)}
        for each in splits.values():
            found += shared_with_held_out(workplace, split, each)
    except (IntegrityError, NotFoundError) as error:
        raise GateRefused(
            f"Line {workplace.line.line}: what {earlier.ref.kind} {short(earlier.ref.digest)}, which training starts "
            f"from, was trained on cannot be opened, so held-out rows may be among it. {error}"
        ) from error
    return found


def _row_ids(dataset: Artifact) -> set[str]:
    names = {entry.path for entry in dataset.manifest.files} & {TRAINING_ROWS, PREFERENCE_ROWS, LABEL_ROWS}
    if not names:
        raise IntegrityError(f"{dataset.path}: this dataset holds no file of rows. Restore it from a copy.")
    return {str(row["id"]) for name in names for row in read_jsonl(dataset.file(name))}


def _split_of(workplace: Workplace, dataset: Artifact) -> Artifact:
    if LEAKAGE_SAFE_SPLIT.kind not in dataset.manifest.inputs:
        raise IntegrityError(f"{dataset.path}: this dataset was made from no split. Restore it from a copy.")
    return workplace.store.open_input(dataset.manifest, LEAKAGE_SAFE_SPLIT.kind)


def _trained_on(workplace: Workplace, earlier: Artifact) -> Iterator[Artifact]:
    """Every dataset that went into an adapter, and into those that it went on from itself.

    Raises IntegrityError or NotFoundError when one, or what leads to it, cannot be opened, or when there is none.
    """
    from sovereign_pipeline.artifacts.lineage import lineage

    ancestors = list(lineage(workplace.store, earlier.manifest))
    datasets = [ref for ref, _ in ancestors if ref.kind in (TRAINING_DATASET.kind, PREFERENCE_DATASET.kind)]
    if not datasets:
        raise IntegrityError(f"{earlier.path}: this adapter was made from no dataset. Restore its artifact.")
    yield from map(workplace.store.open, datasets)
    for manifest in (earlier.manifest, *(manifest for _, manifest in ancestors)):
        start = started_from(manifest)
        if start is not None:
            artifact, _ = _registered(workplace, start[0])
            if artifact.ref.digest != start[1]:
                raise IntegrityError(
                    f"{artifact.path}: registered as {start[0]}, which {short(start[1])} was when it was gone on from. "
                    f"Restore the registry from a copy."
                )
            yield from _trained_on(workplace, artifact)


def _of(workplace: Workplace, named: str) -> str:
    return f"Line {workplace.line.line}: training.start_from: {named}"


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - _IDS_IN_A_MESSAGE} more" if len(ids) > _IDS_IN_A_MESSAGE else ""
    return ", ".join(ids[:_IDS_IN_A_MESSAGE]) + more
