"""The secret by which the proxy is known is needed before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.orchestration.auditor.sign_in import auditors_proxy
from sovereign_pipeline.orchestration.services import Ports, serve_until_interrupted
from sovereign_pipeline.settings import Settings

PORTS = Ports(0, 0, 0, 0, 0, auditor=0)


@pytest.mark.security_case(
    "An auditor's Dagster is asked for with no secret of its proxy, a short one, or one that others can read.",
    "Nothing starts.",
)
def test_without_a_secret_nothing_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    path = tmp_path / "secret"
    given = replace(settings, auditor_proxy_secret=path)

    def refused(with_settings: Settings, why: str) -> None:
        with pytest.raises(InputError, match=why):
            serve_until_interrupted(with_settings, PORTS, lambda text: None)
        assert not settings.home.exists()

    refused(settings, "SOVEREIGN_AUDITOR_PROXY_SECRET is not set")
    refused(given, "there is no such file")
    path.write_text("x" * 40)
    path.chmod(0o644)
    refused(given, "other accounts can read")
    path.write_text("short")
    path.chmod(0o600)
    refused(given, "fewer than 32")
    path.write_text("x" * 40)
    assert auditors_proxy(given)
