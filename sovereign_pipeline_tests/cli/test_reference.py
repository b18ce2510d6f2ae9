"""Every command explains itself, and the reference of commands is the one that `make docs` writes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.reference import leaves
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app

PROGRAMS = {
    "sovereign": app,
    "sovereign-transcripts": transcripts_app,
    "sovereign-trust": trust_app,
    "sovereign-vault": vault_app,
}
COMMANDS = {path: command for name, program in PROGRAMS.items() for path, command in leaves(get_command(program), name)}


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", PROJECT_ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current(docs: ModuleType) -> None:
    stale = [path.name for path, text in docs.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: not what the code says now. Run `make docs` and commit what it wrote."


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_explains_itself_and_all_that_it_takes(path: str) -> None:
    command = COMMANDS[path]
    assert command.help, f"{path} has no help"
    without = [each.name for each in command.params if each.name != "help" and not getattr(each, "help", None)]
    assert not without, f"{path}: no help for {', '.join(map(str, without))}"


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_stands_in_the_reference(path: str) -> None:
    reference = Path(PROJECT_ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert f"\n### {path}\n" in reference


def test_the_version_is_printed() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0 and said.output.startswith("sovereign-pipeline ")


def test_completion_is_offered_for_the_shell() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
