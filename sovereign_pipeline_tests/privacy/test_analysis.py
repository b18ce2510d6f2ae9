"""The own recognizers in an analyzer that is not this project's."""

from typing import Any

import pytest
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NoOpNlpEngine

from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.added_recognizers import ENTITY_OF, KIND_OF
from sovereign_pipeline.privacy.analysis import IdentifierRecognizer, NameRecognizer
from sovereign_pipeline.privacy.scrubbing import CANARIES


@pytest.fixture(params=["en", "ar"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def analyzer_of(language: str) -> AnalyzerEngine:
    registry = RecognizerRegistry(
        [IdentifierRecognizer(language), NameRecognizer(language)], supported_languages=[language]
    )
    engine = NoOpNlpEngine([{"lang_code": language, "model_name": "none"}])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


def found(language: str, text: str, **how: Any) -> list[tuple[str, str]]:
    results = analyzer_of(language).analyze(text, language, **how)
    return sorted((result.entity_type, text[result.start : result.end]) for result in results)


def test_each_kind_has_one_entity_of_its_own() -> None:
    assert list(ENTITY_OF) == list(KINDS)
    assert {KIND_OF[entity]: entity for entity in KIND_OF} == ENTITY_OF


def test_they_find_in_anybodys_analyzer_what_every_canary_holds(language: str) -> None:
    canary = next(each for each in CANARIES if each.language == language)
    results = found(language, canary.document.request)
    for kind, value in canary.planted:
        if value in canary.document.request:
            assert any(entity == ENTITY_OF[kind] and value in text for entity, text in results), (kind, value)


def test_only_what_is_asked_for_is_found() -> None:
    text = "Call +968 9234 1187 or write to hamood@canary.example."
    assert found("en", text, entities=["PHONE_NUMBER"]) == [("PHONE_NUMBER", "+968 9234 1187")]


def test_places_are_those_of_the_text_as_it_was_written() -> None:
    """Folding changes how long a text is; what was found is told by the original."""
    text = "اتصل على ٩٢٣٤١١٨٧ — Mr Hamood Al Araimi, hamood&#64;canary.example, ﬃ, civil number １０４５７８３２."
    results = found("en", text)
    assert ("EMAIL_ADDRESS", "hamood&#64;canary.example") in results
    assert ("OM_CIVIL_NUMBER", "１０４５７８３２") in results
    assert ("PERSON", "Hamood Al Araimi") in results


def test_a_spacy_model_that_presidio_ran_helps_the_names() -> None:
    """Whatever the model takes for a person counts once the word lists have judged it."""
    spacy = pytest.importorskip("spacy")
    from presidio_analyzer.nlp_engine import NlpArtifacts

    words = spacy.blank("en")("Then Quorvan Yestrill told the Ministry of Works.")
    entities = [spacy.tokens.Span(words, 1, 3, label="PERSON"), spacy.tokens.Span(words, 4, 8, label="ORG")]
    artifacts = NlpArtifacts(entities, words, [0], [], None, "en")
    wanted: tuple[Kind, ...] = ("ORGANISATION",)
    recognizer = NameRecognizer("en", also=wanted)
    results = recognizer.analyze(words.text, recognizer.supported_entities, artifacts)
    assert sorted((each.entity_type, words.text[each.start : each.end]) for each in results) == [
        ("ORGANIZATION", "the Ministry of Works"),
        ("PERSON", "Quorvan Yestrill"),
    ]


def test_firms_named_after_people_or_with_a_legal_form_are_bodies_where_bodies_are_wanted() -> None:
    text = "The Saltmarsh, Keane and Brandl Orchestra played; Kelpwick Lamps Ltd and Tamsin Oakes paid."
    wanted: tuple[Kind, ...] = ("ORGANISATION",)
    recognizer = NameRecognizer("en", also=wanted)
    results = recognizer.analyze(text, recognizer.supported_entities)
    assert sorted((each.entity_type, text[each.start : each.end]) for each in results) == [
        ("ORGANIZATION", "Kelpwick Lamps Ltd"),
        ("ORGANIZATION", "Saltmarsh, Keane and Brandl"),
        ("PERSON", "Tamsin Oakes"),
    ]
    alone = NameRecognizer("en")
    assert [text[each.start : each.end] for each in alone.analyze(text, alone.supported_entities)] == ["Tamsin Oakes"]


def test_how_certain_a_finding_is_shows_in_its_score() -> None:
    results = analyzer_of("en").analyze("civil number 10457832, or write to said@canary.example, or 1045/7832", "en")
    scores = {result.entity_type: result.score for result in sorted(results, key=lambda each: each.start)}
    assert scores == {"OM_CIVIL_NUMBER": 0.6, "EMAIL_ADDRESS": 1.0}
