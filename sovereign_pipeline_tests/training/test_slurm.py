"""The trainer as a job of Slurm on two nodes: it trains what one machine does, resumes by itself, and can be cancelled.

Slurm is Debian's; see `slurm_cluster.py`.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sovereign_pipeline.base.errors import InputError, IntegrityError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.cli import doctor
from sovereign_pipeline.dagster.chain import CHAIN
from sovereign_pipeline.policy.institution import Institution, Slurm
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.training import queued, slurm
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob
from sovereign_pipeline.training.slurm import run_trainer_on_slurm
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.conftest import Line, reasons
from sovereign_pipeline_tests.golden.line import LETTERS, letter, recipes, write_institution
from sovereign_pipeline_tests.slurm_cluster import INTERFACE, Cluster, running
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.processes.launching import (
    KEY,
    chatty,
    halting_interpreter,
    interpreter,
    killed,
    written,
)
from sovereign_pipeline_tests.training.trainings import files

pytestmark = pytest.mark.slow

NODE_TASK = "sovereign_pipeline.training.node_task"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{started.bin}:{os.environ['PATH']}")
        patch.setattr(queued, "SECONDS_BETWEEN_POLLS", 0.2)
        yield started


@pytest.fixture
def python(tmp_path: Path) -> str:
    return interpreter(tmp_path, NODE_TASK, chatty(tmp_path))


@pytest.fixture
def halting(tmp_path: Path) -> str:
    return halting_interpreter(tmp_path, "node_task_that_halts")


def place(python: str, **changes: Any) -> Slurm:
    return Slurm.model_validate(
        {"where": "slurm", "interface": INTERFACE, "gpu_resource": None, "python": python, **changes}
    )


def run(job: TrainingJob, where: Slurm, cluster: Cluster, progress: Callable[[str], None] = lambda line: None) -> None:
    home = job.locks.parent
    settings = Settings(home=home, data=home / "data", vault=cluster.private / "vault")
    run_trainer_on_slurm(written(job), where, settings, progress, KEY[KEY_VARIABLE])


def preempt(cluster: Cluster, number: str) -> None:
    cluster.call("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")


def signal(cluster: Cluster, number: str) -> None:
    """As Slurm does before the time limit."""
    cluster.call("scancel", "--signal=TERM", number)


@pytest.mark.parametrize(("interruption", "jobs"), [(preempt, 1), (signal, 2)])
def test_a_job_that_slurm_interrupts_resumes_and_ends_in_the_same_bytes(
    interruption: Callable[[Cluster, str], None],
    jobs: int,
    cluster: Cluster,
    on_one_machine: TrainingJob,
    make_for_two: JobMaker,
    halting: str,
) -> None:
    job = make_for_two("interrupted")
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            interruption(cluster, number_of(lines))
        if "is PENDING" in line and "BeginTime" in line:
            time.sleep(2)  # a node that ended the job in this very second takes its new credential for the old one
            cluster.call("scontrol", "update", f"jobid={number_of(lines)}", "StartTime=now")

    run(job, place(halting), cluster, progress)
    assert "resuming from step-00000004" in lines
    assert len([line for line in lines if line.startswith("submitted")]) == jobs
    assert files(job.output) == files(on_one_machine.output)


def test_trainers_listen_on_the_interface_alone_and_scancel_leaves_a_checkpoint(
    cluster: Cluster, make_for_two: JobMaker, halting: str
) -> None:
    job = make_for_two("cancelled")
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            assert [cluster.listeners(node) for node in (1, 2)] == [{"10.77.0.1"}, {"10.77.0.2"}]
            cluster.call("scancel", number_of(lines))

    with pytest.raises(TrainingStopped, match=r"stopped, as requested, at step 4 .* ended as CANCELLED"):
        run(job, place(halting), cluster, progress)
    assert [each.name for each in job.checkpoint_directory.glob("step-*")] == ["step-00000004"]


def test_a_training_that_ended_while_nobody_followed_is_used_unless_it_was_changed(
    cluster: Cluster, alone: TrainingJob, make_for_one: JobMaker, python: str, tmp_path: Path
) -> None:
    job = make_for_one("ended")
    killed(lambda: run(job, place(python), cluster, lambda line: os._exit(9) if "COMPLETED" in line else None))
    (adapter,) = (tmp_path / "slurm").glob("*/output/adapter/adapter_model.safetensors")
    content = adapter.read_bytes()
    adapter.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="a file was changed after the trainer wrote it"):
        run(job, place(python), cluster)
    adapter.write_bytes(content)
    lines: list[str] = []
    run(job, place(python), cluster, lines.append)
    assert lines == [] and files(job.output) == files(alone.output)


def test_a_controller_that_is_away_loses_no_job(
    cluster: Cluster, alone: TrainingJob, make_for_one: JobMaker, halting: str, tmp_path: Path
) -> None:
    job, lines = make_for_one("away"), list[str]()

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            cluster.kill_controller()
        if line.startswith("Slurm does not answer"):
            cluster.start_controller()
            (tmp_path / "go on").touch()

    run(job, place(halting), cluster, progress)
    assert any("Unable to contact slurm controller" in line for line in lines)
    assert len([line for line in lines if line.startswith("submitted")]) == 1
    assert files(job.output) == files(alone.output)


def test_what_the_cluster_rejects_and_lacks_is_told(
    cluster: Cluster, make_for_two: JobMaker, python: str, tmp_path: Path
) -> None:
    there = place(python, partition="nowhere")
    with pytest.raises(InputError, match=r"Slurm rejected the job: .*Invalid partition"):
        run(make_for_two("rejected"), there, cluster)
    assert not list(tmp_path.rglob("order.json"))
    institution = Institution(name="Lamp Office", classification=("PUBLIC",), trainer=place(python, partition="low"))
    assert doctor.trainer(institution).ok and "20 sec for its checkpoint" in doctor.trainer(institution).found
    finding = doctor.trainer(institution.model_copy(update={"trainer": there}))
    assert not finding.ok and "nowhere" in finding.found
    with pytest.raises(
        TrainingFailed, match=r"(?s)Node node[12] has no /no/python.*Install this program on every node"
    ):
        run(make_for_two("nothing"), place("/no/python"), cluster)


PLANTED = {
    "clocks apart": (
        "Node node[12]: the clocks of this node and of node[12] are at least .* apart",
        "time.time = lambda now=time.time: now() + 60",
    ),
    "no locks": (
        "Node node2: .*No locks available",
        "def refuse(*given): raise OSError(37, 'No locks available')\nfcntl.flock = refuse",
    ),
    "locks of one node": (
        "Node node2: .* could lock the file, although another node has locked it",
        "fcntl.flock = lambda *given: None",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_node_that_differs_is_named_before_the_training(
    fault: str, cluster: Cluster, make_for_two: JobMaker, tmp_path: Path
) -> None:
    expected, planted = PLANTED[fault]
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import fcntl, time\n{planted}\n")
    python = interpreter(
        tmp_path, NODE_TASK, f'[ "$SOVEREIGN_TRAINER_NODE" = node2 ] && export PYTHONPATH="{site}:$PYTHONPATH"'
    )
    with pytest.raises(TrainingFailed, match=expected):
        run(make_for_two("differs"), place(python), cluster)


@pytest.mark.parametrize("missing", ["base_model", "home", "everything"])
def test_what_a_node_does_not_see_is_named_before_the_training(
    missing: str, cluster: Cluster, make_for_two: JobMaker, python: str, tiny_model: Path, tmp_path: Path
) -> None:
    job, home = make_for_two("unseen"), tmp_path
    if missing == "base_model":
        shutil.copytree(tiny_model, cluster.first / "tiny")
        job = job.model_copy(update={"base_model": cluster.first / "tiny"})
    elif missing == "home":
        home = cluster.first
    else:
        home = cluster.private
    job = job.model_copy(update={"locks": home / "locks"})
    expected = {
        "base_model": f"Node node2: {cluster.first}/tiny is missing on this node",
        "home": "Node node2: .*order.json cannot be read .* does not share",
        "everything": "(?s)without a result.*the nodes do not share",
    }
    with pytest.raises(TrainingFailed, match=expected[missing]):
        run(job, place(python), cluster)


@pytest.mark.parametrize(("name", "devices", "trainings"), [("harbour-ppo", {}, 3)])
def test_a_line_is_materialized_from_dagster_up_to_its_registration(
    name: str,
    devices: dict[str, Any],
    trainings: int,
    cluster: Cluster,
    institution: DemoInstitution,
    python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SFT, a reward model and PPO.

    Nothing of this process is passed on, and the keys of the marks are gone with the jobs.
    """
    private = cluster.private / name
    (private / "vault").mkdir(parents=True)
    for secret in ("CORPUS", "KEYS"):
        monkeypatch.setenv(f"SOVEREIGN_{secret}", str(private / secret.lower()))
    institution.settings.vault.symlink_to(private / "vault")  # which leads nowhere on the nodes
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    keys, submitted = list[str](), list[str]()
    real = slurm._call

    def call(*command: str) -> str:
        answer = real(*command)
        if command[0] == "sbatch":
            (order,) = (institution.settings.home / "slurm").glob("*/order.json")
            keys.append(json.loads(order.read_bytes())["key"])
            submitted.append(cluster.call("scontrol", "show", "job", answer.strip(), "--json"))
            submitted.append(cluster.call("scontrol", "write", "batch_script", answer.strip(), "-"))
        return answer

    monkeypatch.setattr(slurm, "_call", call)
    write_institution(institution.settings.data)
    institution.rows = [letter(number) for number in range(LETTERS)]
    (institution.recipe,) = [each for each in recipes() if each["line"] == name]
    training = institution.recipe["training"]
    training["devices"] = devices
    if "rlhf" in training:  # what SFT leaves to learn, PPO learns with any seed
        training["sft"]["max_steps"], training["rlhf"]["iterations"] = 15, 4
    institution.rules["trainer"] = place(python).model_dump(mode="json")
    with dg.instance_for_test() as instance:
        line = Line(institution, instance)
        result = line.materialize([stage.kind for stage in CHAIN])
        assert result.success, reasons(result)
        told = [entry.user_message for entry in instance.all_logs(result.run_id)]
        there = aligned(line)
        institution.rules["trainer"] = {"where": "here"}
        again = replace(ALIGNED_ADAPTER, code_version="again")
        assert line.materialize(["aligned_adapter"], {"aligned_adapter": again}).success
        assert aligned(line) == there
    adapter = find_adapter(open_registry(institution.settings), f"{name}-1.0.0")
    assert adapter.adapter_sha256 == there["adapter/adapter_model.safetensors"]
    nodes = r"node\[1-2\]" if devices else "node[12]"
    assert len([line for line in told if re.search(f"ended as COMPLETED on {nodes} ", line)]) == trainings
    assert any(line.startswith("step 1/") for line in told) and not any("PLANTED" in line for line in told)
    assert len(keys) == trainings
    assert not any(secret in text for secret in (*keys, "hunter2") for text in submitted)
    assert {path.suffix for path in (institution.settings.home / "slurm").iterdir()} == {".lock"}


def aligned(line: Line) -> dict[str, str]:
    """The digest of each file of the line's aligned adapter."""
    ref = line.workplace.store.current(line.institution.recipe["line"], "aligned_adapter")
    assert ref is not None
    return {each.path: each.sha256 for each in line.workplace.store.open(ref).manifest.files}


def number_of(lines: list[str]) -> str:
    """The job's number."""
    return str(re.findall(r"submitted job ([0-9]+) to", "\n".join(lines))[-1])
