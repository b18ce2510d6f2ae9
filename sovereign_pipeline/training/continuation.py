"""Verify the model that SFT continues from: a registered adapter, or a locally tuned base model. It must not have been
trained on rows of the line's current held-out split, or on items of the line's evaluation."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import CeilingExceeded, GateRefused, IntegrityError, NotFoundError, RecipeError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.stages import BASE_MODEL, artifacts_of, read_descriptor
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.dataset.contamination import NO_CONTAMINATION, contamination_of
from sovereign_pipeline.dataset.jsonl import row_ids
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.catalog import ENDED, find_adapter, list_adapters, state_of
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact, ArtifactStore, input_refs
from sovereign_pipeline.split import HELD_OUT, SELECTION, has_selection
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, shared_with_held_out
from sovereign_pipeline.training.models import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, tuned_model

GATE_NAME = "start_saw_nothing_held_out"
_EXTERNAL = "start_from:"
"""Prefix of the external input that names the parent adapter."""
_DATASETS = (TRAINING_DATASET.kind, PREFERENCE_DATASET.kind)
_SAW_IT = "was trained on rows that are now on the held-out or selection side, or on items of the line's evaluation"
_RECIPE_KEYS = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}


@dataclass(frozen=True)
class ParentAdapter:
    """A registered adapter that training may continue from."""

    adapter: str
    """Adapter id in the registry."""
    digest: str
    """Digest of the adapter's artifact."""
    directory: Path
    """PEFT directory of the adapter. The hashes of all files were verified."""
    classification: str
    """Classification level of the adapter: the higher of the levels in its artifact and in its registration."""
    files: Mapping[Path, str]
    """Mapping of path to SHA-256, for each file of `directory`."""

    @property
    def facts(self) -> dict[str, str]:
        """The parent's id, digest and level. The summary of the trained adapter lists them under `started_from`."""
        return {"adapter": self.adapter, "digest": self.digest, "classification": self.classification}


def parent_digests(workplace: Workplace) -> dict[str, str]:
    """Return the external input of a stage: a mapping of `start_from:<id>` to the digest of the parent adapter's
    artifact; empty if there is no parent. Raises NotFoundError if the parent adapter is not registered; IntegrityError
    if its files were changed; RecipeError if it was rejected, recalled or retired, or if an open recall applies to it.
    """
    adapter_id = workplace.line.training.start_from
    if adapter_id is None:
        return {}
    _assert_not_recalled(workplace, adapter_id)
    return {f"{_EXTERNAL}{adapter_id}": _registered(workplace, adapter_id)[0].ref.digest}


def parent_adapter(manifest: Manifest) -> tuple[str, str] | None:
    """Return the id and digest of the parent adapter from the manifest of an sft_adapter; None if there is no
    parent."""
    for name, digest in manifest.external_inputs.items():
        if name.startswith(_EXTERNAL):
            return name.removeprefix(_EXTERNAL), digest
    return None


