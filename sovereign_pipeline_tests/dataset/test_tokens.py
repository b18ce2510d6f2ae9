"""Lengths are those of the trainer's own encoding; percentiles are by nearest rank; the tokenizer is the pinned one."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import IntegrityError, Remedy
from sovereign_pipeline.dataset.jsonl import sft_row, user_message
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.dataset.tokens import BaseTokenizer, TokenCounts, tokenizer_digests
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.dataset.chain import card_of, dataset_stage, split_of
from sovereign_pipeline_tests.split.chain import documents_of, materialize

# Of the tiny template: <|im_start|>user\n … <|im_end|>\n<|im_start|>assistant\n … <|im_end|>, one token a byte else.
MARKS = 2 * 2 + len("user\n") + len("\n") + len("assistant\n")


def test_the_card_counts_what_the_trainer_would_see_on_both_sides(institution: DemoInstitution) -> None:
    institution.recipe["training"]["sft"] = {"max_length": 360}
    institution.rows = [letter(number, response="é" * (number * 3) + ".") for number in range(40)]
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    assert verdicts["digests_verified"].passed, verdicts["digests_verified"].message
    tokens = card_of(dataset).tokens
    split = split_of(institution.workplace())
    for stated, side in ((tokens.training, TRAIN), (tokens.held_out, HELD_OUT)):
        lengths = {}
        for document in documents_of(split, side):
            row = sft_row(document, "Answer this letter.")
            shown = user_message(row["instruction"], row["input"]) + row["output"]
            lengths[document.id] = len(shown.encode()) + MARKS
        ordered = sorted(lengths.values())
        assert (stated.rows, stated.shortest, stated.longest) == (len(ordered), ordered[0], ordered[-1])
        assert stated.p50 == ordered[math.ceil(len(ordered) / 2) - 1]
        over = [row_id for row_id, length in lengths.items() if length > 360]
        assert stated.over_limit == len(over)
        assert stated.over_limit_rows == tuple(over[:10])
    assert 0 < tokens.training.over_limit < tokens.training.rows
    assert tokens.base_model == "tiny"
    assert dict(tokens.tokenizer) == dataset.manifest.external_inputs
    finding = next(each for each in card_of(dataset).findings if each.name == "over the length limit")
    assert (finding.count, finding.rows) == (tokens.training.over_limit, tokens.training.over_limit_rows)
    institution.recipe["training"]["sft"] = {"max_length": 2048}
    other, _ = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    assert card_of(other).file == card_of(dataset).file and other.ref.digest != dataset.ref.digest


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    institution = DemoInstitution(tmp_path_factory.mktemp("tokenizer"), minimal_recipe(), [])
    return BaseTokenizer(institution.workplace())


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=20)] * 2), max_size=70))
def test_a_length_is_that_of_the_trainers_own_encoding(
    tokenizer: BaseTokenizer, exchanges: list[tuple[str, str]]
) -> None:
    loaded, ends = tokenizer.loaded
    rows = [{"id": "R-1", "instruction": "", "input": asked, "output": reply} for asked, reply in exchanges]
    assert tokenizer.lengths(rows) == [encode(loaded, "sft", row, sorted(ends)).longest for row in rows]


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 500))
def test_percentiles_are_the_nearest_rank(lengths: list[int], limit: int) -> None:
    counts = TokenCounts(limit)
    for number, length in enumerate(lengths):
        counts.add(str(number), length)
    result = counts.result()
    ordered = sorted(lengths)
    for percent, stated in ((50, result.p50), (90, result.p90), (95, result.p95), (99, result.p99)):
        assert stated == (ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0)
    assert (result.rows, result.over_limit) == (len(lengths), sum(length > limit for length in lengths))


def test_a_tokenizer_that_is_not_the_pinned_one_or_was_not_fetched_is_named(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    path: Path = institution.settings.data / "models" / "tiny" / "tokenizer_config.json"
    content = path.read_text()
    path.write_text(content + " ")
    with pytest.raises(IntegrityError, match=r"tokenizer_config\.json: the file differs from the pinned digest"):
        tokenizer_digests(workplace)
    path.write_text(content)
    (institution.settings.data / "models" / "tiny" / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: this file of the base model tiny") as refused:
        materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert refused.value.remedy == Remedy("fetch_model", {"model": "tiny"})
