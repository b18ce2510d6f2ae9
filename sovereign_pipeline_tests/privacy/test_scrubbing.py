"""Numbering by case, the way back, fail-closed behaviour, and the stage with its gate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Stage, Workplace
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.privacy import canary, detection
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.scrubbing import PLACEHOLDER, ScrubbedCase, Scrubber
from sovereign_pipeline.privacy.stages import FINDINGS, SCRUBBED_CORPUS
from sovereign_pipeline.privacy.vault.vault import read_vault
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.privacy.conftest import document, scrub

# --- numbering -------------------------------------------------------------------------------------------------------


def test_one_value_has_one_placeholder_throughout_a_case_whatever_its_writing(patterns_only: Scrubber) -> None:
    first = document("Civil No. 8765 4321, phone +968 9123 4567. Said Al Busaidi", id="A")
    second = document("Mr Al-Busaidi, civil number ٨٧٦٥٤٣٢١, 91234567", id="B", date="2024-05-01")
    a, b = scrub(patterns_only, first, second).documents
    assert a.request == "Civil No. NID_1, phone PHONE_1. NAME_1"
    assert b.request == "Mr NAME_1, civil number NID_1, PHONE_1"


def test_numbers_follow_date_then_row_then_field_and_rows_keep_their_place(patterns_only: Scrubber) -> None:
    later = document("CR 1111111", id="A", date="2024-06-01")
    same_day = document("CR 3333333", id="B", date="2024-01-01", response="CR 4444444", subject="CR 2222222")
    next_row = document("CR 5555555", id="C", date="2024-01-01")
    documents = scrub(patterns_only, later, same_day, next_row).documents
    assert [each.id for each in documents] == ["A", "B", "C"]
    texts = [text for each in documents for text in each.texts.values() if text]
    assert texts == ["CR CR_5", "CR CR_1", "CR CR_2", "CR CR_3", "CR CR_4"]


def test_the_rejected_reply_is_read_last(patterns_only: Scrubber) -> None:
    scrubbed = scrub(patterns_only, document("CR 1111111", rejected="CR 2222222 and CR 1111111")).documents[0]
    assert scrubbed.rejected == "CR CR_2 and CR CR_1"


def test_cases_cannot_be_linked(patterns_only: Scrubber) -> None:
    one = [document("Ms Solberg, then CR 1111111 and CR 2222222", id="A", case="A/2024/1")]
    two = [document("CR 2222222", id="B", case="B/2024/1")]
    first, second = patterns_only.scrub([one, two])
    assert first.documents[0].request.endswith("CR_2")
    assert second.documents[0].request == "CR CR_1"


def test_the_author_is_replaced_and_known_in_the_text(patterns_only: Scrubber) -> None:
    scrubbed = scrub(patterns_only, document("I spoke with Salma on Sunday.", author="Salma Al Harthi")).documents[0]
    assert scrubbed.author == "NAME_1"
    assert scrubbed.request == "I spoke with NAME_1 on Sunday."


def test_a_value_is_found_again_without_its_label(patterns_only: Scrubber) -> None:
    scrubbed = scrub(
        patterns_only, document("civil number 92345678", response="Bring 92345678. Plate 4521 AB; 4521 AB.")
    )
    assert scrubbed.documents[0].response == "Bring NID_1. Plate PLATE_1; PLATE_1."


def test_an_ambiguous_surname_is_listed_with_its_row(patterns_only: Scrubber) -> None:
    case = scrub(patterns_only, document("Faisal Al Balushi and Marwa Al Balushi. Mr Al Balushi pays.", id="R-9"))
    assert case.documents[0].request == "NAME_1 and NAME_2. Mr NAME_3 pays."
    assert case.ambiguous_rows == ["R-9"]


# --- the way back ----------------------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    [
        "civil number 87654321",
        "Civil No. ٨٧٦٥ ٤٣٢١",
        "Said Al Busaidi",
        "Mr Al-Busaidi",
        "السّيد سعيـد البوسعيدي",
        "\u2067هاتف ٩٢٣٤١١٨٧\u2069",
        "+968\u00a09234\u00a01187",
        "IBAN OM820270310045566770012",
        "a.b@example.om",
        "House 14, Way 3021, Al Khuwair",
        "plate 4521 AB",
        "born on 4 May 1983",
        "PRM/2024/017",
        "OMR 35.500",
    ]
)
TEXTS = st.lists(st.one_of(VALUES, st.text(alphabet="ab Zé.,;()0123456789\nسل\u064b\u200f", max_size=12)), max_size=6)


def restored(case: ScrubbedCase) -> list[dict[str, str]]:
    """Put the originals back, row by row and field by field, in the order of the mapping."""

    def restore(document: Document, name: str, text: str) -> str:
        originals = [
            (row.placeholder, row.original) for row in case.mapping if (row.row, row.field) == (document.id, name)
        ]
        done = ""
        for placeholder, original in originals:
            before, text = text.split(placeholder, 1)
            done += before + original
        return done + text

    return [
        {name: restore(each, name, text) for name, text in {**each.texts, "author": each.author}.items()}
        for each in case.documents
    ]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_scrub_then_reveal_is_the_identity(patterns_only: Scrubber, drawn: list[tuple[list[str], list[str]]]) -> None:
    documents = [
        document(" ".join(request), response=" ".join(response), id=f"R-{number}", author="Salma Al Harthi")
        for number, (request, response) in enumerate(drawn)
    ]
    case = scrub(patterns_only, *documents)
    assert restored(case) == [{**each.texts, "author": each.author} for each in documents]
    again = scrub(patterns_only, *documents)
    assert again == case


# --- fail closed -----------------------------------------------------------------------------------------------------


REGISTRATIONS = st.lists(st.integers(1_000_000, 1_000_009), min_size=1, max_size=5)


@given(st.lists(REGISTRATIONS, min_size=1, max_size=4), st.lists(REGISTRATIONS, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_numbers_are_given_in_reading_order_and_anew_in_every_case(
    patterns_only: Scrubber, first: list[list[int]], second: list[list[int]]
) -> None:
    """What is read n-th as a new value has number n, whatever it is and whatever other cases hold."""
    cases = [
        [
            document(" and ".join(f"CR {number}" for number in numbers), id=f"{name}-{row}", case=name)
            for row, numbers in enumerate(letters)
        ]
        for name, letters in (("A/2024/1", first), ("A/2024/2", second))
    ]
    for letters, scrubbed in zip((first, second), patterns_only.scrub(cases), strict=True):
        order = list(dict.fromkeys(number for numbers in letters for number in numbers))
        for numbers, after in zip(letters, scrubbed.documents, strict=True):
            assert after.request == " and ".join(f"CR CR_{order.index(number) + 1}" for number in numbers)


@given(
    st.lists(st.sampled_from([*"ab1٣ \u0640\u064b\u200f\u00a0é@", "CR 1000001", "٠١٢٣٤٥٦٧٨"]), max_size=25).map("".join)
)
@settings(max_examples=60, deadline=None)
def test_what_is_cut_is_exactly_what_the_vault_keeps(patterns_only: Scrubber, text: str) -> None:
    """Marks, direction signs and foreign digits included: the pieces around the placeholders are the original's."""
    case = scrub(patterns_only, document(text))
    rest, rebuilt = case.documents[0].request, ""
    for row in case.mapping:
        before, _, rest = rest.partition(row.placeholder)
        rebuilt += before + row.original
    assert rebuilt + rest == text


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
    monkeypatch.setattr(detection, "structured_spans", broken_on("xyzzy", detection.structured_spans))
    with pytest.raises(PrivacyError, match="R-2") as stopped:
        scrub(patterns_only, document("fine", id="R-1"), document("with xyzzy", id="R-2"))
    assert "xyzzy" not in str(stopped.value)
    assert stopped.value.__suppress_context__


