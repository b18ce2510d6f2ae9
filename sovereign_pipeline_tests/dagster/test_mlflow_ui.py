"""MLflow's UI: the assistant, the gateway, jobs, and links that lead outside are off; the mirror is still shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.mlflow_ui import HIDDEN, create_app, environment

PORT = 5000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, data=home / "data")
    (home / "mlflow").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        variables = environment(settings, PORT)
        for name, value in variables.items():
            patch.setenv(name, value)  # and is undone afterwards
        app = create_app(variables)
        with TestClient(app, base_url=f"http://127.0.0.1:{PORT}") as client:
            yield client


@pytest.mark.slow
def test_what_leads_outside_is_off_and_the_mirror_is_shown(client: TestClient) -> None:
    api = "/ajax-api/3.0/mlflow"
    outside = [
        f"{api}/{path}" for path in ("assistant/config", "assistant/message", "gateway/endpoints/list", "webhooks")
    ]
    for path in (*outside, "/gateway/any/mlflow/invocations", "/ajax-api/3.0/jobs/any"):
        assert client.get(path).status_code == client.post(path, json={}).status_code == 404, path
    assert client.get(f"{api}/server-info").json()["features_enabled"] == {"gateway": False}
    assert client.get(f"{api}/ui-telemetry").json()["disable_ui_telemetry"] is True
    page = client.get("/")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert all(selector in page.text for selector in (*HIDDEN, 'id="root"'))
    found = client.post("/api/2.0/mlflow/experiments/search", json={"max_results": 5})
    assert [each["name"] for each in found.json()["experiments"]] == ["Default"]


def test_the_database_is_on_no_command_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, data=tmp_path, mlflow_url="postgresql://user:secret@db/mlflow")
    assert settings.mlflow_url in environment(settings, PORT).values()
