"""Where the trainer runs: chosen by the institution, in a pod, as a Ray job; what it is given there, and how it ends.

No cluster is at hand. Pods are held to Dagster's client and Kubernetes' own models against a stand-in of the API server
that runs the pod's command here; Ray jobs run on a stand-in of its head, and on Ray itself where `ray[default]` is
installed.
"""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.errors import InputError, RecipeError, SovereignError, TrainingFailed
from sovereign_pipeline.orchestration.launching import pipes as trainer
from sovereign_pipeline.orchestration.launching.kubernetes import assert_seen_by_pod, pod_spec
from sovereign_pipeline.policy.trainer import Kubernetes, Ray
from sovereign_pipeline.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.training.job import Failure, TrainingJob, TrainingResult, read_result
from sovereign_pipeline.training.processes import ray_jobs
from sovereign_pipeline.training.processes.launcher import PARENT_VARIABLE, worker_environment
from sovereign_pipeline.training.processes.ray_jobs import run_trainer_on_ray
from sovereign_pipeline.training.processes.remote import (
    INSTALLATION_VARIABLE,
    refuse_another_installation,
    remote_environment,
)
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.orchestration.stand_ins import ApiServer, RayHead
from sovereign_pipeline_tests.training.conftest import JobMaker, letters, make_job, make_session_job, tiny_model

__all__ = ["make_job", "make_session_job", "tiny_model"]

SECRET = "hunter2-must-not-travel"


@pytest.fixture(autouse=True)
def _secrets_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", f"postgresql://registrar:{SECRET}@db/registry")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    # For Ray's head and its client: the head wants the token, and the trainer never sees it.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setattr(ray_jobs, "SECONDS_BETWEEN_POLLS", 0.05)
    monkeypatch.setattr("sovereign_pipeline.orchestration.launching.kubernetes.SECONDS_BETWEEN_LOOKS", 0.05)


def written(job: TrainingJob) -> Path:
    path = job.result.with_name("job.json")
    job.write(path)
    return path


