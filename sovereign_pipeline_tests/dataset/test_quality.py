"""Findings: each kind planted once is found, with its rows; sound replies in both scripts are left alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document, Role
from sovereign_pipeline.dataset.quality import Finding, Quality, is_clipped, is_in_other_script
from sovereign_pipeline_tests.conftest import letter

ENGLISH = "The lamp at the north pier was mended on Monday and burns again."
ARABIC = "تم إصلاح المصباح عند الرصيف الشمالي يوم الاثنين وهو يعمل الآن كما يجب."


def documents(count: int, **changes: Any) -> list[Document]:
    return [Document(**{"source": "letters", **letter(n, response=ENGLISH), **changes}) for n in range(count)]


def found(rows: list[Document], role: Role = "letters", tokens: int = 10) -> dict[str, Finding]:
    quality = Quality(role, limit=100)
    for row in rows:
        quality.add(row, tokens, is_copy=False)
    return {finding.name: finding for finding in quality.findings()}


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
    ],
)
def test_each_kind_is_found_where_it_was_planted_and_nowhere_else(name: str, changes: dict[str, Any]) -> None:
    rows = documents(20)
    assert not any(finding.warns for finding in found(rows).values())
    rows[7] = rows[7].model_copy(update=changes)
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
        row.model_copy(update=dict(zip(("response", "rejected"), texts[number < longer], strict=True)))
        for number, row in enumerate(documents(of))
    ]


@pytest.mark.parametrize(("longer", "warns"), [(10, True), (8, True), (7, False), (3, False), (2, True), (0, True)])
def test_pairs_in_which_one_side_is_nearly_always_longer(longer: int, warns: bool) -> None:
    finding = found(pairs(longer, 10), "preferences")["chosen is the longer one"]
    assert (finding.count, finding.warns) == (longer, warns)
    assert finding.numbers["median_length_ratio"] == (2.0 if longer > 5 else 0.5)


def test_equal_pairs_are_found() -> None:
    rows = pairs(5, 10)
    rows[3] = rows[3].model_copy(update={"rejected": rows[3].response + " "})
    assert found(rows, "preferences")["chosen equals rejected"].rows == (rows[3].id,)


@pytest.mark.parametrize(("good", "warns"), [(10, True), (9, True), (8, False), (1, True)])
def test_uneven_labels(good: int, warns: bool) -> None:
    rows = [row.model_copy(update={"label": number < good}) for number, row in enumerate(documents(10))]
    assert found(rows, "labels")["labelled good"].warns is warns


def test_a_reply_that_was_turned_down_may_be_clipped() -> None:
    clipped = documents(1, response="We will look into the")
    assert found(clipped)["clipped answers"].count == 1
    assert found([clipped[0].model_copy(update={"label": False})], "labels")["clipped answers"].count == 0


@pytest.mark.parametrize(
    "reply",
    [
        ENGLISH,
        ARABIC,
        "هل تم ذلك؟",
        f"{ENGLISH}\n\nDirector of Lamps\nNAME_1",
        f"{ENGLISH}\n- fee: 5 rials\n- form: 12",
        f"{ENGLISH}\n\nDirector General of Lamps, Buoys and Harbour Lights",
        f'He wrote: "{ENGLISH}"',
        "Yes",
        "",
        "The register lists these nine lamps of the old harbour quay:",
    ],
)
def test_whole_replies_are_not_taken_for_clipped(reply: str) -> None:
    assert not is_clipped(reply)


@pytest.mark.parametrize(
    "reply", ["We mended the", "We mended lamps,", "Mended lam-", "سوف ننظر في", "The fee is (", "أصلحنا المصبـ"]
)
def test_clipped_replies(reply: str) -> None:
    assert is_clipped(reply)


def test_few_letters_or_an_unknown_language_tell_nothing_of_the_script() -> None:
    assert not is_in_other_script("Lamp 12", "ar")
    assert not is_in_other_script(ARABIC, "tlh")
    assert is_in_other_script(ARABIC, "en")
    assert not is_in_other_script(f"{ARABIC} Lamp", "ar")


@given(st.text(max_size=200), st.sampled_from(["en", "ar", "xx"]))
def test_any_text_can_be_looked_at(text: str, language: str) -> None:
    assert is_clipped(text) in (True, False)
    rows = documents(1, response=text, language=language, rejected=text)
    assert all(0 <= finding.share <= 1 for finding in found(rows, "preferences").values())
