"""What one installation has searched, from its institution file, recipes and word lists."""

import asyncio
from typing import Any

import pytest

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.serving.screening import start_screens
from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.serving.flags.conftest import LINE, Desk
from sovereign_pipeline_tests.serving.flags.conftest import desk as desk
from sovereign_pipeline_tests.serving.flags.conftest import office as office


def test_a_line_is_searched_by_its_recipe_policy_and_word_lists(desk: Desk) -> None:
    bench = desk.office.bench
    bench.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en"]}
    bench.institution.rules["sensitive"] = {"PHONE": "keep"}
    bench.institution.rules["serving"] = {"lines": {LINE: {"privacy": {"requests": "replace"}}}}
    bench.workplace()
    lists = desk.settings.data / "privacy" / f"{LINE}.yaml"
    lists.parent.mkdir(exist_ok=True)
    lists.write_text("always: [{value: Blue Lantern, kind: NAME}]\n")
    said: list[str] = []
    screens = start_screens(desk.settings, load_institution(desk.settings.data), said.append)
    try:
        screen = screens.of(LINE, [{"role": "user", "content": "Blue Lantern, phone 9234 1187, a@coast.example"}])
        assert asyncio.run(screen.take_request())
        assert screen.messages[0]["content"] == "NAME_1, phone 9234 1187, EMAIL_1"
        other: Any = screens.of("buoys", [{"role": "user", "content": "Blue Lantern"}])
        assert asyncio.run(other.take_request()) and other.messages[0]["content"] == "Blue Lantern"
    finally:
        screens.close()
    assert said == [f"loading what searches for personal data in {LINE}"]


def test_a_line_without_a_recipe_lets_no_gateway_start(desk: Desk) -> None:
    given = {"lines": {"buoys": {"privacy": {"answers": "report"}}}}
    institution = Institution.model_validate({"name": "Office", "classification": tuple(LADDER), "serving": given})
    with pytest.raises(NotFoundError):
        start_screens(desk.settings, institution, print)
