"""`sovereign datasets` and `sovereign adapters` as an auditor uses them: the card, JSON, one line, exit status."""

import json

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline_tests.registry.bench import Bench


@pytest.fixture
def ask(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> "Ask":
    monkeypatch.setenv("SOVEREIGN_HOME", str(bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(bench.settings.data))
    return Ask()


class Ask:
    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def json(self, *arguments: str) -> object:
        answer = self(*arguments, "--json")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)


def test_show_prints_the_card_and_what_the_registry_knows(bench: Bench, ask: Ask) -> None:
    adapter = bench.register()
    shown = ask("datasets", "show", adapter.dataset_digest[:8])
    assert shown.exit_code == 0
    card = bench.artifact("training_dataset").file("card.md").read_text()
    for line in card.splitlines():
        assert line in shown.stdout
    assert "lamps-1.0.0" in shown.stdout
    assert "| own |" in shown.stdout
    as_json = ask.json("datasets", "show", adapter.dataset_digest[:8])
    assert isinstance(as_json, dict)
    assert as_json["card"] == json.loads(bench.artifact("training_dataset").file("card.json").read_bytes())
    assert as_json["digest"] == adapter.dataset_digest


def test_lists_are_of_one_line_when_asked(bench: Bench, ask: Ask) -> None:
    bench.register()
    bench.recipe["line"] = "lanterns"
    bench.refs.clear()
    bench.register()
    for what, lines in (("adapters", ["lamps", "lanterns"]), ("datasets", ["lamps", "lanterns"])):
        rows = ask.json(what, "list")
        assert isinstance(rows, list)
        assert sorted(row["line"] for row in rows) == lines
        rows = ask.json(what, "list", "--line", "lanterns")
        assert isinstance(rows, list)
        assert [row["line"] for row in rows] == ["lanterns"]
    assert "rows held out" in ask("datasets", "list").stdout


def test_verify_names_the_file_of_a_dataset_that_was_changed(bench: Bench, ask: Ask) -> None:
    adapter = bench.register()
    assert ask("datasets", "verify", adapter.dataset_digest).exit_code == 0
    file = bench.artifact("training_dataset").file("card.json")
    file.write_bytes(file.read_bytes().replace(b"PUBLIC", b"SECRET"))
    answer = ask("datasets", "verify", adapter.dataset_digest)
    assert isinstance(answer.exception, IntegrityError)
    assert "card.json" in str(answer.exception)
    assert answer.exception.exit_status == 1
