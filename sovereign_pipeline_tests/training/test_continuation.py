"""Retraining from a registered adapter: a real registry, real datasets and splits, and faults planted in what is gone
on from. Only the training itself, and the evaluation, are done by hand, in moments."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text
from typer.testing import CliRunner

from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.cli import app
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.errors import (
    CeilingExceeded,
    GateRefused,
    IntegrityError,
    NotFoundError,
    RecipeError,
    SovereignError,
    TrainingFailed,
)
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.registry.building import BILL_OF_MATERIALS_FILE, registered_adapter_stage
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline.training.continuation import resolve_parent, started_from
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.rows import encode_sft
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline_tests.conftest import A_LABEL, DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import split_stage
from sovereign_pipeline_tests.tiny_model import EOS_ID, save_tiny_model

SHAPE = {"rank": 4, "alpha": 8, "max_length": 512, "precision": "float32"}
GATE = "start_saw_nothing_held_out"


def train_by_hand(base: Path, rows: Iterable[Any], target: Path, sft: Sft, start: Path | None) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(base)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules)
    config = LoraConfig(r=sft.rank, lora_alpha=sft.alpha, target_modules=targets, task_type="CAUSAL_LM")
    model = (
        get_peft_model(loaded, config) if start is None else PeftModel.from_pretrained(loaded, start, is_trainable=True)
    )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for row in rows:
        (completion,) = encode_sft(tokenizer, row, [EOS_ID]).completions
        loss = model(input_ids=torch.tensor([completion.ids]), labels=torch.tensor([completion.labels])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(target, save_embedding_layers=False)


def build_by_hand(workplace: Workplace, inputs: Inputs, workspace: Path, looks: bool = True) -> Built:
    """looks: whether it asks, as the room does, if the adapter may be gone on from."""
    base = open_base_model(workplace.settings, inputs["base_model"])
    start = resolve_parent(workplace, inputs, base) if looks else None
    rows = read_jsonl(inputs["training_dataset"].file("train.jsonl"))
    train_by_hand(base, rows, workspace / "adapter", workplace.line.training.sft, start and start.directory)
    descriptor = read_descriptor(inputs["base_model"])
    trained_on = {"digest": descriptor["digest"], "chat_template_sha256": descriptor["chat_template_sha256"]}
    (workspace / "report.json").write_text(json.dumps({"base_model": trained_on}))
    if start is None:
        return Built(summary={})
    return Built(summary={"started_from": start.facts}, classification=start.classification)


def _without_looking(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    return build_by_hand(workplace, inputs, workspace, looks=False)


def _scored(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "report.json").write_text("{}")
    return Built(summary={"loss": 1.0})


@dataclass
class Office:
    """Runs lines of one institution from the corpus to the registry."""

    institution: DemoInstitution

    def __post_init__(self) -> None:
        split = split_stage()
        self.training = replace(TRAINING_DATASET, inputs=(split,))
        self.preferences = replace(PREFERENCE_DATASET, inputs=(split,))
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, self.training), build=build_by_hand)

    def line(self, name: str, rows: list[dict[str, Any]], **training: Any) -> Workplace:
        self.institution.recipe["line"] = name
        self.institution.recipe["training"] = {
            "base_model": "small",
            "instruction": "Answer.",
            "sft": dict(SHAPE),
            **training,
        }
        self.institution.rows = rows
        return self.institution.workplace()

    def make(self, workplace: Workplace, stage: Stage) -> tuple[ArtifactRef, dict[str, Verdict]]:
        inputs = {each.kind: self.make(workplace, each)[0] for each in stage.inputs}
        ref = produce(stage, workplace, inputs).ref
        workplace.store.make_current(workplace.line.line, stage.kind, ref)
        return ref, evaluate_gates(stage, workplace, ref) if ref.kind == stage.kind else {}

    def register(self, workplace: Workplace) -> tuple[Adapter, ArtifactRef]:
        aligned = replace(ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, self.preferences))
        report = Stage("evaluation_report", "1", _scored, (BASE_MODEL, aligned))
        stage = registered_adapter_stage((aligned, report, self.training, self.preferences, BASE_MODEL))
        record, verdicts = self.make(workplace, stage)
        assert all(verdict.passed for verdict in verdicts.values()), verdicts
        return register(open_registry(workplace.settings), workplace, record, stage), record


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [json.dumps(letter(number)) for number in range(60)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "small", texts)


@pytest.fixture
def office(institution: DemoInstitution, small_model: Path) -> Office:
    for name in ("small", "other"):
        directory = institution.root / "mirror" / name
        shutil.copytree(small_model, directory)
        if name == "other":
            (directory / "config.json").write_text((directory / "config.json").read_text() + "\n")
        card = {
            "name": name,
            "licence": "own",
            "classification": "PUBLIC",
            "source": {"directory": str(directory)},
            "files": {file.name: file_sha256(file) for file in directory.iterdir()},
        }
        path = institution.settings.data / "models" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(card))
    return Office(institution)


OLD = [letter(number) for number in range(24)]
NEW = [letter(1000 + number) for number in range(24)]


@pytest.fixture
def lamps(office: Office) -> Adapter:
    """lamps-1.0.0, CONFIDENTIAL through one of its letters."""
    rows = [dict(row, classification="CONFIDENTIAL" if number == 3 else "PUBLIC") for number, row in enumerate(OLD)]
    adapter, _ = office.register(office.line("lamps", rows))
    assert (adapter.id, adapter.classification) == ("lamps-1.0.0", "CONFIDENTIAL")
    return adapter


def test_a_retrained_adapter_carries_digest_level_and_lineage_of_the_earlier_one(
    office: Office, lamps: Adapter
) -> None:
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    adapter, record_ref = office.register(workplace)
    store = workplace.store
    current = store.current("lanterns", "sft_adapter")
    assert current is not None
    artifact = store.open(current)
    assert started_from(artifact.manifest) == ("lamps-1.0.0", lamps.adapter_digest)
    assert artifact.manifest.summary["started_from"] == {
        "adapter": "lamps-1.0.0",
        "digest": lamps.adapter_digest,
        "classification": "CONFIDENTIAL",
    }
    assert artifact.manifest.classification == adapter.classification == "CONFIDENTIAL"
    record = read_record(store.open(record_ref))
    assert record.started_from is not None
    assert record.started_from.digest == lamps.adapter_digest
    bill = json.loads(store.open(record_ref).file(BILL_OF_MATERIALS_FILE).read_bytes())
    (earlier,) = [each for each in bill["components"] if each["name"] == "lamps-1.0.0"]
    assert earlier["hashes"] == [{"alg": "SHA-256", "content": lamps.adapter_sha256}]
    assert earlier["bom-ref"] in bill["dependencies"][0]["dependsOn"]
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None

    registry = open_registry(workplace.settings)
    report = verify_adapter(registry, store, workplace.settings, adapter.id)
    assert lamps.adapter_digest in {each.digest for each in report.checked}
    assert len(report.checked) == len(set(report.checked))
    file = store.open(store.ref_of(lamps.dataset_digest)).file("train.jsonl")
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(IntegrityError, match=lamps.dataset_digest):
        verify_adapter(registry, store, workplace.settings, adapter.id)


def test_the_trainer_is_given_the_verified_directory(office: Office, lamps: Adapter) -> None:
    jobs = []

    def launch(job: Path) -> None:
        jobs.append(TrainingJob.read(job))
        raise TrainingFailed("stopped by the test")

    office.sft = replace(office.sft, build=SFT_ADAPTER.build)
    workplace = replace(office.line("lanterns", NEW, start_from="lamps-1.0.0"), launch=launch)
    with pytest.raises(TrainingFailed, match="stopped by the test"):
        office.make(workplace, office.sft)
    assert jobs[0].start_adapter == workplace.store.path_of(lamps.adapter_digest) / "adapter"
    workplace = replace(office.line("lanterns", NEW), launch=launch)
    with pytest.raises(TrainingFailed, match="stopped by the test"):
        office.make(workplace, office.sft)
    assert jobs[1].start_adapter is None


def test_without_a_start_the_gate_says_so(office: Office) -> None:
    _, verdicts = office.make(office.line("lamps", OLD), office.sft)
    assert verdicts[GATE].passed and verdicts[GATE].evidence == {"started_from": None}


@pytest.mark.parametrize(
    ("training", "error", "says"),
    [
        ({"start_from": "lamps-2.0.0"}, NotFoundError, "known adapters: lamps-1.0.0"),
        ({"base_model": "other"}, RecipeError, r"trained on the base model small .* and the line's is other"),
        ({"sft": {**SHAPE, "rank": 8}}, RecipeError, r"Set training\.sft\.rank: 4 \(it is 8\)"),
        ({"sft": {**SHAPE, "alpha": 9}}, RecipeError, r"Set training\.sft\.alpha: 8 \(it is 9\)"),
        ({"sft": {**SHAPE, "rslora": True}}, RecipeError, r"Set training\.sft\.rslora: false \(it is true\)"),
        ({"sft": {**SHAPE, "dora": True}}, RecipeError, r"Set training\.sft\.dora: false \(it is true\)"),
        (
            {"sft": {**SHAPE, "target_modules": ["q_proj"]}},
            RecipeError,
            r"Set training\.sft\.target_modules: \[down_proj, gate_proj",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_what_to_set(
    office: Office, lamps: Adapter, training: dict[str, Any], error: type[SovereignError], says: str
) -> None:
    workplace = office.line("lanterns", NEW, **{"start_from": "lamps-1.0.0", **training})
    with pytest.raises(error, match=says):
        office.make(workplace, office.sft)


def test_an_adapter_above_the_ceiling_is_refused(office: Office, lamps: Adapter) -> None:
    office.institution.recipe["ceiling"] = "INTERNAL"
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    with pytest.raises(CeilingExceeded, match=r"lamps-1\.0\.0 is CONFIDENTIAL, and the line may hold INTERNAL"):
        office.make(workplace, office.sft)


def test_an_adapter_whose_bytes_changed_is_refused(office: Office, lamps: Adapter) -> None:
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    weights = workplace.store.path_of(lamps.adapter_digest) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        office.make(workplace, office.sft)


def test_the_same_rows_with_the_same_split_may_go_on(office: Office, lamps: Adapter) -> None:
    workplace = office.line("lanterns", OLD, start_from="lamps-1.0.0")
    _, verdicts = office.make(workplace, office.sft)
    assert verdicts[GATE].passed
    assert verdicts[GATE].evidence["datasets"] == [lamps.dataset_digest]


def same_rows() -> list[dict[str, Any]]:
    """Another seed holds out others of them."""
    return OLD


def same_cases() -> list[dict[str, Any]]:
    return [dict(new, case=old["case"]) for new, old in zip(NEW, OLD, strict=True)]


def same_texts() -> list[dict[str, Any]]:
    return [dict(old, id=new["id"], case=new["case"]) for new, old in zip(NEW, OLD, strict=True)]


def linked_rows() -> list[dict[str, Any]]:
    return [dict(new, follows=[old["id"]]) for new, old in zip(NEW, OLD, strict=True)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (same_rows, "rows of training_dataset"),
        (same_cases, r"\d cases? cross"),
        (same_texts, "near-duplicate pair"),
        (linked_rows, r"\d links? cross"),
    ],
)
def test_what_the_earlier_adapter_saw_may_not_be_held_out(office: Office, lamps: Adapter, rows: Any, says: str) -> None:
    """Refused before anything is trained; and the gate says no where that was not asked."""
    office.institution.recipe["split"] = {"seed": 8}
    if rows is linked_rows:
        office.institution.recipe["sources"][0]["links"] = "follows"
    workplace = office.line("lanterns", rows(), start_from="lamps-1.0.0")
    with pytest.raises(GateRefused, match=says):
        office.make(workplace, office.sft)
    office.sft = replace(office.sft, build=_without_looking)
    _, verdicts = office.make(workplace, office.sft)
    assert not verdicts[GATE].passed
    assert "trained on what is held out now" in verdicts[GATE].message
    assert "lamp is" not in verdicts[GATE].message and "w3x" not in verdicts[GATE].message


def test_what_an_adapter_two_steps_back_saw_may_not_be_held_out_either(office: Office, lamps: Adapter) -> None:
    adapter, _ = office.register(office.line("lanterns", NEW, start_from="lamps-1.0.0"))
    office.institution.recipe["split"] = {"seed": 8}
    workplace = office.line("torches", OLD, start_from=adapter.id)
    with pytest.raises(GateRefused, match=r"rows of training_dataset"):
        office.make(workplace, office.sft)


@pytest.mark.parametrize("kind", ["training_dataset", "leakage_safe_split", "scrubbed_corpus"])
def test_what_was_trained_on_and_cannot_be_opened_may_hold_anything(office: Office, lamps: Adapter, kind: str) -> None:
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    store = workplace.store
    office.make(workplace, office.sft)
    made = store.current("lanterns", "sft_adapter")
    lost = store.current("lamps", kind)
    assert made is not None and lost is not None
    shutil.move(store.path_of(lost.digest), workplace.settings.home / "lost")
    artifact = store.open(made)
    inputs = {each: store.open_input(artifact.manifest, each) for each in artifact.manifest.inputs}
    gate = next(each for each in SFT_ADAPTER.gates if each.name == GATE)
    with pytest.raises(GateRefused, match="cannot be opened, so held-out rows may be among it") as refused:
        gate.evaluate(workplace, artifact, inputs)
    assert lost.digest in str(refused.value)
    with pytest.raises(GateRefused, match="cannot be opened"):
        resolve_parent(workplace, inputs, open_base_model(workplace.settings, inputs["base_model"]))


def test_another_adapter_under_the_same_name_is_found_by_the_gate_and_by_verification(
    office: Office, lamps: Adapter
) -> None:
    """The registry's row, changed past its triggers, leads to another adapter that is whole and good."""
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    adapter, _ = office.register(workplace)
    registry, store = open_registry(workplace.settings), workplace.store
    artifact = store.open(store.ref_of(adapter.adapter_digest))
    with registry.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER adapter_no_update"))
        changed = "adapter_digest = :digest, manifest_sha256 = :manifest"
        connection.execute(
            text(f"UPDATE adapter SET {changed} WHERE id = 'lamps-1.0.0'"),
            {"digest": artifact.ref.digest, "manifest": artifact.ref.manifest_sha256},
        )
    inputs = {each: store.open_input(artifact.manifest, each) for each in artifact.manifest.inputs}
    gate = next(each for each in SFT_ADAPTER.gates if each.name == GATE)
    verdict = gate.evaluate(workplace, artifact, inputs)
    assert not verdict.passed and "is registered as" in verdict.message
    with pytest.raises(IntegrityError, match="knows another adapter by that name"):
        verify_adapter(registry, store, workplace.settings, adapter.id)


