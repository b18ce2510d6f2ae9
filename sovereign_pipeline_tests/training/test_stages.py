"""The stages and their gates, with faults planted between the trainer and the artifact."""

import errno
import fcntl
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, RecipeError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Training
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, lock_of_line
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import tuned_model
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.chain import Chain, Tamper, with_preference

pytestmark = pytest.mark.slow


def test_nothing_is_trained_for_a_line_without_an_evaluation(institution: DemoInstitution, directory: Path) -> None:
    del institution.recipe["evaluation"]
    chain = Chain(institution.workplace())
    with pytest.raises(RecipeError, match="no 'evaluation' yet"):
        chain.make(chain.sft)
    assert chain.trainings == 0 and "sft_adapter" not in chain.refs


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


@pytest.mark.parametrize(
    ("method", "digest"), [("dpo", "1dba721a5a51"), ("ipo", "452c1a3ceeac"), ("kto", "025abb4b9163")]
)
def test_a_recipe_of_before_makes_the_adapter_of_before(method: str, digest: str) -> None:
    """Its part in the identity, as 0.2.0 had it. Another digest would train every institution's adapters anew.

    The precision is what a recipe that names none is decided to have on a machine with the units, and always had.
    """
    training = {
        "base_model": "tiny",
        "instruction": "A.",
        "sft": {"precision": "bfloat16"},
        "preference": {"method": method},
    }
    line = SimpleNamespace(training=Training.model_validate(training))
    assert digest_of(ALIGNED_ADAPTER.config(cast(Line, line)))[:12] == digest


def test_without_preferences_the_sft_adapter_is_passed_through(institution: DemoInstitution, directory: Path) -> None:
    chain = Chain(institution.workplace())
    chain.make(chain.sft)
    aligned = produce(chain.aligned, chain.workplace, chain.refs | {"preference_dataset": _made(chain)})
    assert aligned.ref == chain.refs["sft_adapter"]


def _made(chain: Chain) -> ArtifactRef:
    chain.make(chain.aligned.inputs[2])
    return chain.refs["preference_dataset"]


def on_tensors(change: Callable[[str, Any], Any]) -> Tamper:
    def tamper(output: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = output / "adapter" / "adapter_model.safetensors"
        changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
        save_file({name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None}, path)

    return tamper


LORA_A, LORA_B = "layers.0.self_attn.q_proj.lora_A.weight", "layers.1.mlp.up_proj.lora_B.weight"


def other_base(output: Path) -> None:
    report = json.loads((output / "report.json").read_bytes())
    report["base_model"]["digest"] = "f" * 64
    (output / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("tamper", "gate"),
    [
        (on_tensors(lambda name, tensor: tensor * (not name.endswith(LORA_B))), "adapter_non_zero"),
        (on_tensors(lambda name, tensor: None if name.endswith(LORA_A) else tensor), "adapter_non_zero"),
        (on_tensors(lambda name, tensor: tensor / (not name.endswith(LORA_A))), "adapter_non_zero"),
        (on_tensors(lambda name, tensor: -tensor if ".lora_B." in name else tensor), "end_of_turn_trained"),
        (other_base, "base_digest_matches"),
    ],
    ids=["zeros", "missing", "not a number", "unlearned", "another base"],
)
def test_each_gate_says_no_to_its_fault_and_the_consumer_is_refused(
    institution: DemoInstitution, directory: Path, kept: Path, tamper: Tamper, gate: str
) -> None:
    chain = Chain(with_preference(institution.workplace()), tamper, kept)
    verdicts = chain.make(chain.sft)
    assert not verdicts[gate].passed
    with pytest.raises(GateRefused, match="failed for sft_adapter"):
        chain.make(chain.aligned)


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
    assert f"resuming from {kept.name}" in chain.told
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


@pytest.mark.security_case(
    "The directory of a line's checkpoints is a link to the keys", "nothing behind it is removed"
)
def test_nothing_behind_a_link_is_removed_with_old_checkpoints(institution: DemoInstitution, directory: Path) -> None:
    chain = Chain(institution.workplace())
    keys = institution.settings.keys / "officers"
    keys.mkdir(parents=True)
    of_line = institution.settings.home / "checkpoints" / f"{chain.workplace.line.line}.sft"
    of_line.parent.mkdir()
    of_line.symlink_to(keys.parent)
    chain.make(chain.sft)
    assert keys.exists()


@dataclass
class Swapped(Chain):
    """A chain in which a file is changed while the trainer runs, at its first message, and put back at its second."""

    changed: str = ""

    def _train(self, job: TrainingJob) -> dict[str, float]:
        root, _, name = self.changed.partition("/")
        file = (job.dataset.parent if root == "rows" else job.base_model) / name
        whole = file.read_bytes()
        other = whole[:-1] + b"\0" if file.suffix == ".safetensors" else whole + b"\n"

        def progress(message: str) -> None:
            self.told.append(message)
            file.write_bytes(whole if len(self.told) > 1 else other)

        return train(job, TrainerHooks(lambda step: None, progress))


@pytest.mark.security_case(
    "Rows, weights or files beside them are changed while the trainer runs, and put back",
    "the training ends with an error, and nothing is stored, also no checkpoint from which the next one would resume",
)
@pytest.mark.parametrize("changed", ["rows/train.jsonl", "base/model.safetensors", "base/tokenizer.json"])
def test_what_changes_while_the_trainer_runs_is_not_trained(
    institution: DemoInstitution, directory: Path, changed: str
) -> None:
    institution.recipe["training"]["checkpoints"] = {"every_steps": 1}
    chain = Swapped(institution.workplace(), changed=changed)
    with pytest.raises(IntegrityError, match=changed.partition("/")[2]):
        chain.make(chain.sft)
    assert len(chain.told) > 1 and "sft_adapter" not in chain.refs
    assert not list(institution.settings.home.rglob("step-*"))


def other_rows(job: TrainingJob, file: Path) -> None:
    job.dataset.write_text(job.dataset.read_text().replace("the officer replies", "pay the clerk rope"))


def one_file_more(job: TrainingJob, file: Path) -> None:
    (job.base_model / "adapter_config.json").write_text("{}")


def other_job(job: TrainingJob, file: Path) -> None:
    job.model_copy(update={"seed": 8, "files": None}).write(file)


@pytest.mark.security_case("The trainer's job is changed before it is read", "rejected, and nothing is trained")
@pytest.mark.parametrize(
    ("change", "said"),
    [(other_rows, "train"), (one_file_more, "adapter_config"), (other_job, "was changed after the job was launched")],
)
def test_a_job_that_was_changed_is_not_run(
    institution: DemoInstitution, directory: Path, change: Callable[[TrainingJob, Path], None], said: str
) -> None:
    chain = Chain(institution.workplace())
    launch = chain.workplace.launch

    def changed(job: Path) -> None:
        change(TrainingJob.read(job), job)
        launch(job)

    chain.workplace = replace(chain.workplace, launch=changed)
    with pytest.raises(IntegrityError, match=said):
        chain.make(chain.sft)
    assert not chain.told
