"""Processes that search, with the real detectors by pattern: started once for all tests of the folder."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pyrage
import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.serving import Reaction, Screened
from sovereign_pipeline.privacy.corrections import NO_WORDS
from sovereign_pipeline.serving import scanning
from sovereign_pipeline.serving.scanning import LineDetectors, Scanner
from sovereign_pipeline.serving.screening import Screens
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.conftest import bench as bench
from sovereign_pipeline_tests.serving.gateway.conftest import client as client
from sovereign_pipeline_tests.serving.gateway.conftest import running as running
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, Bench, adapter, ask
from sovereign_pipeline_tests.serving.transcripts.conftest import keeping

Screening = Callable[..., Screens]


@pytest.fixture(scope="package")
def started() -> Iterator[Scanner]:
    treatments = Institution(name="Harbour Office", classification=("PUBLIC",)).treatments(LINE)
    privacy = Privacy(name_models={}, patterns_only=("en", "ar"))
    scanner = Scanner({LINE: LineDetectors(LINE, privacy, treatments, NO_WORDS)})
    scanner.start()
    yield scanner
    scanner.close()


@pytest.fixture
def scanner(started: Scanner, monkeypatch: pytest.MonkeyPatch) -> Scanner:
    """Its process runs, whatever the test before did to it. Here, since a process ends with the thread that started
    it, and a test's client has a new one for each request."""
    monkeypatch.setattr(scanning, "SECONDS_BETWEEN_STARTS", 0.0)
    started.start()
    return started


@pytest.fixture
def screening(scanner: Scanner) -> Screening:
    """Made by a call: what is done with requests and answers."""

    def make(requests: Reaction | None = None, answers: Reaction | None = None) -> Screens:
        return Screens(scanner, {LINE: Screened(requests=requests, answers=answers)})

    return make


MAIL, PHONE, NAME = "salma@coast.example", "9234 1187", "Salma Zadjali"
SENT = f"Ms {NAME} asks for a lamp. Her phone is {PHONE}, her mail {MAIL}."
FILLER = "The lamp at the end of the quay is lit each night from dusk until dawn. "
PERSONAL = (MAIL, PHONE, NAME, "Zadjali", "salma@")


def say(caller: TestClient, *, stream: bool = False, content: str = SENT, **changes: Any) -> Any:
    return ask(caller, messages=[{"role": "user", "content": content}], stream=stream, **changes)


def text_of(response: Any, stream: bool) -> str:
    if not stream:
        return str(response.json()["choices"][0]["message"]["content"])
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [json.loads(each)["choices"] for each in events if "choices" in each]
    return "".join(each[0]["delta"].get("content", "") for each in choices if each)


def finish_of(response: Any, stream: bool) -> str:
    if not stream:
        return str(response.json()["choices"][0]["finish_reason"])
    assert response.text.endswith("data: [DONE]\n\n")
    return str(json.loads(response.text.split("data: ")[-2])["choices"][0]["finish_reason"])


def in_pieces(text: str, size: int = 3) -> list[str]:
    return [text[place : place + size] for place in range(0, len(text), size)]


class Searched:
    """A gateway of one line whose texts are searched."""

    def __init__(self, bench: Bench, client: Client, screening: Screening) -> None:
        self.bench, self._client, self._screening = bench, client, screening
        bench.serve(adapter(LINE, instruction="Answer politely."))

    def searching(self, requests: Reaction | None, answers: Reaction | None) -> Bench:
        self.bench.screens = self._screening(requests, answers)
        return self.bench

    def keeping_transcripts(self, **rules: Any) -> str:
        """Returns the private key."""
        key = self.bench.directory.with_name("transcripts.key")
        key.write_text(str(pyrage.x25519.Identity.generate()))
        self.bench.transcripts = keeping(self.bench.directory, key, **rules)
        return key.read_text()

    def caller(self) -> TestClient:
        """Of the gateway as it is now."""
        return self._client(self.bench.token(metrics=True))

    def say(self, content: str = SENT, *, stream: bool = False, **changes: Any) -> Any:
        return say(self.caller(), stream=stream, content=content, **changes)


@pytest.fixture
def gateway(bench: Bench, client: Client, screening: Screening) -> Searched:
    return Searched(bench, client, screening)
