"""`sovereign init`: what it writes is valid at once, and nothing is written over."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.base_models.stages import load_card
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.evaluation.red_team import read_labels
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.suites.rows import read_prompts


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that was written, and the environment that leads to it."""
    data = tmp_path / "deep" / "data"
    answer = run("init", data)
    assert answer.exit_code == 0, answer.output
    assert str(data) in answer.stdout and "sovereign sources look FILE" in answer.stdout
    for name, path in {"DATA": data, "HOME": tmp_path / "home", "VAULT": tmp_path / "vault"}.items():
        monkeypatch.setenv(f"SOVEREIGN_{name}", str(path))
    return data


def test_everything_in_it_is_valid(data: Path) -> None:
    settings = Settings.from_environment()
    institution = load_institution(data)
    assert institution.name.startswith(FILL_IN) and institution.classification[0] == "PUBLIC"
    assert load_card(settings, "smollm2-135m-instruct").name == "smollm2-135m-instruct"
    assert read_prompts(data / "red_team/prompts.jsonl") and read_labels(data / "red_team/judge_labels.jsonl")
    assert run("suites", "check").exit_code == 0 and run("lines", "list").exit_code == 0
    assert {each.name for each in data.iterdir() if each.is_dir()} <= {
        each.name for each in (PROJECT_ROOT / "data").iterdir()
    }
    for folder in ("lines", "sources", "models", "suites", "red_team"):
        assert (data / folder / "README.md").is_file()


@pytest.mark.parametrize("name", ["Office: of 'Lamps' # 1", '"', "مكتب المصابيح", "{x}"])
def test_the_institution_has_the_name_that_is_given(tmp_path: Path, name: str) -> None:
    assert run("init", tmp_path / "new", "--name", name).exit_code == 0
    assert load_institution(tmp_path / "new").name == name


def test_an_empty_directory_is_taken_and_nothing_is_written_over(tmp_path: Path) -> None:
    assert run("init", tmp_path / ".").exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = run("init", tmp_path)
    assert isinstance(again.exception, InputError) and "is not empty" in again.exception.message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in ("file", "file/data"):
        assert isinstance(run("init", tmp_path / below).exception, InputError)
