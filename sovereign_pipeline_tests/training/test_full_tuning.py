"""A model tuned in full in the adapter's place: the gates on it, each with a fault planted, and the stage after it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base_models.stages import BASE_MODEL, chat_template, read_descriptor
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import tuned_model
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.chain import Chain, with_preference
from sovereign_pipeline_tests.training.conftest import JobMaker, a_report

pytestmark = pytest.mark.slow

Tamper = Callable[[Path, Path], object]  # given what the trainer left, and the base model's directory
Tensors = dict[str, Any]


@pytest.fixture
def tuned(trained: JobMaker) -> Path:
    """`model/` as the trainer leaves it: every weight trained on the letters, saved in bfloat16, with its tokenizer."""
    sft = {"adapter": "none", "rank": 16, "alpha": 32, "learning_rate": 2e-3, "precision": "bfloat16"}
    return trained(sft).output / "model"


MakeChain = Callable[..., Chain]


@pytest.fixture
def chain(tuned: Path, directory: Path) -> MakeChain:
    """`chain(workplace, tamper)`: a chain in which the tuned model stands for what a trainer would make."""

    def make(workplace: Workplace, tamper: Tamper = lambda output, base: None) -> Chain:
        def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
            shutil.copytree(tuned, workspace / "model")
            (workspace / "report.json").write_text(a_report(inputs["base_model"]))
            tamper(workspace, directory)
            return Built(summary={})

        made = Chain(workplace)
        made.sft = replace(made.sft, build=build)
        made.aligned = replace(made.aligned, inputs=(BASE_MODEL, made.sft, made.aligned.inputs[2]), build=build)
        return made

    return make


def produced(chain: Chain) -> ArtifactRef:
    """The sft_adapter, before its gates."""
    for each in chain.sft.inputs:
        chain.make(each)
    return produce(chain.sft, chain.workplace, {each.kind: chain.refs[each.kind] for each in chain.sft.inputs}).ref


@pytest.fixture
def workplace(institution: DemoInstitution, directory: Path) -> Workplace:
    """A recipe that tunes the tiny model in full and prefers by DPO."""
    institution.recipe["training"]["sft"] = {"adapter": "none", "precision": "bfloat16"}
    return with_preference(institution.workplace())


def test_a_model_tuned_in_full_passes_every_gate_in_both_stages(workplace: Workplace, chain: MakeChain) -> None:
    made = chain(workplace)
    for stage in (made.sft, made.aligned):
        verdicts = made.make(stage)
        assert all(verdict.passed for verdict in verdicts.values()), verdicts
        assert "(model)" in verdicts["end_of_turn_trained"].message
        evidence = verdicts["adapter_non_zero"].evidence
        # Two layers of seven linear layers; the head is tied to the embedding, and two norms a layer and a last one.
        assert (evidence["linear_layers"], evidence["expected_tensors"]) == (14, 14 + 1 + 5)
        assert evidence["changed_tensors"] >= 14
    artifact = workplace.store.open(made.refs["aligned_adapter"])
    assert (tuned_model(artifact).holds, tuned_model(artifact).directory) == ("model", artifact.path / "model")
    assert tuned_model(artifact).weights_sha256 == file_sha256(artifact.file("model/model.safetensors"))


UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


def on_tensors(change: Callable[[Tensors, Tensors], object]) -> Tamper:
    """Change the tuned model's tensors. change: given these, and the base's in the precision of the tuned model."""

    def tamper(output: Path, base: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        path = output / "model" / "model.safetensors"
        tensors = load_file(path)
        change(tensors, {name: each.to(torch.bfloat16) for name, each in load_file(base / "model.safetensors").items()})
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
        config = path.with_name("config.json")  # the trainer's names the precision of the training
        config.write_text(json.dumps(json.loads(config.read_bytes()) | {"dtype": "float32"}))

    return tamper


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


WRONG = "1 missing, extra or of another shape"


@pytest.mark.parametrize(
    ("tamper", "gate", "says"),
    [
        (on_tensors(lambda own, base: own.update({UP: base[UP]})), "adapter_non_zero", "1 of 14 linear layers unch"),
        (on_tensors(lambda own, base: own.pop(UP)), "adapter_non_zero", WRONG),
        (on_tensors(lambda own, base: own[NORM][0].fill_(float("nan"))), "adapter_non_zero", "1 not finite"),
        (on_tensors(lambda own, base: own.update({f"{DOWN}.more": own[NORM].clone()})), "adapter_non_zero", WRONG),
        # The end of turn's own row of embedding and head is turned around: its logit falls where it rose.
        (on_tensors(lambda own, base: own[EMBEDDING][EOS_ID].mul_(-1)), "end_of_turn_trained", "(model)"),
        (other_template, "base_digest_matches", "must have the same template"),
        (other_end_of_turn, "base_digest_matches", "end-of-turn ids"),
    ],
    ids=["frozen", "missing", "nan", "extra", "never stops", "template", "end of turn"],
)
def test_each_gate_says_no_to_its_fault(
    workplace: Workplace, chain: MakeChain, tamper: Tamper, gate: str, says: str
) -> None:
    made = chain(workplace, tamper)
    verdict = made.gate(gate, produced(made))
    assert not verdict.passed
    assert says in verdict.message


def test_an_adapter_where_the_recipe_tunes_in_full_is_refused_and_so_is_the_reverse(
    workplace: Workplace, chain: MakeChain
) -> None:
    made = chain(workplace, an_adapter_instead)
    verdict = made.gate("adapter_non_zero", produced(made))
    assert "requires model/" in verdict.message

    recipe = workplace.line.model_dump(mode="json")
    recipe["training"]["sft"] = {"adapter": "lora", "precision": "bfloat16"}
    made = chain(replace(workplace, line=Line.model_validate(recipe)))
    verdicts = made.make(made.sft)
    assert "requires adapter/" in verdicts["adapter_non_zero"].message
    with pytest.raises(GateRefused, match="failed for sft_adapter"):
        made.make(made.aligned)


@pytest.mark.parametrize("tamper", [both, neither])
def test_an_artifact_with_both_or_neither_is_an_integrity_error(
    workplace: Workplace, chain: MakeChain, tamper: Tamper
) -> None:
    with pytest.raises(IntegrityError, match="must contain either"):
        tuned_model(workplace.store.open(produced(chain(workplace, tamper))))


def test_preferences_go_on_from_the_model_that_sft_left(workplace: Workplace, chain: MakeChain) -> None:
    jobs = []

    def launch(job: Path) -> None:
        jobs.append(TrainingJob.read(job))
        raise TrainingFailed("stopped by the test")

    made = chain(workplace)
    made.workplace = replace(workplace, launch=launch)
    made.aligned = replace(made.aligned, build=ALIGNED_ADAPTER.build)
    with pytest.raises(TrainingFailed, match="stopped by the test"):
        made.make(made.aligned)
    (job,) = jobs
    assert job.base_model == workplace.store.path_of(made.refs["sft_adapter"].digest) / "model"
    assert job.parent_adapter is None
    base = workplace.store.open(made.refs["base_model"])
    assert job.base_model_digest == read_descriptor(base)["digest"]


@pytest.mark.parametrize("shape", [{}, {"rslora": True}, {"dora": True, "target_modules": ["q_proj", "v_proj"]}])
def test_the_tensors_that_an_adapter_must_have_are_those_that_peft_saves(
    tiny_model: Path, tmp_path: Path, shape: dict[str, Any]
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    sft = Sft.model_validate({"rank": 4, "alpha": 8, **shape})
    targets = sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=sft.rslora, use_dora=sft.dora)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert expected_lora_tensors(tiny_model, sft) == {name: tuple(tensor.shape) for name, tensor in saved.items()}
    described = json.loads((tmp_path / "adapter_config.json").read_bytes())
    assert lora_settings(sft).items() <= described.items()


def test_the_weights_of_several_shards_have_one_digest(workplace: Workplace, chain: MakeChain) -> None:
    found = tuned_model(workplace.store.open(produced(chain(workplace, in_shards))))
    first, second = found.weights
    assert found.weights_sha256 == digest_of({first.name: file_sha256(first), second.name: sha256(b"more").hexdigest()})
