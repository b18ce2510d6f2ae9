"""Requests that front ends are documented to send, calls of client libraries, and what the gateway makes of each."""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.base_models.test_tool_form import HERMES
from sovereign_pipeline_tests.serving.gateway import client_libraries
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, LINE, WORDS, Bench, adapter
from sovereign_pipeline_tests.waiting import SECONDS

ANSWERED = "answered"
_DISTRIBUTIONS = {"llama-index": "llama-index-llms-openai-like", "pydantic-ai": "pydantic-ai-slim"}
_ENVIRONMENT = Path(sys.prefix).resolve()
PYTHON = _ENVIRONMENT.with_name(f"{_ENVIRONMENT.name}-clients") / "bin" / "python"
"""Python of the environment with the client libraries; `make test` installs it."""
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
class Call:
    """A call of a client library, and what its caller gets."""

    what: str
    outcome: str
    """`answered`, or the parameter that is named in the error."""
    error: str | None
    """Class of the error that the library raises."""
    ignored: list[str]


CALLS = {library: [Call(*row) for row in rows] for library, rows in _FILE["libraries"].items()}


class Library:
    """A client library in a process of its own, which reaches loopback only."""

    def __init__(self, name: str, url: str, token: str, home: Path) -> None:
        assert PYTHON.exists(), f"make test installs the client libraries into {PYTHON.parent.parent}"
        self._errors = (home / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [PYTHON, client_libraries.__file__, name, url, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=home,
            env={"HOME": str(home)},
        )
        self.cases: list[str] = self._read()

    def call(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return dict(self._read())

    def close(self) -> None:
        self._process.communicate(timeout=SECONDS)
        self._errors.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._errors.seek(0)
        assert line, self._errors.read()
        return json.loads(line)


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
    """A gateway that serves the line, whose template writes calls, and a caller without other rights."""
    bench = Bench(directory)
    bench.engine.form = HERMES
    bench.limits = {"requests_per_minute": 1000}
    bench.serve(adapter(LINE))
    return bench, TestClient(bench.app(), base_url=HERE, headers={"Authorization": f"Bearer {bench.token()}"})


def clients_markdown() -> str:
    """Send every request of a front end, and return the docs' page of the outcomes."""
    versions = dict(
        re.findall(
            r"^([\w-]+)(?:\[.*?])?==(\S+)", (PROJECT_ROOT / "requirements/clients.txt").read_text(), re.MULTILINE
        )
    )
    lines = [
        "# Clients of the gateway",
        "",
        "An ignored parameter changes nothing and is [reported](parameters.md). Switch a rejected one off in the",
        "client.",
        "",
        "## Client libraries",
        "",
        "A test runs each library with its defaults against a gateway, without a network.",
        "",
        "| library | call | outcome | raises | ignored |",
        "|---|---|---|---|---|",
    ]
    for library, calls in CALLS.items():
        version = versions[_DISTRIBUTIONS.get(library, library)]
        for each in calls:
            raises = f"`{each.error}`" if each.error else "–"
            lines.append(
                f"| {library} {version} | {each.what} | {_stated(each.outcome)} | {raises} | {_listed(each.ignored)} |"
            )
    lines += [
        "",
        "`litellm` downloads a table of prices when it is imported, unless `LITELLM_LOCAL_MODEL_COST_MAP=True` is set.",
        "",
        "## Front ends",
        "",
        "A test sends each of these requests to a gateway. They are invented after what the front ends are documented",
        "to send.",
        "",
        "| front end | request | outcome | ignored |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as directory:
        _, caller = gateway(Path(directory) / "serving")
        for sent in REQUESTS:
            got = send(caller, sent)
            lines.append(f"| {sent.client} | {sent.what} | {_stated(got.outcome)} | {_listed(got.ignored)} |")
    return "\n".join(lines) + "\n"


def _stated(outcome: str) -> str:
    return outcome if outcome in (ANSWERED, "rejected") else f"rejected: `{outcome}`"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{each}`" for each in names) or "–"


def is_whole(got: Got) -> bool:
    return got.text == "".join(WORDS)
