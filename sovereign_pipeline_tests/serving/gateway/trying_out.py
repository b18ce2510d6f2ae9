"""A gateway whose line has a staged adapter for half of its users, drawn as by a flag."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.serving.rollout.flag import Arm
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Tally
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, Bench, adapter

BEGAN = 3


@dataclass
class TryingOut(Bench):
    """Users whose hash ends with an even digit get the staged adapter."""

    drawn: bool = True

    def choose(self, line: str, user: str, groups: frozenset[str]) -> Choice | None:
        production, staged = (each for each in self.served if each.line == line)
        hashed = hashlib.sha256(user.encode()).hexdigest()
        arm: Arm = "staged" if int(hashed[-1], 16) % 2 == 0 else "production"
        one = staged if arm == "staged" else production
        return Choice(one.adapter, one.digest, arm, self.drawn, hashed, staged.adapter, production.digest, BEGAN)

    def client(self, token: str) -> TestClient:
        return TestClient(self.app(), base_url=HERE, headers={"Authorization": f"Bearer {token}"})

    def tally(self) -> Tally:
        self.telemetry.write()
        (path,) = (self.directory / "rollout" / "lamps").glob(f"lamps-1.1.0-{BEGAN:08d}/*.json")
        return Tally.model_validate_json(path.read_bytes())

    def callers_of_arms(self, **rights: Any) -> dict[Arm, str]:
        """Arm -> a token whose holder gets it."""
        tokens: dict[Arm, str] = {}
        while len(tokens) < 2:
            text = self.token(**rights)
            choice = self.choose("lamps", f"token {self.tokens[-1].sha256}", frozenset())
            assert choice is not None
            tokens[choice.arm] = text
        return tokens


@pytest.fixture
def trying(tmp_path: Path) -> TryingOut:
    bench = TryingOut(tmp_path / "serving")
    bench.serve(adapter("lamps"))
    bench.serve(adapter("lamps", "1.1.0"), in_production=False)
    return bench
