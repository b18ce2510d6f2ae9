"""The stages and their gates, through the real store, with faults planted between the trainer and the artifact."""

import errno
import fcntl
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base_models.cards import load_card
from sovereign_pipeline.base_models.fetching import fetch
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import open_base_model, verify
from sovereign_pipeline.errors import GateRefused, IntegrityError, NotFoundError, RecipeError
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.training.job import TrainingJob, TrainingResult
from sovereign_pipeline.training.locks import lock_of_line
from sovereign_pipeline.training.loop.outside import Outside
from sovereign_pipeline.training.loop.trainer import train
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline.training.tuned_model import tuned_model
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import letters, pairs

JobMaker = Callable[..., TrainingJob]
Tamper = Callable[[Path], None]


def dataset_stage(kind: str, file: str, rows: list[dict[str, Any]]) -> Stage:
    """Stands for the dataset room, whose stages need the whole chain before them."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Built({"rows": len(rows)}, classification="CONFIDENTIAL")

    return Stage(kind=kind, code_version="1", build=build)


@dataclass
class Chain:
    """Produces and judges the training room's stages; `tamper` is let at the trainer's output before it is sealed."""

    workplace: Workplace
    tamper: Tamper = lambda output: None
    refs: dict[str, ArtifactRef] = field(default_factory=dict)
    trainings: int = 0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workplace = replace(self.workplace, launch=self._launch)
        self._letters = dataset_stage("training_dataset", "train.jsonl", letters(16))
        self._pairs = dataset_stage("preference_dataset", "preferences.jsonl", pairs(8))
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, self._letters))
        self.aligned = replace(ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, self._pairs))

    def make(self, stage: Stage) -> dict[str, Verdict]:
        for each in stage.inputs:
            if each.kind not in self.refs:
                self.make(each)
        inputs = {each.kind: self.refs[each.kind] for each in stage.inputs}
        ref = produce(stage, self.workplace, inputs).ref
        self.refs[stage.kind] = ref
        self.workplace.store.make_current(self.workplace.line.line, stage.kind, ref)
        return evaluate_gates(stage, self.workplace, ref) if ref.kind == stage.kind else {}

    def _launch(self, path: Path) -> None:
        job = TrainingJob.read(path)
        TrainingResult(measured=train(job, Outside(on_step=lambda step: None, tell=self.told.append))).write(job.result)
        self.tamper(job.output)
        self.trainings += 1


@pytest.fixture
def directory(institution: DemoInstitution, tiny_model: Path) -> Path:
    """A copy of the tiny model, with its card, and a recipe that trains on it."""
    directory = institution.root / "mirror" / "tiny"
    directory.mkdir(parents=True)
    for file in tiny_model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    card = {
        "name": "tiny",
        "licence": "own",
        "classification": "PUBLIC",
        "source": {"directory": str(directory)},
        "files": {file.name: file_sha256(file) for file in directory.iterdir()},
    }
    models = institution.settings.data / "models"
    models.mkdir(parents=True)
    (models / "tiny.yaml").write_text(yaml.safe_dump(card))
    sft = {
        "rank": 4,
        "alpha": 8,
        "gradient_accumulation": 1,
        "learning_rate": 1e-2,
        "epochs": 12,
        "max_length": 128,
        "precision": "float32",
    }
    institution.recipe["training"]["sft"] = sft
    return directory


def with_preference(workplace: Workplace) -> Workplace:
    recipe = workplace.line.model_dump(mode="json")
    recipe["training"]["preference"] = {"learning_rate": 1e-3, "max_steps": 2, "gradient_accumulation": 2}
    recipe["sources"].append({**recipe["sources"][0], "name": "pairs", "role": "preferences"})
    return replace(workplace, line=Line.model_validate(recipe))


def test_both_adapters_are_made_pass_their_gates_and_are_found_again(
    institution: DemoInstitution, directory: Path
) -> None:
    chain = Chain(with_preference(institution.workplace()))
    verdicts = chain.make(chain.aligned)
    assert verdicts.keys() == {gate.name for gate in ALIGNED_ADAPTER.gates}
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    artifact = chain.workplace.store.open(chain.refs["aligned_adapter"])
    assert artifact.manifest.classification == "CONFIDENTIAL"
    assert "tokens_per_second" in artifact.manifest.circumstances.measured
    assert artifact.manifest.inputs.keys() == {"base_model", "sft_adapter", "preference_dataset"}
    assert {entry.path for entry in artifact.manifest.files} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "report.json",
        "training_log.jsonl",
    }
    assert (tuned_model(artifact).holds, tuned_model(artifact).directory.name) == ("adapter", "adapter")
    descriptor = chain.workplace.store.open(chain.refs["base_model"]).manifest.summary
    assert descriptor["eos_ids"] == [2] and descriptor["architecture"] == "LlamaForCausalLM"
    assert descriptor["parameters"] == 400 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    chain.make(chain.aligned)
    assert chain.trainings == 2


def test_without_preferences_the_sft_adapter_is_handed_on(institution: DemoInstitution, directory: Path) -> None:
    chain = Chain(institution.workplace())
    chain.make(chain.sft)
    aligned = produce(chain.aligned, chain.workplace, chain.refs | {"preference_dataset": _made(chain)})
    assert aligned.ref == chain.refs["sft_adapter"]


def _made(chain: Chain) -> ArtifactRef:
    chain.make(chain.aligned.inputs[2])
    return chain.refs["preference_dataset"]


def zero_lora_b(output: Path) -> None:
    _change(output, lambda name, tensor: tensor * 0 if name.endswith("layers.1.mlp.up_proj.lora_B.weight") else tensor)


def without_one_tensor(output: Path) -> None:
    _change(output, lambda name, tensor: None if name.endswith("layers.0.self_attn.q_proj.lora_A.weight") else tensor)


def not_a_number(output: Path) -> None:
    _change(
        output, lambda name, tensor: tensor / 0 if name.endswith("layers.0.self_attn.q_proj.lora_A.weight") else tensor
    )


def unlearned(output: Path) -> None:
    _change(output, lambda name, tensor: -tensor if ".lora_B." in name else tensor)


def pushed_away(base: Path) -> Tamper:
    """Trains the finished adapter on, away from the end of turn wherever it stands."""

    def tamper(output: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        model: Any = PeftModel.from_pretrained(loaded, output / "adapter", is_trainable=True)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-2)
        ids = torch.randint(3, 400, (8, 40), generator=torch.Generator().manual_seed(1))
        for _ in range(30):
            torch.log_softmax(model(input_ids=ids).logits, dim=-1)[..., EOS_ID].mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(output / "adapter")
        (output / "adapter" / "README.md").unlink(missing_ok=True)

    return tamper


def other_base(output: Path) -> None:
    report = json.loads((output / "report.json").read_bytes())
    report["base_model"]["digest"] = "f" * 64
    (output / "report.json").write_text(json.dumps(report))


def _change(output: Path, change: Callable[[str, Any], Any]) -> None:
    from safetensors.torch import load_file, save_file

    path = output / "adapter" / "adapter_model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("tamper", "gate"),
    [
        (zero_lora_b, "adapter_non_zero"),
        (without_one_tensor, "adapter_non_zero"),
        (not_a_number, "adapter_non_zero"),
        (unlearned, "end_of_turn_trained"),
        (other_base, "base_digest_matches"),
    ],
)
def test_each_gate_says_no_to_its_fault_and_the_consumer_is_refused(
    institution: DemoInstitution, directory: Path, tamper: Tamper, gate: str
) -> None:
    chain = Chain(with_preference(institution.workplace()), tamper)
    verdicts = chain.make(chain.sft)
    assert not verdicts[gate].passed
    with pytest.raises(GateRefused, match="failed for sft_adapter"):
        chain.make(chain.aligned)


@pytest.fixture
def base_that_stops(directory: Path, make_job: JobMaker) -> Path:
    """The base model with an adapter merged in, so that it ends its turns by itself; its card names the new files."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = make_job("learns to stop", letters(16), sft={"epochs": 12})
    train(job, Outside(on_step=lambda step: None, tell=lambda message: None))
    base = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    merged: Any = PeftModel.from_pretrained(base, str(job.output / "adapter"))
    merged.merge_and_unload().save_pretrained(directory)
    return directory


