"""The office's line with a real tiny base model, and adapters of it that an engine can load."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base_models.stages import build_base_model, card_path
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.registration import registered_adapter_stage
from sovereign_pipeline.serving.deployment import Deployed, Deployment, Sources
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.fingerprints import compute
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.release.conftest import Office, open_office
from sovereign_pipeline_tests.serving.copies import copy_of, new_institution
from sovereign_pipeline_tests.serving.gateway.scripted import ScriptedEngine
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters


@dataclass
class ServedOffice:
    """An office whose adapters can be served."""

    office: Office
    tiny: TinyAdapters

    def __post_init__(self) -> None:
        self.office.bench.chain = self._chain()
        self.put_base_model("tiny", self.tiny.base)

    def adapter(self, line: str = "lamps") -> Adapter:
        """One more registered version of a line."""
        self.office.bench.recipe["line"] = line
        return self.office.adapter()

    def staged(self, line: str = "lamps") -> Adapter:
        adapter = self.adapter(line)
        for transition in ("approve", "stage"):
            self.office.move(transition, adapter)
        return adapter

    def in_production(self, line: str = "lamps") -> Adapter:
        adapter = self.staged(line)
        self.office.move("promote", adapter)
        return adapter

    def weights_of(self, adapter: Adapter) -> Path:
        return self.office.bench.store.path_of(adapter.adapter_digest) / "adapter" / "adapter_model.safetensors"

    def put_base_model(self, name: str, source: Path) -> None:
        """Fetched, with its card."""
        settings = self.office.bench.settings
        directory = settings.models / name
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(source, directory)
        described = {"licence": "Apache-2.0", "classification": "PUBLIC", "source": {"directory": str(directory)}}
        files = {file.name: file_sha256(file) for file in sorted(directory.iterdir())}
        card_path(settings, name).write_text(yaml.safe_dump({"name": name, **described, "files": files}))

    def _chain(self) -> tuple[Stage, ...]:
        builds = {"base_model": build_base_model, "sft_adapter": self._train}
        made: dict[str, Stage] = {}
        chain = self.office.bench.chain
        for stage in chain[:-1]:
            inputs = tuple(made[each.kind] for each in stage.inputs)
            made[stage.kind] = replace(stage, inputs=inputs, build=builds.get(stage.kind, stage.build))
        return (*made.values(), registered_adapter_stage(tuple(made[each.kind] for each in chain[-1].inputs)))

    def _train(self, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        seed = int(digest_of([workplace.line.line, inputs["training_dataset"].ref.digest])[:7], 16)
        made = self.tiny.directory(f"trained-{seed}", seed)
        (workspace / "adapter").mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(made / name, workspace / "adapter" / name)
        return Built(summary={"steps": 3})


@cache
def _with_one_in_production(tiny: TinyAdapters) -> Office:
    served = ServedOffice(open_office(new_institution()), tiny)
    served.in_production()
    served.office.registry.engine.dispose()
    return served.office


def serving_one(institution: DemoInstitution, tiny: TinyAdapters) -> ServedOffice:
    """An office with one adapter in production, a copy of one that is made once."""
    return ServedOffice(copy_of(_with_one_in_production(tiny), institution), tiny)


class NotedEngine(ScriptedEngine):
    """Notes what it is told to load."""

    def __init__(self) -> None:
        super().__init__()
        self.deployed: dict[str, Deployable] = {}
        self.loads: list[str] = []
        self.unfit: set[str] = set()
        self.is_lost = False
        self.before_unloading: Callable[[str], None] = lambda _: None

    async def load(self, adapter: Deployable) -> None:
        if self.is_lost:
            raise EngineLost("gone")
        if adapter.adapter in self.unfit:
            raise EngineRefused(f"{adapter.adapter} does not fit.")
        await super().load(adapter)
        self.deployed[adapter.digest] = adapter
        self.loads.append(adapter.adapter)

    async def unload(self, digest: str) -> None:
        self.before_unloading(digest)
        await super().unload(digest)

    def loaded(self) -> Mapping[str, str]:
        return {} if self.is_lost else super().loaded()

    @property
    def names(self) -> list[str]:
        return sorted(self.loaded().values())


class Deploying:
    """A deployment that looks when it is told to."""

    def __init__(self, served: ServedOffice, **changes: Any) -> None:
        """changes: of the office's settings."""
        self.served, self.office = served, served.office
        self.said: list[str] = []
        self.engine = NotedEngine()
        self.sources = Sources(replace(served.office.bench.settings, **changes), compute=compute)
        self.answering: set[str] = set()
        self.deployment = Deployment(self.engine, self.sources, self.said.append, lambda: self.answering)

    @cached_property
    def first(self) -> Adapter:
        """The first adapter of the line `lamps`."""
        return find_adapter(self.office.registry, "lamps-1.0.0")

    def started_again(self, **changes: Any) -> "Deploying":
        """Another gateway with the same files."""
        return Deploying(self.served, **changes)

    def started_without_registry(self) -> "Deploying":
        return self.started_again(registry_url="postgresql://127.0.0.1:1/registry")

    def look(self) -> Deployed:
        return asyncio.run(self.deployment.look())

    def refuses_all(self, because: str = "", of: str = "registry") -> None:
        assert because in self.look().refused[of]
        assert self.engine.names == []

    def serves(self) -> list[str]:
        """The adapters that are served and loaded after another look."""
        deployed = self.look()
        assert sorted(each.adapter for each in deployed.served) == self.engine.names
        return self.engine.names
