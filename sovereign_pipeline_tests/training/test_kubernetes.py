"""The trainer as a TrainJob: what its pods get, that two of them train what one machine does, and how it ends.

No cluster is at hand. Manifests are held to Kubeflow's own models, and `kubernetes_cluster.py` stands in for the API
server: it runs the pods' command here.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from sovereign_pipeline.base.errors import InputError, RecipeError, SovereignError, TrainingFailed
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.cli import doctor
from sovereign_pipeline.policy.institution import Institution, Kubernetes
from sovereign_pipeline.training import queued
from sovereign_pipeline.training.job import KEY_VARIABLE, Failure, TrainingJob, TrainingResult
from sovereign_pipeline.training.kubernetes_jobs import (
    assert_seen_by_pod,
    check_cluster,
    manifest,
    run_trainer_on_kubernetes,
)
from sovereign_pipeline.training.launcher import remote_environment
from sovereign_pipeline.training.node_task import NODE_VARIABLE
from sovereign_pipeline.training.ranks import NODE_RANK_VARIABLE
from sovereign_pipeline_tests.kubernetes_cluster import OBJECTS, ApiServer, unknown_fields
from sovereign_pipeline_tests.training.conftest import TWO, JobMaker, letters
from sovereign_pipeline_tests.training.processes.launching import (
    KEY,
    chatty,
    halting_interpreter,
    killed,
    program,
    written,
)
from sovereign_pipeline_tests.training.tiny_reward import reward_job
from sovereign_pipeline_tests.training.trainings import files

pytestmark = pytest.mark.slow

NAME = "sovereign-1"
Place = Callable[..., Kubernetes]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(queued, "SECONDS_BETWEEN_POLLS", 0.05)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    server = ApiServer(tmp_path)
    with server.serving():
        yield server
        for pod in server.pods:
            pod.end()


@pytest.fixture
def halting(tmp_path: Path) -> str:
    return halting_interpreter(tmp_path, "ranks_with node_task_that_halts", chatty(tmp_path))


@pytest.fixture
def place(api: ApiServer, tmp_path: Path, tiny_model: Path) -> Place:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    volumes = [volume("home", tmp_path), volume("models", tiny_model, read_only=True)]
    return lambda python="python", **changes: kubernetes(
        tmp_path,
        **{"volumes": volumes, "python": python, "kubeconfig": kubeconfig, "interface": "lo", **changes},
    )


def volume(claim: str, path: Path, **changes: Any) -> dict[str, Any]:
    return {"claim": claim, "path": str(path), **changes}


def kubernetes(path: Path, **changes: Any) -> Kubernetes:
    least = {"where": "kubernetes", "image": "i", "namespace": "training", "volumes": [volume("home", path)]}
    return Kubernetes.model_validate({**least, **changes})


def run(job: TrainingJob, where: Kubernetes, progress: Callable[[str], None] = lambda line: None) -> None:
    home, nowhere = job.locks.parent, Path("/nowhere")
    secret: dict[str, Any] = {name: nowhere / name for name in ("vault", "review_secrets", "keys", "corpus", "serving")}
    settings = Settings(home=home, data=home / "data", **secret)
    run_trainer_on_kubernetes(written(job), where, settings, progress, KEY[KEY_VARIABLE])


def of_job(place: Kubernetes, job: TrainingJob) -> dict[str, Any]:
    return manifest(place, NAME, job, written(job), job.result.with_name("order.json"))


def pod_of(described: dict[str, Any]) -> dict[str, Any]:
    (patch,) = described["spec"]["runtimePatches"]
    (of_node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: dict[str, Any] = of_node["template"]["spec"]["template"]["spec"]
    return pod


def test_the_manifest_is_what_was_configured(make_for_two: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    there = kubernetes(
        tmp_path,
        image="registry.example/sovereign:1",
        queue="desk",
        volumes=[volume("sovereign-home", tmp_path), volume("models", tiny_model, read_only=True)],
        service_account="trainer",
        image_pull_secrets=["pull"],
        node_selector={"gpu": "h100"},
        tolerations=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        devices_per_node=2,
        memory_gib=64,
        cpus=7.5,
    )
    described = of_job(there, make_for_two("pods", devices={**TWO, "count": 4}))
    assert not unknown_fields(models.TrainerV1alpha1TrainJob, described)
    assert described["metadata"] == {"name": NAME, "labels": {"kueue.x-k8s.io/queue-name": "desk"}}
    trainer, pod = described["spec"]["trainer"], pod_of(described)
    assert (trainer["image"], trainer["numNodes"]) == ("registry.example/sovereign:1", 2)
    assert trainer["resourcesPerNode"] == {
        "limits": {"nvidia.com/gpu": "2", "memory": "64Gi"},
        "requests": {"nvidia.com/gpu": "2", "memory": "64Gi", "cpu": "7.5"},
    }
    told = {each["name"]: each.get("value") for each in trainer["env"]}
    assert (told["WORLD_SIZE"], told["LOCAL_WORLD_SIZE"]) == ("4", "2")
    assert pod["terminationGracePeriodSeconds"] == 330
    assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("trainer", {"gpu": "h100"})
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (os.getuid(), os.getgid())
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    claims = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["volumes"]}
    mounts = {each["mountPath"]: (claims[each["name"]], each.get("readOnly")) for each in container["volumeMounts"]}
    assert mounts[str(tmp_path / "pods")] == ("sovereign-home", False)
    assert mounts[str(tiny_model)] == ("models", True)


def test_the_least_manifest(make_job: JobMaker, tmp_path: Path) -> None:
    described = of_job(kubernetes(tmp_path), make_job("pod", letters(2), base_model=tmp_path / "model"))
    assert not unknown_fields(models.TrainerV1alpha1TrainJob, described)
    assert described["metadata"]["labels"] == {} and "serviceAccountName" not in pod_of(described)
    assert described["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "1"}
    on_cpu = of_job(kubernetes(tmp_path, gpu_resource=None), make_job("cpu", [], base_model=tmp_path / "model"))
    assert {"name": "CUDA_VISIBLE_DEVICES", "value": ""} in on_cpu["spec"]["trainer"]["env"]
    assert on_cpu["spec"]["trainer"]["resourcesPerNode"]["limits"] == {}


def test_the_recipe_for_the_cluster_is_known_to_kubeflow_and_to_the_launcher(api: ApiServer, place: Place) -> None:
    assert not unknown_fields(models.TrainerV1alpha1TrainingRuntime, OBJECTS[0])
    assert "TrainingRuntime sovereign-trainer" in check_cluster(place())
    (rights,) = [each["rules"] for each in OBJECTS if each["kind"] == "Role"]
    assert {(kind, verb) for rule in rights for kind in rule["resources"] for verb in rule["verbs"]} == {
        *(("trainjobs", verb) for verb in ("create", "get", "delete")),
        ("trainingruntimes", "get"),
        ("pods", "list"),
    }


MOUNTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "volumes": lambda pod: pod.update(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "vault"}}]),
    "containers": lambda pod: pod["containers"].append({"name": "sidecar"}),
    "initContainers": lambda pod: pod.update(initContainers=[{"name": "first"}]),
    "automountServiceAccountToken": lambda pod: pod.pop("automountServiceAccountToken"),
    "envFrom": lambda pod: pod["containers"][0].update(envFrom=[{"secretRef": {"name": "keys"}}]),
    "restartPolicy": lambda pod: pod.update(restartPolicy="OnFailure"),
}


@pytest.mark.security_case(
    "The cluster's TrainingRuntime adds a volume, container, secret or token to the trainer's pods", "rejected"
)
def test_a_runtime_that_gives_pods_more_is_refused(api: ApiServer, place: Place, make_for_two: JobMaker) -> None:
    job = make_for_two("refused")
    for field, change in MOUNTED.items():
        api.runtime = deepcopy(OBJECTS[0])
        (of_node,) = api.runtime["spec"]["template"]["spec"]["replicatedJobs"]
        change(of_node["template"]["spec"]["template"]["spec"])
        with pytest.raises(RecipeError, match=field):
            run(job, place())
    assert not api.created


def test_a_path_that_the_pods_would_not_see_is_named(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
    job = make_job("pod", letters(2))
    withheld = {"SOVEREIGN_VAULT": Path("/srv/vault")}
    volumes = [volume("home", tmp_path), volume("models", tiny_model, read_only=True)]
    assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), job, withheld)
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on none of the pods' volumes"):
        assert_seen_by_pod(kubernetes(tmp_path), job, withheld)
    outside = job.model_copy(update={"conversations": Path("/elsewhere/rows.jsonl")})
    with pytest.raises(RecipeError, match=r"needs /elsewhere/rows\.jsonl, which is on none of the pods' volumes"):
        assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), outside, withheld)
    volumes[0]["read_only"] = True
    with pytest.raises(RecipeError, match="is read_only"):
        assert_seen_by_pod(kubernetes(tmp_path, volumes=volumes), job, withheld)
    with pytest.raises(RecipeError, match=r"training\.rlhf cannot be trained in a pod"):  # where there is no sandbox
        assert_seen_by_pod(kubernetes(tmp_path), reward_job(make_job, "reward", tmp_path), {})
    (tmp_path / "model").symlink_to(tiny_model)
    behind_a_link = job.model_copy(update={"base_model": tmp_path / "model"})
    with pytest.raises(RecipeError, match=f"needs {tiny_model}, which is on none of the pods' volumes"):
        assert_seen_by_pod(kubernetes(tmp_path), behind_a_link, {})


@pytest.mark.security_case(
    "A volume of the trainer's pods contains the vault, review seeds and keys, or unscrubbed text", "rejected"
)
def test_a_volume_that_holds_what_is_withheld_is_refused(make_job: JobMaker, tmp_path: Path) -> None:
    job, hidden = make_job("pod", letters(2)), tmp_path / "hidden"
    for holding in (tmp_path, hidden, hidden / "deeper"):
        with pytest.raises(RecipeError, match=rf"contains {hidden} \(SOVEREIGN_VAULT\), which a trainer must not see"):
            assert_seen_by_pod(kubernetes(holding), job, {"SOVEREIGN_VAULT": hidden})


@pytest.mark.security_case(
    "The trainer's pods would mount the whole home: other lines' weights, the registry, Dagster's databases",
    "they mount only the job's paths, and read-only unless the trainer writes there",
)
def test_pods_mount_the_paths_of_their_job_alone(make_job: JobMaker, tmp_path: Path, tiny_model: Path) -> None:
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
        conversations=home / "artifacts" / "rows.jsonl",
    )
    (container,) = pod_of(of_job(kubernetes(tmp_path), job))["containers"]
    of_volumes = [each for each in container["volumeMounts"] if each["mountPath"] != "/dev/shm"]
    assert {each["mountPath"]: (each["subPath"], each["readOnly"]) for each in of_volumes} == {
        str(job.result.parent): ("pod", False),
        str(home / "references"): ("home/references", False),
        str(home / "checkpoints" / "lamps.sft"): ("home/checkpoints/lamps.sft", False),
        str(home / "checkpoints" / "lamps.sft.lock"): ("home/checkpoints/lamps.sft.lock", False),
        str(home / "artifacts" / "rows.jsonl"): ("home/artifacts/rows.jsonl", True),
        str(tmp_path / "link"): ("home/models/tiny", True),
        str(model): ("home/models/tiny", True),
        str(tmp_path / "blobs" / "weights"): ("blobs/weights", True),
    }


def test_two_pods_train_what_two_processes_do_though_a_node_dies_in_mid_step(
    api: ApiServer, on_one_machine: TrainingJob, make_for_two: JobMaker, place: Place, halting: str, tmp_path: Path
) -> None:
    """Nothing of this process is passed on, no document reaches a log, and nothing is left behind."""
    job, lines = make_for_two("dies", checkpoints={"every_steps": 2, "keep": 1}), list[str]()

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/") and not (tmp_path / "go on").exists():
            (process,) = [pod.process for pod in api.pods if pod.node == "node2"]
            assert process is not None
            process.kill()  # its trainer dies with it
            (tmp_path / "go on").touch()

    run(job, place(halting), progress)
    assert "on 2 nodes with 1 process each" in next(line for line in lines if line.startswith("submitted"))
    assert any("ended as Failed on node2 (Error, exit status 137)" in line for line in lines)
    assert "resuming from step-00000002" in lines and len(api.created) == 2
    assert files(job.output) == files(on_one_machine.output)
    for created in api.created:
        assert KEY[KEY_VARIABLE] not in json.dumps(created) and "hunter2" not in json.dumps(created)
        assert {each["name"] for each in created["spec"]["trainer"]["env"]} == {
            *remote_environment(job.result),
            *("WORLD_SIZE", "LOCAL_WORLD_SIZE", NODE_VARIABLE, NODE_RANK_VARIABLE),
        }
    assert not any("PLANTED" in text for text in (*lines, *(path.read_text() for path in api.directory.glob("*.log"))))
    assert [path.suffix for path in (job.locks.parent / "kubernetes").iterdir()] == [".lock"]
    last = [seen[:2] for seen in api.seen if seen[0] == "DELETE"][-1]
    assert last[1].endswith(f"trainjobs/{api.created[-1]['metadata']['name']}")


def test_a_node_starts_a_trainer_for_each_of_its_devices(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("import os\nprint(os.environ['RANK'], os.environ['LOCAL_RANK'])\n")
    (tmp_path / "start.py").write_text(
        "from pathlib import Path\n"
        "from sovereign_pipeline.training import ranks\n"
        "ranks.NODE_TASK = 'trainer'\n"
        "raise SystemExit(ranks.main(Path('order.json')))\n"
    )
    environment = {"PYTHONPATH": f"{PROJECT_ROOT}:{tmp_path}", "LOCAL_WORLD_SIZE": "2", NODE_RANK_VARIABLE: "1"}
    subprocess.run([sys.executable, "start.py"], env=environment, cwd=tmp_path, check=True)
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["2 0", "3 1"]


def test_a_job_that_kueue_queues_and_preempts_beside_an_api_server_that_is_away_ends_in_the_same_bytes(
    api: ApiServer, alone: TrainingJob, make_for_one: JobMaker, place: Place, halting: str
) -> None:
    job, lines = make_for_one("preempted"), list[str]()

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            api.fails = lambda method, path: True
        if line.startswith("Kubernetes does not answer"):
            api.fails = lambda method, path: False
            api.suspend()
        if "waits in Kueue's queue desk" in line:
            api.resume()

    run(job, place(halting, queue="desk"), progress)
    assert len([line for line in lines if "waits in Kueue's queue" in line]) == 2
    assert len([line for line in lines if "does not answer ((503) planted)" in line]) == 1
    assert "resuming from step-00000004" in lines and len(api.created) == 1
    assert files(job.output) == files(alone.output)


def test_a_run_after_a_killed_one_follows_its_job_and_an_interrupt_leaves_a_checkpoint(
    api: ApiServer, alone: TrainingJob, make_for_one: JobMaker, place: Place, halting: str
) -> None:
    job = make_for_one("found")
    killed(lambda: run(job, place(halting), lambda line: os._exit(9) if line.startswith("step 3/") else None))
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, place(halting), interrupt)
    assert "already runs this training" in lines[0] and len(api.created) == 1
    assert [each.name for each in job.checkpoint_directory.glob("step-*")] == ["step-00000004"]
    assert api.job is None and not list((job.locks.parent / "kubernetes").glob("*/order.json"))
    run(job, place(halting), lines.append)
    assert "resuming from step-00000004" in lines
    assert files(job.output) == files(alone.output)


FAULT = TrainingResult(failure=Failure(message="Too many rows are cut.")).model_dump_json()
ENDINGS: dict[str, tuple[str, dict[str, Any], type[SovereignError], str]] = {
    "its own failure": (
        f"cd $(dirname $3); echo '{FAULT}' > written; mv written result.json; exit 1",
        {},
        TrainingFailed,
        "^Too many rows are",
    ),
    "memory": ("kill -9 $$", {"has_memory": False}, TrainingFailed, "OOMKilled, exit status 137.*without a result"),
    "no program": ("exit 127", {}, TrainingFailed, "(?s)on node1 .*exit status 127.*Install this program"),
    "its last words": ("echo No module; exit 1", {}, TrainingFailed, "exit status 1; No module"),
    "no image": (
        "exit 1",
        {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        TrainingFailed,
        "(?s)ImagePullBackOff: no such image.*Correct trainer.image",
    ),
    "deleted by a person": (
        "trap 'exit 1' TERM; while :; do sleep 0.1; done",
        {},
        TrainingFailed,
        "was deleted, without a result",
    ),
    "refused": ("exit 1", {"fails": lambda method, path: method == "POST"}, InputError, r"rejected the job: \(503\)"),
    "away": ("exit 1", {"fails": lambda method, path: True}, InputError, r"does not answer: \(503\)"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_end_without_an_adapter_is_a_failure_with_its_reason(
    ending: str, api: ApiServer, make_for_one: JobMaker, place: Place, tmp_path: Path
) -> None:
    script, state, error, message = ENDINGS[ending]
    python = program(tmp_path / "python", script)
    for name, value in state.items():
        setattr(api, name, value)

    def progress(line: str) -> None:
        if ending == "deleted by a person" and line.startswith("submitted"):
            api.delete()

    with pytest.raises(error, match=message):
        run(make_for_one("fails"), place(python), progress)
    assert len(api.created) <= 1 and not list(tmp_path.rglob("order.json"))


def test_what_the_launcher_lacks_is_told(
    api: ApiServer, make_for_two: JobMaker, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(where: Kubernetes) -> doctor.Finding:
        return doctor.trainer(Institution(name="Lamp Office", classification=("PUBLIC",), trainer=where))

    assert checked(place()).ok
    assert "has no TrainingRuntime other" in checked(place(runtime="other")).found
    with pytest.raises(InputError, match=r"trainer\.kubeconfig"):
        run(make_for_two("none"), place(kubeconfig=str(tmp_path / "nowhere")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"(?s)kubernetes is not installed.*sovereign-pipeline\[kubernetes\]"):
        check_cluster(place())
