"""A trainer on another machine of the institution, however it is started there.

What belongs here: its environment, the check that it is the same installation, and reading its result. What does not:
starting it (`ray_jobs.py`, and `orchestration/launching/kubernetes.py` for a pod).
"""

import json
import os
from pathlib import Path

from sovereign_pipeline.artifacts.making import library_versions, source_digest
from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob, read_result
from sovereign_pipeline.training.processes.launcher import worker_environment
from sovereign_pipeline.training.report import TRAINING_LIBRARIES

INSTALLATION_VARIABLE = "SOVEREIGN_TRAINER_INSTALLATION"


def remote_environment(job: Path) -> dict[str, str]:
    """Variables of a remote trainer: none of this process's, and no parent, since it cannot die with one."""
    return {
        **worker_environment(job),
        "HOME": str(job.parent / "caches"),
        "USER": "trainer",  # libraries read it, and the user's id may have no name there
        INSTALLATION_VARIABLE: json.dumps(_installation(), sort_keys=True),
    }


def refuse_another_installation() -> None:
    """Raise TrainingFailed in a trainer whose starter has other code or other libraries.

    The starter records its own versions in the artifact's manifest, which would then be wrong. Builds of one version
    for different devices, such as 2.13.0+cpu and 2.13.0+cu130, count as the same; the trainer's report names the one
    that trained.
    """
    stated = os.environ.get(INSTALLATION_VARIABLE)
    if stated is None:
        return
    wanted, found = json.loads(stated), _installation()
    different = [f"{name} is {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted.get(name)]
    if different:
        raise TrainingFailed(
            f"The trainer's machine has another installation than the machine that started it: {'; '.join(different)}.",
            "Install the same release on both (image, or nodes of the cluster), with requirements/.",
        )


def read_remote_result(job: Path, ending: str, progress: Progress) -> None:
    """Read the result of a trainer that did not end normally.

    A result counts, since it is written last and whole. Raises TrainingFailed with the trainer's own failure, or when
    there is no result. ending: how it ended, as a clause: "the pod …".
    """
    result = TrainingJob.read(job).result
    if not result.is_file():
        raise TrainingFailed(
            f"{job}: {ending}, without a result. If it was killed, memory most often ran out.",
            "Lower training.sft.max_length or batch_size in the recipe, or raise trainer.memory_gib in "
            "institution.yaml. Then run again; it resumes from its last checkpoint.",
        )
    read_result(result)
    progress(f"{ending}; the training had ended before, and its result is complete")


def _installation() -> dict[str, str]:
    versions = {name: version.split("+")[0] for name, version in library_versions(TRAINING_LIBRARIES).items()}
    return {"the program's source": source_digest()[:16], **versions}
