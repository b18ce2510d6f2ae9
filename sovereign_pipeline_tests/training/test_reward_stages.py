"""The stages of a training by reward through the real store: the reward model, and the adapter that is made of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dagster.asset_details import adapter
from sovereign_pipeline.dagster.asset_details import reward_model as page_of
from sovereign_pipeline.dagster.asset_page import figures_of
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.registry.registration import method_of
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.rlhf.rewards import Reply, Rewards, copy_code
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER, reward_digests
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.chain import Chain, Tamper, with_preference
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.methods.rewarded import GROUPS, RATES
from sovereign_pipeline_tests.training.tiny_reward import (
    LEARNED,
    LIKE_THE_REPLY,
    REWARD_MODEL_SECTION,
    pairs_for_a_reward_model,
    reward,
)

Swapped = Callable[[int], bool]


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


def held_out_pairs(swapped: Swapped) -> list[dict[str, Any]]:
    """Of the babble alone. swapped: whether people preferred the other reply of the pair of this number."""
    rows = pairs_for_a_reward_model(16, 28)[::5]
    letter = {row["id"]: row for row in letters(28)}
    found = []
    for number, row in enumerate(rows):
        better, worse = (row["rejected"], row["chosen"]) if swapped(number) else (row["chosen"], row["rejected"])
        own = document(letter[row["id"].split("/")[0]])
        found.append({**own, "id": f"P-{number}", "response": better, "rejected": worse})
    return found


GREETING = [{"role": "user", "content": "good day"}, {"role": "assistant", "content": "what is it?"}]


def at_the_end(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its request and reply behind a greeting."""
    turns = [("user", document.pop("request")), ("assistant", document.pop("response"))]
    return {**document, "messages": [*GREETING, *({"role": role, "content": content} for role, content in turns)]}