def test_a_model_that_raises_stops_with_the_row(with_model: Scrubber, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_model.detector._model("en")
    real = model.entities

    def entities(texts: list[str]) -> Any:
        if any("xyzzy" in text for text in texts):
            raise RuntimeError("quotes xyzzy")
        return real(texts)

    monkeypatch.setattr(model, "entities", entities)
    with pytest.raises(PrivacyError, match="R-2") as stopped:
        scrub(with_model, document("fine", id="R-1"), document("with xyzzy", id="R-2"))
    assert "xyzzy" not in str(stopped.value)


def test_a_detector_that_finds_nothing_is_caught_by_the_canary(
    patterns_only: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "structured_spans", lambda text, also=frozenset(): [])
    with pytest.raises(PrivacyError, match=r"canary .* IBAN"):
        scrub(patterns_only, document("nothing here"))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - KEPT_BY_DEFAULT))
def test_a_detector_that_lost_one_kind_is_caught_by_the_canary(
    patterns_only: Scrubber, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def without(detector: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **n: [span for span in detector(*a, **n) if span.kind != kind]

    monkeypatch.setattr(detection, "structured_spans", without(detection.structured_spans))
    monkeypatch.setattr(NamePatterns, "spans", without(NamePatterns.spans))
    monkeypatch.setattr(NamePatterns, "mentions", without(NamePatterns.mentions))
    with pytest.raises(PrivacyError, match="canary"):
        scrub(patterns_only, document("nothing here"))


def test_a_model_that_finds_nobody_is_caught_by_the_canary(
    with_model: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_model.detector._model("en"), "entities", lambda texts: ([] for _ in texts))
    with pytest.raises(PrivacyError, match="found no person in the canary"):
        scrub(with_model, document("nothing here"))


def test_a_recipe_that_hides_the_canary_stops() -> None:
    hiding = Scrubber("lamps", "run", Privacy(name_models={}, keep_words=("العريمي", "سعيد", "راشد")))
    with pytest.raises(PrivacyError, match="canary"):
        scrub(hiding, document("nothing here"))


def test_each_canary_holds_something_of_every_kind(patterns_only: Scrubber) -> None:
    for each in canary.CANARIES:
        text = "\n".join(scrub(patterns_only, each.document).documents[0].texts.values())
        assert {match.group()[:-2] for match in PLACEHOLDER.finditer(text)} == set(KINDS) - KEPT_BY_DEFAULT


# --- the stage -------------------------------------------------------------------------------------------------------


def made(stage: Stage, workplace: Workplace, inputs: dict[str, ArtifactRef]) -> ArtifactRef:
    ref = produce(stage, workplace, inputs).ref
    workplace.store.make_current(workplace.line.line, stage.kind, ref)
    assert all(verdict.passed for verdict in evaluate_gates(stage, workplace, ref).values())
    return ref


def classified(institution: DemoInstitution, workplace: Workplace) -> dict[str, ArtifactRef]:
    raw = made(RAW_CORPUS, workplace, {})
    return {"classified_corpus": made(CLASSIFIED_CORPUS, workplace, {"raw_corpus": raw})}


def add_public_key(workplace: Workplace) -> str:
    identity = pyrage.x25519.Identity.generate()
    workplace.settings.vault_public_key.write_text(f"{identity.to_public()}\n")
    return str(identity)


def test_the_stage_scrubs_and_its_gate_passes(institution: DemoInstitution) -> None:
    institution.rows[3]["request"] = "Civil number 87654321, +968 9123 4567, Said Al Busaidi"
    workplace = institution.workplace()
    key = add_public_key(workplace)
    ref = made(SCRUBBED_CORPUS, workplace, classified(institution, workplace))
    artifact = workplace.store.open(ref)
    documents = list(read_documents(artifact.file(DOCUMENTS)))
    assert documents[3].request == "Civil number NID_1, PHONE_1, NAME_1"
    assert len(documents) == 40
    findings = json.loads(artifact.file(FINDINGS).read_text())
    assert findings["by_language"] == {"en": {"NAME": 41, "NID": 1, "PHONE": 1}}
    assert findings["documents_touched"] == 1
    revealed = {row.original for row in read_vault(workplace.settings.vault, key) if row.run == findings["run"]}
    assert {"87654321", "+968 9123 4567", "Said Al Busaidi"} <= revealed
    home = b"".join(path.read_bytes() for path in workplace.settings.home.rglob("*") if path.is_file())
    assert home.count(b"Busaidi") == 2  # in raw_corpus and classified_corpus alone


def test_without_the_public_key_nothing_is_made(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    inputs = classified(institution, workplace)
    with pytest.raises(PrivacyError, match="sovereign-vault keygen"):
        produce(SCRUBBED_CORPUS, workplace, inputs)


def test_the_gate_finds_an_identifier_that_was_left(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = institution.workplace()
    inputs = classified(institution, workplace)

    def careless(workplace: Workplace, inputs: Any, workspace: Path) -> Built:
        source = read_documents(inputs["classified_corpus"].file(DOCUMENTS))
        planted = {"R-00002": "call ٩١٢٣٤٥٦٧", "R-00005": "IBAN OM820270310045566770012 of a@b.example"}
        write_documents(
            workspace / DOCUMENTS,
            (row.model_copy(update={"response": planted.get(row.id, "ok"), "author": "NAME_1"}) for row in source),
        )
        return Built(summary={"left": 0})

    stage = Stage(
        kind="scrubbed_corpus",
        code_version="x",
        build=careless,
        inputs=(CLASSIFIED_CORPUS,),
        gates=SCRUBBED_CORPUS.gates,
    )
    ref = produce(stage, workplace, inputs).ref
    verdict = evaluate_gates(stage, workplace, ref)["no_identifier_left"]
    assert not verdict.passed
    assert verdict.evidence["left"] == {"EMAIL": 1, "IBAN": 1, "PHONE": 1}
    assert verdict.evidence["rows"] == ["R-00002", "R-00005"]
    assert "OM82" not in verdict.message
