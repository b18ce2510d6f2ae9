"""A line under Dagster: real definitions over an invented institution, with an instance as long as a test."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from pyrage import x25519

from sovereign_pipeline.dagster.definitions import build_definitions
from sovereign_pipeline.dagster.resources import register_lines
from sovereign_pipeline.record.stage import Stage
from sovereign_pipeline_tests.conftest import DemoInstitution

CORPUS = [
    "raw_corpus",
    "classified_corpus",
    "scrubbed_corpus",
    "leakage_safe_split",
    "training_dataset",
    "preference_dataset",
]


class Line:
    """One installation under Dagster, with an instance that lives as long as the test."""

    def __init__(self, institution: DemoInstitution, instance: dg.DagsterInstance) -> None:
        self.institution = institution
        self.instance = instance
        self.workplace = institution.workplace()
        settings = institution.settings
        settings.vault_public_key.write_text(str(x25519.Identity.generate().to_public()))
        register_lines(instance, settings)

    def materialize(self, kinds: Sequence[str], instead: dict[str, Stage] | None = None) -> dg.ExecuteInProcessResult:
        """Run the named assets, some of them with another stage than the real one."""
        self.institution.write()
        definitions = build_definitions(self.institution.settings, instead)
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(kind) for kind in kinds],
            partition_key=self.institution.recipe["line"],
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def line(institution: DemoInstitution) -> Iterator[Line]:
    with dg.instance_for_test() as instance:
        yield Line(institution, instance)


def reasons(result: dg.ExecuteInProcessResult) -> str:
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    described = [each.user_failure_data.description for each in failures if each.user_failure_data]
    return "\n".join(text for text in described if text)


def metadata(result: dg.ExecuteInProcessResult, kind: str) -> dict[str, Any]:
    events = result.get_asset_materialization_events()
    (event,) = [each for each in events if each.asset_key == dg.AssetKey(kind)]
    return dict(event.step_materialization_data.materialization.metadata)