def write_card(institution: DemoInstitution, directory: Path) -> None:
    path = institution.settings.data / "models" / "tiny.yaml"
    card = yaml.safe_load(path.read_text())
    card["files"] = {file.name: file_sha256(file) for file in directory.iterdir()}
    path.write_text(yaml.safe_dump(card))


def test_an_adapter_that_was_pushed_away_from_the_end_of_turn_is_refused(
    institution: DemoInstitution, base_that_stops: Path
) -> None:
    write_card(institution, base_that_stops)
    chain = Chain(institution.workplace())
    evidence = chain.make(chain.sft)["end_of_turn_trained"].evidence
    assert evidence["stop_rate_base"] == evidence["stop_rate_adapter"] == 1.0
    institution.recipe["training"]["seed"] = 8
    chain = Chain(institution.workplace(), pushed_away(base_that_stops))
    away = chain.make(chain.sft)["end_of_turn_trained"]
    assert not away.passed, away
    assert away.evidence["stop_rate_base"] == 1.0 and away.evidence["stop_rate_adapter"] == 0.0
    assert "the base ends 4 and the adapter 0" in away.message


@pytest.mark.parametrize(
    ("adapter", "precision"), [("lora", "float32"), ("lora", "bfloat16"), ("qlora", "bfloat16"), ("none", "bfloat16")]
)
def test_the_end_of_turn_is_asked_of_models_read_as_they_were_trained(
    institution: DemoInstitution, directory: Path, monkeypatch: pytest.MonkeyPatch, adapter: str, precision: str
) -> None:
    """A base of 70 billion parameters that was trained in NF4 would not fit into any host in float32."""
    from transformers import LlamaForCausalLM

    sft = {**institution.recipe["training"]["sft"], "adapter": adapter, "precision": precision, "learning_rate": 2e-3}
    if adapter == "none":
        del sft["rank"], sft["alpha"]
    institution.recipe["training"]["sft"] = sft
    chain = Chain(institution.workplace())
    chain.make(chain.sft)
    artifact = chain.workplace.store.open(chain.refs["sft_adapter"])
    inputs = {kind: chain.workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}
    asked = set()

    def generate(model: Any, *arguments: Any, **named: Any) -> Any:
        weight = model.model.layers[0].mlp.up_proj.weight
        asked.add("nf4" if weight.dtype.itemsize == 1 else str(weight.dtype).removeprefix("torch."))
        return of_llama(model, *arguments, **named)

    of_llama = LlamaForCausalLM.generate
    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    gate = next(each for each in SFT_ADAPTER.gates if each.name == "end_of_turn_trained")
    assert gate.evaluate(chain.workplace, artifact, inputs).passed
    assert asked == {"nf4" if adapter == "qlora" else precision}


