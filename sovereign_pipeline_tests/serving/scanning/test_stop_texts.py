"""Stop texts are looked for in what the caller may read."""

import pytest

from sovereign_pipeline.serving.screening import StopTexts
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench
from sovereign_pipeline_tests.serving.scanning.asking import (
    FILLER,
    MAIL,
    PHONE,
    finish_of,
    in_pieces,
    say,
    serve,
    text_of,
)
from sovereign_pipeline_tests.serving.scanning.conftest import Screening


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.security_case(
    "A caller tries stop texts, to learn from where an answer ends what stands behind a placeholder",
    "the engine gets none: they are looked for in what the caller may read",
)
def test_stop_texts_tell_nothing_of_what_is_replaced(
    bench: Bench, client: Client, screening: Screening, stream: bool
) -> None:
    serve(bench, screening, None, "replace")
    bench.engine.words = in_pieces(f"Her phone is {PHONE}. {FILLER * 4}")
    caller = client(bench.token())
    for stop, expected in (
        ("phone is 9", f"Her phone is PHONE_1. {FILLER * 4}"),
        ("quay", f"Her phone is PHONE_1. {FILLER.partition('quay')[0]}"),
        ("dawn. The lamp", f"Her phone is PHONE_1. {FILLER.partition('dawn')[0]}"),
    ):
        answer = say(caller, stream=stream, content="Who?", stop=["nowhere", stop])
        assert (text_of(answer, stream), finish_of(answer, stream)) == (expected, "stop")
    assert {each.sampling.stop for each in bench.engine.asked} == {()}
    bench.screens = screening("replace", "report")
    say(client(bench.token()), stop=["quay"])
    assert bench.engine.asked[-1].sampling.stop == ("quay",)


def test_what_comes_after_a_stop_text_stops_nothing(bench: Bench, client: Client, screening: Screening) -> None:
    serve(bench, screening, None, "stop")
    bench.engine.words = in_pieces(f"It is lit. END Write to {MAIL}.")
    answer = say(client(bench.token()), content="Who?", stop="END")
    assert (text_of(answer, False), finish_of(answer, False)) == ("It is lit. ", "stop")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_how_a_text_is_cut_into_pieces_moves_no_stop_text(size: int) -> None:
    for text, stops, expected in (
        ("a lamp EN END", ["END"], "a lamp EN "),
        ("a lamp EN", ["END"], "a lamp EN"),
        ("aab", ["ab", "b"], "a"),
        ("abcabd", ["abd", "zz"], "abc"),
    ):
        stopping, got = StopTexts(stops), ""
        for piece in in_pieces(text, size):
            got += stopping.feed(piece)
            if stopping.is_found:
                break
        assert got + stopping.end() == expected
