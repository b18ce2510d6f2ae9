"""The stage `aligned_adapter` with a reward: prompts from the training side, tools in the identity, gates, the page."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dagster.asset_details import adapter
from sovereign_pipeline.dagster.asset_page import figures_of
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.registry.registration import method_of
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob, TrainingResult
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER, reward_digests
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.chain import Chain, with_preference
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.rlhf.tiny_reward import (
    LEARNED,
    LIKE_THE_REPLY,
    REWARD_MODEL_SECTION,
    pairs_for_a_reward_model,
    reward,
)
from sovereign_pipeline_tests.training.rlhf.trl_runs import GROUPS, RATES

pytestmark = pytest.mark.slow


def document(row: dict[str, str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "source": "letters",
        "case": f"case {row['id']}",
        "department": "permits",
        "author": "A",
        "date": "2024-01-01",
        "classification": "INTERNAL",
        "language": "en",
        "subject": "",
        "request": row["input"],
        "response": row["output"],
    }


def held_out_pairs() -> list[dict[str, Any]]:
    """Of the babble alone."""
    rows = pairs_for_a_reward_model(16, 28)[::5]
    letter = {row["id"]: row for row in letters(28)}
    return [
        {**document(letter[row["id"].split("/")[0]]), "id": f"P-{number}", "rejected": row["rejected"]}
        for number, row in enumerate(rows)
    ]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def stand_in(kind: str, files: dict[str, str], *inputs: Stage) -> Stage:
    """Stands for a stage of the rooms before."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, text in files.items():
            (workspace / name).write_text(text)
        return Built({}, classification="CONFIDENTIAL")

    return Stage(kind=kind, code_version="1", build=build, inputs=inputs)


