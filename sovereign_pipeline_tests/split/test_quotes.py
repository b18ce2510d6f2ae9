"""What a letter quotes is read as a block of its own, in English and Arabic; ordinary letters are one block."""

import time

import pytest

from sovereign_pipeline.split.quotes import blocks_of

OLD = "The lamp at the quay is out."
NEW = "Please see below."


@pytest.mark.parametrize(
    "mark",
    [
        "-----Original Message-----\nFrom: A\nSent: Monday\nTo: B\nSubject: Lamp\n",
        "---------- Forwarded message ---------\nFrom: A <a@b.example>\nDate: Mon\nSubject: Lamp\nTo: B\n",
        "Begin forwarded message:\n\nFrom: A\nDate: Monday\n",
        "________________________________\nFrom: A\nSent: Monday\nTo: B\n",
        "*From:* A\n*Sent:* Monday\n*To:* B\n",
        "On Mon, 4 May 2024 at 10:11, NAME_1 <EMAIL_1> wrote:\n",
        "On Mon, 4 May 2024 at 10:11, NAME_1 <EMAIL_1>\nwrote:\n",
        "-----الرسالة الأصلية-----\nمن: سالم\nإلى: الوزارة\nالموضوع: مصباح\n",
        "---------- رسالة معاد توجيهها ----------\nمن: سالم\nالتاريخ: الأحد\n",
        "من: سالم\nتاريخ الإرسال: الأحد\nإلى: الوزارة\n",
        "في 4 مايو 2024، كتب NAME_1:\n",
        "في الأحد 4 مايو 2024 الساعة 10:11 كتب NAME_1\n<EMAIL_1>:\n",
        "وكتب NAME_1 في 3 مايو:\n",
    ],
)
def test_what_stands_behind_a_mark_is_a_block(mark: str) -> None:
    blocks = [block.strip() for block in blocks_of(f"{NEW}\n\n{mark}\n{OLD}")]
    assert blocks[0] == NEW
    assert blocks[-1] == OLD


def test_a_header_in_one_line_parts_too() -> None:
    blocks = blocks_of(f"{NEW} From: A Sent: Monday To: B Subject: Lamp {OLD}")
    assert blocks[0].strip() == NEW
    assert OLD in blocks[-1]


def test_lines_of_one_depth_are_one_block_also_around_an_answer() -> None:
    assert blocks_of("> one\n> two\nmy answer\n> three\n> > deeper\nmore") == [
        "one\ntwo\nthree",
        "my answer\nmore",
        "deeper",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "The ratio is 3:4, and a > b.",
        "Note: the fee is due.\nWe wrote to you on 4 May 2024.",
        "On 4 May 2024 I wrote to your office about the lamp.",
        "السلام عليكم: أرجو إصلاح المصباح، وقد كتبت إليكم في مايو.",
        "Date: the third of May is fine.",
        "",
    ],
)
def test_a_letter_that_quotes_nothing_is_one_block(content: str) -> None:
    assert blocks_of(content) == [content]


def test_a_long_text_without_an_end_is_read_in_time() -> None:
    for content in ("On " * 20_000, "from: " * 20_000, "> " * 20_000, "في " * 20_000, "-" * 50_000 + "_" * 50_000):
        started = time.monotonic()
        blocks_of(content)
        assert time.monotonic() - started < 5
