"""A model tuned in full in the adapter's place: the gates on it, each with a fault planted, and the stage after it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.pinned import chat_template, open_base_model, read_descriptor
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.rows import encode_sft
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline.training.tuned_model import tuned_model
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import a_report, letters, pairs

pytestmark = pytest.mark.slow

Tamper = Callable[[Path, Path], None]  # given what the trainer left, and the base model's directory
STEPS = 30


def untouched(output: Path, base: Path) -> None:
    """No fault."""


def tune(base: Path, output: Path) -> None:
    """`model/` as a trainer leaves it: every weight trained on the letters, saved in bfloat16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    rows: list[Any] = letters(16)
    for step in range(STEPS):
        (completion,) = encode_sft(tokenizer, rows[step % len(rows)], [EOS_ID]).completions
        loss = model(input_ids=torch.tensor([completion.ids]), labels=torch.tensor([completion.labels])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")


@dataclass
class Chain:
    """Produces and judges sft_adapter and aligned_adapter, tuned by hand instead of by the trainer."""

    workplace: Workplace
    tamper: Tamper = untouched
    refs: dict[str, ArtifactRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        datasets = (
            _rows(TRAINING_DATASET.kind, "train.jsonl", letters(16)),
            _rows(PREFERENCE_DATASET.kind, "preferences.jsonl", pairs(8)),
        )
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, datasets[0]), build=self._build)
        self.aligned = replace(ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, datasets[1]), build=self._build)

    def make(self, stage: Stage) -> dict[str, Verdict]:
        for each in stage.inputs:
            if each.kind not in self.refs:
                self.make(each)
        ref = produce(stage, self.workplace, {each.kind: self.refs[each.kind] for each in stage.inputs}).ref
        self.refs[stage.kind] = ref
        self.workplace.store.make_current(self.workplace.line.line, stage.kind, ref)
        return evaluate_gates(stage, self.workplace, ref)

    def _build(self, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        base = open_base_model(workplace.settings, inputs["base_model"], silent)
        tune(base, workspace)
        (workspace / "report.json").write_text(a_report(inputs["base_model"]))
        self.tamper(workspace, base)
        return Built(summary={})


def _rows(kind: str, file: str, rows: list[dict[str, str]]) -> Stage:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Built({"rows": len(rows)}, classification="CONFIDENTIAL")

    return Stage(kind=kind, code_version="1", build=build)


@pytest.fixture
def workplace(institution: DemoInstitution, tiny_model: Path) -> Workplace:
    """A recipe that tunes the tiny model in full and prefers by DPO."""
    models = institution.settings.data / "models"
    models.mkdir(parents=True)
    card = {
        "name": "tiny",
        "licence": "own",
        "classification": "PUBLIC",
        "source": {"directory": str(tiny_model)},
        "files": {file.name: file_sha256(file) for file in tiny_model.iterdir()},
    }
    (models / "tiny.yaml").write_text(yaml.safe_dump(card))
    sft = {"adapter": "none", "precision": "bfloat16"}
    institution.recipe["training"] |= {"sft": sft, "preference": {"max_steps": 2}}
    source = {**institution.recipe["sources"][0], "name": "pairs", "role": "preferences"}
    institution.recipe["sources"].append(source)
    return institution.workplace()


def test_a_model_tuned_in_full_passes_every_gate_in_both_stages(workplace: Workplace) -> None:
    chain = Chain(workplace)
    for stage in (chain.sft, chain.aligned):
        verdicts = chain.make(stage)
        assert all(verdict.passed for verdict in verdicts.values()), verdicts
        assert "(model)" in verdicts["end_of_turn_trained"].message
        evidence = verdicts["adapter_non_zero"].evidence
        # Two layers of seven linear layers; the head is tied to the embedding, and two norms a layer and a last one.
        assert (evidence["linear_layers"], evidence["expected_tensors"]) == (14, 14 + 1 + 5)
        assert evidence["changed_tensors"] >= 14
    artifact = workplace.store.open(chain.refs["aligned_adapter"])
    assert (tuned_model(artifact).holds, tuned_model(artifact).directory) == ("model", artifact.path / "model")
    assert tuned_model(artifact).weights_sha256 == file_sha256(artifact.file("model/model.safetensors"))


@contextmanager
def weights(output: Path) -> Iterator[dict[str, Any]]:
    """The tensors of the tuned model, by name; what is changed in them is written back."""
    from safetensors.torch import load_file, save_file

    path = output / "model" / "model.safetensors"
    tensors = load_file(path)
    yield tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def of_base(base: Path) -> dict[str, Any]:
    """The base's own tensors, in the precision that the tuned model is kept in."""
    import torch
    from safetensors.torch import load_file

    return {name: tensor.to(torch.bfloat16) for name, tensor in load_file(base / "model.safetensors").items()}


def frozen_layer(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = of_base(base)[name]


def nothing_but_rounding(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        tensors |= of_base(base)


def without_one_tensor(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        del tensors["model.layers.0.self_attn.q_proj.weight"]


def not_a_number(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        tensors["model.norm.weight"][0] = float("nan")


def other_shape(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        tensors["model.layers.0.mlp.down_proj.weight"] = tensors["model.layers.0.mlp.down_proj.weight"][:, 1:]


def one_tensor_more(output: Path, base: Path) -> None:
    with weights(output) as tensors:
        tensors["model.layers.0.mlp.extra.weight"] = tensors["model.norm.weight"].clone()


def never_stops(output: Path, base: Path) -> None:
    """The end of turn's own row of embedding and head is turned around: its logit falls where it rose."""
    with weights(output) as tensors:
        tensors["model.embed_tokens.weight"][EOS_ID] *= -1


def other_template(output: Path, base: Path) -> None:
    template = chat_template(output / "model")
    (output / "model" / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<|im_end|> "))


def other_end_of_turn(output: Path, base: Path) -> None:
    file = output / "model" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "eos_token_id": 7}))


def an_adapter_instead(output: Path, base: Path) -> None:
    shutil.rmtree(output / "model")
    both(output, base)


def both(output: Path, base: Path) -> None:
    (output / "adapter").mkdir()
    (output / "adapter" / "adapter_config.json").write_text("{}")


def neither(output: Path, base: Path) -> None:
    shutil.rmtree(output / "model")


def in_shards(output: Path, base: Path) -> None:
    (output / "model" / "model.safetensors").rename(output / "model" / "model-00001-of-00002.safetensors")
    (output / "model" / "model-00002-of-00002.safetensors").write_bytes(b"more")


@pytest.mark.parametrize(
    ("tamper", "gate", "says"),
    [
        (frozen_layer, "adapter_non_zero", "1 of 14 linear layers unchanged"),
        (nothing_but_rounding, "adapter_non_zero", "14 of 14 linear layers unchanged"),
        (without_one_tensor, "adapter_non_zero", "1 missing, extra or of another shape"),
        (not_a_number, "adapter_non_zero", "1 not finite"),
        (other_shape, "adapter_non_zero", "1 missing, extra or of another shape"),
        (one_tensor_more, "adapter_non_zero", "1 missing, extra or of another shape"),
        (never_stops, "end_of_turn_trained", "(model)"),
        (other_template, "base_digest_matches", "must have the same template"),
        (other_end_of_turn, "base_digest_matches", "end-of-turn ids"),
    ],
)
def test_each_gate_says_no_to_its_fault_and_the_consumer_is_refused(
    workplace: Workplace, tamper: Tamper, gate: str, says: str
) -> None:
    chain = Chain(workplace, tamper)
    artifact = workplace.store.open(_made(chain))
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}
    asked = next(each for each in SFT_ADAPTER.gates if each.name == gate)
    verdict = asked.evaluate(workplace, artifact, inputs)
    assert not verdict.passed
    assert says in verdict.message


def _made(chain: Chain) -> ArtifactRef:
    for each in chain.sft.inputs:
        chain.make(each)
    return produce(chain.sft, chain.workplace, {each.kind: chain.refs[each.kind] for each in chain.sft.inputs}).ref


def test_an_adapter_where_the_recipe_tunes_in_full_is_refused_and_so_is_the_reverse(workplace: Workplace) -> None:
    chain = Chain(workplace, an_adapter_instead)
    artifact = workplace.store.open(_made(chain))
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}
    asked = next(each for each in SFT_ADAPTER.gates if each.name == "adapter_non_zero")
    assert "adapter: none in the recipe asks for model/" in asked.evaluate(workplace, artifact, inputs).message

    recipe = workplace.line.model_dump(mode="json")
    recipe["training"]["sft"] = {"adapter": "lora", "precision": "bfloat16"}
    with_adapter = replace(workplace, line=Line.model_validate(recipe))
    chain = Chain(with_adapter)
    verdicts = chain.make(chain.sft)
    assert "adapter: lora in the recipe asks for adapter/" in verdicts["adapter_non_zero"].message
    with pytest.raises(GateRefused, match="failed for sft_adapter"):
        chain.make(chain.aligned)


def test_an_artifact_with_both_or_neither_is_an_integrity_error(workplace: Workplace) -> None:
    for tamper in (both, neither):
        with pytest.raises(IntegrityError, match="must hold either"):
            tuned_model(workplace.store.open(_made(Chain(workplace, tamper))))


def test_preferences_go_on_from_the_model_that_sft_left(workplace: Workplace) -> None:
    jobs = []

    def launch(job: Path) -> None:
        jobs.append(TrainingJob.read(job))
        raise TrainingFailed("stopped by the test")

    chain = Chain(replace(workplace, launch=launch))
    chain.aligned = replace(chain.aligned, build=ALIGNED_ADAPTER.build)
    with pytest.raises(TrainingFailed, match="stopped by the test"):
        chain.make(chain.aligned)
    (job,) = jobs
    assert job.base_model == workplace.store.path_of(chain.refs["sft_adapter"].digest) / "model"
    assert job.parent_adapter is None
    base = workplace.store.open(chain.refs["base_model"])
    assert job.base_model_digest == read_descriptor(base)["digest"]


@pytest.mark.parametrize("shape", [{}, {"rslora": True}, {"dora": True, "target_modules": ["q_proj", "v_proj"]}])
def test_the_tensors_that_an_adapter_must_have_are_those_that_peft_saves(
    tiny_model: Path, tmp_path: Path, shape: dict[str, Any]
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from sovereign_pipeline.policy.training import Sft

    sft = Sft.model_validate({"rank": 4, "alpha": 8, **shape})
    targets = sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=sft.rslora, use_dora=sft.dora)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert expected_lora_tensors(tiny_model, sft) == {name: tuple(tensor.shape) for name, tensor in saved.items()}
    described = json.loads((tmp_path / "adapter_config.json").read_bytes())
    assert lora_settings(sft).items() <= described.items()


def test_the_weights_of_several_shards_have_one_digest(workplace: Workplace) -> None:
    tuned = tuned_model(workplace.store.open(_made(Chain(workplace, in_shards))))
    first, second = tuned.weights
    assert tuned.weights_sha256 == digest_of({first.name: file_sha256(first), second.name: sha256(b"more").hexdigest()})
