"""A chain of small artifacts whose adapters may continue from others, registered as in the pipeline."""

import json
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import yaml
from sqlalchemy import delete, select, update
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base_models.stages import card_path, load_card, made_here
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.audit_log import contents_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.record.tables import Adapter, Blob
from sovereign_pipeline.release.recall import training_data
from sovereign_pipeline.training.continuation import parent_digests
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.registry.bench import CHAIN, Bench, chain_with


def _origin_of_base(workplace: Workplace) -> dict[str, str]:
    return made_here(workplace.store, load_card(workplace.settings, workplace.line.training.base_model).files)


@cache
def with_origins() -> tuple[Stage, ...]:
    """The bench's chain, where a recipe's `start_from` and the origin of a base model are inputs as in the real one."""
    external = {"sft_adapter": parent_digests, "base_model": _origin_of_base}
    return chain_with(
        *(replace(stage, external=external[stage.kind]) for stage in CHAIN if stage.kind in external),
    )


class Holders:
    """Lines of registered adapters."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.bench.chain = with_origins()
        self.first_letters = list(bench.institution.rows)

    @cached_property
    def registry(self) -> Registry:
        return self.bench.open_registry()

    def register(self, line: str = "lamps", rows: list[dict[str, Any]] | None = None, **training: Any) -> Adapter:
        self.bench.recipe["line"] = line
        self.bench.recipe["training"] = {"base_model": "tiny", "instruction": "Answer.", **training}
        self.bench.institution.rows = self.first_letters if rows is None else rows
        return self.bench.register()

    def base_model_of(self, adapter: Adapter, name: str) -> None:
        """Describe the whole model of an adapter that was tuned in full as a base model."""
        directory = self.bench.store.path_of(adapter.adapter_digest) / "model"
        card = {
            "name": name,
            "licence": "Apache-2.0",
            "classification": "PUBLIC",
            "source": {"directory": str(directory)},
            "files": {file.name: file_sha256(file) for file in sorted(directory.iterdir())},
        }
        card_path(self.bench.settings, name).write_text(yaml.safe_dump(card))


def letters(first: int, last: int) -> list[dict[str, Any]]:
    return [letter(number) for number in range(first, last)]


CHANGES_OF_CONTENTS = ("removed", "renamed", "emptied", "junk")


def change_contents(registry: Registry, adapter: Adapter, change: str) -> None:
    """Change what the database has for the dataset of an adapter, as whoever owns the database can."""
    with registry.reading() as session:
        sha256 = training_data(session, adapter.id)[adapter.id].datasets[adapter.dataset_digest]["contents"]
    of_dataset = Blob.sha256 == sha256
    with registry.engine.begin() as connection:
        if change == "removed":
            connection.execute(delete(Blob).where(of_dataset))
            return
        data = connection.scalars(select(Blob.data).where(of_dataset)).one()
        others = {"renamed": data.replace(b"R-00011", b"R-77777"), "emptied": contents_of([], ["letters"])}
        connection.execute(update(Blob).where(of_dataset).values(data=others.get(change, b"\xffjunk")))


class Ask:
    """The command line."""

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def json(self, *arguments: str) -> Any:
        answer = self(*arguments, "--json")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)
