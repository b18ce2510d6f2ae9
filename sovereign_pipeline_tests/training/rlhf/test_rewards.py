"""A tool in the sandbox: what it is given, what it may return, that no failure is a low reward, and the cache."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.sandbox import call_function, python_parts
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.plots import reward_curves_png
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.reward_model import HEAD, REWARD_DIRECTORY, Scorer, read_scorer
from sovereign_pipeline.training.rlhf import rewards
from sovereign_pipeline.training.rlhf.policy import REFERENCE, Policy
from sovereign_pipeline.training.rlhf.rewards import (
    REWARD,
    Reply,
    RewardAdapter,
    Rewards,
    ToolRunner,
    code_digests,
    copy_code,
)
from sovereign_pipeline.training.rows import Completion, encode
from sovereign_pipeline.training.stages import reward_code
from sovereign_pipeline_tests.base.sandbox_programs import SHELL
from sovereign_pipeline_tests.base_models.chat_templates import chat_template_of
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.methods.rewarded import GROUPS, RATES
from sovereign_pipeline_tests.training.tiny_reward import LEARNED, learn_until_killed, reward, reward_job
from sovereign_pipeline_tests.training.trainings import files, learn, log, report, stopped

TOOLS = json.loads(Path(__file__).with_name("tools.json").read_text(encoding="utf-8"))
"""Name -> a tool's program, and what is said of it."""
SECONDS = 600
"""So long that a busy machine decides nothing."""
COLUMNS = {"response": "yes", "department": "fees"}
REPLIES = [Reply("Question?", text, COLUMNS) for text in ("a", "bb", "a")]

JUDGED = [Reply("Question?", text, COLUMNS) for text in ("secretword", "bb é\nnext line", "secretword")]
HALF = SHELL + 'while read -r line; do echo "0.5"; done\n'
LENGTHS = "def score(rows):\n    return [len(row['reply']) / 10 for row in rows]"
MakeTool = Callable[..., ToolRunner]


def section(tmp_path: Path, program: str, files: dict[str, str] | None = None, **tool: Any) -> Rlhf:
    """A reward of one tool with this program: a command where it begins as a script, and else a function."""
    name = "check" if program.startswith("#!") else "score.py"
    (tmp_path / name).write_text(program)
    for path, text in (files or {}).items():
        (tmp_path / path).write_text(text)
    of_kind = {"command": [name]} if name == "check" else {"path": name}
    whole = {**of_kind, "files": [*(files or {})], "classification": "PUBLIC", "seconds": SECONDS, **tool}
    return Rlhf.model_validate({"reward": [{"name": "part", "tool": whole}]})


def runner(tmp_path: Path, rlhf: Rlhf, changed: dict[str, str] | None = None) -> ToolRunner:
    """changed: digests that the job states otherwise."""
    directory = tmp_path / f"code-{len(list(tmp_path.glob('code-*')))}"
    code = copy_code(tmp_path, rlhf, directory) | (changed or {})
    return ToolRunner("part", rlhf.tools[0], code, directory, tmp_path / "cache")


@pytest.fixture
def tool(tmp_path: Path) -> MakeTool:
    """`tool(program, files={name: text}, **section)`: the tool with this program."""
    return lambda *given, **named: runner(tmp_path, section(tmp_path, *given, **named))


def test_a_tool_gets_prompt_reply_its_columns_and_files_and_may_abstain(tool: MakeTool) -> None:
    program = """
def score(rows, files):
    assert all(sorted(row) == ["department", "prompt", "reply"] for row in rows)
    return [None if row["reply"] == files["abstain.txt"] else 0.5 for row in rows]
"""
    assert tool(program, {"abstain.txt": "bb"}, columns=["department"]).scores(REPLIES) == [0.5, None, 0.5]


@pytest.mark.security_case(
    "A reward's tool fails or does not return a number", "the training stops without quoting a reply"
)
@pytest.mark.parametrize("fault", TOOLS)
def test_a_tool_that_fails_stops_the_training_and_quotes_no_reply(tool: MakeTool, tmp_path: Path, fault: str) -> None:
    program, said = TOOLS[fault]
    with pytest.raises(TrainingFailed, match=said) as failed:
        tool(program, uses=["/bin/cat"] if program.startswith("#!") else []).scores(JUDGED)
    assert "secretword" not in str(failed.value)
    assert not (tmp_path / "cache").exists(), "no score was kept"