def test_where_neither_ends_a_reply_the_evidence_says_so(institution: DemoInstitution, directory: Path) -> None:
    institution.recipe["training"]["sft"] |= {"max_steps": 3, "epochs": 3, "learning_rate": 1e-3}
    chain = Chain(institution.workplace())
    verdict = chain.make(chain.sft)["end_of_turn_trained"]
    assert verdict.evidence["log_probability_adapter"] > verdict.evidence["log_probability_base"]
    assert verdict.evidence["stop_rate_base"] == verdict.evidence["stop_rate_adapter"] == 0.0 and verdict.passed
    assert "the base ends 0 and the adapter 0" in verdict.message


def test_a_changed_base_model_stops_with_the_files_name(institution: DemoInstitution, directory: Path) -> None:
    chain = Chain(institution.workplace())
    chain.make(BASE_MODEL)
    artifact = chain.workplace.store.open(chain.refs["base_model"])
    assert open_base_model(institution.settings, artifact) == directory
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        chain.make(chain.sft)
    assert chain.trainings == 0


@pytest.mark.parametrize("fault", ["missing", "extra", "absent"])
def test_verifying_names_what_is_wrong(institution: DemoInstitution, directory: Path, fault: str) -> None:
    institution.write()
    card = load_card(institution.settings, "tiny")
    assert fetch(institution.settings, "tiny", lambda message: None) == directory
    if fault == "missing":
        (directory / "config.json").unlink()
    elif fault == "extra":
        (directory / "pickle.bin").write_bytes(b"x")
    else:
        directory.rename(directory.with_name("elsewhere"))
    with pytest.raises(
        IntegrityError, match={"missing": "config.json", "extra": "pickle.bin", "absent": "tiny"}[fault]
    ):
        verify(institution.settings, card)


def test_a_model_whose_prompts_change_with_the_day_is_refused(institution: DemoInstitution, directory: Path) -> None:
    template = directory / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    institution.write()
    write_card(institution, directory)
    with pytest.raises(RecipeError, match=r"strftime_now.*fixed date.*model's card"):
        Chain(institution.workplace()).make(BASE_MODEL)


def test_checkpoints_stay_until_the_artifact_is_there(
    institution: DemoInstitution, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.recipe["training"] |= {"checkpoints": {"every_steps": 1, "keep": 1}}
    chain = Chain(institution.workplace())
    seal = ArtifactStore.seal

    def full(store: ArtifactStore, workspace: Path, describe: Any) -> ArtifactRef:
        if (workspace / "report.json").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return seal(store, workspace, describe)

    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "seal", full)
        with pytest.raises(OSError, match="No space left"):
            chain.make(chain.sft)
    (kept,) = (institution.settings.home / "checkpoints").glob("*/*/step-*")
    chain.make(chain.sft)
    assert f"going on from {kept.name}" in chain.told
    assert not list((institution.settings.home / "checkpoints").glob("*/*"))


def test_checkpoints_of_a_training_that_goes_on_are_left_alone(institution: DemoInstitution, directory: Path) -> None:
    """Those of another recipe's are removed, unless somebody trains the line: they may be that one's."""
    chain = Chain(institution.workplace())
    other = institution.settings.home / "checkpoints" / f"{chain.workplace.line.line}.sft" / "0123456789abcdef"
    other.mkdir(parents=True)
    with lock_of_line(other).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        chain.make(chain.sft)
        assert other.exists()
    institution.recipe["training"]["seed"] = 8
    again = Chain(institution.workplace())
    again.make(again.sft)
    assert not other.exists()


def test_an_unknown_model_lists_the_known(institution: DemoInstitution, directory: Path) -> None:
    with pytest.raises(NotFoundError, match="known models: tiny"):
        load_card(institution.settings, "tinny")
