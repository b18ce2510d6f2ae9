"""What a trainer needs that runs on another machine of the institution, whoever starts it there.

What belongs here: its environment, the proof that it is the same program, and how its end is read. What does not:
starting it, which is `ray_jobs.py` and, for a pod, `orchestration/kubernetes.py`.
"""

import json
import os
from pathlib import Path

from sovereign_pipeline.artifacts.making import library_versions, source_digest
from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.training.job import LIBRARIES, TrainingJob, read_result
from sovereign_pipeline.training.processes.launcher import worker_environment

INSTALLATION_VARIABLE = "SOVEREIGN_TRAINER_INSTALLATION"


def environment_elsewhere(job: Path) -> dict[str, str]:
    """Nothing of this process's own environment; and no parent, since the trainer cannot die with one from there."""
    return {
        **worker_environment(job),
        "HOME": str(job.parent / "caches"),
        "USER": "trainer",  # libraries ask for it, and the user's id may have no name there
        INSTALLATION_VARIABLE: json.dumps(_installation(), sort_keys=True),
    }


def refuse_another_installation() -> None:
    """Raise TrainingFailed in a trainer whose starter has other code or other libraries.

    The starter writes its own into the artifact's manifest: with others here, the manifest would say what is not so. A
    build of the same version for another device, such as 2.13.0+cpu and 2.13.0+cu130, is the same; the trainer's report
    names the one that trained.
    """
    said = os.environ.get(INSTALLATION_VARIABLE)
    if said is None:
        return
    wanted, found = json.loads(said), _installation()
    different = [f"{name} is {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted.get(name)]
    if different:
        raise TrainingFailed(
            f"The trainer's machine has another installation than the one that started it: {'; '.join(different)}. "
            f"Install the same release in both places (image, or nodes of the cluster), with constraints.txt."
        )


def read_answer(job: Path, how: str, progress: Progress) -> None:
    """Look at what a trainer left that did not end well. how: it ended, as a clause: "the pod …".

    A whole answer counts, since it is written last and renamed. Raises TrainingFailed with the trainer's own paragraph,
    or with `how` when there is no answer.
    """
    result = TrainingJob.read(job).result
    if not result.is_file():
        raise TrainingFailed(
            f"{job}: {how}, without an answer. When it was killed, memory most often ran out: lower "
            f"training.sft.max_length or batch_size in the recipe, or raise trainer.memory_gib in institution.yaml. "
            f"Run again; it goes on from its last checkpoint."
        )
    read_result(result)
    progress(f"{how}; the training had ended before that, and its answer is whole")


def _installation() -> dict[str, str]:
    versions = {name: version.split("+")[0] for name, version in library_versions(LIBRARIES).items()}
    return {"the program's source": source_digest()[:16], **versions}
