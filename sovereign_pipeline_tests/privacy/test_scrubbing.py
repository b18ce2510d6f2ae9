"""Fail closed: detectors that raise, canaries that survive, placeholders that are there already."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.privacy import scrubbing
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.name_models import Entity, SpacyModel
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import PLACEHOLDER
from sovereign_pipeline_tests.privacy.conftest import document, scrub

STRUCTURED_SPANS = "sovereign_pipeline.privacy.detection.structured_spans"


@pytest.mark.parametrize("text", ["as NAME_3 said", "NID_1", "the IBAN_٢"])
def test_a_document_that_holds_a_placeholder_stops_with_its_row(patterns_only: Scrubber, text: str) -> None:
    with pytest.raises(PrivacyError, match="R-7"):
        scrub(patterns_only, document(text, id="R-7"))


def broken_on(word: str, detector: Callable[..., Any]) -> Callable[..., Any]:
    def detect(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(argument, str) and word in argument for argument in arguments):
            raise ValueError(f"quotes the text: {word}")
        return detector(*arguments, **named)

    return detect


def test_a_detector_that_raises_stops_with_the_row_and_without_text(
    patterns_only: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STRUCTURED_SPANS, broken_on("xyzzy", structured_spans))
    with pytest.raises(PrivacyError, match="R-2") as stopped:
        scrub(patterns_only, document("fine", id="R-1"), document("with xyzzy", id="R-2"))
    assert "xyzzy" not in str(stopped.value)
    assert stopped.value.__suppress_context__


@pytest.mark.slow
def test_a_model_that_raises_stops_with_the_row(with_model: Scrubber, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SpacyModel.entities

    def entities(self: SpacyModel, texts: Sequence[str]) -> Iterator[list[Entity]]:
        if any("xyzzy" in text for text in texts):
            raise RuntimeError("quotes xyzzy")
        return real(self, texts)

    monkeypatch.setattr(SpacyModel, "entities", entities)
    with pytest.raises(PrivacyError, match="R-2") as stopped:
        scrub(with_model, document("fine", id="R-1"), document("with xyzzy", id="R-2"))
    assert "xyzzy" not in str(stopped.value)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - KEPT_BY_DEFAULT))
def test_a_detector_that_lost_one_kind_is_caught_by_the_canary(
    patterns_only: Scrubber, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def without(detector: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **n: [span for span in detector(*a, **n) if span.kind != kind]

    monkeypatch.setattr(STRUCTURED_SPANS, without(structured_spans))
    monkeypatch.setattr(NamePatterns, "spans", without(NamePatterns.spans))
    monkeypatch.setattr(NamePatterns, "mentions", without(NamePatterns.mentions))
    with pytest.raises(PrivacyError, match="canary"):
        scrub(patterns_only, document("nothing here"))


def test_a_recipe_that_hides_the_canary_stops() -> None:
    hiding = Scrubber("lamps", "run", Privacy(name_models={}, keep_words=("العريمي", "سعيد", "راشد")))
    with pytest.raises(PrivacyError, match="canary"):
        scrub(hiding, document("nothing here"))


def test_each_canary_holds_something_of_every_kind(patterns_only: Scrubber) -> None:
    for each in scrubbing.CANARIES:
        text = "\n".join(scrub(patterns_only, each.document).documents[0].texts.values())
        assert {match.group()[:-2] for match in PLACEHOLDER.finditer(text)} == set(KINDS) - KEPT_BY_DEFAULT


def test_cells_that_tabs_part_are_read_as_a_table(patterns_only: Scrubber) -> None:
    text = "Guest\tPassport\tYear of birth\tNights\nS. H.\t1234567\t1984\t3\nR. H.\t7654321\t1990\t2"
    done = scrub(patterns_only, document(text))
    assert done.documents[0].request == (
        "Guest\tPassport\tYear of birth\tNights\n"
        "S. H.\tPASSPORT_1\tDATE_OF_BIRTH_1\t3\nR. H.\tPASSPORT_2\tDATE_OF_BIRTH_2\t2"
    )
    figures = "Year\tPassport\tVisa\n2021\t48213\t12000\n2022\t50117\t13400"
    assert scrub(patterns_only, document(figures)).documents[0].request == figures
