"""Whatever the corpus, nothing crosses: the split against a comparison of every pair by its definition."""

import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage

GATE = NO_CROSSING_GROUPS.name


@st.composite
def corpora(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that share cases, links, authors, days and texts at random; some texts differ by a few words only."""
    count = draw(st.integers(20, 60))
    rows = []
    for number in range(count):
        text = letter(draw(st.integers(0, count * 2)))
        words = text["response"].split()
        for place in draw(st.lists(st.integers(0, len(words) - 1), max_size=3)):
            words[place] = f"other{number}"
        rows.append(
            {
                **letter(number),
                "case": f"CASE/{draw(st.integers(0, count))}",
                "author": f"Officer {draw(st.integers(0, count))}",
                "date": f"2024-{draw(st.integers(1, 12)):02d}-{draw(st.integers(1, 28)):02d}",
                "request": text["request"],
                "response": " ".join(words),
                "related": [f"R-{draw(st.integers(0, count)):05d}"] if draw(st.integers(0, 4)) == 0 else [],
            }
        )
    return rows


def word_shingles(document: Document) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{document.request} {document.response}".lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def crossing_by_brute_force(train: list[Document], held_out: list[Document], by_author: bool) -> list[str]:
    """Every pair across the sides that shares a matter, told from the documents alone."""
    found = []
    for one, other in itertools.product(train, held_out):
        left, right = word_shingles(one), word_shingles(other)
        if one.case == other.case:
            found.append(f"case {one.id} {other.id}")
        if {one.id, *one.links} & {other.id, *other.links}:
            found.append(f"link {one.id} {other.id}")
        if by_author and one.author == other.author:
            found.append(f"author {one.id} {other.id}")
        if len(left & right) / len(left | right) >= 0.7:
            found.append(f"near-duplicate {one.id} {other.id}")
    return found


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=corpora(),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.12, 0.3]),
    by_author=st.booleans(),
    by_date=st.booleans(),
    rng=st.randoms(use_true_random=False),
)
def test_nothing_crosses_whatever_the_corpus(
    rows: list[dict[str, Any]],
    seed: int,
    share: float,
    by_author: bool,
    by_date: bool,
    rng: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = minimal_recipe(split={"seed": seed, "held_out_share": share, "by_author": by_author, "by_date": by_date})
    recipe["sources"][0]["links"] = "related"

    def split(rows: list[dict[str, Any]]) -> tuple[list[Document], list[Document]] | None:
        workplace = DemoInstitution(tmp_path_factory.mktemp("any"), recipe, rows).workplace()
        try:
            artifact, verdicts = materialize(workplace, split_stage())
        except InputError as error:
            assert re.search("tied together|would be held out", str(error))
            return None
        assert verdicts[GATE].passed, verdicts[GATE].message
        return documents_of(artifact, TRAIN), documents_of(artifact, HELD_OUT)

    sides = split(rows)
    # The order of the rows changes nothing but their order.
    again = split(rng.sample(rows, len(rows)))
    if sides is None or again is None:
        assert sides == again
        return
    train, held_out = sides
    ids = [document.id for document in held_out]
    assert sorted(ids) == sorted(document.id for document in again[1])
    assert sorted([*ids, *(document.id for document in train)]) == sorted(row["id"] for row in rows)
    assert crossing_by_brute_force(train, held_out, by_author) == []
    assert share * len(rows) - 1e-6 <= len(held_out) < len(rows)
    if by_date:
        assert max(document.date for document in train) < max(document.date for document in held_out)