def program(path: Path, text: str) -> str:
    """An executable to be named as `python`."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The real interpreter with the code under test, and a library that prints a document while it is loaded."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Chatty:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.stderr.write('PLANTED TEXT\\n'); print('PLANTED TEXT'); os.write(2, b'PLANTED TEXT\\n')\n"
        "sys.meta_path.insert(0, Chatty())\n"
    )
    path = f"{PROJECT_ROOT}:{tmp_path / 'site'}"
    return program(tmp_path / "python", f'export PYTHONPATH={path} OMP_NUM_THREADS=1\nexec {sys.executable} "$@"')


# Choosing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "called"),
    [
        (None, "run_trainer"),
        ({"where": "here"}, "run_trainer"),
        (
            {"where": "kubernetes", "image": "i", "namespace": "n", "volumes": [{"claim": "home", "path": "/srv"}]},
            "run_trainer_in_pod",
        ),
        ({"where": "ray", "address": "http://head:8265"}, "run_trainer_on_ray"),
    ],
)
def test_the_institution_chooses_the_launcher(
    section: dict[str, Any] | None,
    called: str,
    institution: DemoInstitution,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    calls: list[str] = []
    for name in ("run_trainer", "run_trainer_in_pod", "run_trainer_on_ray"):
        monkeypatch.setattr(trainer, name, lambda *given, name=name: calls.append(name))
    launch_under_dagster(institution, section, tmp_path / "job.json")
    assert calls == [called]


def test_where_the_trainer_runs_is_no_part_of_what_it_makes(institution: DemoInstitution) -> None:
    here = institution.workplace()
    say_where(institution.settings, {"where": "ray", "address": "http://head:8265"})
    there: Workplace = institution.workplace_as_written()
    assert isinstance(there.institution.trainer, Ray)
    assert SFT_ADAPTER.config_at(here) == SFT_ADAPTER.config_at(there)


# What it is given --------------------------------------------------------------------------------------------------


def test_the_remote_environment_holds_nothing_of_this_process(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    given = remote_environment(job)
    assert set(given) == {*worker_environment(job), "HOME", "USER", INSTALLATION_VARIABLE}
    assert PARENT_VARIABLE not in given
    assert given["HF_HUB_OFFLINE"] == "1" and given["PYTHONHASHSEED"] == "0"
    assert SECRET not in json.dumps(given)


def test_the_pod_is_what_was_configured(make_job: JobMaker, tmp_path: Path) -> None:
    from dagster_k8s.pipes import build_pod_body

    job = written(make_job("pod", letters(2)))
    place = Kubernetes.model_validate(
        {
            "where": "kubernetes",
            "image": "registry.example/sovereign:1",
            "namespace": "training",
            "volumes": [
                {"claim": "sovereign-home", "path": str(tmp_path)},
                {"claim": "models", "path": "/srv/models", "read_only": True},
            ],
            "service_account": "trainer",
            "image_pull_secrets": ["pull"],
            "node_selector": {"gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
            "gpus": 2,
            "memory_gib": 64,
            "cpus": 7.5,
        }
    )
    # Read by Kubernetes' own model of a pod, which refuses a key that it does not know.
    spec = build_pod_body("p", place.image, ["c"], {"A": "b"}, {}, pod_spec(place, job)).spec
    (container,) = spec.containers
    assert spec.restart_policy == "Never"
    assert spec.termination_grace_period_seconds == 300
    assert (spec.automount_service_account_token, spec.enable_service_links) == (False, False)
    assert (spec.service_account_name, spec.node_selector) == ("trainer", {"gpu": "h100"})
    assert [secret.name for secret in spec.image_pull_secrets] == ["pull"]
    assert [(each.key, each.operator, each.effect) for each in spec.tolerations] == [
        ("nvidia.com/gpu", "Exists", "NoSchedule")
    ]
    assert (spec.security_context.run_as_user, spec.security_context.run_as_group) == (os.getuid(), os.getgid())
    assert container.security_context.allow_privilege_escalation is False
    claims = {each.name: each.persistent_volume_claim for each in spec.volumes}
    mounts = {each.mount_path: (claims[each.name], each.read_only) for each in container.volume_mounts}
    assert mounts[str(tmp_path)][0].claim_name == "sovereign-home" and mounts[str(tmp_path)][1] is False
    assert mounts["/srv/models"][0].claim_name == "models" and mounts["/srv/models"][1] is True
    assert set(mounts) == {str(tmp_path), "/srv/models", "/dev/shm"}
    assert container.resources.limits == {"nvidia.com/gpu": "2", "memory": "64Gi"}
    assert container.resources.requests == {"nvidia.com/gpu": "2", "memory": "64Gi", "cpu": "7.5"}
    assert container.image == "registry.example/sovereign:1"
    assert SECRET not in str(spec)


def test_the_least_that_can_be_said_of_a_pod(make_job: JobMaker, tmp_path: Path) -> None:
    place = kubernetes(tmp_path)
    spec = pod_spec(place, written(make_job("pod", letters(2))))
    assert "serviceAccountName" not in spec
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def kubernetes(path: Path, **changes: Any) -> Kubernetes:
    said = {"where": "kubernetes", "image": "i", "namespace": "n", "volumes": [{"claim": "home", "path": str(path)}]}
    return Kubernetes.model_validate({**said, **changes})


def test_a_path_that_the_pod_would_not_see_is_named(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    job = make_job("pod", letters(2))
    vault = Path("/srv/vault")
    volumes = [
        {"claim": "home", "path": str(tmp_path)},
        {"claim": "models", "path": str(tiny_model), "read_only": True},
    ]
    assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), written(job), vault)
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on no volume"):
        assert_seen_by_pod(kubernetes(tmp_path), written(job), vault)
    volumes[0]["read_only"] = True
    with pytest.raises(RecipeError, match=r"writes to .*, and home at .* is read_only"):
        assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), written(job), vault)


def test_a_link_that_leads_off_the_volume_is_found(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    job = make_job("pod", letters(2), base_model=tmp_path / "model")
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on no volume"):
        assert_seen_by_pod(kubernetes(tmp_path), written(job), Path("/srv/vault"))


def test_a_volume_that_holds_the_vault_is_refused(make_job: JobMaker, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds the vault"):
        assert_seen_by_pod(kubernetes(tmp_path), written(make_job("pod", letters(2))), tmp_path / "vault")


def test_a_trainer_of_another_release_refuses_and_another_build_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    given = remote_environment(Path("/job.json"))[INSTALLATION_VARIABLE]
    monkeypatch.setenv(INSTALLATION_VARIABLE, given)
    refuse_another_installation()
    versions = json.loads(given)
    assert "+" not in versions["torch"]
    monkeypatch.setenv(INSTALLATION_VARIABLE, json.dumps({**versions, "peft": "0.1"}))
    with pytest.raises(TrainingFailed, match=r"peft is .*, not 0\.1"):
        refuse_another_installation()
    monkeypatch.setenv(INSTALLATION_VARIABLE, json.dumps({**versions, "the program's source": "0" * 16}))
    with pytest.raises(TrainingFailed, match="the program's source is"):
        refuse_another_installation()


# On Ray ------------------------------------------------------------------------------------------------------------

HAS_RAY_DASHBOARD = importlib.util.find_spec("aiohttp_cors") is not None and importlib.util.find_spec("opencensus")


@pytest.fixture(scope="module")
def ray_itself(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head of its own ports and directory, ended by its process and not by `ray stop`, which ends every Ray here."""
    if not HAS_RAY_DASHBOARD:
        pytest.skip("the head of a Ray cluster needs ray[default]")
    scratch = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of its sockets
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--port=26379"]
    command += ["--dashboard-port=28265", "--dashboard-agent-listen-port=28266", f"--temp-dir={scratch}"]
    command += [f"--object-store-memory={100 * 2**20}"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as printed:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", SECRET)
        environment = {**os.environ, "NODE_SECRET": SECRET}
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not takes_a_job("http://127.0.0.1:28265"):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            yield "http://127.0.0.1:28265"
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(scratch)


@pytest.fixture(params=["stand-in", "ray"])
def head(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a head that takes jobs, whose node was started with a secret in its environment."""
    if request.param == "ray":
        yield request.getfixturevalue("ray_itself")
        return
    with RayHead({"PATH": os.environ["PATH"], "NODE_SECRET": SECRET}).serving() as server:
        yield server.address


def takes_a_job(address: str) -> bool:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return bool(JobSubmissionClient(address).submit_job(entrypoint="true"))
    except (ConnectionError, RuntimeError, RayError):
        return False


def on_ray(head: str, python: str) -> Ray:
    return Ray.model_validate({"where": "ray", "address": head, "python": python, "gpus": 0})


def test_a_ray_job_trains_and_reports_through_pipes(
    head: str, python: str, make_job: JobMaker, institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.9.9.9:6379")  # the corpus's cluster: not this one
    job = make_job("runs", letters(12), sft={"epochs": 1})
    log = launch_under_dagster(institution, on_ray(head, python).model_dump(mode="json"), written(job))
    assert any("step 1/" in line and "tokens/s" in line for line in log)
    assert any("is SUCCEEDED" in line for line in log)
    assert not any("PLANTED" in line or SECRET in line for line in log)
    assert read_result(job.result).measured["tokens_per_second"] > 0
    assert (job.output / "adapter").is_dir()
    assert os.environ["RAY_ADDRESS"] == "10.9.9.9:6379"


def test_an_interrupt_stops_the_ray_job_with_a_checkpoint(head: str, python: str, make_job: JobMaker) -> None:
    job = make_job("stopped", letters(12), sft={"epochs": 2000})

    def progress(line: str) -> None:
        if "is RUNNING" in line:
            deadline = time.monotonic() + 120
            while not (job.locks.exists() and messages.exists() and "step 3/" in messages.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            raise KeyboardInterrupt

    path = written(job)
    messages = path.parent / "messages.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_trainer_on_ray(path, on_ray(head, python), progress, pipes_by_hand(messages))
    # The job was waited for, so what it left is there now.
    with pytest.raises(TrainingFailed, match=r"stopped, as requested, at step \d+ of \d+"):
        read_result(job.result)
    (checkpoint,) = job.checkpoint_directory.iterdir()
    assert int(checkpoint.name.removeprefix("step-")) >= 3


def test_ray_waits_longer_for_a_checkpoint_than_it_does_by_itself(
    ray_itself: str, make_job: JobMaker, tmp_path: Path
) -> None:
    started, saved = tmp_path / "started", tmp_path / "saved"
    python = program(
        tmp_path / "python",
        f"trap 'sleep 6; touch {saved}; exit 1' TERM\ntouch {started}\nwhile true; do sleep 0.1; done",
    )

    def progress(line: str) -> None:
        if "is RUNNING" in line:
            while not started.exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer_on_ray(written(make_job("slow", letters(2))), on_ray(ray_itself, python), progress, {})
    assert saved.exists()


def pipes_by_hand(messages: Path) -> dict[str, str]:
    """What opens a Pipes session whose messages go to a file; nobody reads them."""
    from dagster_pipes import encode_env_var

    context = messages.with_name("context.json")
    nothing = ("asset_keys", "code_version_by_asset_key", "provenance_by_asset_key", "partition_key")
    nothing += ("partition_key_range", "partition_time_window", "job_name")
    context.write_text(json.dumps({**dict.fromkeys(nothing), "run_id": "r", "retry_number": 0, "extras": {}}))
    return {
        "DAGSTER_PIPES_CONTEXT": encode_env_var({"path": str(context)}),
        "DAGSTER_PIPES_MESSAGES": encode_env_var({"path": str(messages)}),
    }


def test_a_ray_job_gets_the_allowlist_and_not_its_nodes_environment(
    head: str, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job("env", letters(2))
    result = shlex.quote(TrainingResult().model_dump_json())
    shown = tmp_path / "shown"
    python = program(tmp_path / "python", f"env -0 > {shown}\necho {result} > {job.result}")
    run_trainer_on_ray(written(job), on_ray(head, python), lambda line: None, {"DAGSTER_PIPES_CONTEXT": "a 'b' $c"})
    lines = [line.partition("=") for line in shown.read_text().split("\0") if line]
    environment = {name: value for name, _, value in lines}
    assert environment["DAGSTER_PIPES_CONTEXT"] == "a 'b' $c"
    assert environment.items() >= remote_environment(job.result.with_name("job.json")).items()
    assert SECRET not in shown.read_text()
    from_the_node = {"PATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "OMP_NUM_THREADS"}
    of_the_shell = {"PWD", "SHLVL", "_"}
    assert set(environment) - from_the_node - of_the_shell - {"MKL_NUM_THREADS"} == {
        *remote_environment(Path("/job.json")),
        "DAGSTER_PIPES_CONTEXT",
    }


def test_a_ray_job_that_is_killed_is_a_failure_with_a_remedy(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    python = program(tmp_path / "python", "kill -9 $$")
    with pytest.raises(TrainingFailed, match=r"(?s)on Ray ended as FAILED .*, without a result.*Lower.*max_length"):
        run_trainer_on_ray(written(make_job("killed", letters(2))), on_ray(head, python), lambda line: None, {})


def test_a_ray_job_that_says_why_it_stopped_is_quoted(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("guard", letters(2))
    answer = shlex.quote(TrainingResult(failure=Failure(message="Too many rows are cut.")).model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}\nexit 1")
    with pytest.raises(TrainingFailed, match="Too many rows are cut"):
        run_trainer_on_ray(written(job), on_ray(head, python), lambda line: None, {})


def test_a_ray_job_that_ends_well_without_an_answer_is_a_failure(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    python = program(tmp_path / "python", "exit 0")
    with pytest.raises(TrainingFailed, match="ended without a result"):
        run_trainer_on_ray(written(make_job("silent", letters(2))), on_ray(head, python), lambda line: None, {})


def test_ray_is_told_what_to_reserve_and_how_long_a_checkpoint_takes(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("reserved", letters(2))
    answer = shlex.quote(TrainingResult().model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}")
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        place = Ray(
            where="ray", address=server.address, python=python, gpus=2, cpus=8, memory_gib=64, resources={"h100": 1}
        )
        run_trainer_on_ray(written(job), place, lambda line: None, {})
        (submitted,) = [body for method, path, body in server.seen if (method, path) == ("POST", "/api/jobs/")]
    assert submitted["entrypoint_num_gpus"] == 2 and submitted["entrypoint_num_cpus"] == 8
    assert submitted["entrypoint_memory"] == 64 * 2**30 and submitted["entrypoint_resources"] == {"h100": 1}
    assert submitted["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300"}
    assert SECRET not in json.dumps(submitted)


def test_a_head_that_is_away_for_a_while_loses_no_job(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("away", letters(2))
    answer = shlex.quote(TrainingResult().model_dump_json())
    python = program(tmp_path / "python", f"sleep 0.5\necho {answer} > {job.result}")
    lines: list[str] = []
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        looks = iter(range(1000))
        server.fails = lambda method, path: path.startswith("/api/jobs/sovereign-") and next(looks) < 5
        run_trainer_on_ray(written(job), Ray(where="ray", address=server.address, python=python), lines.append, {})
    assert len([line for line in lines if "Ray does not answer" in line]) == 1
    assert lines[-1].endswith("is SUCCEEDED")


def test_a_head_that_stays_away_is_a_failure_that_names_the_job(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "SECONDS_OUT_OF_REACH", 0.3)
    python = program(tmp_path / "python", "sleep 60")
    lines: list[str] = []
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        server.fails = lambda method, path: path.startswith("/api/jobs/sovereign-")
        place = Ray(where="ray", address=server.address, python=python)
        with pytest.raises(TrainingFailed, match=r"job sovereign-\w+ may still run"):
            run_trainer_on_ray(written(make_job("lost", letters(2))), place, lines.append, {})
    assert "could not be stopped and may still run" in lines[-1]


def test_no_ray_there_and_no_ray_here_say_what_to_do(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    job = written(make_job("none", letters(2)))
    nobody = Ray(where="ray", address="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"(?s)no Ray answers there.*head's dashboard"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[ray\]'"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})


# In a pod ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    with server.serving():
        yield server


def in_pod(api: ApiServer, tmp_path: Path, python: str, tiny_model: Path) -> dict[str, Any]:
    return {
        "where": "kubernetes",
        "image": "registry.example/sovereign:1",
        "namespace": "training",
        "volumes": [
            {"claim": "home", "path": str(tmp_path)},
            {"claim": "models", "path": str(tiny_model), "read_only": True},
        ],
        "python": python,
        "kubeconfig": str(api.kubeconfig(tmp_path / "kubeconfig")),
    }


def test_a_pod_trains_and_reports_through_its_log_and_says_nothing_else(
    api: ApiServer,
    python: str,
    make_job: JobMaker,
    tiny_model: Path,
    institution: DemoInstitution,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    job = make_job("runs", letters(12), sft={"epochs": 1})
    log = launch_under_dagster(institution, in_pod(api, tmp_path, python, tiny_model), written(job))
    assert any("step 1/" in line and "tokens/s" in line for line in log)
    assert read_result(job.result).measured["tokens_per_second"] > 0
    printed = api.log.read_text().splitlines()
    assert printed and all("__dagster_pipes_version" in line for line in printed)
    assert api.deleted and api.pod is not None
    (container,) = api.pod["spec"]["containers"]
    assert container["command"] == [
        python,
        "-m",
        "sovereign_pipeline.training.processes.worker",
        str(job.result.parent / "job.json"),
    ]
    assert {each["name"] for each in container["env"]} == {
        *remote_environment(tmp_path),
        "DAGSTER_PIPES_CONTEXT",
        "DAGSTER_PIPES_MESSAGES",
    }
    assert SECRET not in json.dumps(api.pod)


def test_an_interrupt_deletes_the_pod_and_waits_for_its_checkpoint(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    job = make_job("stopped", letters(2))
    started, saved = tmp_path / "started", tmp_path / "saved"
    python = program(
        tmp_path / "python",
        f"trap 'sleep 1; touch {saved}; exit 1' TERM\ntouch {started}\nwhile true; do sleep 0.1; done",
    )

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(AssertionError, match="Execution was interrupted"):
        launch_under_dagster(institution, in_pod(api, tmp_path, python, tiny_model), written(job))
    assert saved.exists() and api.gone_at_last_list


def test_a_pod_that_is_killed_is_a_failure_with_a_remedy(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    python = program(tmp_path / "python", f"echo {SECRET} >&2\nkill -9 $$")
    with pytest.raises(TrainingFailed, match=r"some containers exited with errors.*without a result") as caught:
        launch_under_dagster(
            institution, in_pod(api, tmp_path, python, tiny_model), written(make_job("killed", letters(2)))
        )
    assert SECRET not in str(caught.value)  # what a pod prints is no part of the reason
    assert api.deleted


def test_a_pod_that_says_why_it_stopped_is_quoted(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    job = make_job("guard", letters(2))
    answer = shlex.quote(TrainingResult(failure=Failure(message="Too many rows are cut.")).model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}\nexit 1")
    with pytest.raises(TrainingFailed, match="Too many rows are cut"):
        launch_under_dagster(institution, in_pod(api, tmp_path, python, tiny_model), written(job))


def test_an_image_that_is_not_there_is_named(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    api.waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    with pytest.raises(TrainingFailed, match=r"ImagePullBackOff.*no such image"):
        launch_under_dagster(
            institution, in_pod(api, tmp_path, "python", tiny_model), written(make_job("image", letters(2)))
        )
    assert api.deleted


def test_a_whole_answer_counts_though_the_pod_cannot_be_deleted(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    job = make_job("whole", letters(2))
    answer = shlex.quote(TrainingResult(measured={"seconds": 1.0}).model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}")
    api.fails = lambda method, path: (
        method == "DELETE" or (method == "GET" and job.result.exists() and api.seen[-2][0] == "DELETE")
    )
    log = launch_under_dagster(institution, in_pod(api, tmp_path, python, tiny_model), written(job))
    assert any("its result is complete" in line for line in log)


def test_a_cluster_that_refuses_the_pod_is_a_failure(
    api: ApiServer, make_job: JobMaker, tiny_model: Path, institution: DemoInstitution, tmp_path: Path
) -> None:
    api.fails = lambda method, path: method == "POST"
    with pytest.raises(TrainingFailed, match=r"in namespace training ended: \(503\)"):
        launch_under_dagster(
            institution, in_pod(api, tmp_path, "python", tiny_model), written(make_job("refused", letters(2)))
        )


def test_a_missing_kubeconfig_and_a_missing_package_say_what_to_do(
    api: ApiServer,
    make_job: JobMaker,
    tiny_model: Path,
    institution: DemoInstitution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = written(make_job("none", letters(2)))
    section = {**in_pod(api, tmp_path, "python", tiny_model), "kubeconfig": str(tmp_path / "nowhere")}
    with pytest.raises(InputError, match=r"trainer\.kubeconfig"):
        launch_under_dagster(institution, section, job)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dagster_k8s" else real(name))
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[kubernetes\]'"):
        launch_under_dagster(institution, section, job)


# -------------------------------------------------------------------------------------------------------------------


def say_where(settings: Settings, section: dict[str, Any] | None) -> None:
    path = settings.data / "institution.yaml"
    content = yaml.safe_load(path.read_text())
    content.pop("trainer", None)
    path.write_text(yaml.safe_dump(content if section is None else {**content, "trainer": section}))


def launch_under_dagster(institution: DemoInstitution, section: dict[str, Any] | None, job: Path) -> list[str]:
    """Launch a job from the step of an asset; the run's log. What the launcher raises comes through."""
    institution.write()
    say_where(institution.settings, section)
    # A vault off the volumes of these tests, which mount all of the test's directory.
    settings = institution.settings.model_copy(update={"vault": Path("/nowhere/vault")})
    raised: list[BaseException] = []

    @dg.asset
    def training(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        try:
            trainer.launch_with_pipes(context, settings)(job)
        except SovereignError as error:
            raised.append(error)
            raise
        return dg.MaterializeResult()

    with dg.instance_for_test() as instance:
        result = dg.materialize([training], instance=instance, raise_on_error=False)
        log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    if raised:
        raise raised[0]
    if not result.success:
        raise AssertionError("\n".join(log))
    return log