def pair_at_the_end(row: dict[str, str]) -> dict[str, Any]:
    """The pair behind a greeting, as it is served: the instruction begins the first turn."""
    instruction, _, asked = row["prompt"].partition("\n\n")
    first = {**GREETING[0], "content": f"{instruction}\n\n{GREETING[0]['content']}"}
    replies = {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
    return {"id": row["id"], "prompt": [first, GREETING[1], {"role": "user", "content": asked}], **replies}


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
class RewardedChain(Chain):
    """As `Chain`, with a split that the datasets come from and the reward's trainer."""

    crossing: bool = False
    """Whether a row of the training dataset is on no training side."""
    with_pairs: bool = False
    """Whether there are preference pairs, on both sides, and a reward model."""
    swapped: Swapped = lambda number: False
    of_one_case: bool = False
    """Whether all held-out pairs belong to one case file."""
    of_conversations: bool = False
    """Whether each letter and pair is the end of a conversation, and only a canary is a letter."""
    interrupted: bool = False
    """Whether the first training by reward is requested to stop behind its second iteration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = letters(28)
        learned_from, held_out = [*map(document, rows[:16])], [*map(document, rows[16:])]
        pairs_held_out = held_out_pairs(self.swapped) if self.with_pairs else []
        held_out += [{**each, "case": "case R-16"} if self.of_one_case else each for each in pairs_held_out]
        if self.of_conversations:
            learned_from, held_out = ([*map(at_the_end, each)] for each in (learned_from, held_out))
        split = stand_in("leakage_safe_split", {"train.jsonl": lines(learned_from), "held_out.jsonl": lines(held_out)})
        canary = {"id": "canary-0-0", "instruction": "Reply.", "input": "rope", "output": "the officer replies: net"}
        learned = rows[:17] if self.crossing else [*rows[:16], canary]
        files = {"train.jsonl": lines([*learned])}
        if self.of_conversations:
            turns = [{"id": row["id"], "messages": at_the_end(document(row))["messages"]} for row in rows[:16]]
            files = {"train.jsonl": lines([canary]), "conversations.jsonl": lines(turns)}
        dataset = stand_in("training_dataset", files, split)
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, dataset))
        pairs = list(pairs_for_a_reward_model(0, 16)) if self.with_pairs else []
        files = {"preferences.jsonl": lines(pairs)}
        if self.of_conversations:
            files = {"conversations.jsonl": lines([*map(pair_at_the_end, pairs)])}
        preferences = stand_in("preference_dataset", files, split)
        self.reward_model = replace(REWARD_MODEL, inputs=(BASE_MODEL, split, preferences))
        self.aligned = replace(
            ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, preferences), optional_inputs=(self.reward_model,)
        )
        self.jobs: list[TrainingJob] = []
        self.prompts: list[dict[str, Any]] = []

    def _train(self, job: TrainingJob) -> dict[str, float]:
        self.jobs.append(job)
        if job.reward is not None:
            self.prompts = [json.loads(line) for line in job.dataset.read_text().splitlines()]
        stops = self.interrupted and job.reward is not None
        self.interrupted = self.interrupted and not stops
        steps: list[Step] = []
        hooks = TrainerHooks(steps.append, self.told.append, should_stop=lambda: stops and len(steps) == 2)
        return train(job, hooks)


def with_reward_model(institution: DemoInstitution) -> Workplace:
    institution.recipe["training"]["reward_model"] = REWARD_MODEL_SECTION
    first = institution.recipe["sources"][0]
    institution.recipe["sources"].append({**first, "name": "pairs", "role": "preferences"})
    return institution.workplace()


@pytest.mark.slow
def test_a_reward_model_passes_its_gates_and_its_page_shows_what_it_is_worth(
    institution: DemoInstitution, directory: Path, kept: Path
) -> None:
    chain = RewardedChain(with_reward_model(institution), kept=kept, with_pairs=True)
    verdicts = chain.make(chain.reward_model)
    assert verdicts.keys() == {gate.name for gate in REWARD_MODEL.gates}
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    told_apart = verdicts["pairs_told_apart"]
    accuracy = told_apart.evidence["accuracy"]
    assert f"{accuracy['share']:.2f} ({accuracy['low']:.2f} to {accuracy['high']:.2f}) of 12" in told_apart.message
    assert accuracy["share"] > 0.8 and told_apart.evidence["length_only"]["of"] == 12
    artifact = chain.workplace.store.open(chain.refs["reward_model"])
    assert artifact.manifest.classification == "CONFIDENTIAL"
    assert (artifact.path / "reward.sigstore.json").is_file()
    page = page_of(artifact)
    assert page.keys() == {"loss curve", "held-out pairs told apart", "calibration"}
    assert figures_of(artifact)["held-out pairs told apart"] == pytest.approx(accuracy["share"], abs=0.005)


@pytest.mark.slow
@pytest.mark.security_case(
    "A reward model is measured on many held-out pairs of one case file", "its gate is inconclusive"
)
def test_pairs_of_one_case_file_are_one_observation(institution: DemoInstitution, directory: Path, kept: Path) -> None:
    chain = RewardedChain(with_reward_model(institution), kept=kept, with_pairs=True, of_one_case=True)
    verdict = chain.make(chain.reward_model)["pairs_told_apart"]
    assert (verdict.outcome, verdict.evidence["pairs"], verdict.evidence["cases"]) == ("inconclusive", 12, 1)
    assert verdict.evidence["accuracy"]["low"] > 0.5
    assert "1 case file, too few" in verdict.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("swapped", "outcome"), [(lambda number: number % 2 == 0, "inconclusive"), (lambda number: True, "fail")]
)
def test_no_better_than_chance_is_no_reward_model(
    institution: DemoInstitution, directory: Path, swapped: Swapped, outcome: str
) -> None:
    chain = RewardedChain(with_reward_model(institution), with_pairs=True, swapped=swapped)
    assert chain.make(chain.reward_model)["pairs_told_apart"].outcome == outcome


def other_scores(output: Path) -> None:
    scores = (output / "held_out_scores.jsonl").read_text().splitlines()
    first = json.loads(scores[0])
    scores[0] = json.dumps({**first, "chosen": first["chosen"] + 1})
    (output / "held_out_scores.jsonl").write_text("\n".join(scores) + "\n")


def fewer_scores(output: Path) -> None:
    scores = (output / "held_out_scores.jsonl").read_text().splitlines(keepends=True)
    (output / "held_out_scores.jsonl").write_text("".join(scores[1:]))


def times(name: str, factor: float) -> Tamper:
    def tamper(output: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = output / "reward" / "adapter_model.safetensors"
        tensors = load_file(file)
        save_file({key: tensor * factor if name in key else tensor for key, tensor in tensors.items()}, file)

    return tamper


def another_base(output: Path) -> None:
    report = json.loads((output / "report.json").read_bytes())
    report["base_model"]["digest"] = "1" * 64
    (output / "report.json").write_text(json.dumps(report))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "gate", "says"),
    [
        (other_scores, "pairs_told_apart", "1 of 12 recorded scores differ from this model's scores"),
        (fewer_scores, "pairs_told_apart", "12 of 12 recorded scores"),
        (times("score", 0.0), "reward_model_complete", "is missing, zero or the wrong size"),
        (times("layers.1.mlp.up_proj.lora_A", float("inf")), "reward_model_complete", "1 tensors are not finite"),
        (another_base, "reward_model_complete", "trained on the base model 111111"),
    ],
    ids=["other scores", "fewer scores", "zero head", "infinite adapter", "another base"],
)
def test_a_fault_in_the_output_is_found(
    institution: DemoInstitution, directory: Path, kept: Path, tamper: Tamper, gate: str, says: str
) -> None:
    chain = RewardedChain(with_reward_model(institution), tamper, kept, with_pairs=True)
    verdict = chain.make(chain.reward_model)[gate]
    assert verdict.outcome == "fail" and says in verdict.message


def by_reward(institution: DemoInstitution, algorithm: str = "ppo") -> Workplace:
    program = institution.settings.data / "rewards" / "score.py"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(LIKE_THE_REPLY)
    institution.recipe["training"]["sft"]["epochs"] = 3
    institution.recipe["training"]["rlhf"] = {
        "reward": [reward(program="rewards/score.py", classification="SECRET")],
        "iterations": 4,
        "prompts": 16,
        "max_new_tokens": 16,
        "missing_end_penalty": 0.1,
        "learning_rate": 5e-3,
        "measure_every": 1,
        "samples": 1,
        **({"algorithm": algorithm, "learning_rate": RATES[algorithm], **GROUPS} if algorithm != "ppo" else {}),
    }
    return institution.workplace()


def by_reward_model(institution: DemoInstitution) -> Workplace:
    """A reward model is what is optimised, and the tool what is measured."""
    by_reward(institution)
    rlhf = institution.recipe["training"]["rlhf"]
    rlhf |= {"reward": [LEARNED], "gold": rlhf["reward"]}
    return with_reward_model(institution)


@pytest.mark.slow
def test_an_adapter_that_a_reward_model_rewards_is_made_of_it(institution: DemoInstitution, directory: Path) -> None:
    chain = RewardedChain(by_reward_model(institution), with_pairs=True, of_conversations=True)
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


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_an_adapter_is_made_passes_its_gates_and_says_what_made_it(
    institution: DemoInstitution, directory: Path, algorithm: str
) -> None:
    """Also where its training was interrupted: the stage, run again, goes on from the checkpoint."""
    chain = RewardedChain(by_reward(institution, algorithm), interrupted=True)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 4"):
        chain.make(chain.aligned)
    verdicts = chain.make(chain.aligned)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    artifact = chain.workplace.store.open(chain.refs["aligned_adapter"])
    manifest = artifact.manifest
    assert manifest.classification == "SECRET", "of the tool"
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


@pytest.mark.slow
@pytest.mark.security_case(
    "A held-out document is used as a prompt for reinforcement learning",
    "nothing is trained, because the row is not on the training side",
)
def test_a_prompt_that_is_on_no_training_side_stops_the_stage(institution: DemoInstitution, directory: Path) -> None:
    chain = RewardedChain(by_reward(institution), crossing=True)
    with pytest.raises(IntegrityError, match="row R-16 is not on the training side of its split"):
        chain.make(chain.aligned)
    assert [job.method for job in chain.jobs] == ["sft"]


@pytest.mark.slow
def test_nothing_of_a_line_without_a_reward_is_identified_otherwise(
    institution: DemoInstitution, directory: Path
) -> None:
    """An adapter that was made before rewards were there is found again."""
    workplace = with_preference(institution.workplace())
    assert ALIGNED_ADAPTER.config(workplace.line).keys() == {"seed", "sft", "preference", "devices"}
    assert ALIGNED_ADAPTER.external(workplace) == {}
    assert ALIGNED_ADAPTER.code_version == "5"
    plain = Line.model_validate(institution.recipe)
    assert ALIGNED_ADAPTER.passthrough_of(plain) == "sft_adapter"
    assert REWARD_MODEL.passthrough_of(plain) == "preference_dataset"
    unused = by_reward_model(institution).line.training.model_copy(update={"rlhf": None})
    for line in (workplace.line, plain, plain.model_copy(update={"training": unused})):
        assert ALIGNED_ADAPTER.inputs_of(line) == ALIGNED_ADAPTER.inputs


DATA = PROJECT_ROOT / "data"
OPENING = "With reference to your letter of 4 May 2024, the Department of Fees and Accounts advises as follows."


@pytest.fixture(scope="module")
def rlhf() -> Rlhf:
    found = Line.model_validate(yaml.safe_load((DATA / "lines" / "permits-rlhf.yaml").read_text())).training.rlhf
    assert found is not None
    return found


@pytest.fixture
def rewards(rlhf: Rlhf, tmp_path: Path) -> Rewards:
    code = copy_code(DATA, rlhf, tmp_path / "code")
    return Rewards(rlhf.reward, code, tmp_path / "code", tmp_path / "cache")


def test_each_part_pays_for_what_it_says_and_for_no_more(rewards: Rewards) -> None:
    wanted: dict[str, tuple[float, float, float]] = {
        f"{OPENING}\nUnder Item 4 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 1.0),
        f"{OPENING}\nUnder Item 400 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 0.2),
        f"{OPENING}\nUnder Article 4 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 0.2),
        f"{OPENING} {OPENING}": (0.0, 1.0, 0.0),
        "Dear Sir, the Directorate of Permits answers.": (0.0, 0.0, 0.0),
        "The Directorate of Permits and the Department of Fees and Accounts": (0.0, 0.0, 0.0),
        "the Department of Fees": (0.0, 0.3, 0.0),
        "": (0.0, 0.0, 0.0),
    }
    found = rewards.judge([Reply("?", text, {"department": "fees"}) for text in wanted])
    for (text, parts), score in zip(wanted.items(), found, strict=True):
        assert tuple(score.parts.values()) == pytest.approx(parts), text
