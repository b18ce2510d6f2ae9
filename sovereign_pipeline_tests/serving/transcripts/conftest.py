"""A gateway whose line keeps transcripts, and the machine that opens them."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from sovereign_pipeline.policy.serving import Transcripts
from sovereign_pipeline.record.audit_log import CHECKPOINT, export
from sovereign_pipeline.record.checkpoints import verifier
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.serving.gateway.stores import Journal, utc_now
from sovereign_pipeline.serving.transcripts import TranscriptFiles
from sovereign_pipeline.serving.transcripts_cli import app
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, LINE, Bench, adapter, ask


@dataclass
class Kept:
    """The line's gateway, and its private key elsewhere."""

    bench: Bench
    key: Path
    caller: TestClient
    registry: Registry

    def ask(self, content: str, *words: str, **changes: Any) -> str:
        """The id of an answer with these words."""
        self.bench.engine.words = words or ("The lamp is lit.",)
        answer = self.response(content, **changes)
        assert answer.status_code == 200
        return str(answer.json()["id"])

    def response(self, content: str, **changes: Any) -> Any:
        return ask(self.caller, **{"messages": [{"role": "user", "content": content}], **changes})

    def say(self, id: str, thumb: str) -> None:
        assert self.caller.post("/v1/feedback", json={"id": id, "thumb": thumb}).status_code == 200

    @property
    def files(self) -> list[Path]:
        return sorted((self.bench.directory / "transcripts" / LINE).glob("*"))

    def enter(self) -> list[str]:
        """Let the ledger have the hours so far. Returns the options for a new copy of journal and ledger."""
        Journal(self.bench.journal, lambda: utc_now() + datetime.timedelta(hours=2)).enter(self.registry)
        file = self.key.with_name(f"ledger-{len([*self.key.parent.iterdir()])}.jsonl")
        checkpoint = self.registry.checkpoint()
        file.with_name(file.name + CHECKPOINT).write_text(str(checkpoint))
        export(self.registry, file)
        with self.registry.reading() as session:
            log = verifier(session, self.registry.settings)
        return ["--journal", str(self.bench.journal), "--ledger", str(file), "--log", str(log)]

    def open(self, command: str, out: Path, *options: str, copies: list[str] | None = None) -> Result:
        """copies: the options of `enter`; else made anew."""
        directory = self.bench.directory
        given = [str(directory / "transcripts"), "--line", LINE, "--key", str(self.key), "--out", str(out)]
        return CliRunner().invoke(app, [command, *given, *(copies or self.enter()), *options])


def keeping(directory: Path, key: Path, **rules: Any) -> TranscriptFiles:
    recipient = str(pyrage.x25519.Identity.from_str(key.read_text()).to_public())
    return TranscriptFiles(directory / "transcripts", recipient, {LINE: Transcripts(**rules)})


@pytest.fixture
def kept(tmp_path: Path, institution: DemoInstitution) -> Kept:
    key = tmp_path / "offline" / "transcripts.key"
    key.parent.mkdir()
    key.write_text(str(pyrage.x25519.Identity.generate()))
    bench = Bench(tmp_path / "serving")
    bench.transcripts = keeping(bench.directory, key, preferences=True)
    bench.serve(adapter(LINE, level="INTERNAL", instruction="Answer politely."))
    caller = TestClient(bench.app(), base_url=HERE, headers={"Authorization": f"Bearer {bench.token()}"})
    institution.write()
    registry = open_registry(institution.settings)
    with registry.writing():
        pass  # makes the log's key
    return Kept(bench, key, caller, registry)