@pytest.mark.security_case("a reward's tool hangs", "the training stops; no score is invented")
@pytest.mark.parametrize(
    "program",
    ["def score(rows):\n    while True:\n        pass", f"{SHELL}while :; do :; done"],
    ids=["function", "command"],
)
def test_a_tool_that_is_too_slow_is_an_error_and_no_low_reward(tool: MakeTool, program: str) -> None:
    with pytest.raises(TrainingFailed, match="did not end within 1 s"):
        tool(program, seconds=1).scores(REPLIES)


@pytest.mark.security_case(
    "a reward's tool opens a connection or reads a file", "the sandbox has no network and no files"
)
def test_a_tool_has_no_network_and_no_file_of_this_machine(tool: MakeTool, tmp_path: Path) -> None:
    program = f"""
import os, socket
def score(rows):
    found = [os.path.exists({str(tmp_path)!r})]
    try:
        socket.create_connection(("127.0.0.1", 22), 1)
        found.append(True)
    except OSError:
        found.append(False)
    return [float(any(found)) for row in rows]
"""
    assert tool(program).scores(REPLIES) == [0.0, 0.0, 0.0]


def test_one_batch_is_one_call_and_what_was_said_is_not_asked_again(
    tool: MakeTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(*given: Any) -> Any:
        asked.append(len(given[2]))
        return call_function(*given)

    monkeypatch.setattr(rewards, "call_function", counted)
    first, scores = tool(LENGTHS), [0.1, 0.2, 0.1]
    assert first.scores(REPLIES) == scores
    assert first.scores([*REPLIES, Reply("Question?", "zzz", COLUMNS)])[:3] == scores
    assert tool(LENGTHS).scores(REPLIES) == scores  # another process, after a kill
    assert asked == [2, 1]
    tool(LENGTHS + "  # changed").scores(REPLIES)
    assert asked == [2, 1, 2]
    assert not any("zzz" in each.read_text() for each in (tmp_path / "cache").iterdir())


@pytest.mark.security_case(
    "Cached scores of a reward are replaced in the home, with digests made anew",
    "they are dropped, and asked for again",
)
def test_a_changed_score_and_a_torn_last_line_are_asked_for_again(tool: MakeTool, tmp_path: Path) -> None:
    tool(LENGTHS).scores(REPLIES)
    (cache,) = (tmp_path / "cache").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-9])
    assert tool(LENGTHS).scores(REPLIES) == [0.1, 0.2, 0.1]
    assert sorted(cache.read_bytes().splitlines()) == sorted(whole.splitlines())
    keys = [json.loads(line)[0] for line in whole.splitlines()]
    cache.write_text("".join(json.dumps([key, 0.9, digest_of([key, 0.9])]) + "\n" for key in keys))
    assert tool(LENGTHS).scores(REPLIES) == [0.1, 0.2, 0.1]
    assert sorted(cache.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_code_that_is_missing_or_was_changed_is_not_run(tmp_path: Path) -> None:
    rlhf = section(tmp_path, LENGTHS)
    code = copy_code(tmp_path, rlhf, tmp_path / "code")
    assert code == code_digests(tmp_path, rlhf)
    (tmp_path / "code" / code["score.py"]).write_text("def score(rows):\n    return [1.0 for row in rows]")
    with pytest.raises(IntegrityError, match=r"the copy of score\.py is not"):
        ToolRunner("part", rlhf.tools[0], code, tmp_path / "code", tmp_path / "cache")
    (tmp_path / "score.py").unlink()
    with pytest.raises(NotFoundError, match="names this file, but the file is missing"):
        code_digests(tmp_path, rlhf)


def test_parts_are_weighted_and_one_that_abstains_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(
        "def length(rows):\n    return [len(row['reply']) / 10 for row in rows]\n"
        "def is_a(rows):\n    return [None if row['reply'] == 'bb' else 1 for row in rows]\n"
        "def silent(rows):\n    return [None for row in rows]\n"
    )
    parts = [
        {"name": name, "weight": weight, "tool": {"path": "parts.py", "function": name, "seconds": SECONDS}}
        for name, weight in (("length", 3), ("is_a", 1), ("silent", 5))
    ]
    rlhf = Rlhf.model_validate({"reward": parts})
    code = copy_code(tmp_path, rlhf, tmp_path / "code")
    first, second, _ = Rewards(rlhf.reward, code, tmp_path / "code", tmp_path / "cache").judge(REPLIES)
    assert first.total == pytest.approx((3 * 0.1 + 1) / 4)
    assert second.total == pytest.approx(0.2)
    assert second.parts == {"length": 0.2, "is_a": None, "silent": None}
    both = Rewards(rlhf.reward, code, tmp_path / "code", tmp_path / "cache")
    assert both.total_over(first.judged, first) == first.total
    assert both.total_over(second.judged, first) == pytest.approx(0.1), "as if is_a had abstained for it too"
    assert both.total_over(first.judged, second) is None
    (silent,) = Rewards(rlhf.reward[2:], code, tmp_path / "code", tmp_path / "cache").judge(REPLIES[:1])
    assert silent.total is None


def test_a_command_gets_a_line_of_json_for_each_reply_and_may_abstain(tmp_path: Path) -> None:
    script = f"""#!{python_parts()[0]}
import json, sys
weights = json.load(open("/tool/weights.json"))
for line in sys.stdin:
    row = json.loads(line)
    assert sorted(row) == ["department", "prompt", "reply"] and sys.argv[1:] == ["--strict"]
    print("null" if row["reply"] == "bb é\\nnext line" else weights[row["department"]])
"""
    rlhf = section(
        tmp_path, script, {"weights.json": '{"fees": 0.25}'}, command=["check", "--strict"], columns=["department"]
    )
    assert runner(tmp_path, rlhf).scores(JUDGED) == [0.25, None, 0.25]
    (cache,) = (tmp_path / "cache").iterdir()
    assert "secretword" not in cache.read_text()


def test_command_files_arguments_and_interpreter_decide_the_identity(tmp_path: Path) -> None:
    plain = section(tmp_path, HALF, {"list.txt": "a"}, uses=["/bin/cat"])
    code = code_digests(tmp_path, plain)
    assert code == {
        "check": file_sha256(tmp_path / "check"),
        "list.txt": file_sha256(tmp_path / "list.txt"),
        "/bin/sh": file_sha256(Path("/bin/sh")),
        "/bin/cat": file_sha256(Path("/bin/cat")),
    }
    first = runner(tmp_path, plain).identity
    assert runner(tmp_path, plain).identity == first
    strict, unused, plain = (
        section(tmp_path, HALF, {"list.txt": "b"}, **changes)
        for changes in ({"command": ["check", "--strict"], "uses": ["/bin/cat"]}, {}, {"uses": ["/bin/cat"]})
    )
    found = {runner(tmp_path, each).identity for each in (strict, unused, plain)}
    (tmp_path / "check").write_text(HALF + "# changed\n")
    found.add(runner(tmp_path, plain).identity)
    assert len(found | {first}) == 5


def test_a_directory_that_is_used_has_one_digest_over_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tmp_path / "share"
    (used / "deep").mkdir(parents=True)
    (used / "deep" / "Module.pm").write_text("1;")
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.DIRECTORIES", (str(tmp_path),))
    rlhf = section(tmp_path, f"#!{python_parts()[0]}\n", uses=[str(used)])
    before = code_digests(tmp_path, rlhf)
    assert json.dumps(code_digests(tmp_path, rlhf)) == json.dumps(before)
    (used / "deep" / "link").symlink_to("Module.pm")
    linked = code_digests(tmp_path, rlhf)
    (used / "deep" / "Module.pm").write_text("0;")
    assert len({each[str(used)] for each in (before, linked, code_digests(tmp_path, rlhf))}) == 3


@pytest.mark.security_case(
    "A reward's command has a different interpreter on the training machine", "the training does not start"
)
def test_another_interpreter_than_the_job_states_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="/bin/sh: the digest on this machine is"):
        runner(tmp_path, section(tmp_path, HALF), {"/bin/sh": "0" * 64})


