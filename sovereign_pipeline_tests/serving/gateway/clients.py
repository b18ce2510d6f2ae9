"""Requests that front ends and client libraries are documented to send, and what the gateway makes of each."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from sovereign_pipeline_tests.serving.gateway.scripted import HERE, LINE, WORDS, Bench, adapter

ANSWERED = "answered"
_FILE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_bytes())


@dataclass(frozen=True)
class Sent:
    """A request of a client."""

    client: str
    what: str
    headers: dict[str, str]
    body: dict[str, Any]
    outcome: str
    """`answered`, or the parameter that is named in the error."""


REQUESTS = [
    Sent(client, what, _FILE["headers"].get(headers, {}), body, outcome)
    for client, what, headers, body, outcome in _FILE["requests"]
]


@dataclass(frozen=True)
class Got:
    """What a client got."""

    outcome: str
    ignored: list[str]
    text: str = ""
    usage: Any = None


def send(caller: TestClient, sent: Sent) -> Got:
    path = "/v1/completions" if "prompt" in sent.body else "/v1/chat/completions"
    response = caller.post(path, json=sent.body, headers=sent.headers)
    if response.status_code != 200:
        return Got(response.json()["error"]["param"], [])
    ignored = [each for each in response.headers.get("x-sovereign-ignored", "").split(", ") if each]
    if not response.text.startswith("data: "):
        whole = response.json()
        choice = whole["choices"][0]
        return Got(ANSWERED, ignored, choice.get("text") or choice["message"]["content"], whole["usage"])
    *lines, end = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert end == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    choices = [each["choices"][0] for each in chunks if each["choices"]]
    text = "".join(each.get("text") or each.get("delta", {}).get("content", "") for each in choices)
    return Got(ANSWERED, ignored, text, chunks[-1].get("usage"))


def gateway(directory: Path) -> tuple[Bench, TestClient]:
    """A gateway that serves the line, and a caller without other rights."""
    bench = Bench(directory)
    bench.limits = {"requests_per_minute": 1000}
    bench.serve(adapter(LINE))
    return bench, TestClient(bench.app(), base_url=HERE, headers={"Authorization": f"Bearer {bench.token()}"})


def clients_markdown() -> str:
    """Send every request and return the docs' page of the outcomes."""
    lines = [
        "# Clients of the gateway",
        "",
        "A test sends each of these requests to a gateway and makes this page. The requests are invented after what",
        "the clients are documented to send. Other tests run the `openai` package itself; no other package is run.",
        "An ignored parameter changes nothing and is [reported](parameters.md). Switch a rejected one off in the",
        "client.",
        "",
        "| client | request | outcome | ignored |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as directory:
        _, caller = gateway(Path(directory) / "serving")
        for sent in REQUESTS:
            got = send(caller, sent)
            outcome = ANSWERED if got.outcome == ANSWERED else f"rejected: `{got.outcome}`"
            ignored = ", ".join(f"`{each}`" for each in got.ignored) or "–"
            lines.append(f"| {sent.client} | {sent.what} | {outcome} | {ignored} |")
    return "\n".join(lines) + "\n"


def is_whole(got: Got) -> bool:
    return got.text == "".join(WORDS)
