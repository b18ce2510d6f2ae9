"""The reference and the schema of a hand-written file, on a small model."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sovereign_pipeline.policy.recipe_model import RecipeModel
from sovereign_pipeline.policy.reference import Documented, json_schema, page
from sovereign_pipeline_tests.examples import examples


class Wick(RecipeModel):
    """What burns."""

    kind: Literal["wick"]
    """A wick."""

    length: float = Field(default=2.5, gt=0, le=9)
    """Centimetres."""


class Bulb(RecipeModel):
    """What glows."""

    kind: Literal["bulb"]
    """A bulb."""

    watts: int = Field(default=40, ge=1)
    """Watts, written as `a|b`."""

    length: float = Field(default=2.5, gt=0, le=9)
    """Centimetres."""


class Lamp(RecipeModel):
    """A lamp."""

    name: str = Field(pattern="^[a-z]+$", examples=["lantern"])
    """Its name."""

    place: Path | None = None
    """Where it is."""

    light: Annotated[Wick | Bulb, Field(discriminator="kind")]
    """How it gives light."""

    spares: tuple[Bulb, ...] = Field(default=(), min_length=1)
    """More bulbs."""

    tags: dict[Literal["colour", "shape"], bool] = {}
    """What it has."""


LAMP = Documented("lamp", "data/lamps/<lamp>.yaml", "A lamp", Lamp)


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return page((LAMP,), "Lamps", "All of them.").splitlines()


@pytest.mark.parametrize("row", examples(__file__, "a_key_has_its_type_range_default_and_meaning"))
def test_a_key_has_its_type_range_default_and_meaning(rows: list[str], row: str) -> None:
    assert row in rows


def test_sections_are_in_the_order_of_the_file_and_every_link_has_an_anchor(rows: list[str]) -> None:
    anchors = [row.removeprefix('<a id="').removesuffix('"></a>') for row in rows if row.startswith("<a id=")]
    assert anchors == ["lamp", "lamp.light.wick", "lamp.light.bulb", "lamp.spares"]
    linked = {part.partition(")")[0] for row in rows for part in row.split("](#")[1:]}
    assert linked <= set(anchors)


def test_the_schema_describes_every_key_and_refuses_others() -> None:
    schema = json_schema(LAMP)
    assert (schema["title"], schema["additionalProperties"]) == ("A lamp", False)
    assert schema["required"] == ["name", "light"]
    assert all(key["description"] for key in schema["properties"].values())
