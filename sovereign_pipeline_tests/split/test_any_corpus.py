"""Whatever the corpus, nothing crosses: the split against a comparison of every pair by its definition."""

import itertools
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.policy.corpus import Corpus, Split
from sovereign_pipeline.split import features as features_module
from sovereign_pipeline.split.assignment import assign
from sovereign_pipeline.split.stages import Proof, Sides, overlap_of, proof_of
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.split.chain import assigned, read


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
                "links": [f"R-{draw(st.integers(0, count)):05d}"] if draw(st.integers(0, 4)) == 0 else [],
            }
        )
    return rows


def word_shingles(row: dict[str, Any]) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{row['request']} {row['response']}".lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def crossing_by_brute_force(train: list[dict[str, Any]], held_out: list[dict[str, Any]], by_author: bool) -> list[str]:
    """Every pair across the sides that shares a matter, told from the rows alone."""
    found = []
    for one, other in itertools.product(train, held_out):
        left, right = word_shingles(one), word_shingles(other)
        shares = {
            "case": one["case"] == other["case"],
            "link": bool({one["id"], *one["links"]} & {other["id"], *other["links"]}),
            "author": by_author and one["author"] == other["author"],
            "near-duplicate": len(left & right) / len(left | right) >= 0.7,
        }
        found += [f"{kind} {one['id']} {other['id']}" for kind, is_shared in shares.items() if is_shared]
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    recipe = Split(seed=seed, held_out_share=share, by_author=by_author, by_date=by_date)
    directory = tmp_path_factory.mktemp("any")

    def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
        try:
            is_held_out = assigned(directory, rows, recipe).is_held_out.tolist()
        except InputError as error:
            assert re.search("tied together|would be held out", str(error))
            return None
        return tuple([row for row, held in zip(rows, is_held_out, strict=True) if held == side] for side in (0, 1))  # type: ignore[return-value]

    sides = split(rows)
    # The order of the rows changes nothing but their order.
    again = split(rng.sample(rows, len(rows)))
    if sides is None or again is None:
        assert sides == again
        return
    train, held_out = sides
    ids = [row["id"] for row in held_out]
    assert sorted(ids) == sorted(row["id"] for row in again[1])
    assert sorted([*ids, *(row["id"] for row in train)]) == sorted(row["id"] for row in rows)
    assert crossing_by_brute_force(train, held_out, by_author) == []
    assert share * len(rows) - 1e-6 <= len(held_out) < len(rows)
    if by_date:
        assert max(row["date"] for row in train) < max(row["date"] for row in held_out)
    held, trained = (read(directory, side, recipe) for side in (held_out, train))
    assert overlap_of(Sides.of(held, trained, recipe, directory)).problems == ()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=corpora(),
    bytes_per_part=st.integers(300, 20_000),
    workers=st.sampled_from([1, 2, 3]),
    memory=st.integers(1, 40_000),
    by_date=st.booleans(),
)
def test_parts_workers_and_memory_change_nothing(
    rows: list[dict[str, Any]],
    bytes_per_part: int,
    workers: int,
    memory: int,
    by_date: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = Split(held_out_share=0.3, by_date=by_date)
    directory = tmp_path_factory.mktemp("means")

    def outcome(corpus: Corpus, memory: int) -> tuple[Proof, list[bool], list[int]] | str:
        features = replace(read(directory, rows, recipe, corpus), memory=memory)
        try:
            assignment = assign(features, recipe, directory, silent)
        except InputError as error:
            return str(error)
        proof = proof_of(features.columns, assignment, recipe)
        return proof, assignment.is_held_out.tolist(), assignment.component_of.tolist()

    at_once = outcome(Corpus(workers=1), 1 << 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_module, "_BYTES_PER_PART", bytes_per_part)
        assert outcome(Corpus(workers=workers), memory) == at_once
