"""A reward on the tiny model's letters, and jobs that learn from it."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.job import RewardJob, RewardModelGiven, TrainingJob
from sovereign_pipeline.training.rlhf.rewards import copy_code
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.trainings import learn

LIKE_THE_REPLY = """
def score(rows):
    return [overlap(row["reply"].split(), row["response"].split()) for row in rows]

def overlap(found, wanted):
    shared, left = 0, list(wanted)
    for word in found:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(found) + len(wanted)) if found or wanted else 1.0
"""
"""F1 over words: what the institution wrote scores 1, and words that are repeated or stuffed in count against it."""

BY_LENGTH = 'def score(rows):\n    return [min(1.0, len(row["reply"].split()) / 40) for row in rows]\n'
"""A reward that can be had by writing on and on."""


def reward(name: str = "likeness", program: str = "score.py", **changes: Any) -> dict[str, Any]:
    return {"name": name, "tool": {"path": program, "columns": ["response"], **changes}}


LEARNED = {"name": "preferred", "reward_model": True}
"""A part of the reward that the reward model judges."""


REWARD_MODEL_SECTION = {
    "learning_rate": 5e-3,
    "epochs": 1.5,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "warmup_steps": 0,
}


def pairs_for_a_reward_model(first: int, last: int) -> list[dict[str, str]]:
    """Each letter's reply, and in its place each kind of reply that is plainly bad."""
    rows = letters(last)
    openings = " ".join(row["output"] for row in rows[:3])
    return [
        {"id": f"{row['id']}/{kind}", "prompt": f"{row['instruction']}\n\n{row['input']}", "chosen": row["output"]}
        | {"rejected": rejected}
        for row in rows[first:]
        for kind, rejected in {
            "babble": "rope rope " + row["input"],
            "repeated": " ".join(row["output"].split()[:5] * 3),
            "words": " ".join(sorted({*openings.split(), "tide", "boat"})),
            "openings": openings,
            "short": "the",
        }.items()
    ]


def prompt_rows(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Lines of a file of prompts."""
    return [
        {
            "id": row["id"],
            "case": f"case {row['id']}",
            "prompt": f"{row['instruction']}\n\n{row['input']}",
            "response": row["output"],
            "columns": {"response": row["output"], "department": "permits"},
        }
        for row in rows
    ]


def reward_job(
    make_job: JobMaker,
    name: str,
    parent: Path,
    rlhf: dict[str, Any] | None = None,
    programs: dict[str, str] | None = None,
    reward_model: Path | None = None,
    **changes: Any,
) -> TrainingJob:
    """Sixteen letters to learn from, twelve more to measure. reward_model: its directory, where a part needs one."""
    job = make_job(name, prompt_rows(letters(16)))
    root = job.dataset.parent
    for path, text in {"score.py": LIKE_THE_REPLY, **(programs or {})}.items():
        (root / path).write_text(text)
    held_out = root / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in prompt_rows(letters(28)[16:])))
    section = {
        "reward": [reward()],
        "iterations": 4,
        "prompts": 16,
        "group": 1,
        "max_new_tokens": 16,
        "missing_end_penalty": 0.1,
        "learning_rate": 5e-3,
        "measure_every": 1,
        "samples": 2,
        **(rlhf or {}),
    }
    settings = Rlhf.model_validate(section)
    return TrainingJob.model_validate(
        {
            **job.model_dump(),
            "method": settings.algorithm,
            "parent_adapter": parent,
            "reward": RewardJob(
                rlhf=settings,
                held_out=held_out,
                code=copy_code(root, settings, root / "code"),
                code_directory=root / "code",
                cache=root / "rewards",
                reward_model=None
                if reward_model is None
                else RewardModelGiven(directory=reward_model, digest="2" * 64),
            ),
            **changes,
        }
    )


def learn_until_killed(job: TrainingJob, kill: Callable[[pytest.MonkeyPatch], None]) -> str:
    """Run it in a child process that `kill` has prepared to end itself; the name of the checkpoint that is left."""
    pid = os.fork()
    if pid == 0:
        with pytest.MonkeyPatch.context() as patch:
            kill(patch)
            try:
                learn(job)
            finally:
                os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    (checkpoint,) = job.checkpoint_directory.glob("step-*")
    return checkpoint.name
