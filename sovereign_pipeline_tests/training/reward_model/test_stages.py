"""The stage and its gates through the real store, with pairs of a held-out side and faults planted in the output."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.dagster.asset_details import reward_model as page_of
from sovereign_pipeline.dagster.asset_page import figures_of
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, TrainingResult
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.stages import REWARD_MODEL
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.chain import Tamper, dataset_stage
from sovereign_pipeline_tests.training.conftest import letters, pairs

pytestmark = pytest.mark.slow

SECTION = {"learning_rate": 1e-2, "epochs": 4, "batch_size": 4, "gradient_accumulation": 1, "warmup_steps": 0}
Swapped = Callable[[int], bool]


def with_reward_model(workplace: Workplace) -> Workplace:
    recipe = workplace.line.model_dump(mode="json")
    recipe["training"]["reward_model"] = SECTION
    recipe["sources"].append({**recipe["sources"][0], "name": "pairs", "role": "preferences"})
    return replace(workplace, line=Line.model_validate(recipe))


def split_stage(swapped: Swapped) -> Stage:
    """Stands for the split. swapped: whether people preferred the other reply of the held-out pair of this number."""

    def document(number: int, letter: dict[str, str], pair: dict[str, str]) -> Document:
        better, worse = (pair["rejected"], pair["chosen"]) if swapped(number) else (pair["chosen"], pair["rejected"])
        return Document(
            id=f"H-{number}",
            source="pairs",
            case=f"C-{number}",
            department="Harbour",
            author="",
            date="2025-01-01",
            classification="CONFIDENTIAL",
            language="en",
            subject="",
            request=letter["input"],
            response=better,
            rejected=worse,
        )

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        rows = list(zip(letters(28)[12:], pairs(28)[12:], strict=True))
        documents = [document(number, letter, pair) for number, (letter, pair) in enumerate(rows)]
        write_documents(workspace / "held_out.jsonl", documents)
        return Built({"held_out": len(documents)}, classification="CONFIDENTIAL")

    return Stage(kind="leakage_safe_split", code_version="1", build=build)


@dataclass
class RewardChain:
    """Makes a reward model and evaluates its gates. The training itself runs once for all tests, in `trained`."""

    workplace: Workplace
    trained: Path
    tamper: Tamper = lambda output: None
    swapped: Swapped = lambda number: False
    refs: dict[str, ArtifactRef] = field(default_factory=dict)

    def make(self) -> dict[str, Verdict]:
        workplace = replace(self.workplace, launch=self._launch)
        dataset = dataset_stage("preference_dataset", "preferences.jsonl", pairs(12))
        stage = replace(REWARD_MODEL, inputs=(BASE_MODEL, split_stage(self.swapped), dataset))
        for each in (*stage.inputs, stage):
            ref = produce(each, workplace, {one.kind: self.refs[one.kind] for one in each.inputs}).ref
            self.refs[each.kind] = ref
            workplace.store.make_current(workplace.line.line, each.kind, ref)
            if each is BASE_MODEL:
                evaluate_gates(each, workplace, ref)
        return evaluate_gates(stage, workplace, ref)

    def _launch(self, job: Path) -> None:
        self._run(TrainingJob.read(job))

    def _run(self, job: TrainingJob) -> None:
        if not self.trained.exists():
            train(job, TrainerHooks(on_step=lambda step: None, progress=lambda message: None))
            shutil.copytree(job.output, self.trained)
        else:
            shutil.copytree(self.trained, job.output)
        scores = [json.loads(line) for line in (job.output / "held_out_scores.jsonl").read_text().splitlines()]
        for number, each in enumerate(scores):
            if self.swapped(number):
                each["chosen"], each["rejected"] = each["rejected"], each["chosen"]
        _write_scores(job.output, scores)
        self.tamper(job.output)
        TrainingResult(measured={"training_seconds": 1.0}).write(job.result)


def _write_scores(output: Path, scores: list[dict[str, Any]]) -> None:
    (output / "held_out_scores.jsonl").write_text("".join(json.dumps(each) + "\n" for each in scores))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reward") / "output"


def test_a_reward_model_passes_its_gates_and_its_page_shows_what_it_is_worth(
    institution: DemoInstitution, directory: Path, trained: Path
) -> None:
    chain = RewardChain(with_reward_model(institution.workplace()), trained)
    verdicts = chain.make()
    assert verdicts.keys() == {gate.name for gate in REWARD_MODEL.gates}
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    assert "1.00 (0.81 to 1.00) of 16 held-out pairs; chance is 0.5" in verdicts["pairs_told_apart"].message
    assert verdicts["pairs_told_apart"].evidence["length_only"]["of"] == 16
    artifact = chain.workplace.store.open(chain.refs["reward_model"])
    assert artifact.manifest.classification == "CONFIDENTIAL"
    assert (artifact.path / "reward.sigstore.json").is_file()
    page = page_of(artifact)
    assert page.keys() == {"loss curve", "held-out pairs told apart", "calibration"}
    assert figures_of(artifact)["held-out pairs told apart"] == 1.0


def test_a_line_without_one_passes_its_pairs_through(institution: DemoInstitution) -> None:
    assert REWARD_MODEL.passthrough_of(institution.workplace().line) == "preference_dataset"


@pytest.mark.parametrize(
    ("swapped", "outcome"), [(lambda number: number % 2 == 0, "inconclusive"), (lambda number: True, "fail")]
)
def test_no_better_than_chance_is_no_reward_model(
    institution: DemoInstitution, directory: Path, trained: Path, swapped: Swapped, outcome: str
) -> None:
    chain = RewardChain(with_reward_model(institution.workplace()), trained, swapped=swapped)
    assert chain.make()["pairs_told_apart"].outcome == outcome


def other_scores(output: Path) -> None:
    scores = [json.loads(line) for line in (output / "held_out_scores.jsonl").read_text().splitlines()]
    _write_scores(output, [{**scores[0], "chosen": scores[0]["chosen"] + 1}, *scores[1:]])


def fewer_scores(output: Path) -> None:
    lines = (output / "held_out_scores.jsonl").read_text().splitlines(keepends=True)
    (output / "held_out_scores.jsonl").write_text("".join(lines[1:]))


def _change(output: Path, name: str, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    file = output / "reward" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key: tensor * factor if name in key else tensor for key, tensor in tensors.items()}, file)


def zero_head(output: Path) -> None:
    _change(output, "score", 0.0)


def infinite_adapter(output: Path) -> None:
    _change(output, "layers.1.mlp.up_proj.lora_A", float("inf"))


def another_base(output: Path) -> None:
    report = json.loads((output / "report.json").read_bytes())
    report["base_model"]["digest"] = "1" * 64
    (output / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("tamper", "gate", "says"),
    [
        (other_scores, "pairs_told_apart", "1 of 16 recorded scores are not those of this model"),
        (fewer_scores, "pairs_told_apart", "16 of 16 recorded scores"),
        (zero_head, "reward_model_complete", "or one of zeros"),
        (infinite_adapter, "reward_model_complete", "1 tensors are not finite"),
        (another_base, "reward_model_complete", "trained on the base model 111111"),
    ],
)
def test_a_fault_in_the_output_is_found(
    institution: DemoInstitution, directory: Path, trained: Path, tamper: Tamper, gate: str, says: str
) -> None:
    verdict = RewardChain(with_reward_model(institution.workplace()), trained, tamper).make()[gate]
    assert verdict.outcome == "fail" and says in verdict.message
