"""A tool that is a command: what it is given, that no failure is a low reward, and what its identity holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.sandbox import python_parts
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf import rewards
from sovereign_pipeline.training.rlhf.rewards import Reply, ToolRunner, code_digests, copy_code
from sovereign_pipeline.training.stages import reward_code
from sovereign_pipeline_tests.base.sandbox_programs import SHELL

SECONDS = 600
"""So long that a busy machine decides nothing."""
COLUMNS = {"response": "yes", "department": "fees"}
REPLIES = [Reply("Question?", text, COLUMNS) for text in ("secretword", "bb é\nnext line", "secretword")]
HALF = SHELL + 'while read -r line; do echo "0.5"; done\n'


def section(tmp_path: Path, script: str, files: dict[str, str] | None = None, **tool: Any) -> Rlhf:
    (tmp_path / "check").write_text(script)
    for name, text in (files or {}).items():
        (tmp_path / name).write_text(text)
    whole = {"command": ["check"], "files": [*(files or {})], "seconds": SECONDS, **tool}
    return Rlhf.model_validate({"reward": [{"name": "part", "tool": whole}]})


def runner(tmp_path: Path, rlhf: Rlhf, changed: dict[str, str] | None = None) -> ToolRunner:
    """changed: digests that the job states otherwise."""
    directory = tmp_path / f"code-{len(list(tmp_path.glob('code-*')))}"
    code = copy_code(tmp_path, rlhf, directory) | (changed or {})
    (tool,) = rlhf.tools
    return ToolRunner("part", tool, code, directory, tmp_path / "cache")


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
    assert runner(tmp_path, rlhf).scores(REPLIES) == [0.25, None, 0.25]
    (cache,) = (tmp_path / "cache").iterdir()
    assert "secretword" not in cache.read_text()


@pytest.mark.parametrize(
    ("writes", "said"),
    [
        ("exit 7", "ended with exit status 7"),
        ("kill -11 $$", "was ended by signal 11"),
        ("echo 0.5", "wrote 1 lines to its standard output"),
        ("echo 0.5; echo 0.5; echo 0.5", "wrote 3 lines"),
        ("", "wrote 0 lines"),
        ("cat >&2; echo 0.5; exit 1", "ended with exit status 1"),
        ("cat; exit 0", "line 1 of its standard output is neither"),
        ("echo 0.5; echo 1.01", "line 2 of its standard output is neither"),
        ("echo 0.5; echo -0.1", "line 2"),
        ("echo 0.5; echo nan", "line 2"),
        ("echo 0.5; echo Infinity", "line 2"),
        ("echo 0.5; echo 1e999", "line 2"),
        ("echo 0.5; echo true", "line 2"),
        ("echo 0.5; echo", "line 2"),
        ("echo 0.5; echo '[0.5]'", "line 2"),
        ("while echo 00000000000000000000000000000000000000000000000000; do :; done", "was ended by signal 25"),
    ],
    ids=["status", "signal", "short", "long", "nothing", "stderr", "echoes", "above", "below", "nan", "infinite",
         "huge", "boolean", "empty", "list", "flood"],
)  # fmt: skip
@pytest.mark.security_case("a reward's command fails or writes no number", "the training stops, and quotes no reply")
def test_a_command_that_fails_stops_the_training_and_quotes_no_reply(tmp_path: Path, writes: str, said: str) -> None:
    tool = runner(tmp_path, section(tmp_path, f"{SHELL}{writes}\n", uses=["/bin/cat"]))
    with pytest.raises(TrainingFailed, match=said) as failed:
        tool.scores(REPLIES)
    assert "secretword" not in str(failed.value)
    assert not (tmp_path / "cache").exists(), "no score was kept"


def test_a_command_that_is_too_slow_is_an_error_and_no_low_reward(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="did not end within 1 s"):
        runner(tmp_path, section(tmp_path, SHELL + "while :; do :; done", seconds=1)).scores(REPLIES)


def test_what_was_said_is_not_asked_again(tmp_path: Path) -> None:
    rlhf = section(tmp_path, HALF)
    assert runner(tmp_path, rlhf).scores(REPLIES) == [0.5, 0.5, 0.5]
    (cache,) = (tmp_path / "cache").iterdir()
    before = cache.read_bytes()
    again = runner(tmp_path, rlhf)
    again._command = None  # so that it cannot be run
    assert again.scores(REPLIES) == [0.5, 0.5, 0.5] and cache.read_bytes() == before


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
    others = [
        section(tmp_path, HALF, {"list.txt": "b"}, command=["check", "--strict"], uses=["/bin/cat"]),
        section(tmp_path, HALF, {"list.txt": "b"}),
        section(tmp_path, HALF, {"list.txt": "b"}, uses=["/bin/cat"]),
    ]
    found = {runner(tmp_path, section_).identity for section_ in others[:2]}
    found.add(runner(tmp_path, others[2]).identity)
    (tmp_path / "check").write_text(HALF + "# changed\n")
    found.add(runner(tmp_path, others[2]).identity)
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


@pytest.mark.security_case("a reward's command has another interpreter where it runs", "the training does not start")
def test_another_interpreter_than_the_job_states_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="/bin/sh: on this machine it is"):
        runner(tmp_path, section(tmp_path, HALF), {"/bin/sh": "0" * 64})


@pytest.mark.security_case("a reward's command is upgraded while it judges", "its scores are not kept")
def test_what_a_command_uses_may_not_change_while_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were upgraded between two batches."""
    tool = runner(tmp_path, section(tmp_path, HALF, uses=["/bin/cat"]))
    assert tool.scores(REPLIES[:1]) == [0.5]
    monkeypatch.setattr(rewards, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(IntegrityError, match="/bin/sh: on this machine it is"):
        tool.scores(REPLIES[1:])
    (cache,) = (tmp_path / "cache").iterdir()
    assert len(cache.read_text().splitlines()) == 1


@pytest.mark.security_case("a reward's command uses the home or the vault", "refused before anything is run")
def test_a_command_is_shown_no_directory_of_this_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.DIRECTORIES", (str(tmp_path.parent),))
    settings = Settings(home=tmp_path / "opt" / "home", data=tmp_path / "data")
    for used in ("opt", "opt/home/artifacts", "opt/home-vault"):
        (tmp_path / used).mkdir(parents=True, exist_ok=True)
        with pytest.raises(InputError, match="must not see"):
            reward_code(settings, section(tmp_path, HALF, uses=[str(tmp_path / used)]))
