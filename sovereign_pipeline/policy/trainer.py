"""Where the trainer's process runs: `trainer` in `institution.yaml`. It is part of no artifact's identity.

What belongs here: the three places and what an administrator must say of each. What does not: how a process is started
there (`training/launcher.py`, `training/ray_jobs.py`, `orchestration/kubernetes.py`).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sovereign_pipeline.policy.recipe_model import RecipeModel


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{path}' must be an absolute path without '..'")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
# A DNS label as Kubernetes wants one for namespaces, claims and accounts (RFC 1123).
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class Here(RecipeModel):
    """On the machine that runs the step, as its child."""

    where: Literal["here"] = "here"


class Volume(RecipeModel):
    """A persistent volume claim and the path at which the pod sees it: the path that it has for Dagster as well."""

    claim: Name
    path: AbsolutePath
    read_only: bool = False


class Toleration(RecipeModel):
    """As in a pod's specification: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Kubernetes(RecipeModel):
    """In a pod of its own for each training.

    image: holds this program at the same version, with its libraries. python: the interpreter in it.
    kubeconfig: file that says how the cluster is reached; without it, the service account of the pod that Dagster runs
    in, or else the user's own file. service_account: of the trainer's pod, which is given no token of it.
    gpus, gpu_resource: devices and the name under which the cluster hands them out. memory_gib: requested, and the
    limit. cpus: requested.
    """

    where: Literal["kubernetes"]
    image: str = Field(min_length=1)
    namespace: Name
    volumes: tuple[Volume, ...] = Field(min_length=1)
    python: str = "python"
    kubeconfig: AbsolutePath | None = None
    service_account: Name | None = None
    image_pull_secrets: tuple[Name, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    gpus: int = Field(default=1, ge=0)
    gpu_resource: str = "nvidia.com/gpu"
    memory_gib: int | None = Field(default=None, ge=1)
    cpus: float | None = Field(default=None, gt=0)


class Ray(RecipeModel):
    """As a job of a Ray cluster.

    address: of the head's dashboard, which takes jobs. python: the interpreter on the nodes that has this program at
    the same version. gpus, cpus, memory_gib, resources: what Ray reserves for the job; resources by their names in the
    cluster.
    """

    where: Literal["ray"]
    address: str = Field(pattern=r"^https?://[^/\s]+/?$")
    python: str = "python"
    gpus: float = Field(default=1, ge=0)
    cpus: float | None = Field(default=None, gt=0)
    memory_gib: int | None = Field(default=None, ge=1)
    resources: dict[str, float] = {}


TrainerPlace = Annotated[Here | Kubernetes | Ray, Field(discriminator="where")]
