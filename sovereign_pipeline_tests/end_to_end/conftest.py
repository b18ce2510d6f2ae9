"""An installation as a user has one: the command line in processes of its own, an invented corpus, a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyrage import x25519
from typer.testing import CliRunner

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline_tests.conftest import ANY_GUARDRAIL, JUDGE_LABELS, LADDER, PROMPTS
from sovereign_pipeline_tests.tiny_model import save_tiny_model
from sovereign_pipeline_tests.trusted import trust_demonstration

SOVEREIGN = str(Path(sys.executable).parent / "sovereign")
WARM, HALTING = (str(Path(__file__).parent / name) for name in ("warm", "halting"))

THINGS = ("lamp", "mooring", "slipway", "net store", "ice room", "crane", "buoy", "ladder", "tide gauge", "water tap")
PLACES = ("north pier", "old quay", "fish market", "east basin", "boat yard", "customs steps", "sand spit", "new jetty")
FAULTS = ("is broken", "leaks at night", "was moved", "has no number", "stands crooked", "is painted over")
DEEDS = ("be repaired", "be inspected", "be replaced", "be closed", "stay as it is", "be moved")


def invented_letter(number: int) -> dict[str, Any]:
    """Letters that differ in their words and share one voice, which is what an adapter can learn."""
    thing, place = THINGS[number % 10], PLACES[(number * 3) % 8]
    fault, deed = FAULTS[(number * 5) % 6], DEEDS[(number * 7) % 6]
    colours = " ".join(f"mark{number}{letter}" for letter in "abcdefgh")
    return {
        "id": f"H-{number:04d}",
        "case": f"HAR/{number:04d}",
        "department": "harbour",
        "author": "Salim",
        "date": f"2024-{number % 12 + 1:02d}-{number % 27 + 1:02d}",
        "classification": LADDER[number % 3],
        "language": "en",
        "subject": f"The {thing} at the {place}",
        "request": f"The {thing} at the {place} {fault}. I saw {colours}. What will you do?",
        "response": f"The Harbour Office answers: the {thing} will {deed}. Quote your file.",
    }


@dataclass
class Installation:
    """Paths of one installation and its command line."""

    root: Path
    site: str = ""
    """A directory with a `sitecustomize` for the processes of a run: WARM or HALTING."""

    @property
    def settings(self) -> Settings:
        return Settings(home=self.root / "home", data=self.root / "data", vault=self.root / "vault")

    @property
    def store(self) -> ArtifactStore:
        return open_store(self.settings, self.settings.corpus)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SOVEREIGN_HOME": str(self.settings.home),
            "SOVEREIGN_DATA": str(self.settings.data),
            "SOVEREIGN_VAULT": str(self.settings.vault),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [self.site, os.environ.get("PYTHONPATH")])),
        }

    def start(self, *arguments: str, before: Sequence[str] = ()) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*before, SOVEREIGN, *arguments],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0o022,  # as most machines have it
        )

    def run(self, *arguments: str, before: Sequence[str] = ()) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        process = self.start(*arguments, before=before)
        output, _ = process.communicate()
        return process.returncode, output

    def ask(self, *arguments: str) -> tuple[int, str]:
        """What `run` returns, by a command in this process: an exit status, and all that was printed."""
        before = dict(os.environ)
        try:
            answer = CliRunner().invoke(app, arguments, env=self.environment)
        finally:
            os.environ.clear()  # opening Dagster's instance sets some
            os.environ.update(before)
        return (getattr(answer.exception, "exit_status", answer.exit_code), answer.output + str(answer.exception or ""))

    def json(self, *arguments: str) -> Any:
        status, output = self.ask(*arguments, "--json")
        assert status == 0, output
        return json.loads(output)

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        path = self.settings.data / "lines" / f"{recipe['line']}.yaml"
        path.write_text(yaml.safe_dump(recipe, allow_unicode=True))

    def write_source(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        path = self.settings.data / "sources" / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def harbour_recipe(**sft: Any) -> dict[str, Any]:
    return {
        "line": "harbour",
        "purpose": "Answer letters about the harbour.",
        "owner": "team:harbour",
        "ceiling": "CONFIDENTIAL",
        "sources": [{"name": "letters", "path": "sources/letters.jsonl", "licence": "own", "retention": "1 year"}],
        "privacy": {"name_models": {}, "patterns_only": ["en"]},
        "training": {
            "base_model": "tiny",
            "instruction": "Answer.",
            "sft": {
                "rank": 4,
                "alpha": 8,
                "learning_rate": 0.01,
                "max_length": 512,
                "gradient_accumulation": 1,
                "precision": "float32",
                "max_steps": 30,
                "epochs": 100,
                **sft,
            },
        },
        "evaluation": {
            "precision": "float32",
            "capability": [{"name": "suite", "path": "suites/suite.jsonl", "classification": "PUBLIC"}],
            "red_team": {"prompts": "red_team/prompts.jsonl", "classification": "PUBLIC", "max_new_tokens": 8},
        },
        # six questions and four prompts: no smaller margin could be told
        "gates": {"held_out_loss": {"margin": 1.0}, "capability": {"margin": 1.0}, **ANY_GUARDRAIL},
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text for number in range(60) for text in map(str, invented_letter(number).values())]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", texts)


def install(root: Path, tiny_model: Path) -> Installation:
    """A whole data root around the tiny model, and a vault key whose private half nobody has."""
    installation = Installation(root)
    settings = installation.settings
    for directory in ("lines", "sources", "suites", "red_team", "models"):
        (settings.data / directory).mkdir(parents=True)
    settings.home.mkdir()
    settings.vault_public_key.write_text(str(x25519.Identity.generate().to_public()))
    (settings.data / "institution.yaml").write_text(yaml.safe_dump({"name": "Harbour", "classification": LADDER}))
    files = {path.name: file_sha256(path) for path in sorted(tiny_model.iterdir())}
    card = {
        "name": "tiny",
        "licence": "none",
        "classification": "PUBLIC",
        "source": {"directory": str(tiny_model)},
        "files": files,
    }
    (settings.data / "models" / "tiny.yaml").write_text(yaml.safe_dump(card))
    questions = [
        {
            "id": f"Q-{n}",
            "question": f"Which is {n}?",
            "choices": ["a", "b", "c", "d"],
            "answer": n % 4,
            "language": "en",
        }
        for n in range(6)
    ]
    (settings.data / "suites" / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (settings.data / "red_team" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    shutil.copy(JUDGE_LABELS, settings.data / "red_team" / "judge_labels.jsonl")
    installation.write_source("letters.jsonl", [invented_letter(number) for number in range(60)])
    installation.write_recipe(harbour_recipe())
    trust_demonstration(settings)
    return installation


@pytest.fixture
def installation(tmp_path: Path, tiny_model: Path) -> Installation:
    return install(tmp_path, tiny_model)


def newcomer(root: Path) -> Installation:
    """What `sovereign init` writes, a vault key, and keys for a trial."""
    installation = Installation(root)
    root.mkdir()
    status, output = installation.run("init", "data", "--name", "Harbour Office")
    assert status == 0, output
    (printed,) = [line.split("#")[0].split() for line in output.splitlines() if "sovereign-trust demonstration" in line]
    assert printed[2:] == [str(installation.settings.data / "trust"), str(installation.settings.keys)]
    program = Path(sys.executable).parent / "sovereign-trust"
    subprocess.run([program, *printed[1:]], env=installation.environment, check=True, capture_output=True)
    installation.settings.home.mkdir()
    installation.settings.vault_public_key.write_text(str(x25519.Identity.generate().to_public()))
    return installation
