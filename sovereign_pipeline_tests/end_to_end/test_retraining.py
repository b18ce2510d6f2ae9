"""Retraining by the calendar on the tiny model: clock moved, run requested, chain run, new version of the same line."""

import datetime
from typing import Any

import dagster as dg
import pytest

from sovereign_pipeline.base.settings import VARIABLES
from sovereign_pipeline.dagster.definitions import chain_job
from sovereign_pipeline.dagster.jobs import CHAIN_JOB, PERIOD_TAG, reviews_due
from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.release.cadence import Cause, due_reviews
from sovereign_pipeline_tests.end_to_end.conftest import Installation, harbour_recipe, invented_letter

pytestmark = pytest.mark.slow

EVENTS = ["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]


def requested(installation: Installation, instance: dg.DagsterInstance, after: int) -> list[dg.RunRequest]:
    """The runs of the chain that the sensor requests so many days from now."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=after)
    resources = {"installation": installation.settings, "clock": lambda: now}
    result: Any = reviews_due(dg.build_sensor_context(instance=instance, resources=resources))
    return [each for each in result.run_requests if each.job_name == CHAIN_JOB.name]


def test_a_line_is_retrained_when_its_review_is_due(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (*VARIABLES.values(), "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # restored, whatever opening the instance sets
    recipe = {**harbour_recipe(), "review": {"every": "6 months", "on": EVENTS, "retrain": True}}
    installation.write_recipe(recipe)
    status, output = installation.run("run", "harbour")
    assert status == 0, output
    (first,) = installation.json("adapters", "list")
    (holder,) = installation.json("recall", "--source", "letters")["adapters"]
    assert (holder["adapter"], holder["directly"]) == (first["id"], True)

    _events_are_told(installation, recipe)

    rows = [invented_letter(number) for number in range(60)]
    rows[3]["response"] += " The Harbour Office has spoken."
    installation.write_source("letters.jsonl", rows)
    instance = open_instance(installation.settings)
    assert requested(installation, instance, after=0) == []
    (request,) = requested(installation, instance, after=190)
    key = request.tags[PERIOD_TAG]
    assert (request.run_key, request.partition_key) == (key, "harbour")
    assert key.startswith("harbour:20") and "-H" in key
    result = dg.execute_job(
        dg.reconstructable(chain_job),
        instance=instance,
        tags={**request.tags, "dagster/partition": "harbour", "dagster/run_key": key},
    )
    assert result.success
    assert requested(installation, instance, after=0) == requested(installation, instance, after=190) == []
    old, new = installation.json("adapters", "list")
    assert old == first
    assert (new["line"], new["version"], new["evaluation"]["incumbent"]["id"]) == ("harbour", "1.1.0", first["id"])
    assert new["review_date"] >= old["review_date"]
    (due,) = installation.json("adapters", "status")["reviews"]
    assert (due["adapter"], due["state"], due["run"]) == (new["id"], "not due", None)


def _events_are_told(installation: Installation, recipe: dict[str, Any]) -> None:
    """Those that only the real chain's manifests tell."""
    assert _causes(installation) == []
    installation.write_recipe({**recipe, "training": {**recipe["training"], "instruction": "Answer politely."}})
    assert _causes(installation) == [Cause("template_changed", "the recipe's instruction changed")]
    installation.write_recipe(recipe)
    policy = installation.settings.data / "institution.yaml"
    before = policy.read_text()
    policy.write_text(f"{before}\nsensitive: {{PHONE: stop}}\n")
    assert _causes(installation) == [Cause("policy_changed", "PHONE is treated in another way")]
    policy.write_text(before)
    assert _causes(installation) == []


def _causes(installation: Installation) -> list[Cause]:
    today = datetime.datetime.now(datetime.UTC).date()
    (due,) = due_reviews(open_registry(installation.settings), installation.settings, today)
    return list(due.causes)
