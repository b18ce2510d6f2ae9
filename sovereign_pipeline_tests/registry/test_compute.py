"""The computation of a lineage is the sum over all its trainings, and a share only where it is known of what."""

from typing import Any

import pytest

from sovereign_pipeline.evidence.documents import compute_of
from sovereign_pipeline.record.manifest import Circumstances, Manifest, Producer

COMPUTE = {"flops": 100, "tokens_generated": 7, "tokens_read": 0}
STATED = {"training_compute": {"flops": 600.0, "source": "its report"}}


def artifact(kind: str, *inputs: str, **changes: Any) -> Manifest:
    is_base = kind == "base_model"
    summary = {"name": "tiny", "digest": "d1"} if is_base else {"tokens_trained": 10, "compute": COMPUTE}
    return Manifest(
        kind=kind,
        line="lamps",
        classification="PUBLIC",
        ladder=("PUBLIC",),
        files=(),
        inputs={f"{place}": digest for place, digest in enumerate(inputs)},
        external_inputs=changes.get("external", {}),
        producer=Producer(code_version="1", config={}, config_sha256="", libraries={}),
        summary={**summary, **changes.get("summary", {})},
        circumstances=Circumstances(
            created_at="",
            source_sha256="",
            measured=changes.get("measured", {"energy_kwh": 0.5}),
            input_manifests={},
            recorded=changes.get("recorded", {"energy": "RAPL"}),
        ),
    )


BASE = artifact("base_model", summary=STATED)
CHAIN = {
    "base": BASE,
    "sft": artifact("sft_adapter", "base", summary={"method": "sft"}),
    "reward": artifact("reward_model", "base"),
    "aligned": artifact("aligned_adapter", "base", "sft", "reward", summary={"method": "ppo"}),
}


def test_a_parent_and_a_base_that_was_made_here_count_and_the_share_is_of_the_published_model() -> None:
    made = artifact("base_model", summary={"digest": "d2"}, external={"made_here:sft": "manifest"})
    chain = {
        **CHAIN,
        "made": made,
        "parent": artifact("sft_adapter", "made"),
        "own": artifact("sft_adapter", "made", external={"start_from:lamps-1.0.0": "parent"}),
    }
    found = compute_of(chain.__getitem__, "own")
    assert [each.digest for each in found.trainings].count("sft") == 1
    assert (len(found.trainings), found.flops, found.share) == (3, 300, 0.5)


@pytest.mark.parametrize(
    ("changed", "source"),
    [
        ({"base": artifact("base_model")}, "the card of tiny does not state its training_compute"),
        (
            {"reward": artifact("reward_model", "other"), "other": artifact("base_model", summary={"digest": "d3"})},
            "the lineage has 2 published base models",
        ),
    ],
)
def test_without_a_stated_compute_there_is_no_share(changed: dict[str, Manifest], source: str) -> None:
    found = compute_of({**CHAIN, **changed}.__getitem__, "aligned")
    assert (found.share, found.base_source, found.flops) == (None, source, 300)


def test_the_energy_of_a_lineage_is_not_known_where_that_of_one_training_is_not() -> None:
    unknown = artifact("sft_adapter", "base", measured={}, recorded={"energy": "not known: no counter"})
    found = compute_of({**CHAIN, "sft": unknown}.__getitem__, "aligned")
    assert found.kilowatt_hours is None
    assert {each.energy_source for each in found.trainings} == {"RAPL", "not known: no counter"}