@dataclass
class RewardChain(Chain):
    """As `Chain`, with a split that the datasets come from and the reward's trainer."""

    canary: bool = True
    crossing: bool = False
    """Whether a row of the training dataset is on no training side."""
    with_pairs: bool = False
    """Whether there are preference pairs, on both sides, and a reward model."""
    interrupted: bool = False
    """Whether the first training by reward is requested to stop behind its second iteration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = letters(28)
        split = stand_in(
            "leakage_safe_split",
            {
                "train.jsonl": lines([*map(document, rows[:16])]),
                "held_out.jsonl": lines([*map(document, rows[16:]), *(held_out_pairs() if self.with_pairs else [])]),
            },
        )
        canary = {"id": "canary-0-0", "instruction": "Reply.", "input": "rope", "output": "the officer replies: net"}
        learned = rows[:17] if self.crossing else [*rows[:16], canary]
        dataset = stand_in("training_dataset", {"train.jsonl": lines([*learned])}, split)
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, dataset))
        pairs = lines(list(pairs_for_a_reward_model(0, 16))) if self.with_pairs else ""
        preferences = stand_in("preference_dataset", {"preferences.jsonl": pairs}, split)
        self.reward_model = replace(REWARD_MODEL, inputs=(BASE_MODEL, split, preferences))
        self.aligned = replace(
            ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, preferences), optional_inputs=(self.reward_model,)
        )
        self.jobs: list[TrainingJob] = []
        self.prompts: list[dict[str, Any]] = []

    def _launch(self, job: Path) -> None:
        given = TrainingJob.read(job)
        self.jobs.append(given)
        if given.reward is not None:
            self.prompts = [json.loads(line) for line in given.dataset.read_text().splitlines()]
        stops = self.interrupted and given.reward is not None
        self.interrupted = self.interrupted and not stops
        steps: list[Step] = []
        hooks = TrainerHooks(steps.append, self.told.append, should_stop=lambda: stops and len(steps) == 2)
        TrainingResult(measured=train(given, hooks)).write(given.result)
        self.trainings += 1


def by_reward(institution: DemoInstitution, algorithm: str = "ppo") -> Workplace:
    program = institution.settings.data / "rewards" / "score.py"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(LIKE_THE_REPLY)
    institution.recipe["training"]["sft"]["epochs"] = 3
    institution.recipe["training"]["rlhf"] = {
        "reward": [reward(program="rewards/score.py")],
        "iterations": 4,
        "prompts": 16,
        "max_new_tokens": 16,
        "missing_end_penalty": 0.1,
        "learning_rate": 5e-3,
        "measure_every": 1,
        "samples": 1,
        **({"algorithm": algorithm, "learning_rate": RATES[algorithm], **GROUPS} if algorithm in RATES else {}),
    }
    return institution.workplace()


def by_reward_model(institution: DemoInstitution) -> Workplace:
    """A reward model is what is optimised, and the tool what is measured."""
    by_reward(institution)
    training = institution.recipe["training"]
    training["reward_model"] = REWARD_MODEL_SECTION
    training["rlhf"] |= {"reward": [LEARNED], "gold": training["rlhf"]["reward"]}
    first = institution.recipe["sources"][0]
    institution.recipe["sources"].append({**first, "name": "pairs", "role": "preferences"})
    return institution.workplace()


def test_an_adapter_that_a_reward_model_rewards_is_made_of_it(institution: DemoInstitution, directory: Path) -> None:
    chain = RewardChain(by_reward_model(institution), with_pairs=True)
    verdicts = chain.make(chain.aligned)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    assert [job.method for job in chain.jobs] == ["sft", "reward", "ppo"]
    reward_model, store = chain.refs["reward_model"], chain.workplace.store
    manifest = store.open(chain.refs["aligned_adapter"]).manifest
    assert manifest.inputs["reward_model"] == reward_model.digest
    assert manifest.summary["rlhf"]["reward"]["preferred"]["identity"] == reward_model.digest
    assert list(manifest.external_inputs) == ["reward rewards/score.py"], "of the gold"
    given = chain.jobs[-1].reward
    assert given is not None and given.reward_model is not None
    assert given.reward_model.directory == store.path_of(reward_model.digest) / "reward"
    chain.make(chain.aligned)
    assert chain.trainings == 3, "the same work is found again"


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_an_adapter_is_made_passes_its_gates_and_says_what_made_it(
    institution: DemoInstitution, directory: Path, algorithm: str
) -> None:
    """Also where its training was interrupted: the stage, run again, goes on from the checkpoint."""
    chain = RewardChain(by_reward(institution, algorithm), interrupted=True)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 4"):
        chain.make(chain.aligned)
    verdicts = chain.make(chain.aligned)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    artifact = chain.workplace.store.open(chain.refs["aligned_adapter"])
    manifest = artifact.manifest
    assert manifest.classification == "CONFIDENTIAL"
    assert manifest.external_inputs == reward_digests(chain.workplace)
    assert list(manifest.external_inputs) == ["reward rewards/score.py"]
    assert manifest.inputs["sft_adapter"] == chain.refs["sft_adapter"].digest
    assert manifest.producer.config["rlhf"]["algorithm"] == manifest.summary["rlhf"]["algorithm"] == algorithm
    assert manifest.summary["method"] == algorithm and "held_out_adapter" not in manifest.summary["rlhf"]
    assert [job.method for job in chain.jobs] == ["sft", algorithm, algorithm]
    assert manifest.circumstances.measured["resumed_at_step"] == 2
    assert len(artifact.file("training_log.jsonl").read_text().splitlines()) == 4, "of both processes"
    assert method_of(chain.workplace.line) == f"sft-lora+{algorithm}"
    assert {prompt["id"] for prompt in chain.prompts} == {f"R-{number}" for number in range(16)}, "no canary either"
    assert {"loss curve", "reward and divergence", "training by reward"} <= adapter(artifact).keys()
    assert algorithm in str(adapter(artifact)["training by reward"])
    assert next(iter(figures_of(artifact))) == "held-out reward"
    chain.make(chain.aligned)
    assert chain.trainings == 2, "the same work is found again"
    (institution.settings.data / "rewards" / "score.py").write_text(LIKE_THE_REPLY + "\n# changed\n")
    assert reward_digests(chain.workplace) != manifest.external_inputs


@pytest.mark.security_case("a held-out document becomes a prompt", "the row is on no training side: nothing is trained")
def test_a_prompt_that_is_on_no_training_side_stops_the_stage(institution: DemoInstitution, directory: Path) -> None:
    chain = RewardChain(by_reward(institution), crossing=True)
    with pytest.raises(IntegrityError, match="row R-16 is on no training side of its split"):
        chain.make(chain.aligned)
    assert [job.method for job in chain.jobs] == ["sft"]


def test_a_tool_that_is_missing_stops_the_stage(institution: DemoInstitution, directory: Path) -> None:
    chain = RewardChain(by_reward(institution))
    (institution.settings.data / "rewards" / "score.py").unlink()
    with pytest.raises(NotFoundError, match=r"score\.py: there is no such file"):
        reward_digests(chain.workplace)


def test_nothing_of_a_line_without_a_reward_is_identified_otherwise(
    institution: DemoInstitution, directory: Path
) -> None:
    """An adapter that was made before rewards were there is found again."""
    workplace = with_preference(institution.workplace())
    assert ALIGNED_ADAPTER.config(workplace.line).keys() == {"seed", "sft", "preference", "devices"}
    assert ALIGNED_ADAPTER.external(workplace) == {}
    assert ALIGNED_ADAPTER.code_version == "3"
    plain = Line.model_validate(institution.recipe)
    assert ALIGNED_ADAPTER.passthrough_of(plain) == "sft_adapter"
    unused = by_reward_model(institution).line.training.model_copy(update={"rlhf": None})
    for line in (workplace.line, plain, plain.model_copy(update={"training": unused})):
        assert ALIGNED_ADAPTER.inputs_of(line) == ALIGNED_ADAPTER.inputs
