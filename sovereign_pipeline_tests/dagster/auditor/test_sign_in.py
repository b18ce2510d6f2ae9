"""Who looks: whom a proxy names that is known by its secret, without which nothing starts."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.hosts import SECRET_HEADER, Proxy
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.auditor import PERSON, PERSON_HEADER, auditors_proxy, for_named
from sovereign_pipeline.dagster.services import Ports, serve_until_interrupted

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


@pytest.mark.parametrize(
    ("sent", "name"), [("ليلى".encode(), "ليلى"), (b"Jos\xe9", "Jos\\xe9")], ids=["utf-8", "other"]
)
def test_a_name_is_recorded_as_the_provider_wrote_it(sent: bytes, name: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[PERSON])

    headers = [(PERSON_HEADER.lower().encode(), sent), (SECRET_HEADER.lower().encode(), b"s" * 32)]
    scope = {"type": "http", "path": "/", "client": ("127.0.0.1", 1), "headers": headers}
    asyncio.run(for_named(app, Proxy(frozenset({"127.0.0.1"}), b"s" * 32))(scope, None, None))  # type: ignore[arg-type]
    assert seen == [name]
