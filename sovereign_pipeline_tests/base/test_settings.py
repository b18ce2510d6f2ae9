"""Settings: every variable is a field, an override wins, and a child process gets all of them."""

import os
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import CORPUS_VARIABLE, PROJECT_ROOT, VARIABLES, Settings, corpus_withheld

OTHER = {
    "SOVEREIGN_HOME": "/o/home",
    "SOVEREIGN_DATA": "/o/data",
    "SOVEREIGN_VAULT": "/o/vault",
    "SOVEREIGN_CORPUS": "/o/corpus",
    "SOVEREIGN_REVIEW_SECRETS": "/o/review",
    "SOVEREIGN_KEYS": "/o/keys",
    "SOVEREIGN_LEDGER_COPY": "/o/ledger.jsonl",
    "SOVEREIGN_SUITES": "/o/suites",
    "SOVEREIGN_REGISTRY_URL": "postgresql://db/registry",
    "SOVEREIGN_MLFLOW_URL": "postgresql://db/mlflow",
    "SOVEREIGN_DAGSTER_URL": "postgresql://db/dagster",
    "SOVEREIGN_REVIEW_USER_HEADER": "X-Remote-User",
    "SOVEREIGN_REVIEW_PROXIES": "10.0.0.9 ::1",
    "SOVEREIGN_SERVING": "/o/serving",
    "SOVEREIGN_SERVING_USER_HEADER": "X-Remote-User",
    "SOVEREIGN_SERVING_ROLES_HEADER": "X-Groups",
    "SOVEREIGN_SERVING_PROXIES": "10.0.0.9",
    "SOVEREIGN_SERVING_PROXY_SECRET": "/o/proxy.secret",
    "SOVEREIGN_AUDITOR_PROXY_SECRET": "/o/auditor.secret",
    "SOVEREIGN_VLLM_PYTHON": "/opt/vllm/bin/python",
    "SOVEREIGN_OTLP_URL": "http://127.0.0.1:4318/v1/traces",
    "SOVEREIGN_PAGES_URL": "http://127.0.0.1:9000",
    "SOVEREIGN_UI_HOSTS": "dagster.institution.example",
}


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


@pytest.mark.parametrize("variable", OTHER)
def test_an_override_wins_over_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/e/environment")
    field = next(field for field, name in VARIABLES.items() if name == variable)
    assert getattr(Settings.from_environment({variable: OTHER[variable]}), field) == getattr(
        Settings.from_environment(OTHER), field
    )


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_HOME", "")
    assert Settings.from_environment().home == PROJECT_ROOT / ".sovereign"


def test_what_is_not_given_lies_in_or_beside_the_home() -> None:
    settings = Settings(home=Path("/s/home"), data=Path("/s/data"))
    assert settings.vault == Path("/s/home-vault")
    assert settings.corpus == Path("/s/home-corpus")
    assert settings.keys == Path("/s/home-keys")
    assert settings.ledger_copy is None
    assert settings.suites == Path("/s/home/suites")
    assert settings.registry_url == "sqlite:////s/home/registry.db"
    assert settings.mlflow_url == "sqlite:////s/home/mlflow/mlflow.db"
    assert settings.review_user_header is None


def test_relative_paths_are_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"SOVEREIGN_HOME": "home"}).home == tmp_path / "home"


@pytest.mark.parametrize("given", [{}, OTHER])
def test_a_child_process_gets_all_of_them(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment(given)
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "/e/environment")
    assert Settings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize("proxies", [" ", "10.0.0.1", "10.0.0.1 10.0.0.2"])
def test_a_child_process_gets_the_very_same_settings(tmp_path: Path, proxies: str) -> None:
    settings = Settings.from_environment({"SOVEREIGN_HOME": str(tmp_path), "SOVEREIGN_REVIEW_PROXIES": proxies})
    assert settings.review_proxies == frozenset(proxies.split())
    assert Settings.from_environment(settings.to_environment()) == settings


def test_the_variable_of_the_corpus_is_withheld_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with corpus_withheld():
        assert CORPUS_VARIABLE not in os.environ
    assert CORPUS_VARIABLE not in os.environ
    monkeypatch.setenv(CORPUS_VARIABLE, "/o/corpus")
    with pytest.raises(ValueError, match="planted"), corpus_withheld():
        assert CORPUS_VARIABLE not in os.environ
        raise ValueError("planted")
    assert os.environ[CORPUS_VARIABLE] == "/o/corpus"