def all_that_is_beneath(
    store: ArtifactStore, ref: ArtifactRef, seen: set[str]
) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Yield an artifact and all artifacts that its weights depend on, each once and with its manifest. The weights
    depend on the inputs, the parent adapter, and the artifacts from which a base model was built locally.

    Args:
        seen: digests of artifacts to skip, together with their own inputs. The digest of each yielded artifact is
            added to this set.
    """
    waiting = deque([ref])
    while waiting:
        each = waiting.popleft()
        if each.digest in seen:
            continue
        seen.add(each.digest)
        manifest = store.read_manifest(each)
        yield each, manifest
        waiting.extend(input_refs(manifest))
        waiting.extend(made for made, _ in artifacts_of(store, manifest.external_inputs))
        parent = parent_adapter(manifest)
        if parent is not None:
            waiting.append(store.ref_of(parent[1]))


def trained_on(store: ArtifactStore, refs: Iterable[ArtifactRef]) -> tuple[list[ArtifactRef], list[str]]:
    """Return the datasets in the lineage of `refs`, and one digest for the files of each base model in this lineage."""
    datasets, base_models, seen = list[ArtifactRef](), list[str](), set[str]()
    for ref, manifest in (found for each in refs for found in all_that_is_beneath(store, each, seen)):
        if manifest.kind in _DATASETS:
            datasets.append(ref)
        elif manifest.kind == BASE_MODEL.kind:
            base_models.append(read_descriptor(store.open(ref))["digest"])
    return datasets, base_models


def parent_in(ancestors: Iterable[Manifest]) -> tuple[str, str] | None:
    """Return the id and digest of the parent adapter from the first manifest with a parent; None if there is none."""
    return next((parent for manifest in ancestors if (parent := parent_adapter(manifest)) is not None), None)


def resolve_parent(workplace: Workplace, inputs: Inputs, base: Path) -> ParentAdapter | None:
    """Verify and return the adapter of the recipe's `start_from`; None if the recipe has no `start_from`. base: the
    verified directory of the line's base model.

    Raises NotFoundError if the adapter is not registered; IntegrityError if its files were changed; RecipeError if it
    was rejected, recalled or retired, is under an open recall, is a whole model, or differs from the recipe in base
    model or LoRA settings; CeilingExceeded if its classification is above the line's ceiling; GateRefused if it was, or
    may have been, trained on rows of the current held-out split or on items of the line's evaluation.
    """
    adapter_id = workplace.line.training.start_from
    if adapter_id is None:
        return None
    _assert_not_recalled(workplace, adapter_id)
    artifact, registered_level = _registered(workplace, adapter_id)
    tuned = tuned_model(artifact)
    where = _place(workplace, adapter_id)
    if tuned.holds != "adapter":
        raise RecipeError(f"{where} is a whole model, not an adapter.", "Use this model as base_model instead.")
    ladder = workplace.institution.ladder
    level = ladder.highest((artifact.manifest.classification, registered_level))
    if ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"{where} is classified {level}, above the line's ceiling {workplace.line.ceiling}.",
            "Continue from another adapter or start from the base model, or have the line's ceiling raised.",
        )
    _assert_fits(workplace, adapter_id, artifact, inputs[BASE_MODEL.kind], base)
    leaks = _leaks(workplace, artifact.ref, inputs)
    if leaks:
        raise GateRefused(
            f"{where} {_SAW_IT}: {'; '.join(leaks)}. The trained adapter's scores would be meaningless.",
            "Remove start_from, or continue from an adapter that was not trained on these rows.",
        )
    return ParentAdapter(adapter_id, artifact.ref.digest, tuned.directory, level, artifact.digests(tuned.directory))


def assert_base_not_recalled(workplace: Workplace, inputs: Inputs) -> None:
    """Raise RecipeError if the base model was tuned locally on data to which an open recall applies.

    This function looks for recalls of the data instead of the state of the adapter with the base model's weights. That
    adapter may be retired, or may never have been registered.
    """
    store = workplace.store
    made = [ref for ref, _ in artifacts_of(store, inputs[BASE_MODEL.kind].manifest.external_inputs)]
    datasets, base_models = trained_on(store, made)
    weights = {ref.digest for ref in made}
    registered = list_adapters(open_registry(workplace.settings)) if made else ()
    adapters = [row["id"] for row in registered if row["adapter_digest"] in weights]
    recalls = workplace.recalls_of_data({each.digest for each in datasets}, base_models, adapters) if made else ()
    if recalls:
        whose = f", which has the weights of {and_more(adapters)}," if adapters else ""
        raise RecipeError(
            f"Line {workplace.line.line}: the base model {workplace.line.training.base_model}{whose} was tuned locally "
            f"on data under {and_more(recalls)}.",
            "Set another base model, or let an officer waive the recall for the adapter with these weights.",
        )


def assert_base_saw_nothing_held_out(workplace: Workplace, inputs: Inputs) -> None:
    """Raise GateRefused if the base model was, or may have been, tuned locally on rows of the current held-out split,
    or on items of the line's evaluation."""
    leaks = _leaks_of_base(workplace, inputs)
    if leaks:
        raise GateRefused(
            f"Line {workplace.line.line}: the base model {workplace.line.training.base_model} was tuned locally, and "
            f"{_SAW_IT}: {'; '.join(leaks)}. Every score would be meaningless.",
            "Use a published base model, or a base model that was not trained on these rows.",
        )


