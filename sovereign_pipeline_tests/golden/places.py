"""One home of the golden run: its command line, its servers, and what it leaves on disk."""

import contextlib
import getpass
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from sovereign_pipeline_tests.golden.line import PROJECT

BIN = Path(sys.executable).parent
PATIENCE = 240.0
"""Seconds in which a server must have started, or the gateway have seen a decision."""
RANDOM = {"blind_review", "review_plan"}
"""Kinds whose content holds random numbers and times; what hangs on them has no digest among the results."""
RECORD_FILE = re.compile(r"^manifest\.json|\.sigstore\.json$")
MOMENT = re.compile(r"\b20(2[6-9]|[3-9]\d)-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?( UTC)?")
HEX = re.compile(r"\b(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,128}\b")
ENTRY = re.compile(r"\b\d+ entries\b|\bentry \d+\b|\b\d+ of the log\b")
NUMBER_OF_RUN = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def tell(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


@dataclass
class Place:
    """An installation under a directory of its own. `results` is what it adds to the golden file."""

    name: str
    root: Path
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def keys(self) -> Path:
        return self.root / "home-keys"

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("SOVEREIGN_")}
        paths = {"HOME": self.home, "DATA": self.data, "VAULT": self.root / "vault"}
        return {
            **others,
            **{f"SOVEREIGN_{name}": str(path) for name, path in paths.items()},
            "DAGSTER_HOME": str(self.home / "dagster"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def prepare(self) -> None:
        """Make what an institution makes once: vault key, log key and trust root."""
        self.home.mkdir(mode=0o700)
        self.program("sovereign-vault", "keygen", "--private", self.root / "v.key", "--public", self.home / "vault.pub")
        self.program("sovereign", "audit", "key", "--file", self.home / "log.pub")
        self.program("sovereign-trust", "demonstration", self.data / "trust", self.keys, "--log", self.home / "log.pub")

    def program(self, program: str, *arguments: object, may_end: int = 0) -> str:
        """Run a program to its end. Returns what it printed. Raises AssertionError for another exit status."""
        started = time.monotonic()
        done = subprocess.run(
            [BIN / program, *map(str, arguments)],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        said = " ".join([program, *map(str, arguments)])
        assert done.returncode == may_end, f"{said}: ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        tell(f"  {self.name:14} {time.monotonic() - started:5.1f} s  {said[:120]}")
        return done.stdout if may_end == 0 else done.stdout + done.stderr

    def sovereign(self, *arguments: object, may_end: int = 0) -> str:
        return self.program("sovereign", *arguments, may_end=may_end)

    def keep(self, name: str, *arguments: object, may_end: int = 0) -> Any:
        """Run a command with `--json`, and keep its answer among the results. Returns the answer."""
        answer = json.loads(self.sovereign(*arguments, "--json", may_end=may_end))
        self.results.setdefault("cli", {})[name] = answer
        return answer

    def sign(self, number: int, *arguments: object, may_end: int = 0) -> str:
        """Run a command as one of the demonstration's officers."""
        return self.sovereign(*arguments, "--key", self.keys / f"officer-{number}.key", may_end=may_end)

    def move(self, adapter: str, transition: str, approvals: int) -> None:
        """Request a transition as the first officer, and approve it as the others."""
        self.sign(1, "adapters", "request", adapter, transition, "--reason", f"Golden {transition}.")
        line = adapter.rsplit("-", 1)[0]
        requests = json.loads(self.sovereign("adapters", "status", "--line", line, "--json"))["requests"]
        request = next(each for each in requests if (each["adapter"], each["transition"]) == (adapter, transition))
        for number in range(approvals):
            self.sign(2 + number, "adapters", "approve", request["request"])

    @contextlib.contextmanager
    def serving(self, *command: str) -> Iterator[str]:
        """Run a server meanwhile. Gives its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self.root / f"{command[0]}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [BIN / "sovereign", *command, "--port", str(port)],
                env=self.environment,
                cwd=PROJECT,
                stdout=stream,
                stderr=stream,
            )
            try:
                deadline = time.monotonic() + PATIENCE
                while not _answers(port):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(60)

    def artifacts(self) -> dict[str, Any]:
        """Read what lies in the stores, by line and kind: digests, and the digest of every file."""
        found: dict[str, Any] = {}
        unscrubbed = self.root / "home-corpus" / "artifacts"
        for path in sorted((self.home / "artifacts").glob("*/manifest.json")):
            manifest, digest = json.loads(path.read_text()), path.parent.name
            if not manifest["kind"].startswith("cached"):
                described = _described(digest, path.parent, unscrubbed / digest)
                if RANDOM & {manifest["kind"], *manifest["inputs"]}:
                    described = {key: each for key, each in described.items() if key == "verdict"}
                found.setdefault(manifest["line"], {}).setdefault(manifest["kind"], []).append(described)
        return {line: {kind: sorted(kinds[kind], key=str) for kind in sorted(kinds)} for line, kinds in found.items()}

    def normalised(self) -> dict[str, Any]:
        """The results without what differs from run to run: times, keys, random numbers and paths."""
        artifacts = self.artifacts()
        made = [each for line in artifacts.values() for kind in line.values() for each in kind]
        stable = {digest for each in made for digest in (each.get("digest", ""), *each.get("files", {}).values())}
        given = [path for path in self.data.rglob("*") if path.is_file() and self.data / "trust" not in path.parents]
        stable |= {hashlib.sha256(path.read_bytes()).hexdigest() for path in given}
        beginnings = {digest[:length] for digest in stable for length in range(8, len(digest) + 1)}

        def plain(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {plain(key): plain(each) for key, each in sorted(value.items()) if key not in VOLATILE}
            if isinstance(value, list | tuple):
                return [plain(each) for each in value]
            if not isinstance(value, str):
                return value
            if value == getpass.getuser():
                return "ACCOUNT"
            text = value.replace(str(self.root), "ROOT").replace(str(PROJECT), "PROJECT")
            text = ENTRY.sub("entry", MOMENT.sub("MOMENT", NUMBER_OF_RUN.sub("RUN", text)))
            return HEX.sub(lambda found: found[0] if found[0] in beginnings else "HEX", text)

        return {name: plain(each) for name, each in {"artifacts": artifacts, **self.results}.items()}


VOLATILE = {"measured", "seconds", "disk", "bytes", "size"}


class Visitor:
    """A client over HTTP that remembers cookies."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
        )

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """GET, or POST where there is a body. Returns the status and the text of the answer."""
        content = None if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
        request = urllib.request.Request(self.address + path, content, named)
        try:
            with self._opener.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _described(digest: str, *places: Path) -> dict[str, Any]:
    """An artifact's digest, its verdict where it is a gate's record, and the digest of each file but the records'."""
    described: dict[str, Any] = {"digest": digest}
    verdict = places[0] / "verdict.json"
    if verdict.exists():
        return {**described, "verdict": json.loads(verdict.read_text())}
    files = {path.relative_to(place): path for place in places for path in place.rglob("*") if path.is_file()}
    contents = {str(name): path for name, path in sorted(files.items()) if not RECORD_FILE.search(str(name))}
    return {
        **described,
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in contents.items()},
    }
