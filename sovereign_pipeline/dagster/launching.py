"""Launch the trainer from an asset through Dagster Pipes, as a local process, in a Kubernetes pod, or as a job of Ray
or Slurm. The pod has never run on a cluster; tests use Kubernetes' own models and a simulated API server."""

import importlib.util
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from sovereign_pipeline.base.errors import InputError, RecipeError
from sovereign_pipeline.base.files import keyed_digest, read_secret
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Here, Kubernetes, Ray, Slurm, Volume, load_institution
from sovereign_pipeline.record.stage import Launch, Progress
from sovereign_pipeline.training.here import run_trainer
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob, lock_of_line
from sovereign_pipeline.training.launcher import (
    SECONDS_FOR_A_CHECKPOINT,
    launch,
    remote_environment,
    worker_command,
)
from sovereign_pipeline.training.ray_jobs import run_trainer_on_ray
from sovereign_pipeline.training.slurm import run_trainer_on_slurm

LABEL = "sovereign-pipeline/trainer"
SECONDS_BETWEEN_LOOKS = 2.0
READ_BY_THE_TRAINER = ("base_model", "dataset", "parent_adapter")
WRITTEN_BY_THE_TRAINER = ("output", "result", "locks", "checkpoint_directory", "references")


def run_trainer_in_pod(
    context: dg.AssetExecutionContext,
    place: Kubernetes,
    withheld: Mapping[str, Path],
    job: Path,
    environment: Mapping[str, str],
) -> None:
    """Run the trainer on a job file in a pod that sees the same paths, and wait. Progress messages come through the
    pod's log.

    Args:
        withheld: variable -> directory that a trainer must not see, and that the pod therefore must not mount.
        environment: variables beside those of every trainer.

    Raises as `launcher.launch` does, InputError if dagster-k8s is not installed or no cluster is reachable, and
    RecipeError for a path that the pod would not see.
    """
    launch(Pod(context, place, withheld, job, environment, uuid.uuid4().hex[:16]), job, context.log.info)


@dataclass
class Pod:
    """Runs the trainer in a pod; see `launcher.Launcher`. Dagster's client creates, follows and deletes the pod in one
    call."""

    context: dg.AssetExecutionContext
    place: Kubernetes
    withheld: Mapping[str, Path]
    job: Path
    environment: Mapping[str, str]
    name: str
    is_reachable: bool = True

    def submit(self) -> None:
        if importlib.util.find_spec("dagster_k8s") is None:
            raise InputError(
                "institution.yaml: trainer.where is 'kubernetes', but dagster-k8s is not installed here.",
                "Run `pip install 'sovereign-pipeline[kubernetes]'` from the institution's own package mirror.",
            )
        assert_seen_by_pod(self.place, self.job, self.withheld)
        _make_what_is_mounted(self.job)

    def follow(self) -> str | None:
        from dagster_k8s import PipesK8sClient
        from dagster_k8s.client import DagsterK8sError
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        place, kubeconfig = self.place, self.place.kubeconfig
        try:
            PipesK8sClient(kubeconfig_file=str(kubeconfig) if kubeconfig is not None else None).run(
                context=self.context,
                image=place.image,
                namespace=place.namespace,
                command=worker_command(place.python, self.job),
                env={**remote_environment(self.job), **self.environment},
                base_pod_meta={"labels": {LABEL: self.name}},
                base_pod_spec=pod_spec(place, self.job),
                pod_wait_timeout=0,  # no limit on a training's duration
            )
        except ConfigException as error:
            self.is_reachable = False
            raise InputError(
                f"institution.yaml: trainer.kubeconfig does not reach a cluster: {_short(error)}.",
                "Give the path of a working kubeconfig, or remove the key inside a cluster.",
            ) from None
        except (DagsterK8sError, ApiException, HTTPError) as error:
            self.cancel()
            return f"the pod in namespace {place.namespace} ended: {_short(error)}"
        return None

    def cancel(self) -> None:
        """Wait until the deleted pod has ended, for at most the time to save a checkpoint. The client itself does not
        wait."""
        if self.is_reachable:
            _wait_until_gone(self.place, self.name, self.context.log.info)


