"""Nothing in a conversation escapes the scrub, JSON stays JSON, and the vault gives everything back."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy import preview
from sovereign_pipeline.privacy.detection import texts_of
from sovereign_pipeline.privacy.json_texts import outline_of, readings_of
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.conftest import careless, classified, document, scrub

SCRUBBER = Scrubber("lamps", "run", Privacy(name_models={}, patterns_only=("en", "ar")))
NUMBER = 24681234
Turn = dict[str, Any]


def conversation(*turns: Turn, tools: list[Turn] | None = None, **columns: object) -> Document:
    columns = {**document("").model_dump(exclude={"messages", "request", "response"}), **columns}
    messages = [{"role": "user", "content": "?"}, *turns, {"role": "assistant", "content": "Done."}]
    return Document.model_validate({**columns, "messages": messages, "tools": tools or []})


def call(arguments: Turn) -> Turn:
    return {"role": "assistant", "tool_calls": [{"name": "look", "arguments": arguments}]}


def planted(place: Any, value: str) -> Document:
    """A conversation with a value in place of each VALUE, and a telephone number in place of each NUMBER."""

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {fill(key): fill(each) for key, each in part.items()}
        if isinstance(part, list):
            return [fill(each) for each in part]
        return (
            NUMBER
            if part == "NUMBER"
            else part.replace("VALUE", value).replace("NUMBER", str(NUMBER))
            if isinstance(part, str)
            else part
        )

    filled = fill(place)
    if isinstance(filled, dict):
        return conversation(tools=[{"type": "function", **filled}])
    turns = [{"role": "user", "content": each[0]} if isinstance(each, list) else each for each in filled]
    return conversation(*turns)


def revealed(after: Document, rows: list[MappingRow]) -> Document:
    """Put the originals back, each in place of the next placeholder of its text."""
    texts = after.texts
    for name, text in texts.items():
        pieces, position = [], 0
        for row in (row for row in rows if row.field == name):
            start = text.index(row.placeholder, position)
            pieces += [text[position:start], row.original]
            position = start + len(row.placeholder)
        texts[name] = "".join([*pieces, text[position:]])
    return after.with_texts(texts)


PLACES: dict[str, Any] = dict(examples(__file__, "places"))


@pytest.mark.parametrize(("place", "value"), [*product(PLACES, examples(__file__, "values"))])
def test_a_planted_value_is_gone_and_comes_back(place: str, value: str) -> None:
    before = planted(PLACES[place], value)
    case = scrub(SCRUBBER, before)
    (after,) = case.documents
    stored = json.dumps(after.model_dump(), ensure_ascii=False)
    assert value in json.dumps(before.model_dump(), ensure_ascii=False) or str(NUMBER) in json.dumps(
        before.model_dump()
    )
    assert value not in stored and str(NUMBER) not in stored
    assert {row.placeholder.strip('\\"').split("_")[0] for row in case.mapping} <= {"NAME", "PHONE", "EMAIL", "IBAN"}
    assert outlines(after) == outlines(before)
    assert revealed(after, case.mapping) == before


def outlines(of: Document) -> list[str]:
    return [outline_of(readings_of(of, name, text)[0]) for name, text in of.texts.items()]


@pytest.mark.parametrize(("before", "after"), examples(__file__, "same"))
def test_the_key_is_the_label_of_a_value(before: Turn, after: Turn) -> None:
    given = conversation(call(before), {"role": "tool", "content": json.dumps(before)})
    (scrubbed,) = scrub(SCRUBBER, given).documents
    assert scrubbed.messages[1].tool_calls[0].arguments == after
    assert json.loads(scrubbed.messages[2].content) == after


def test_one_numbering_goes_through_all_turns() -> None:
    (scrubbed,) = scrub(
        SCRUBBER,
        conversation(
            {"role": "user", "content": "I am Salma Al Zadjali, phone 2468 1234."},
            call({"phone": NUMBER}),
            {"role": "tool", "content": '{"owner": "salma al zadjali", "spouse": "Hamood Al Araimi"}'},
            {"role": "user", "content": "Hamood is my husband."},
        ),
    ).documents
    assert [each.as_text for each in scrubbed.messages[1:-1]] == [
        "I am NAME_1, phone PHONE_1.",
        '{"name": "look", "arguments": {"phone": "PHONE_1"}}',
        '{"owner": "NAME_1", "spouse": "NAME_2"}',
        "NAME_2 is my husband.",
    ]


@pytest.mark.parametrize(("parameter", "stays"), [("Salma_Al_Zadjali", True), ("Salma Al Zadjali", False)])
def test_names_of_tools_and_parameters_and_schemas_stay(parameter: str, stays: bool) -> None:
    parameters = {
        "type": "object",
        "properties": {parameter: {"type": "integer", "maximum": 99123456}, "title": {"type": "string"}},
        "required": [parameter],
    }
    tool = {"type": "function", "function": {"name": "ask_Salma_Zadjali", "parameters": parameters}}
    given = conversation(call({parameter: 3}), {"role": "tool", "content": json.dumps({parameter: 5})}, tools=[tool])
    (scrubbed,) = scrub(SCRUBBER, given).documents
    assert scrubbed.tools == given.tools
    key = parameter if stays else "NAME_1"
    assert [each.as_text for each in scrubbed.messages[1:3]] == [
        json.dumps({"name": "look", "arguments": {key: 3}}),
        json.dumps({key: 5}),
    ]


def with_schema(**parameters: Any) -> Document:
    return conversation(tools=[{"type": "function", "function": {"name": "look", "parameters": parameters}}])


IBAN = "OM820270310045566770012"
KEPT = [
    (conversation({"role": "assistant", "tool_calls": [{"name": IBAN}]}), False),
    (conversation({"role": "tool", "name": IBAN, "content": "No."}), False),
    (conversation(tools=[{"type": "function", "function": {"name": f"pay_{IBAN}"}}]), False),
    (with_schema(properties={"Ms Salma Zadjali": {"type": "integer"}}), False),
    (with_schema(properties={"Salma_Zadjali": {"type": "integer"}}), False),
    (with_schema(properties={"of": {"properties": {IBAN: {}}}}), False),
    (with_schema(required=["Ms Salma Zadjali"]), False),
    (with_schema(properties={"a": {"type": "string", "pattern": f"^{IBAN}$"}}), False),
    (with_schema(properties={"a": {"type": "integer", "minimum": 96892341187}}), False),
    (with_schema(properties={"a": {"type": "string", "format": "salma@canary.example"}}), False),
    (with_schema(**{"$id": "salma@canary.example"}), False),
    (with_schema(properties={"a": {"pattern": "^[0-9]{8}$"}, "salma_al_zadjali": {"maximum": 2147483647}}), True),
    (
        with_schema(properties={"a": {"pattern": "^\\+968[0-9]{8}$", "minimum": -10_000_000, "maximum": 99_999_999}}),
        True,
    ),
    (with_schema(properties={"a": {"format": "date"}}, **{"$schema": "http://json-schema.org/draft-07/schema#"}), True),
    (conversation(call({"salma_al_zadjali": 3})), True),
]


def test_the_gate_reads_names_of_tools_and_schemas(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage = careless(lambda source: (row.model_copy(update={"author": "NAME_1"}) for row, _ in KEPT))
    ref = produce(stage, workplace, classified(workplace)).ref
    verdict = evaluate_gates(stage, workplace, ref)["no_identifier_left"]
    assert verdict.evidence["rows"] == [f"line {n}" for n, (_, passes) in enumerate(KEPT, start=1) if not passes]
    assert not verdict.passed and "Salma" not in verdict.message


def test_keys_that_become_equal_stop_with_the_row() -> None:
    arguments = {"Hamood Al Araimi": 1, "Hamood Al-Araimi": 2}
    with pytest.raises(PrivacyError, match="R-5") as stopped:
        scrub(SCRUBBER, conversation(call(arguments), id="R-5"))
    assert "Hamood" not in str(stopped.value)


def test_users_may_sign_their_messages() -> None:
    given = conversation({"role": "assistant", "content": "Sir?"}, {"role": "user", "content": "Yours"}, subject="Fee")
    assert [name for name, text in texts_of(given).items() if text.is_letter] == ["message 1", "message 3"]


PIECES = st.lists(st.sampled_from(examples(__file__, "pieces")), max_size=4).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PIECES,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(PIECES, each, max_size=3),
    max_leaves=8,
)


@given(JSON, st.dictionaries(PIECES, JSON, max_size=3), st.booleans())
@settings(deadline=None, max_examples=30)
def test_any_json_stays_json_and_comes_back(result: Any, arguments: Turn, is_ascii: bool) -> None:
    content = json.dumps(result, ensure_ascii=is_ascii)
    before = conversation(call(arguments), {"role": "tool", "content": content})
    try:
        case = scrub(SCRUBBER, before)
    except PrivacyError as error:
        assert "two keys" in str(error)
        return
    (after,) = case.documents
    assert isinstance(result, (str, int, float, bool, type(None))) or json.loads(after.messages[2].content) is not None
    assert outlines(after) == outlines(before)
    assert revealed(after, case.mapping) == before
    again = (each for name, text in after.texts.items() for each in readings_of(after, name, text))
    assert not [span for each in again for span in SCRUBBER.detector.read_again("en", each).left]


def test_the_preview_shows_each_text_of_a_conversation(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en", "ar"]}
    before = conversation(call({"phone": NUMBER}), {"role": "tool", "content": '{"civil_no": 10457832}'})
    monkeypatch.setattr(preview, "_documents", lambda workplace: [before])
    (row,) = preview.preview(institution.workplace(), 1, 0)
    shown = {
        field.name: (field.after, [field.before[each.start : each.end] for each in field.replaced])
        for field in row.fields
    }
    assert shown["message 2 call 1"] == ('{"phone": "PHONE_1"}', [str(NUMBER)])
    assert shown["message 3"] == ('{"civil_no": "NID_1"}', ["10457832"])
    assert [each.kind for _, each in row.places] == ["PHONE", "NID"]
