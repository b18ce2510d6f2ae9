"""Personal data in what passes: counted, replaced or stopped, whole and in pieces."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pyrage
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import BadRequestError, OpenAI

from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.serving.gateway.stores import Answered, Rated, digest_of_answer, read_hour
from sovereign_pipeline.serving.rated_answers import JournalCopy, open_transcripts, preferences_of
from sovereign_pipeline.serving.scanning import MOST_CHARACTERS
from sovereign_pipeline.serving.screening import PuttingBack, SentTexts, with_originals
from sovereign_pipeline.serving.transcripts import Transcript, sealed_in, unseal
from sovereign_pipeline_tests.base_models.test_tool_form import HERMES, write_calls
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, answered_in, ask
from sovereign_pipeline_tests.serving.scanning.conftest import (
    FILLER,
    MAIL,
    NAME,
    PERSONAL,
    PHONE,
    SENT,
    Screening,
    Searched,
    finish_of,
    in_pieces,
    say,
    text_of,
)


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_gets_placeholders_and_the_caller_their_own_text_back(gateway: Searched, stream: bool) -> None:
    bench = gateway.searching("replace", None)
    bench.engine.words = in_pieces("NAME_1 is heard, NAME_2 is not. Write to EMAIL_1 or to PHONE_1")
    caller = gateway.caller()
    answer = say(caller, stream=stream)
    (asked,) = bench.engine.asked
    content = asked.messages[0]["content"]
    assert content.startswith("Answer politely.") and not [each for each in PERSONAL if each in content]
    assert "Ms NAME_1 asks for a lamp" in content and "PHONE_1, her mail EMAIL_1" in content
    assert text_of(answer, stream) == f"{NAME} is heard, NAME_2 is not. Write to {MAIL} or to {PHONE}"
    page = caller.get("/metrics").text
    for kind in ("NAME", "PHONE", "EMAIL"):
        labels = f'adapter="lamps-1.0.0",kind="{kind}",line="lamps",where="request"'
        assert f"sovereign_gateway_personal_data_total{{{labels}}} 1.0" in page
    if not stream:
        (file,) = bench.journal.glob("*.jsonl")
        (noted,) = answered_in(file)
        sent = [{"role": "user", "content": f"Answer politely.\n\n{SENT}"}]
        id = answer.json()["id"][9:]
        assert noted.digest == digest_of_answer(id, "lamps-1.0.0", sent, text_of(answer, stream))
    written = b"".join(path.read_bytes() for path in bench.directory.rglob("*") if path.is_file())
    assert not [each for each in PERSONAL if each.encode() in written]


def test_a_transcript_has_placeholders_beside_what_they_stood_for(gateway: Searched) -> None:
    bench = gateway.searching("replace", "replace")
    key = gateway.keeping_transcripts(preferences=True)
    bench.engine.words = in_pieces("NAME_1 is heard, Mr Hamood Al-Kindi is not.")
    caller = gateway.caller()
    answer = say(caller).json()
    assert answer["choices"][0]["message"]["content"] == f"{NAME} is heard, Mr NAME_2 is not."
    assert caller.post("/v1/feedback", json={"id": answer["id"], "thumb": "up"}).status_code == 200
    (hour,) = bench.journal.glob("*.jsonl")
    noted, _ = read_hour(hour)
    transcripts = {each.transcript: hour.stem for each in noted if isinstance(each, Answered) and each.transcript}
    ratings = {each.rating: each.given for each in noted if isinstance(each, Rated)}
    journal = JournalCopy(transcripts, ratings, frozenset(), 0, "")
    opened = open_transcripts(bench.directory / "transcripts", LINE, key, journal)
    (kept,) = opened.transcripts
    assert kept.messages[0].content == "Ms NAME_1 asks for a lamp. Her phone is PHONE_1, her mail EMAIL_1."
    assert kept.answer == "NAME_1 is heard, Mr NAME_2 is not."
    assert kept.originals == {"NAME_1": NAME, "PHONE_1": PHONE, "EMAIL_1": MAIL}
    made = preferences_of(opened, "labels")
    assert made.left_out == {"a placeholder without an original": 1} and not made.rows
    rated = kept.model_copy(update={"answer": "NAME_1 is heard."})
    (row,) = preferences_of(replace(opened, transcripts=(rated,)), "labels").rows
    assert (row.request, row.response) == (SENT, f"{NAME} is heard."), "a source is scrubbed from what was written"


TOOL = {"name": "find_permit", "description": f"Ask {MAIL} too.", "parameters": {"type": "object", "properties": {}}}
CALLED: Any = [
    {"role": "user", "content": "Is it granted?"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "function": {"name": "find_permit", "arguments": f'{{"phone": "{PHONE}"}}'}}],
    },
    {
        "role": "tool",
        "tool_call_id": "c1",
        "content": json.dumps({"of": f"Ms {NAME}", "note": "سراج مكسور", "civil_number": 12345678}),
    },
]


@pytest.mark.security_case(
    "Personal data is in the arguments of a call, in a tool's result or in a tool's description; and an answer puts it "
    "into the arguments of a call",
    "treated as in texts: placeholders, a rejected request, or an answer without the call",
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rule", ["replace", "stop"])
def test_tools_carry_no_personal_data_past_the_search(gateway: Searched, rule: Any, stream: bool) -> None:
    def written(arguments: dict[str, Any]) -> None:
        bench.engine.words = in_pieces(write_calls(HERMES, [ToolCall(name="find_permit", arguments=arguments)]))

    bench = gateway.searching(rule, rule)
    bench.engine.form = HERMES
    tools = [{"type": "function", "function": TOOL}]
    written({"mail": "EMAIL_1", "to": ["omar@elsewhere.example"]})
    caller = gateway.caller()
    answer = ask(caller, messages=CALLED, tools=tools, stream=stream)
    if rule == "stop":
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "content_filter"
        clean = {**TOOL, "description": "Find it."}
        answer = ask(caller, messages=CALLED[:1], tools=[{"type": "function", "function": clean}], stream=stream)
        assert "find_permit" not in answer.text and "omar" not in answer.text
        assert finish_of(answer, stream) == "content_filter"
        return
    (asked,) = bench.engine.asked
    seen = json.dumps([asked.messages, asked.tools], ensure_ascii=False)
    assert not [each for each in PERSONAL if each in seen]
    assert json.loads(asked.messages[2]["content"]) == {
        "of": "Ms NAME_1",
        "note": "سراج مكسور",
        "civil_number": "NID_1",
    }
    assert asked.messages[1]["tool_calls"][0]["function"]["arguments"] == {"phone": "PHONE_1"}
    assert "omar" not in answer.text and "EMAIL_2" in answer.text, "of others"
    assert MAIL in answer.text, "the caller's own is put back"


def with_property(name: str, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {name: {"type": "string", **more}}}
    return {"type": "function", "function": {"name": "find_permit", "parameters": parameters}}


@pytest.mark.parametrize("rule", ["replace", "stop"])
@pytest.mark.parametrize(
    ("sent", "kinds"),
    [
        ({"tools": [{"type": "function", "function": {"name": "pay_AE070331234567890123456"}}]}, ["IBAN"]),
        ({"tools": [with_property(f"Ms {NAME}")]}, ["NAME"]),
        ({"tools": [with_property("to", pattern=f"^{MAIL}$")]}, ["EMAIL"]),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {MAIL: {}}}}}},
            ["EMAIL"],
        ),
        ({"messages": [*CALLED[:1], {"role": "tool", "tool_call_id": "1", "content": "", "name": f"Ms {NAME}"}]}, None),
        (
            {
                "messages": [
                    *CALLED[:1],
                    {"role": "tool", "tool_call_id": "1", "content": "", "name": "phone_96892341187"},
                ]
            },
            ["PHONE"],
        ),
        ({"tools": [with_property("phone_number", format="date")]}, []),
    ],
)
def test_names_carry_no_personal_data_past_the_search(
    gateway: Searched, rule: Any, sent: dict[str, Any], kinds: list[str] | None
) -> None:
    bench = gateway.searching(rule, None)
    bench.engine.form = HERMES
    answer = ask(gateway.caller(), **{"messages": CALLED[:1], **sent})
    assert len(bench.engine.asked) == (kinds == []) == (answer.status_code == 200), answer.text
    if kinds is None:
        assert answer.json()["error"]["param"] == "messages.1.name"
    elif kinds:
        assert f"({', '.join(kinds)})" in answer.json()["error"]["message"]


def test_grammar_and_transcript_have_placeholders_of_the_callers_own(gateway: Searched) -> None:
    bench = gateway.searching("replace", "replace")
    bench.engine.form, key = HERMES, gateway.keeping_transcripts()
    for written in ("EMAIL_1", MAIL):
        bench.engine.words = [write_calls(HERMES, [ToolCall(name="find_permit", arguments={"to": written})])]
        answer = ask(gateway.caller(), messages=CALLED[:1], tools=[with_property("to", enum=[MAIL])])
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"to": MAIL}
    assert "EMAIL_1" in bench.engine.asked[-1].grammar and MAIL not in bench.engine.asked[-1].grammar
    (file,) = (bench.directory / "transcripts").rglob("*.sealed")
    identity = pyrage.x25519.Identity.from_str(key)
    for sealed in sealed_in(file.read_bytes())[0]:
        kept = unseal(sealed, identity)
        assert isinstance(kept, Transcript) and kept.originals == {"EMAIL_1": MAIL}
        assert [each.arguments for each in kept.calls] == [{"to": "EMAIL_1"}]


def test_placeholders_that_the_caller_wrote_are_not_taken_for_others(gateway: Searched) -> None:
    bench = gateway.searching("replace", None)
    bench.engine.words = ["NAME_1, NAME_2 and NAME_12."]
    answer = gateway.say(content=f"NAME_1 wrote to Ms {NAME}. PHONE_{PHONE.replace(' ', '')}")
    assert "NAME_1 wrote to Ms NAME_2. PHONE_PHONE_1" in bench.engine.asked[0].messages[0]["content"]
    assert text_of(answer, False) == f"NAME_1, {NAME} and NAME_12."


ORIGINALS = {"NAME_1": "Layla", "NAME_12": "Omar", "EMAIL_1": MAIL}
PARTS = ["NAME_1", "NAME_12", "NAME_123", "EMAIL_1", "NAME_", "NAME", "_", "1", "2", "N", "X", "x", " ", "ز", "X" * 40]


@given(pieces=st.lists(st.sampled_from(PARTS), max_size=9))
@example(["_", "NAME_1", "_"])
@example(["X" * 40, "NAME_1"])
def test_how_an_answer_is_cut_does_not_decide_what_is_put_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    for cut in (pieces, [*text]):
        putting = PuttingBack(dict(ORIGINALS))
        assert "".join(map(putting.feed, cut)) + putting.end() == with_originals(text, ORIGINALS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.security_case(
    "An adapter answers with another person's data, in pieces of three characters", "placeholders are sent"
)
def test_an_answer_has_placeholders_for_what_the_caller_did_not_give(gateway: Searched, stream: bool) -> None:
    bench = gateway.searching(None, "replace")
    bench.engine.words = in_pieces(f"{FILLER * 3}Ms {NAME} has {PHONE} and {MAIL}. {FILLER * 5}Ask Mr Hamood Al-Kindi.")
    caller = gateway.caller()
    answer = say(caller, stream=stream, content="Who asked about Mr Hamood Al-Kindi?")
    text = text_of(answer, stream)
    assert not [each for each in PERSONAL if each in answer.text]
    assert text == f"{FILLER * 3}Ms NAME_1 has PHONE_1 and EMAIL_1. {FILLER * 5}Ask Mr Hamood Al-Kindi."
    assert finish_of(answer, stream) == "stop"
    assert 'kind="NAME",line="lamps",where="answer"} 1.0' in caller.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.security_case(
    "An adapter answers with personal data, and the line stops such answers",
    "the answer ends before it with finish_reason content_filter, and the engine is stopped",
)
def test_an_answer_ends_before_what_is_found(gateway: Searched, stream: bool) -> None:
    bench = gateway.searching("replace", "stop")
    gateway.keeping_transcripts()
    bench.engine.words = in_pieces(f"{FILLER * 3}NAME_1: {MAIL}. {FILLER * 20}")
    answer = gateway.say(stream=stream, content=f"Whom may Ms {NAME} ask?")
    assert text_of(answer, stream) == f"{FILLER * 3}{NAME}: "
    assert finish_of(answer, stream) == "content_filter"
    assert bench.engine.given_up == 1 and bench.engine.running == 0
    assert not list((bench.directory / "transcripts").rglob("*.sealed")), "preferences would be made of a piece"


def test_personal_data_in_a_request_that_is_stopped_reaches_no_engine(gateway: Searched, running: Any) -> None:
    bench = gateway.searching("stop", None)
    with (
        OpenAI(base_url=f"{running().url}/v1", api_key=bench.token(), max_retries=0) as asking,
        pytest.raises(BadRequestError) as refused,
    ):
        asking.chat.completions.create(model=LINE, messages=[{"role": "user", "content": SENT}])
    assert refused.value.code == "content_filter" and "EMAIL, NAME, PHONE" in refused.value.message
    assert not bench.engine.asked and not [each for each in PERSONAL if each in str(refused.value)]
    long = gateway.say(content="lamp " * (MOST_CHARACTERS // 5 + 1))
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert not bench.engine.asked
    assert gateway.say(content="Is the lamp lit?").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_only_counted_passes_as_it_is(gateway: Searched, stream: bool) -> None:
    bench = gateway.searching("report", "report")
    bench.engine.words = in_pieces(f"Write to {MAIL} or to others@coast.example.")
    caller = gateway.caller()
    assert text_of(say(caller, stream=stream), stream) == "".join(bench.engine.words)
    assert bench.engine.asked[0].messages[0]["content"].endswith(SENT)
    page = caller.get("/metrics").text
    assert 'kind="EMAIL",line="lamps",where="request"} 1.0' in page
    assert 'kind="EMAIL",line="lamps",where="answer"} 1.0' in page, "the caller's own is no disclosure"


def test_parts_of_a_value_in_the_request_do_not_let_it_pass(gateway: Searched) -> None:
    bench = gateway.searching(None, "replace")
    caller = gateway.caller()
    for asked, written in (
        ("Is it Salma, of the Zadjali family?", f"Ms {NAME}"),
        ("A number such as 9234, or 1187.", PHONE),
        (f"Somebody at {MAIL.partition('@')[2]}", MAIL),
    ):
        bench.engine.words = [f"It is {written}."]
        assert written not in say(caller, content=asked).text


@pytest.mark.parametrize("size", [1, 10_000])
def test_how_an_answer_is_cut_into_pieces_does_not_matter(screening: Screening, size: int) -> None:
    text = f"{FILLER * 2}Ms {NAME}, {MAIL}, phone {PHONE}. {FILLER * 9}His IBAN is OM81 0180 0000 0129 9123 456. "
    screen = screening(None, "replace").of(LINE, SentTexts([{"role": "user", "content": "Who?"}]))

    async def passed() -> str:
        return "".join([await screen.take(each) for each in in_pieces(text * 2, size)]) + await screen.end()

    got = asyncio.run(passed())
    plain = text.replace(NAME, "NAME_1").replace(MAIL, "EMAIL_1").replace(PHONE, "PHONE_1")
    assert got == plain.replace("OM81 0180 0000 0129 9123 456", "IBAN_1") * 2
    assert screen.in_answer == {"NAME": 1, "EMAIL": 1, "PHONE": 1, "IBAN": 1}


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"text": "IBAN:\nAE070331234567890123456"}, {"text": "IBAN:\nIBAN_1"}),
        ({"text": 'He said "Ref\nA1234567 is the passport"'}, {"text": 'He said "Ref\nPASSPORT_1 is the passport"'}),
        ({"text": f"Applicant:\n\tMs {NAME}\nBorn"}, {"text": "Applicant:\n\tMs NAME_1\nBorn"}),
        ({"phone": 96892341187}, {"phone": "PHONE_1"}),
    ],
)
def test_json_is_searched_behind_its_escapes_and_stays_json(
    screening: Screening, written: dict[str, Any], expected: dict[str, Any], size: int
) -> None:
    sent = SentTexts([{"role": "user", "content": "Who?"}], (), {"type": "object"})

    async def passed(text: str) -> str:
        screen = screening(None, "replace").of(LINE, sent)
        return "".join([await screen.take(each) for each in in_pieces(text, size)]) + await screen.end()

    for more in ({}, {"more": FILLER * 4}):
        assert json.loads(asyncio.run(passed(json.dumps(written | more)))) == expected | more


@pytest.mark.security_case(
    "A caller uses max_tokens to cut an answer within a number or an address, before it can be recognised",
    "none of it is sent",
)
def test_an_answer_that_is_cut_holds_no_piece_of_an_identifier(gateway: Searched) -> None:
    bench = gateway.searching(None, "replace")
    bench.engine.ends_for = "length"
    bench.limits = {"requests_per_minute": 1e6}
    caller = gateway.caller()
    before = "The lamp is lit. Just try "
    for length in range(len(before), len(before + PHONE)):
        bench.engine.words = [f"{before}{PHONE}"[:length]]
        answer = say(caller, content="Whom?")
        assert (text_of(answer, False), finish_of(answer, False)) == (before, "length")
    for written, expected in ((PHONE, "PHONE_1"), ("the quay off", "the quay off"), ("salma.zad", "")):
        bench.engine.words = [before + written]
        assert text_of(say(caller, content="Whom?"), False) == before + expected
    bench.engine.ends_for, bench.engine.words = "stop", [f"{before}9234"]
    assert text_of(say(caller, content="Whom?"), False) == f"{before}9234"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.security_case(
    "A caller uses stop sequences to find out the text behind a placeholder",
    "the engine gets none of them; they are applied to the text that the caller may read",
)
def test_stop_texts_tell_nothing_of_what_is_replaced(gateway: Searched, stream: bool) -> None:
    bench = gateway.searching(None, "replace")
    bench.engine.words = in_pieces(f"Her phone is {PHONE}. {FILLER * 4}")
    caller = gateway.caller()
    for stop, expected in (
        ("phone is 9", f"Her phone is PHONE_1. {FILLER * 4}"),
        ("quay", f"Her phone is PHONE_1. {FILLER.partition('quay')[0]}"),
        ("dawn. The lamp", f"Her phone is PHONE_1. {FILLER.partition('dawn')[0]}"),
    ):
        answer = say(caller, stream=stream, content="Who?", stop=["nowhere", stop])
        assert (text_of(answer, stream), finish_of(answer, stream)) == (expected, "stop")
    assert {each.sampling.stop for each in bench.engine.asked} == {()}
    gateway.searching(None, "stop")
    bench.engine.words = in_pieces(f"It is lit. END Write to {MAIL}.")
    answer = gateway.say(stream=stream, content="Who?", stop="END")
    assert (text_of(answer, stream), finish_of(answer, stream)) == ("It is lit. ", "stop"), (
        "what comes after is not sent"
    )
    gateway.searching("replace", "report")
    gateway.say(stop=["quay"])
    assert bench.engine.asked[-1].sampling.stop == ("quay",)
