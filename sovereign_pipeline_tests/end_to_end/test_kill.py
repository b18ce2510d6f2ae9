"""`kill -9` of the trainer, the step or the run leaves nothing behind; Ctrl-C leaves a checkpoint to resume from."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from sovereign_pipeline_tests.end_to_end.conftest import Installation, harbour_recipe
from sovereign_pipeline_tests.waiting import wait_until_ended

pytestmark = pytest.mark.slow


def trainer_of(parent: psutil.Process) -> psutil.Process:
    for process in parent.children(recursive=True):
        if "sovereign_pipeline.training.worker" in " ".join(process.cmdline()):
            return process
    raise AssertionError("no trainer is running")


def step_of(parent: psutil.Process) -> psutil.Process:
    step = trainer_of(parent).parent()
    assert step is not None
    return step


@pytest.mark.parametrize("victim", [trainer_of, step_of])
def test_a_killed_process_leaves_nothing(
    installation: Installation, victim: Callable[[psutil.Process], psutil.Process]
) -> None:
    installation.write_recipe(harbour_recipe(max_steps=100_000, epochs=100_000))
    run = installation.start("run", "harbour")
    assert run.stdout is not None
    printed = ""
    for line in run.stdout:
        printed += line
        if "step 3/" in line:
            break
    else:
        pytest.fail(f"the training never began:\n{printed}")
    parent = psutil.Process(run.pid)
    family = parent.children(recursive=True)
    trainer = trainer_of(parent)
    os.kill(victim(parent).pid, signal.SIGKILL)
    printed += run.stdout.read()
    assert run.wait() == 1, printed
    assert "Traceback" not in printed
    wait_until_ended([*family, trainer])
    assert installation.store.current("harbour", "sft_adapter") is None
    assert not [path for path in installation.settings.artifacts.glob("*/adapter")]


def test_killing_the_run_itself_kills_the_trainer(installation: Installation) -> None:
    installation.write_recipe(harbour_recipe(max_steps=100_000, epochs=100_000))
    run = installation.start("run", "harbour")
    assert run.stdout is not None
    for line in run.stdout:
        if "step 3/" in line:
            break
    trainer = trainer_of(psutil.Process(run.pid))
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    wait_until_ended([trainer])


def test_ctrl_c_saves_a_checkpoint_and_the_next_run_resumes_from_it(installation: Installation) -> None:
    installation.write_recipe(harbour_recipe(max_steps=400, epochs=100_000))
    run = installation.start("run", "harbour")
    assert run.stdout is not None
    for line in run.stdout:
        if "step 3/" in line:
            break
    family = psutil.Process(run.pid).children(recursive=True)
    # As a terminal does it: to every process of its own, which the trainer is not.
    for process in (psutil.Process(run.pid), *family):
        if os.getsid(process.pid) == os.getsid(run.pid):
            process.send_signal(signal.SIGINT)
    printed = run.stdout.read()
    assert run.wait() != 0 and "Traceback" not in printed, printed
    wait_until_ended(family)
    checkpoints = list((installation.settings.home / "checkpoints").glob("harbour.sft/*/step-*"))
    assert len(checkpoints) in (1, 2), printed
    newest = max(checkpoint.name for checkpoint in checkpoints)
    assert f"Line harbour: stopped; a checkpoint at step {int(newest.removeprefix('step-'))}." in printed
    assert "Interrupted" not in printed and "Run again to resume." in printed
    assert installation.store.current("harbour", "sft_adapter") is None

    status, output = installation.run("run", "harbour", "--until", "sft_adapter")
    assert status == 0, output
    assert f"resuming from {newest}" in output
    assert "raw_corpus" not in output  # what was made before is reused
    assert not list((installation.settings.artifacts / ".building").iterdir())
    assert not list((installation.settings.home / "checkpoints").glob("harbour.sft/*"))
