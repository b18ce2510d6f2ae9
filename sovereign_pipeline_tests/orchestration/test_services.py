"""`sovereign up`: every port is ours before anything is started or announced."""

from pathlib import Path

import pytest

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.loopback import listen
from sovereign_pipeline.orchestration.services import serve_until_interrupted
from sovereign_pipeline.settings import Settings


@pytest.mark.parametrize("option", ["--port", "--mlflow-port", "--review-port"])
def test_a_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path, option: str) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data", vault=tmp_path / "vault")
    told: list[str] = []
    with listen(0, "") as held, pytest.raises(InputError, match=f"another with {option}\\."):
        taken = held.getsockname()[1]
        # 0 is a port that is free.
        ports = [taken if option == each else 0 for each in ("--port", "--mlflow-port", "--review-port")]
        serve_until_interrupted(settings, *ports, told.append)
    assert not told
    assert not settings.home.exists()
