"""The gate `base_digest_matches`: the training used exactly the pinned base model and chat template."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.base_models.verified import chat_template, eos_ids, open_base_model, read_descriptor
from sovereign_pipeline.training.report import read_report
from sovereign_pipeline.training.tuned_model import tuned_model

NAME = "base_digest_matches"


def evaluate_base_digest(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Hash the base model's files again; compare with the base_model artifact and the trainer's report.

    A model tuned in full must also have its base's chat template and end-of-turn ids.
    """
    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    descriptor = read_descriptor(inputs["base_model"])
    trained_on = read_report(artifact).base_model
    on_disk = digest_of(descriptor["files"])  # each of them was just hashed and is the pinned one
    template = sha256(chat_template(directory).encode()).hexdigest()
    tuned = tuned_model(artifact)
    passed = (
        on_disk == descriptor["digest"] == trained_on.digest
        and template == descriptor["chat_template_sha256"] == trained_on.chat_template_sha256
        and (tuned.holds == "adapter" or _same_turns(tuned.directory, descriptor))
    )
    also = "" if tuned.holds == "adapter" else " The tuned model must have the same template and end-of-turn ids."
    return Verdict(
        passed,
        f"The base model on disk is {short(on_disk)}, the pinned one {short(descriptor['digest'])}, the one trained on "
        f"{short(trained_on.digest)}; the chat template is {short(template)}.{also}",
        {"on_disk": on_disk, "pinned": descriptor["digest"], "trained_on": trained_on.digest},
    )


def _same_turns(model: Path, descriptor: dict[str, Any]) -> bool:
    template = sha256(chat_template(model).encode()).hexdigest()
    return bool(template == descriptor["chat_template_sha256"] and eos_ids(model) == descriptor["eos_ids"])
