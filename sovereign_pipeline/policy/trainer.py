"""Where the trainer's process runs: `trainer` in `institution.yaml`. It is part of no artifact's identity.

What belongs here: the three places and what an administrator decides about each. What does not: how a process is
started there (`training/launcher.py`, `orchestration/launching/`).
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
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A DNS label as Kubernetes requires it of namespaces, claims and accounts (RFC 1123)."""


class Here(RecipeModel):
    """On the machine that runs the step, as its child process."""

    where: Literal["here"] = "here"
    """On the machine that runs the step."""


class Volume(RecipeModel):
    """A persistent volume claim, and where the trainer's pod mounts it."""

    claim: Name
    """Name of the persistent volume claim."""

    path: AbsolutePath = Field(examples=["/srv/sovereign"])
    """Where the pod mounts it: the same path that it has for Dagster."""

    read_only: bool = False
    """Mount it for reading only."""


class Toleration(RecipeModel):
    """A pod's toleration: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: str
    """Key of the taint."""

    operator: Literal["Exists", "Equal"] = "Exists"
    """How key and value are compared with the taint's."""

    value: str | None = None
    """Value of the taint, for `Equal`."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: any."""


class Kubernetes(RecipeModel):
    """On Kubernetes, in a pod of its own for each training."""

    where: Literal["kubernetes"]
    """On Kubernetes."""

    image: str = Field(min_length=1, examples=["registry.internal/sovereign-pipeline:0.1.0"])
    """Container image that holds this program at the same version, with its libraries."""

    namespace: Name
    """Namespace of the pods."""

    volumes: tuple[Volume, ...] = Field(min_length=1)
    """Volumes that the pod mounts; they must hold everything that the trainer reads and writes."""

    python: str = "python"
    """The interpreter in the image."""

    kubeconfig: AbsolutePath | None = None
    """File with the cluster's address and credentials; null: the service account of the pod that Dagster runs in, or
    else the user's own file."""

    service_account: Name | None = None
    """Service account of the trainer's pod, which is given no token of it."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with which the image is pulled."""

    node_selector: dict[str, str] = Field(default={}, examples=[{"gpu": "h100"}])
    """Label -> value of the nodes that may run the pod."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pod tolerates."""

    gpus: int = Field(default=1, ge=0)
    """Devices that are requested."""

    gpu_resource: str = "nvidia.com/gpu"
    """The cluster's resource name of the devices."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB: requested, and the limit."""

    cpus: float | None = Field(default=None, gt=0)
    """CPU cores that are requested."""


class Ray(RecipeModel):
    """On a Ray cluster, as a job."""

    where: Literal["ray"]
    """On a Ray cluster."""

    address: str = Field(pattern=r"^https?://[^/\s]+/?$", examples=["http://ray-head:8265"])
    """URL of the head's dashboard, which accepts jobs."""

    python: str = "python"
    """The interpreter on the nodes, with this program at the same version."""

    gpus: float = Field(default=1, ge=0)
    """Devices that Ray reserves for the job."""

    cpus: float | None = Field(default=None, gt=0)
    """CPU cores that Ray reserves for the job."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB, that Ray reserves for the job."""

    resources: dict[str, float] = {}
    """Further resources that Ray reserves for the job: name in the cluster -> amount."""


TrainerPlace = Annotated[Here | Kubernetes | Ray, Field(discriminator="where")]
