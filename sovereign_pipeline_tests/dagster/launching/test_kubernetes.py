"""The trainer in a pod: what it is given there, how it reports, and how it ends.

No cluster is at hand. Pods are held to Dagster's client and Kubernetes' own models against a stand-in of the API server
that runs the pod's command here.
"""

import importlib.util
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, RecipeError, TrainingFailed
from sovereign_pipeline.dagster.launching import assert_seen_by_pod, pod_spec
from sovereign_pipeline.policy.institution import Kubernetes
from sovereign_pipeline.training.job import KEY_VARIABLE, Failure, TrainingResult, read_result
from sovereign_pipeline.training.launcher import remote_environment
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.launching.conftest import (
    SECRET,
    launch_under_dagster,
    program,
    written,
)
from sovereign_pipeline_tests.dagster.stand_ins import ApiServer
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.tiny_reward import reward_job

pytestmark = pytest.mark.slow


def test_the_pod_is_what_was_configured(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    from dagster_k8s.pipes import build_pod_body

    job = written(make_job("pod", letters(2)))
    place = Kubernetes.model_validate(
        {
            "where": "kubernetes",
            "image": "registry.example/sovereign:1",
            "namespace": "training",
            "volumes": [
                {"claim": "sovereign-home", "path": str(tmp_path)},
                {"claim": "models", "path": str(tiny_model), "read_only": True},
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
    scratch, models = mounts[str(tmp_path / "pod")], mounts[str(tiny_model)]
    assert (scratch[0].claim_name, scratch[1]) == ("sovereign-home", False)
    assert (models[0].claim_name, models[1]) == ("models", True)
    assert container.resources.limits == {"nvidia.com/gpu": "2", "memory": "64Gi"}
    assert container.resources.requests == {"nvidia.com/gpu": "2", "memory": "64Gi", "cpu": "7.5"}
    assert container.image == "registry.example/sovereign:1"
    assert SECRET not in str(spec)


def test_the_least_that_can_be_said_of_a_pod(make_job: JobMaker, tmp_path: Path) -> None:
    place = kubernetes(tmp_path)
    spec = pod_spec(place, written(make_job("pod", letters(2), base_model=tmp_path / "model")))
    assert "serviceAccountName" not in spec
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def kubernetes(path: Path, **changes: Any) -> Kubernetes:
    said = {"where": "kubernetes", "image": "i", "namespace": "n", "volumes": [{"claim": "home", "path": str(path)}]}
    return Kubernetes.model_validate({**said, **changes})


def test_a_path_that_the_pod_would_not_see_is_named(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    job = make_job("pod", letters(2))
    withheld = {"SOVEREIGN_VAULT": Path("/srv/vault")}
    volumes: list[dict[str, Any]] = [
        {"claim": "home", "path": str(tmp_path)},
        {"claim": "models", "path": str(tiny_model), "read_only": True},
    ]
    assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), written(job), withheld)
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on no volume"):
        assert_seen_by_pod(kubernetes(tmp_path), written(job), withheld)
    volumes[0]["read_only"] = True
    with pytest.raises(RecipeError, match="is read_only"):
        assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), written(job), withheld)


def test_a_training_by_reward_is_refused_since_a_pod_has_no_sandbox(make_job: JobMaker, tmp_path: Path) -> None:
    job = reward_job(make_job, "pod", tmp_path)
    with pytest.raises(RecipeError, match=r"training\.rlhf is not trained in a pod"):
        assert_seen_by_pod(kubernetes(tmp_path), written(job), {})


def test_a_link_that_leads_off_the_volume_is_found(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    job = make_job("pod", letters(2), base_model=tmp_path / "model")
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on no volume"):
        assert_seen_by_pod(kubernetes(tmp_path), written(job), {})


@pytest.mark.security_case(
    "A volume of the trainer's pod contains the vault, review seeds and keys, or unscrubbed text", "rejected"
)
@pytest.mark.parametrize(
    "variable",
    ["SOVEREIGN_VAULT", "SOVEREIGN_CORPUS", "SOVEREIGN_REVIEW_SECRETS", "SOVEREIGN_KEYS", "SOVEREIGN_SERVING"],
)
def test_a_volume_that_holds_what_is_withheld_is_refused(make_job: JobMaker, tmp_path: Path, variable: str) -> None:
    job = written(make_job("pod", letters(2)))
    with pytest.raises(RecipeError, match=rf"holds {tmp_path}/hidden \({variable}\), which a trainer must not see"):
        assert_seen_by_pod(kubernetes(tmp_path), job, {variable: tmp_path / "hidden"})


@pytest.mark.security_case(
    "The trainer's pod would mount the whole home: other lines' weights, the registry, Dagster's databases",
    "it mounts only the job's paths, and read-only unless it writes there",
)
def test_a_pod_mounts_the_paths_of_its_job_alone(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    home = tmp_path / "home"
    model = home / "models" / "tiny"
    model.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "weights").write_bytes(b"1")
    (model / "model.safetensors").symlink_to(tmp_path / "blobs" / "weights")
    (tmp_path / "link").symlink_to(model)
    job = make_job(
        "pod",
        letters(2),
        base_model=tmp_path / "link",
        locks=home / "locks",
        references=home / "references",
        checkpoint_directory=home / "checkpoints" / "lamps.sft" / "1234",
    )
    mounts = pod_spec(kubernetes(tmp_path), written(job))["containers"][0]["volumeMounts"]
    of_volumes = [each for each in mounts if each["mountPath"] != "/dev/shm"]
    assert {each["mountPath"]: (each["subPath"], each["readOnly"]) for each in of_volumes} == {
        str(job.result.parent): ("pod", False),
        str(home / "locks"): ("home/locks", False),
        str(home / "references"): ("home/references", False),
        str(home / "checkpoints" / "lamps.sft"): ("home/checkpoints/lamps.sft", False),
        str(home / "checkpoints" / "lamps.sft.lock"): ("home/checkpoints/lamps.sft.lock", False),
        str(tmp_path / "link"): ("home/models/tiny", True),
        str(model): ("home/models/tiny", True),
        str(tmp_path / "blobs" / "weights"): ("blobs/weights", True),
    }


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


@pytest.mark.slow
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
        "sovereign_pipeline.training.worker",
        str(job.result.parent / "job.json"),
    ]
    assert {each["name"] for each in container["env"]} == {
        *remote_environment(tmp_path),
        KEY_VARIABLE,
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