@pytest.mark.security_case("A reward's command is upgraded during a training", "its scores are discarded")
def test_what_a_command_uses_may_not_change_while_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were upgraded between two batches."""
    judge = runner(tmp_path, section(tmp_path, HALF, uses=["/bin/cat"]))
    assert judge.scores(JUDGED[:1]) == [0.5]
    monkeypatch.setattr(rewards, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(IntegrityError, match="/bin/sh: the digest on this machine is"):
        judge.scores(JUDGED[1:])
    (cache,) = (tmp_path / "cache").iterdir()
    assert len(cache.read_text().splitlines()) == 1


@pytest.mark.security_case("a reward's command uses the home or the vault", "rejected before anything is run")
def test_a_command_is_shown_no_directory_of_this_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.DIRECTORIES", (str(tmp_path.parent),))
    settings = Settings(home=tmp_path / "opt" / "home", data=tmp_path / "data")
    for used in ("opt", "opt/home/artifacts", "opt/home-vault"):
        (tmp_path / used).mkdir(parents=True, exist_ok=True)
        with pytest.raises(InputError, match="must not see"):
            reward_code(settings, section(tmp_path, HALF, uses=[str(tmp_path / used)]))
    (tmp_path / "opt" / "home-keys").mkdir()
    with pytest.raises(InputError, match="must not see"):
        reward_code(settings, section(tmp_path, HALF, {str(tmp_path / "opt" / "home-keys" / "pipeline.key"): "key"}))


@pytest.fixture
def job(make_job: JobMaker, parent: Path, reward_model: TrainingJob) -> TrainingJob:
    directory = reward_model.output / REWARD_DIRECTORY
    return reward_job(make_job, "judged", parent, {"reward": [LEARNED]}, reward_model=directory)


@pytest.fixture
def policy(job: TrainingJob) -> Policy:
    return Policy(load_trainable(job, lambda message: None), job, temperature=0.7)


def tokenizer(job: TrainingJob) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job.base_model)


def held_out(reward_model: TrainingJob) -> list[dict[str, str]]:
    assert reward_model.held_out is not None
    return [json.loads(line) for line in reward_model.held_out.read_text().splitlines()]


def reply(row: dict[str, str], text: str, ids: Sequence[int] | None = None) -> Reply:
    return Reply(row["prompt"], text, {"response": row["chosen"]}, None if ids is None else tuple(ids))


def base_tensors(model: Any) -> dict[str, int]:
    return {name: each.data_ptr() for name, each in model.named_parameters() if "lora_" not in name}


@pytest.mark.slow
def test_a_score_is_that_of_the_reward_models_own_trainer(
    job: TrainingJob, policy: Policy, reward_model: TrainingJob
) -> None:
    """The recorded scores, and those of the base that is read for the gate; for the end of turn and for a cut reply.
    All adapters stand on one base."""
    rows, base = held_out(reward_model), base_tensors(policy.model)
    adapter = RewardAdapter(policy.model, tokenizer(job), job)
    rows, recorded = rows[:6], log(reward_model, "held_out_scores")[:6]
    encoded = [encode(tokenizer(job), "reward", dict(row), job.eos_ids) for row in rows]
    fits = [max(len(each.reply_ids) for each in row.completions) <= 16 for row in encoded]
    assert any(fits), "the policy may write replies of that length"
    found = adapter.judge([reply(row, row["rejected"]) for row in rows])
    for each, wanted, is_whole in zip(found, recorded, fits, strict=True):
        if is_whole:
            assert each.raw == pytest.approx(wanted["rejected"], abs=1e-4)
            margin = wanted["rejected"] - wanted["chosen"]
            assert each.probability == pytest.approx(float(torch.sigmoid(torch.tensor(margin))), abs=1e-4)
    assert max(each.probability for each in found) < 0.5
    assert base_tensors(policy.model) == base, "no second copy, and none was moved"
    assert set(policy.model.peft_config) == {"default", REFERENCE, REWARD}
    assert (policy.model.active_adapter, policy.model.training) == ("default", True)
    (own,) = adapter.judge([reply(rows[0], rows[0]["chosen"])])
    assert own.probability == 0.5, "as good as itself"

    prompt, chosen = encoded[0].completions[0].prompt_ids, encoded[0].completions[0].reply_ids
    scorer = read_scorer(job.base_model, reward_model.output / REWARD_DIRECTORY, job.sft)
    cut, whole = adapter.judge([reply(rows[0], "…", ids) for ids in (chosen[:3], chosen)])
    assert [cut.raw, whole.raw] == pytest.approx(
        scorer.scores([Completion(prompt, chosen[:3]), Completion(prompt, chosen)]), abs=1e-4
    )
    assert chosen[-1] in job.eos_ids and whole.raw == own.raw and cut.raw != whole.raw


@pytest.mark.slow
def test_replies_that_differ_in_their_tools_alone_have_their_own_prompts(job: TrainingJob, policy: Policy) -> None:
    kit = tokenizer(job)
    kit.chat_template = chat_template_of("chatml-tools")
    adapter = RewardAdapter(policy.model, kit, job)

    def sampled(description: str) -> Reply:
        schema = {"type": "object", "properties": {}}
        tool = {"type": "function", "function": {"name": "f", "description": description, "parameters": schema}}
        messages = ({"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."})
        return Reply("When?", "Now.", {"response": "Now."}, (7, 8, 2), messages, (tool,))

    alone = adapter.judge([sampled("Returns the hour of the ferry.")])
    policy.model.delete_adapter(REWARD)
    adapter = RewardAdapter(policy.model, kit, job)
    adapter.judge([sampled("Mends lamps.")])
    assert adapter.judge([sampled("Returns the hour of the ferry.")]) == alone


@pytest.mark.slow
def test_a_score_depends_on_no_other_reply_and_is_cached(
    job: TrainingJob, policy: Policy, reward_model: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [reply(row, row["rejected"]) for row in held_out(reward_model)[:5]]
    together = RewardAdapter(policy.model, tokenizer(job), job).judge(replies)
    assert job.reward is not None
    (cache,) = job.reward.cache.glob("*.jsonl")
    assert cache.stem == "2" * 64 and not any(word in cache.read_text() for word in ("officer", "rope"))
    cache.rename(cache.with_suffix(".kept"))
    policy.model.delete_adapter(REWARD)
    again = RewardAdapter(policy.model, tokenizer(job), job)
    assert [again.judge([each])[0] for each in reversed(replies)] == together[::-1], "to the bit"

    policy.model.delete_adapter(REWARD)
    monkeypatch.setattr(Scorer, "scores", lambda *given: pytest.fail("it was scored already"))
    assert RewardAdapter(policy.model, tokenizer(job), job).judge(replies) == together


def change(job: TrainingJob, to: Path, alter: Callable[[dict[str, Any]], dict[str, Any]]) -> TrainingJob:
    from safetensors.torch import load_file, save_file

    assert job.reward is not None and job.reward.reward_model is not None
    shutil.copytree(job.reward.reward_model.directory, to)
    file = to / "adapter_model.safetensors"
    save_file(alter(load_file(file)), file)
    given = job.reward.reward_model.model_copy(update={"directory": to})
    return job.model_copy(update={"reward": job.reward.model_copy(update={"reward_model": given})})


@pytest.mark.slow
def test_tensors_that_fit_nowhere_or_give_no_number_are_an_error_and_no_low_reward(
    job: TrainingJob, policy: Policy, tmp_path: Path, reward_model: TrainingJob
) -> None:
    def without_one(tensors: dict[str, Any]) -> dict[str, Any]:
        gone = next(name for name in tensors if name != HEAD)
        return {**{name: each for name, each in tensors.items() if name != gone}, f"{gone}.other": tensors[gone]}

    def infinite(tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, HEAD: tensors[HEAD] * float("nan")}

    with pytest.raises(IntegrityError, match="1 tensors of the reward model are missing and 1 belong to no layer"):
        RewardAdapter(policy.model, tokenizer(job), change(job, tmp_path / "fewer", without_one))
    policy.model.delete_adapter(REWARD)
    adapter = RewardAdapter(policy.model, tokenizer(job), change(job, tmp_path / "infinite", infinite))
    row = held_out(reward_model)[0]
    with pytest.raises(TrainingFailed, match=r"2 of 2 replies a score that is not finite"):
        adapter.judge([reply(row, row["rejected"])])


SECTION = {"reward": [LEARNED], "gold": [reward("likeness")], "iterations": 5}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path, reward_model: TrainingJob
) -> TrainingJob:
    """A job that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    job = reward_job(
        lambda *given: make_session_job(directory, *given),
        "whole",
        parent,
        SECTION,
        reward_model=reward_model.output / REWARD_DIRECTORY,
    )
    learn(job)
    return job


