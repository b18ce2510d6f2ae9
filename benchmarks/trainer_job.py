"""A job for the trainer's process out of a benchmark: the one place that knows its form.

What belongs here: what the jobs of all methods share, and running one. What does not: what a benchmark compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base_models.stages import chat_template, eos_ids
from sovereign_pipeline.training.job import Method, TrainingJob, read_result
from sovereign_pipeline.training.launcher import run_trainer


@dataclass(frozen=True)
class Base:
    """A base model, as its artifact would name it."""

    directory: Path
    name: str
    digest: str
    chat_template_sha256: str
    eos_ids: tuple[int, ...]

    @classmethod
    def of(cls, directory: Path) -> "Base":
        """That of a model directory, whose files are hashed."""
        model = directory.resolve()
        files = sorted(file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file())
        return cls(
            directory=model,
            name=model.name,
            digest=digest_of({name: file_sha256(model / name) for name in files}),
            chat_template_sha256=sha256(chat_template(model).encode()).hexdigest(),
            eos_ids=tuple(eos_ids(model)),
        )


def new_job(base: Base, output: Path, method: Method, **own: Any) -> TrainingJob:
    """output: made by the trainer; what else it writes lies beside it. own: dataset, seed, and the method's part."""
    return TrainingJob(
        method=method,
        base_model=base.directory,
        base_model_name=base.name,
        base_model_digest=base.digest,
        chat_template_sha256=base.chat_template_sha256,
        eos_ids=base.eos_ids,
        output=output,
        result=output.with_name("result.json"),
        locks=output.with_name("locks"),
        identity=digest_of(str(output)),
        checkpoint_directory=output.with_name("checkpoints"),
        references=output.with_name("references"),
        **own,
    )


def run_job(job: TrainingJob, progress: Callable[[str], None] = lambda line: None) -> dict[str, float]:
    """Run it as the stages do; the trainer's own figures. Raises TrainingFailed with the trainer's failure."""
    job_file = job.output.with_name("job.json")
    job.write(job_file)
    run_trainer(job_file, progress)
    return read_result(job.result).measured
