"""`sovereign datasets show` as an auditor uses it: the card, and JSON."""

import json

import pytest

from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.release.holders import Ask


@pytest.fixture
def ask(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("SOVEREIGN_HOME", str(bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(bench.settings.data))
    return Ask()


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
    assert as_json["card"] == json.loads(bench.artifact("training_dataset").file("card.json").read_bytes())
    assert as_json["digest"] == adapter.dataset_digest
