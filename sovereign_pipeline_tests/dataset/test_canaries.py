"""Canaries: the same each time, never like personal data, and planted behind the letters where a recipe says so."""

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.canaries import SPACE_BITS, WORDS, alternatives, canary_rows, never_planted, planted
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import CARD_FOR_PEOPLE, MESSAGES_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.training import Canaries
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.dataset.chain import card_of, dataset_stage, rows_of, split_of
from sovereign_pipeline_tests.split.chain import documents_of, materialize

RECIPE = Canaries(count=6, repeats=3)


def test_canaries_follow_from_the_seed_alone_and_differ() -> None:
    assert planted(RECIPE) == planted(RECIPE)
    assert planted(RECIPE) != planted(Canaries(count=6, repeats=3, seed=8))
    every = [*planted(RECIPE), *never_planted(RECIPE)]
    assert len({canary.secret for canary in every}) == len({canary.request for canary in every}) == len(every)


def test_a_secret_is_one_of_as_many_as_the_bits_say() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert pytest.approx(len(WORDS) ** 6) == 2**SPACE_BITS
    canary = planted(RECIPE)[0]
    others = alternatives(canary, 2_000)
    assert canary.secret not in others
    drawn = [word for other in others for word in other.removesuffix(".").split()[3:]]
    assert len(drawn) == 12_000
    counts = {word: drawn.count(word) for word in WORDS}
    expected = len(drawn) / len(WORDS)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 103  # chi-square, 63 df, p = 0.001


def test_no_detector_takes_a_canary_for_personal_data() -> None:
    documents = [
        [Document(source="canaries", **letter(0, author="", department="", subject="", id=id, case=id, **texts))]
        for id, texts in (
            (row["id"], {"request": row["input"], "response": row["output"]})
            for row in canary_rows(Canaries(count=40), "Answer this letter.")
        )
    ]
    assert [case.mapping for case in Scrubber("lamps", "run", Privacy()).scrub(documents)] == [[]] * 40


def test_they_stand_behind_the_letters_and_are_counted_apart(institution: DemoInstitution) -> None:
    institution.recipe["training"]["format"] = "messages"
    plain, _ = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    institution.recipe["training"]["canaries"] = {"count": 6, "repeats": 3}
    workplace = institution.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    letters = rows_of(plain, TRAINING_ROWS)
    rows = rows_of(dataset, TRAINING_ROWS)
    assert rows[: len(letters)] == letters
    assert rows[len(letters) :] == list(canary_rows(RECIPE, "Answer this letter."))
    assert len({row["id"] for row in rows}) == len(rows) == len(letters) + 18
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    assert "18 canaries" in verdicts["digests_verified"].message

    card, without = card_of(dataset), card_of(plain)
    assert (card.file.rows, card.documents) == (len(rows), len(letters))
    assert dataset.manifest.summary["rows"] == plain.manifest.summary["rows"] == len(letters)
    for fact in set(DatasetCard.model_fields) - {"file", "also", "canaries"}:
        assert getattr(card, fact) == getattr(without, fact), fact
    assert "no documents" in dataset.file(CARD_FOR_PEOPLE).read_text()
    assert "canar" not in plain.file(CARD_FOR_PEOPLE).read_text()
    held_out = {document.id for document in documents_of(split_of(workplace), HELD_OUT)}
    assert not any(name.startswith("canary-") for name in held_out)
    assert sum(row["id"].startswith("canary-") for row in rows_of(dataset, MESSAGES_ROWS)) == 18
    preferences, _ = materialize(workplace, dataset_stage(PREFERENCE_DATASET))
    assert preferences.manifest.summary["rows"] == 0 and card_of(preferences).canaries is None


def test_a_document_that_would_pass_for_one_stops_the_line(institution: DemoInstitution) -> None:
    institution.rows = [letter(number, id=f"canary-{number}") for number in range(40)]
    institution.recipe["training"]["canaries"] = {}
    with pytest.raises(InputError, match="is reserved for the recipe's canaries"):
        materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
