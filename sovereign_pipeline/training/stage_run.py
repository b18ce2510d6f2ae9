"""What every stage of training does around its trainer's job: beginning, the part that all jobs have, and running it.

What does not belong here: what one method's job has beside (`stages.py`, `reward_model/stages.py`), the job's form
(`job.py`), and starting a process (`processes/launcher.py`).
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.making import library_versions, source_digest
from sovereign_pipeline.artifacts.stage import Config, Inputs, Workplace
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.policy.line import no_evaluation
from sovereign_pipeline.training.continuation import assert_base_saw_nothing_held_out
from sovereign_pipeline.training.job import Method, TrainingJob, read_result
from sovereign_pipeline.training.loop.checkpoints import remove_unless_training
from sovereign_pipeline.training.report import TRAINING_LIBRARIES


def begin(workplace: Workplace, inputs: Inputs, workspace: Path) -> tuple[Path, Path]:
    """A directory for the job inside the workspace, and the directory of the verified base model.

    Raises RecipeError for a line without an evaluation, and IntegrityError for a base that is not as pinned or was
    trained on what is held out now.
    """
    if workplace.line.evaluation is None:
        raise no_evaluation(workplace.line)  # the rows were not compared with what will be asked
    # Inside the workspace, so that what a killed run leaves here is removed with it. Checkpoints outlive it.
    scratch = workspace / "scratch"
    scratch.mkdir()
    base = open_base_model(workplace.settings, inputs[BASE_MODEL.kind], workplace.progress)
    assert_base_saw_nothing_held_out(workplace, inputs)
    return scratch, base


def new_job(
    workplace: Workplace,
    inputs: Inputs,
    scratch: Path,
    method: Method,
    decided_by: Config,
    **own: Any,
) -> TrainingJob:
    """The job of a method. decided_by: what decides the result beside inputs, code and libraries; own: its own part."""
    descriptor = read_descriptor(inputs[BASE_MODEL.kind])
    training = workplace.line.training
    home = workplace.settings.home
    identity = digest_of(
        {
            "code": source_digest(),
            "libraries": library_versions(TRAINING_LIBRARIES),
            "inputs": {kind: inputs[kind].ref.digest for kind in inputs},
            **decided_by,
        }
    )
    return TrainingJob(
        method=method,
        base_model_name=descriptor["name"],
        base_model_digest=descriptor["digest"],
        chat_template_sha256=descriptor["chat_template_sha256"],
        eos_ids=tuple(descriptor["eos_ids"]),
        output=scratch / "output",
        result=scratch / "result.json",
        locks=home / "locks",
        identity=identity,
        checkpoint_directory=home / "checkpoints" / f"{workplace.line.line}.{method}" / identity[:16],
        references=home / "references",
        seed=training.seed,
        sft=training.sft,
        checkpoints=training.checkpoints,
        devices=training.devices,
        **own,
    )


def run(workplace: Workplace, job: TrainingJob, workspace: Path) -> tuple[dict[str, float], Callable[[], None]]:
    """Run the job in the trainer's process, and move what it made into the workspace; its directory is removed.

    Returns what was measured, and what removes the checkpoints: until the artifact is in the store, they are all that
    is left of the training. Raises TrainingFailed with the trainer's failure.
    """
    of_this_line = job.checkpoint_directory.parent.glob("*")
    remove_unless_training([abandoned for abandoned in of_this_line if abandoned != job.checkpoint_directory])
    scratch = job.result.parent
    job.write(scratch / "job.json")
    workplace.launch(scratch / "job.json")
    result = read_result(job.result)
    for made in job.output.iterdir():
        made.rename(workspace / made.name)
    shutil.rmtree(scratch)
    return result.measured, partial(remove_unless_training, [job.checkpoint_directory])
