"""The sensor of closed reviews, ticked by hand, and the asset that it asks for."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from sovereign_pipeline.dagster.chain import CHAIN
from sovereign_pipeline.dagster.definitions import build_definitions
from sovereign_pipeline.dagster.jobs import closed_reviews
from sovereign_pipeline.dagster.resources import register_lines
from sovereign_pipeline.record.staleness import stale_kinds
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench, bench, reviews  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


@pytest.fixture
def instance(reviews: ReviewBench) -> Iterator[dg.DagsterInstance]:  # noqa: F811
    with dg.instance_for_test() as instance:
        register_lines(instance, reviews.bench.settings)
        yield instance


def tick(reviews: ReviewBench, instance: dg.DagsterInstance) -> list[tuple[str | None, str | None]]:  # noqa: F811
    """(run key, partition) of every run that is asked for."""
    context = dg.build_sensor_context(instance=instance, resources={"installation": reviews.bench.settings})
    given: Any = closed_reviews(context)
    return [(each.run_key, each.partition_key) for each in given if isinstance(each, dg.RunRequest)]


def test_a_run_is_asked_for_once_a_review_is_closed_and_not_before(
    reviews: ReviewBench,  # noqa: F811
    instance: dg.DagsterInstance,
) -> None:
    assert tick(reviews, instance) == []
    opened = reviews.open()
    reviews.vote_all(1)
    assert tick(reviews, instance) == []
    reviews.close()
    # Dagster launches one run a key, however often it is asked for.
    key = f"review-{opened.review}-{reviews.bench.refs['registered_adapter'].digest[:12]}"
    assert tick(reviews, instance) == tick(reviews, instance) == [(key, "lamps")]
    reviews.bench.recipe["purpose"] = "Answer letters about lamps and lanterns."
    reviews.bench.register()
    ((again, _),) = tick(reviews, instance)  # the same weights under another version: the answer is theirs too
    assert again != key
    reviews.another_adapter()
    assert tick(reviews, instance) == []  # it was of another candidate than the line's present one


def test_the_asset_shows_the_result_and_a_no_fails_its_step(
    reviews: ReviewBench,  # noqa: F811
    instance: dg.DagsterInstance,
) -> None:
    reviews.open()
    reviews.vote_all(-1)
    reviews.close()
    stale = stale_kinds(CHAIN, reviews.bench.workplace())
    assert "blind_review" not in stale
    definitions = build_definitions(reviews.bench.settings, {"blind_review": BLIND_REVIEW})
    result = definitions.resolve_job_def("closed_review").execute_in_process(
        partition_key="lamps", instance=instance, raise_on_error=False
    )
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("net_preference_not_negative", False)
    (event,) = result.get_asset_materialization_events()
    page = event.step_materialization_data.materialization.metadata
    assert "net preference" in str(page["result"].value)
    assert page["net preference"].value == "-1.0"
    assert "wording" not in repr(page)
    assert stale_kinds(CHAIN, reviews.bench.workplace()) == stale
