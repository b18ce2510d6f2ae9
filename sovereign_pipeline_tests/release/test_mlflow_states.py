"""MLflow's aliases follow the registry's states; what differs is named, and repaired from the registry."""

from typing import Any

import pytest

from sovereign_pipeline.base.processes import account
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.mlflow_mirror import LATEST, REPAIRED, differences, follow, mirror_adapter, repair
from sovereign_pipeline_tests.release.conftest import Office

pytestmark = pytest.mark.slow


def client_of(office: Office) -> Any:
    from mlflow import MlflowClient

    url = office.bench.settings.mlflow_url
    return MlflowClient(tracking_uri=url, registry_uri=url)


def mirrored(office: Office) -> Adapter:
    """One more adapter, mirrored as the pipeline does it."""
    adapter = office.adapter()
    mirror_adapter(office.bench.settings, office.bench.store, adapter)
    follow(office.registry, office.bench.settings, adapter.line)
    return adapter


def aliases(office: Office) -> dict[str, str]:
    """Alias -> the adapter that its version says it is."""
    client = client_of(office)
    named = client.get_registered_model("lamps").aliases
    return {alias: client.get_model_version("lamps", number).tags["id"] for alias, number in named.items()}


def differing(office: Office) -> list[str]:
    return [each.what for each in differences(office.registry, office.bench.settings)]


def test_aliases_follow_each_transition_and_nothing_differs(office: Office) -> None:
    first = mirrored(office)
    assert aliases(office) == {"candidate": first.id, LATEST: first.id}
    office.move("approve", first)
    assert aliases(office)["candidate"] == first.id
    office.move("stage", first)
    assert aliases(office) == {"staging": first.id, LATEST: first.id}
    office.move("promote", first)
    assert aliases(office) == {"production": first.id, LATEST: first.id}
    second = mirrored(office)
    office.to_production(second)
    assert aliases(office) == {"production": second.id, LATEST: second.id}
    office.move("roll_back", first)
    assert aliases(office) == {"production": first.id, LATEST: second.id}
    office.move("retire", first)
    assert aliases(office) == {LATEST: second.id}
    assert differing(office) == []


def test_a_failure_of_mlflow_undoes_no_act_and_the_next_act_puts_it_right(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    adapter = mirrored(office)

    def fail(*arguments: object, **named: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_registered_model_alias", fail)
        for transition in ("approve", "stage"):
            office.move(transition, adapter)
    assert office.states() == {adapter.id: "staged"}
    assert differing(office) == [f"the alias staging is not set, but should be set to {adapter.id}"]
    office.move("promote", adapter)
    assert differing(office) == []


def test_what_was_changed_in_mlflow_is_named_and_repaired(office: Office) -> None:
    first, second = mirrored(office), mirrored(office)
    office.to_production(first)
    client = client_of(office)
    client.set_registered_model_alias("lamps", "production", "2")
    assert differing(office) == [f"the alias production is set to version 2, but should be set to {first.id}"]
    client.set_model_version_tag("lamps", "2", "id", first.id)
    assert f"version 2, which mirrors {second.id}, has the id {first.id}" in differing(office)
    client.delete_model_version("lamps", "1")
    assert f"{first.id} has no version" in differing(office)
    client.create_model_version("lamps", "file:///elsewhere", tags={"id": second.id})
    assert "version 3 mirrors no adapter" in differing(office)
    client.create_model_version("lamps", "file:///elsewhere", tags={"sovereign.mirrored": second.record_digest})
    assert any("leads to file:///elsewhere, not to" in each for each in differing(office))
    left = [each.what for each in repair(office.registry, office.bench.settings)]
    assert left == ["version 3 mirrors no adapter"]
    assert aliases(office) == {"production": first.id, "candidate": second.id, LATEST: second.id}
    (entry,) = (each for each in entries(office.registry) if each.action == REPAIRED)
    assert entry.subjects["differences"] >= 5 and entry.subjects["lines"] == ["lamps"]
    assert entry.actor != account() and "elsewhere" not in str(entry.subjects)
