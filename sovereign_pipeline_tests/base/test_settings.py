"""Settings: every variable is a field, an override wins, and a child process gets all of them."""

import os
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import CORPUS_VARIABLE, PROJECT_ROOT, VARIABLES, Settings, corpus_withheld
from sovereign_pipeline_tests.examples import examples

OTHER: dict[str, str] = examples(__file__, "another_value_of_each_variable")


@pytest.fixture(autouse=True)
def _no_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def test_each_variable_sets_a_field_of_its_own() -> None:
    assert set(OTHER) == set(VARIABLES.values())
    default, other = Settings.from_environment(), Settings.from_environment(OTHER)
    assert [field for field in VARIABLES if getattr(default, field) == getattr(other, field)] == []
    assert other.review_proxies == {"10.0.0.9", "::1"}
    assert other.dagster_url == "postgresql+psycopg2://db/dagster"


@pytest.mark.parametrize(
    "given",
    [{}, OTHER, {"SOVEREIGN_REVIEW_PROXIES": " "}, {"SOVEREIGN_REVIEW_PROXIES": "10.0.0.1"}],
    ids=["nothing", "all", "blank", "one proxy"],
)
def test_a_child_process_gets_all_of_them_whatever_its_environment(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment(given)
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "/e/environment")
    assert Settings.from_environment(settings.to_environment()) == settings


def test_the_vault_lies_beside_the_home_which_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({"SOVEREIGN_HOME": "home", "SOVEREIGN_DATA": ""})
    assert (settings.home, settings.data) == (tmp_path / "home", PROJECT_ROOT / "data")
    beside = [tmp_path / f"home-{name}" for name in ("vault", "corpus", "keys")]
    assert [settings.vault, settings.corpus, settings.keys] == beside


def test_the_variable_of_the_corpus_is_withheld_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with corpus_withheld():
        assert CORPUS_VARIABLE not in os.environ
    assert CORPUS_VARIABLE not in os.environ
    monkeypatch.setenv(CORPUS_VARIABLE, "/o/corpus")
    with pytest.raises(ValueError, match="planted"), corpus_withheld():
        assert CORPUS_VARIABLE not in os.environ
        raise ValueError("planted")
    assert os.environ[CORPUS_VARIABLE] == "/o/corpus"