def evaluate_start(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Check the data of the model that training started from. The gate fails if an ancestor adapter or a locally tuned
    base model was trained on rows of the current held-out split or on items of the evaluation (`_leaks`). It also
    fails if the parent adapter is registered with a different artifact than the one that training continued from.

    Raises GateRefused if a dataset of an ancestor or base model cannot be opened, and the errors of `_registered`.
    """
    base = inputs[BASE_MODEL.kind]
    made = [ref for ref, _ in artifacts_of(workplace.store, base.manifest.external_inputs)]
    if not made:
        return _evaluate_parent(workplace, artifact, inputs)
    name = read_descriptor(base)["name"]
    evidence = {"base_made_here": [ref.digest for ref in made]}
    leaks = _leaks_of_base(workplace, inputs)
    if leaks:
        found = f"The base model {name} was tuned locally, and {_SAW_IT}: {'; '.join(leaks)}."
        return Verdict(False, found, evidence)
    verdict = _evaluate_parent(workplace, artifact, inputs)
    message = f"The base model {name} was tuned locally, on no row of the held-out or selection side. {verdict.message}"
    return Verdict(verdict.passed, message, {**verdict.evidence, **evidence})


def _evaluate_parent(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    sft = inputs.get("sft_adapter", artifact)  # an aligned_adapter has the same parent as its sft_adapter
    parent = parent_adapter(sft.manifest)
    if parent is None:
        origin = "the line's own sft_adapter" if "sft_adapter" in inputs else "the base model"
        message = f"Training started from {origin}, not from a registered adapter."
        return Verdict(True, message, {"started_from": None})
    adapter_id, digest = parent
    workplace.progress(f"gate {GATE_NAME}: verifying the parent adapter {adapter_id}")
    registered, _ = _registered(workplace, adapter_id)
    evidence: dict[str, Any] = {"started_from": adapter_id, "digest": digest}
    if registered.ref.digest != digest:
        return Verdict(
            False,
            f"Training continued from the artifact {short(digest)}, but {adapter_id} is registered with the artifact "
            f"{short(registered.ref.digest)}.",
            evidence,
        )
    leaks = _leaks(workplace, registered.ref, inputs)
    if leaks:
        return Verdict(False, f"{adapter_id} {_SAW_IT}: {'; '.join(leaks)}.", evidence)
    datasets = [dataset.ref.digest for dataset in _trained_on(workplace, registered.ref)]
    return Verdict(
        True,
        f"No row of the {len(datasets)} datasets that {adapter_id} was trained on is on the held-out or selection side "
        f"now, or near such a row. The datasets contain no more items of the evaluation than the recipe allows.",
        {**evidence, "datasets": datasets},
    )


def parent_config(line: Line) -> dict[str, Any]:
    """Return the settings of the recipe that affect the verdict of `evaluate_start`."""
    return {**line.split.model_dump(mode="json"), "items": NO_CONTAMINATION.config(line)}


def _registered(workplace: Workplace, adapter_id: str) -> tuple[Artifact, str]:
    """Verify every byte of a registered adapter. Return its artifact, and its classification level in the registry.
    Raises NotFoundError if the adapter is not registered; RecipeError if it was rejected, recalled or retired;
    IntegrityError if its files were changed."""
    registry = open_registry(workplace.settings)
    row = find_adapter(registry, adapter_id)
    with registry.reading() as session:
        state = state_of(session, row)
    if state in ENDED:
        raise RecipeError(
            f"{_place(workplace, adapter_id)} is {state}, so training cannot continue from it.",
            "Set another adapter, or remove start_from.",
        )
    ref = workplace.store.ref_of(row.adapter_digest).model_copy(update={"manifest_sha256": row.manifest_sha256})
    return workplace.store.open(ref), row.classification


def _assert_not_recalled(workplace: Workplace, adapter_id: str) -> None:
    """Raise RecipeError if an open recall applies to the parent adapter, whose data the child would also contain."""
    if recalls := workplace.open_recalls(adapter_id):
        raise RecipeError(
            f"{_place(workplace, adapter_id)} is under {and_more(recalls)}, so training cannot continue from it.",
            "Set another adapter, remove start_from, or let an officer waive the recall for this adapter.",
        )


def _assert_fits(workplace: Workplace, adapter_id: str, artifact: Artifact, base_model: Artifact, base: Path) -> None:
    """Raise RecipeError unless the parent has the line's base model and the recipe's LoRA settings."""
    from safetensors import safe_open

    where, sft = _place(workplace, adapter_id), workplace.line.training.sft
    parents, lines = map(read_descriptor, (workplace.store.open_input(artifact.manifest, "base_model"), base_model))
    if parents["digest"] != lines["digest"]:
        raise RecipeError(
            f"{where} was trained on the base model {parents['name']} ({short(parents['digest'])}), but the line's "
            f"base model is {lines['name']} ({short(lines['digest'])}).",
            "Set training.base_model to the adapter's base model (the same files), or remove start_from.",
        )
    directory = tuned_model(artifact).directory
    config = json.loads((directory / ADAPTER_CONFIG).read_bytes())
    to_set = [
        f"training.sft.{_RECIPE_KEYS[name]}: {json.dumps(config.get(name))} (now {json.dumps(value)})"
        for name, value in lora_settings(sft).items()
        if config.get(name) != value
    ]
    if not to_set:
        with safe_open(directory / ADAPTER_WEIGHTS, "pt") as weights:
            found = set(weights.keys())
        if found != expected_lora_tensors(base, sft).keys():
            modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in found if ".lora_A." in name})
            to_set = [f"training.sft.target_modules: [{', '.join(modules)}] (now {json.dumps(sft.target_modules)})"]
    if to_set:
        raise RecipeError(
            f"{where} has LoRA settings that differ from the recipe's.",
            f"Set {', '.join(to_set)}; or remove start_from.",
        )


def _leaks_of_base(workplace: Workplace, inputs: Inputs) -> list[str]:
    """Return the messages of `_leaks` for the artifacts from which the base model was built locally; empty for a
    published base model."""
    made = list(artifacts_of(workplace.store, inputs[BASE_MODEL.kind].manifest.external_inputs))
    return [leak for ref, _ in made for leak in _leaks(workplace, ref, inputs)]


def _leaks(workplace: Workplace, ref: ArtifactRef, inputs: Inputs) -> list[str]:
    """Return messages about leaks into the training data of a parent adapter or base model. A leak is a document of the
    held-out or selection side; a case, link, author or text shared with such a document; or more items of the
    evaluation than the recipe allows.

    Raises GateRefused if a dataset of the adapter or base model cannot be opened.
    """
    dataset = inputs[PREFERENCE_DATASET.kind if PREFERENCE_DATASET.kind in inputs else TRAINING_DATASET.kind]
    split = _split_of(workplace, dataset)
    sides = (HELD_OUT, *([SELECTION] if has_selection(split) else []))
    held_out = {document.id for side in sides for document in read_documents(split.file(side))}
    found: list[str] = []
    try:
        trained_on = list(_trained_on(workplace, ref))
        for each in trained_on:
            leaked = sorted(row_ids(each) & held_out)
            if leaked:
                found.append(f"{len(leaked)} rows of {each.ref.kind} {short(each.ref.digest)} ({and_more(leaked)})")
            asked = contamination_of(workplace, each)
            if not asked.passed:
                found.append(f"{each.ref.kind} {short(each.ref.digest)}: {asked.message}")
        splits = {each.ref.digest: each for each in (_split_of(workplace, dataset) for dataset in trained_on)}
        for place, each in enumerate(splits.values(), start=1):
            workplace.progress(f"comparing the held-out rows with split {place} of {len(splits)} of the parent adapter")
            found += shared_with_held_out(workplace, split, each)
    except (IntegrityError, NotFoundError) as error:
        raise GateRefused(
            f"Line {workplace.line.line}: a dataset of the parent, {ref.kind} {short(ref.digest)} of line {ref.line}, "
            f"cannot be opened, so it may contain held-out rows. {error.message}",
            error.hint,
        ) from error
    return found


def _split_of(workplace: Workplace, dataset: Artifact) -> Artifact:
    if LEAKAGE_SAFE_SPLIT.kind not in dataset.manifest.inputs:
        raise IntegrityError(
            f"{dataset.path}: this dataset has no split among its inputs.", "Restore this directory from a copy."
        )
    return workplace.store.open_input(dataset.manifest, LEAKAGE_SAFE_SPLIT.kind)


def _trained_on(workplace: Workplace, ref: ArtifactRef) -> Iterator[Artifact]:
    """Yield every dataset in the lineage of an adapter or whole model, including its ancestor adapters and locally
    tuned base models. An ancestor may be retired or purged, because only its datasets are read.

    Raises NotFoundError or IntegrityError if one of these datasets, or an artifact between the model and the dataset,
    is missing or damaged; IntegrityError if no dataset is found, or if an ancestor is registered with a different
    artifact.
    """
    store, registry = workplace.store, open_registry(workplace.settings)
    datasets: list[ArtifactRef] = []
    for each, manifest in all_that_is_beneath(store, ref, set()):
        if each.kind in _DATASETS:
            datasets.append(each)
        parent = parent_adapter(manifest)
        if parent is None:
            continue
        adapter_id, digest = parent
        registered = find_adapter(registry, adapter_id).adapter_digest
        if registered != digest:
            raise IntegrityError(
                f"{store.path_of(registered)}: this artifact is registered as {adapter_id}, but training continued "
                f"from {short(digest)} under that id.",
                "Restore the registry from a copy.",
            )
    if not datasets:
        raise IntegrityError(
            f"{store.path_of(ref.digest)}: this adapter has no dataset among its inputs.",
            "Restore the adapter's artifact from a copy.",
        )
    yield from map(store.open, datasets)


def _place(workplace: Workplace, adapter_id: str) -> str:
    return f"Line {workplace.line.line}: training.start_from: {adapter_id}"
