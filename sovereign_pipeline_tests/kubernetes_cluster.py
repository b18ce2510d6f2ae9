"""A stand-in for Kubernetes' API server with Kubeflow Trainer and Kueue: it starts the pods of a TrainJob as processes
of this machine.

A pod's command runs with the environment of the manifest and no other. Objects with fields that Kubeflow's models do
not know are rejected, as `kubectl --validate=strict` does.
"""

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubeflow_trainer_api import models

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.dagster.stand_ins import Server

OBJECTS = list(yaml.safe_load_all((PROJECT_ROOT / "deploy" / "kubernetes.yaml").read_text()))
KUEUE = "kueue.x-k8s.io/queue-name"


def unknown_fields(model: Any, manifest: dict[str, Any]) -> bool:
    """Whether Kubeflow's model drops or changes something of a manifest."""
    return bool(model.from_dict(manifest).to_dict() != manifest)


@dataclass
class Pod:
    """A pod, and the process of its container, unless that cannot start."""

    name: str
    node: str
    log: Path
    process: "subprocess.Popen[bytes] | None"
    finished: str = ""

    @property
    def status(self) -> int | None:
        """Exit status as a container has it."""
        status = self.process.poll() if self.process is not None else None
        if status is not None and not self.finished:
            self.finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return 128 - status if status is not None and status < 0 else status

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


class ApiServer(Server):
    """Of the API what the launcher asks: TrainJobs (create, get, delete), their TrainingRuntime, and pods (list)."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.runtime: dict[str, Any] = yaml.safe_load(yaml.safe_dump(OBJECTS[0]))
        self.job: dict[str, Any] | None = None
        self.pods: list[Pod] = []
        self.created: list[dict[str, Any]] = []
        self.waiting: dict[str, str] | None = None
        """Why containers cannot start."""
        self.has_memory = True

    def kubeconfig(self, path: Path) -> Path:
        named = {"clusters": [{"name": "c", "cluster": {"server": self.address}}], "users": [{"name": "u", "user": {}}]}
        context = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **named, **context}))
        return path

    def respond(self, request: Any, path: str, query: dict[str, str], body: Any) -> None:
        kind, name = path.split("/")[-2:]
        if request.command == "POST":
            self._create(request, body)
        elif name == "pods":
            request.tell({"kind": "PodList", "apiVersion": "v1", "items": self._listed(query["labelSelector"])})
        elif kind == "trainingruntimes":
            found = self.runtime if name == self.runtime["metadata"]["name"] else None
            request.tell(found or {"message": "not found"}, 200 if found else 404)
        else:
            self._update()
            if self.job is None or self.job["metadata"]["name"] != name:
                request.tell({"message": "not found"}, 404)
                return
            if request.command == "DELETE":
                self.delete()
            request.tell(self.job)

    def _create(self, request: Any, job: dict[str, Any]) -> None:
        if self.job is not None:
            request.tell({"message": f"trainjobs {job['metadata']['name']!r} already exists"}, 409)
        elif unknown_fields(models.TrainerV1alpha1TrainJob, job):
            request.tell({"message": "strict decoding error: unknown field"}, 422)
        else:
            self.created.append(job)
            self.job = {**job, "status": {"conditions": []}}
            if KUEUE in job["metadata"]["labels"]:
                self.suspend()
            else:
                self.resume()
            request.tell(self.job, 201)

    def resume(self) -> None:
        """As Kueue does when it admits a job."""
        assert self.job is not None
        self.job["spec"]["suspend"] = False
        trainer = self.job["spec"]["trainer"]
        for index in range(trainer["numNodes"]):
            node, of_pod = f"node{index + 1}", dict[str, str]()
            for each in trainer["env"]:
                path = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
                of_pod[each["name"]] = each["value"] if not path else node if path == "spec.nodeName" else str(index)
            name = f"{self.job['metadata']['name']}-node-0-{index}-{len(self.created)}"
            log = self.directory / f"{name}.log"
            process = None
            if self.waiting is None:
                with log.open("ab") as output:
                    process = subprocess.Popen(
                        trainer["command"], env=of_pod, cwd="/", stdout=output, stderr=output, start_new_session=True
                    )
            self.pods.append(Pod(name, node, log, process))

    def suspend(self) -> None:
        """As Kueue does with a new job, and when it preempts one."""
        assert self.job is not None
        self.job["spec"]["suspend"] = True
        for pod in self.pods:
            pod.end()
        for pod in self.pods:
            assert pod.process is not None
            pod.process.wait()
        self.pods = []

    def delete(self) -> None:
        assert self.job is not None
        self.job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        for pod in self.pods:
            pod.end()

    def _update(self) -> None:
        """Do what the controllers would have done by now."""
        if self.job is None:
            return
        statuses = [pod.status for pod in self.pods]
        ended = all(status is not None for status in statuses) or self.waiting is not None
        if "deletionTimestamp" in self.job["metadata"]:
            if ended:
                self.job, self.pods = None, []
        elif any(statuses):
            for pod in self.pods:
                pod.end()
            self._condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")
        elif self.pods and self.waiting is None and ended:
            self._condition("Complete", "AllJobsCompleted", "jobset completed successfully")

    def _condition(self, kind: str, reason: str, message: str) -> None:
        assert self.job is not None
        self.job["status"]["conditions"] = [{"type": kind, "status": "True", "reason": reason, "message": message}]

    def _listed(self, selector: str) -> list[dict[str, Any]]:
        assert self.job is None or selector.endswith(f"={self.job['metadata']['name']}")
        return [self._described(pod) for pod in self.pods]

    def _described(self, pod: Pod) -> dict[str, Any]:
        status = pod.status
        state: dict[str, Any] = {"running": {}}
        phase = "Running"
        if self.waiting is not None:
            state, phase = {"waiting": self.waiting}, "Pending"
        elif status is not None:
            phase = "Failed" if status else "Succeeded"
            reason = "Completed" if status == 0 else "Error" if self.has_memory else "OOMKilled"
            message = pod.log.read_text()[-2000:] if status else ""
            state = {
                "terminated": {"exitCode": status, "reason": reason, "message": message, "finishedAt": pod.finished}
            }
        container = {"name": "node", "image": "i", "imageID": "i", "ready": False, "restartCount": 0, "state": state}
        return {
            "metadata": {"name": pod.name},
            "spec": {"nodeName": pod.node, "containers": [{"name": "node"}]},
            "status": {"phase": phase, "containerStatuses": [container]},
        }
