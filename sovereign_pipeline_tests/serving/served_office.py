"""The office's line with a real tiny base model, and adapters of it that an engine can load."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base_models.pinned import card_path
from sovereign_pipeline.base_models.stages import build_base_model
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.registration import registered_adapter_stage
from sovereign_pipeline.release.recall_index import index_adapter
from sovereign_pipeline_tests.registry.bench import CHAIN
from sovereign_pipeline_tests.release.conftest import Office
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
        adapter = self.office.adapter()
        index_adapter(self.office.registry, self.office.bench.store, adapter)
        return adapter

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
        for stage in CHAIN[:-1]:
            inputs = tuple(made[each.kind] for each in stage.inputs)
            made[stage.kind] = replace(stage, inputs=inputs, build=builds.get(stage.kind, stage.build))
        return (*made.values(), registered_adapter_stage(tuple(made[each.kind] for each in CHAIN[-1].inputs)))

    def _train(self, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        seed = int(digest_of([workplace.line.line, inputs["training_dataset"].ref.digest])[:7], 16)
        made = self.tiny.directory(f"trained-{seed}", seed)
        (workspace / "adapter").mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(made / name, workspace / "adapter" / name)
        return Built(summary={"steps": 3})
