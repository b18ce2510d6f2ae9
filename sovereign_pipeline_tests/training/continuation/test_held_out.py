"""What the parent adapter was trained on may not be held out now: faults planted in rows, cases, texts and links."""

import shutil
from dataclasses import replace
from typing import Any

import pytest

from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.stages import open_base_model
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.training.continuation import resolve_parent
from sovereign_pipeline_tests.conftest import QUESTIONS, letter
from sovereign_pipeline_tests.training.continuation.chain import (
    GATE,
    NEW,
    OLD,
    Office,
    build_without_check,
    evaluated,
    inputs_of,
)

pytestmark = pytest.mark.slow


FAULTS: list[tuple[str, list[dict[str, Any]]]] = [
    ("rows of training_dataset", OLD),  # another seed holds out others of them
    (r"\d cases? cross", [dict(new, case=old["case"]) for new, old in zip(NEW, OLD, strict=True)]),
    ("near-duplicate pair", [dict(old, id=new["id"], case=new["case"]) for new, old in zip(NEW, OLD, strict=True)]),
    (r"\d links? cross", [dict(new, follows=[old["id"]]) for new, old in zip(NEW, OLD, strict=True)]),
]


def test_what_the_earlier_adapter_saw_may_not_be_held_out(office: Office, lamps: Adapter) -> None:
    """Refused before anything is trained; and the gate says no where that was not asked."""
    office.institution.recipe["split"] = {"seed": 8}
    for says, rows in FAULTS:
        if "follows" in rows[0]:
            office.institution.recipe["sources"][0]["links"] = "follows"
            office.institution.recipe["quarantine"] = {"max_links_without_row": 1}  # to rows of an earlier corpus
        workplace = office.line("lanterns", rows, start_from="lamps-1.0.0")
        with pytest.raises(GateRefused, match=says):
            office.make(workplace, office.sft)
        _, verdicts = office.make(workplace, replace(office.sft, build=build_without_check))
        assert not verdicts[GATE].passed
        assert "trained on rows that are now on the held-out" in verdicts[GATE].message
        assert "lamp is" not in verdicts[GATE].message and "w3x" not in verdicts[GATE].message


@pytest.mark.security_case(
    "The parent adapter was trained on the questions of a suite that the line adds", "the line stops before training"
)
def test_what_the_earlier_adapter_saw_may_not_be_asked_in_the_evaluation(office: Office, lamps: Adapter) -> None:
    asked = [dict(QUESTIONS[0], id=f"Q-{row['id']}", question=row["request"]) for row in OLD]
    office.institution.write_items("suites/suite.jsonl", asked)
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    with pytest.raises(GateRefused, match=r"training_dataset \w+: .* rows hold"):
        office.make(workplace, office.sft)
    office.sft = replace(office.sft, build=build_without_check)
    _, verdicts = office.make(workplace, office.sft)
    assert not verdicts[GATE].passed


def test_what_an_adapter_two_steps_back_saw_counts_after_it_was_purged_too(office: Office, lamps: Adapter) -> None:
    adapter, _ = office.register(office.line("lanterns", NEW, start_from="lamps-1.0.0"))
    workplace = office.line("torches", OLD, start_from=adapter.id)
    (workplace.store.path_of(lamps.adapter_digest) / "adapter" / "adapter_model.safetensors").unlink()
    _, verdicts = office.make(workplace, office.sft)
    assert verdicts[GATE].passed and lamps.dataset_digest in verdicts[GATE].evidence["datasets"]
    office.institution.recipe["split"] = {"seed": 8}
    with pytest.raises(GateRefused, match=r"rows of training_dataset"):
        office.make(office.line("torches", OLD, start_from=adapter.id), office.sft)


def test_what_was_trained_on_and_cannot_be_opened_may_hold_anything(office: Office, lamps: Adapter) -> None:
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0")
    store = workplace.store
    made, _ = office.make(workplace, office.sft)
    artifact, away = store.open(made), workplace.settings.home / "lost"
    inputs = inputs_of(workplace, artifact)
    for kind in ("training_dataset", "leakage_safe_split", "scrubbed_corpus"):
        lost = store.current("lamps", kind)
        assert lost is not None
        shutil.move(store.path_of(lost.digest), away)
        with pytest.raises(GateRefused, match="cannot be opened, so it may contain held-out rows") as refused:
            evaluated(workplace, artifact)
        assert lost.digest in str(refused.value)
        with pytest.raises(GateRefused, match="cannot be opened"):
            resolve_parent(workplace, inputs, open_base_model(workplace.settings, inputs["base_model"], silent))
        shutil.move(away, store.path_of(lost.digest))


def test_preferences_are_held_against_the_start_of_their_sft_adapter(office: Office, lamps: Adapter) -> None:
    """A pair of the same case as a letter that lamps-1.0.0 was trained on, on the held-out side."""
    office.institution.recipe["split"] = {"seed": 8}
    pairs = [letter(2000 + number, case=old["case"], rejected="No.") for number, old in enumerate(OLD)]
    described = {"path": "sources/pairs.jsonl", "licence": "own", "retention": "1 year"}
    office.institution.recipe["sources"].append({"name": "pairs", "role": "preferences", **described})
    office.institution.write_items("sources/pairs.jsonl", pairs)
    workplace = office.line("lanterns", NEW, start_from="lamps-1.0.0", preference={})
    office.sft = replace(office.sft, build=build_without_check)
    sft, _ = office.make(workplace, office.sft)
    preferences, _ = office.make(workplace, office.preferences)
    store = workplace.store
    inputs = {"sft_adapter": store.open(sft), "preference_dataset": store.open(preferences)}
    inputs["base_model"] = store.open_input(inputs["sft_adapter"].manifest, "base_model")
    verdict = evaluated(workplace, store.open(sft), inputs)
    assert not verdict.passed
    assert "case" in verdict.message


def test_the_same_rows_with_the_same_split_may_go_on(office: Office, lamps: Adapter) -> None:
    workplace = office.line("lanterns", OLD, start_from="lamps-1.0.0")
    _, verdicts = office.make(workplace, office.sft)
    assert verdicts[GATE].passed
    assert verdicts[GATE].evidence["datasets"] == [lamps.dataset_digest]
    without = workplace.store.open(workplace.store.ref_of(lamps.adapter_digest))
    assert evaluated(workplace, without).evidence == {"started_from": None}
    assert evaluated(workplace, without, {**inputs_of(workplace, without), "sft_adapter": without}).passed
