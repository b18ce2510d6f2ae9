"""What an institution decides for all its lines, and for one of them."""

import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.policy.institution import Cadence, ClassificationLadder, Institution, load_institution
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline_tests.conftest import LADDER as LADDER_OF_CONFTEST
from sovereign_pipeline_tests.examples import examples


def load(tmp_path: Path, **policy: Any) -> Institution:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "lamps.yaml").touch()
    content = {"name": "Lamp Office", "classification": LADDER_OF_CONFTEST, **policy}
    (tmp_path / "institution.yaml").write_text(yaml.safe_dump(content))
    return load_institution(tmp_path)


@pytest.mark.parametrize("levels", ["!!set {PUBLIC, SECRET}", "!!omap [PUBLIC: 1, SECRET: 2]"])
def test_levels_are_a_list_whose_order_is_the_same_everywhere(tmp_path: Path, levels: str) -> None:
    (tmp_path / "institution.yaml").write_text(f"name: Lamp Office\nclassification: {levels}\n")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        load_institution(tmp_path)


def test_what_is_not_named_is_replaced_or_kept_by_default(tmp_path: Path) -> None:
    treatments = load(tmp_path).treatments("lamps")
    assert treatments == {kind: "keep" if kind in KEPT_BY_DEFAULT else "replace" for kind in KINDS}
    assert treatments["NAME"] == treatments["IBAN"] == "replace"


def test_a_line_goes_before_the_institution(tmp_path: Path) -> None:
    institution = load(
        tmp_path, sensitive={"CR": "keep", "IBAN": "stop"}, sensitive_by_line={"lamps": {"CR": "replace"}}
    )
    here, elsewhere = institution.treatments("lamps"), institution.treatments("other")
    assert (here["CR"], here["IBAN"]) == ("replace", "stop")
    assert (elsewhere["CR"], elsewhere["IBAN"]) == ("keep", "stop")


@pytest.mark.parametrize(("policy", "message"), examples(__file__, "what_is_wrong_is_named_with_the_nearest"))
def test_what_is_wrong_is_named_with_the_nearest(tmp_path: Path, policy: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, **policy)


LADDER = ClassificationLadder(("PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"))
levels = st.sampled_from(LADDER.levels)


@given(st.lists(levels), st.lists(levels))
def test_join_never_falls_and_does_not_depend_on_order(some: list[str], more: list[str]) -> None:
    joined = LADDER.highest(some + more)
    assert joined == LADDER.highest(more + some) == LADDER.highest([LADDER.highest(some), LADDER.highest(more)])
    assert all(not LADDER.exceeds(level, joined) for level in some + more)
    assert joined in [*some, *more, "PUBLIC"]


def test_unknown_level_is_named() -> None:
    with pytest.raises(RecipeError, match="'RESTRICTED' is not a classification level"):
        LADDER.highest(["PUBLIC", "RESTRICTED"])


@pytest.mark.parametrize("second", ["PUBLIC", "Public", "ＰＵＢＬＩＣ", "", " A", "A\nB", "A\x1b[0m"])
def test_a_level_has_one_printable_name(second: str) -> None:
    with pytest.raises(RecipeError):
        ClassificationLadder(("PUBLIC", second))


DAY = datetime.date


@pytest.mark.parametrize(("every", "since", "due", "period"), examples(__file__, "the_next_review"))
def test_the_next_review_has_a_day_and_a_period(every: str | None, since: str, due: str, period: str) -> None:
    cadence = Cadence(every=every)
    next_day = cadence.next_day(DAY.fromisoformat(since), institutions_days=180)
    assert (next_day.isoformat(), cadence.period(next_day)) == (due, period)


@given(
    number=st.integers(1, 36),
    unit=st.sampled_from(["days", "weeks", "months", "years"]),
    first=st.dates(DAY(2020, 1, 1), DAY(2060, 1, 1)),
)
def test_reviews_that_follow_each_other_never_share_a_period(number: int, unit: str, first: DAY) -> None:
    if unit == "years" and number > 10:
        return
    cadence = Cadence(every=f"{number} {unit}")
    days = [first]
    for _ in range(8):
        days.append(cadence.next_day(days[-1], 180))
    assert all(cadence.period(one) != cadence.period(other) for one, other in pairwise(days))


@pytest.mark.parametrize(
    "every", ["6months", "0 days", "six months", "-1 days", "1.5 years", "11 years", "6 moons", ""]
)
def test_another_length_of_time_is_refused(every: str) -> None:
    with pytest.raises(ValidationError, match="every"):
        Cadence(every=every)


def test_an_event_that_nobody_here_hears_of_is_refused() -> None:
    with pytest.raises(ValidationError, match="base_superseded"):
        Cadence.model_validate({"on": ["library_advisory"]})
