"""The end of a reply: what breaks off is found in either script, whatever closes behind it; whole replies are not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.dataset.endings import is_clipped

ENGLISH = "The lamp at the north pier was mended on Monday and burns again."
ARABIC = "تم إصلاح المصباح عند الرصيف الشمالي يوم الاثنين وهو يعمل الآن كما يجب."


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
        f"<p>{ENGLISH}</p><p> </p>",
        "The lamps at the north pier are mended, as is said at https://harbour.example/lamps",
        "Signed ..........................",
        "It was cold ... and yet the lamp burns.",
        "The lamp... it was mended.",
        f"{ENGLISH}.",
        "He continued",
        f"{ENGLISH} 😊",
        "The poem that you ask about has, in all its parts, 12 lines.",
        "The poem has a motto, 12 lines",
        "The poem (12 lines)",
        "The lamp of the north pier, as is written there, was mended on Monday. More will follow.",
        "Work at the north pier continued.",
        "الباب مفتوح للجميع والعمل مستمر.",
    ],
)
def test_whole_replies_are_not_taken_for_clipped(reply: str) -> None:
    assert not is_clipped(reply)


@pytest.mark.parametrize(
    "reply", ["We mended the", "We mended lamps,", "Mended lam-", "سوف ننظر في", "The fee is (", "أصلحنا المصبـ"]
)
def test_clipped_replies(reply: str) -> None:
    assert is_clipped(reply)


ENDS = ["...", "…", " ...", " . . .", "....", "．．．", "⋯", "‥.", "&hellip;", "\u200e..."]
BEHIND = [
    "",
    '"',
    "”",
    "’ ",
    ")",
    "]",
    " »",
    "**",
    "</p>",
    "</p><p>&nbsp;</p>",
    "\n\n",
    "\u00a0",
    "\u200f",
    "\u202c \ufeff",
    '")</b>\n',
]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("text", ["We mended the lamp at the nor", "Mended", "أصلحنا المصباح عند الرص"])
def test_an_ellipsis_is_the_end_of_a_clipped_reply_whatever_closes_behind_it(text: str, end: str, behind: str) -> None:
    assert is_clipped(text + end + behind)


@pytest.mark.parametrize(
    "note",
    [
        "(continued)",
        "[Continued]",
        "(cont.)",
        "(cont'd)",
        "(contd…)",
        "(to be continued)",
        "- continued overleaf",
        "[…]",
        "(...)",
        "[truncated]",
        "[+2415 chars]",
        "… Read more",
        "... (more)",
        "\nContinued",
        "P.T.O.",
        "(يتبع)",
        "(يُتبع…)",
        "[يتبع]",
        "\nيتبع",
        "... يتبع",
        "(تتمة)",
        "(للحديث بقية)",
        "«البقية»",
        "… اقرأ المزيد",
        "(مقتطع)",
        "<truncated>",
        "&lt;continued&gt;",
        "--- TRUNCATED ---",
        "[Message clipped]",
        "(truncated, 2415 chars)",
        "(12 more lines)",
        "+ 2,415 words",
        "(continued on page 3)",
        "(continued in attachment)",
        "(يتبع في الصفحة التالية)",
        "... عرض المزيد",
        "(وللحديث بقية)",
        "… →",
        "... 😊",
    ],
)
def test_a_note_that_the_text_goes_on_is_the_end_of_a_clipped_reply(note: str) -> None:
    for text in (ENGLISH, ARABIC):
        assert is_clipped(f"{text} {note}")
        assert is_clipped(f"<p>{text} {note}</p> ")


def test_two_dots_are_an_ellipsis_in_arabic_and_a_slip_elsewhere() -> None:
    assert is_clipped("وسوف ننظر في طلبكم ..")
    assert not is_clipped("We mended the lamp..")


@given(st.text(max_size=200))
def test_any_text_can_be_looked_at(text: str) -> None:
    assert is_clipped(text) in (True, False)


@pytest.mark.parametrize("piece", [">", "<p>", ".", " ", "<", "(", "a>", "&gt;"])
def test_a_long_tail_costs_no_time(piece: str) -> None:
    before = time.process_time()
    is_clipped("Mended" + piece * 300_000)
    assert time.process_time() - before < 1
