"""Requests with personal data in them, and what is read of an answer."""

import json
from typing import Any

from starlette.testclient import TestClient

from sovereign_pipeline.policy.serving import Reaction
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter
from sovereign_pipeline_tests.serving.scanning.conftest import LINE, Screening

MAIL, PHONE, NAME = "salma@coast.example", "9234 1187", "Salma Zadjali"
SENT = f"Ms {NAME} asks for a lamp. Her phone is {PHONE}, her mail {MAIL}."
FILLER = "The lamp at the end of the quay is lit each night from dusk until dawn. "
PERSONAL = (MAIL, PHONE, NAME, "Zadjali", "salma@")


def say(caller: TestClient, *, stream: bool = False, content: str = SENT, **changes: Any) -> Any:
    sent = {"model": LINE, "messages": [{"role": "user", "content": content}], "stream": stream, **changes}
    return caller.post("/v1/chat/completions", json=sent)


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


def serve(bench: Bench, screening: Screening, requests: Reaction | None, answers: Reaction | None) -> None:
    bench.serve(adapter(LINE, instruction="Answer politely."))
    bench.screens = screening(requests, answers)