def pod_spec(place: Kubernetes, job: Path) -> dict[str, Any]:
    """Return the pod's specification without image, command and environment. The pod runs as this process's user, so
    that each can remove the other's files. It gets no cluster token and no service addresses."""
    container: dict[str, Any] = {
        "name": "trainer",
        "workingDir": str(job.parent),
        "volumeMounts": [
            *_mounts(place, job),
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
        "resources": _resources(place),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": SECONDS_FOR_A_CHECKPOINT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsUser": os.getuid(),
            "runAsGroup": os.getgid(),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
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
        "containers": [container],
    }
    if place.service_account is not None:
        spec["serviceAccountName"] = place.service_account
    return spec


def assert_seen_by_pod(place: Kubernetes, job: Path, withheld: Mapping[str, Path]) -> None:
    """Raise RecipeError if the pod cannot run the job, or would see too much.

    Rejected are:
    - a volume with data that training must not see: the vault or unscrubbed text;
    - a path of the job on no volume of the pod, or on a read-only volume although the trainer writes there;
    - a training by reward. Its tools need namespaces, which the pod's security context forbids. Even if its reward is a
      reward model alone, its files beside the job are not mounted.
    """
    if TrainingJob.read(job).reward is not None:
        raise RecipeError(
            "institution.yaml: trainer: a line with training.rlhf is not trained in a pod, which may not make the "
            "namespaces that the sandbox of its tools needs.",
            "Train this line on this machine or on a Ray cluster.",
        )
    for variable, directory in withheld.items():
        for volume in place.volumes:
            if directory.resolve().is_relative_to(volume.path) or volume.path.is_relative_to(directory.resolve()):
                raise RecipeError(
                    f"institution.yaml: trainer.volumes: {volume.claim} at {volume.path} holds {directory} "
                    f"({variable}), which a trainer must not see.",
                    f"Move it ({variable}) to another volume.",
                )
    for path, writes in _paths(job):
        holding = _volume_of(place, path)
        if holding is None:
            raise RecipeError(
                f"institution.yaml: trainer.volumes: the trainer needs {path}, which is on no volume of its pod.",
                "Add the volume of this path, mounted at the same path as here.",
            )
        if writes and holding.read_only:
            raise RecipeError(
                f"institution.yaml: trainer.volumes: the trainer writes to {path}, but {holding.claim} at "
                f"{holding.path} is read_only.",
                "Put $SOVEREIGN_HOME on a volume that can be written.",
            )


def _paths(job: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every path that a job needs, including links and their targets, and whether the trainer writes there."""
    described = TrainingJob.read(job)
    yield from _with_links(job.parent, True)
    for field in WRITTEN_BY_THE_TRAINER:
        yield from _with_links(getattr(described, field), True)
    # only this line's and method's directory, because those beside it belong to other lines
    yield from _with_links(described.checkpoint_directory.parent, True)
    yield from _with_links(lock_of_line(described.checkpoint_directory), True)
    for field in READ_BY_THE_TRAINER:
        path = getattr(described, field)
        if path is None:
            continue
        yield from _with_links(path, False)
        for link in path.rglob("*"):
            if link.is_symlink():
                yield from _with_links(link.resolve(), False)


def _with_links(path: Path, writes: bool) -> Iterator[tuple[Path, bool]]:
    yield path, writes
    yield path.resolve(), writes


def _make_what_is_mounted(job: Path) -> None:
    """Create the paths that the trainer writes. The cluster would create them for another user."""
    described = TrainingJob.read(job)
    for directory in (described.locks, described.checkpoint_directory, described.references):
        directory.mkdir(parents=True, exist_ok=True)
    lock_of_line(described.checkpoint_directory).touch()


def _mounts(place: Kubernetes, job: Path) -> list[dict[str, Any]]:
    """Return the mounts: only the job's paths, each at its path on Dagster's machine."""
    wanted: dict[Path, bool] = {}
    for path, writes in _paths(job):
        wanted[path] = wanted.get(path, False) or writes
    return [
        _mount(place, path, writes)
        for path, writes in wanted.items()
        if not any(path.is_relative_to(other) for other in wanted if other != path and wanted[other] >= writes)
    ]


def _mount(place: Kubernetes, path: Path, writes: bool) -> dict[str, Any]:
    target = path.resolve()  # the cluster follows no link inside a volume
    volume = _volume_of(place, target)
    assert volume is not None  # `assert_seen_by_pod` was called before
    within = target.relative_to(volume.path)
    mount = {
        "name": f"volume-{place.volumes.index(volume)}",
        "mountPath": str(path),
        "readOnly": volume.read_only or not writes,
    }
    return mount if within == Path() else {**mount, "subPath": within.as_posix()}


def _volume_of(place: Kubernetes, path: Path) -> Volume | None:
    holding = [volume for volume in place.volumes if path.is_relative_to(volume.path)]
    return max(holding, key=lambda volume: len(volume.path.parts), default=None)


def _resources(place: Kubernetes) -> dict[str, dict[str, str]]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if place.cpus is not None:
        requests["cpu"] = f"{place.cpus:g}"
    if place.memory_gib is not None:
        requests["memory"] = limits["memory"] = f"{place.memory_gib}Gi"
    if place.gpus:
        requests[place.gpu_resource] = limits[place.gpu_resource] = str(place.gpus)
    return {"requests": requests, "limits": limits}


def _wait_until_gone(place: Kubernetes, name: str, progress: Progress) -> None:
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    deadline = time.monotonic() + SECONDS_FOR_A_CHECKPOINT + 10 * SECONDS_BETWEEN_LOOKS
    selector = f"{LABEL}={name}"
    progress(f"waiting for the pod to end; a checkpoint first, for at most {SECONDS_FOR_A_CHECKPOINT} s")
    try:
        while CoreV1Api().list_namespaced_pod(place.namespace, label_selector=selector).items:
            if time.monotonic() > deadline:
                progress(f"the pod has not ended; see `kubectl get pod -n {place.namespace} -l {selector}`")
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except (ApiException, HTTPError) as error:
        progress(f"whether the pod {selector} in {place.namespace} has ended is not known: {_short(error)}")


def _short(error: Exception) -> str:
    """Format an error in one line, without the log lines that Dagster's client appends."""
    text = re.sub(r"Last \d+ log lines.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:300].rstrip(" .")


def launch_with_pipes(context: dg.AssetExecutionContext, settings: Settings) -> Launch:
    """Return a launcher whose trainer reports to this step, for the place in `institution.yaml`."""

    def run(job: Path) -> None:
        key = key_of_marks(settings, job)
        environment = {KEY_VARIABLE: key}
        match load_institution(settings.data).trainer:
            case Here():
                _run_here(context, job, environment)
            case Kubernetes() as place:
                run_trainer_in_pod(context, place, settings.secret_directories, job, environment)
            case Ray() as place:
                _run_on_ray(context, place, settings, job, environment)
            case Slurm() as place:
                run_trainer_on_slurm(job, place, settings, context.log.info, key)

    return run


def key_of_marks(settings: Settings, job: Path) -> str:
    """Return the key of a training's marks, 64 hex digits. It serves one identity."""
    identity = TrainingJob.read(job).identity
    return keyed_digest(read_secret(settings.caches_key), "trainer", identity.encode()).hex()


def _run_here(context: dg.AssetExecutionContext, job: Path, environment: Mapping[str, str]) -> None:
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        run_trainer(job, context.log.info, {**environment, **session.get_bootstrap_env_vars()})


def _run_on_ray(
    context: dg.AssetExecutionContext, place: Ray, settings: Settings, job: Path, environment: Mapping[str, str]
) -> None:
    """Run the trainer on Ray. The Pipes files are beside the job file, on a volume shared by both machines."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesFileContextInjector(str(job.parent / "pipes-context.json")),
        message_reader=dg.PipesFileMessageReader(str(job.parent / "pipes-messages.jsonl")),
    ) as session:
        given = {**environment, **session.get_bootstrap_env_vars()}
        run_trainer_on_ray(job, place, context.log.info, given, settings.secret_directories)