def test_checking_a_recipe_says_when_its_start_is_not_registered(
    office: Office, lamps: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = office.institution.settings
    monkeypatch.setenv("SOVEREIGN_HOME", str(settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(settings.data))
    office.institution.write_items("red_team/judge_labels.jsonl", [A_LABEL])
    file = settings.data / "lines" / "lanterns.yaml"
    office.line("lanterns", NEW, start_from="lamps-1.0.0")
    assert CliRunner().invoke(app, ["lines", "check", str(file)]).exit_code == 0
    office.line("lanterns", NEW, start_from="lamps-1.0.1")
    answer = CliRunner().invoke(app, ["lines", "check", str(file)])
    assert isinstance(answer.exception, NotFoundError)


def test_preferences_are_held_against_the_start_of_their_sft_adapter(office: Office, lamps: Adapter) -> None:
    """A pair of the same case as a letter that lamps-1.0.0 was trained on, on the held-out side."""
    office.institution.recipe["split"] = {"seed": 8}
    pairs = [letter(2000 + number, case=old["case"], rejected="No.") for number, old in enumerate(OLD)]
    described = {"path": "sources/pairs.jsonl", "licence": "own", "retention": "1 year"}
    office.institution.recipe["sources"].append({"name": "pairs", "role": "preferences", **described})
    office.institution.write_items("sources/pairs.jsonl", pairs)
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0", preference={})
    office.sft = replace(office.sft, build=_without_looking)
    sft, _ = office.make(workplace, office.sft)
    preferences, _ = office.make(workplace, office.preferences)
    store = workplace.store
    inputs = {"sft_adapter": store.open(sft), "preference_dataset": store.open(preferences)}
    gate = next(each for each in ALIGNED_ADAPTER.gates if each.name == GATE)
    verdict = gate.evaluate(workplace, store.open(sft), inputs)
    assert not verdict.passed
    assert "case" in verdict.message