@pytest.mark.slow
def test_the_policy_learns_what_the_reward_model_prefers_and_a_tool_measures(whole: TrainingJob) -> None:
    rows, found = log(whole), report(whole, "rlhf")
    assert rows[-1]["reward/preferred"] > rows[0]["reward/preferred"] + 0.05
    assert rows[-1]["reward_raw/preferred"] > rows[0]["reward_raw/preferred"]
    assert all(0 <= row["reward/preferred"] <= 1 for row in rows)
    assert found["gold_of_best"] > found["gold_of_parent"], "the tool agrees, on held-out prompts"
    assert found["reward"]["preferred"]["identity"] == "2" * 64
    assert "gold/likeness" in rows[-1] and "gold_raw/likeness" not in rows[-1]
    assert reward_curves_png(whole.output / "training_log.jsonl").startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_kill_while_the_reward_model_scores_changes_no_byte(
    make_job: JobMaker, parent: Path, whole: TrainingJob, reward_model: TrainingJob
) -> None:
    """In the third iteration, of a child process that shares nothing with this one afterwards."""
    job = reward_job(
        make_job,
        "killed",
        parent,
        SECTION,
        reward_model=reward_model.output / REWARD_DIRECTORY,
        checkpoints={"every_steps": 1, "keep": 1},
    )
    judge, calls = RewardAdapter._scores, [0]

    def counted(self: RewardAdapter, completions: list[object]) -> list[float]:
        calls[0] += 1
        if calls[0] == 6 + 1 + 3:  # six kinds of replies are tried before, and samples
            os.kill(os.getpid(), signal.SIGKILL)
        return judge(self, completions)  # type: ignore[arg-type]

    left = learn_until_killed(job, lambda patch: patch.setattr(RewardAdapter, "_scores", counted))
    assert left == "step-00000002"
    assert "resuming from step-00000002" in learn(job)
    assert files(job.output) == files(whole.output)


