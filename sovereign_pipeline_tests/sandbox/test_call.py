"""Calling a function in the sandbox: what it returns, where it fails, and that its argument is quoted nowhere."""

import pytest

from sovereign_pipeline.sandbox.sandbox import Call, Limits, call_function
from sovereign_pipeline_tests.waiting import SECONDS

ROOM = Limits(wall_seconds=SECONDS)


def test_a_function_gets_its_argument_and_returns_what_json_has() -> None:
    program = "import re\ndef f(rows):\n    return {'lengths': [len(row) for row in rows], 'none': None}"
    assert call_function(program, "f", ["a", "bb"], ROOM) == Call("returned", {"lengths": [1, 2], "none": None})


def test_an_argument_larger_than_a_pipe_and_than_the_largest_file_arrives_whole() -> None:
    assert call_function("def f(text):\n    return len(text)", "f", "x" * 3_000_000, ROOM).value == 3_000_000


@pytest.mark.parametrize(
    ("program", "where"),
    [
        ("def f(x):\n    raise ValueError(x)", "ValueError in line 2"),
        ("raise RuntimeError('no')", "RuntimeError in line 1"),
        ("x = 1", "KeyError"),
        ("def f(x):\n    return {1, 2}", "TypeError"),
        ("def f(x):\n    return float('inf')", "ValueError"),
        ("def f(x):\n    return 'a' * 70_000", "OverflowError"),
        ("def f(x):\n    import sys\n    sys.exit(0)", "an end before it returned"),
        ("def f(x):\n    import os\n    os.kill(os.getpid(), 9)", "an end before it returned"),
        ("def f(:", "SyntaxError"),
        ("def f(x):\n    raise type(x, (Exception,), {})", "an exception in line 2"),
    ],
    ids=["raises", "raises_at_once", "missing", "no_json", "infinite", "too_long", "exit", "killed", "syntax", "named"],
)
def test_a_failure_names_its_kind_and_line_and_not_its_message(program: str, where: str) -> None:
    found = call_function(program, "f", "secretword", ROOM)
    assert found.ending == "raised" and found.value is None
    assert where in found.where and "secretword" not in found.where


def test_a_function_that_does_not_end_is_out_of_time() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=SECONDS)
    assert call_function("def f(x):\n    while True:\n        pass", "f", 0, limits) == Call("timeout")


@pytest.mark.security_case(
    "code in the sandbox finds its nonce and reports what it was given", "no error and no value quotes it"
)
@pytest.mark.parametrize("said", ["{}", "raised:{} in line 2", "returned:{}"], ids=["set-up", "raised", "returned"])
def test_what_a_program_reports_with_its_nonce_is_quoted_nowhere(said: str) -> None:
    program = (
        "import os, sys\ndef f(x):\n    own = sys._getframe(1).f_locals\n"
        f"    os.write(own['report'], (own['nonce'] + ':' + {said!r}.format(x)).encode())\n    os._exit(0)"
    )
    found = call_function(program, "f", "secretword", ROOM)
    assert found.ending == "raised" and "secretword" not in str(found)


@pytest.mark.security_case("code in the sandbox writes to its report", "what does not bear the nonce is no value")
def test_a_value_that_the_program_writes_itself_is_not_taken() -> None:
    program = (
        "import os\ndef f(x):\n    for fd in range(3, 64):\n        try:\n            os.write(fd, b'x:returned:1')\n"
    )
    program += "        except OSError:\n            pass\n    os._exit(0)"
    assert call_function(program, "f", 0, ROOM).ending == "raised"
