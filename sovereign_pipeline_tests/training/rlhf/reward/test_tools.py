"""A tool in the sandbox: what it is given, what it may return, that no failure is a low reward, and the cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.base.sandbox import call_function
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf import rewards
from sovereign_pipeline.training.rlhf.rewards import Reply, Rewards, ToolRunner, code_digests, copy_code

SECONDS = 600
"""So long that a busy machine decides nothing."""
COLUMNS = {"response": "yes", "department": "fees"}
REPLIES = [Reply("Question?", text, COLUMNS) for text in ("a", "bb", "a")]

MakeRunner = Callable[..., ToolRunner]


@pytest.fixture
def runner(tmp_path: Path) -> MakeRunner:
    """`runner(program, files={name: text}, **tool)`: the tool with this program."""
    made = 0

    def make(program: str, files: dict[str, str] | None = None, **tool: Any) -> ToolRunner:
        nonlocal made
        made += 1
        (tmp_path / "score.py").write_text(program)
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        part = {"name": "part", "tool": {"path": "score.py", "files": [*(files or {})], "seconds": SECONDS, **tool}}
        rlhf = Rlhf.model_validate({"reward": [part]})
        directory = tmp_path / f"code-{made}"
        code = copy_code(tmp_path, rlhf, directory)
        return ToolRunner("part", rlhf.tools[0], code, directory, tmp_path / "cache")

    return make


def test_a_tool_gets_prompt_reply_its_columns_and_files_and_may_abstain(runner: MakeRunner) -> None:
    program = """
def score(rows, files):
    assert all(sorted(row) == ["department", "prompt", "reply"] for row in rows)
    return [None if row["reply"] == files["abstain.txt"] else 0.5 for row in rows]
"""
    assert runner(program, {"abstain.txt": "bb"}, columns=["department"]).scores(REPLIES) == [0.5, None, 0.5]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def score(rows):\n    return [1 / 0 for row in rows]", "ZeroDivisionError in line 2"),
        ("def score(rows):\n    raise ValueError(rows[0]['reply'])", r"ValueError in line 2\."),
        ("def another(rows):\n    return [1 for row in rows]", "KeyError"),
        ("def score(rows):\n    import torch", "ModuleNotFoundError"),
        ("def score(rows):\n    import os\n    os._exit(0)", "an end before it returned"),
        ("def score(rows):\n    return [0.5]", "a list with a number from 0 to 1"),
        ("def score(rows):\n    return [1.5 for row in rows]", "a list with a number from 0 to 1"),
        ("def score(rows):\n    return [True for row in rows]", "a list with a number from 0 to 1"),
        ("def score(rows):\n    return [float('nan') for row in rows]", "ValueError"),
        ("def score(rows):\n    return 0.5", "a list with a number from 0 to 1"),
    ],
    ids=["division", "raises", "missing", "package", "exit", "short", "above", "boolean", "nan", "number"],
)
def test_a_tool_that_fails_stops_the_training_and_quotes_no_reply(runner: MakeRunner, program: str, said: str) -> None:
    secret = [Reply("Question?", "secretword", COLUMNS), Reply("Question?", "b", COLUMNS)]
    with pytest.raises(TrainingFailed, match=said) as failed:
        runner(program).scores(secret)
    assert "secretword" not in str(failed.value)


@pytest.mark.security_case("a reward's tool hangs", "the training stops; no score is invented")
def test_a_tool_that_is_too_slow_is_an_error_and_no_low_reward(runner: MakeRunner) -> None:
    with pytest.raises(TrainingFailed, match="did not end within 1 s"):
        runner("def score(rows):\n    while True:\n        pass", seconds=1).scores(REPLIES)


@pytest.mark.security_case("a reward's tool opens a connection or reads a file", "the sandbox has neither")
def test_a_tool_has_no_network_and_no_file_of_this_machine(runner: MakeRunner, tmp_path: Path) -> None:
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
    assert runner(program).scores(REPLIES) == [0.0, 0.0, 0.0]


def test_one_batch_is_one_call_and_what_was_said_is_not_asked_again(
    runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(program: str, function: str, argument: Any, limits: Any) -> Any:
        asked.append(len(argument))
        return call_function(program, function, argument, limits)

    monkeypatch.setattr(rewards, "call_function", counted)
    program = "def score(rows):\n    return [len(row['reply']) / 10 for row in rows]"
    first = runner(program)
    assert first.scores(REPLIES) == [0.1, 0.2, 0.1]
    assert first.scores([*REPLIES, Reply("Question?", "ccc", COLUMNS)]) == [0.1, 0.2, 0.1, pytest.approx(0.3)]
    assert runner(program).scores(REPLIES) == [0.1, 0.2, 0.1]  # another process, after a kill
    assert asked == [2, 1]
    runner(program + "  # changed").scores(REPLIES)
    assert asked == [2, 1, 2]


def test_a_changed_score_is_found_and_a_torn_last_line_is_asked_for_again(runner: MakeRunner, tmp_path: Path) -> None:
    program = "def score(rows):\n    return [len(row['reply']) / 10 for row in rows]"
    runner(program).scores(REPLIES)
    (cache,) = (tmp_path / "cache").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-9])
    assert runner(program).scores(REPLIES) == [0.1, 0.2, 0.1]
    assert sorted(cache.read_bytes().splitlines()) == sorted(whole.splitlines())
    cache.write_bytes(whole.replace(b"0.1", b"0.9"))
    with pytest.raises(IntegrityError, match="a cached score is not as the trainer wrote it"):
        runner(program)


def test_code_that_is_missing_or_was_changed_is_not_run(runner: MakeRunner, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(rows):\n    return [0.5 for row in rows]")
    rlhf = Rlhf.model_validate({"reward": [{"name": "part", "tool": {"path": "score.py"}}]})
    code = copy_code(tmp_path, rlhf, tmp_path / "code")
    assert code == code_digests(tmp_path, rlhf)
    (tmp_path / "code" / code["score.py"]).write_text("def score(rows):\n    return [1.0 for row in rows]")
    with pytest.raises(IntegrityError, match=r"the copy of score\.py is not"):
        ToolRunner("part", rlhf.tools[0], code, tmp_path / "code", tmp_path / "cache")
    (tmp_path / "score.py").unlink()
    with pytest.raises(NotFoundError, match="there is no such file"):
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
    (silent,) = Rewards(rlhf.reward[2:], code, tmp_path / "code", tmp_path / "cache").judge(REPLIES[:1])
    assert silent.total is None
