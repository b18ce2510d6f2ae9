"""A card that points at the result of a full tuning: level, lineage and held-out rows are those of the artifact."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import CeilingExceeded, GateRefused, StaleInput
from sovereign_pipeline.base_models.stages import BASE_MODEL, open_base_model
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline.training.continuation import assert_base_saw_nothing_held_out
from sovereign_pipeline_tests.tiny_model import write_card
from sovereign_pipeline_tests.training.conftest import a_report
from sovereign_pipeline_tests.training.continuation.chain import GATE, NEW, OLD, Office, build_without_check, evaluated

pytestmark = pytest.mark.slow

SECRET = [dict(row, classification="SECRET" if number == 3 else "PUBLIC") for number, row in enumerate(OLD)]


def tune_in_full(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """`model/` as a full tuning leaves it: every file of the base model, and weights that differ."""
    base = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    shutil.copytree(base, workspace / "model")
    weights = workspace / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    (workspace / "report.json").write_text(a_report(inputs["base_model"]))
    return Built(summary={})


@pytest.fixture
def tuned(office: Office) -> Artifact:
    """The result of a full tuning on a SECRET corpus."""
    workplace = office.line("lamps", SECRET, sft={"adapter": "none"})
    sft = replace(office.sft, build=tune_in_full, gates=())
    ref, _ = office.make(workplace, sft)
    artifact = workplace.store.open(ref)
    assert artifact.manifest.classification == "SECRET"
    return artifact


def copied(tuned: Artifact, root: Path) -> Path:
    return Path(shutil.copytree(tuned.path / "model", root / "elsewhere"))


def call_public(office: Office, directory: Path, name: str = "published") -> None:
    write_card(office.institution.settings.data, name, directory)


@pytest.mark.security_case(
    "A model card names the weights of a SECRET full tuning, copied or renamed, and calls them PUBLIC",
    "the base model is SECRET with the artifact in its lineage; a lower ceiling stops the line",
)
def test_level_and_lineage_are_those_of_the_artifact(office: Office, tuned: Artifact) -> None:
    """The tuned model has the tokenizer of the published one; that makes the published one no secret."""
    copy = copied(tuned, office.institution.root)
    renamed = Path(shutil.copytree(copy, office.institution.root / "renamed"))
    (renamed / "model.safetensors").rename(renamed / "model-00001-of-00001.safetensors")
    shutil.copy(renamed / "config.json", renamed / "copy.json")
    for name, place in {"in-the-store": tuned.path / "model", "copied": copy, "renamed": renamed}.items():
        call_public(office, place, name)
        workplace = office.line("lanterns", NEW, base_model=name)
        ref, _ = office.make(workplace, BASE_MODEL)
        manifest = workplace.store.open(ref).manifest
        assert manifest.classification == "SECRET"
        assert manifest.external_inputs[f"made_here:{tuned.ref.digest}"] == tuned.ref.manifest_sha256
        assert manifest.summary["made_here"] == [{"kind": "sft_adapter", "line": "lamps", "digest": tuned.ref.digest}]
    published, _ = office.make(office.line("lanterns", NEW), BASE_MODEL)
    manifest = workplace.store.open(published).manifest
    assert manifest.classification == "PUBLIC"
    assert [name for name in manifest.external_inputs if name.startswith("made_here")] == []
    office.institution.recipe["ceiling"] = "INTERNAL"
    with pytest.raises(
        CeilingExceeded, match=r"has the level SECRET, because it has the weights of sft_adapter \w+ of line lamps"
    ):
        office.make(office.line("torches", NEW, base_model="copied"), BASE_MODEL)


@pytest.mark.security_case(
    "A line's base model was fully tuned on rows that the line now holds out",
    "rejected before training, and by the gate if that check was skipped",
)
def test_what_the_base_model_saw_may_not_be_held_out(office: Office, tuned: Artifact) -> None:
    call_public(office, copied(tuned, office.institution.root))
    office.institution.recipe["split"] = {"seed": 8}
    workplace = office.line("lanterns", SECRET, base_model="published")
    base, _ = office.make(workplace, BASE_MODEL)
    dataset, _ = office.make(workplace, office.training)
    store = workplace.store
    inputs = {"base_model": store.open(base), "training_dataset": store.open(dataset)}
    with pytest.raises(GateRefused, match=r"base model published was tuned locally, .*rows of training_dataset"):
        assert_base_saw_nothing_held_out(workplace, inputs)
    _, verdicts = office.make(workplace, replace(office.sft, build=build_without_check))
    assert not verdicts[GATE].passed
    assert "rows of training_dataset" in verdicts[GATE].message


@pytest.mark.security_case(
    "Of two successive full tunings, the first one was trained on documents that are now held out",
    "the datasets of both are compared",
)
def test_what_the_base_of_the_base_model_saw_may_not_be_held_out(office: Office, tuned: Artifact) -> None:
    root = office.institution.root
    call_public(office, copied(tuned, root))
    between = office.line("lanterns", NEW, base_model="published", sft={"adapter": "none"})
    ref, _ = office.make(between, replace(office.sft, build=tune_in_full, gates=()))
    call_public(office, Path(shutil.copytree(between.store.path_of(ref.digest) / "model", root / "second")), "second")
    office.institution.recipe["split"] = {"seed": 8}
    workplace = office.line("torches", SECRET, base_model="second")
    _, verdicts = office.make(workplace, replace(office.sft, build=build_without_check))
    assert not verdicts[GATE].passed
    assert workplace.store.open(_current(workplace, "base_model")).manifest.classification == "SECRET"


def test_other_rows_may_be_trained_on_it_and_everything_beneath_is_verified(office: Office, tuned: Artifact) -> None:
    call_public(office, copied(tuned, office.institution.root))
    office.sft = replace(office.sft, build=build_without_check)
    workplace = office.line("lanterns", NEW, base_model="published")
    adapter, _ = office.register(workplace)
    assert adapter.classification == "SECRET"
    sft = workplace.store.open(_current(workplace, "sft_adapter"))
    assert evaluated(workplace, sft).evidence["base_made_here"] == [tuned.ref.digest]
    report = verify_adapter(open_registry(workplace.settings), workplace.store, workplace.settings, adapter.id)
    checked = {each.digest for each in report.checked}
    assert tuned.ref.digest in checked
    assert set(tuned.manifest.inputs.values()) < checked


def test_a_base_model_that_turns_out_to_be_made_here_is_stale(office: Office, tuned: Artifact) -> None:
    """The artifact comes back into the store after its weights were used as a published model's."""
    call_public(office, copied(tuned, office.institution.root))
    workplace = office.line("lanterns", NEW, base_model="published")
    away = office.institution.root / "away"
    shutil.move(tuned.path, away)
    base, _ = office.make(workplace, BASE_MODEL)
    assert workplace.store.open(base).manifest.classification == "PUBLIC"
    office.make(workplace, office.training)
    shutil.move(away, tuned.path)
    inputs = {kind: _current(workplace, kind) for kind in ("base_model", "training_dataset")}
    with pytest.raises(StaleInput, match=f"base_model .*made_here:{tuned.ref.digest}"):
        produce(office.sft, workplace, inputs)


def _current(workplace: Workplace, kind: str) -> ArtifactRef:
    ref = workplace.store.current(workplace.line.line, kind)
    assert ref is not None
    return ref
