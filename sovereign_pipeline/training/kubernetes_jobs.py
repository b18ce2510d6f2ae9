"""Run the trainer as a `TrainJob` of Kubeflow Trainer v2, and wait for it.

This module has never run on a real cluster. Tests use the published models of Kubeflow Trainer's resources and a
simulated API server.
"""

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError, RecipeError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Kubernetes, Volume
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob, lock_of_line
from sovereign_pipeline.training.node_task import NODE_VARIABLE
from sovereign_pipeline.training.queued import ClusterError, Ended, QueuedJob, run_queued
from sovereign_pipeline.training.ranks import NODE_RANK_VARIABLE

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
LABEL = "sovereign-pipeline/trainer"
"""Label of the pods, and the `manager` of the patch in the manifest."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NODE = "node"
"""Name of the trainer's job and container in Kubeflow's runtimes."""
SECONDS_TO_END = launcher.SECONDS_FOR_A_CHECKPOINT + 30
NEVER_STARTS = (
    *("CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull", "ImagePullBackOff"),
    "InvalidImageName",
)
"""Reasons that Kubernetes states for a waiting container that will never start."""
NEVER_STARTED = "NEVER_STARTED"
SECONDS_FOR_AN_ANSWER = 60


def run_trainer_on_kubernetes(
    job_file: Path, place: Kubernetes, settings: Settings, progress: Progress, key: str
) -> None:
    """Run the trainer on a job file in pods that see the same paths as this process, and wait. Raises the errors of
    `run_queued`, `assert_seen_by_pod`, `Cluster` and `assert_runtime`."""
    run_queued(KubernetesJob, place, job_file, settings, progress, key)


class KubernetesJob(QueuedJob[Kubernetes]):
    """Runs the trainer as a TrainJob; see `launcher.Launcher`."""

    CLUSTER = "Kubernetes"
    HINTS = {
        **QueuedJob.HINTS,
        NEVER_STARTED: "Correct trainer.image, volumes or image_pull_secrets in institution.yaml.",
    }

    def submit(self) -> None:
        assert_seen_by_pod(self._place, self._job, self._withheld)
        self._cluster = Cluster(self._place)
        assert_runtime(self._cluster, self._place)
        super().submit()

    def _find(self) -> str | None:
        with _reached():
            job = self._cluster.get("trainjobs", self._directory.name)
        return self._directory.name if job is not None and not _is_deleted(job) and not _end_of(job) else None

    def _start(self) -> str:
        name = self._directory.name
        if not self._end(name):
            raise ClusterError(f"an earlier TrainJob {name} does not end; {self._see(name)}")
        _make_what_is_mounted(self._job)
        self._cluster.create(manifest(self._place, name, self._job, self.file, self._order))
        return name

    def _look(self, number: str) -> Ended | None:
        job, pods = self._cluster.get("trainjobs", number), self._cluster.pods(number)
        if job is None and not pods:
            return Ended("CANCELLED", f"TrainJob {number} on Kubernetes was deleted")
        if job is None or _is_deleted(job):
            self._tell(f"{number} is being deleted")
            return None
        end = _end_of(job)
        stuck = [each for pod in pods for each in _waiting(pod) if each.reason in NEVER_STARTS]
        if end is None and not stuck:
            self._tell(f"{number} {_state(job, pods, self._nodes)}")
            return None
        if end is not None:
            ended = _ended(number, end, pods)
        else:
            self._cluster.delete(number)
            why = f"{stuck[0].reason}: {stuck[0].message}"
            ended = Ended(NEVER_STARTED, f"TrainJob {number} on Kubernetes cannot start a pod ({_short(why)})")
        self._tell(ended.text)
        return ended

    def _end(self, number: str) -> bool:
        self._cluster.delete(number)
        return self._wait_for_the_end(number, SECONDS_TO_END + 60)

    def _see(self, number: str) -> str:
        return f"see `kubectl describe trainjob -n {self._place.namespace} {number}`"

    def _tidy(self) -> None:
        self._cluster.delete(self._directory.name)


def manifest(place: Kubernetes, name: str, job: TrainingJob, file: Path, order: Path) -> dict[str, Any]:
    """Return the manifest of the TrainJob `name`, which runs `training.ranks` on the order file. The pods run as this
    process's user, so that the pods and this process can remove each other's files. Kubeflow Trainer applies the patch
    in the manifest to the institution's TrainingRuntime. file: job file. order: order file."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    on_each_node = min(job.devices.count, place.devices_per_node)
    variables = {
        **launcher.remote_environment(file),
        **({"CUDA_VISIBLE_DEVICES": ""} if place.gpu_resource is None else {}),
        "WORLD_SIZE": str(job.devices.count),
        "LOCAL_WORLD_SIZE": str(on_each_node),
    }
    of_the_pod = {
        NODE_VARIABLE: "spec.nodeName",
        NODE_RANK_VARIABLE: "metadata.annotations['batch.kubernetes.io/job-completion-index']",
    }
    pod = {
        "terminationGracePeriodSeconds": SECONDS_TO_END,
        "securityContext": {
            "runAsUser": os.getuid(),
            "runAsGroup": os.getgid(),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": place.service_account,
        "nodeSelector": dict(place.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in place.tolerations],
        "imagePullSecrets": [{"name": secret} for secret in place.image_pull_secrets],
        "volumes": [
            *(
                {
                    "name": f"volume-{number}",
                    "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
                }
                for number, volume in enumerate(place.volumes)
            ),
            # Training processes and data loader workers exchange tensors in /dev/shm, which a pod limits to 64 MiB by
            # default.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
        "containers": [
            {
                "name": NODE,
                "volumeMounts": [*_mounts(place, job), {"name": "shared-memory", "mountPath": "/dev/shm"}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    template = {"metadata": {"labels": {LABEL: name}}, "spec": {key: value for key, value in pod.items() if value}}
    patch = {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}}}
    described = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {QUEUE_LABEL: place.queue} if place.queue is not None else {}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": place.runtime},
            "trainer": {
                "image": place.image,
                "command": [place.python, "-m", "sovereign_pipeline.training.ranks", str(order)],
                "env": [
                    *({"name": variable, "value": value} for variable, value in variables.items()),
                    *(
                        {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                        for variable, path in of_the_pod.items()
                    ),
                ],
                "numNodes": job.devices.count // on_each_node,
                "resourcesPerNode": _resources(place, on_each_node),
            },
            "runtimePatches": [{"manager": LABEL, "trainingRuntimeSpec": patch}],
        },
    }
    job_model = TrainerV1alpha1TrainJob.from_dict(described)
    assert job_model.to_dict() == described  # Kubeflow's model drops keys that it does not know
    return described


def _resources(place: Kubernetes, devices: int) -> dict[str, dict[str, str]]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if place.cpus is not None:
        requests["cpu"] = f"{place.cpus:g}"
    if place.memory_gib is not None:
        requests["memory"] = limits["memory"] = f"{place.memory_gib}Gi"
    if place.gpu_resource is not None:
        requests[place.gpu_resource] = limits[place.gpu_resource] = str(devices)
    return {"requests": requests, "limits": limits}


def assert_seen_by_pod(place: Kubernetes, job: TrainingJob, withheld: Mapping[str, Path]) -> None:
    """Raise RecipeError if the pods cannot run the job, or would see too much.

    This function rejects:
    - a volume that contains, or is inside, a directory of `withheld` (the vault or unscrubbed text; the keys are the
      names of environment variables);
    - a path of the job that is on none of the pods' volumes;
    - a path that the trainer writes to and that is on a read-only volume;
    - RLHF. The reward tools need namespaces, which the pods' security context forbids. A reward that consists of a
      reward model alone is rejected too, because the reward model's files are not mounted.
    """
    if job.reward is not None:
        raise RecipeError(
            "institution.yaml: trainer: a line with training.rlhf cannot be trained in a pod. The reward tools run in "
            "a sandbox, and a pod may not create the namespaces that the sandbox needs.",
            "Train this line on this machine, or on a Slurm or Ray cluster.",
        )
    for variable, directory in withheld.items():
        for volume in place.volumes:
            if directory.resolve().is_relative_to(volume.path) or volume.path.is_relative_to(directory.resolve()):
                raise RecipeError(
                    f"institution.yaml: trainer.volumes: {volume.claim} at {volume.path} contains {directory} "
                    f"({variable}), which a trainer must not see.",
                    f"Move {directory} ({variable}) to another volume.",
                )
    for path, writes in _paths(job):
        holding = _volume_of(place, path)
        if holding is None:
            raise RecipeError(
                f"institution.yaml: trainer.volumes: the trainer needs {path}, which is on none of the pods' volumes.",
                "Add the volume that contains this path, mounted at the same path as on this machine.",
            )
        if writes and holding.read_only:
            raise RecipeError(
                f"institution.yaml: trainer.volumes: the trainer writes to {path}, but {holding.claim} at "
                f"{holding.path} is read_only.",
                "Put $SOVEREIGN_HOME on a writable volume.",
            )


def _paths(job: TrainingJob) -> Iterator[tuple[Path, bool]]:
    """Yield every path that a job needs, each with True if the trainer writes to it, otherwise with False. Links and
    their targets are included."""
    for path in (
        job.result.parent,
        job.references,
        # only the directory of this line and method, because sibling directories belong to other lines
        job.checkpoint_directory.parent,
        lock_of_line(job.checkpoint_directory),
    ):
        yield from _with_links(path, True)
    for path in job.inputs:
        yield from _with_links(path, False)
        for link in path.rglob("*"):
            if link.is_symlink():
                yield from _with_links(link.resolve(), False)


def _with_links(path: Path, writes: bool) -> Iterator[tuple[Path, bool]]:
    yield path, writes
    yield path.resolve(), writes


def _make_what_is_mounted(job: TrainingJob) -> None:
    """Create the paths that the trainer writes. Otherwise the cluster would create them, as another user."""
    for directory in (job.checkpoint_directory, job.references):
        directory.mkdir(parents=True, exist_ok=True)
    lock_of_line(job.checkpoint_directory).touch()


def _mounts(place: Kubernetes, job: TrainingJob) -> list[dict[str, Any]]:
    """Return the volume mounts: one for each path of the job that is in no other mount, at the same path as here."""
    wanted: dict[Path, bool] = {}
    for path, writes in _paths(job):
        wanted[path] = wanted.get(path, False) or writes
    mounts: list[dict[str, Any]] = []
    for path, writes in wanted.items():
        if any(path.is_relative_to(other) for other in wanted if other != path and wanted[other] >= writes):
            continue
        target = path.resolve()  # the cluster follows no link inside a volume
        volume = _volume_of(place, target)
        assert volume is not None  # `assert_seen_by_pod` was called before
        name, read_only = f"volume-{place.volumes.index(volume)}", volume.read_only or not writes
        mounts.append({"name": name, "mountPath": str(path), "readOnly": read_only})
        if target != volume.path:
            mounts[-1]["subPath"] = target.relative_to(volume.path).as_posix()
    return mounts


def _volume_of(place: Kubernetes, path: Path) -> Volume | None:
    holding = [volume for volume in place.volumes if path.is_relative_to(volume.path)]
    return max(holding, key=lambda volume: len(volume.path.parts), default=None)


def check_cluster(place: Kubernetes) -> str:
    """Return a clause that names the namespace and its TrainingRuntime, for a message to an operator. Raises the errors
    of `Cluster` and `assert_runtime`."""
    assert_runtime(Cluster(place), place)
    return f"namespace {place.namespace} has the TrainingRuntime {place.runtime}"


def assert_runtime(cluster: "Cluster", place: Kubernetes) -> None:
    """Raise RecipeError if the TrainingRuntime differs from deploy/kubernetes.yaml, because another TrainingRuntime
    could add a volume, a container or a cluster token to the pods. Raises InputError if the cluster does not answer or
    has no such TrainingRuntime."""
    with _reached():
        runtime = cluster.get("trainingruntimes", place.runtime)
    hint = f"Run `kubectl apply -n {place.namespace} -f deploy/kubernetes.yaml`."
    if runtime is None:
        raise InputError(
            f"institution.yaml: trainer.runtime: namespace {place.namespace} has no TrainingRuntime {place.runtime}.",
            hint,
        )
    jobs = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = jobs[0]["template"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    found = {
        "replicatedJobs": [job["name"] for job in jobs],
        "containers": [each["name"] for each in pod["containers"]],
        **{key: pod.get(key) for key in ("restartPolicy", "automountServiceAccountToken", "initContainers", "volumes")},
        **{key: container.get(key) for key in ("env", "envFrom", "volumeMounts")},
    }
    wanted = {
        **dict.fromkeys(found),
        "replicatedJobs": [NODE],
        "containers": [NODE],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }
    different = [key for key in found if found[key] != wanted[key]]
    if different:
        raise RecipeError(
            f"TrainingRuntime {place.runtime} in namespace {place.namespace} differs from deploy/kubernetes.yaml in "
            f"{', '.join(different)}. A trainer could read data that it must not see.",
            hint,
        )


class Cluster:
    """Sends requests to the API server. A request that fails raises ClusterError. The constructor raises InputError if
    a package is not installed or the kubeconfig cannot be loaded."""

    def __init__(self, place: Kubernetes) -> None:
        for package in ("kubernetes", "kubeflow_trainer_api"):
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"institution.yaml: trainer.where is 'kubernetes', but {package} is not installed here.",
                    "Run `pip install 'sovereign-pipeline[kubernetes]'` from the institution's own package mirror.",
                )
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            if place.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(
                    str(place.kubeconfig) if place.kubeconfig is not None else None, client_configuration=configuration
                )
        except config.ConfigException as error:
            raise InputError(
                f"institution.yaml: the kubeconfig of trainer.kubeconfig cannot be loaded: {_short(str(error))}.",
                "Set trainer.kubeconfig to a valid kubeconfig. Inside the cluster, remove the key instead.",
            ) from None
        api = client.ApiClient(configuration)
        self._objects, self._core, self._namespace = (
            client.CustomObjectsApi(api),
            client.CoreV1Api(api),
            place.namespace,
        )

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        """Return an object of Kubeflow Trainer by name; None if the cluster does not have such an object."""
        found: dict[str, Any] | None = self._ask(
            self._objects.get_namespaced_custom_object, GROUP, VERSION, self._namespace, plural, name, if_there=True
        )
        return found

    def create(self, job: dict[str, Any]) -> None:
        self._ask(self._objects.create_namespaced_custom_object, GROUP, VERSION, self._namespace, "trainjobs", job)

    def delete(self, name: str) -> None:
        """Ask the cluster to delete a TrainJob after its pods. If there is no such TrainJob, do nothing."""
        about = (GROUP, VERSION, self._namespace, "trainjobs", name)
        delete = self._objects.delete_namespaced_custom_object
        self._ask(delete, *about, propagation_policy="Foreground", if_there=True)

    def pods(self, name: str) -> list[Any]:
        """Return the pods of a TrainJob, as Kubernetes' own models."""
        selector = f"{LABEL}={name}"
        return list(self._ask(self._core.list_namespaced_pod, self._namespace, label_selector=selector).items)

    def _ask(self, request: Callable[..., Any], *about: Any, if_there: bool = False, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return request(*about, _request_timeout=SECONDS_FOR_AN_ANSWER, **options)
        except ApiException as error:
            if error.status == 404 and if_there:
                return None
            try:
                message = json.loads(error.body)["message"]
            except (ValueError, KeyError, TypeError):
                message = error.reason
            raise ClusterError(f"({error.status}) {_short(str(message))}") from None
        except HTTPError as error:
            raise ClusterError(_short(str(error))) from None


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except ClusterError as error:
        raise InputError(
            f"institution.yaml: trainer.where is 'kubernetes', but the cluster does not answer: {error}.",
            "Check the cluster, and the rights of this account (deploy/kubernetes.yaml).",
        ) from None


def _conditions(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a mapping of type to condition, for the conditions of a TrainJob that have the status True."""
    return {each["type"]: each for each in job.get("status", {}).get("conditions", ()) if each["status"] == "True"}


def _end_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the condition with which a TrainJob ended; None if it has not ended."""
    holding = _conditions(job)
    return holding.get("Complete") or holding.get("Failed")


def _is_deleted(job: dict[str, Any]) -> bool:
    return job["metadata"].get("deletionTimestamp") is not None


def _waiting(pod: Any) -> list[Any]:
    """Return the states of the pod's waiting containers."""
    states = [each.state for each in pod.status.container_statuses or () if each.state is not None]
    return [state.waiting for state in states if state.waiting is not None]


def _state(job: dict[str, Any], pods: list[Any], nodes: int) -> str:
    """Format the state of a TrainJob that has not ended."""
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if job["spec"].get("suspend"):
        return "is suspended" if queue is None else f"waits in Kueue's queue {queue}"
    running = sum(pod.status.phase == "Running" for pod in pods)
    reasons = {each.reason for pod in pods for each in _waiting(pod)}
    reasons |= {each.reason for pod in pods for each in pod.status.conditions or () if each.status == "False"}
    return f"has {running} of {nodes} pods running" + (
        f" ({', '.join(sorted(filter(None, reasons)))})" if reasons else ""
    )


def _ended(name: str, end: dict[str, Any], pods: list[Any]) -> Ended:
    """Return how a TrainJob ended. The exit status comes from a pod that ran out of memory or, if there is none, from
    the pod that failed first."""
    text = f"TrainJob {name} on Kubernetes ended as {end['type']}"
    if end["type"] == "Complete":
        return Ended("COMPLETED", text, 0)
    states = [(pod, each.state.terminated) for pod in pods for each in pod.status.container_statuses or ()]
    failed = [(pod, state) for pod, state in states if state is not None and state.exit_code != 0]
    if not failed:  # the pod's node is gone
        why = f"{end.get('reason', '')}: {end.get('message', '')}"
        return Ended("FAILED", f"{text} ({_short(why)})")
    pod, state = min(failed, key=_order_of_blame)
    said = f"; {_short(state.message.strip().splitlines()[-1])}" if (state.message or "").strip() else ""
    how = f"{state.reason or 'Error'}, exit status {state.exit_code}{said}"
    return Ended(
        "OUT_OF_MEMORY" if state.reason == "OOMKilled" else "FAILED",
        f"{text} on {pod.spec.node_name} ({how})",
        state.exit_code,
    )


def _order_of_blame(failed: tuple[Any, Any]) -> tuple[bool, bool, str]:
    """Return a sort key that puts the container that failed before the containers that were stopped as a result."""
    _, state = failed
    return state.reason != "OOMKilled", state.exit_code == 128 + signal.SIGTERM, str(state.finished_at)


def _short(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(" .")