@pytest.mark.slow
def test_trl_s_trainers_resume_with_a_reward_model_beside_their_reference(
    make_job: JobMaker, parent: Path, reward_model: TrainingJob
) -> None:
    """The checkpoint holds all three adapters, and the result the policy's alone."""
    rloo = {**SECTION, **GROUPS, "algorithm": "rloo", "learning_rate": RATES["rloo"], "iterations": 2}

    def job(name: str) -> TrainingJob:
        return reward_job(make_job, name, parent, rloo, reward_model=reward_model.output / REWARD_DIRECTORY)

    unbroken, broken = job("unbroken"), job("broken")
    learn(unbroken)
    stopped(broken, after=1)
    (checkpoint,) = broken.checkpoint_directory.glob("step-*")
    assert {each.parent.name for each in checkpoint.glob("*/adapter_config.json")} == {"ref", "reward"}
    learn(broken)
    assert files(broken.output) == files(unbroken.output)
    assert {each.parent.name for each in unbroken.output.rglob("adapter_config.json")} == {"adapter"}


@pytest.mark.slow
@pytest.mark.security_case(
    "A policy games its reward", "a reward model that prefers stuffed replies is rejected before training"
)
def test_a_reward_model_that_never_saw_stuffed_replies_is_refused(
    make_job: JobMaker, parent: Path, reward_model: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: one that prefers whatever the other rejects."""
    scores = RewardAdapter._scores
    monkeypatch.setattr(RewardAdapter, "_scores", lambda *given: [-each for each in scores(*given)])
    job = reward_job(make_job, "stuffed", parent, SECTION, reward_model=reward_model.output / REWARD_DIRECTORY)
    with pytest.raises(TrainingFailed, match="does not need a good reply"):
        learn(job)
