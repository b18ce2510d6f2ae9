"""How it stands with the lines, from what is deployed and the flags in force."""

import pytest

from sovereign_pipeline.serving.deployment import Deployed
from sovereign_pipeline.serving.gateway.app import Condition, condition_of
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import FLAGS_FILE, root_of, sequences
from sovereign_pipeline_tests.serving.flags.conftest import LINE, Desk
from sovereign_pipeline_tests.serving.flags.conftest import desk as desk
from sovereign_pipeline_tests.serving.flags.conftest import office as office


def test_nothing_is_in_production(desk: Desk) -> None:
    flags = desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition()
    assert not condition_of(Deployed(refused={LINE: "a row was changed"}), (), flags).answers


def test_what_is_in_production_must_be_loaded(desk: Desk) -> None:
    adapter, flags = desk.in_production(), desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition(answers=False)
    assert condition_of(Deployed(), {adapter.adapter_digest}, flags) == Condition()


def test_a_newer_flag_that_is_not_taken_is_behind(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)
    adapter, flags = desk.in_production(), desk.gateway()
    assert not condition_of(Deployed(), {adapter.adapter_digest}, flags).is_behind
    desk.in_production()
    number = sequences(desk.settings, LINE)[-1]
    (root_of(desk.settings) / LINE / f"{number:08d}" / FLAGS_FILE).write_text("{}")
    assert condition_of(Deployed(), {adapter.adapter_digest}, flags) == Condition(is_behind=True)
