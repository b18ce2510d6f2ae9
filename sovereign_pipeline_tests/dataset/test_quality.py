"""Findings: each kind planted once is found, with its rows; sound replies in both scripts are left alone."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document, Role
from sovereign_pipeline.dataset.quality import Quality, QualityFinding, is_clipped
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.corpus.sources import changed_document
from sovereign_pipeline_tests.examples import examples

ENGLISH = "The lamp at the north pier was mended on Monday and burns again."
ARABIC = "تم إصلاح المصباح عند الرصيف الشمالي يوم الاثنين وهو يعمل الآن كما يجب."


ENDINGS = json.loads(Path(__file__).with_name("endings.json").read_text(encoding="utf-8"))


def test_whole_and_clipped_replies_are_told_apart() -> None:
    assert not [reply for reply in ENDINGS["whole"] if is_clipped(reply)]
    assert not [reply for reply in ENDINGS["clipped"] if not is_clipped(reply)]


def test_an_ellipsis_is_the_end_of_a_clipped_reply_whatever_closes_behind_it() -> None:
    texts = ("We mended the lamp at the nor", "Mended", "أصلحنا المصباح عند الرص")
    replies = map("".join, itertools.product(texts, ENDINGS["ellipses"], ENDINGS["behind an ellipsis"]))
    assert not [reply for reply in replies if not is_clipped(reply)]


def test_a_note_that_the_text_goes_on_is_the_end_of_a_clipped_reply() -> None:
    replies = [f"{text} {note}" for text in (ENGLISH, ARABIC) for note in ENDINGS["notes"]]
    assert not [reply for reply in replies if not is_clipped(reply) or not is_clipped(f"<p>{reply}</p> ")]


def test_two_dots_are_an_ellipsis_in_arabic_and_a_slip_elsewhere() -> None:
    assert is_clipped("وسوف ننظر في طلبكم ..")
    assert not is_clipped("We mended the lamp..")


@pytest.mark.parametrize("piece", [">", "<p>", ".", " ", "<", "(", "a>", "&gt;"])
def test_a_long_tail_costs_no_time(piece: str) -> None:
    before = time.process_time()
    is_clipped("Mended" + piece * 300_000)
    assert time.process_time() - before < 10


def documents(count: int, **changes: Any) -> list[Document]:
    return [Document(**{"source": "letters", **letter(n, response=ENGLISH), **changes}) for n in range(count)]


def found(rows: list[Document], role: Role = "letters", tokens: int = 10) -> dict[str, QualityFinding]:
    quality = Quality(role, limit=100)
    for row in rows:
        quality.add(row, tokens, is_copy=False)
    return {finding.name: finding for finding in quality.findings()}


def turns(*replies: str, result: str = "5", **changes: Any) -> list[dict[str, Any]]:
    """Return a conversation with these replies. changes: of all replies but the last."""
    call: dict[str, Any] = {"role": "assistant", "tool_calls": [{"name": "burns", "arguments": {"lamp": 5}}]}
    before = [call, {"role": "tool", "content": result}]
    replies_ = [{"role": "assistant", "content": reply, **changes} for reply in replies[:-1]]
    return [{"role": "user", "content": ENGLISH}, *before, *replies_, {"role": "assistant", "content": replies[-1]}]


def test_what_no_model_learns_in_a_conversation_is_left_alone() -> None:
    rows = documents(20)
    rows[7] = changed_document(rows[7], {"messages": turns("", "See the", ENGLISH, weight=0)})
    assert not any(finding.warns for finding in found(rows).values())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("empty answers", {"response": "  "}),
        ("near-empty answers", {"response": "See file."}),
        ("clipped answers", {"response": "The lamp at the north pier was mended on Monday and bur"}),
        ("clipped answers", {"response": "تم إصلاح المصباح عند الرصيف الشمالي يوم الاثنين وهو يع", "language": "ar"}),
        ("HTML left in", {"response": ENGLISH.replace("was", "<b>was</b>")}),
        ("HTML left in", {"request": "Salt &amp; water got into it."}),
        ("other script than the language's", {"response": ARABIC}),
        ("other script than the language's", {"request": ENGLISH, "response": ENGLISH, "language": "ar"}),
        ("empty answers", {"messages": turns("", ENGLISH)}),
        ("near-empty answers", {"messages": turns("See file.", ENGLISH)}),
        ("clipped answers", {"messages": turns("The lamp at the north pier was mended on Monday and bur", ENGLISH)}),
        ("HTML left in", {"messages": turns(ENGLISH, ENGLISH, result='{"note": "Salt &amp; water"}')}),
        ("other script than the language's", {"messages": turns(ARABIC, ENGLISH)}),
        ("other script than the language's", {"messages": turns(ENGLISH, ENGLISH, result=json.dumps([ARABIC]))}),
    ],
)
def test_each_kind_is_found_where_it_was_planted_and_nowhere_else(name: str, changes: dict[str, Any]) -> None:
    rows = documents(20)
    assert not any(finding.warns for finding in found(rows).values())
    rows[7] = changed_document(rows[7], changes)
    warned = {finding.name: finding for finding in found(rows).values() if finding.warns}
    assert name in warned
    assert (warned[name].count, warned[name].share, warned[name].rows) == (1, 0.05, (rows[7].id,))
    assert warned[name].todo


def test_only_the_first_ten_rows_are_named() -> None:
    finding = found(documents(25, response=""))["empty answers"]
    assert (finding.count, finding.share) == (25, 1.0)
    assert finding.rows == tuple(f"R-{number:05d}" for number in range(10))


def test_rows_near_and_over_the_limit() -> None:
    for tokens, near, over in ((90, 0, 0), (91, 1, 0), (100, 1, 0), (101, 0, 1)):
        findings = found(documents(1), tokens=tokens)
        assert findings["near the length limit"].count == near
        assert findings["over the length limit"].count == over


def test_copies_are_counted() -> None:
    quality = Quality("letters", limit=100)
    for number, row in enumerate(documents(4)):
        quality.add(row, 10, is_copy=number > 1)
    assert quality.findings()[0].name == "exact duplicates"
    assert quality.findings()[0].rows == ("R-00002", "R-00003")


def pairs(longer: int, of: int) -> list[Document]:
    texts = {True: (ENGLISH * 2, ENGLISH), False: (ENGLISH, ENGLISH * 2)}
    return [
        changed_document(row, dict(zip(("response", "rejected"), texts[number < longer], strict=True)))
        for number, row in enumerate(documents(of))
    ]


@pytest.mark.parametrize(("longer", "warns"), [(10, True), (8, True), (7, False), (3, False), (2, True), (0, True)])
def test_pairs_in_which_one_side_is_nearly_always_longer(longer: int, warns: bool) -> None:
    finding = found(pairs(longer, 10), "preferences")["chosen is the longer one"]
    assert (finding.count, finding.warns) == (longer, warns)
    assert finding.numbers["median_length_ratio"] == (2.0 if longer > 5 else 0.5)


def test_equal_pairs_are_found() -> None:
    rows = pairs(5, 10)
    rows[3] = changed_document(rows[3], {"rejected": rows[3].response + " "})
    assert found(rows, "preferences")["chosen equals rejected"].rows == (rows[3].id,)


@pytest.mark.parametrize(("good", "warns"), [(10, True), (9, True), (8, False), (1, True)])
def test_uneven_labels(good: int, warns: bool) -> None:
    rows = [row.model_copy(update={"label": number < good}) for number, row in enumerate(documents(10))]
    assert found(rows, "labels")["labelled good"].warns is warns


def test_a_reply_that_was_turned_down_may_be_clipped() -> None:
    clipped = documents(1, response="We will look into the")
    assert found(clipped)["clipped answers"].count == 1
    assert found([clipped[0].model_copy(update={"label": False})], "labels")["clipped answers"].count == 0


def preferences(*rows: tuple[str, str, str]) -> list[Document]:
    """Pairs of request, chosen and rejected reply."""
    return [
        changed_document(row, {"subject": "", "request": request, "response": chosen, "rejected": rejected})
        for row, (request, chosen, rejected) in zip(documents(len(rows)), rows, strict=True)
    ]


LAMPS, BUOYS, FEES = "The lamp is mended.", "The buoy is at its place.", "The fee is nine rials."


SAME = ("Which one?", LAMPS, BUOYS)
CONTRADICTIONS: dict[str, tuple[list[tuple[str, str, str]], list[int]]] = {
    "another says the opposite, in another spelling": (
        [
            SAME, ("Which one?", LAMPS, FEES), ("which  ONE", BUOYS.upper(), f"«{LAMPS}»"),
            ("Which other one?", BUOYS, LAMPS), ("Which one?", FEES, FEES),
        ],
        [0, 2],
    ),
    "circles, each beside its own": (
        [
            SAME, ("أيها؟", "تم الإصلاح", "لم يتم الإصلاح"), ("Which one?", BUOYS, FEES), ("Which one?", FEES, LAMPS),
            ("أيّها؟", "لم يتم الاصلاح", "تمّ الإصلاح"), ("Which one?", LAMPS, "Nothing was done about it."),
        ],
        [0, 2, 3, 1, 4],
    ),
    "other marks alone": ([("Which one?", "a + b", "a * b"), ("Which one?", "A * B", "A + B")], [0, 1]),
    "a chain, and copies": ([SAME, ("Which one?", BUOYS, FEES), *[("Which one?", LAMPS, FEES)] * 2], []),
}  # fmt: skip
"""What the pairs are -> request, chosen and rejected of each, and the numbers of those that contradict others."""


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_pairs_that_contradict_others_are_found(name: str) -> None:
    given, expected = CONTRADICTIONS[name]
    rows = preferences(*given)
    finding = found(rows, "preferences")["contradicting preferences"]
    assert (finding.count, finding.rows) == (len(expected), tuple(rows[number].id for number in expected))
    assert finding.warns is bool(expected)


def test_one_reply_with_both_labels_contradicts_itself() -> None:
    rows = [
        changed_document(row, {"label": number != 2, "request": "Which?"}) for number, row in enumerate(documents(4))
    ]
    rows = [
        changed_document(row, {"subject": "", "response": LAMPS if number else BUOYS})
        for number, row in enumerate(rows)
    ]
    finding = found(rows, "labels")["contradicting preferences"]
    assert (finding.count, finding.rows) == (3, tuple(row.id for row in rows[1:]))


def test_near_empty_rejected_replies() -> None:
    rows = preferences(
        ("Which?", LAMPS, "No."), ("Which?", LAMPS, "…"), ("Which?", LAMPS, "It is so."), ("Which?", LAMPS, " ")
    )
    assert found(rows, "preferences")["near-empty rejected replies"].rows == (rows[0].id, rows[1].id)
    labelled = documents(1, response="No.", label=False)
    findings = found(labelled, "labels")
    assert (findings["near-empty rejected replies"].count, findings["near-empty answers"].count) == (1, 0)


@pytest.mark.parametrize(("reply", "is_near_empty"), examples(__file__, "words_are_what_stands_between_blanks"))
def test_words_are_what_stands_between_blanks(reply: str, is_near_empty: bool) -> None:
    assert found(documents(1, response=reply))["near-empty answers"].count == is_near_empty


def test_what_is_found_in_pairs_is_not_looked_for_in_letters() -> None:
    assert {"contradicting preferences", "near-empty rejected replies"}.isdisjoint(found(documents(1)))


@given(st.text(max_size=200), st.sampled_from(["en", "ar", "xx"]))
def test_any_text_can_be_looked_at_quality(text: str, language: str) -> None:
    rows = documents(1, response=text, language=language, rejected=text)
    assert all(0 <= finding.share <= 1 for finding in found(rows, "preferences").values())
